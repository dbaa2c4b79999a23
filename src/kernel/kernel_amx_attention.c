/*
 * Attention with AMX bf16 tiles: the pair sums of MX_KV_BF16 (kernel.h), 16 rows at a
 * time. A tdpbf16ps adds one group of 32 terms: the even ones in a chain of fused
 * multiply-adds from +0, the odd ones in another, the sum of both to the accumulator
 * (Intel SDM vol. 2, TDPBF16PS). Keys and values are stored as the unit reads them, so
 * they go from the store to the tiles. Where it takes subnormals for 0, there are none.
 *
 * A block of keys passes three steps: tiles make scores, vector instructions make
 * weights of them, tiles mix the values. fp32 keys and values take the AVX-512 kernel.
 */
#include "kernel/kernel_avx512.h"

#include "kernel/amx_tiles.h"
#include "kernel/lanes_avx512.h"
#include "kernel/lanes_softmax.h"

#include <immintrin.h>
#include <string.h>

enum {
    TILE = 16,             /* rows, and columns, of a tile */
    ROW_BYTES = 64,        /* of a tile: 16 fp32, or 32 bf16 */
    COLUMN_TILES = 4,      /* accumulators at once */
    GROUP = MX_PAIR_GROUP, /* terms of one product */
};

/* ---- products of tiles --------------------------------------------------------- */

/* Accumulators 0 to 3, the left operand in 4, right ones in 5 to 7. */
static void tiles_zero(void)
{
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
}

/* Adds a group of terms: rows of bf16 [32], left_step bytes apart, times n_tiles (at most
 * COLUMN_TILES) right operands [16 pairs][16 columns][2], tile_step bytes apart, their
 * pairs pair_step. */
static inline void tiles_add(const uint8_t *left, size_t left_step, const uint8_t *right,
                             size_t pair_step, size_t tile_step, size_t n_tiles)
{
    _tile_loadd(4, left, left_step);
    _tile_loadd(5, right, pair_step);
    _tile_dpbf16ps(0, 4, 5);
    if (n_tiles > 1) {
        _tile_loadd(6, right + tile_step, pair_step);
        _tile_dpbf16ps(1, 4, 6);
    }
    if (n_tiles > 2) {
        _tile_loadd(7, right + 2 * tile_step, pair_step);
        _tile_dpbf16ps(2, 4, 7);
    }
    if (n_tiles > 3) {
        _tile_loadd(5, right + 3 * tile_step, pair_step);
        _tile_dpbf16ps(3, 4, 5);
    }
}

/* sums [16][.], rows sums_step bytes apart. */
static inline void tiles_store(float *sums, size_t sums_step, size_t n_tiles)
{
    _tile_stored(0, sums, sums_step);
    if (n_tiles > 1) {
        _tile_stored(1, sums + TILE, sums_step);
    }
    if (n_tiles > 2) {
        _tile_stored(2, sums + 2 * TILE, sums_step);
    }
    if (n_tiles > 3) {
        _tile_stored(3, sums + 3 * TILE, sums_step);
    }
}

/* ---- a block of keys ------------------------------------------------------------- */

/* Keys [begin, begin + n_keys), a block. Its values: whole groups where they are stored,
 * the rest in scratch, filled up with 0. */
typedef struct key_block {
    size_t begin, n_keys;
    const uint8_t *values, *rest;
} key_block;

/* Rows of a tile and what they make of a block. */
typedef struct tile_rows {
    attention_row *rows; /* [n] */
    float *max;          /* [16]: m of the contract; beyond row n anything */
    size_t n;
    const uint8_t *queries; /* bf16 [16][head_dim]; beyond row n anything */
    float scores[TILE][MX_ATTENTION_BLOCK] __attribute__((aligned(64)));
    uint16_t weights[TILE][MX_ATTENTION_BLOCK] __attribute__((aligned(64)));
    float factors[TILE] __attribute__((aligned(64)));
} tile_rows;

_Static_assert(COLUMN_TILES *TILE == MX_ATTENTION_BLOCK, "scores are one set of accumulators");

