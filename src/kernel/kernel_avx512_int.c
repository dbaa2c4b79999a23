/*
 * Exact integer product with AVX-512 VNNI.
 *
 * Many tokens ("sweep"): two panels (32 rows) pass over a group of tokens, a run of
 * blocks at a time, whose unpacked weights stay in the first-level cache. Four
 * tokens keep their dots and fp32 accumulators in registers through the run.
 *
 * On Intel all 512-bit arithmetic shares two ports, so whatever comes on top of the
 * 8 vpdpbusd of 16 rows x token x block costs its full share. A dot starts at the
 * seed -offset * sum(a), a broadcast load, which undoes the weights' offset; it ends
 * as acc = fma(cvt(dot), 2^e, acc), where 2^e comes from a table of vectors, built
 * once a block, that the token's scale byte indexes. That leaves 2 for 8.
 *
 * Few tokens: panels are read once, unpacked in registers, as they stream from
 * memory.
 */
#include "kernel/kernel_avx512.h"

#include "kernel/int_layout.h"
#include "kernel/unroll.h"

#include <immintrin.h>
#include <string.h>

enum {
    GROUP_TILES = 16, /* tiles in a group: accumulators take 32 KiB */
    RUN_QUADS = 64,   /* of unpacked weights: 4 KiB a panel */
    RUN_BLOCKS = RUN_QUADS / 2,
    STEP = 4,           /* tokens at a time: 8 independent vpdpbusd chains */
    SMALL_TOKENS = 8,   /* at most so many take the path for few tokens */
    AHEAD_BYTES = 2048, /* of a panel's codes, prefetched on that path */
    SCALES = 256,
};

MX_TEMPLATE __m512i broadcast_u32(const void *p)
{
    int32_t bits;
    memcpy(&bits, p, sizeof bits);
    return _mm512_set1_epi32(bits);
}

/* 16-entry table code -> value + offset, four times over: vpermb looks at 6 bits of
 * an index, so that whatever lies above a nibble needs no masking. */
static __m512i nibble_table(const mx_int_layout *layout, const mx_format *format)
{
    uint8_t table[16];
    for (size_t i = 0; i < 16; i++) {
        int value = format->int_table[i & ((1u << format->bits) - 1)];
        table[i] = (uint8_t)(value + layout->offset);
    }
    return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(const void *)table));
}

/* Two quads of 16 rows: packed codes, or bytes as they are. */
MX_TEMPLATE void octet_load(const uint8_t *codes, bool nibbles, __m512i table, __m512i quads[2])
{
    __m512i x = _mm512_load_si512(codes);
    if (nibbles) {
        quads[0] = _mm512_permutexvar_epi8(x, table);
        quads[1] = _mm512_permutexvar_epi8(_mm512_srli_epi32(x, 4), table);
    } else {
        quads[0] = x;
        quads[1] = _mm512_load_si512(codes + MX_QUAD_BYTES);
    }
}

/* ---- many tokens ----------------------------------------------------------- */

typedef struct sweep {
    const mx_int_layout *layout;
    __m512i nibbles;
    const uint8_t *panels[2];
    size_t n_panels; /* 1 or 2 */
    const uint8_t *tiles;
    size_t n_tokens, n_tiles;
    bool plain; /* mx_layout_is_plain */
    float *out; /* of the first row and token */
    size_t out_stride;
    __mmask16 rows[2]; /* valid ones */
    /* Scratch. The table holds exponents e where the data is not plain, else 2^e. */
    float table[SCALES][2][16] __attribute__((aligned(64)));
    float acc[GROUP_TILES * 16][2][16] __attribute__((aligned(64)));
    int32_t dots[GROUP_TILES * 16][2][16] __attribute__((aligned(64)));
    uint8_t weights[2][RUN_QUADS][MX_QUAD_BYTES] __attribute__((aligned(64)));
} sweep;

/* Whole blocks of one length, or a part of a long one. */
typedef struct run {
    size_t block, n_blocks;
    size_t first_quad, n_quads; /* in the row; of each block */
    bool begins, ends;          /* false: the block's dots come from, rest in scratch */
    bool first, last;           /* of the row */
    const uint8_t *weights[2];
    const char *tables[RUN_BLOCKS]; /* plus a token's slot: its scale's entry */
} run;

