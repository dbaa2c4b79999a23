/*
 * Attention with AMX bf16 tiles: the pair sums of MX_KV_BF16 (kernel.h), 16 rows at a
 * time. A tdpbf16ps adds one group of 32 terms: the even ones in a chain of fused
 * multiply-adds from +0, the odd ones in another, the sum of both to the accumulator
 * (Intel SDM vol. 2, TDPBF16PS). Keys and values are stored as the unit reads them, so
 * they go from the store to the tiles. Where it takes subnormals for 0, there are none.
 *
 * A block of keys passes three steps: tiles make scores, vector instructions make
 * weights of them, tiles mix the values. Whole blocks and tiles of rows go in turn, so
 * that both units have work at once: between the instructions that make weights of one
 * tile of rows stand those that make the scores of the next and the mix of the last.
 * fp32 keys and values take the AVX-512 kernel.
 */
#include "kernel/kernel_avx512.h"

#include "kernel/amx_tiles.h"
#include "kernel/lanes_avx512.h"
#include "kernel/lanes_softmax.h"

#include <immintrin.h>
#include <string.h>

enum {
    TILE = 16,      /* rows, and columns, of a tile */
    ROW_BYTES = 64, /* of a tile: 16 fp32, or 32 bf16 */
    COLUMNS = 4,    /* accumulators: tiles of keys or of the head's dimension */
    /* Rows that share a pass over the keys: what they need fits the first-level cache
     * beside a block (64 rows: 0.92 times as fast). */
    PASS_ROWS = 32,
    FULL_ROWS = PASS_ROWS + TILE, /* with those that fill up the last tile */
    GROUP = MX_PAIR_GROUP,        /* terms of one product */
};

/* ---- products of tiles --------------------------------------------------------- */

/* Accumulators 0 to 3, the left operand in 4, right ones in 5 to 7. A register's number is
 * part of an instruction, hence the cases; where the column is a literal, one is left. */

MX_TEMPLATE void tile_zero(int column)
{
    switch (column) {
    case 0:
        _tile_zero(0);
        break;
    case 1:
        _tile_zero(1);
        break;
    case 2:
        _tile_zero(2);
        break;
    default:
        _tile_zero(3);
        break;
    }
}

/* The accumulator from or to fp32 [16][.], rows `step` bytes apart. */
MX_TEMPLATE void tile_load(int column, const float *sums, size_t step)
{
    __asm__ volatile("" : : : "memory"); /* as in tile_left */
    switch (column) {
    case 0:
        _tile_loadd(0, sums, step);
        break;
    case 1:
        _tile_loadd(1, sums, step);
        break;
    case 2:
        _tile_loadd(2, sums, step);
        break;
    default:
        _tile_loadd(3, sums, step);
        break;
    }
}

MX_TEMPLATE void tile_store(int column, float *sums, size_t step)
{
    switch (column) {
    case 0:
        _tile_stored(0, sums, step);
        break;
    case 1:
        _tile_stored(1, sums, step);
        break;
    case 2:
        _tile_stored(2, sums, step);
        break;
    default:
        _tile_stored(3, sums, step);
        break;
    }
}

/* The left operand: rows of bf16 [32], `step` bytes apart. */
MX_TEMPLATE void tile_left(const uint8_t *rows, size_t step)
{
    /* GCC 12 does not know that the instruction reads memory. */
    __asm__ volatile("" : : : "memory");
    _tile_loadd(4, rows, step);
}

/* Adds a group of terms: the left operand times a right one [16 pairs][16 columns][2],
 * its pairs pair_step bytes apart. */
MX_TEMPLATE void tile_add(int column, const uint8_t *right, size_t pair_step)
{
    switch (column) {
    case 0:
        _tile_loadd(5, right, pair_step);
        _tile_dpbf16ps(0, 4, 5);
        break;
    case 1:
        _tile_loadd(6, right, pair_step);
        _tile_dpbf16ps(1, 4, 6);
        break;
    case 2:
        _tile_loadd(7, right, pair_step);
        _tile_dpbf16ps(2, 4, 7);
        break;
    default:
        _tile_loadd(5, right, pair_step);
        _tile_dpbf16ps(3, 4, 5);
        break;
    }
}

/* ---- steps of a block ------------------------------------------------------------ */

/* A block of n_keys keys, as they are stored. Its values: whole groups where they are stored,
 * the rest in scratch, filled up with 0. */
typedef struct key_block {
    size_t n_keys;
    const uint8_t *keys, *values, *rest;
} key_block;

