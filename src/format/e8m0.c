/* Shared scales. Everything works on fp32 bits: no logarithm, no rounding. */
#include "format/block.h"

#include <string.h>

static uint32_t float_bits(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

float mx_e8m0_decode(uint8_t byte)
{
    /* Byte 0 is 2^-127, the subnormal half of FLT_MIN, and not 0; 0xFF is a quiet
     * NaN, and not Inf as the bare exponent field would say. */
    uint32_t bits = (uint32_t)byte << 23;
    if (byte == 0) {
        bits = 0x00400000;
    } else if (byte == MX_E8M0_NAN) {
        bits = 0x7FC00000;
    }
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Whether `rule` takes the exponent one above floor(log2 amax) - emax;
 * `significand` is m * 2^23. */
static bool scale_rule_bumps(const mx_format *format, mx_scale_rule rule, uint32_t significand)
{
    uint32_t one = 1u << 23;
    switch (rule) {
    case MX_SCALE_FLOOR:
        return false;
    case MX_SCALE_EVEN:
        /* Rounding to f fraction bits, ties up, reaches 2 from 2 - 2^-(f+1) on. */
        return significand >= 2 * one - (one >> (mx_format_fraction_bits(format) + 1));
    case MX_SCALE_RCEIL:
        /* max = M * 2^emax, so amax / max is above a power of two iff m > M. */
        return significand > ((float_bits(format->max) & (one - 1)) | one);
    case MX_SCALE_CEIL:
        return significand > one;
    }
    return false;
}

uint8_t mx_scale_encode(const mx_format *format, mx_scale_rule rule, float amax)
{
    uint32_t bits = float_bits(amax) & 0x7FFFFFFF;
    if (bits >= 0x7F800000) {
        return MX_E8M0_NAN;
    }
    int k = -126; /* microxcaling replaces amax = 0 by FLT_MIN */
    uint32_t significand = 1u << 23;
    if (bits >= 1u << 23) {
        k = (int)(bits >> 23) - 127;
        significand = (bits & 0x007FFFFF) | (1u << 23);
    } else if (bits != 0) {
        int shift = __builtin_clz(bits) - 8;
        k = -126 - shift;
        significand = bits << shift;
    }
    int e0 = k - format->emax + (scale_rule_bumps(format, rule, significand) ? 1 : 0);
    if (e0 > 127) {
        return MX_E8M0_NAN;
    }
    return (uint8_t)(e0 < -MX_E8M0_BIAS ? 0 : e0 + MX_E8M0_BIAS);
}
