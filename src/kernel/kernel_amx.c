/*
 * Block product with AMX bf16 tiles, for many tokens.
 *
 * An element of 8 bits times a power of two is a bf16 number, so both operands go to the
 * tile unit with their scales in them, and one tdpbf16ps of 16 tokens x 16 rows x 32
 * elements is one MX block. Per accumulator the instruction (Intel SDM vol. 2,
 * TDPBF16PS) makes the fma chain of the products of even elements from 0 and that of odd
 * ones, adds the two, and adds the result to the accumulator: all in fp32 rounded to
 * nearest even, subnormals taken and given as 0. But for those it is the contract, with
 * the scales inside the sums (mx_amx_can says where that is the same). Other data is
 * rare and takes the AVX-512 kernels.
 *
 * So no dot ever leaves the tile unit, and nothing is left to the vector units but
 * unpacking the weights, once for all tokens of a group. (With int8 tiles, which sum
 * four times as many products an instruction, every dot would pass through memory to
 * be scaled and added by vector instructions, of which this hardware issues half as
 * many a cycle beside tiles.)
 */
#include "kernel/kernel_amx.h"

#include "kernel/amx_tiles.h"

#include <string.h>

enum {
    /* A run's unpacked weights of two panels take 16 KiB and stay in the first-level
     * cache while as much of every two tiles streams through it: longer runs are slower,
     * and shorter ones move accumulators too often. */
    RUN_BLOCKS = 8,
    GROUP_PANELS = 16,  /* that pass over a run's rows while the second level holds them */
    GROUP_TILES = 32,   /* accumulators of a group: 512 KiB */
    MIN_TOKENS = 9,     /* of integer pairs: below, AVX-512's kernels are faster */
    AHEAD_BYTES = 4096, /* of a panel, prefetched where tokens are few */
};

/* ---- two panels x two tiles ---------------------------------------------------- */

/* A group of panels and tiles, a run of blocks at a time. */
typedef struct sweep {
    const mx_block_product *product;
    const mx_amx_layout *layout;
    size_t panel, n_panels, tile, n_tiles;
    size_t block, n_blocks; /* the run */
    bool first, last;       /* of the row */
    bool kept;              /* by tile registers: accumulators from run to run */
    mx_amx_tables tables;
    mx_amx_block weights[2][RUN_BLOCKS];                                       /* of two panels */
    float acc[GROUP_PANELS][GROUP_TILES][16][16] __attribute__((aligned(64))); /* [token][row] */
} sweep;

/* Where an accumulator goes: rows of 16 floats, `stride` bytes apart. */
typedef struct acc_place {
    float *at;
    size_t stride;
} acc_place;

static bool is_whole(const sweep *s, size_t panel, size_t tile)
{
    return (s->panel + panel + 1) * 16 <= s->product->n_rows &&
           (s->tile + tile + 1) * 16 <= s->product->n_tokens;
}

static float *out_at(const sweep *s, size_t panel, size_t tile)
{
    return s->product->out + (s->tile + tile) * 16 * s->product->out_stride +
           (s->panel + panel) * 16;
}

/* After the row's last run whole tiles go straight to `out`. The lines are asked for
 * while the sums are made: a store that misses would hold up all that follow it. */
static acc_place acc_place_make(sweep *s, size_t panel, size_t tile)
{
    acc_place place = {s->acc[panel][tile][0], 64};
    if (s->last && is_whole(s, panel, tile)) {
        place = (acc_place){out_at(s, panel, tile), s->product->out_stride * sizeof(float)};
    }
    for (size_t i = 0; i < 16; i++) {
        __builtin_prefetch((const char *)place.at + i * place.stride, 1, 3);
    }
    return place;
}

/* A ragged edge, from scratch to `out`. */
static void acc_write(sweep *s, size_t panel, size_t tile)
{
    const mx_block_product *product = s->product;
    size_t n_rows = mx_min_size(product->n_rows - (s->panel + panel) * 16, 16);
    size_t n_tokens = mx_min_size(product->n_tokens - (s->tile + tile) * 16, 16);
    float *out = out_at(s, panel, tile);
    for (size_t t = 0; t < n_tokens; t++) {
        memcpy(out + t * product->out_stride, s->acc[panel][tile][t], n_rows * sizeof *out);
    }
}

/* Tile registers: accumulator 2 t + p of tile t and panel p; 4, 5 rows of the tiles;
 * 6, 7 pairs of the panels. Four loads for four products. */
static void run_sums(const uint8_t *rows, size_t next_tile, mx_amx_block (*weights)[RUN_BLOCKS],
                     size_t n, size_t n_panels, size_t n_tiles)
{
    for (size_t b = 0; b < n; b++) {
        _tile_loadd(4, rows + b * MX_AMX_BLOCK_BYTES, 64);
        _tile_loadd(6, weights[0][b].pairs, 64);
        _tile_dpbf16ps(0, 4, 6);
        if (n_panels == 2) {
            _tile_loadd(7, weights[1][b].pairs, 64);
            _tile_dpbf16ps(1, 4, 7);
        }
        if (n_tiles == 2) {
            _tile_loadd(5, rows + next_tile + b * MX_AMX_BLOCK_BYTES, 64);
            _tile_dpbf16ps(2, 5, 6);
            if (n_panels == 2) {
                _tile_dpbf16ps(3, 5, 7);
            }
        }
    }
}