/* m of the contract of a pass's rows, and what row_weights needs of it: exp2_place's lowest,
 * and its shift to exponents counted from MX_EXP2_LOWEST; NaN where m is not near. */
typedef struct row_reaches {
    float max[FULL_ROWS], lowest[FULL_ROWS], near_shift[FULL_ROWS];
} row_reaches;

/* What a tile of rows makes of a block. */
typedef struct tile_scratch {
    float scores[TILE][MX_ATTENTION_BLOCK] __attribute__((aligned(64)));
    uint16_t weights[TILE][MX_ATTENTION_BLOCK] __attribute__((aligned(64)));
} tile_scratch;

/* A tile of rows at a block. */
typedef struct tile_rows {
    attention_row *rows; /* [n] */
    size_t n;
    row_reaches *reaches;
    size_t first;           /* of the rows, in them */
    const uint8_t *queries; /* bf16 [16][head_dim]; beyond row n anything */
    float *mix;             /* [16][head_dim]: the rows' own */
    key_block block;
    tile_scratch *scratch;
} tile_rows;

_Static_assert(COLUMNS *TILE == MX_ATTENTION_BLOCK, "scores are one set of accumulators");

static size_t count_of(size_t n, size_t each)
{
    return (n + each - 1) / each;
}

/* Scores of a column of keys: one group of the head's dimension. */
MX_TEMPLATE void scores_add(const tile_rows *tile, size_t dim, size_t group, int column)
{
    size_t keys = (size_t)column * TILE * dim * sizeof(uint16_t);
    tile_add(column, tile->block.keys + keys + group * GROUP / 2 * ROW_BYTES, ROW_BYTES);
}

MX_TEMPLATE void scores_left(const tile_rows *tile, size_t dim, size_t group)
{
    tile_left(tile->queries + group * GROUP * sizeof(uint16_t), dim * sizeof(uint16_t));
}

MX_TEMPLATE void scores_end(const tile_rows *tile, int column)
{
    tile_store(column, tile->scratch->scores[0] + column * TILE, sizeof tile->scratch->scores[0]);
}

/* The mix of dimensions d + 16 column on: it goes on from that of the blocks before. */
MX_TEMPLATE void mix_begin(const tile_rows *tile, size_t dim, size_t d, int column)
{
    tile_load(column, tile->mix + d + column * TILE, dim * sizeof *tile->mix);
}

MX_TEMPLATE void mix_left(const tile_rows *tile, size_t group)
{
    tile_left((const uint8_t *)(tile->scratch->weights[0] + group * GROUP),
              sizeof tile->scratch->weights[0]);
}

MX_TEMPLATE void mix_add(const uint8_t *values, size_t dim, size_t d, int column)
{
    tile_add(column, values + d * 2 * sizeof(uint16_t) + column * ROW_BYTES,
             dim * 2 * sizeof(uint16_t));
}

MX_TEMPLATE void mix_end(const tile_rows *tile, size_t dim, size_t d, int column)
{
    tile_store(column, tile->mix + d + column * TILE, dim * sizeof *tile->mix);
}

/* Values of a group of the block's keys. */
MX_TEMPLATE const uint8_t *group_values(const key_block *block, size_t dim, size_t group)
{
    bool whole = (group + 1) * GROUP <= block->n_keys;
    return whole ? block->values + group * GROUP * dim * sizeof(uint16_t) : block->rest;
}

/* ---- weights ------------------------------------------------------------------------ */

/* What a row of the tile has made of its scores. They are not below the least operand. */
MX_TEMPLATE void row_weights_store(const tile_rows *tile, size_t r, const lanes weights[COLUMNS])
{
    uint16_t *out = tile->scratch->weights[r];
    lanes sum = lanes_load(tile->rows[r].sums);
    MX_UNROLL
    for (int i = 0; i < COLUMNS; i++) {
        sum = lanes_add(sum, weights[i]);
    }
    lanes_store(tile->rows[r].sums, sum);
    MX_UNROLL
    for (int i = 0; i < COLUMNS; i += 2) {
        __m512i packed = (__m512i)_mm512_cvtne2ps_pbh(weights[i + 1], weights[i]);
        _mm512_store_si512(out + i * TILE, packed);
    }
}