/* Range of the block's scale bytes over the tiles. */
static void scale_range(const sweep *s, size_t block, uint32_t *low, uint32_t *high)
{
    const uint8_t *slots = s->tiles + s->layout->tile_slots + block * 64;
    __m512i min = _mm512_load_si512(slots), max = min;
    for (size_t i = 1; i < s->n_tiles; i++) {
        __m512i slot = _mm512_load_si512(slots + i * s->layout->tile_bytes);
        min = _mm512_min_epu32(min, slot);
        max = _mm512_max_epu32(max, slot);
    }
    *low = _mm512_reduce_min_epu32(min) / MX_SLOT_BYTES;
    *high = _mm512_reduce_max_epu32(max) / MX_SLOT_BYTES;
}

/* 2^e, or e, of 16 rows for scale bytes low .. high of the tokens. */
static void table_fill(sweep *s, size_t block, size_t p, uint32_t low, uint32_t high, float *entry)
{
    const uint8_t *scales = s->panels[p] + s->layout->panel_scales + block * 16;
    __m512 nan = _mm512_set1_ps(__builtin_nanf(""));
    __m512i w = _mm512_cvtepu8_epi32(_mm_load_si128((const __m128i *)(const void *)scales));
    __mmask16 w_nan = _mm512_cmpeq_epi32_mask(w, _mm512_set1_epi32(MX_E8M0_NAN));
    w = _mm512_sub_epi32(w, _mm512_set1_epi32(2 * MX_E8M0_BIAS + s->layout->pair.shift));
    __m512 exponent = _mm512_mask_mov_ps(_mm512_cvtepi32_ps(w), w_nan, nan);
    for (uint32_t a = low; a <= high; a++, entry += 32) {
        __m512 e = a == MX_E8M0_NAN ? nan : _mm512_add_ps(exponent, _mm512_set1_ps((float)a));
        _mm512_store_ps(entry, s->plain ? _mm512_scalef_ps(_mm512_set1_ps(1.0f), e) : e);
    }
}

/* Tables of the blocks from r->block on, as many as fit: shortens the run. */
static void run_tables(sweep *s, run *r)
{
    size_t used = 0;
    for (size_t b = 0; b < r->n_blocks; b++) {
        uint32_t low, high;
        scale_range(s, r->block + b, &low, &high);
        size_t n = high - low + 1;
        if (used + n > SCALES) {
            r->n_blocks = b;
            return;
        }
        for (size_t p = 0; p < s->n_panels; p++) {
            table_fill(s, r->block + b, p, low, high, s->table[used][p]);
        }
        r->tables[b] = (const char *)s->table + used * MX_SLOT_BYTES - (size_t)low * MX_SLOT_BYTES;
        used += n;
    }
}

/* Bytes of the run's weights: in place, or unpacked to scratch. */
static void run_weights(sweep *s, run *r)
{
    size_t n_quads = r->n_blocks * r->n_quads;
    for (size_t p = 0; p < s->n_panels; p++) {
        const uint8_t *codes = s->panels[p] + s->layout->panel_codes;
        if (!s->layout->nibbles) {
            r->weights[p] = codes + r->first_quad * MX_QUAD_BYTES;
            continue;
        }
        codes += r->first_quad / 2 * MX_QUAD_BYTES;
        for (size_t q = 0; q < n_quads; q += 2) {
            __m512i quads[2];
            octet_load(codes + q / 2 * MX_QUAD_BYTES, true, s->nibbles, quads);
            /* The next run's codes follow. */
            _mm_prefetch((const char *)codes + (n_quads + q) / 2 * MX_QUAD_BYTES, _MM_HINT_T0);
            _mm512_store_si512(s->weights[p][q], quads[0]);
            _mm512_store_si512(s->weights[p][q + 1], quads[1]);
        }
        r->weights[p] = s->weights[p][0];
    }
}

/* Where STEP tokens stand in a run. Passed by value, so that stores cannot make the
 * compiler load the addresses again. */
