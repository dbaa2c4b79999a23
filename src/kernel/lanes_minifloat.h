/*
 * Block product of the pairs without an exact integer product over `lanes`, in
 * minifloat_layout.h's layout. Included after lanes_tile.h.
 *
 * Two panels pass over a group of tokens, a run of elements at a time, whose weights,
 * turned into fp32 without their scales, stay in the first-level cache. A few tokens
 * keep the chains of even and of odd elements in registers through a block; the
 * accumulators rest in memory between blocks.
 */
#ifndef MX_KERNEL_LANES_MINIFLOAT_H
#define MX_KERNEL_LANES_MINIFLOAT_H

#include "kernel/minifloat_layout.h"

enum {
    MINIFLOAT_PANELS = 2, /* unpacked at a time */
    MINIFLOAT_RUN = 128,  /* elements: 8 KiB a panel */
    MINIFLOAT_RUN_BLOCKS = MINIFLOAT_RUN / 8,
    MINIFLOAT_GROUP_PANELS = 16, /* that pass over a run of tokens' values in turn */
    MINIFLOAT_GROUP_TILES = 16,
    MINIFLOAT_GROUP_TOKENS = MINIFLOAT_GROUP_TILES * MX_TILE_TOKENS,
    MINIFLOAT_LONG_PANELS = 4, /* of a group when chains have to rest too */
    MINIFLOAT_AHEAD = 2048,    /* bytes of codes, prefetched */
};

/* ---- tiles -------------------------------------------------------------------- */

/* One token's block by format/'s code, whatever is in it; returns the scale byte. */
static uint8_t token_values(const quantizer *q, const float *x, size_t n, uint64_t stream,
                            uint64_t index, float *values)
{
    enum { PIECE = 64 };
    mx_block_plan plan = mx_block_scan(q->quant, x, n);
    bool zero = true;
    for (size_t at = 0; at < n; at += PIECE) {
        uint8_t codes[PIECE];
        size_t piece = n - at < PIECE ? n - at : PIECE;
        mx_block_encode_planned(&q->codec, q->quant, plan, x + at, piece, stream, index + at,
                                codes);
        mx_block_decode_planned(&q->codec, codes, MX_E8M0_BIAS, piece, values + at);
        for (size_t i = 0; i < piece; i++) {
            zero = zero && values[at + i] == 0;
        }
    }
    return zero && plan.scale != MX_E8M0_NAN ? MX_SCALE_OF_ZERO : plan.scale;
}

MX_TEMPLATE void block_values(const quantizer *q, mx_round round, const tile_block *block,
                              size_t stride, float *values)
{
    for (size_t t = 0; t < block->n_tokens; t++) {
        const float *x = block->x + t * block->x_stride;
        lanes factor = lanes_set(block->factors[t]);
        for (size_t i = 0; i < block->n; i += 16) {
            size_t part = block->n - i < 16 ? block->n - i : 16;
            lanes v = part == 16 ? lanes_load(x + i) : lanes_load_part(x + i, part);
            v = quantizer_lanes(q, round, v, factor);
            lanes_store_part(values + t * stride + i, v, part);
        }
    }
}

static void block_values_any_round(const quantizer *q, const tile_block *block, size_t stride,
                                   float *values)
{
    switch (q->quant->round) {
    case MX_ROUND_NEAREST:
        block_values(q, MX_ROUND_NEAREST, block, stride, values);
        break;
    case MX_ROUND_FLOOR:
        block_values(q, MX_ROUND_FLOOR, block, stride, values);
        break;
    default:
        block_values(q, MX_ROUND_EVEN, block, stride, values);
        break;
    }
}

static void factors_store(const uint8_t scales[16], float *factors)
{
    for (size_t t = 0; t < MX_TILE_TOKENS; t++) {
        factors[t] = mx_e8m0_decode(scales[t]);
    }
}

