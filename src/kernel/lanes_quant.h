/*
 * Quantize-dequantize over `lanes`, bit-equal to mx_row_cast. Blocks of the common
 * kind (a known format, not stochastic; finite, largest magnitude a normal number
 * and scale well inside fp32) take the vector path, all others format/'s own code.
 */
#ifndef MX_KERNEL_LANES_QUANT_H
#define MX_KERNEL_LANES_QUANT_H

#include "format/block_plan.h"
#include "kernel/unroll.h"

#include <string.h>

/* Rounding |y| to a format's grid: above `smallest` (its least normal number) a
 * binade [E, 2 E) has steps E * 2^-fraction_bits, below it steps stay the same. */
typedef struct quantizer {
    const mx_quant *quant;
    mx_codec codec;
    bool vector;         /* the vector path knows format and rounding */
    int shift;           /* y is taken in units of 2^-shift */
    float smallest, max; /* in that unit */
    float rounder;       /* 2^(23 - fraction_bits) */
    float step;          /* 2^-fraction_bits */
} quantizer;

static inline float quantizer_power(int exponent)
{
    uint32_t bits = (uint32_t)(exponent + 127) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    return power;
}

static quantizer quantizer_make(const mx_quant *quant, int shift)
{
    quantizer q = {.quant = quant, .shift = shift};
    mx_codec_init(quant->format, &q.codec);
    q.vector = q.codec.known && quant->round != MX_ROUND_DITHER;
    if (q.vector) {
        int fraction_bits = (int)q.codec.fraction_bits;
        q.smallest = quantizer_power((int)q.codec.emin - 127 + shift);
        q.max = quant->format->max * quantizer_power(shift);
        q.rounder = quantizer_power(23 - fraction_bits);
        q.step = quantizer_power(-fraction_bits);
    }
    return q;
}

/*
 * v = |y| rounded and clamped. Adding E * 2^(23 - f), whose last mantissa bit is
 * one step, and subtracting it again rounds to even steps; the other roundings
 * correct that by what it did.
 */
static inline lanes quantizer_round(const quantizer *q, mx_round round, lanes v)
{
    lanes binade = lanes_and(v, lanes_set_bits(0x7F800000));
    binade = lanes_max(binade, lanes_set(q->smallest));
    lanes rounder = lanes_mul(binade, lanes_set(q->rounder));
    lanes rounded = lanes_sub(lanes_add(v, rounder), rounder);
    lanes step = lanes_mul(binade, lanes_set(q->step));
    lanes error = lanes_sub(v, rounded); /* exact */
    if (round == MX_ROUND_NEAREST) {
        lanes_mask tie_went_down = lanes_equal(error, lanes_mul(step, lanes_set(0.5f)));
        rounded = lanes_select(tie_went_down, lanes_add(rounded, step), rounded);
    } else if (round == MX_ROUND_FLOOR) {
        lanes_mask went_up = lanes_less(error, lanes_set(0));
        rounded = lanes_select(went_up, lanes_sub(rounded, step), rounded);
    }
    return lanes_min(rounded, lanes_set(q->max));
}

/* x / 2^e0 rounded, in units of 2^-shift; factor = 2^(shift - e0). Zeros get the
 * sign of x, +0 when x is -0. */
static inline lanes quantizer_lanes(const quantizer *q, mx_round round, lanes x, lanes factor)
{
    lanes sign = lanes_set_bits(0x80000000);
    lanes v = lanes_mul(lanes_and(x, lanes_set_bits(0x7FFFFFFF)), factor);
    lanes magnitude = quantizer_round(q, round, v);
    return lanes_select(lanes_less(x, lanes_set(0)), lanes_or(magnitude, sign), magnitude);
}

/* Bits of the largest magnitude of each lane's elements of x [n]. */
static inline lanes quantizer_top(const float *x, size_t n)
{
    lanes top = lanes_set(0), magnitude = lanes_set_bits(0x7FFFFFFF);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        top = lanes_max_bits(top, lanes_and(lanes_load(x + i), magnitude));
    }
    if (i < n) {
        top = lanes_max_bits(top, lanes_and(lanes_load_part(x + i, n - i), magnitude));
    }
    return top;
}

/* Scale byte for the bits of a block's largest magnitude when the block can take
 * the vector path, else -1. */
static inline int quantizer_scale(const quantizer *q, int32_t bits)
{
    /* Bytes that keep all factors here normal numbers. */
    enum { LOWEST = 24, HIGHEST = 230 };
    if (!q->vector || bits < 0x00800000 || bits >= 0x7F800000) {
        return -1;
    }
    int scale = (bits >> 23) - q->quant->format->emax;
    if (q->quant->rule != MX_SCALE_FLOOR) {
        float amax;
        memcpy(&amax, &bits, sizeof amax);
        scale = mx_scale_encode(q->quant->format, q->quant->rule, amax);
    }
    return scale < LOWEST || scale > HIGHEST ? -1 : scale;
}

/* ---- quantize-dequantize --------------------------------------------------- */

static inline void block_cast_round(const quantizer *q, mx_round round, const float *x, size_t n,
                                    int scale, float *out)
{
    lanes factor = lanes_set(quantizer_power(127 - scale));
    lanes inverse = lanes_set(quantizer_power(scale - 127));
    for (size_t i = 0; i < n; i += 16) {
        size_t part = n - i < 16 ? n - i : 16;
        lanes v = lanes_load_part(x + i, part);
        v = lanes_mul(quantizer_lanes(q, round, v, factor), inverse);
        if (q->codec.integer) {
            v = lanes_add(v, lanes_set(0)); /* integers have no -0 */
        }
        lanes_store_part(out + i, v, part);
    }
}

static void block_cast(const quantizer *q, const float *x, size_t n, uint64_t stream, float *out)
{
    int scale = quantizer_scale(q, lanes_fold_max_bits(quantizer_top(x, n)));
    if (scale < 0) {
        mx_row_cast(q->quant, x, n, stream, out);
        return;
    }
    switch (q->quant->round) {
    case MX_ROUND_NEAREST:
        block_cast_round(q, MX_ROUND_NEAREST, x, n, scale, out);
        break;
    case MX_ROUND_FLOOR:
        block_cast_round(q, MX_ROUND_FLOOR, x, n, scale, out);
        break;
    default:
        block_cast_round(q, MX_ROUND_EVEN, x, n, scale, out);
        break;
    }
}

static void lanes_row_cast(const mx_quant *quant, const float *x, size_t n, uint64_t stream,
                           float *out)
{
    size_t block = mx_quant_block(quant, n);
    if (!mx_quant_is_scaled(quant) || quant->round == MX_ROUND_DITHER || block < 8) {
        mx_row_cast(quant, x, n, stream, out);
        return;
    }
    quantizer q = quantizer_make(quant, 0);
    for (size_t i = 0; i < n; i += block) {
        block_cast(&q, x + i, n - i < block ? n - i : block, stream, out + i);
    }
}

#endif
