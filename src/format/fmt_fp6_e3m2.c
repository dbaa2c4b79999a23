/* No int8 table: 28 in steps of 1/16 would need 448. */
#include "format/element.h"

/* No integer table: 28 in steps of 1/16 does not fit int8. */
const mx_format mx_format_fp6_e3m2 = {
    .name = "fp6_e3m2",
    .description = "OCP MXFP6, more range: 1/16 to 28; no Inf, no NaN",
    .kind = MX_KIND_FLOAT,
    .bits = 6,
    .exponent_bits = 3,
    .mantissa_bits = 2,
    .emax = 4,
    .max = 28.0f,
    .decode = mx_minifloat_decode,
    .encode = mx_minifloat_encode,
};
