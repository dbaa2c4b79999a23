#!/usr/bin/env bash
# Builds the libFuzzer targets of fuzz/ with clang and runs each for FUZZ_SECONDS on a
# copy of its seeds. Findings stay in BUILD/fuzz/findings.
set -euo pipefail
cd "$(dirname "$0")/.."

build=${BUILD:-build}/fuzz
seconds=${FUZZ_SECONDS:-30}
mkdir -p "$build/findings"
cmake -G Ninja -S . -B "$build" -DCMAKE_C_COMPILER=clang -DMXLM_FUZZ=ON -DMXLM_TESTS=OFF >/dev/null
ninja -C "$build" -j "${JOBS:-$(nproc)}"

passed=0
failed=0
for program in "$build"/fuzz/fuzz_*; do
    if [ ! -f "$program" ] || [ ! -x "$program" ]; then
        continue
    fi
    name=${program##*/}
    corpus=$build/corpus/$name
    mkdir -p "$corpus"
    seeds=fuzz/seeds/${name#fuzz_}
    [ ! -d "$seeds" ] || cp -n "$seeds"/* "$corpus"/
    echo "== $name, $seconds s"
    if "$program" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
        -verbosity=0 -artifact_prefix="$build/findings/$name-" "$corpus"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
    fi
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
