/*
 * Exact integer product with AMX bf16 tiles, for many tokens.
 *
 * Table values of 8 bits times a power of two are bf16 numbers, so both operands go
 * to the tile unit with their scales in them, and one tdpbf16ps of 16 tokens x 16 rows
 * x 32 elements is one MX block. Per accumulator the instruction (Intel SDM vol. 2,
 * TDPBF16PS) adds the products of even elements to 0 and those of odd ones to 0, adds
 * the two sums, and adds the result to the accumulator: all in fp32 rounded to nearest
 * even, subnormals taken and given as 0. All products of a block are multiples of one
 * power of two, 2^e = 2^(ew + ea - w_shift - a_shift), and their sums below 2^24 of
 * them, so nothing but the last addition rounds: acc = acc + dot * 2^e, rounded once,
 * is the contract. Where 2^e >= 2^-126, accumulators, being multiples of it, are
 * never subnormal. Other data is rare and takes the AVX-512 kernels.
 *
 * So no dot ever leaves the tile unit, and nothing is left to the vector units but
 * unpacking the weights, once for all tokens of a group. (With int8 tiles, which sum
 * four times as many products an instruction, every dot would pass through memory to
 * be scaled and added by vector instructions, of which this hardware issues half as
 * many a cycle beside tiles.)
 *
 * Panels are the AVX-512 kernels'; tiles are theirs with a part added:
 *     rows    bf16 [n_blocks][16 tokens][32]: value * 2^(scale - 127 - shift), in
 *             every octet in the order 0 2 4 6 1 3 5 7, in which nibbles unpack
 */
#include "kernel/kernel_avx512.h"

#include "kernel/amx_tiles.h"
#include "kernel/unroll.h"

#include <immintrin.h>
#include <string.h>

enum {
    BLOCK = 32,
    BLOCK_BYTES = 16 * BLOCK * 2, /* of one operand */
    /* A run's unpacked weights of two panels take 16 KiB and stay in the first-level
     * cache while as much of every two tiles streams through it: longer runs are slower,
     * and shorter ones move accumulators too often. */
    RUN_BLOCKS = 8,
    GROUP_PANELS = 16, /* that pass over a run's rows while the second level holds them */
    GROUP_TILES = 32,  /* accumulators of a group: 512 KiB */
    MIN_TOKENS = 9,    /* below, unpacking costs more than it saves */
    /* Scale byte of the tables from which weights are scaled down: the largest that
     * leaves 2^7 times it, and so every 8-bit value, finite. */
    TOP_SCALE = 247,
};

typedef struct amx_layout {
    mx_int_layout base; /* tile_bytes: with the rows */
    size_t tile_rows;   /* place; 0: none, blocks are no tile operands */
} amx_layout;

static amx_layout layout_make(const mx_quant *weights, const mx_quant *activations, size_t k)
{
    amx_layout layout = {.base = mx_int_layout_make(weights, activations, k)};
    if (layout.base.pair.block == BLOCK && k % BLOCK == 0) {
        layout.tile_rows = layout.base.tile_bytes;
        layout.base.tile_bytes += layout.base.pair.n_blocks * BLOCK_BYTES;
    }
    return layout;
}

/* ---- tiles ------------------------------------------------------------------- */

/* Where in two vectors of fp32, as 16-bit halves, the upper halves of a block's
 * elements lie, in the order of rows. */
static __m512i row_order(void)
{
    static const uint8_t octet[8] = {0, 2, 4, 6, 1, 3, 5, 7};
    uint16_t order[BLOCK];
    for (size_t i = 0; i < BLOCK; i++) {
        order[i] = (uint16_t)(2 * (i / 8 * 8 + octet[i % 8]) + 1);
    }
    return _mm512_loadu_si512(order);
}

