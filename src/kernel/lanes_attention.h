/*
 * Attention over `lanes`. A row is one query head of one token; rows of a tile share
 * the loads of keys (lanes over 16 positions) and of values (lanes over the head's
 * dimension). A block of keys and values stays in the first-level cache while up to
 * MAX_ROWS rows pass over it; the mix rests in `out` between blocks. Included after
 * lanes_ops.h.
 */
#ifndef MX_KERNEL_LANES_ATTENTION_H
#define MX_KERNEL_LANES_ATTENTION_H

#include "kernel/unroll.h"

#include <float.h>
#include <string.h>

enum {
    LANES_ROWS = 6, /* of a register tile */
    MAX_ROWS = 64,  /* that share a pass over the keys */
    BLOCK_TILES = MX_ATTENTION_BLOCK / 16,
};

/* One query head of one token on its way through the blocks. */
typedef struct attention_row {
    const float *q; /* [head_dim] */
    float *out;     /* [head_dim] */
    size_t n_keys;
    float max;
    float sums[16];
} attention_row;

/* A block of keys. */
typedef struct attention_block {
    const float *k; /* [BLOCK_TILES][head_dim][16] */
    const float *v; /* [MX_ATTENTION_BLOCK][head_dim] */
    size_t head_dim;
    float scale;
    size_t begin; /* position of the first key */
} attention_block;

/* What the rows of a tile make of a block. */
typedef struct attention_weights {
    float scores[LANES_ROWS][MX_ATTENTION_BLOCK]; /* then weights exp(s - max) */
    float max[16], factors[16];                   /* of the rows; c of the contract */
} attention_weights;

/* Keys of the block that the row sees: 0 to MX_ATTENTION_BLOCK. */
static inline size_t row_keys(const attention_row *row, const attention_block *block)
{
    size_t seen = row->n_keys > block->begin ? row->n_keys - block->begin : 0;
    return seen < MX_ATTENTION_BLOCK ? seen : MX_ATTENTION_BLOCK;
}

/* Scores of n_rows rows and n_tiles tiles of keys from `tile` on. */
MX_TEMPLATE void scores_tile(const attention_row *rows, const attention_block *block, size_t tile,
                             int n_rows, int n_tiles, attention_weights *weights)
{
    size_t dim = block->head_dim;
    const float *k = block->k + tile * dim * 16;
    lanes dot[LANES_ROWS][LANES_KEYS];
    MX_UNROLL
    for (int r = 0; r < n_rows; r++) {
        MX_UNROLL
        for (int i = 0; i < n_tiles; i++) {
            dot[r][i] = lanes_set(0);
        }
    }
    for (size_t d = 0; d < dim; d++) {
        lanes key[LANES_KEYS];
        MX_UNROLL
        for (int i = 0; i < n_tiles; i++) {
            key[i] = lanes_load(k + ((size_t)i * dim + d) * 16);
        }
        MX_UNROLL
        for (int r = 0; r < n_rows; r++) {
            lanes query = lanes_set(rows[r].q[d]);
            MX_UNROLL
            for (int i = 0; i < n_tiles; i++) {
                dot[r][i] = lanes_fma(query, key[i], dot[r][i]);
            }
        }
    }
    MX_UNROLL
    for (int r = 0; r < n_rows; r++) {
        MX_UNROLL
        for (int i = 0; i < n_tiles; i++) {
            lanes_store(weights->scores[r] + (tile + (size_t)i) * 16,
                        lanes_mul(lanes_set(block->scale), dot[r][i]));
        }
    }
}

/* Scores of the keys that the last row sees, in whole tiles. */
MX_TEMPLATE void scores_rows(const attention_row *rows, const attention_block *block, int n_rows,
                             attention_weights *weights)
{
    size_t n_tiles = (row_keys(&rows[n_rows - 1], block) + 15) / 16, tile = 0;
    for (; tile + LANES_KEYS <= n_tiles; tile += LANES_KEYS) {
        scores_tile(rows, block, tile, n_rows, LANES_KEYS, weights);
    }
    for (; tile < n_tiles; tile++) {
        scores_tile(rows, block, tile, n_rows, 1, weights);
    }
}

/* The largest of scores [n] and `max`, NaN passed over. */
static inline float scores_max(const float *scores, size_t n, float max)
{
    lanes top = lanes_set(max);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        top = lanes_max(lanes_load(scores + i), top);
    }
    if (i < n) { /* what lies beyond the last key is not ours */
        top = lanes_max(lanes_select(lanes_first(n - i), lanes_load(scores + i), top), top);
    }
    return lanes_fold_max(top);
}

