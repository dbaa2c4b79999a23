#include "format/element.h"

const mx_format mx_format_bf16 = {
    .name = "bf16",
    .alias = "bfloat16",
    .description = "bfloat16 without a shared scale: the upper half of fp32",
    .kind = MX_KIND_PLAIN,
    .bits = 16,
    .exponent_bits = 8,
    .mantissa_bits = 7,
    .emax = 127,
    .max = 0x1.fep127f,
    .decode = mx_minifloat_decode,
    .encode = mx_minifloat_encode,
};
