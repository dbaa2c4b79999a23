#!/usr/bin/env bash
# usage: scripts/check.sh [sanitize | exhaustive]
#   (none)      build, all tests, and the fast tests again under ASan and UBSan
#   sanitize    all tests under ASan and UBSan
#   exhaustive  every program tests/*/check_exhaustive*.c
# Ends with a line "N passed, N failed"; fails when a test or a build did.
set -euo pipefail
cd "$(dirname "$0")/.."

build=${BUILD:-build}
jobs=${JOBS:-$(nproc)}
passed=0
failed=0

say() {
    printf '== %s\n' "$*"
}

# Warnings are errors in CI, where the compilers are known.
configure_and_build() { # FOLDER TARGET CMAKE-OPTION...
    local folder=$1 target=$2
    shift 2
    cmake -G Ninja -S . -B "$folder" -DMXLM_WERROR="${CI:+ON}" "$@" >/dev/null
    ninja -C "$folder" -j "$jobs" "$target"
}

# Runs ctest and adds its figures; what was skipped must not look like a pass.
run_tests() { # FOLDER CTEST-OPTION...
    local folder=$1
    shift
    local log=$folder/check.log
    ctest --test-dir "$folder" -j "$jobs" --output-on-failure "$@" 2>&1 | tee "$log" || true
    local summary
    summary=$(grep -E 'tests passed, [0-9]+ tests failed out of [0-9]+' "$log") || {
        echo "check.sh: ctest ended without a summary" >&2
        failed=$((failed + 1))
        return
    }
    local bad all
    bad=$(sed -E 's/.*, ([0-9]+) tests failed.*/\1/' <<<"$summary")
    all=$(sed -E 's/.*out of ([0-9]+).*/\1/' <<<"$summary")
    passed=$((passed + all - bad))
    failed=$((failed + bad))
    local skipped
    # cmocka's line names the test; the test's own line before it says why.
    skipped=$(awk '/^\[  SKIPPED \] [a-z]/ && why !~ /^\[/ { print "  " $4 ": " why }
        /^SKIPPED: / { print "  " $0 } { why = $0 }' "$folder/Testing/Temporary/LastTest.log")
    if [ -n "$skipped" ]; then
        say "SKIPPED (README.md, Data, says where to get what is absent):"
        echo "$skipped"
    fi
}

finish() {
    echo "$passed passed, $failed failed"
    [ "$failed" -eq 0 ]
}

case "${1:-}" in
'')
    say "build"
    configure_and_build "$build" all
    say "build with address and undefined-behaviour sanitizers"
    configure_and_build "$build/sanitize" all -DMXLM_SANITIZE=ON
    say "fast tests under the sanitizers"
    run_tests "$build/sanitize" -LE 'slow|source'
    say "tests"
    run_tests "$build"
    finish
    ;;
sanitize)
    configure_and_build "$build/sanitize" all -DMXLM_SANITIZE=ON
    run_tests "$build/sanitize"
    finish
    ;;
exhaustive)
    configure_and_build "$build" all
    for program in "$build"/tests/check_exhaustive*; do
        [ -x "$program" ] || continue
        say "$program"
        if time "$program"; then
            passed=$((passed + 1))
        else
            failed=$((failed + 1))
        fi
    done
    finish
    ;;
*)
    echo "usage: scripts/check.sh [sanitize | exhaustive]" >&2
    exit 2
    ;;
esac