/* Scores [n] of a row to weights exp(s - max), those beyond n in the last tile to 0. */
static inline void row_softmax(attention_row *row, float *scores, size_t n, float max, float factor)
{
    lanes sum = lanes_mul(lanes_load(row->sums), lanes_set(factor));
    row->max = max;
    for (size_t i = 0; i < n; i += 16) {
        lanes e = lanes_exp(lanes_sub(lanes_load(scores + i), lanes_set(max)));
        if (n - i < 16) {
            e = lanes_select(lanes_first(n - i), e, lanes_set(0));
        }
        lanes_store(scores + i, e);
        sum = lanes_add(sum, e);
    }
    lanes_store(row->sums, sum);
}

/* Softmax of n_rows rows: one exponential makes the factors of all of them. */
static void rows_softmax(attention_row *rows, const attention_block *block, int n_rows,
                         attention_weights *weights)
{
    float before[16];
    lanes_store(before, lanes_set(0));
    lanes_store(weights->max, lanes_set(0));
    for (int r = 0; r < n_rows; r++) {
        before[r] = rows[r].max;
        weights->max[r] = scores_max(weights->scores[r], row_keys(&rows[r], block), rows[r].max);
    }
    lanes change = lanes_sub(lanes_load(before), lanes_load(weights->max));
    lanes_store(weights->factors, lanes_exp(change));
    for (int r = 0; r < n_rows; r++) {
        row_softmax(&rows[r], weights->scores[r], row_keys(&rows[r], block), weights->max[r],
                    weights->factors[r]);
    }
}

/* Where values are mixed: keys [begin, end) of the block, dimensions from d on,
 * `part` of 16 lanes where the head's end is ragged. */
typedef struct mix_place {
    size_t begin, end, d, part;
} mix_place;

/* Adds keys' values times weights [n_rows] to out[d .. d + 16 n_lanes) of n_rows rows. The mix of
 * the blocks before counts factors[r] times; NULL: as it is, these keys go on in a block. */
MX_TEMPLATE void mix_tile(const attention_row *rows, const attention_block *block,
                          const float (*weights)[MX_ATTENTION_BLOCK], const float *factors,
                          mix_place at, int n_rows, int n_lanes)
{
    lanes mixed[LANES_ROWS][LANES_DIMS];
    MX_UNROLL
    for (int r = 0; r < n_rows; r++) {
        MX_UNROLL
        for (int i = 0; i < n_lanes; i++) {
            mixed[r][i] = lanes_load_part(rows[r].out + at.d + i * 16, at.part);
            if (factors != NULL) {
                mixed[r][i] = lanes_mul(mixed[r][i], lanes_set(factors[r]));
            }
        }
    }
    for (size_t j = at.begin; j < at.end; j++) {
        const float *v = block->v + j * block->head_dim + at.d;
        lanes value[LANES_DIMS];
        MX_UNROLL
        for (int i = 0; i < n_lanes; i++) {
            value[i] = at.part < 16 ? lanes_load_part(v, at.part) : lanes_load(v + i * 16);
        }
        MX_UNROLL
        for (int r = 0; r < n_rows; r++) {
            lanes weight = lanes_set(weights[r][j]);
            MX_UNROLL
            for (int i = 0; i < n_lanes; i++) {
                mixed[r][i] = lanes_fma(weight, value[i], mixed[r][i]);
            }
        }
    }
    MX_UNROLL
    for (int r = 0; r < n_rows; r++) {
        MX_UNROLL
        for (int i = 0; i < n_lanes; i++) {
            lanes_store_part(rows[r].out + at.d + i * 16, mixed[r][i], at.part);
        }
    }
}

MX_TEMPLATE void mix_keys(const attention_row *rows, const attention_block *block,
                          const float (*weights)[MX_ATTENTION_BLOCK], const float *factors,
                          size_t begin, size_t end, int n_rows)
{
    mix_place at = {.begin = begin, .end = end, .part = 16};
    for (; at.d + 16 * LANES_DIMS <= block->head_dim; at.d += 16 * LANES_DIMS) {
        mix_tile(rows, block, weights, factors, at, n_rows, LANES_DIMS);
    }
    for (; LANES_DIMS > 1 && at.d + 16 <= block->head_dim; at.d += 16) {
        mix_tile(rows, block, weights, factors, at, n_rows, 1);
    }
    at.part = block->head_dim - at.d;
    if (at.part > 0) {
        mix_tile(rows, block, weights, factors, at, n_rows, 1);
    }
}

