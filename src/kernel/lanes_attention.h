/*
 * Attention over `lanes`. Rows of a tile share the loads of keys (lanes over 16
 * positions) and of values (lanes over the head's dimension). A block of keys and
 * values stays in the first-level cache while up to MAX_ROWS rows pass over it; the
 * mix rests in scratch between blocks. bf16 is widened a block at a time. Included
 * after lanes_ops.h.
 */
#ifndef MX_KERNEL_LANES_ATTENTION_H
#define MX_KERNEL_LANES_ATTENTION_H

#include "kernel/lanes_softmax.h"

enum { LANES_ROWS = 6 }; /* of a register tile */

/* ---- sums of products -------------------------------------------------------- */

/* Sums of one row of the left operand and 16 columns of the right one each. */
typedef struct register_tile {
    lanes at[LANES_ROWS][LANES_COLUMNS];
} register_tile;

/* The right operand: term t of columns 16 i to 16 i + 15, of which the last i may have
 * only `part`, at[t * term_stride + i * column_stride]. */
typedef struct right_operand {
    const float *at;
    size_t term_stride, column_stride, part;
} right_operand;

/* Terms begin, begin + step, ... < end of a sum. */
typedef struct term_range {
    size_t begin, end, step;
} term_range;

MX_TEMPLATE void tile_set_zero(int n_rows, int n_columns, register_tile *tile)
{
    MX_UNROLL
    for (int r = 0; r < n_rows; r++) {
        MX_UNROLL
        for (int i = 0; i < n_columns; i++) {
            tile->at[r][i] = lanes_set(0);
        }
    }
}

/* Goes on with the fma chains of a tile; left[r] points to row r's terms. */
MX_TEMPLATE void tile_chain(const float *const *left, right_operand right, term_range terms,
                            int n_rows, int n_columns, register_tile *tile)
{
    MX_UNROLL_TWICE
    for (size_t t = terms.begin; t < terms.end; t += terms.step) {
        lanes column[LANES_COLUMNS];
        MX_UNROLL
        for (int i = 0; i < n_columns; i++) {
            const float *at = right.at + t * right.term_stride + (size_t)i * right.column_stride;
            column[i] = right.part < 16 ? lanes_load_part(at, right.part) : lanes_load(at);
        }
        MX_UNROLL
        for (int r = 0; r < n_rows; r++) {
            lanes x = lanes_set(left[r][t]);
            MX_UNROLL
            for (int i = 0; i < n_columns; i++) {
                tile->at[r][i] = lanes_fma(x, column[i], tile->at[r][i]);
            }
        }
    }
}

/* sum += even + odd. */
MX_TEMPLATE void tile_add_pair(const register_tile *even, const register_tile *odd, int n_rows,
                               int n_columns, register_tile *sum)
{
    MX_UNROLL
    for (int r = 0; r < n_rows; r++) {
        MX_UNROLL
        for (int i = 0; i < n_columns; i++) {
            lanes pair = lanes_add(even->at[r][i], odd->at[r][i]);
            sum->at[r][i] = lanes_add(sum->at[r][i], pair);
        }
    }
}

/* Goes on with pair sums of n_terms terms: each chain of a group has the registers to
 * itself. */
MX_TEMPLATE void tile_pair_sum(const float *const *left, right_operand right, size_t n_terms,
                               int n_rows, int n_columns, register_tile *sum)
{
    for (size_t first = 0; first < n_terms; first += MX_PAIR_GROUP) {
        size_t end = n_terms - first < MX_PAIR_GROUP ? n_terms : first + MX_PAIR_GROUP;
        register_tile even, odd;
        tile_set_zero(n_rows, n_columns, &even);
        tile_chain(left, right, (term_range){first, end, 2}, n_rows, n_columns, &even);
        tile_set_zero(n_rows, n_columns, &odd);
        tile_chain(left, right, (term_range){first + 1, end, 2}, n_rows, n_columns, &odd);
        tile_add_pair(&even, &odd, n_rows, n_columns, sum);
    }
}

/* ---- a block of keys --------------------------------------------------------- */

typedef struct attention_block {
    const float *k; /* [MX_ATTENTION_BLOCK / 16][head_dim][16] */
    const float *v; /* [MX_ATTENTION_BLOCK][head_dim] */
    size_t head_dim;
    float scale;  /* of fp32 scores */
    size_t begin; /* position of the first key */
} attention_block;

/* What the rows of a tile make of a block. */
typedef struct attention_weights {
    float scores[LANES_ROWS][MX_ATTENTION_BLOCK]; /* then weights */
    float factors[16];                            /* of the rows; c of the contract */
} attention_weights;

