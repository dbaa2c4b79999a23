#include "format/dtype.h"
#include "format/element.h"

/* The reading of stored bf16 weights, which is also far cheaper than ldexp. */
static float bf16_decode(const mx_format *format, uint32_t code)
{
    (void)format;
    return mx_bf16_to_f32((uint16_t)code);
}

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
    .decode = bf16_decode,
    .encode = mx_minifloat_encode,
};