static void lanes_minifloat_tile_pack(const mx_quant *weights, const mx_quant *activations,
                                      size_t k, const float *x, size_t x_stride, size_t n_tokens,
                                      uint64_t first_stream, uint8_t *tile)
{
    mx_minifloat_layout layout = mx_minifloat_layout_make(weights, activations, k);
    quantizer q = quantizer_make(activations, 0);
    float *values = (float *)(void *)(tile + layout.tile_values);
    scale_bounds bounds;
    memset(&bounds, MX_SCALE_OF_ZERO, sizeof bounds);
    for (size_t b = 0; b < layout.pair.n_blocks; b++) {
        size_t begin = b * layout.pair.block;
        tile_block block = {
            .x = x + begin,
            .x_stride = x_stride,
            .n_tokens = n_tokens,
            .n = mx_block_pair_length(&layout.pair, b),
        };
        uint8_t *scales = tile + layout.tile_scales + b * MX_TILE_TOKENS;
        bool special[MX_TILE_TOKENS];
        memset(scales, MX_SCALE_OF_ZERO, MX_TILE_TOKENS);
        block_scales(&q, &block, scales, special);
        block_values_any_round(&q, &block, layout.stride, values + begin);
        for (size_t t = 0; t < n_tokens; t++) {
            if (special[t]) {
                scales[t] = token_values(&q, block.x + t * x_stride, block.n, first_stream + t,
                                         begin, values + t * layout.stride + begin);
            }
        }
        factors_store(scales, (float *)(void *)(tile + layout.tile_factors) + b * MX_TILE_TOKENS);
        bounds_add(&bounds, scales);
    }
    for (size_t t = 0; t < n_tokens; t++) {
        memset(values + t * layout.stride + k, 0, (layout.stride - k) * sizeof *values);
    }
    bounds_store(&bounds, tile);
}

/* ---- weights ------------------------------------------------------------------ */

MX_TEMPLATE lanes carried(lanes_bytes bytes, mx_carrier carrier)
{
    switch (carrier) {
    case MX_CARRIER_INT8:
        return lanes_bytes_int8(bytes);
    case MX_CARRIER_E5M2:
        return lanes_bytes_e5m2(bytes);
    default:
        return lanes_bytes_e4m3(bytes);
    }
}

/* n elements, whole eights, of 16 rows to `to` [n][16]. */
MX_TEMPLATE void bytes_unpack(const uint8_t *codes, size_t n, mx_carrier carrier, float *to)
{
    for (size_t i = 0; i < n; i += 4) {
        __builtin_prefetch(codes + i * MX_PANEL_ROWS + MINIFLOAT_AHEAD);
        MX_UNROLL
        for (size_t j = i; j < i + 4; j++) {
            lanes_bytes bytes = lanes_bytes_load(codes + j * MX_PANEL_ROWS);
            lanes_store(to + j * MX_PANEL_ROWS, carried(bytes, carrier));
        }
    }
}

static void nibbles_unpack(const uint8_t *codes, size_t n, lanes_bytes table, float *to)
{
    for (size_t i = 0; i < n; i += 8) {
        __builtin_prefetch(codes + i / 2 * MX_PANEL_ROWS + MINIFLOAT_AHEAD);
        MX_UNROLL
        for (size_t j = i; j < i + 8; j += 2) {
            lanes_bytes pair = lanes_bytes_load(codes + j / 2 * MX_PANEL_ROWS);
            lanes_bytes even = lanes_bytes_lookup(table, lanes_bytes_low_nibbles(pair));
            lanes_bytes odd = lanes_bytes_lookup(table, lanes_bytes_high_nibbles(pair));
            lanes_store(to + j * MX_PANEL_ROWS, lanes_bytes_int8(even));
            lanes_store(to + (j + 1) * MX_PANEL_ROWS, lanes_bytes_int8(odd));
        }
    }
}

/* ---- sums --------------------------------------------------------------------- */

/* Whole blocks of one length, or a part of a long one. */
typedef struct minifloat_run {
    size_t block, n_blocks;
    size_t first, n;   /* elements: in the row; of each block, filled up to eights */
    bool begins, ends; /* false: the block's chains come from, rest in scratch */
} minifloat_run;

