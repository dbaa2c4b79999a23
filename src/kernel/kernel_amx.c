/*
 * Exact integer product with AMX int8 tiles, for many tokens.
 *
 * One MX block of 16 rows x 16 tokens is one tdpbssd: weights are its A operand
 * (16 rows x 32 bytes), the tile's codes, quads of tokens, its B operand as they lie.
 * Each block's dots leave the tile unit through memory, where AVX-512 scales and
 * adds them in block order, as the contract asks: acc = fma((float)dot, 2^e, acc),
 * lanes being tokens. The products of four blocks are under way while the four
 * before them are added, which hides the tile unit's latency.
 *
 * Layouts are those of the AVX-512 kernels (int_layout.h). What does not fit here
 * (few tokens, other block lengths, scales near the ends of fp32) is theirs too.
 */
#include "kernel/kernel_avx512.h"

#include "kernel/int_layout.h"
#include "kernel/lanes_avx512.h"
#include "kernel/unroll.h"

#include <immintrin.h>
#include <string.h>

enum {
    BLOCK = 32,
    BLOCK_BYTES = 16 * BLOCK, /* of one operand of one tdpbssd */
    DEPTH = 4,                /* blocks under way */
    RUN_BLOCKS = 64,          /* unpacked weights of a panel: 32 KiB */
    GROUP_TILES = 32,         /* tiles that share them; accumulators take 64 KiB */
    MIN_TOKENS = 29,          /* below, unpacking costs more than it saves */
};

/* Tile registers: four accumulators, two A, two B. */
typedef struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tile_config;

static void tiles_configure(void)
{
    tile_config config = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        bool is_a = i == 4 || i == 5, is_b = i >= 6;
        config.row_bytes[i] = is_a ? BLOCK : 64;
        config.rows[i] = is_b ? BLOCK / 4 : 16;
    }
    /* GCC 12 takes the instruction to read the first 8 bytes only. */
    __asm__ volatile("" : : "r"(&config) : "memory");
    _tile_loadconfig(&config);
}

/* Two panels over a group of tiles, a run of blocks at a time. */
typedef struct amx_sweep {
    int8_t weights[2][RUN_BLOCKS][16][BLOCK] __attribute__((aligned(64)));
    float scales[2][RUN_BLOCKS][16] __attribute__((aligned(64)));   /* 2^(byte - 127) */
    float acc[GROUP_TILES][2][16][16] __attribute__((aligned(64))); /* [row][token] */
    int32_t dots[2][DEPTH][16][16] __attribute__((aligned(64)));
} amx_sweep;

/* ---- weights ---------------------------------------------------------------- */

/* 16-entry table code -> value, four times over, for vpermb. */
static __m512i signed_table(const mx_format *format)
{
    int8_t table[16];
    for (size_t i = 0; i < 16; i++) {
        table[i] = format->int_table[i & ((1u << format->bits) - 1)];
    }
    return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(const void *)table));
}

/* The 8 quads of a block, [quad][row][4], as signed values. */
MX_TEMPLATE void block_quads(const uint8_t *codes, bool nibbles, __m512i table, __m512i quads[8])
{
    MX_UNROLL
    for (int i = 0; i < 8; i += 2) {
        if (nibbles) {
            __m512i x = _mm512_load_si512(codes + i / 2 * MX_QUAD_BYTES);
            quads[i] = _mm512_permutexvar_epi8(x, table);
            quads[i + 1] = _mm512_permutexvar_epi8(_mm512_srli_epi32(x, 4), table);
        } else {
            /* Stored with 128 added: flipping the top bit takes it off. */
            __m512i flip = _mm512_set1_epi8((char)0x80);
            quads[i] = _mm512_xor_si512(_mm512_load_si512(codes + i * MX_QUAD_BYTES), flip);
            quads[i + 1] =
                _mm512_xor_si512(_mm512_load_si512(codes + (i + 1) * MX_QUAD_BYTES), flip);
        }
    }
}

/* Four quads of 16 rows to bytes [0, 16) of each row: a 4 x 4 transposition of
 * 32-bit elements in every 128-bit part. */
MX_TEMPLATE void rows_store(const __m512i *quads, int8_t *rows)
{
    __m512i a = _mm512_unpacklo_epi32(quads[0], quads[1]);
    __m512i b = _mm512_unpackhi_epi32(quads[0], quads[1]);
    __m512i c = _mm512_unpacklo_epi32(quads[2], quads[3]);
    __m512i d = _mm512_unpackhi_epi32(quads[2], quads[3]);
    const __m512i row[4] = {
        _mm512_unpacklo_epi64(a, c),
        _mm512_unpackhi_epi64(a, c),
        _mm512_unpacklo_epi64(b, d),
        _mm512_unpackhi_epi64(b, d),
    };
    MX_UNROLL
    for (int i = 0; i < 4; i++) {
        /* Part p of row[i] belongs to row 4 p + i. */
        _mm_store_si128((__m128i *)(void *)(rows + (0 + i) * BLOCK),
                        _mm512_castsi512_si128(row[i]));
        _mm_store_si128((__m128i *)(void *)(rows + (4 + i) * BLOCK),
                        _mm512_extracti32x4_epi32(row[i], 1));
        _mm_store_si128((__m128i *)(void *)(rows + (8 + i) * BLOCK),
                        _mm512_extracti32x4_epi32(row[i], 2));
        _mm_store_si128((__m128i *)(void *)(rows + (12 + i) * BLOCK),
                        _mm512_extracti32x4_epi32(row[i], 3));
    }
}

