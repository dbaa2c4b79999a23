/*
 * Quantization over `lanes`, bit-equal to mx_block_encode. Blocks of the common
 * kind (a known format, not stochastic; finite, largest magnitude a normal number
 * and scale well inside fp32) take the vector path, all others format/'s own code.
 */
#ifndef MX_KERNEL_LANES_QUANT_H
#define MX_KERNEL_LANES_QUANT_H

#include "format/block_plan.h"
#include "kernel/int_layout.h"

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

/* Scale byte of x [n] when the block can take the vector path, else -1. */
static int quantizer_scale(const quantizer *q, const float *x, size_t n)
{
    /* Exponents of the scale that keep all factors here normal numbers. */
    enum { LOWEST = 24, HIGHEST = 230 };
    if (!q->vector) {
        return -1;
    }
    lanes top = lanes_set(0), magnitude = lanes_set_bits(0x7FFFFFFF);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        top = lanes_max_bits(top, lanes_and(lanes_load(x + i), magnitude));
    }
    if (i < n) {
        top = lanes_max_bits(top, lanes_and(lanes_load_part(x + i, n - i), magnitude));
    }
    int32_t bits = lanes_fold_max_bits(top);
    if (bits < 0x00800000 || bits >= 0x7F800000) {
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
    int scale = quantizer_scale(q, x, n);
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

/* ---- tiles of the integer product ------------------------------------------ */

/* 16 bytes of elements to their 4 quads in a tile; `quads` is the token's place. */
static inline void quads_store(uint8_t *quads, __m128i bytes, size_t n_quads)
{
    uint32_t words[4];
    _mm_storeu_si128((__m128i *)(void *)words, bytes);
    for (size_t i = 0; i < n_quads; i++) {
        memcpy(quads + i * MX_QUAD_BYTES, &words[i], sizeof words[i]);
    }
}

static inline void block_quads_round(const quantizer *q, mx_round round, const float *x, size_t n,
                                     int scale, uint8_t *quads)
{
    lanes factor = lanes_set(quantizer_power(127 - scale + q->shift));
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        lanes v = quantizer_lanes(q, round, lanes_load(x + i), factor);
        quads_store(quads + i / 4 * MX_QUAD_BYTES, lanes_to_bytes(v), 4);
    }
    if (i < n) {
        lanes v = quantizer_lanes(q, round, lanes_load_part(x + i, n - i), factor);
        quads_store(quads + i / 4 * MX_QUAD_BYTES, lanes_to_bytes(v), (n - i + 7) / 8 * 2);
    }
}

/* The same by format/'s code, whatever is in the block; returns the scale byte. */
static uint8_t block_quads_any(const quantizer *q, const float *x, size_t n, uint64_t stream,
                               uint64_t index, uint8_t *quads)
{
    enum { PIECE = 64 };
    const int8_t *table = q->quant->format->int_table;
    mx_block_plan plan = mx_block_scan(q->quant, x, n);
    bool zero = true;
    for (size_t at = 0; at < n; at += PIECE) {
        uint8_t codes[PIECE] = {0};
        size_t piece = n - at < PIECE ? n - at : PIECE;
        mx_block_encode_planned(&q->codec, q->quant, plan, x + at, piece, stream, index + at,
                                codes);
        for (size_t i = 0; i < mx_round_up(piece, 8); i++) {
            codes[i] = i < piece ? (uint8_t)table[codes[i]] : 0;
            zero = zero && codes[i] == 0;
            quads[(at + i) / 4 * MX_QUAD_BYTES + i % 4] = codes[i];
        }
    }
    return zero && plan.scale != MX_E8M0_NAN ? MX_SCALE_OF_ZERO : plan.scale;
}

