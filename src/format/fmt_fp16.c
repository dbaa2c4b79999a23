#include "format/element.h"

const mx_format mx_format_fp16 = {
    .name = "fp16",
    .alias = "float16",
    .description = "IEEE half precision without a shared scale",
    .kind = MX_KIND_PLAIN,
    .bits = 16,
    .exponent_bits = 5,
    .mantissa_bits = 10,
    .emax = 15,
    .max = 65504.0f,
    .decode = mx_minifloat_decode,
    .encode = mx_minifloat_encode,
};
