#!/usr/bin/env bash
# Runs the commands of a session file and compares what they print with what the file
# says, to the letter.
# usage: tests/run_session.sh [--update] MXLM FILE.session
#   $ COMMAND      run by bash; "> " lines continue it
#   OUTPUT         stdout and stderr together, then "[exit N]" when N is not 0
#   // TEXT        a comment, kept
# --update rewrites the outputs: read the diff before you commit it.
# Each session runs in an empty folder of its own, where `golden` and `fixtures` are links
# to tests/golden and tests/app/fixtures, and `mxlm` is the program.
set -euo pipefail

update=false
if [ "$1" = --update ]; then
    update=true
    shift
fi
program=$(realpath "$1")
session=$(realpath "$2")
tests=$(cd "$(dirname "$0")" && pwd)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/bin" "$work/home"
ln -s "$program" "$work/bin/mxlm"
ln -s "$tests/golden" "$work/home/golden"
ln -s "$tests/app/fixtures" "$work/home/fixtures"
actual=$work/actual

# A terminal is made by script(1); a bare chroot has none to give.
if grep -q '\bscript -' "$session" && ! script -qec true /dev/null </dev/null >/dev/null 2>&1; then
    echo "SKIPPED: $(basename "$session"): this system gives no pseudo-terminal"
    exit 0
fi
# "... | steady": times, rates, memory use and the machine vary, so they read N; of long
# numbers six digits are kept; the widths of a table's columns follow.
cat >"$work/bin/steady" <<'END'
#!/bin/sh
sed -E '/runtime|speed|peak resident/s/[-+−]?[0-9.]+ *(%|[a-zA-Z/]+)/N \1/g
    s/([0-9]{6})[0-9.]*/\1~/g
    /^\|/s/ +/ /g
    /^\|/s/--+/--/g
    /^  time /s/[0-9.]+ /N /g
    s/\((ref|avx2|avx512|amx|neon), [0-9]+ threads?\)/(ISA, N threads)/'
END
chmod +x "$work/bin/steady"

# Nothing of the user's environment may show in the output.
export PATH="$work/bin:$PATH" LC_ALL=C.UTF-8 HOME="$work/home" XDG_CACHE_HOME="$work/home/.cache"
unset MXLM_CPU MXLM_DATA_DIR MXLM_SMOLLM2_GGUF NO_COLOR

command=
execute() {
    [ -n "$command" ] || return 0
    local code=0
    (cd "$work/home" && bash -c "$command" </dev/null 2>&1) >"$work/output" || code=$?
    cat "$work/output" >>"$actual"
    # Output that ends without a newline is shown as such.
    if [ -n "$(tail -c 1 "$work/output")" ]; then
        printf '\n[no newline]\n' >>"$actual"
    fi
    [ "$code" -eq 0 ] || echo "[exit $code]" >>"$actual"
    command=
}

: >"$actual"
seen_command=false
continuing=false
while IFS= read -r line; do
    case $line in
    '//'*)
        execute
        continuing=false
        echo "$line" >>"$actual"
        ;;
    '$ '*)
        execute
        seen_command=true
        continuing=true
        command=${line#\$ }
        echo "$line" >>"$actual"
        ;;
    '> '*)
        if $continuing; then
            command+=$'\n'${line#> }
            echo "$line" >>"$actual"
        fi
        ;;
    *) continuing=false ;;
    esac
done <"$session"
execute

$seen_command || {
    echo "$session: holds no command"
    exit 1
}
if $update; then
    cp "$actual" "$session"
elif ! diff -u --label expected --label actual "$session" "$actual"; then
    echo "$session: the program prints something else (tests/run_session.sh --update accepts it)"
    exit 1
fi
