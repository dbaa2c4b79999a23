/* As a format, "unquantized" needs no special case in listings and settings. */
#include "format/element.h"

const mx_format mx_format_fp32 = {
    .name = "fp32",
    .alias = "float32",
    .description = "IEEE single precision: unquantized",
    .kind = MX_KIND_PLAIN,
    .bits = 32,
    .exponent_bits = 8,
    .mantissa_bits = 23,
    .emax = 127,
    .max = 0x1.fffffep127f,
    .decode = mx_minifloat_decode,
    .encode = mx_minifloat_encode,
};
