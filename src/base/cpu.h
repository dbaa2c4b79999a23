/* Which instruction sets the kernels may use. */
#ifndef MX_BASE_CPU_H
#define MX_BASE_CPU_H

#include "base/status.h"

enum {
    MX_CPU_AVX2 = 1u << 0,   /* AVX2 + FMA + F16C */
    MX_CPU_AVX512 = 1u << 1, /* AVX-512 F, BW, VL, DQ, VBMI, VNNI */
    MX_CPU_AMX = 1u << 3,    /* AMX tiles with bf16, on top of MX_CPU_AVX512 */
    MX_CPU_NEON = 1u << 2,   /* ARMv8 Advanced SIMD with dot product */
};

/* What this processor and operating system support. */
uint32_t mx_cpu_detect(void);

/*
 * mx_cpu_detect() limited by the environment variable MXLM_CPU (ref | avx2 |
 * avx512 | amx | neon; absent: no limit). A word it does not know, or a set that this
 * machine lacks, is MX_ERR_ARGUMENT.
 */
mx_status mx_cpu_flags(uint32_t *flags, mx_error *err);

#endif