/* Resting sums of one panel: the last step of tokens may reach beyond the group. */
enum { MINIFLOAT_REST = MINIFLOAT_GROUP_TOKENS + LANES_BLOCK_TOKENS };
typedef float minifloat_sums[MINIFLOAT_REST][16];

/* A group of panels and tiles. */
typedef struct minifloat_sweep {
    const mx_block_product *product;
    const mx_minifloat_layout *layout;
    size_t panel, n_panels, tile, n_tiles, n_tokens;
    bool plain[MINIFLOAT_GROUP_PANELS];             /* mx_minifloat_is_plain, by panel */
    uint8_t table[16] __attribute__((aligned(16))); /* nibbles: code -> table value */
    /* Of the panels in hand. Scales of their rows: 2^(ew + unit) where the data is
     * plain, else what they give to the exponent, NaN for a NaN scale. */
    float weights[MINIFLOAT_PANELS][MINIFLOAT_RUN][16] __attribute__((aligned(64)));
    float rows[MINIFLOAT_PANELS][MINIFLOAT_RUN_BLOCKS][16] __attribute__((aligned(64)));
    /* By panel of the group; of long blocks also the even and the odd chains, each
     * MINIFLOAT_LONG_PANELS further on. */
    minifloat_sums acc[MINIFLOAT_GROUP_PANELS] __attribute__((aligned(64)));
} minifloat_sweep;

/* value * 2^e, rounded once, for any e of two scales; NaN where e is. */
static lanes minifloat_scale(lanes value, lanes e)
{
    /* |value|, between 2^-41 and 2^100, is 0 or Inf beyond these. */
    lanes limited = lanes_min(lanes_set(240), lanes_max(lanes_set(-240), e));
    return lanes_add(lanes_scale(value, limited), lanes_sub(e, e));
}

/* Where a step's tokens stand in a run. */
typedef struct minifloat_place {
    const float *x[LANES_BLOCK_TOKENS];
    const float *factors[LANES_BLOCK_TOKENS];  /* of the first block, 16 apart */
    const uint8_t *scales[LANES_BLOCK_TOKENS]; /* the same */
    const float *weights, *rows;               /* of the first panel */
    float (*acc)[16];                          /* of the first panel and token */
} minifloat_place;

/* A place where chains rest: `which` is 0 for sums, 1 and 2 for even and odd ones. */
MX_TEMPLATE float *resting(const minifloat_place *at, int which, int p, int t)
{
    size_t panel = (size_t)(which * MINIFLOAT_LONG_PANELS + p);
    return at->acc[panel * MINIFLOAT_REST + (size_t)t];
}

typedef struct minifloat_chains {
    lanes sums[2][MINIFLOAT_PANELS][LANES_BLOCK_TOKENS]; /* even, odd */
} minifloat_chains;

MX_TEMPLATE void chains_load(const minifloat_place *at, bool begins, int n_panels, int n_tokens,
                             minifloat_chains *chains)
{
    MX_UNROLL
    for (int i = 0; i < 2 * n_panels; i++) {
        MX_UNROLL
        for (int t = 0; t < n_tokens; t++) {
            chains->sums[i % 2][i / 2][t] =
                begins ? lanes_set(0) : lanes_load(resting(at, 1 + i % 2, i / 2, t));
        }
    }
}

MX_TEMPLATE void chains_store(const minifloat_place *at, int n_panels, int n_tokens,
                              const minifloat_chains *chains)
{
    MX_UNROLL
    for (int i = 0; i < 2 * n_panels; i++) {
        MX_UNROLL
        for (int t = 0; t < n_tokens; t++) {
            lanes_store(resting(at, 1 + i % 2, i / 2, t), chains->sums[i % 2][i / 2][t]);
        }
    }
}

