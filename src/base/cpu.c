#define _GNU_SOURCE
#include "base/cpu.h"

#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#if defined(__x86_64__)
/* The tile unit: the processor's word, and the kernel's leave for this process to
 * hold tile state (Linux: arch_prctl(2), ARCH_REQ_XCOMP_PERM). */
static bool amx_permitted(void)
{
    enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18, AMX_BF16 = 1 << 22, AMX_TILE = 1 << 24 };
    unsigned eax, ebx, ecx, edx;
    if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) ||
        (edx & (AMX_TILE | AMX_BF16)) != (AMX_TILE | AMX_BF16)) {
        return false;
    }
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}
#endif

uint32_t mx_cpu_detect(void)
{
    uint32_t flags = 0;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        flags |= MX_CPU_AVX2;
    }
    if ((flags & MX_CPU_AVX2) && __builtin_cpu_supports("avx512f") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vbmi") &&
        __builtin_cpu_supports("avx512vnni")) {
        flags |= MX_CPU_AVX512;
    }
    if ((flags & MX_CPU_AVX512) && __builtin_cpu_supports("avx512bf16") && amx_permitted()) {
        flags |= MX_CPU_AMX;
    }
#elif defined(__aarch64__) && defined(__linux__)
    if ((getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0) {
        flags |= MX_CPU_NEON;
    }
#elif defined(__ARM_FEATURE_DOTPROD) /* no way to ask, but the compiler was told */
    flags |= MX_CPU_NEON;
#endif
    return flags;
}

mx_status mx_cpu_flags(uint32_t *flags, mx_error *err)
{
    /* A word allows itself and what it builds on. */
    static const struct {
        const char *word;
        uint32_t needs, allows;
    } words[] = {
        {"ref", 0, 0},
        {"avx2", MX_CPU_AVX2, MX_CPU_AVX2},
        {"avx512", MX_CPU_AVX512, MX_CPU_AVX2 | MX_CPU_AVX512},
        {"amx", MX_CPU_AMX, MX_CPU_AVX2 | MX_CPU_AVX512 | MX_CPU_AMX},
        {"neon", MX_CPU_NEON, MX_CPU_NEON},
    };
    uint32_t present = mx_cpu_detect();
    const char *mask = getenv("MXLM_CPU");
    *flags = present;
    if (mask == NULL || *mask == '\0') {
        return MX_OK;
    }
    for (size_t i = 0; i < MX_COUNT(words); i++) {
        if (strcmp(mask, words[i].word) != 0) {
            continue;
        }
        if ((words[i].needs & ~present) != 0) {
            return mx_error_set(err, MX_ERR_ARGUMENT, "MXLM_CPU: this processor has no %s", mask);
        }
        *flags = present & words[i].allows;
        return MX_OK;
    }
    return mx_error_set(err, MX_ERR_ARGUMENT,
                        "MXLM_CPU: '%s' is not one of ref, avx2, avx512, amx, neon", mask);
}
