#!/usr/bin/env bash
# The shortest whole story: two real HTTP servers, the proxy in front, a few requests, and what the proxy counted.
# Usage: two-replicas.sh PATH-TO-sky-proxy. Everything it starts ends with it.
set -euo pipefail
proxy=${1:?usage: two-replicas.sh PATH-TO-sky-proxy}
work=$(mktemp -d)
children=()
cleanup() {
  for child in "${children[@]}"; do kill "$child" 2>/dev/null || true; done
  wait 2>/dev/null || true
  rm -rf "$work"
}
trap cleanup EXIT

# A replica on a port the kernel chooses; its address is printed once it listens.
replica() {
  mkdir "$work/$1"
  echo "hello from replica $1" >"$work/$1/index.html"
  python3 -u -m http.server 0 --bind 127.0.0.1 --directory "$work/$1" >"$work/$1.log" 2>&1 &
  children+=($!)
}
# The first match of a pattern in a file that is still being written; at most ten seconds.
await() {
  for _ in $(seq 200); do
    if line=$(grep -oE "$2" "$1" 2>/dev/null | head -n 1) && [ -n "$line" ]; then
      echo "$line"
      return
    fi
    sleep 0.05
  done
  echo "nothing like '$2' in $1:" >&2
  cat "$1" >&2
  exit 1
}

replica one
replica two
one=$(await "$work/one.log" 'port [0-9]+')
two=$(await "$work/two.log" 'port [0-9]+')
echo "two replicas: 127.0.0.1:${one#port }, 127.0.0.1:${two#port } (python3 -m http.server)"

"$proxy" --listen 127.0.0.1:0 --admin "unix:$work/admin.sock" \
  --replica "127.0.0.1:${one#port }" --replica "127.0.0.1:${two#port }" 2>"$work/proxy.log" &
children+=($!)
await "$work/proxy.log" 'ready workers' >/dev/null
endpoint=$(await "$work/proxy.log" 'listening address=[0-9.:]+')
endpoint=${endpoint#listening address=}
echo "proxy: http://$endpoint"
sed -n 's/^sky-proxy: ready/ready/p' "$work/proxy.log"
echo
for _ in $(seq 6); do
  printf '$ curl http://%s/   ' "$endpoint"
  curl -sS "http://$endpoint/"
done
echo
echo "what the proxy counted (GET /v1/replicas on its admin socket):"
curl -sS --unix-socket "$work/admin.sock" http://proxy/v1/replicas | python3 -c '
import json, sys
row = "  {:<22} {:<6} {:>8} {:>4} {:>9} {:>12} {:>14}".format
print(row("REPLICA", "STATE", "REQUESTS", "2XX", "IN FLIGHT", "BYTES TO", "BYTES FROM"))
for r in json.load(sys.stdin)["replicas"]:
    print(row(r["id"], r["status"], r["requests"], r["responses_2xx"], r["in_flight"], r["bytes_sent"], r["bytes_received"]))
'