/* Blocks [first, first + n) of a panel to A operands and scales. */
MX_TEMPLATE void panel_unpack(const mx_int_layout *layout, const uint8_t *panel, size_t first,
                              size_t n, bool nibbles, __m512i table, int8_t (*weights)[16][BLOCK],
                              float (*scales)[16])
{
    size_t block_bytes = (size_t)MX_QUAD_BYTES * (nibbles ? 4 : 8);
    const uint8_t *codes = panel + layout->panel_codes + first * block_bytes;
    const uint8_t *bytes = panel + layout->panel_scales + first * 16;
    for (size_t b = 0; b < n; b++) {
        __m512i quads[8];
        block_quads(codes + b * block_bytes, nibbles, table, quads);
        rows_store(quads, weights[b][0]);
        rows_store(quads + 4, weights[b][0] + 16);
        /* Plain panels: bytes 1 .. 254 are exponent fields as they are. */
        __m512i scale = _mm512_cvtepu8_epi32(_mm_load_si128((const __m128i *)(bytes + b * 16)));
        _mm512_store_si512(scales[b], _mm512_slli_epi32(scale, 23));
    }
}

static void panel_unpack_any(const mx_int_product *product, const mx_int_layout *layout,
                             size_t panel, size_t first, size_t n, int8_t (*weights)[16][BLOCK],
                             float (*scales)[16])
{
    const uint8_t *at = product->panels + panel * layout->panel_bytes;
    if (layout->nibbles) {
        __m512i table = signed_table(product->weights->format);
        panel_unpack(layout, at, first, n, true, table, weights, scales);
    } else {
        panel_unpack(layout, at, first, n, false, _mm512_setzero_si512(), weights, scales);
    }
}

/* ---- one panel x one tile ---------------------------------------------------- */

/* Dots of block b into slot `slot`: tile registers are part of the instruction,
 * hence a macro over their numbers. */
#define BLOCK_DOTS(slot, a, b, weights, codes, to)                                                 \
    do {                                                                                           \
        _tile_loadd(a, weights, BLOCK);                                                            \
        _tile_loadd(b, codes, MX_QUAD_BYTES);                                                      \
        _tile_zero(slot);                                                                          \
        _tile_dpbssd(slot, a, b);                                                                  \
        _tile_stored(slot, to, 64);                                                                \
    } while (0)

/* A block's codes on their way to the first-level cache; beyond the last tile this
 * does nothing. */
MX_TEMPLATE void block_prefetch(const uint8_t *codes)
{
    MX_UNROLL
    for (int i = 0; i < 8; i++) {
        _mm_prefetch((const char *)codes + i * 64, _MM_HINT_T0);
    }
}

/* The end of a block: dots [row][token] onto the accumulators. */
MX_TEMPLATE void block_add(const int32_t (*dots)[16], const float *scales, const uint8_t *factors,
                           __m512 acc[16])
{
    __m512 factor = _mm512_load_ps((const float *)(const void *)factors);
    MX_UNROLL
    for (int r = 0; r < 16; r++) {
        __m512 value = _mm512_cvtepi32_ps(_mm512_load_si512(dots[r]));
        __m512 scale = _mm512_mul_ps(factor, _mm512_set1_ps(scales[r]));
        acc[r] = _mm512_fmadd_ps(value, scale, acc[r]);
    }
}

/* n blocks: weights [n][16][32], scales [n][16]; codes [n][8][64] and factors
 * [n][64 bytes] of the tile. */
static void tile_run(int8_t (*weights)[16][BLOCK], float (*scales)[16], const uint8_t *codes,
                     const uint8_t *factors, size_t n, bool fresh, int32_t (*dots)[DEPTH][16][16],
                     float (*resting)[16])
{
    __m512 acc[16];
    MX_UNROLL
    for (int r = 0; r < 16; r++) {
        acc[r] = fresh ? _mm512_setzero_ps() : _mm512_load_ps(resting[r]);
    }
    /* Rounds of DEPTH blocks: the dots of one are made while those of the round
     * before are added. */
    size_t whole = n / DEPTH * DEPTH, added = 0;
#define MAKE(i, a, b) BLOCK_DOTS(i, a, b, weights[at + i], codes + (at + i) * BLOCK_BYTES, now[i])
#define ADD(i)                                                                                     \
    block_add(before[i], scales[added + i], factors + (added + i) * 64, acc);                      \
    block_prefetch(codes + (at + 2 * DEPTH + i) * BLOCK_BYTES)
    for (size_t at = 0; at < whole; at += DEPTH) {
        int32_t(*now)[16][16] = dots[at / DEPTH % 2], (*before)[16][16] = dots[at / DEPTH % 2 ^ 1];
        if (at == 0) {
            MAKE(0, 4, 6);
            MAKE(1, 5, 7);
            MAKE(2, 4, 6);
            MAKE(3, 5, 7);
            continue;
        }
        MAKE(0, 4, 6);
        ADD(0);
        MAKE(1, 5, 7);
        ADD(1);
        MAKE(2, 4, 6);
        ADD(2);
        MAKE(3, 5, 7);
        ADD(3);
        added += DEPTH;
    }
#undef MAKE
#undef ADD
    for (size_t b = whole; b < n; b++) {
        BLOCK_DOTS(0, 4, 6, weights[b], codes + b * BLOCK_BYTES, dots[b / DEPTH % 2][b % DEPTH]);
    }
    for (size_t b = added; b < n; b++) {
        block_add(dots[b / DEPTH % 2][b % DEPTH], scales[b], factors + b * 64, acc);
    }
    MX_UNROLL
    for (int r = 0; r < 16; r++) {
        _mm512_store_ps(resting[r], acc[r]);
    }
}

