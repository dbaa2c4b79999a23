#include "format/dtype.h"
#include "format/element.h"

/* The reading of stored fp16 weights, which is also far cheaper than ldexp. */
static float fp16_decode(const mx_format *format, uint32_t code)
{
    (void)format;
    return mx_f16_to_f32((uint16_t)code);
}

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
    .decode = fp16_decode,
    .encode = mx_minifloat_encode,
};