/* Weights of row r, which sees n keys of the block; the others are zeros. */
static __attribute__((noinline)) void row_weights_any(const tile_rows *tile, size_t dim, size_t r,
                                                      size_t n)
{
    const float *scores = tile->scratch->scores[r];
    row_reaches *reaches = tile->reaches;
    size_t at = tile->first + r;
    row_reach(&tile->rows[r], dim, lanes_fold_max(scores_top(scores, n)), &reaches->max[at]);
    exp2_place place = exp2_place_make(reaches->max[at]);
    reaches->lowest[at] = place.lowest;
    reaches->near_shift[at] = place.origin == 0 ? place.shift - MX_EXP2_LOWEST : NAN;
    lanes weights[COLUMNS];
    for (size_t i = 0; i < COLUMNS; i++) {
        size_t before = i * TILE, rest = n > before ? n - before : 0;
        lanes all = lanes_exp2_weight(lanes_load(scores + before), place);
        weights[i] = rest < TILE ? lanes_select(lanes_first(rest), all, lanes_set(0)) : all;
    }
    row_weights_store(tile, r, weights);
}

/*
 * The same of a row that sees the whole block. Where m rests and is near, which it nearly
 * always does and is, the exponents are the 7 lowest bits of `shifted`, counted from
 * MX_EXP2_LOWEST, for which the polynomial makes up; whatever is greater, NaN too, shows in
 * the other bits.
 */
MX_TEMPLATE void row_weights(const tile_rows *tile, size_t dim, size_t r)
{
    const float *scores = tile->scratch->scores[r];
    lanes lowest = lanes_set(tile->reaches->lowest[tile->first + r]);
    lanes shift = lanes_set(tile->reaches->near_shift[tile->first + r]);
    lanes x[COLUMNS], shifted[COLUMNS], weights[COLUMNS];
    MX_UNROLL
    for (int i = 0; i < COLUMNS; i++) {
        x[i] = lanes_max(lowest, lanes_load(scores + i * TILE));
        shifted[i] = lanes_add(x[i], shift);
    }
    lanes all = lanes_or(lanes_or(shifted[0], shifted[1]), lanes_or(shifted[2], shifted[3]));
    __m512i other_bits = _mm512_set1_epi32(~(MX_EXP_ROUNDER_BITS | 0x7F));
    if (__builtin_expect(_mm512_test_epi32_mask(_mm512_castps_si512(all), other_bits) != 0, 0)) {
        row_weights_any(tile, dim, r, MX_ATTENTION_BLOCK);
        return;
    }
    const float least = MX_EXP2_LEAST;
    MX_UNROLL
    for (int i = 0; i < COLUMNS; i++) {
        lanes rest = lanes_sub(x[i], lanes_sub(shifted[i], shift));
        lanes p = lanes_fma(lanes_set(MX_EXP2_C3 * least), rest, lanes_set(MX_EXP2_C2 * least));
        p = lanes_fma(p, rest, lanes_set(MX_EXP2_C1 * least));
        p = lanes_fma(p, rest, lanes_set(least));
        __m512i power = _mm512_slli_epi32(_mm512_castps_si512(shifted[i]), 23);
        weights[i] = _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(p), power));
    }
    row_weights_store(tile, r, weights);
}

/* ---- steps by themselves ------------------------------------------------------------ */

/* Scores of whole tiles of keys, as they are stored, and zeros. Columns have literal numbers
 * here and below. */
static void tile_scores(const tile_rows *tile, size_t dim)
{
    int n_columns = (int)count_of(tile->block.n_keys, TILE);
    MX_UNROLL
    for (int column = 0; column < COLUMNS; column++) {
        tile_zero(column);
    }
    for (size_t g = 0; g < dim / GROUP; g++) {
        scores_left(tile, dim, g);
        MX_UNROLL
        for (int column = 0; column < COLUMNS; column++) {
            if (column < n_columns) {
                scores_add(tile, dim, g, column);
            }
        }
    }
    MX_UNROLL
    for (int column = 0; column < COLUMNS; column++) {
        scores_end(tile, column);
    }
}

static void tile_weights(const tile_rows *tile, size_t dim, size_t begin)
{
    for (size_t r = 0; r < tile->n; r++) {
        size_t n = row_keys(&tile->rows[r], begin);
        if (n == MX_ATTENTION_BLOCK) {
            row_weights(tile, dim, r);
        } else {
            row_weights_any(tile, dim, r, n);
        }
    }
}

static void tile_mix(const tile_rows *tile, size_t dim)
{
    size_t n_groups = count_of(tile->block.n_keys, GROUP);
    for (size_t d = 0; d < dim; d += COLUMNS * TILE) {
        size_t rest = (dim - d) / TILE;
        int n_columns = rest < COLUMNS ? (int)rest : COLUMNS;
        MX_UNROLL
        for (int column = 0; column < COLUMNS; column++) {
            if (column < n_columns) {
                mix_begin(tile, dim, d, column);
            }
        }
        for (size_t g = 0; g < n_groups; g++) {
            mix_left(tile, g);
            const uint8_t *values = group_values(&tile->block, dim, g);
            MX_UNROLL
            for (int column = 0; column < COLUMNS; column++) {
                if (column < n_columns) {
                    mix_add(values, dim, d, column);
                }
            }
        }
        MX_UNROLL
        for (int column = 0; column < COLUMNS; column++) {
            if (column < n_columns) {
                mix_end(tile, dim, d, column);
            }
        }
    }
}