static size_t count_of(size_t n, size_t each)
{
    return (n + each - 1) / each;
}

/* scores = queries times keys. */
static void block_scores(const mx_attention *p, const key_block *block, tile_rows *tile)
{
    size_t dim = p->head_dim, n_tiles = count_of(block->n_keys, TILE);
    const uint8_t *keys = (const uint8_t *)p->k + block->begin * dim * sizeof(uint16_t);
    tiles_zero();
    for (size_t d = 0; d < dim; d += GROUP) {
        tiles_add(tile->queries + d * sizeof(uint16_t), dim * sizeof(uint16_t),
                  keys + d / 2 * ROW_BYTES, ROW_BYTES, dim / 2 * ROW_BYTES, n_tiles);
    }
    tiles_store(tile->scores[0], sizeof tile->scores[0], n_tiles);
}

/* ---- weights ------------------------------------------------------------------------ */

/* Two times 16 weights as bf16 operands. */
static inline __m512i weights_pack(lanes low, lanes high)
{
    __m512i packed = (__m512i)_mm512_cvtne2ps_pbh(high, low);
    /* None is negative. NaN lies above all. */
    __mmask32 keep = _mm512_cmpge_epu16_mask(packed, _mm512_set1_epi16(MX_BF16_LEAST));
    return _mm512_maskz_mov_epi16(keep, packed);
}

/* Weights of a row's scores [n], n_all of them with zeros. `sum` is z of the contract. */
MX_TEMPLATE lanes row_weights(const float *scores, size_t n, size_t n_all, float max, lanes sum,
                              uint16_t *weights)
{
    for (size_t i = 0; i < n_all; i += GROUP) {
        lanes low = lanes_set(0), high = lanes_set(0);
        if (i < n) {
            low = scores_weights(scores + i, max, true);
            low = n - i < TILE ? lanes_select(lanes_first(n - i), low, lanes_set(0)) : low;
            sum = lanes_add(sum, low);
        }
        if (i + TILE < n) {
            size_t rest = n - i - TILE;
            high = scores_weights(scores + i + TILE, max, true);
            high = rest < TILE ? lanes_select(lanes_first(rest), high, lanes_set(0)) : high;
            sum = lanes_add(sum, high);
        }
        _mm512_store_si512(weights + i, weights_pack(low, high));
    }
    return sum;
}

/* Lane r: the largest of rows[r]'s lanes, none NaN. Each step halves what is left of two
 * rows and puts them into one vector. */
static lanes rows_fold_max(const lanes rows[TILE])
{
    lanes pairs[8], fours[4], eights[2];
    for (int i = 0; i < 8; i++) {
        pairs[i] = lanes_max(_mm512_unpacklo_ps(rows[2 * i], rows[2 * i + 1]),
                             _mm512_unpackhi_ps(rows[2 * i], rows[2 * i + 1]));
    }
    for (int i = 0; i < 4; i++) {
        __m512d x = _mm512_castps_pd(pairs[2 * i]), y = _mm512_castps_pd(pairs[2 * i + 1]);
        fours[i] = lanes_max(_mm512_castpd_ps(_mm512_unpacklo_pd(x, y)),
                             _mm512_castpd_ps(_mm512_unpackhi_pd(x, y)));
    }
    for (int i = 0; i < 2; i++) { /* a row's 128-bit parts 0, 1 with 2, 3 */
        lanes x = fours[2 * i], y = fours[2 * i + 1];
        eights[i] = lanes_max(_mm512_shuffle_f32x4(x, y, 0x44), _mm512_shuffle_f32x4(x, y, 0xEE));
    }
    return lanes_max(_mm512_shuffle_f32x4(eights[0], eights[1], 0x88),
                     _mm512_shuffle_f32x4(eights[0], eights[1], 0xDD));
}