/* Accumulators [row][token] to out [token][row]. */
static void acc_write(const mx_int_product *product, size_t panel, size_t tile,
                      const float (*acc)[16])
{
    float columns[16][16] __attribute__((aligned(64)));
    const float *rows[16];
    for (size_t r = 0; r < 16; r++) {
        rows[r] = acc[r];
    }
    lanes_transpose(rows, 0, columns[0]);
    size_t row = panel * 16, n = mx_min_size(product->n_tokens - tile * 16, 16);
    __mmask16 mask = (__mmask16)((1u << mx_min_size(product->n_rows - row, 16)) - 1);
    for (size_t t = 0; t < n; t++) {
        float *out = product->out + (tile * 16 + t) * product->out_stride + row;
        _mm512_mask_storeu_ps(out, mask, _mm512_load_ps(columns[t]));
    }
}

/* Lines of out that the tile will be written to: a store that misses would hold up
 * all the stores of tiles behind it. */
static void out_prefetch(const mx_int_product *product, size_t panel, size_t tile)
{
    size_t n = mx_min_size(product->n_tokens - tile * 16, 16);
    for (size_t t = 0; t < n; t++) {
        __builtin_prefetch(product->out + (tile * 16 + t) * product->out_stride + panel * 16, 1, 3);
    }
}

static void sweep_run(const mx_int_product *product, const mx_int_layout *layout, size_t panel,
                      size_t n_panels, size_t tile, size_t n_tiles, amx_sweep *sweep)
{
    size_t n_blocks = layout->pair.n_blocks;
    for (size_t block = 0; block < n_blocks; block += RUN_BLOCKS) {
        size_t n = mx_min_size(n_blocks - block, RUN_BLOCKS);
        for (size_t p = 0; p < n_panels; p++) {
            panel_unpack_any(product, layout, panel + p, block, n, sweep->weights[p],
                             sweep->scales[p]);
        }
        for (size_t t = 0; t < n_tiles; t++) {
            const uint8_t *at = product->tiles + (tile + t) * layout->tile_bytes;
            for (size_t p = 0; p < n_panels; p++) {
                if (block + n == n_blocks) {
                    out_prefetch(product, panel + p, tile + t);
                }
                tile_run(sweep->weights[p], sweep->scales[p],
                         at + layout->tile_codes + block * BLOCK_BYTES,
                         at + layout->tile_factors + block * 64, n, block == 0, sweep->dots,
                         sweep->acc[t][p]);
                if (block + n == n_blocks) {
                    acc_write(product, panel + p, tile + t, (const float(*)[16])sweep->acc[t][p]);
                }
            }
        }
    }
}

static bool panels_are_plain(const mx_int_product *product, const mx_int_layout *layout,
                             size_t n_panels)
{
    size_t n_tiles = (product->n_tokens + 15) / 16;
    bool plain = true;
    for (size_t p = 0; plain && p < n_panels; p++) {
        plain = mx_layout_is_plain(layout, product->panels + p * layout->panel_bytes,
                                   product->tiles, n_tiles);
    }
    return plain;
}

static void mx_amx_int_product(const mx_int_product *product)
{
    mx_int_layout layout = mx_int_layout_make(product->weights, product->activations, product->k);
    size_t n_panels = (product->n_rows + 15) / 16, n_tiles = (product->n_tokens + 15) / 16;
    if (layout.pair.block != BLOCK || product->k % BLOCK != 0 || product->n_tokens < MIN_TOKENS ||
        !panels_are_plain(product, &layout, n_panels)) {
        mx_avx512_int_product(product);
        return;
    }
    amx_sweep sweep;
    tiles_configure();
    for (size_t tile = 0; tile < n_tiles; tile += GROUP_TILES) {
        for (size_t panel = 0; panel < n_panels; panel += 2) {
            sweep_run(product, &layout, panel, mx_min_size(n_panels - panel, 2), tile,
                      mx_min_size(n_tiles - tile, GROUP_TILES), &sweep);
        }
    }
    _tile_release();
}

void mx_kernels_amx(mx_kernels *table)
{
    table->name = "amx";
    table->int_product = mx_amx_int_product;
}
