/*
 * The arithmetic of element.h in fp32, for blocks and rows: equal to it for every
 * float and scale (tests/format/test_block.c, check_exhaustive.c). No branch and
 * no table, so that compilers vectorize the loops around it.
 *
 * A value in the binade [2^p, 2^(p+1)) is rounded to a multiple of its step
 * 2^(p-f), f fraction bits, by adding 2^(p-f+23), a float whose unit in the last
 * place is that step. Values below the smallest normal binade use its step.
 * Integer formats are the case of a single binade [1, 2).
 */
#ifndef MX_FORMAT_ELEMENT_FAST_H
#define MX_FORMAT_ELEMENT_FAST_H

#include "format/format.h"

#include <float.h>
#include <string.h>

_Static_assert(FLT_EVAL_METHOD == 0, "fp32 arithmetic must round to fp32");

/* A format with its derived constants, so that loops over elements derive none. */
typedef struct mx_codec {
    const mx_format *format;
    int32_t fraction_bits; /* f */
    int32_t emin;          /* biased fp32 exponent of the smallest normal binade */
    int32_t max_code;      /* magnitude code of max */
    int32_t sign_bit;
    bool integer;
    bool known; /* false: the format has a codec of its own; use its pointers */
} mx_codec;

void mx_codec_init(const mx_format *format, mx_codec *codec);

static inline int32_t mx_float_bits(float x)
{
    int32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline float mx_bits_float(int32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* Magnitude code, before saturation, of y >= 0 below 2^(emax + 2). */
static inline int32_t mx_codec_magnitude(const mx_codec *codec, float y, mx_round round,
                                         uint32_t random)
{
    int32_t exponent = mx_float_bits(y) >> 23;
    int32_t binade = exponent > codec->emin ? exponent : codec->emin;
    float magic = mx_bits_float((binade + 23 - codec->fraction_bits) << 23);
    float sum = y + magic; /* rounds half to even */
    int32_t steps = mx_float_bits(sum) - mx_float_bits(magic);
    float rest = y - (sum - magic); /* exact, from -step/2 to step/2 */

    if (round == MX_ROUND_NEAREST) {
        float half_step = mx_bits_float((binade - codec->fraction_bits - 1) << 23);
        steps += rest == half_step; /* a tie that went down to even */
    } else if (round == MX_ROUND_FLOOR) {
        steps -= rest < 0;
    } else if (round == MX_ROUND_DITHER) {
        float step = mx_bits_float((binade - codec->fraction_bits) << 23);
        float per_step = mx_bits_float((254 + 32 - binade + codec->fraction_bits) << 23);
        steps -= rest < 0;
        rest = rest < 0 ? rest + step : rest;          /* exact, in [0, step) */
        int64_t fraction = (int64_t)(rest * per_step); /* floor(rest / step * 2^32) */
        steps += (int32_t)((fraction + random) >> 32);
    }
    return ((binade - codec->emin) << codec->fraction_bits) + steps;
}

/*
 * The code of any x in a PLAIN format narrower than fp32, NaN and Inf included:
 * the bits of x rounded by shifting. The trick above would overflow at bf16's top.
 */
static inline uint32_t mx_codec_plain(const mx_codec *codec, float x, mx_round round,
                                      uint32_t random)
{
    uint32_t bits = (uint32_t)mx_float_bits(x), magnitude = bits & 0x7FFFFFFF;
    uint32_t sign = bits >> 31 != 0 ? (uint32_t)codec->sign_bit : 0;
    uint32_t infinity = (uint32_t)codec->max_code + 1;
    if (magnitude >= 0x7F800000) {
        bool is_nan = magnitude > 0x7F800000;
        return is_nan ? infinity | 1u << (codec->fraction_bits - 1) : sign | infinity;
    }
    int32_t exponent = (int32_t)(magnitude >> 23);
    uint32_t significand = (magnitude & 0x007FFFFF) | (exponent != 0 ? 0x00800000 : 0);
    exponent = exponent != 0 ? exponent : 1; /* fp32 subnormals */
    int32_t binade = exponent > codec->emin ? exponent : codec->emin;
    int32_t shift = 23 - codec->fraction_bits + (binade - exponent);
    uint64_t add = 0; /* in units of 2^-32 of a step, as the significand below */
    shift = shift < 63 ? shift : 63;
    uint64_t fixed = ((uint64_t)significand << 32) >> shift;
    if (round == MX_ROUND_NEAREST) {
        add = UINT64_C(1) << 31;
    } else if (round == MX_ROUND_EVEN) {
        add = (UINT64_C(1) << 31) - 1 + ((fixed >> 32) & 1);
    } else if (round == MX_ROUND_DITHER) {
        add = random;
    }
    uint32_t code = ((uint32_t)(binade - codec->emin) << codec->fraction_bits) +
                    (uint32_t)((fixed + add) >> 32);
    uint32_t beyond = round == MX_ROUND_FLOOR ? infinity - 1 : infinity;
    return sign | (code < infinity ? code : beyond);
}

/* The value of a magnitude code of a minifloat format. */
static inline float mx_codec_value(const mx_codec *codec, int32_t magnitude)
{
    int32_t one = 1 << codec->fraction_bits;
    int32_t exponent = magnitude >> codec->fraction_bits;
    int32_t mantissa = magnitude & (one - 1);
    int32_t significand = exponent > 0 ? mantissa | one : mantissa;
    int32_t binade = (exponent > 0 ? exponent : 1) + codec->emin - 1;
    float value = (float)significand * mx_bits_float((binade - codec->fraction_bits) << 23);
    int32_t special = mantissa == 0 ? 0x7F800000 : 0x7FC00000; /* Inf or NaN */
    return magnitude > codec->max_code ? mx_bits_float(special) : value;
}

#endif