/* Scores of n_rows rows and n_tiles tiles of keys from `tile` on. */
MX_TEMPLATE void scores_tile(const attention_row *rows, const attention_block *block, size_t tile,
                             int n_rows, int n_tiles, bool pairs, attention_weights *weights)
{
    size_t dim = block->head_dim;
    right_operand keys = {block->k + tile * dim * 16, 16, dim * 16, 16};
    const float *queries[LANES_ROWS];
    register_tile sum;
    MX_UNROLL
    for (int r = 0; r < n_rows; r++) {
        queries[r] = rows[r].q;
    }
    tile_set_zero(n_rows, n_tiles, &sum);
    if (pairs) {
        tile_pair_sum(queries, keys, dim, n_rows, n_tiles, &sum);
    } else {
        tile_chain(queries, keys, (term_range){0, dim, 1}, n_rows, n_tiles, &sum);
    }
    MX_UNROLL
    for (int r = 0; r < n_rows; r++) {
        MX_UNROLL
        for (int i = 0; i < n_tiles; i++) {
            lanes score = pairs ? sum.at[r][i] : lanes_mul(lanes_set(block->scale), sum.at[r][i]);
            lanes_store(weights->scores[r] + (tile + (size_t)i) * 16, score);
        }
    }
}

/* Scores of the keys that the last row sees, in whole tiles. */
MX_TEMPLATE void scores_rows(const attention_row *rows, const attention_block *block, int n_rows,
                             bool pairs, attention_weights *weights)
{
    size_t n_tiles = (row_keys(&rows[n_rows - 1], block->begin) + 15) / 16, tile = 0;
    for (; tile + LANES_COLUMNS <= n_tiles; tile += LANES_COLUMNS) {
        scores_tile(rows, block, tile, n_rows, LANES_COLUMNS, pairs, weights);
    }
    for (; tile < n_tiles; tile++) {
        scores_tile(rows, block, tile, n_rows, 1, pairs, weights);
    }
}

/* x rounded to bf16, in fp32; NaN stays. */
static inline lanes lanes_bf16_rounded(lanes x)
{
    return lanes_select(lanes_equal(x, x), lanes_round_bf16(x), x);
}

/* x as an operand of bf16 products, in fp32. */
static inline lanes lanes_bf16_operand(lanes x)
{
    lanes rounded = lanes_bf16_rounded(x);
    lanes size = lanes_and(rounded, lanes_set_bits(0x7FFFFFFF));
    lanes least = lanes_set_bits((uint32_t)MX_BF16_LEAST << 16);
    return lanes_select(lanes_less(size, least), lanes_set(0), rounded);
}

/* Scores of a row that sees n keys to weights. */
static inline void row_softmax(attention_row *row, float *scores, size_t n, float max, float factor)
{
    lanes sum = lanes_mul(lanes_load(row->sums), lanes_set(factor));
    for (size_t i = 0; i < n; i += 16) {
        lanes e = lanes_exp(lanes_sub(lanes_load(scores + i), lanes_set(max)));
        e = n - i < 16 ? lanes_select(lanes_first(n - i), e, lanes_set(0)) : e;
        lanes_store(scores + i, e);
        sum = lanes_add(sum, e);
    }
    lanes_store(row->sums, sum);
}

/* Softmax of n_rows rows: one power makes the factors of all of them. max [16]: m. */
static inline void rows_softmax(attention_row *rows, float *max, const attention_block *block,
                                int n_rows, attention_weights *weights)
{
    float top[16] = {0}, after[16];
    for (int r = 0; r < n_rows; r++) {
        top[r] = lanes_fold_max(scores_top(weights->scores[r], row_keys(&rows[r], block->begin)));
    }
    lanes before = lanes_load(max), larger = lanes_max(lanes_load(top), before);
    lanes_store(weights->factors, lanes_exp(lanes_sub(before, larger)));
    lanes_store(after, larger);
    memcpy(max, after, (size_t)n_rows * sizeof *max);
    for (int r = 0; r < n_rows; r++) {
        row_softmax(&rows[r], weights->scores[r], row_keys(&rows[r], block->begin), max[r],
                    weights->factors[r]);
    }
}

/* Scores of a row that sees n keys to weights for bf16 products; the keys up to n_all count
 * for other rows and get 0. */
static inline void row_softmax_pairs(attention_row *row, float *scores, size_t n, size_t n_all,
                                     float max)
{
    exp2_place place = exp2_place_make(max);
    lanes sum = lanes_load(row->sums);
    size_t i = 0;
    for (; i < n; i += 16) {
        lanes e = lanes_exp2_weight(lanes_load(scores + i), place);
        e = n - i < 16 ? lanes_select(lanes_first(n - i), e, lanes_set(0)) : e;
        lanes_store(scores + i, lanes_bf16_rounded(e)); /* not below the least operand */
        sum = lanes_add(sum, e);
    }
    for (; i < n_all; i += 16) {
        lanes_store(scores + i, lanes_set(0));
    }
    lanes_store(row->sums, sum);
}

