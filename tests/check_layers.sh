#!/usr/bin/env bash
# The rules of docs/ARCHITECTURE.md that a compiler does not enforce: who may include
# whom, unique file names, nothing in src/ that prints or ends the program, headers that
# stand alone, short files.
# usage: tests/check_layers.sh [ROOT]    environment: CC, CXX
# Prints one line "FILE:LINE: RULE" for each break; exit 1 when there is any.
set -euo pipefail
cd "${1:-$(dirname "$0")/..}"

CC=${CC:-cc}
CXX=${CXX:-c++}
MAX_LINES=800

# LAYER: the layers whose headers it may include, besides its own and mxlm.h.
declare -A law=(
    [base]=""
    [format]="base"
    [kernel]="format base"
    [io]="format base"
    [backend]="kernel format base"
    [model]="backend io format base"
    [quant]="model io format base"
    [eval]="model io base"
    [bench]="model backend kernel io format base"
)
# Third-party headers and the one layer whose business they are. jansson.h is everyone's
# through base/json.h, but only that header names it.
declare -A third_party=([jansson.h]=base [pcre2.h]=io [utf8proc.h]=io
    [cblas.h]=quant [lapacke.h]=quant)

breaks=0
complain() {
    printf '%s\n' "$*"
    breaks=$((breaks + 1))
}

files() { # FOLDER: the C files below it, in a fixed order
    local folder=$1
    [ -d "$folder" ] || return 0
    find "$folder" -type f \( -name '*.c' -o -name '*.h' -o -name '*.def' \) | LC_ALL=C sort
}

# "LINE NAME" of each include; NAME keeps its quotes or angle brackets.
includes() { # FILE
    sed -nE 's/^[[:space:]]*#[[:space:]]*include[[:space:]]*(["<][^">]*[">]).*/\1/;T;=;p' "$1" |
        paste -d' ' - - 2>/dev/null || true
}

check_quoted() { # FILE LINE LAYER HEADER
    local file=$1 line=$2 layer=$3 header=$4 target
    [ "$header" != mxlm.h ] || return 0
    if [[ $header != */* ]]; then
        [ -f "${file%/*}/$header" ] ||
            complain "$file:$line: \"$header\" is neither mxlm.h nor in the same folder"
        return 0
    fi
    target=${header%%/*}
    if [ "$target" != "$layer" ] && [[ " ${law[$layer]} " != *" $target "* ]]; then
        complain "$file:$line: $layer may not include $header"
    fi
}

check_includes_of_layer() { # LAYER
    local layer=$1 file line header bare
    while read -r file; do
        while read -r line header; do
            bare=${header:1:-1}
            if [[ $header == \"* ]]; then
                check_quoted "$file" "$line" "$layer" "$bare"
            elif [ -n "${third_party[$bare]:-}" ] && [ "${third_party[$bare]}" != "$layer" ]; then
                complain "$file:$line: only ${third_party[$bare]} may include <$bare>"
            fi
        done < <(includes "$file")
    done < <(files "src/$layer")
}

# The program and its kin see the public header alone.
check_includes_of_app() {
    local file line header
    while read -r file; do
        while read -r line header; do
            if [[ $header == \"* && $header == */* ]]; then
                complain "$file:$line: app may include mxlm.h and its own headers only, not $header"
            fi
        done < <(includes "$file")
    done < <(files app)
}

check_known_layers() {
    local folder
    for folder in src/*/; do
        folder=$(basename "$folder")
        [ -n "${law[$folder]+known}" ] || complain "src/$folder:1: a layer that the dependency law does not know"
    done
}

check_unique_names() {
    local name
    while read -r name; do
        complain "$(find . -name "$name" -not -path '*/build*' -not -path './.git/*' | LC_ALL=C sort | head -1):1:" \
            "file name $name is not unique"
    done < <(find src app include tests bench fuzz tools scripts python docs -type f \
        -not -path '*/golden/*' -not -path '*/seeds/*' -not -path '*/expected/*' \
        -not -path '*/__pycache__/*' -not -name README.md -not -name CMakeLists.txt \
        -not -name __init__.py -printf '%f\n' 2>/dev/null | sort | uniq -d)
}

# Comments are cut by the preprocessor, which is asked for nothing else, and texts by sed.
# Writing to a file of one's own with fprintf is not printing.
check_no_output_in_library() {
    local file line text
    local words='exit|_exit|_Exit|quick_exit|abort|printf|vprintf|puts|putchar|perror'
    while read -r file; do
        while IFS=: read -r line text; do
            [ -z "$line" ] || complain "$file:$line: the library neither prints nor exits: ${text#"${text%%[![:space:]]*}"}"
        done < <("$CC" -fpreprocessed -dD -E -w -x c "$file" 2>/dev/null |
            awk '/^# [0-9]+ / { n = $2; next } { print n++ ":" $0 }' | sed 's/"[^"]*"/""/g' |
            grep -E "[^A-Za-z0-9_.>](($words)[[:space:]]*\(|stdout\b|stderr\b)" || true)
    done < <(files src)
}

check_public_header() {
    local flags=(-fsyntax-only -Wall -Wextra -Wpedantic -Werror -Iinclude)
    local twice=$'#include "mxlm.h"\n#include "mxlm.h"\nint unused_main;'
    "$CC" -std=c17 "${flags[@]}" -x c - <<<"$twice" ||
        complain "include/mxlm.h:1: does not compile alone as C17"
    if command -v "$CXX" >/dev/null 2>&1; then
        "$CXX" -std=c++17 "${flags[@]}" -x c++ - <<<"$twice" ||
            complain "include/mxlm.h:1: does not compile alone as C++17"
    else
        echo "SKIPPED: include/mxlm.h as C++: there is no $CXX here"
    fi
}

# Each header brings what it needs and survives being included twice. kernel/lanes_*.h are
# exempt: templates over the vector type of the instruction set that includes them.
check_headers_alone() {
    local file
    local flags
    read -ra flags < <(pkg-config --cflags jansson libpcre2-8 libutf8proc)
    flags+=(-std=gnu17 -fsyntax-only -Wall -Wextra -Wno-unused-function -Werror -Iinclude -Isrc)
    while read -r file; do
        [[ $file == *.h && $file != src/kernel/lanes_*.h ]] || continue
        printf '#include "%s"\n#include "%s"\nint unused_main;\n' "${file#src/}" "${file#src/}" |
            "$CC" "${flags[@]}" -fmax-errors=1 -x c - || complain "$file:1: does not compile alone"
    done < <(files src)
}

check_lengths() {
    local file lines
    while read -r file; do
        lines=$(wc -l <"$file")
        [ "$lines" -lt "$MAX_LINES" ] ||
            complain "$file:$lines: $lines lines; the limit is below $MAX_LINES"
    done < <(for folder in src app include tests bench fuzz; do files "$folder"; done)
}

check_known_layers
for layer in "${!law[@]}"; do
    check_includes_of_layer "$layer"
done
check_includes_of_app
check_unique_names
check_no_output_in_library
check_public_header
check_headers_alone
check_lengths

if [ "$breaks" -ne 0 ]; then
    echo "$breaks rules broken"
    exit 1
fi
echo "all rules kept"
