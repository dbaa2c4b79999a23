#!/bin/sh
# Answers like llama-bench -o json: prefill at 1000 tok/s, decode at 10 a thread.
# FAKE_PEER=fail exits with 3, FAKE_PEER=noise prints no JSON.
while [ $# -gt 0 ]; do
    case $1 in
    -m) model=$2 ;;
    -p) prompt=$2 ;;
    -n) gen=$2 ;;
    -t) threads=$2 ;;
    esac
    shift 2
done
[ -n "$model" ] || exit 1
case ${FAKE_PEER:-} in
fail) exit 3 ;;
noise) echo "hello" && exit 0 ;;
esac
printf '[{"model_filename": "%s", "n_prompt": %s, "n_gen": 0, "avg_ts": 1000.0},\n' "$model" "$prompt"
printf ' {"model_filename": "%s", "n_prompt": 0, "n_gen": %s, "avg_ts": %s0.0}]\n' "$model" "$gen" "$threads"