static inline void rows_softmax_pairs(attention_row *rows, float *max, const attention_block *block,
                                      int n_rows, attention_weights *weights)
{
    size_t n_all = row_keys(&rows[n_rows - 1], block->begin);
    for (int r = 0; r < n_rows; r++) {
        size_t n = row_keys(&rows[r], block->begin);
        float top = lanes_fold_max(scores_top(weights->scores[r], n));
        row_reach(&rows[r], block->head_dim, top, &max[r]);
        row_softmax_pairs(&rows[r], weights->scores[r], n, n_all, max[r]);
    }
}

/* Where values are mixed: keys [begin, end) of the block, dimensions from d on,
 * `part` of 16 lanes where the head's end is ragged. */
typedef struct mix_place {
    size_t begin, end, d, part;
} mix_place;

/* Adds keys' values times weights [n_rows] to mix[d .. d + 16 n_columns) of n_rows rows.
 * The mix of the blocks before counts factors[r] times; NULL: as it is. In pairs: keys
 * from the block's first on. */
MX_TEMPLATE void mix_tile(const attention_row *rows, const attention_block *block,
                          const float (*weights)[MX_ATTENTION_BLOCK], const float *factors,
                          mix_place at, int n_rows, int n_columns, bool pairs)
{
    right_operand values = {block->v + at.d, block->head_dim, 16, at.part};
    const float *left[LANES_ROWS];
    register_tile mixed;
    MX_UNROLL
    for (int r = 0; r < n_rows; r++) {
        left[r] = weights[r];
    }
    MX_UNROLL
    for (int r = 0; r < n_rows; r++) {
        MX_UNROLL
        for (int i = 0; i < n_columns; i++) {
            lanes before = lanes_load_part(rows[r].mix + at.d + i * 16, at.part);
            mixed.at[r][i] = factors != NULL ? lanes_mul(before, lanes_set(factors[r])) : before;
        }
    }
    if (pairs) {
        tile_pair_sum(left, values, at.end, n_rows, n_columns, &mixed);
    } else {
        tile_chain(left, values, (term_range){at.begin, at.end, 1}, n_rows, n_columns, &mixed);
    }
    MX_UNROLL
    for (int r = 0; r < n_rows; r++) {
        MX_UNROLL
        for (int i = 0; i < n_columns; i++) {
            lanes_store_part(rows[r].mix + at.d + i * 16, mixed.at[r][i], at.part);
        }
    }
}

MX_TEMPLATE void mix_keys(const attention_row *rows, const attention_block *block,
                          const float (*weights)[MX_ATTENTION_BLOCK], const float *factors,
                          size_t begin, size_t end, int n_rows, bool pairs)
{
    mix_place at = {.begin = begin, .end = end, .part = 16};
    for (; at.d + 16 * LANES_COLUMNS <= block->head_dim; at.d += 16 * LANES_COLUMNS) {
        mix_tile(rows, block, weights, factors, at, n_rows, LANES_COLUMNS, pairs);
    }
    for (; LANES_COLUMNS > 1 && at.d + 16 <= block->head_dim; at.d += 16) {
        mix_tile(rows, block, weights, factors, at, n_rows, 1, pairs);
    }
    at.part = block->head_dim - at.d;
    if (at.part > 0) {
        mix_tile(rows, block, weights, factors, at, n_rows, 1, pairs);
    }
}

MX_TEMPLATE void block_rows(attention_row *rows, float *max, const attention_block *block,
                            int n_rows, bool pairs)
{
    attention_weights weights;
    scores_rows(rows, block, n_rows, pairs, &weights);
    if (pairs) {
        rows_softmax_pairs(rows, max, block, n_rows, &weights);
        mix_keys(rows, block, weights.scores, NULL, 0, row_keys(&rows[n_rows - 1], block->begin),
                 n_rows, true);
        return;
    }
    rows_softmax(rows, max, block, n_rows, &weights);
    /* Later rows see as much or more. Chains stop at the last key that a row sees: -0 plus
     * what a weight of 0 adds would be +0. */
    size_t common = row_keys(&rows[0], block->begin);
    mix_keys(rows, block, weights.scores, weights.factors, 0, common, n_rows, false);
    for (int r = 1; r < n_rows; r++) {
        size_t end = row_keys(&rows[r], block->begin);
        if (end > common) {
            mix_keys(&rows[r], block, weights.scores + r, NULL, common, end, 1, false);
        }
    }
}