static uint8_t block_quads(const quantizer *q, const float *x, size_t n, uint64_t stream,
                           uint64_t index, uint8_t *quads)
{
    int scale = quantizer_scale(q, x, n);
    if (scale < 0) {
        return block_quads_any(q, x, n, stream, index, quads);
    }
    switch (q->quant->round) {
    case MX_ROUND_NEAREST:
        block_quads_round(q, MX_ROUND_NEAREST, x, n, scale, quads);
        break;
    case MX_ROUND_FLOOR:
        block_quads_round(q, MX_ROUND_FLOOR, x, n, scale, quads);
        break;
    default:
        block_quads_round(q, MX_ROUND_EVEN, x, n, scale, quads);
        break;
    }
    return (uint8_t)scale;
}

/* Everything of a block but its codes, for the 16 tokens with scale bytes `scales`. */
static void block_finish(const mx_int_layout *layout, size_t b, const uint8_t *scales,
                         uint8_t *tile)
{
    size_t first_quad = b * layout->pair.block / 4;
    size_t n_quads = mx_round_up(mx_int_pair_length(&layout->pair, b), 8) / 4;
    const int8_t *codes = (const int8_t *)tile + layout->tile_codes + first_quad * MX_QUAD_BYTES;
    int32_t seeds[16] = {0};
    uint32_t slots[16];
    float factors[16];
    for (size_t q = 0; q < n_quads; q++) {
        for (size_t t = 0; t < 16; t++) {
            const int8_t *quad = codes + q * MX_QUAD_BYTES + 4 * t;
            seeds[t] -= quad[0] + quad[1] + quad[2] + quad[3];
        }
    }
    for (size_t t = 0; t < 16; t++) {
        seeds[t] *= layout->offset;
        slots[t] = (uint32_t)scales[t] * MX_SLOT_BYTES;
        factors[t] = ldexpf(mx_e8m0_decode(scales[t]), -layout->pair.shift);
        if (scales[t] != MX_E8M0_NAN) {
            tile[MX_SCALE_MIN_AT] =
                scales[t] < tile[MX_SCALE_MIN_AT] ? scales[t] : tile[MX_SCALE_MIN_AT];
            tile[MX_SCALE_MAX_AT] =
                scales[t] > tile[MX_SCALE_MAX_AT] ? scales[t] : tile[MX_SCALE_MAX_AT];
        }
    }
    memcpy(tile + layout->tile_seeds + b * 64, seeds, sizeof seeds);
    memcpy(tile + layout->tile_slots + b * 64, slots, sizeof slots);
    memcpy(tile + layout->tile_factors + b * 64, factors, sizeof factors);
}

static void lanes_int_tile_pack(const mx_quant *weights, const mx_quant *activations, size_t k,
                                const float *x, size_t x_stride, size_t n_tokens,
                                uint64_t first_stream, uint8_t *tile)
{
    mx_int_layout layout = mx_int_layout_make(weights, activations, k);
    quantizer q = quantizer_make(activations, activations->format->int_shift);
    memset(tile, 0, MX_LAYOUT_HEADER);
    tile[MX_SCALE_MIN_AT] = MX_SCALE_OF_ZERO;
    tile[MX_SCALE_MAX_AT] = MX_SCALE_OF_ZERO;
    if (n_tokens < MX_TILE_TOKENS) {
        memset(tile + layout.tile_codes, 0, layout.tile_bytes - layout.tile_codes);
    }
    for (size_t b = 0; b < layout.pair.n_blocks; b++) {
        size_t begin = b * layout.pair.block, n = mx_int_pair_length(&layout.pair, b);
        uint8_t *quads = tile + layout.tile_codes + begin / 4 * MX_QUAD_BYTES;
        uint8_t scales[16];
        memset(scales, MX_SCALE_OF_ZERO, sizeof scales);
        for (size_t t = 0; t < n_tokens; t++) {
            scales[t] = block_quads(&q, x + t * x_stride + begin, n, first_stream + t, begin,
                                    quads + 4 * t);
        }
        block_finish(&layout, b, scales, tile);
    }
}

#endif
