#!/usr/bin/env bash
# Fetches the lambada_openai test set (5,153 documents, 1.8 MB, CC BY 4.0) from the
# Hugging Face hub into the cache. Prints its path on stdout; everything else goes to
# stderr. Exit code 1 when it cannot be had: the caller decides what to do instead.
# usage: scripts/fetch-lambada.sh
# environment: HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE=1 (as huggingface_hub has them)
set -euo pipefail

sha256=4aa8d02cd17c719165fc8a7887fddd641f43fcafa4b1c806ca8abc31fabdb226
endpoint=${HF_ENDPOINT:-https://huggingface.co}
url=$endpoint/datasets/EleutherAI/lambada_openai/resolve/main/data/lambada_test_en.jsonl
cache=${XDG_CACHE_HOME:-$HOME/.cache}/mxlm
target=$cache/lambada_test.jsonl

is_good() { # FILE
    [ -f "$1" ] && [ "$(sha256sum <"$1" | cut -d' ' -f1)" = "$sha256" ]
}

if is_good "$target"; then
    echo "$target"
    exit 0
fi
case ${HF_HUB_OFFLINE:-0} in
0 | "" | no | false) ;;
*)
    echo "fetch-lambada.sh: HF_HUB_OFFLINE is set" >&2
    exit 1
    ;;
esac

mkdir -p "$cache"
work=$(mktemp -d "$cache/fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT

# urllib: python3 is there already for pip, and it follows the hub's redirects.
echo "fetching lambada_openai from $endpoint" >&2
python3 - "$url" "$work/lambada_test.jsonl" >&2 <<'PY' || exit 1
import os
import sys
import urllib.request

url, path = sys.argv[1:]
LIMIT = 16 << 20  # eight times the file: a wrong answer must not fill the disk
headers = {"User-Agent": "mxlm"}
if os.environ.get("HF_TOKEN"):
    headers["Authorization"] = "Bearer " + os.environ["HF_TOKEN"]
try:
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=20) as answer:
        data = answer.read(LIMIT)
except OSError as error:
    sys.exit(f"fetch-lambada.sh: {url}: {error}")
with open(path, "wb") as out:
    out.write(data)
PY
if ! is_good "$work/lambada_test.jsonl"; then
    echo "fetch-lambada.sh: $url: not the expected file (sha256)" >&2
    exit 1
fi
# Same file system: appears whole or not at all, also beside a second fetch.
mv -f "$work/lambada_test.jsonl" "$target"
echo "$target"