/* Even (0) or odd (1) chains += element k of the run. */
MX_TEMPLATE void chains_fma(const minifloat_place *at, size_t k, int which, int n_panels,
                            int n_tokens, minifloat_chains *chains)
{
    lanes w[MINIFLOAT_PANELS];
    MX_UNROLL
    for (int p = 0; p < n_panels; p++) {
        w[p] = lanes_load(at->weights + ((size_t)p * MINIFLOAT_RUN + k) * 16);
    }
    MX_UNROLL
    for (int t = 0; t < n_tokens; t++) {
        lanes value = lanes_set(at->x[t][k]);
        MX_UNROLL
        for (int p = 0; p < n_panels; p++) {
            chains->sums[which][p][t] = lanes_fma(value, w[p], chains->sums[which][p][t]);
        }
    }
}

/* The end of block b of the run: dots, with both scales, onto the sums. */
MX_TEMPLATE void chains_end(const minifloat_place *at, size_t b, int n_panels, int n_tokens,
                            bool plain, const minifloat_chains *chains)
{
    MX_UNROLL
    for (int p = 0; p < n_panels; p++) {
        lanes row = lanes_load(at->rows + ((size_t)p * MINIFLOAT_RUN_BLOCKS + b) * 16);
        MX_UNROLL
        for (int t = 0; t < n_tokens; t++) {
            lanes dot = lanes_add(chains->sums[0][p][t], chains->sums[1][p][t]);
            lanes sum = lanes_load(resting(at, 0, p, t));
            if (plain) {
                /* dot * 2^ew is exact, so that the sum alone rounds. */
                lanes factor = lanes_set(at->factors[t][b * MX_TILE_TOKENS]);
                sum = lanes_fma(lanes_mul(dot, row), factor, sum);
            } else {
                uint8_t scale = at->scales[t][b * MX_TILE_TOKENS];
                lanes e = lanes_set(scale == MX_E8M0_NAN ? NAN : (float)scale);
                sum = lanes_add(sum, minifloat_scale(dot, lanes_add(row, e)));
            }
            lanes_store(resting(at, 0, p, t), sum);
        }
    }
}

/* Places of tokens from `token` of the group on. Beyond the last one that one is
 * taken again: its sums go where nothing reads them. */
MX_TEMPLATE minifloat_place place_make(minifloat_sweep *s, const minifloat_run *r, size_t panel,
                                       size_t token, int n_tokens)
{
    const mx_minifloat_layout *layout = s->layout;
    minifloat_place at = {
        .weights = s->weights[0][0], .rows = s->rows[0][0], .acc = s->acc[panel] + token};
    MX_UNROLL
    for (int t = 0; t < n_tokens; t++) {
        size_t valid = mx_min_size(token + (size_t)t, s->n_tokens - 1);
        size_t lane = valid % MX_TILE_TOKENS, first = r->block * MX_TILE_TOKENS + lane;
        const uint8_t *tile =
            s->product->tiles + (s->tile + valid / MX_TILE_TOKENS) * layout->tile_bytes;
        at.scales[t] = tile + layout->tile_scales + first;
        at.factors[t] = (const float *)(const void *)(tile + layout->tile_factors) + first;
        at.x[t] = (const float *)(const void *)(tile + layout->tile_values) +
                  lane * layout->stride + r->first;
    }
    return at;
}

/* One run of n_panels panels from `panel` of the group on, and n_tokens tokens. */
MX_TEMPLATE void minifloat_step(minifloat_sweep *s, const minifloat_run *r, size_t panel,
                                size_t token, int n_panels, int n_tokens, bool plain)
{
    const minifloat_place at = place_make(s, r, panel, token, n_tokens);
    for (size_t b = 0, k = 0; b < r->n_blocks; b++) {
        minifloat_chains chains;
        chains_load(&at, r->begins, n_panels, n_tokens, &chains);
        LANES_BLOCK_UNROLL
        for (size_t end = k + r->n; k < end; k += 2) {
            chains_fma(&at, k, 0, n_panels, n_tokens, &chains);
            chains_fma(&at, k + 1, 1, n_panels, n_tokens, &chains);
        }
        if (r->ends) {
            chains_end(&at, b, n_panels, n_tokens, plain, &chains);
        } else {
            chains_store(&at, n_panels, n_tokens, &chains);
        }
    }
}

/* ---- sweeps ------------------------------------------------------------------- */