/* ---- steps in turn ------------------------------------------------------------------ */

enum {
    WIDTH = COLUMNS * TILE,                           /* dimensions mixed at once */
    MIX_STEPS = MX_ATTENTION_BLOCK / GROUP * COLUMNS, /* products of those */
};

/* Product `step` of a stage's: first the mix of `last`, then the scores of `next`. A column
 * is stored where the next sums take its place. */
MX_TEMPLATE void stage_product(const tile_rows *next, const tile_rows *last, size_t dim,
                               size_t step)
{
    size_t n_mix = dim / WIDTH * MIX_STEPS, d = step / MIX_STEPS * WIDTH;
    int column = (int)(step % COLUMNS);
    if (step < n_mix) {
        size_t group = step % MIX_STEPS / COLUMNS;
        if (group == 0 && d > 0) {
            mix_end(last, dim, d - WIDTH, column);
        }
        if (group == 0) {
            mix_begin(last, dim, d, column);
        }
        if (column == 0) {
            mix_left(last, group);
        }
        mix_add(last->block.values + group * GROUP * dim * sizeof(uint16_t), dim, d, column);
        return;
    }
    size_t group = (step - n_mix) / COLUMNS;
    if (group == 0) {
        mix_end(last, dim, dim - WIDTH, column);
        tile_zero(column);
    }
    if (column == 0) {
        scores_left(next, dim, group);
    }
    scores_add(next, dim, group, column);
}

/* Scores of one tile of rows, weights of the one before, the mix of that before it: of
 * whole blocks. dim is a literal. */
MX_TEMPLATE void stage(const tile_rows *next, const tile_rows *tile, const tile_rows *last,
                       size_t dim)
{
    size_t each = dim / WIDTH; /* products a row */
    MX_UNROLL
    for (size_t r = 0; r < TILE; r++) {
        MX_UNROLL
        for (size_t i = 0; i < each; i++) {
            stage_product(next, last, dim, r * each + i);
        }
        row_weights(tile, dim, r);
    }
    MX_UNROLL
    for (int column = 0; column < COLUMNS; column++) {
        scores_end(next, column);
    }
}

static __attribute__((noinline)) void stage_64(const tile_rows *next, const tile_rows *tile,
                                               const tile_rows *last)
{
    stage(next, tile, last, 64);
}

static __attribute__((noinline)) void stage_128(const tile_rows *next, const tile_rows *tile,
                                                const tile_rows *last)
{
    stage(next, tile, last, 128);
}

/* ---- passes over the keys -------------------------------------------------------- */