/* The run's blocks of panels [panel, panel + n_panels) and tiles [tile, tile + n_tiles),
 * one or two of each. */
static void run_step(sweep *s, size_t panel, size_t n_panels, size_t tile, size_t n_tiles)
{
    const mx_amx_layout *layout = s->layout;
    acc_place places[4];
    for (size_t i = 0; i < 4; i++) {
        if (i % 2 < n_panels && i / 2 < n_tiles && (s->last || !s->kept)) {
            places[i] = acc_place_make(s, panel + i % 2, tile + i / 2);
        }
    }
#define EACH_ACC(DO)                                                                               \
    do {                                                                                           \
        DO(0);                                                                                     \
        if (n_panels == 2) {                                                                       \
            DO(1);                                                                                 \
        }                                                                                          \
        if (n_tiles == 2) {                                                                        \
            DO(2);                                                                                 \
        }                                                                                          \
        if (n_panels == 2 && n_tiles == 2) {                                                       \
            DO(3);                                                                                 \
        }                                                                                          \
    } while (0)
#define ACC_ZERO(i) _tile_zero(i)
#define ACC_LOAD(i) _tile_loadd(i, s->acc[panel + i % 2][tile + i / 2], 64)
#define ACC_STORE(i) _tile_stored(i, places[i].at, places[i].stride)
    if (s->first) {
        EACH_ACC(ACC_ZERO);
    } else if (!s->kept) {
        EACH_ACC(ACC_LOAD);
    }
    const uint8_t *rows = s->product->tiles + (s->tile + tile) * layout->tile_bytes +
                          layout->tile_rows + s->block * MX_AMX_BLOCK_BYTES;
    run_sums(rows, layout->tile_bytes, s->weights, s->n_blocks, n_panels, n_tiles);
    if (s->last || !s->kept) {
        EACH_ACC(ACC_STORE);
    }
    for (size_t i = 0; s->last && i < n_panels * n_tiles; i++) {
        size_t p = panel + i % n_panels, t = tile + i / n_panels;
        if (!is_whole(s, p, t)) {
            acc_write(s, p, t);
        }
    }
#undef ACC_STORE
#undef ACC_LOAD
#undef ACC_ZERO
#undef EACH_ACC
}

static void sweep_run(sweep *s)
{
    const mx_amx_layout *layout = s->layout;
    for (size_t p = 0; p < s->n_panels; p += 2) {
        size_t n_panels = mx_min_size(s->n_panels - p, 2);
        for (size_t i = 0; i < n_panels; i++) {
            const uint8_t *panel = s->product->panels + (s->panel + p + i) * layout->panel_bytes;
            /* The same of the panels that come next, or what comes next of these. */
            mx_amx_panel_unpack(layout, &s->tables, panel, s->block, s->n_blocks,
                                s->kept ? AHEAD_BYTES : 2 * layout->panel_bytes, s->weights[i]);
        }
        for (size_t t = 0; t < s->n_tiles; t += 2) {
            run_step(s, p, n_panels, t, mx_min_size(s->n_tiles - t, 2));
        }
    }
}

/* All runs, of nearly equal lengths, of one group. */
static void sweep_group(sweep *s)
{
    size_t n_blocks = s->layout->pair.n_blocks;
    size_t n_runs = (n_blocks + RUN_BLOCKS - 1) / RUN_BLOCKS;
    for (size_t i = 0; i < n_runs; i++) {
        s->block = n_blocks * i / n_runs;
        s->n_blocks = n_blocks * (i + 1) / n_runs - s->block;
        s->first = i == 0;
        s->last = i + 1 == n_runs;
        sweep_run(s);
    }
}

static void amx_block_product(const mx_block_product *product)
{
    mx_amx_layout layout = mx_amx_layout_make(product->weights, product->activations, product->k);
    size_t n_panels = (product->n_rows + 15) / 16, n_tiles = (product->n_tokens + 15) / 16;
    bool few = layout.pair.is_int && product->n_tokens < MIN_TOKENS;
    if (few || !mx_amx_can(&layout, product)) {
        layout.pair.is_int ? mx_avx512_int_product_of(product, &layout.ints)
                           : mx_avx512_minifloat_product_of(product, &layout.minifloats);
        return;
    }
    sweep s;
    s.product = product;
    s.layout = &layout;
    s.kept = n_tiles <= 2;
    mx_amx_tables_make(&layout, product->weights->format, &s.tables);
    amx_tiles_configure();
    size_t group = s.kept ? 2 : GROUP_PANELS; /* few tokens: panels are read in one go */
    for (size_t tile = 0; tile < n_tiles; tile += GROUP_TILES) {
        for (size_t panel = 0; panel < n_panels; panel += group) {
            s.tile = tile;
            s.n_tiles = mx_min_size(n_tiles - tile, GROUP_TILES);
            s.panel = panel;
            s.n_panels = mx_min_size(n_panels - panel, group);
            sweep_group(&s);
        }
    }
    _tile_release();
}

void mx_kernels_amx(mx_kernels *table)
{
    table->name = "amx";
    table->block_tile_bytes = mx_amx_tile_bytes;
    table->block_tile_pack = mx_amx_tile_pack;
    table->block_product = amx_block_product;
    table->attention = mx_amx_attention;
}
