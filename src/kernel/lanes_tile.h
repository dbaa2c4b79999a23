/*
 * Activations to tiles of int_layout.h over `lanes`, bit-equal to mx_block_encode:
 * 16 tokens' blocks at a time. Included after lanes_quant.h.
 */
#ifndef MX_KERNEL_LANES_TILE_H
#define MX_KERNEL_LANES_TILE_H

#include "kernel/int_layout.h"

#include <math.h>

/* The same block of up to 16 tokens. */
typedef struct tile_block {
    const float *x; /* [n_tokens][x_stride], n elements each */
    size_t x_stride, n_tokens, n;
    uint8_t *quads;    /* its first in the tile */
    float factors[16]; /* 2^(shift - e0) */
} tile_block;

/* Bits of each token's largest magnitude. */
static inline void block_tops(const tile_block *block, int32_t bits[16])
{
    enum { FEW = 6 };
    float tops[16][16], columns[16][16];
    const float *rows[16];
    if (block->n_tokens <= FEW) {
        for (size_t t = 0; t < block->n_tokens; t++) {
            bits[t] = lanes_fold_max_bits(quantizer_top(block->x + t * block->x_stride, block->n));
        }
        return;
    }
    for (size_t t = 0; t < 16; t++) {
        lanes top = lanes_set(0);
        if (t < block->n_tokens) {
            top = quantizer_top(block->x + t * block->x_stride, block->n);
        }
        lanes_store(tops[t], top);
        rows[t] = tops[t];
    }
    /* Lanes become tokens, so that one chain of maxima serves all. */
    lanes_transpose(rows, 0, columns[0]);
    lanes top = lanes_load(columns[0]);
    for (size_t i = 1; i < 16; i++) {
        top = lanes_max_bits(top, lanes_load(columns[i]));
    }
    lanes_store(columns[0], top);
    memcpy(bits, columns[0], 16 * sizeof bits[0]);
}

/* 16 elements of 4 tokens to the tokens' places in 4 quads (2 when `half`). */
static inline void quads_store(lanes_bytes bytes[4], bool half, uint8_t *quads)
{
    lanes_bytes_transpose(bytes);
    lanes_bytes_store(quads, bytes[0]);
    lanes_bytes_store(quads + MX_QUAD_BYTES, bytes[1]);
    if (!half) {
        lanes_bytes_store(quads + 2 * MX_QUAD_BYTES, bytes[2]);
        lanes_bytes_store(quads + 3 * MX_QUAD_BYTES, bytes[3]);
    }
}

MX_TEMPLATE void block_quads(const quantizer *q, mx_round round, const tile_block *block)
{
    for (size_t i = 0; i < block->n; i += 16) {
        size_t part = block->n - i < 16 ? block->n - i : 16;
        for (size_t t = 0; t < block->n_tokens; t += 4) {
            lanes_bytes bytes[4];
            MX_UNROLL
            for (size_t j = 0; j < 4; j++) {
                bytes[j] = lanes_bytes_zero();
                if (t + j < block->n_tokens) {
                    const float *x = block->x + (t + j) * block->x_stride + i;
                    lanes v = part == 16 ? lanes_load(x) : lanes_load_part(x, part);
                    v = quantizer_lanes(q, round, v, lanes_set(block->factors[t + j]));
                    bytes[j] = lanes_to_bytes(v);
                }
            }
            quads_store(bytes, part <= 8, block->quads + i / 4 * MX_QUAD_BYTES + t * 4);
        }
    }
}

static void block_quads_any_round(const quantizer *q, const tile_block *block)
{
    switch (q->quant->round) {
    case MX_ROUND_NEAREST:
        block_quads(q, MX_ROUND_NEAREST, block);
        break;
    case MX_ROUND_FLOOR:
        block_quads(q, MX_ROUND_FLOOR, block);
        break;
    default:
        block_quads(q, MX_ROUND_EVEN, block);
        break;
    }
}

