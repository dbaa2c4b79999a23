#!/usr/bin/env bash
# The main job on a real model: quantize to MX, evaluate before and after, compare.
# usage: LIMIT=N scripts/run.sh     (0: all documents; unset: a limit for 3 minutes)
# environment: BUILD (build folder), MXLM_DATA_DIR (where lambada_test.jsonl is)
set -euo pipefail
cd "$(dirname "$0")/.."

build=${BUILD:-build}
mxlm=$build/mxlm
results=results
default_limit=500
weights=mxfp4_e2m1
activations=mxfp6_e2m3
quantized=$build/run/SmolLM2-135M-W-$weights-A-$activations

run() {
    printf '\n$'
    printf ' %q' "$@"
    printf '\n'
    "$@"
}

# The places where eval itself looks; here only to choose the task.
find_lambada() {
    local folder
    for folder in ${MXLM_DATA_DIR:+"$MXLM_DATA_DIR"} data ../shared/data \
        "${XDG_CACHE_HOME:-$HOME/.cache}/mxlm"; do
        for file in "$folder/lambada_test.jsonl" "$folder/text/lambada_test.jsonl"; do
            if [ -f "$file" ]; then
                echo "$file"
                return
            fi
        done
    done
}

model=$(scripts/fetch-model.sh)
lambada=$(find_lambada)
if [ -z "$lambada" ]; then
    lambada=$(scripts/fetch-lambada.sh) || lambada=
fi
options=()
if [ -n "$lambada" ]; then
    task=lambada_openai
    options=(--data "$lambada")
    limit=${LIMIT:-$default_limit}
    if [ "$limit" != 0 ]; then
        options+=(--limit "$limit")
        echo "lambada_openai: the first $limit documents; \"make run-full\" takes all 5,153 (LIMIT=N: N of them)"
    fi
else
    task=cloze
    echo "lambada_test.jsonl was not found (\$MXLM_DATA_DIR, ./data, ../shared/data, the cache, the hub):"
    echo "using mxlm's own embedded cloze task instead; its figures are not LAMBADA's."
    if [ "${LIMIT:-0}" != 0 ]; then
        options=(--limit "$LIMIT")
    fi
fi

mkdir -p "$results" "$build/run"
run "$mxlm" quantize "$model" --out "$quantized" --weights "$weights" \
    --activations "$activations" --overwrite
run "$mxlm" eval "$model" --tasks "$task" "${options[@]}" --output "$results/unquantized.json"
run "$mxlm" eval "$quantized" --tasks "$task" "${options[@]}" --output "$results/quantized.json"

compare() { # FILE OPTION...: written beside, then renamed
    local file=$1
    shift
    "$mxlm" compare "$results/unquantized.json" "$results/quantized.json" "$@" >"$file.part"
    mv -f "$file.part" "$file"
}
compare "$results/compare.md"
compare "$results/compare.json" --json
run cat "$results/compare.md"
printf '\nwritten: %s\n' "$results/unquantized.json, $results/quantized.json, $results/compare.md, $results/compare.json"
