#include "format/element.h"

/* Values times 2; the sign of -0 is lost, which no product can notice. */
static const int8_t table[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

const mx_format mx_format_fp4_e2m1 = {
    .name = "fp4_e2m1",
    .alias = "fp4",
    .description = "OCP MXFP4: 0, 0.5, 1, 1.5, 2, 3, 4, 6; no Inf, no NaN",
    .kind = MX_KIND_FLOAT,
    .bits = 4,
    .exponent_bits = 2,
    .mantissa_bits = 1,
    .emax = 2,
    .max = 6.0f,
    .int_table = table,
    .int_shift = 1,
    .decode = mx_minifloat_decode,
    .encode = mx_minifloat_encode,
};
