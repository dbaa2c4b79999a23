/*
 * The arithmetic of element.h on fp32 bits, for blocks and rows: equal to it for
 * every float and scale (tests/format/test_block.c and check_exhaustive.c).
 *
 * A value in [2^p, 2^(p+1)) becomes a 24-bit significand that is shifted right,
 * by 23 - f for values in a normal binade (f fraction bits) and by one more for
 * each binade below the smallest normal one. Integer formats are the case of a
 * single binade [1, 2) with everything below it subnormal.
 */
#ifndef MX_FORMAT_ELEMENT_FAST_H
#define MX_FORMAT_ELEMENT_FAST_H

#include "format/format.h"

typedef struct mx_codec {
    const mx_format *format;
    uint32_t fraction_bits; /* f */
    uint32_t emin;          /* biased fp32 exponent of the smallest normal binade */
    uint32_t max_code;      /* magnitude code of max */
    uint32_t sign_bit;
    uint32_t mask; /* of all bits of a code */
    bool integer;
    bool known; /* false: the format has a codec of its own; use its pointers */
} mx_codec;

void mx_codec_init(const mx_format *format, mx_codec *codec);

/* Magnitude code, before saturation, of the fp32 value with bits `u` (finite, sign
 * clear); f < 23. */
static inline uint32_t mx_codec_magnitude(const mx_codec *codec, uint32_t u, mx_round round,
                                          uint32_t random)
{
    uint32_t exponent = u >> 23;
    uint32_t significand = (u & 0x007FFFFF) | (exponent != 0 ? 0x00800000 : 0);
    exponent = exponent != 0 ? exponent : 1; /* fp32 subnormals have no implicit bit */
    uint32_t binade = exponent > codec->emin ? exponent : codec->emin;
    uint32_t shift = 23 - codec->fraction_bits + (binade - exponent);
    uint32_t steps;
    if (round == MX_ROUND_DITHER) {
        /* The fraction cut off, to 32 bits, plus the random number: a carry
         * rounds up. Beyond 63 the significand has no bit left to give. */
        shift = shift < 63 ? shift : 63;
        steps = (uint32_t)(((((uint64_t)significand << 32) >> shift) + random) >> 32);
    } else {
        shift = shift < 31 ? shift : 31; /* the result is 0 from 26 on */
        uint32_t half = 1u << (shift - 1);
        uint32_t add = round == MX_ROUND_NEAREST ? half
                       : round == MX_ROUND_EVEN  ? half - 1 + ((significand >> shift) & 1)
                                                 : 0;
        steps = (significand + add) >> shift;
    }
    return ((binade - codec->emin) << codec->fraction_bits) + steps;
}

#endif