/* One token's block: quads [8][16][4] from the token's place on, to bf16 [32]. */
static inline void row_store(const uint8_t *quads, float factor, __m512i order, uint8_t *row)
{
    const __m256i places = _mm256_setr_epi32(0, 64, 128, 192, 256, 320, 384, 448);
    __m256i values = _mm256_i32gather_epi32((const int *)(const void *)quads, places, 1);
    __m512i low = _mm512_cvtepi8_epi32(_mm256_castsi256_si128(values));
    __m512i high = _mm512_cvtepi8_epi32(_mm256_extracti128_si256(values, 1));
    __m512 scale = _mm512_set1_ps(factor);
    low = _mm512_castps_si512(_mm512_mul_ps(_mm512_cvtepi32_ps(low), scale));
    high = _mm512_castps_si512(_mm512_mul_ps(_mm512_cvtepi32_ps(high), scale));
    _mm512_store_si512(row, _mm512_permutex2var_epi16(low, order, high));
}

static void amx_tile_pack(const mx_quant *weights, const mx_quant *activations, size_t k,
                          const float *x, size_t x_stride, size_t n_tokens, uint64_t first_stream,
                          uint8_t *tile)
{
    mx_avx512_int_tile_pack(weights, activations, k, x, x_stride, n_tokens, first_stream, tile);
    amx_layout layout = layout_make(weights, activations, k);
    if (layout.tile_rows == 0) {
        return;
    }
    __m512i order = row_order();
    for (size_t b = 0; b < layout.base.pair.n_blocks; b++) {
        const uint8_t *quads = tile + layout.base.tile_codes + b * 8 * MX_QUAD_BYTES;
        const float *factors = (const float *)(void *)(tile + layout.base.tile_factors + b * 64);
        uint8_t *rows = tile + layout.tile_rows + b * BLOCK_BYTES;
        for (size_t t = 0; t < n_tokens; t++) {
            row_store(quads + 4 * t, factors[t], order, rows + t * 64);
        }
    }
}

static size_t amx_tile_bytes(const mx_quant *weights, const mx_quant *activations, size_t k)
{
    return layout_make(weights, activations, k).base.tile_bytes;
}

/* ---- weights ----------------------------------------------------------------- */

/* A run of a panel: bf16 [n_blocks][16 pairs][16 rows][2], pairs of elements in the
 * order of a tile's rows. */
typedef struct run_weights {
    uint8_t pairs[RUN_BLOCKS][BLOCK_BYTES] __attribute__((aligned(64)));
} run_weights;

/* Bits of value * 2^(TOP_SCALE - 127) by code, twice over: vpermw looks at 5 bits of
 * an index, so that the lowest one above a nibble needs no masking. */
static __m512i nibble_table(const mx_format *format)
{
    uint16_t table[32];
    for (size_t i = 0; i < 32; i++) {
        int code = (int)(i & ((1u << format->bits) - 1));
        float value = (float)format->int_table[code] * 0x1p120f; /* 2^(TOP_SCALE - 127) */
        uint32_t bits;
        memcpy(&bits, &value, sizeof bits);
        table[i] = (uint16_t)(bits >> 16);
    }
    return _mm512_loadu_si512(table);
}

/* Scaling down subtracts from the exponent field; saturation leaves zeros zero. */
MX_TEMPLATE void block_of_nibbles(const uint8_t *codes, __m512i scale, __m512i table,
                                  uint8_t *pairs)
{
    __m512i down = _mm512_sub_epi32(_mm512_set1_epi32(TOP_SCALE), scale);
    down = _mm512_or_si512(_mm512_slli_epi32(down, 7), _mm512_slli_epi32(down, 23));
    MX_UNROLL
    for (int octet = 0; octet < 4; octet++) {
        __m512i x = _mm512_load_si512(codes + octet * MX_QUAD_BYTES);
        uint8_t *to = pairs + octet * 4 * 64;
#define PAIR(i, index)                                                                             \
    _mm512_store_si512(to + (i)*64, _mm512_subs_epu16(_mm512_permutexvar_epi16(index, table), down))
        PAIR(0, x);
        PAIR(1, _mm512_srli_epi16(x, 4));
        PAIR(2, _mm512_srli_epi16(x, 8));
        PAIR(3, _mm512_srli_epi16(x, 12));
#undef PAIR
    }
}

/* Two int32 of every row, times its scale, as a pair. */
MX_TEMPLATE __m512i scaled_pair(__m512i even, __m512i odd, __m512 scale)
{
    __m512i low = _mm512_castps_si512(_mm512_mul_ps(_mm512_cvtepi32_ps(even), scale));
    __m512i high = _mm512_castps_si512(_mm512_mul_ps(_mm512_cvtepi32_ps(odd), scale));
    return _mm512_mask_blend_epi16(0xAAAAAAAA, _mm512_srli_epi32(low, 16), high);
}