static void block_weights(const key_block *block, tile_rows *tile)
{
    size_t begin = block->begin, n_all = block->n_keys;
    lanes tops[TILE];
    for (size_t r = 0; r < TILE; r++) {
        tops[r] = scores_top(tile->scores[r], r < tile->n ? row_keys(&tile->rows[r], begin) : 0);
    }
    lanes_store(tile->factors, rows_rescale(tile->max, rows_fold_max(tops), true));
    for (size_t r = 0; r < tile->n; r++) {
        attention_row *row = &tile->rows[r];
        size_t n = row_keys(row, begin);
        lanes sum = lanes_mul(lanes_load(row->sums), lanes_set(tile->factors[r]));
        sum = n == MX_ATTENTION_BLOCK
                  ? row_weights(tile->scores[r], MX_ATTENTION_BLOCK, MX_ATTENTION_BLOCK,
                                tile->max[r], sum, tile->weights[r])
                  : row_weights(tile->scores[r], n, n_all, tile->max[r], sum, tile->weights[r]);
        lanes_store(row->sums, sum);
    }
}

/* The rows' mix * factor + weights times values, which `mix` [16][head_dim] takes first. */
static void block_mix(const mx_attention *p, const key_block *block, tile_rows *tile, float *mix)
{
    size_t dim = p->head_dim, pair_step = dim * 2 * sizeof(uint16_t);
    size_t n_whole = block->n_keys / GROUP, n_groups = count_of(block->n_keys, GROUP);
    for (size_t d = 0; d < dim; d += COLUMN_TILES * TILE) {
        size_t rest = (dim - d) / TILE, n_tiles = rest < COLUMN_TILES ? rest : COLUMN_TILES;
        tiles_zero();
        for (size_t g = 0; g < n_groups; g++) {
            const uint8_t *values =
                g < n_whole ? block->values + g * GROUP / 2 * pair_step : block->rest;
            tiles_add((const uint8_t *)(tile->weights[0] + g * GROUP), sizeof tile->weights[0],
                      values + d * 2 * sizeof(uint16_t), pair_step, ROW_BYTES, n_tiles);
        }
        tiles_store(mix + d, dim * sizeof *mix, n_tiles);
    }
    for (size_t r = 0; r < tile->n; r++, mix += dim) {
        float *sum = tile->rows[r].mix;
        lanes factor = lanes_set(tile->factors[r]);
        for (size_t d = 0; d < dim; d += TILE) {
            lanes_store(sum + d, lanes_fma(lanes_load(sum + d), factor, lanes_load(mix + d)));
        }
    }
}

/* ---- passes over the keys -------------------------------------------------------- */

/* A block from `begin` on, of n_keys keys in all; `rest` bf16 [GROUP / 2][head_dim][2]. */
static key_block block_make(const mx_attention *p, size_t begin, size_t n_keys, uint16_t *rest)
{
    size_t left = n_keys - begin, dim = p->head_dim;
    key_block block = {
        .begin = begin,
        .n_keys = left < MX_ATTENTION_BLOCK ? left : MX_ATTENTION_BLOCK,
        .values = (const uint8_t *)((const uint16_t *)p->v + begin * dim),
        .rest = (const uint8_t *)rest,
    };
    size_t n_rest = block.n_keys % GROUP;
    if (n_rest > 0) {
        const uint16_t *values = (const uint16_t *)p->v + (n_keys - n_rest) * dim;
        memset(rest, 0, GROUP * dim * sizeof *rest);
        memcpy(rest, values, (n_rest + 1) / 2 * 2 * dim * sizeof *rest);
        for (size_t d = 0; n_rest % 2 != 0 && d < dim; d++) {
            rest[(n_rest / 2 * dim + d) * 2 + 1] = 0; /* no key has been there yet */
        }
    }
    return block;
}

