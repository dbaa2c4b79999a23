#include "format/element.h"

/* Values times 8; the sign of -0 is lost, which no product can notice. */
static const int8_t table[64] = {
    0,   1,   2,   3,   4,   5,   6,   7,   8,   9,   10,  11,  12,  13,  14,  15,
    16,  18,  20,  22,  24,  26,  28,  30,  32,  36,  40,  44,  48,  52,  56,  60,
    0,   -1,  -2,  -3,  -4,  -5,  -6,  -7,  -8,  -9,  -10, -11, -12, -13, -14, -15,
    -16, -18, -20, -22, -24, -26, -28, -30, -32, -36, -40, -44, -48, -52, -56, -60,
};

const mx_format mx_format_fp6_e2m3 = {
    .name = "fp6_e2m3",
    .description = "OCP MXFP6, more mantissa: steps of 1/8 up to 2, max 7.5; no Inf, no NaN",
    .kind = MX_KIND_FLOAT,
    .bits = 6,
    .exponent_bits = 2,
    .mantissa_bits = 3,
    .emax = 2,
    .max = 7.5f,
    .int_table = table,
    .int_shift = 3,
    .decode = mx_minifloat_decode,
    .encode = mx_minifloat_encode,
};
