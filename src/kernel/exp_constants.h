/*
 * Constants of mx_exp: exp(x) = 2^n * p(r), n = rint(x / ln 2), r = x - n ln 2.
 * ln 2 = HIGH + LOW: HIGH has 18 significant bits, so n * HIGH is exact.
 * p is 1 + r + C2 r^2 + ... + C6 r^6, the coefficients a minimax fit of the
 * relative error (3.1e-9) on |r| <= 0.34665, then rounded to fp32.
 */
#ifndef MX_KERNEL_EXP_CONSTANTS_H
#define MX_KERNEL_EXP_CONSTANTS_H

/* Beyond these the result is 0 / Inf; clamping keeps n small. */
#define MX_EXP_LOWEST (-105.0f)
#define MX_EXP_HIGHEST 89.0f

#define MX_EXP_LOG2E 0x1.715476p+0f
#define MX_EXP_LN2_HIGH 0x1.62e4p-1f
#define MX_EXP_LN2_LOW 0x1.7f7d1cp-20f

/* Adding and subtracting rounds to the nearest integer, ties to even. */
#define MX_EXP_ROUNDER 0x1.8p+23f
#define MX_EXP_ROUNDER_BITS 0x4B400000

#define MX_EXP_C2 0x1.fffffcp-2f
#define MX_EXP_C3 0x1.555492p-3f
#define MX_EXP_C4 0x1.5558f2p-5f
#define MX_EXP_C5 0x1.1239f4p-7f
#define MX_EXP_C6 0x1.6a2416p-10f

/*
 * Constants of mx_exp2_weight: 2^x = 2^n * p(r), n = rint(x), r = x - n, p the cubic
 * 1 + C1 r + C2 r^2 + C3 r^3, a minimax fit of the relative error (1.0e-4) on
 * |r| <= 0.5, then rounded to fp32. n takes the values of 7 bits: from LOWEST, so that a
 * weight is not below the least bf16 operand, to that of REACH.
 */
#define MX_EXP2_LOWEST (-54.0f)
#define MX_EXP2_LEAST 0x1p-54f /* 2^LOWEST */
#define MX_EXP2_REACH 73.5f
/* Sums forget what is 2^FORGET and less to new ones. */
#define MX_EXP2_FORGET (-100.0f)
#define MX_EXP2_FORGOTTEN 0x1p-100f
/* An m below it moves the rounder without rounding it. */
#define MX_EXP2_NEAR 0x1p20f
#define MX_EXP2_C1 0x1.62f5fap-1f
#define MX_EXP2_C2 0x1.f00c4ep-3f
#define MX_EXP2_C3 0x1.c2a218p-5f

#endif