typedef struct step {
    const uint8_t *weights[2];
    const uint8_t *seeds, *slots, *quads; /* of the step's first token */
    float *acc;                           /* [STEP][2][16] */
    int32_t *dots;                        /* [STEP][2][16] */
    /* A quarter of the block's lines in the next tile, which this step prefetches;
     * prefetching beyond the last tile does nothing. */
    const uint8_t *next_quads, *next_lane;
} step;

/* dot += one quad of the weights. */
MX_TEMPLATE void step_quad(step at, size_t q, int n_panels, __m512i dot[2][STEP])
{
    __m512i w[2];
    MX_UNROLL
    for (int p = 0; p < n_panels; p++) {
        w[p] = _mm512_load_si512(at.weights[p] + q * MX_QUAD_BYTES);
    }
    MX_UNROLL
    for (int t = 0; t < STEP; t++) {
        __m512i value = broadcast_u32(at.quads + q * MX_QUAD_BYTES + t * 4);
        MX_UNROLL
        for (int p = 0; p < n_panels; p++) {
            dot[p][t] = _mm512_dpbusd_epi32(dot[p][t], w[p], value);
        }
    }
}

MX_TEMPLATE void step_seed(step at, int n_panels, __m512i dot[2][STEP])
{
    MX_UNROLL
    for (int t = 0; t < STEP; t++) {
        MX_UNROLL
        for (int p = 0; p < n_panels; p++) {
            dot[p][t] = broadcast_u32(at.seeds + t * 4);
        }
    }
}

/* The end of a block: dots onto the accumulators. */
MX_TEMPLATE void step_add(step at, const char *table, int n_panels, bool plain,
                          const __m512i dot[2][STEP], __m512 acc[2][STEP])
{
    MX_UNROLL
    for (int t = 0; t < STEP; t++) {
        uint32_t slot;
        memcpy(&slot, at.slots + t * 4, sizeof slot);
        const float *entry = (const float *)(const void *)(table + slot);
        MX_UNROLL
        for (int p = 0; p < n_panels; p++) {
            __m512 value = _mm512_cvtepi32_ps(dot[p][t]), factor = _mm512_load_ps(entry + p * 16);
            acc[p][t] = plain ? _mm512_fmadd_ps(value, factor, acc[p][t])
                              : _mm512_add_ps(acc[p][t], _mm512_scalef_ps(value, factor));
        }
    }
}

MX_TEMPLATE void acc_load(const float *from, bool fresh, int n_panels, __m512 acc[2][STEP])
{
    MX_UNROLL
    for (int t = 0; t < STEP; t++) {
        MX_UNROLL
        for (int p = 0; p < n_panels; p++) {
            acc[p][t] = fresh ? _mm512_setzero_ps() : _mm512_load_ps(from + (t * 2 + p) * 16);
        }
    }
}

/* To scratch, or after the row's last block to `out`. */
MX_TEMPLATE void acc_store(const sweep *s, bool last, size_t token, float *to, int n_panels,
                           const __m512 acc[2][STEP])
{
    MX_UNROLL
    for (int t = 0; t < STEP; t++) {
        MX_UNROLL
        for (int p = 0; p < n_panels; p++) {
            if (!last) {
                _mm512_store_ps(to + (t * 2 + p) * 16, acc[p][t]);
            } else if (token + (size_t)t < s->n_tokens) {
                float *out = s->out + (token + (size_t)t) * s->out_stride + p * 16;
                _mm512_mask_storeu_ps(out, s->rows[p], acc[p][t]);
            }
        }
    }
}