/* Takes rows [n_rows] over one block. max [n_rows + 16]: m of the rows. */
MX_TEMPLATE void block_pass(attention_row *rows, float *max, size_t n_rows,
                            const attention_block *block, bool pairs)
{
    size_t r = 0;
    while (r < n_rows && row_keys(&rows[r], block->begin) == 0) {
        r++; /* tokens before the block */
    }
    for (; r + LANES_ROWS <= n_rows; r += LANES_ROWS) {
        block_rows(rows + r, max + r, block, LANES_ROWS, pairs);
    }
    switch (n_rows - r) {
    case 5:
        block_rows(rows + r, max + r, block, 5, pairs);
        break;
    case 4:
        block_rows(rows + r, max + r, block, 4, pairs);
        break;
    case 3:
        block_rows(rows + r, max + r, block, 3, pairs);
        break;
    case 2:
        block_rows(rows + r, max + r, block, 2, pairs);
        break;
    case 1:
        block_rows(rows + r, max + r, block, 1, pairs);
        break;
    default:
        break;
    }
}

/* ---- storage ----------------------------------------------------------------- */

/* Pairs [n_pairs][width][2] of bf16 to rows [2 n_pairs][width] of fp32. */
static void pairs_widen(const uint16_t *pairs, size_t n_pairs, size_t width, float *out)
{
    const float *words = (const float *)(const void *)pairs;
    for (size_t p = 0; p < n_pairs; p++) {
        for (size_t i = 0; i < width; i += 16) {
            size_t part = width - i < 16 ? width - i : 16;
            lanes pair = lanes_load_part(words + p * width + i, part);
            lanes_store_part(out + 2 * p * width + i, lanes_bf16_low(pair), part);
            lanes_store_part(out + (2 * p + 1) * width + i, lanes_bf16_high(pair), part);
        }
    }
}

/* Parts of the scratch, in rows of head_dim. */
enum {
    SCRATCH_QUERIES = 0,
    SCRATCH_MIXES = SCRATCH_QUERIES + MAX_ROWS,
    SCRATCH_KEYS = SCRATCH_MIXES + MAX_ROWS,
    SCRATCH_VALUES = SCRATCH_KEYS + MX_ATTENTION_BLOCK,
};

static float *scratch_row(const mx_attention *p, size_t row)
{
    return p->scratch + row * p->head_dim;
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
    float *k = scratch_row(p, SCRATCH_KEYS), *v = scratch_row(p, SCRATCH_VALUES);
    pairs_widen((const uint16_t *)p->k + first, (n + 15) / 16 * dim / 2, 16, k);
    pairs_widen((const uint16_t *)p->v + first, (n + 1) / 2, dim, v);
    block->k = k;
    block->v = v;
}

/* q [head_dim] as the left operand of scores. */
static void query_load(const mx_attention *p, const float *q, float *out)
{
    bool pairs = p->kv_type == MX_KV_BF16;
    lanes scale = lanes_set(p->scale * MX_EXP_LOG2E);
    for (size_t d = 0; d < p->head_dim; d += 16) {
        size_t part = p->head_dim - d < 16 ? p->head_dim - d : 16;
        lanes x = lanes_load_part(q + d, part);
        lanes_store_part(out + d, pairs ? lanes_bf16_operand(lanes_mul(x, scale)) : x, part);
    }
}

static void attention_rows(const mx_attention *p, size_t first, size_t n)
{
    attention_row rows[MAX_ROWS];
    float max[MAX_ROWS + 16];
    for (size_t r = 0; r < MX_COUNT(max); r++) {
        max[r] = -FLT_MAX;
    }
    for (size_t r = 0; r < n; r++) {
        float *query = scratch_row(p, SCRATCH_QUERIES + r);
        rows[r] = row_begin(p, first + r, scratch_row(p, SCRATCH_MIXES + r));
        query_load(p, rows[r].q, query);
        rows[r].q = query;
    }
    attention_block block = {.head_dim = p->head_dim, .scale = p->scale};
    for (; block.begin < rows[n - 1].n_keys; block.begin += MX_ATTENTION_BLOCK) {
        block_load(p, rows[n - 1].n_keys, &block);
        if (p->kv_type == MX_KV_BF16) {
            block_pass(rows, max, n, &block, true);
        } else {
            block_pass(rows, max, n, &block, false);
        }
    }
    for (size_t r = 0; r < n; r++) {
        row_end(&rows[r], p->head_dim);
    }
}

static void lanes_attention(const mx_attention *p)
{
    size_t n_rows = p->n_tokens * p->n_heads;
    if (p->kv_type == MX_KV_BF16 && !late_values_finite(p)) {
        for (size_t t = 0; t < p->n_tokens; t++) {
            mx_attention lone = token_alone(p, t);
            lanes_attention(&lone);
        }
        return;
    }
    for (size_t first = 0; first < n_rows; first += MAX_ROWS) {
        attention_rows(p, first, n_rows - first < MAX_ROWS ? n_rows - first : MAX_ROWS);
    }
}

#endif
