/* Blocks: scan for the scale, then encode or decode the elements. */
#include "format/block_plan.h"
#include "format/element.h"

#include <assert.h>
#include <math.h>
#include <string.h>

void mx_codec_init(const mx_format *format, mx_codec *codec)
{
    bool integer = format->encode == mx_integer_encode;
    if (!integer && format->encode != mx_minifloat_encode) {
        *codec = (mx_codec){.format = format}; /* not known */
        return;
    }
    int bias = integer ? 1 : (1 << (format->exponent_bits - 1)) - 1;
    *codec = (mx_codec){
        .format = format,
        .fraction_bits = (int32_t)mx_format_fraction_bits(format),
        .emin = 128 - bias,
        .max_code = (int32_t)mx_element_max_code(format),
        .sign_bit = (int32_t)(1u << (format->bits - 1)),
        .integer = integer,
        .known = true,
    };
}

/* Bits of the largest magnitude of x [n]; at least 0x7F800000 when a NaN or Inf is
 * among them, since fp32 magnitudes order as their bits do. */
static int32_t block_amax_bits(const float *x, size_t n)
{
    int32_t amax = 0; /* signed: SSE2 has no unsigned comparison */
    for (size_t i = 0; i < n; i++) {
        int32_t bits = mx_float_bits(x[i]) & 0x7FFFFFFF;
        amax = bits > amax ? bits : amax;
    }
    return amax;
}

mx_block_plan mx_block_scan(const mx_quant *quant, const float *x, size_t n)
{
    int32_t amax = block_amax_bits(x, n);
    uint8_t scale = mx_scale_encode(quant->format, quant->rule, mx_bits_float(amax));
    bool subnormal = amax < 0x00800000;
    return (mx_block_plan){
        .scale = scale,
        .zero = scale == MX_E8M0_NAN || (subnormal && quant->flush_subnormals),
    };
}

/* The loop over elements, inlined for each rounding. */
static inline __attribute__((always_inline)) void
codes_encode(const mx_codec *codec, const mx_quant *quant, mx_round round, uint8_t scale,
             const float *x, size_t n, uint64_t stream, uint64_t index, uint8_t *codes)
{
    /* 2^(127 - scale); byte 254 needs the subnormal 2^-127, not 0. The product is
     * exact but where y is far below every format's smallest step. */
    float inverse = mx_bits_float(scale == 254 ? 0x00400000 : (254 - scale) << 23);
    mx_codec c = *codec; /* a copy, which stores to `codes` cannot alias */
    for (size_t i = 0; i < n; i++) {
        float y = mx_bits_float(mx_float_bits(x[i] * inverse) & 0x7FFFFFFF);
        uint32_t random = round == MX_ROUND_DITHER ? mx_quant_random(quant, stream, index + i) : 0;
        int32_t code = mx_codec_magnitude(&c, y, round, random);
        code = code < c.max_code ? code : c.max_code;
        bool negative = x[i] < 0; /* -0 gives +0 */
        int32_t negated = c.integer ? -code & (2 * c.sign_bit - 1) : c.sign_bit | code;
        codes[i] = (uint8_t)(negative ? negated : code);
    }
}

/* A format with an encode of its own. */
static void codes_encode_foreign(const mx_quant *quant, uint8_t scale, const float *x, size_t n,
                                 uint64_t stream, uint64_t index, uint8_t *codes)
{
    const mx_format *format = quant->format;
    for (size_t i = 0; i < n; i++) {
        uint32_t random = mx_quant_random(quant, stream, index + i);
        double y = ldexp(x[i], MX_E8M0_BIAS - scale);
        codes[i] = (uint8_t)format->encode(format, y, quant->round, random);
    }
}

/* One call a rounding: with a constant the inner loop has no branch on it. */
void mx_block_encode_planned(const mx_codec *codec, const mx_quant *quant, mx_block_plan plan,
                             const float *x, size_t n, uint64_t stream, uint64_t index,
                             uint8_t *codes)
{
    if (plan.zero) {
        memset(codes, 0, n);
        return;
    }
    if (!codec->known) {
        codes_encode_foreign(quant, plan.scale, x, n, stream, index, codes);
        return;
    }
    switch (quant->round) {
    case MX_ROUND_NEAREST:
        codes_encode(codec, quant, MX_ROUND_NEAREST, plan.scale, x, n, stream, index, codes);
        break;
    case MX_ROUND_EVEN:
        codes_encode(codec, quant, MX_ROUND_EVEN, plan.scale, x, n, stream, index, codes);
        break;
    case MX_ROUND_FLOOR:
        codes_encode(codec, quant, MX_ROUND_FLOOR, plan.scale, x, n, stream, index, codes);
        break;
    case MX_ROUND_DITHER:
        codes_encode(codec, quant, MX_ROUND_DITHER, plan.scale, x, n, stream, index, codes);
        break;
    }
}

uint8_t mx_block_encode(const mx_quant *quant, const float *x, size_t n, uint64_t stream,
                        uint64_t index, uint8_t *codes)
{
    assert(mx_quant_is_scaled(quant) && n >= 1);
    mx_codec codec;
    mx_codec_init(quant->format, &codec);
    mx_block_plan plan = mx_block_scan(quant, x, n);
    mx_block_encode_planned(&codec, quant, plan, x, n, stream, index, codes);
    return plan.scale;
}

/* Values of an integer table; the scale takes the table's shift in, which keeps
 * products exact: 2^(-127 - shift) is still an fp32 subnormal. */
static void table_decode(const mx_format *format, const uint8_t *codes, uint8_t scale, size_t n,
                         float *out)
{
    float unit = ldexpf(1, scale - MX_E8M0_BIAS - format->int_shift);
    uint32_t mask = (1u << format->bits) - 1;
    for (size_t i = 0; i < n; i++) {
        out[i] = (float)format->int_table[codes[i] & mask] * unit;
    }
}

/* The sign is put on bits, so that -0 stays -0. */
static void minifloat_decode(const mx_codec *codec, const uint8_t *codes, uint8_t scale, size_t n,
                             float *out)
{
    float factor = mx_e8m0_decode(scale);
    mx_codec c = *codec;
    for (size_t i = 0; i < n; i++) {
        float value = mx_codec_value(&c, codes[i] & (c.sign_bit - 1)) * factor;
        int32_t sign = (codes[i] & c.sign_bit) != 0 ? INT32_MIN : 0;
        out[i] = mx_bits_float(mx_float_bits(value) | sign);
    }
}

/* A NaN scale makes the whole block NaN (OCP MX v1.0). */
void mx_block_decode_planned(const mx_codec *codec, const uint8_t *codes, uint8_t scale, size_t n,
                             float *out)
{
    const mx_format *format = codec->format;
    if (scale == MX_E8M0_NAN) {
        for (size_t i = 0; i < n; i++) {
            out[i] = NAN;
        }
    } else if (format->int_table != NULL && codec->integer) {
        table_decode(format, codes, scale, n, out);
    } else if (codec->known && format->decode == mx_minifloat_decode) {
        minifloat_decode(codec, codes, scale, n, out);
    } else {
        float factor = mx_e8m0_decode(scale);
        for (size_t i = 0; i < n; i++) {
            out[i] = format->decode(format, codes[i]) * factor;
        }
    }
}

void mx_block_decode(const mx_format *format, const uint8_t *codes, uint8_t scale, size_t n,
                     float *out)
{
    mx_codec codec;
    mx_codec_init(format, &codec);
    mx_block_decode_planned(&codec, codes, scale, n, out);
}