/* Whole blocks. n_quads is a literal where blocks have the common length. */
MX_TEMPLATE void step_blocks(const sweep *s, const run *r, size_t token, step at, size_t n_quads,
                             int n_panels, bool plain)
{
    __m512i dot[2][STEP];
    __m512 acc[2][STEP];
    float *resting = at.acc;
    acc_load(resting, r->first, n_panels, acc);
    for (size_t b = 0; b < r->n_blocks; b++) {
        step_seed(at, n_panels, dot);
        if (n_quads == 8) {
            _mm_prefetch((const char *)at.next_quads, _MM_HINT_T0);
            _mm_prefetch((const char *)at.next_quads + 64, _MM_HINT_T0);
            _mm_prefetch((const char *)at.next_lane, _MM_HINT_T0);
            MX_UNROLL
            for (size_t q = 0; q < 8; q++) {
                step_quad(at, q, n_panels, dot);
            }
        } else {
            for (size_t q = 0; q < n_quads; q++) {
                step_quad(at, q, n_panels, dot);
            }
        }
        step_add(at, r->tables[b], n_panels, plain, dot, acc);
        at.seeds += 64;
        at.slots += 64;
        at.quads += n_quads * MX_QUAD_BYTES;
        at.next_quads += n_quads * MX_QUAD_BYTES;
        at.next_lane += 64;
        at.weights[0] += n_quads * MX_QUAD_BYTES;
        at.weights[1] += n_quads * MX_QUAD_BYTES;
    }
    acc_store(s, r->last, token, resting, n_panels, acc);
}

/* A part of a long block. */
MX_TEMPLATE void step_part(const sweep *s, const run *r, size_t token, step at, int n_panels,
                           bool plain)
{
    __m512i dot[2][STEP];
    MX_UNROLL
    for (int t = 0; t < STEP; t++) {
        MX_UNROLL
        for (int p = 0; p < n_panels; p++) {
            dot[p][t] = r->begins ? broadcast_u32(at.seeds + t * 4)
                                  : _mm512_load_si512(at.dots + (t * 2 + p) * 16);
        }
    }
    for (size_t q = 0; q < r->n_quads; q++) {
        step_quad(at, q, n_panels, dot);
    }
    if (r->ends) {
        __m512 acc[2][STEP];
        acc_load(at.acc, r->first, n_panels, acc);
        step_add(at, r->tables[0], n_panels, plain, dot, acc);
        acc_store(s, r->last, token, at.acc, n_panels, acc);
        return;
    }
    MX_UNROLL
    for (int t = 0; t < STEP; t++) {
        MX_UNROLL
        for (int p = 0; p < n_panels; p++) {
            _mm512_store_si512(at.dots + (t * 2 + p) * 16, dot[p][t]);
        }
    }
}

/* One run over all tokens of the group; the literal arguments make the copies. */
MX_TEMPLATE void run_sweep(sweep *s, const run *r, int n_panels, bool plain)
{
    const mx_int_layout *layout = s->layout;
    for (size_t token = 0; token < s->n_tokens; token += STEP) {
        const uint8_t *tile = s->tiles + token / 16 * layout->tile_bytes + token % 16 * 4;
        step at = {
            .weights = {r->weights[0], r->weights[1]},
            .seeds = tile + layout->tile_seeds + r->block * 64,
            .slots = tile + layout->tile_slots + r->block * 64,
            .quads = tile + layout->tile_codes + r->first_quad * MX_QUAD_BYTES,
            .acc = s->acc[token][0],
            .dots = s->dots[token][0],
        };
        size_t quarter = token % 16 / STEP;
        at.next_quads =
            at.quads - token % 16 * 4 + layout->tile_bytes + quarter * 2 * MX_QUAD_BYTES;
        at.next_lane = (quarter % 2 == 0 ? at.seeds : at.slots) + layout->tile_bytes;
        if (!r->begins || !r->ends) {
            step_part(s, r, token, at, n_panels, plain);
        } else if (r->n_quads == 8) {
            step_blocks(s, r, token, at, 8, n_panels, plain);
        } else {
            step_blocks(s, r, token, at, r->n_quads, n_panels, plain);
        }
    }
}

static void run_sweep_any(sweep *s, const run *r)
{
    if (!s->plain) {
        s->n_panels == 2 ? run_sweep(s, r, 2, false) : run_sweep(s, r, 1, false);
    } else {
        s->n_panels == 2 ? run_sweep(s, r, 2, true) : run_sweep(s, r, 1, true);
    }
}

