#!/usr/bin/env bash
# The shortest whole story of a service: `sky serve up`, wait until it is READY, ask it, show its status.
# Usage: hello.sh FOLDER-WITH-sky. The service stays; the last lines say how to end it.
set -euo pipefail
cd "$(dirname "$0")/.."
sky=${1:?usage: hello.sh FOLDER-WITH-sky}/sky
name=hello

# The first status in the record is the service's own.
state() { "$sky" serve status $name -o json | sed -n 's/^    "status": "\(.*\)",$/\1/p'; }
ready() { "$sky" serve status $name -o json | grep -c '^        "status": "READY"' || true; }

if [ -n "$(state 2>/dev/null)" ]; then
  echo "The service '$name' is up already."
else
  "$sky" serve up examples/hello-sky-serve.yaml -y -n $name
fi

echo
started=$SECONDS
shown=
while [ "$(ready)" -lt 2 ]; do
  now=$(state)
  if [ -z "$now" ] || [ "$now" = FAILED ] || [ $((SECONDS - started)) -ge 120 ]; then
    echo "The service '$name' is ${now:-gone} after $((SECONDS - started)) s:"
    "$sky" serve status $name -v
    exit 1
  fi
  line="waiting for two replicas: $(ready)/2 ready, service $now"
  # On a screen one line that changes, elsewhere one line per change.
  if [ -t 1 ]; then printf '\r\033[K%s (%d s)' "$line" $((SECONDS - started)); fi
  if [ ! -t 1 ] && [ "$line" != "$shown" ]; then echo "$line"; fi
  shown=$line
  sleep 0.2
done
if [ -t 1 ]; then printf '\r\033[K'; fi
echo "2/2 replicas are READY."

endpoint=$("$sky" serve status $name --endpoint)
for _ in 1 2; do
  echo
  echo "\$ curl $endpoint"
  # READY is known a moment before the load balancer is told.
  curl -fsS --retry 10 "$endpoint"
done
echo
echo "\$ sky serve status"
"$sky" serve status
cat <<END

It goes on serving. $sky serve logs $name 1   shows what a replica writes,
                    $sky serve down $name     ends it.
END