/* One run of a panel's weights and rows' scales to scratch place p. */
static void panel_unpack(minifloat_sweep *s, const minifloat_run *r, size_t panel, bool plain,
                         size_t p)
{
    const mx_minifloat_layout *layout = s->layout;
    const uint8_t *from = s->product->panels + (s->panel + panel) * layout->panel_bytes;
    const uint8_t *scales = from + layout->panel_scales + r->block * MX_PANEL_ROWS;
    const uint8_t *codes = from + layout->panel_codes + mx_minifloat_code_bytes(layout, r->first);
    size_t n = r->n * r->n_blocks;
    if (layout->nibbles) {
        nibbles_unpack(codes, n, lanes_bytes_load(s->table), s->weights[p][0]);
    } else if (layout->carrier == MX_CARRIER_INT8) {
        bytes_unpack(codes, n, MX_CARRIER_INT8, s->weights[p][0]);
    } else if (layout->carrier == MX_CARRIER_E5M2) {
        bytes_unpack(codes, n, MX_CARRIER_E5M2, s->weights[p][0]);
    } else {
        bytes_unpack(codes, n, MX_CARRIER_E4M3, s->weights[p][0]);
    }
    for (size_t b = 0; b < r->n_blocks; b++) {
        for (size_t i = 0; i < MX_PANEL_ROWS; i++) {
            int scale = scales[b * MX_PANEL_ROWS + i];
            float e = (float)(scale - 2 * MX_E8M0_BIAS + layout->unit);
            float other = scale == MX_E8M0_NAN ? NAN : e;
            /* Plain: scale + unit is a normal number's exponent field. */
            s->rows[p][b][i] = plain ? quantizer_power(scale - MX_E8M0_BIAS + layout->unit) : other;
        }
    }
}

/* All tokens of the group; the literal arguments make the copies. */
MX_TEMPLATE void tokens_sweep(minifloat_sweep *s, const minifloat_run *r, size_t panel,
                              int n_panels, bool plain)
{
    if (s->n_tokens == 1) {
        minifloat_step(s, r, panel, 0, n_panels, 1, plain);
        return;
    }
    for (size_t token = 0; token < s->n_tokens; token += LANES_BLOCK_TOKENS) {
        minifloat_step(s, r, panel, token, n_panels, LANES_BLOCK_TOKENS, plain);
    }
}

static void run_sweep(minifloat_sweep *s, const minifloat_run *r)
{
    for (size_t panel = 0; panel < s->n_panels; panel += LANES_BLOCK_PANELS) {
        size_t n = mx_min_size(s->n_panels - panel, LANES_BLOCK_PANELS);
        bool plain = s->plain[panel] && s->plain[panel + n - 1];
        for (size_t p = 0; p < n; p++) {
            panel_unpack(s, r, panel + p, plain, p);
        }
        if (n == LANES_BLOCK_PANELS && plain) {
            tokens_sweep(s, r, panel, LANES_BLOCK_PANELS, true);
        } else if (n == LANES_BLOCK_PANELS) {
            tokens_sweep(s, r, panel, LANES_BLOCK_PANELS, false);
        } else if (plain) {
            tokens_sweep(s, r, panel, 1, true);
        } else {
            tokens_sweep(s, r, panel, 1, false);
        }
    }
}

/* Blocks from `block` on, as many as a run holds, or one in parts; returns the block
 * after them. */
static size_t blocks_sweep(minifloat_sweep *s, size_t block)
{
    const mx_block_pair *pair = &s->layout->pair;
    size_t n = mx_round_up(mx_block_pair_length(pair, block), 8);
    size_t alike = pair->k / pair->block > block ? pair->k / pair->block - block : 1;
    minifloat_run r = {
        .block = block,
        .n_blocks = mx_min_size(alike, n < MINIFLOAT_RUN ? MINIFLOAT_RUN / n : 1),
    };
    for (size_t at = 0; at < n; at += MINIFLOAT_RUN) {
        r.first = block * pair->block + at;
        r.n = mx_min_size(n - at, MINIFLOAT_RUN);
        r.begins = at == 0;
        r.ends = n - at <= MINIFLOAT_RUN;
        run_sweep(s, &r);
    }
    return block + r.n_blocks;
}