/* Whole blocks from `block` on; returns the block after the run. */
static size_t sweep_blocks(sweep *s, size_t block, size_t n_quads)
{
    const mx_block_pair *pair = &s->layout->pair;
    size_t most = n_quads * 4 == pair->block ? RUN_QUADS / n_quads : 1;
    size_t alike = pair->k / pair->block - block; /* full blocks left */
    run r = {
        .block = block,
        .n_blocks = mx_min_size(most, alike > 1 ? alike : 1),
        .first_quad = block * pair->block / 4,
        .n_quads = n_quads,
        .begins = true,
        .ends = true,
        .first = block == 0,
    };
    run_tables(s, &r);
    r.last = block + r.n_blocks == pair->n_blocks;
    run_weights(s, &r);
    run_sweep_any(s, &r);
    return block + r.n_blocks;
}

/* A block longer than a run, in parts. */
static void sweep_parts(sweep *s, size_t block, size_t n_quads)
{
    const mx_block_pair *pair = &s->layout->pair;
    run r = {.block = block, .n_blocks = 1, .first = block == 0};
    run_tables(s, &r);
    r.last = block + 1 == pair->n_blocks;
    for (size_t q = 0; q < n_quads; q += RUN_QUADS) {
        r.first_quad = block * pair->block / 4 + q;
        r.n_quads = mx_min_size(n_quads - q, RUN_QUADS);
        r.begins = q == 0;
        r.ends = n_quads - q <= RUN_QUADS;
        run_weights(s, &r);
        run_sweep_any(s, &r);
    }
}

static void product_sweep(const mx_block_product *product, const mx_int_layout *layout,
                          size_t first_panel, size_t n_panels, size_t first_tile, size_t n_tiles)
{
    size_t token = first_tile * 16, row = first_panel * 16;
    sweep s;
    s.layout = layout;
    s.n_panels = n_panels;
    s.tiles = product->tiles + first_tile * layout->tile_bytes;
    s.n_tiles = n_tiles;
    s.n_tokens = mx_min_size(product->n_tokens - token, n_tiles * 16);
    s.plain = true;
    s.out = product->out + token * product->out_stride + row;
    s.out_stride = product->out_stride;
    s.nibbles = _mm512_setzero_si512();
    if (layout->nibbles) {
        s.nibbles = nibble_table(layout, product->weights->format);
    }
    for (size_t p = 0; p < n_panels; p++) {
        s.panels[p] = product->panels + (first_panel + p) * layout->panel_bytes;
        s.plain = s.plain && mx_layout_is_plain(layout, s.panels[p], s.tiles, n_tiles);
        s.rows[p] = (__mmask16)((1u << mx_min_size(product->n_rows - row - p * 16, 16)) - 1);
    }
    const mx_block_pair *pair = &layout->pair;
    size_t block = 0;
    while (block < pair->n_blocks) {
        size_t n_quads = mx_round_up(mx_block_pair_length(pair, block), 8) / 4;
        if (n_quads <= RUN_QUADS) {
            block = sweep_blocks(&s, block, n_quads);
        } else {
            sweep_parts(&s, block, n_quads);
            block++;
        }
    }
}

/* ---- few tokens ------------------------------------------------------------ */