/* Bytes are stored with 128 added: flipping the top bit takes it off. */
MX_TEMPLATE void block_of_bytes(const uint8_t *codes, __m512i scale_bytes, uint8_t *pairs)
{
    __m512 scale = _mm512_castsi512_ps(_mm512_slli_epi32(scale_bytes, 23));
    __m512i flip = _mm512_set1_epi8((char)0x80);
    MX_UNROLL
    for (int quad = 0; quad < 8; quad++) {
        __m512i x = _mm512_xor_si512(_mm512_load_si512(codes + quad * MX_QUAD_BYTES), flip);
        __m512i b0 = _mm512_srai_epi32(_mm512_slli_epi32(x, 24), 24);
        __m512i b1 = _mm512_srai_epi32(_mm512_slli_epi32(x, 16), 24);
        __m512i b2 = _mm512_srai_epi32(_mm512_slli_epi32(x, 8), 24);
        __m512i b3 = _mm512_srai_epi32(x, 24);
        uint8_t *to = pairs + (quad / 2 * 4 + quad % 2) * 64; /* of octets: 0 2, 4 6, 1 3, 5 7 */
        _mm512_store_si512(to, scaled_pair(b0, b2, scale));
        _mm512_store_si512(to + 2 * 64, scaled_pair(b1, b3, scale));
    }
}

/* Blocks [first, first + n) of a panel. */
static void panel_unpack(const mx_int_product *product, const mx_int_layout *layout, size_t panel,
                         size_t first, size_t n, run_weights *run)
{
    const uint8_t *at = product->panels + panel * layout->panel_bytes;
    const uint8_t *scales = at + layout->panel_scales + first * 16;
    size_t block_bytes = (size_t)MX_QUAD_BYTES * (layout->nibbles ? 4 : 8);
    const uint8_t *codes = at + layout->panel_codes + first * block_bytes;
    __m512i table = _mm512_setzero_si512();
    if (layout->nibbles) {
        table = nibble_table(product->weights->format);
    }
    for (size_t b = 0; b < n; b++) {
        /* The same of the panels that come next; beyond the last this does nothing. */
        const uint8_t *next = codes + 2 * layout->panel_bytes + b * block_bytes;
        for (size_t i = 0; i < block_bytes; i += 64) {
            _mm_prefetch((const char *)next + i, _MM_HINT_T0);
        }
        _mm_prefetch((const char *)scales + 2 * layout->panel_bytes + b * 16, _MM_HINT_T0);
        __m128i bytes = _mm_load_si128((const __m128i *)(const void *)(scales + b * 16));
        __m512i scale = _mm512_cvtepu8_epi32(bytes);
        if (layout->nibbles) {
            block_of_nibbles(codes + b * block_bytes, scale, table, run->pairs[b]);
        } else {
            block_of_bytes(codes + b * block_bytes, scale, run->pairs[b]);
        }
    }
}

/* ---- two panels x two tiles ---------------------------------------------------- */

/* A group of panels and tiles, a run of blocks at a time. */
typedef struct sweep {
    const mx_int_product *product;
    const amx_layout *layout;
    size_t panel, n_panels, tile, n_tiles;
    size_t block, n_blocks; /* the run */
    bool first, last;       /* of the row */
    run_weights weights[2];
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
    const mx_int_product *product = s->product;
    size_t n_rows = mx_min_size(product->n_rows - (s->panel + panel) * 16, 16);
    size_t n_tokens = mx_min_size(product->n_tokens - (s->tile + tile) * 16, 16);
    float *out = out_at(s, panel, tile);
    for (size_t t = 0; t < n_tokens; t++) {
        memcpy(out + t * product->out_stride, s->acc[panel][tile][t], n_rows * sizeof *out);
    }
}

/* Tile registers: accumulator 2 t + p of tile t and panel p; 4, 5 rows of the tiles;
 * 6, 7 pairs of the panels. Four loads for four products. */