static void group_sweep(minifloat_sweep *s)
{
    const mx_minifloat_layout *layout = s->layout;
    const mx_block_product *product = s->product;
    const uint8_t *panels = product->panels + s->panel * layout->panel_bytes;
    const uint8_t *tiles = product->tiles + s->tile * layout->tile_bytes;
    for (size_t p = 0; p < s->n_panels; p++) {
        mx_scale_range range =
            mx_scale_range_of(panels + p * layout->panel_bytes, layout->panel_bytes, 1, tiles,
                              layout->tile_bytes, s->n_tiles);
        s->plain[p] = mx_minifloat_is_plain(layout, range);
        memset(s->acc[p], 0, s->n_tokens * sizeof s->acc[p][0]);
    }
    for (size_t b = 0; b < layout->pair.n_blocks;) {
        b = blocks_sweep(s, b);
    }
    float *out = product->out + s->tile * MX_TILE_TOKENS * product->out_stride;
    for (size_t p = 0; p < s->n_panels; p++) {
        size_t row = (s->panel + p) * MX_PANEL_ROWS;
        size_t n_rows = mx_min_size(product->n_rows - row, MX_PANEL_ROWS);
        for (size_t t = 0; t < s->n_tokens; t++) {
            lanes_store_part(out + t * product->out_stride + row, lanes_load(s->acc[p][t]), n_rows);
        }
    }
}

/* For tiles that are longer than the layout's part of them too: its tile_bytes says
 * how long. */
static void lanes_minifloat_product_of(const mx_block_product *product,
                                       const mx_minifloat_layout *layout)
{
    minifloat_sweep s;
    size_t n_tiles = (product->n_tokens + MX_TILE_TOKENS - 1) / MX_TILE_TOKENS;
    size_t n_panels = (product->n_rows + MX_PANEL_ROWS - 1) / MX_PANEL_ROWS;
    size_t group = MINIFLOAT_GROUP_PANELS;
    s.product = product;
    s.layout = layout;
    if (product->n_tokens <= MX_TILE_TOKENS) {
        group = MINIFLOAT_PANELS; /* panels are read in one go */
    } else if (layout->pair.block > MINIFLOAT_RUN) {
        group = MINIFLOAT_LONG_PANELS;
    }
    for (uint32_t code = 0; layout->nibbles && code < 16; code++) {
        const mx_format *format = product->weights->format;
        s.table[code] = (uint8_t)format->int_table[code & ((1u << format->bits) - 1)];
    }
    for (s.tile = 0; s.tile < n_tiles; s.tile += MINIFLOAT_GROUP_TILES) {
        size_t token = s.tile * MX_TILE_TOKENS;
        s.n_tiles = mx_min_size(n_tiles - s.tile, MINIFLOAT_GROUP_TILES);
        s.n_tokens = mx_min_size(product->n_tokens - token, MINIFLOAT_GROUP_TOKENS);
        for (s.panel = 0; s.panel < n_panels; s.panel += group) {
            s.n_panels = mx_min_size(n_panels - s.panel, group);
            group_sweep(&s);
        }
    }
}

static void lanes_minifloat_product(const mx_block_product *product)
{
    mx_minifloat_layout layout =
        mx_minifloat_layout_make(product->weights, product->activations, product->k);
    lanes_minifloat_product_of(product, &layout);
}

static void lanes_block_tile_pack(const mx_quant *weights, const mx_quant *activations, size_t k,
                                  const float *x, size_t x_stride, size_t n_tokens,
                                  uint64_t first_stream, uint8_t *tile)
{
    if (mx_block_pair_is_int(weights, activations)) {
        lanes_int_tile_pack(weights, activations, k, x, x_stride, n_tokens, first_stream, tile);
    } else {
        lanes_minifloat_tile_pack(weights, activations, k, x, x_stride, n_tokens, first_stream,
                                  tile);
    }
}

#endif