MX_TEMPLATE void block_rows(attention_row *rows, const attention_block *block, int n_rows)
{
    attention_weights weights;
    size_t common = row_keys(&rows[0], block); /* later rows see as much or more */
    scores_rows(rows, block, n_rows, &weights);
    rows_softmax(rows, block, n_rows, &weights);
    mix_keys(rows, block, weights.scores, weights.factors, 0, common, n_rows);
    for (int r = 1; r < n_rows; r++) { /* keys that not all rows see */
        if (row_keys(&rows[r], block) > common) {
            mix_keys(&rows[r], block, weights.scores + r, NULL, common, row_keys(&rows[r], block),
                     1);
        }
    }
}

/* Takes rows [n_rows] over one block. */
static void block_pass(attention_row *rows, size_t n_rows, const attention_block *block)
{
    size_t r = 0;
    while (r < n_rows && row_keys(&rows[r], block) == 0) {
        r++; /* tokens before the block */
    }
    for (; r + LANES_ROWS <= n_rows; r += LANES_ROWS) {
        block_rows(rows + r, block, LANES_ROWS);
    }
    switch (n_rows - r) {
    case 5:
        block_rows(rows + r, block, 5);
        break;
    case 4:
        block_rows(rows + r, block, 4);
        break;
    case 3:
        block_rows(rows + r, block, 3);
        break;
    case 2:
        block_rows(rows + r, block, 2);
        break;
    case 1:
        block_rows(rows + r, block, 1);
        break;
    default:
        break;
    }
}

static attention_row row_begin(const mx_attention *p, size_t row)
{
    size_t token = row / p->n_heads, at = token * p->stride + row % p->n_heads * p->head_dim;
    attention_row begun = {
        .q = p->q + at, .out = p->out + at, .n_keys = p->n_keys + token, .max = -FLT_MAX};
    memset(begun.out, 0, p->head_dim * sizeof(float));
    return begun;
}

/* Divides the mix by the sum of its weights. */
static void row_end(const attention_row *row, size_t head_dim)
{
    lanes sum = lanes_set(lanes_fold(lanes_load(row->sums)));
    for (size_t d = 0; d < head_dim; d += 16) {
        size_t part = head_dim - d < 16 ? head_dim - d : 16;
        lanes mean = lanes_div(lanes_load_part(row->out + d, part), sum);
        lanes_store_part(row->out + d, mean, part);
    }
}

/* bf16 x [n] to fp32. */
static inline void bf16_widen(const uint16_t *x, size_t n, float *out)
{
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        lanes_store(out + i, lanes_load_bf16(x + i));
    }
    if (i < n) {
        uint16_t rest[16] = {0};
        memcpy(rest, x + i, (n - i) * sizeof *x);
        lanes_store_part(out + i, lanes_load_bf16(rest), n - i);
    }
}

/* Points the block to its keys and values, of which there are n_keys in all. */
static void block_load(const mx_attention *p, size_t n_keys, attention_block *block)
{
    size_t dim = p->head_dim, first = block->begin * dim;
    if (p->kv_type == MX_KV_FP32) {
        block->k = (const float *)p->k + first;
        block->v = (const float *)p->v + first;
        return;
    }
    size_t n =
        n_keys - block->begin < MX_ATTENTION_BLOCK ? n_keys - block->begin : MX_ATTENTION_BLOCK;
    float *k = p->block, *v = p->block + MX_ATTENTION_BLOCK * dim;
    bf16_widen((const uint16_t *)p->k + first, (n + 15) / 16 * 16 * dim, k);
    bf16_widen((const uint16_t *)p->v + first, n * dim, v);
    block->k = k;
    block->v = v;
}

static void lanes_attention(const mx_attention *p)
{
    size_t n_rows = p->n_tokens * p->n_heads;
    for (size_t first = 0; first < n_rows; first += MAX_ROWS) {
        attention_row rows[MAX_ROWS];
        size_t n = n_rows - first < MAX_ROWS ? n_rows - first : MAX_ROWS;
        for (size_t r = 0; r < n; r++) {
            rows[r] = row_begin(p, first + r);
        }
        attention_block block = {.head_dim = p->head_dim, .scale = p->scale};
        size_t n_keys = p->n_keys + (first + n - 1) / p->n_heads; /* of the last row */
        for (; block.begin < n_keys; block.begin += MX_ATTENTION_BLOCK) {
            block_load(p, n_keys, &block);
            block_pass(rows, n, &block);
        }
        for (size_t r = 0; r < n; r++) {
            row_end(&rows[r], p->head_dim);
        }
    }
}

#endif