/* A block from `begin` on, of n_keys keys in all; `rest` bf16 [GROUP / 2][head_dim][2]. */
static key_block block_make(const mx_attention *p, size_t begin, size_t n_keys, uint16_t *rest)
{
    size_t left = n_keys - begin, dim = p->head_dim;
    key_block block = {
        .n_keys = left < MX_ATTENTION_BLOCK ? left : MX_ATTENTION_BLOCK,
        .keys = (const uint8_t *)((const uint16_t *)p->k + begin * dim),
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
    float *mixes;      /* [FULL_ROWS][head_dim] */
    uint16_t *queries; /* [FULL_ROWS][head_dim] */
    uint16_t *rest;    /* [GROUP / 2][head_dim][2] */
} pass_scratch;

static pass_scratch pass_scratch_make(const mx_attention *p)
{
    pass_scratch scratch = {.mixes = p->scratch};
    scratch.queries = (uint16_t *)(void *)(scratch.mixes + FULL_ROWS * p->head_dim);
    scratch.rest = scratch.queries + FULL_ROWS * p->head_dim;
    return scratch;
}

_Static_assert(MX_ATTENTION_SCRATCH_ROWS >= FULL_ROWS + FULL_ROWS / 2 + GROUP / 2,
               "pass_scratch is within the call's scratch");

/* Rows on their way over the keys that the last of them sees. */
typedef struct rows_walk {
    const mx_attention *p;
    const pass_scratch *scratch;
    attention_row *rows; /* [n_rows] */
    size_t n_rows;
    row_reaches reaches;
    tile_scratch tiles[2];
} rows_walk;

/* Rows from `first` on, 16 at most, at a block. */
static tile_rows walk_tile(rows_walk *walk, size_t first, key_block block, size_t scratch)
{
    size_t left = walk->n_rows - first, dim = walk->p->head_dim;
    return (tile_rows){
        .rows = walk->rows + first,
        .n = left < TILE ? left : TILE,
        .reaches = &walk->reaches,
        .first = first,
        .queries = (const uint8_t *)(walk->scratch->queries + first * dim),
        .mix = walk->scratch->mixes + first * dim,
        .block = block,
        .scratch = &walk->tiles[scratch],
    };
}

/* Whether stages may take blocks that all rows see whole: a tile's mix rests in memory
 * between its turns, so there are others between them. */
static bool walk_has_stages(const rows_walk *walk)
{
    size_t n_tiles = walk->n_rows / TILE, dim = walk->p->head_dim;
    return walk->n_rows % TILE == 0 && n_tiles > 1 && (dim == 64 || dim == 128) &&
           walk->rows[0].n_keys >= 2 * MX_ATTENTION_BLOCK;
}

/* All tiles of rows over all blocks that the first row sees whole. */
static void walk_stages(rows_walk *walk)
{
    size_t dim = walk->p->head_dim, n_tiles = walk->n_rows / TILE, row = 0;
    size_t n = walk->rows[0].n_keys / MX_ATTENTION_BLOCK * n_tiles;
    key_block block = block_make(walk->p, 0, MX_ATTENTION_BLOCK, NULL);
    tile_rows ring[3], *next = &ring[0], *tile = &ring[1], *last = &ring[2];
    for (size_t i = 0; i < n; i++) {
        *next = walk_tile(walk, row, block, i % 2);
        if (i >= 2) {
            dim == 64 ? stage_64(next, tile, last) : stage_128(next, tile, last);
        } else {
            tile_scores(next, dim);
            if (i == 1) {
                tile_weights(tile, dim, 0);
            }
        }
        tile_rows *free = last;
        last = tile;
        tile = next;
        next = free;
        row += TILE;
        if (row == walk->n_rows) {
            row = 0;
            block.keys += MX_ATTENTION_BLOCK * dim * sizeof(uint16_t);
            block.values += MX_ATTENTION_BLOCK * dim * sizeof(uint16_t);
        }
    }
    tile_mix(last, dim);
    tile_weights(tile, dim, 0);
    tile_mix(tile, dim);
}

/* Tiles of rows one after the other over a block. */
static void walk_block(rows_walk *walk, size_t begin, size_t n_keys)
{
    size_t dim = walk->p->head_dim, r = 0;
    key_block block = block_make(walk->p, begin, n_keys, walk->scratch->rest);
    while (row_keys(&walk->rows[r], begin) == 0) {
        r++; /* of tokens before the block */
    }
    for (; r < walk->n_rows; r += TILE) {
        tile_rows tile = walk_tile(walk, r, block, 0);
        tile_scores(&tile, dim);
        tile_weights(&tile, dim, begin);
        tile_mix(&tile, dim);
    }
}

static void rows_pass(const mx_attention *p, const pass_scratch *scratch, attention_row *rows,
                      size_t n_rows)
{
    rows_walk walk; /* 12 KB, which an initializer would clear */
    walk.p = p;
    walk.scratch = scratch;
    walk.rows = rows;
    walk.n_rows = n_rows;
    for (size_t r = 0; r < FULL_ROWS; r++) {
        walk.reaches.max[r] = -FLT_MAX;
        walk.reaches.lowest[r] = -FLT_MAX;
        walk.reaches.near_shift[r] = NAN;
    }
    queries_pack(p, rows, n_rows, scratch->queries);
    size_t n_keys = rows[n_rows - 1].n_keys, begin = 0;
    if (walk_has_stages(&walk)) {
        walk_stages(&walk);
        begin = rows[0].n_keys / MX_ATTENTION_BLOCK * MX_ATTENTION_BLOCK;
    }
    for (; begin < n_keys; begin += MX_ATTENTION_BLOCK) {
        walk_block(&walk, begin, n_keys);
    }
}

static void tiles_attention(const mx_attention *p)
{
    pass_scratch scratch = pass_scratch_make(p);
    size_t n_rows = p->n_tokens * p->n_heads;
    attention_row rows[PASS_ROWS];
    amx_tiles_configure();
    for (size_t first = 0; first < n_rows; first += PASS_ROWS) {
        size_t n = n_rows - first < PASS_ROWS ? n_rows - first : PASS_ROWS;
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