/* One block of 16 * n_panels rows x n_tokens: panels and tile at their bases. */
MX_TEMPLATE void small_block(const mx_int_layout *layout, const uint8_t *panels,
                             const uint8_t *tile, size_t block, size_t octet, size_t n_octets,
                             const uint8_t *ahead, __m512i table, bool nibbles, int n_panels,
                             int n_tokens, __m512 acc[4][SMALL_TOKENS])
{
    size_t octet_bytes = MX_QUAD_BYTES * (nibbles ? 1 : 2);
    const uint8_t *codes = panels + layout->panel_codes + octet * octet_bytes;
    const uint8_t *a = tile + layout->tile_codes + octet * 2 * MX_QUAD_BYTES;
    const uint8_t *lane = tile + block * 64;
    __m512i dot[4][SMALL_TOKENS];
    MX_UNROLL
    for (int p = 0; p < n_panels; p++) {
        MX_UNROLL
        for (int t = 0; t < n_tokens; t++) {
            dot[p][t] = broadcast_u32(lane + layout->tile_seeds + t * 4);
        }
    }
    for (size_t o = 0; o < n_octets; o++) {
        MX_UNROLL
        for (int p = 0; p < n_panels; p++) {
            __m512i w[2];
            size_t at = (size_t)p * layout->panel_bytes + o * octet_bytes;
            octet_load(codes + at, nibbles, table, w);
            _mm_prefetch((const char *)ahead + at, _MM_HINT_T0);
            if (!nibbles) {
                _mm_prefetch((const char *)ahead + at + MX_QUAD_BYTES, _MM_HINT_T0);
            }
            MX_UNROLL
            for (int t = 0; t < n_tokens; t++) {
                const uint8_t *quad = a + o * 2 * MX_QUAD_BYTES + t * 4;
                dot[p][t] = _mm512_dpbusd_epi32(dot[p][t], w[0], broadcast_u32(quad));
                dot[p][t] =
                    _mm512_dpbusd_epi32(dot[p][t], w[1], broadcast_u32(quad + MX_QUAD_BYTES));
            }
        }
    }
    MX_UNROLL
    for (int p = 0; p < n_panels; p++) {
        const uint8_t *scales =
            panels + (size_t)p * layout->panel_bytes + layout->panel_scales + block * 16;
        /* Plain panels: bytes 1 .. 254 are exponent fields as they are. */
        __m512i bits = _mm512_cvtepu8_epi32(_mm_load_si128((const __m128i *)scales));
        __m512 scale = _mm512_castsi512_ps(_mm512_slli_epi32(bits, 23));
        MX_UNROLL
        for (int t = 0; t < n_tokens; t++) {
            __m512 factor = _mm512_castsi512_ps(broadcast_u32(lane + layout->tile_factors + t * 4));
            __m512 value = _mm512_mul_ps(_mm512_cvtepi32_ps(dot[p][t]), scale);
            acc[p][t] = _mm512_fmadd_ps(value, factor, acc[p][t]);
        }
    }
}

/*
 * Where the codes lie that are wanted AHEAD_BYTES from now: the hardware's own
 * prefetchers stop at every page, and know nothing of the panels after these. Their
 * header and scales, which come first, are asked for here. Beyond the last panel this
 * does nothing.
 */
MX_TEMPLATE const uint8_t *small_ahead(const mx_int_layout *layout, const uint8_t *panels,
                                       size_t octet, bool nibbles, int n_panels)
{
    size_t at = octet * MX_QUAD_BYTES * (nibbles ? 1 : 2) + AHEAD_BYTES;
    size_t code_bytes = layout->panel_bytes - layout->panel_codes;
    if (at < code_bytes) {
        return panels + layout->panel_codes + at;
    }
    const uint8_t *next = panels + (size_t)n_panels * layout->panel_bytes;
    MX_UNROLL
    for (int p = 0; p < n_panels; p++) {
        const char *head = (const char *)next + (size_t)p * layout->panel_bytes;
        _mm_prefetch(head + (at - code_bytes) / 2, _MM_HINT_T0);
        _mm_prefetch(head + (at - code_bytes) / 2 + 64, _MM_HINT_T0);
    }
    return next + layout->panel_codes + at - code_bytes;
}

MX_TEMPLATE void small_tile(const mx_block_product *product, const mx_int_layout *layout,
                            size_t first_panel, __m512i table, bool nibbles, int n_panels,
                            int n_tokens)
{
    const mx_block_pair *pair = &layout->pair;
    const uint8_t *panels = product->panels + first_panel * layout->panel_bytes;
    __m512 acc[4][SMALL_TOKENS];
    MX_UNROLL
    for (int p = 0; p < n_panels; p++) {
        MX_UNROLL
        for (int t = 0; t < n_tokens; t++) {
            acc[p][t] = _mm512_setzero_ps();
        }
    }
    for (size_t b = 0; b < pair->n_blocks; b++) {
        size_t octet = b * pair->block / 8, n_octets = (mx_block_pair_length(pair, b) + 7) / 8;
        const uint8_t *ahead = small_ahead(layout, panels, octet, nibbles, n_panels);
        if (n_octets == 4) {
            small_block(layout, panels, product->tiles, b, octet, 4, ahead, table, nibbles,
                        n_panels, n_tokens, acc);
        } else {
            small_block(layout, panels, product->tiles, b, octet, n_octets, ahead, table, nibbles,
                        n_panels, n_tokens, acc);
        }
    }
    MX_UNROLL
    for (int p = 0; p < n_panels; p++) {
        size_t row = (first_panel + (size_t)p) * 16;
        __mmask16 mask = (__mmask16)((1u << mx_min_size(product->n_rows - row, 16)) - 1);
        MX_UNROLL
        for (int t = 0; t < n_tokens; t++) {
            if ((size_t)t < product->n_tokens) {
                float *out = product->out + (size_t)t * product->out_stride + row;
                _mm512_mask_storeu_ps(out, mask, acc[p][t]);
            }
        }
    }
}

