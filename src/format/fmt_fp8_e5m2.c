/* OCP OFP8 E5M2: the last exponent is Inf and NaN, as in IEEE formats. */
#include "format/element.h"

const mx_format mx_format_fp8_e5m2 = {
    .name = "fp8_e5m2",
    .description = "OCP MXFP8 E5M2: max 57344, Inf and NaN codes; encoding saturates",
    .kind = MX_KIND_FLOAT,
    .bits = 8,
    .exponent_bits = 5,
    .mantissa_bits = 2,
    .emax = 15,
    .max = 57344.0f,
    .decode = mx_minifloat_decode,
    .encode = mx_minifloat_encode,
};
