/* OCP OFP8 E4M3: only mantissa 111 of the last exponent is NaN, hence max 448. */
#include "format/element.h"

const mx_format mx_format_fp8_e4m3 = {
    .name = "fp8_e4m3",
    .description = "OCP MXFP8 E4M3 (e4m3fn): max 448, NaN at 0x7F and 0xFF, no Inf",
    .kind = MX_KIND_FLOAT,
    .bits = 8,
    .exponent_bits = 4,
    .mantissa_bits = 3,
    .emax = 8,
    .max = 448.0f,
    .decode = mx_minifloat_decode,
    .encode = mx_minifloat_encode,
};