/* Panels taken at once: enough independent chains to hide vpdpbusd's latency. */
static size_t small_panels(size_t n_tokens)
{
    return n_tokens <= 2 ? 4 : n_tokens <= 4 ? 2 : 1;
}

MX_TEMPLATE void small_shape(const mx_block_product *product, const mx_int_layout *layout,
                             size_t panel, size_t n_panels, __m512i table, bool nibbles)
{
    size_t n = product->n_tokens;
    if (n == 1) {
        n_panels == 4 ? small_tile(product, layout, panel, table, nibbles, 4, 1)
                      : small_tile(product, layout, panel, table, nibbles, 1, 1);
    } else if (n == 2) {
        n_panels == 4 ? small_tile(product, layout, panel, table, nibbles, 4, 2)
                      : small_tile(product, layout, panel, table, nibbles, 1, 2);
    } else if (n <= 4) {
        n_panels == 2 ? small_tile(product, layout, panel, table, nibbles, 2, 4)
                      : small_tile(product, layout, panel, table, nibbles, 1, 4);
    } else {
        small_tile(product, layout, panel, table, nibbles, 1, 8);
    }
}

static void small_nibbles(const mx_block_product *product, const mx_int_layout *layout,
                          size_t panel, size_t n_panels)
{
    __m512i table = nibble_table(layout, product->weights->format);
    small_shape(product, layout, panel, n_panels, table, true);
}

static void small_bytes(const mx_block_product *product, const mx_int_layout *layout, size_t panel,
                        size_t n_panels)
{
    small_shape(product, layout, panel, n_panels, _mm512_setzero_si512(), false);
}

static void product_small(const mx_block_product *product, const mx_int_layout *layout)
{
    size_t at_once = small_panels(product->n_tokens), n = 0;
    for (size_t panel = 0; panel < product->n_panels; panel += n) {
        n = product->n_panels - panel >= at_once ? at_once : 1;
        bool plain = true;
        for (size_t p = panel; p < panel + n; p++) {
            plain = plain && mx_layout_is_plain(layout, product->panels + p * layout->panel_bytes,
                                                product->tiles, 1);
        }
        if (!plain) {
            n = 1;
            product_sweep(product, layout, panel, 1, 0, 1);
        } else if (layout->nibbles) {
            small_nibbles(product, layout, panel, n);
        } else {
            small_bytes(product, layout, panel, n);
        }
    }
}

void mx_avx512_int_product_of(const mx_block_product *product, const mx_int_layout *layout)
{
    size_t n_panels = (product->n_rows + 15) / 16; /* panels without rows have no output */
    if (product->n_tokens <= SMALL_TOKENS) {
        mx_block_product valid = *product;
        valid.n_panels = n_panels;
        product_small(&valid, layout);
        return;
    }
    size_t n_tiles = (product->n_tokens + 15) / 16;
    for (size_t tile = 0; tile < n_tiles; tile += GROUP_TILES) {
        for (size_t panel = 0; panel < n_panels; panel += 2) {
            product_sweep(product, layout, panel, mx_min_size(n_panels - panel, 2), tile,
                          mx_min_size(n_tiles - tile, GROUP_TILES));
        }
    }
}

void mx_avx512_int_product(const mx_block_product *product)
{
    mx_int_layout layout = mx_int_layout_make(product->weights, product->activations, product->k);
    mx_avx512_int_product_of(product, &layout);
}