static void run_sums(const uint8_t *rows, size_t next_tile, const run_weights *weights, size_t n,
                     size_t n_panels, size_t n_tiles)
{
    for (size_t b = 0; b < n; b++) {
        _tile_loadd(4, rows + b * BLOCK_BYTES, 64);
        _tile_loadd(6, weights[0].pairs[b], 64);
        _tile_dpbf16ps(0, 4, 6);
        if (n_panels == 2) {
            _tile_loadd(7, weights[1].pairs[b], 64);
            _tile_dpbf16ps(1, 4, 7);
        }
        if (n_tiles == 2) {
            _tile_loadd(5, rows + next_tile + b * BLOCK_BYTES, 64);
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
    const amx_layout *layout = s->layout;
    acc_place places[4];
    for (size_t i = 0; i < 4; i++) {
        if (i % 2 < n_panels && i / 2 < n_tiles) {
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
    } else {
        EACH_ACC(ACC_LOAD);
    }
    const uint8_t *rows = s->product->tiles + (s->tile + tile) * layout->base.tile_bytes +
                          layout->tile_rows + s->block * BLOCK_BYTES;
    run_sums(rows, layout->base.tile_bytes, s->weights, s->n_blocks, n_panels, n_tiles);
    EACH_ACC(ACC_STORE);
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
    for (size_t p = 0; p < s->n_panels; p += 2) {
        size_t n_panels = mx_min_size(s->n_panels - p, 2);
        for (size_t i = 0; i < n_panels; i++) {
            panel_unpack(s->product, &s->layout->base, s->panel + p + i, s->block, s->n_blocks,
                         &s->weights[i]);
        }
        for (size_t t = 0; t < s->n_tiles; t += 2) {
            run_step(s, p, n_panels, t, mx_min_size(s->n_tiles - t, 2));
        }
    }
}

/* All runs, of nearly equal lengths, of one group. */
static void sweep_group(sweep *s)
{
    size_t n_blocks = s->layout->base.pair.n_blocks;
    size_t n_runs = (n_blocks + RUN_BLOCKS - 1) / RUN_BLOCKS;
    for (size_t i = 0; i < n_runs; i++) {
        s->block = n_blocks * i / n_runs;
        s->n_blocks = n_blocks * (i + 1) / n_runs - s->block;
        s->first = i == 0;
        s->last = i + 1 == n_runs;
        sweep_run(s);
    }
}

/* True when sums and products are as the comment at the top wants them. Both ranges
 * contain 2^0, so that the operands are normal and finite with their products. */
static bool tiles_can(const amx_layout *layout, const mx_int_product *product, size_t n_panels,
                      size_t n_tiles)
{
    if (layout->tile_rows == 0) {
        return false;
    }
    const mx_int_pair *pair = &layout->base.pair;
    mx_scale_range r =
        mx_layout_range(&layout->base, product->panels, n_panels, product->tiles, n_tiles);
    int bias = 2 * MX_E8M0_BIAS + pair->shift;
    return r.w_max <= TOP_SCALE && r.w_min + r.a_min - bias >= -126 &&
           r.w_max + r.a_max - bias + pair->dot_bits <= 127;
}

static void amx_int_product(const mx_int_product *product)
{
    amx_layout layout = layout_make(product->weights, product->activations, product->k);
    size_t n_panels = (product->n_rows + 15) / 16, n_tiles = (product->n_tokens + 15) / 16;
    if (product->n_tokens < MIN_TOKENS || !tiles_can(&layout, product, n_panels, n_tiles)) {
        mx_avx512_int_product_of(product, &layout.base);
        return;
    }
    sweep s;
    s.product = product;
    s.layout = &layout;
    amx_tiles_configure();
    for (size_t tile = 0; tile < n_tiles; tile += GROUP_TILES) {
        for (size_t panel = 0; panel < n_panels; panel += GROUP_PANELS) {
            s.tile = tile;
            s.n_tiles = mx_min_size(n_tiles - tile, GROUP_TILES);
            s.panel = panel;
            s.n_panels = mx_min_size(n_panels - panel, GROUP_PANELS);
            sweep_group(&s);
        }
    }
    _tile_release();
}

void mx_kernels_amx(mx_kernels *table)
{
    table->name = "amx";
    table->int_tile_bytes = amx_tile_bytes;
    table->int_tile_pack = amx_tile_pack;
    table->int_product = amx_int_product;
}