/* queries [n_rows][head_dim]: left operands of bf16 products. */
static void queries_pack(const mx_attention *p, const attention_row *rows, size_t n_rows,
                         uint16_t *queries)
{
    const __m512i size = _mm512_set1_epi16(0x7FFF), least = _mm512_set1_epi16(MX_BF16_LEAST);
    lanes scale = lanes_set(p->scale * MX_EXP_LOG2E);
    for (size_t r = 0; r < n_rows; r++) {
        for (size_t d = 0; d < p->head_dim; d += GROUP, queries += GROUP) {
            lanes low = lanes_mul(lanes_load(rows[r].q + d), scale);
            lanes high = lanes_mul(lanes_load(rows[r].q + d + TILE), scale);
            __m512i packed = (__m512i)_mm512_cvtne2ps_pbh(high, low);
            __mmask32 keep = _mm512_cmpge_epu16_mask(_mm512_and_si512(packed, size), least);
            _mm512_storeu_si512(queries, _mm512_maskz_mov_epi16(keep, packed));
        }
    }
}

/* What a pass needs of the call's scratch. */
typedef struct pass_scratch {
    float *mixes;      /* [MAX_ROWS][head_dim] */
    float *mix;        /* [TILE][head_dim] */
    uint16_t *queries; /* [MAX_ROWS + TILE][head_dim] */
    uint16_t *rest;    /* [GROUP / 2][head_dim][2] */
} pass_scratch;

static pass_scratch pass_scratch_make(const mx_attention *p)
{
    pass_scratch scratch = {.mixes = p->scratch};
    scratch.mix = scratch.mixes + MAX_ROWS * p->head_dim;
    scratch.queries = (uint16_t *)(void *)(scratch.mix + TILE * p->head_dim);
    scratch.rest = scratch.queries + (MAX_ROWS + TILE) * p->head_dim;
    return scratch;
}

_Static_assert(MX_ATTENTION_SCRATCH_ROWS >= MAX_ROWS + TILE + (MAX_ROWS + TILE) / 2 + GROUP / 2,
               "pass_scratch is within the call's scratch");

/* Takes rows over the keys that the last of them sees. */
static void rows_pass(const mx_attention *p, const pass_scratch *scratch, attention_row *rows,
                      size_t n_rows)
{
    size_t n_keys = rows[n_rows - 1].n_keys;
    float max[MAX_ROWS + TILE];
    tile_rows tile;
    for (size_t r = 0; r < MX_COUNT(max); r++) {
        max[r] = -FLT_MAX;
    }
    queries_pack(p, rows, n_rows, scratch->queries);
    for (size_t begin = 0; begin < n_keys; begin += MX_ATTENTION_BLOCK) {
        key_block block = block_make(p, begin, n_keys, scratch->rest);
        size_t r = 0;
        while (row_keys(&rows[r], begin) == 0) {
            r++; /* of tokens before the block */
        }
        for (; r < n_rows; r += TILE) {
            tile.rows = rows + r;
            tile.max = max + r;
            tile.n = n_rows - r < TILE ? n_rows - r : TILE;
            tile.queries = (const uint8_t *)(scratch->queries + r * p->head_dim);
            block_scores(p, &block, &tile);
            block_weights(&block, &tile);
            block_mix(p, &block, &tile, scratch->mix);
        }
    }
}

static void tiles_attention(const mx_attention *p)
{
    pass_scratch scratch = pass_scratch_make(p);
    size_t n_rows = p->n_tokens * p->n_heads;
    attention_row rows[MAX_ROWS];
    amx_tiles_configure();
    for (size_t first = 0; first < n_rows; first += MAX_ROWS) {
        size_t n = n_rows - first < MAX_ROWS ? n_rows - first : MAX_ROWS;
        for (size_t r = 0; r < n; r++) {
            rows[r] = row_begin(p, first + r, scratch.mixes + r * p->head_dim);
        }
        rows_pass(p, &scratch, rows, n);
        for (size_t r = 0; r < n; r++) {
            row_end(&rows[r], p->head_dim);
        }
    }
    _tile_release();
}

void mx_amx_attention(const mx_attention *p)
{
    if (p->kv_type == MX_KV_BF16 && p->head_dim % GROUP == 0 && late_values_finite(p)) {
        tiles_attention(p);
    } else {
        mx_avx512_attention(p);
    }
}