/* One token's block by format/'s code, whatever is in it; returns the scale byte. */
static uint8_t token_quads(const quantizer *q, const float *x, size_t n, uint64_t stream,
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

/* Factors of a block of all tokens and its scale bytes; those that take format/'s code
 * are `special` and have the ones of zero for now. */
static void block_scales(const quantizer *q, tile_block *block, uint8_t scales[16],
                         bool special[16])
{
    int32_t bits[16];
    block_tops(block, bits);
    for (size_t t = 0; t < block->n_tokens; t++) {
        int scale = quantizer_scale(q, bits[t]);
        special[t] = scale < 0;
        scales[t] = scale < 0 ? MX_SCALE_OF_ZERO : (uint8_t)scale;
        block->factors[t] = quantizer_power(MX_E8M0_BIAS - scales[t] + q->shift);
    }
}

/* Codes of a block of all tokens; its scale bytes to `scales`. */
static void block_encode(const quantizer *q, tile_block *block, uint64_t first_stream,
                         uint64_t index, uint8_t scales[16])
{
    bool special[16];
    block_scales(q, block, scales, special);
    block_quads_any_round(q, block);
    for (size_t t = 0; t < block->n_tokens; t++) {
        if (special[t]) {
            scales[t] = token_quads(q, block->x + t * block->x_stride, block->n, first_stream + t,
                                    index, block->quads + 4 * t);
        }
    }
}

static inline void slots_store(const uint8_t scales[16], uint8_t *slots)
{
    uint32_t slot[16];
    for (size_t t = 0; t < 16; t++) {
        slot[t] = (uint32_t)scales[t] * MX_SLOT_BYTES;
    }
    memcpy(slots, slot, sizeof slot);
}

/* Seeds and factors of a block whose codes and slots are there. */
static inline void block_finish(const mx_int_layout *layout, size_t b, uint8_t *tile)
{
    size_t first_quad = b * layout->pair.block / 4;
    size_t n_quads = mx_round_up(mx_block_pair_length(&layout->pair, b), 8) / 4;
    void *seeds = tile + layout->tile_seeds + b * 64,
         *factors = tile + layout->tile_factors + b * 64;
    const void *slots = tile + layout->tile_slots + b * 64;
    lanes_quads_sum(tile + layout->tile_codes + first_quad * MX_QUAD_BYTES, n_quads,
                    -layout->offset, seeds);
    lanes slot = lanes_from_u32(slots), one = lanes_set(1);
    lanes e = lanes_mul(slot, lanes_set(1.0f / MX_SLOT_BYTES));
    e = lanes_sub(e, lanes_set((float)(MX_E8M0_BIAS + layout->pair.shift)));
    lanes_mask nan = lanes_equal(slot, lanes_set((float)(MX_E8M0_NAN * MX_SLOT_BYTES)));
    lanes_store(factors, lanes_select(nan, lanes_set(NAN), lanes_scale(one, e)));
}

/* Range of the tile's scale bytes but NaN, so far. */
typedef struct scale_bounds {
    uint8_t min[16], max[16];
} scale_bounds;

static inline void bounds_add(scale_bounds *bounds, const uint8_t *scales)
{
    for (size_t t = 0; t < 16; t++) {
        uint8_t s = scales[t] == MX_E8M0_NAN ? MX_SCALE_OF_ZERO : scales[t];
        bounds->min[t] = s < bounds->min[t] ? s : bounds->min[t];
        bounds->max[t] = s > bounds->max[t] ? s : bounds->max[t];
    }
}

static void bounds_store(const scale_bounds *bounds, uint8_t *tile)
{
    memset(tile, 0, MX_LAYOUT_HEADER);
    tile[MX_SCALE_MIN_AT] = MX_SCALE_OF_ZERO;
    tile[MX_SCALE_MAX_AT] = MX_SCALE_OF_ZERO;
    for (size_t t = 0; t < 16; t++) {
        uint8_t min = bounds->min[t], max = bounds->max[t];
        tile[MX_SCALE_MIN_AT] = min < tile[MX_SCALE_MIN_AT] ? min : tile[MX_SCALE_MIN_AT];
        tile[MX_SCALE_MAX_AT] = max > tile[MX_SCALE_MAX_AT] ? max : tile[MX_SCALE_MAX_AT];
    }
}

static void lanes_int_tile_pack(const mx_quant *weights, const mx_quant *activations, size_t k,
                                const float *x, size_t x_stride, size_t n_tokens,
                                uint64_t first_stream, uint8_t *tile)
{
    mx_int_layout layout = mx_int_layout_make(weights, activations, k);
    quantizer q = quantizer_make(activations, activations->format->int_shift);
    scale_bounds bounds;
    memset(&bounds, MX_SCALE_OF_ZERO, sizeof bounds);
    for (size_t b = 0; b < layout.pair.n_blocks; b++) {
        size_t begin = b * layout.pair.block;
        tile_block block = {
            .x = x + begin,
            .x_stride = x_stride,
            .n_tokens = n_tokens,
            .n = mx_block_pair_length(&layout.pair, b),
            .quads = tile + layout.tile_codes + begin / 4 * MX_QUAD_BYTES,
        };
        uint8_t scales[16];
        memset(scales, MX_SCALE_OF_ZERO, sizeof scales);
        block_encode(&q, &block, first_stream, begin, scales);
        slots_store(scales, tile + layout.tile_slots + b * 64);
        bounds_add(&bounds, scales);
    }
    /* A pass of its own: loading codes just stored in smaller pieces would stall. */
    for (size_t b = 0; b < layout.pair.n_blocks; b++) {
        block_finish(&layout, b, tile);
    }
    bounds_store(&bounds, tile);
}

#endif
