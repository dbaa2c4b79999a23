#!/usr/bin/env bash
# The ARM kernels without an ARM machine: cross-compiles everything for aarch64 and runs
# it under qemu's user mode.
# usage: scripts/check-arm.sh        environment: BUILD (build), JOBS
#   1. libraries for arm64, unpacked to $BUILD/arm-sysroot: the machine's own packages
#      stay as they are
#   2. a build in $BUILD/arm, one for this machine in $BUILD
#   3. kernel tests: NEON equals the scalar reference bit for bit
#   4. tests of tiny models against their oracles; the program's transcripts
#   5. hashes of logits: equal on aarch64 (NEON, reference, a processor without dot
#      products) and on this machine
# The first run fetches about 50 MB. Ends with "N passed, N failed".
set -euo pipefail
cd "$(dirname "$0")/.."

build=$(realpath -m "${BUILD:-build}")
jobs=${JOBS:-$(nproc)}
sysroot=$build/arm-sysroot
golden=tests/golden
passed=0
failed=0

say() {
    printf '== %s\n' "$*"
}

# Packages of another architecture cannot be installed beside this machine's without
# changing it; an apt with folders of its own can resolve and fetch them.
make_sysroot() {
    local state=$build/arm-apt package
    local packages=(libjansson-dev libpcre2-dev libutf8proc-dev libopenblas-pthread-dev
        liblapacke-dev libcmocka-dev)
    local apt=(apt-get -q -o APT::Architecture=arm64 -o APT::Architectures=arm64
        -o "Dir::State=$state/state" -o Dir::State::status=/dev/null -o "Dir::Cache=$state/cache"
        -o APT::Sandbox::User=root -o Debug::NoLocking=true -o Acquire::Languages=none)
    say "arm64 libraries to $sysroot: ${packages[*]} and what they need"
    rm -rf "$state" "$sysroot" "$sysroot.part"
    mkdir -p "$state/state/lists/partial" "$state/cache/archives/partial" "$sysroot.part"
    if ! "${apt[@]}" update >"$state/log" 2>&1 ||
        ! "${apt[@]}" install -y --download-only --no-install-recommends "${packages[@]}" \
            >>"$state/log" 2>&1; then
        tail -5 "$state/log" >&2
        echo "check-arm.sh: apt-get finds no arm64 packages (Ubuntu keeps them on a server of" \
            "their own, which sources.list must name)" >&2
        exit 1
    fi
    for package in "$state"/cache/archives/*.deb; do
        dpkg-deb -x "$package" "$sysroot.part"
    done
    # What update-alternatives does when the packages are installed.
    (
        cd "$sysroot.part/usr/lib/aarch64-linux-gnu"
        ln -sf openblas-pthread/*.so* .
        cd pkgconfig
        ln -sf ../openblas-pthread/pkgconfig/openblas.pc openblas.pc
        ln -sf ../openblas-pthread/pkgconfig/blas-openblas.pc blas.pc
        ln -sf ../openblas-pthread/pkgconfig/lapack-openblas.pc lapack.pc
    )
    mv "$sysroot.part" "$sysroot"
    rm -rf "$state"
}

count() { # NAME COMMAND...: runs a check and counts it
    local name=$1 start=$SECONDS
    shift
    if "$@" >"$build/arm/check.log" 2>&1; then
        passed=$((passed + 1))
        printf '  passed %4d s  %s\n' $((SECONDS - start)) "$name"
    else
        failed=$((failed + 1))
        printf '  FAILED %4d s  %s\n' $((SECONDS - start)) "$name"
        cat "$build/arm/check.log"
    fi
}

# ctest's programs under the emulator, by name.
run_tests() { # NAME...
    local name
    for name in "$@"; do
        count "$name" ctest --test-dir "$build/arm" -R "^$name\$" --no-tests=error --output-on-failure
    done
}

# The program by its transcripts. They are for a program that can be started by its name.
run_sessions() { # NAME...
    local name
    printf '#!/bin/sh\nexec %s -L %s %s/arm/mxlm "$@"\n' "$MXLM_ARM_EMULATOR" "$sysroot" "$build" \
        >"$build/arm/mxlm-emulated"
    chmod +x "$build/arm/mxlm-emulated"
    for name in "$@"; do
        count "$name.session" tests/run_session.sh "$build/arm/mxlm-emulated" \
            "tests/app/$name.session"
    done
}

hashes() { # WORD-FOR-MXLM_CPU [EMULATOR-OPTION...]: of the ARM build
    local isa=$1
    shift
    MXLM_CPU=$isa "$MXLM_ARM_EMULATOR" -L "$sysroot" "$@" "$build/arm/tests/check_logits" "$golden"
}
same_hashes() { # as hashes: equal to this machine's
    hashes "$@" >"$build/arm/hashes" && diff "$build/arm/hashes" "$build/arm/hashes.here"
}
# A processor without dot products must not be taken for one with them.
neon_is_refused() {
    ! hashes neon -cpu cortex-a53 >"$build/arm/hashes" 2>&1 &&
        grep -q 'this processor has no neon' "$build/arm/hashes"
}

MXLM_ARM_EMULATOR=$(command -v qemu-aarch64 || command -v qemu-aarch64-static)
MXLM_ARM_SYSROOT=$sysroot
export MXLM_ARM_EMULATOR MXLM_ARM_SYSROOT
[ -d "$sysroot" ] || make_sysroot

say "build for aarch64 and for this machine"
cmake -G Ninja -S . -B "$build/arm" -DCMAKE_BUILD_TYPE=Release \
    -DCMAKE_TOOLCHAIN_FILE="$PWD/cmake/aarch64-toolchain.cmake" >/dev/null
ninja -C "$build/arm" -j "$jobs"
cmake -G Ninja -S . -B "$build" >/dev/null
ninja -C "$build" -j "$jobs" check_logits

say "kernels: NEON against the reference"
run_tests test_base test_kernels_float test_kernels_block test_attention
say "tiny models"
# Not test_invariance: its threads wait for each other for minutes here.
run_tests test_rope test_llama_oracle
say "the program"
run_sessions cast formats model tokenize
say "logits: $("$build/tests/check_logits" "$golden" | tee "$build/arm/hashes.here" | wc -l) hashes, here and there"
count "aarch64, NEON" same_hashes neon
count "aarch64, reference" same_hashes ref
count "aarch64 without dot products" same_hashes '' -cpu cortex-a53
count "aarch64 without dot products refuses MXLM_CPU=neon" neon_is_refused
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
