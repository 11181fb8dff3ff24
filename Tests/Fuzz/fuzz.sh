#!/usr/bin/env bash
# fuzz.sh SECONDS [TARGET…]: builds sky-fuzz with libFuzzer and the address sanitizer, gives each target its share of the
# time, and keeps what made one die in Tests/Fuzz/regressions, where a test replays it. The corpus lies in .build-fuzz
# and grows from run to run.
set -euo pipefail
cd "$(dirname "$0")/../.."
seconds=$1
shift
targets=("${@:-}")
[ -n "${targets[0]}" ] || targets=(request response chunked admin tls engine)

runtime=$(dirname "$(readlink -f "$(command -v swiftc)")")/../lib/swift/clang/lib/linux/libclang_rt.fuzzer_no_main-$(uname -m).a
# Only the compiler is told of the fuzzer: told so, the linker would add a main of its own beside Swift's.
SKY_FUZZ=1 swift build -c release --scratch-path .build-fuzz --product sky-fuzz --sanitize=address \
  -Xswiftc -Xfrontend -Xswiftc -sanitize=fuzzer -Xswiftc -enable-testing \
  -Xlinker "$runtime" -Xlinker -lstdc++ >.build-fuzz.log 2>&1 || { cat .build-fuzz.log; exit 1; }
rm .build-fuzz.log

corpus=.build-fuzz/corpus
python3 Tests/Fuzz/seeds.py Tests/Corpus $corpus
failed=0
for target in "${targets[@]}"; do
  share=$((seconds / ${#targets[@]} + 1))
  log=.build-fuzz/$target.log
  # What the process holds at its end is no leak: workers live as long as it does.
  if ASAN_OPTIONS=detect_leaks=0:quarantine_size_mb=16 SKY_FUZZ_TARGET=$target .build-fuzz/release/sky-fuzz \
    -max_total_time=$share -timeout=20 -rss_limit_mb=4096 -print_final_stats=1 \
    -artifact_prefix=Tests/Fuzz/regressions/"$target"- $corpus/"$target" >"$log" 2>&1; then
    echo "$target: $(grep -a number_of_executed_units "$log" | awk '{print $2}') inputs, nothing found"
  else
    failed=1
    echo "$target: FAILED"
    grep -aE "atal error|ERROR|SUMMARY|Test unit written| in .*ProxyCore" "$log" | grep -av NEW_FUNC | head -20 || true
  fi
done
exit $failed
