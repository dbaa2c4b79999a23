/*
 * fp32 product over `lanes`, and the packing of its operands: one fma chain per
 * output, k ascending. k is taken in slices (MX_F32_SLICE); between slices the chains
 * rest in `out`. A tile of tokens stays in the first-level cache while a slice of all
 * panels passes over it, from the second level, where it stays for the next tiles.
 */
#ifndef MX_KERNEL_LANES_F32_H
#define MX_KERNEL_LANES_F32_H

#include "kernel/kernel.h"
#include "kernel/unroll.h"

enum { F32_LONE_PANELS = 4 /* panels at once for one token */ };

static void lanes_f32_panel_pack(const float *const *rows, size_t n_rows, size_t k, float *panel)
{
    size_t i = 0;
    if (n_rows == MX_PANEL_ROWS) {
        for (; i + 16 <= k; i += 16) {
            lanes_transpose(rows, i, panel + i * MX_PANEL_ROWS);
        }
    }
    for (; i < k; i++) {
        for (size_t r = 0; r < MX_PANEL_ROWS; r++) {
            panel[i * MX_PANEL_ROWS + r] = r < n_rows ? rows[r][i] : 0;
        }
    }
}

/* Columns [begin, begin + width) of n tokens to tile [width][n]. */
static void f32_pack_slice(const float *const rows[16], size_t n, size_t begin, size_t width,
                           float *tile)
{
    size_t i = 0;
    for (; i + 16 <= width; i += 16) {
        float block[16 * 16] __attribute__((aligned(64)));
        lanes_transpose(rows, begin + i, block);
        for (size_t c = 0; c < 16; c++) {
            lanes_store_part(tile + (i + c) * n, lanes_load(block + c * 16), n);
        }
    }
    for (; i < width; i++) {
        for (size_t t = 0; t < n; t++) {
            tile[i * n + t] = rows[t][begin + i];
        }
    }
}

static void lanes_f32_tile_pack(const float *x, size_t x_stride, size_t k, size_t first,
                                size_t n_tokens, float *packed)
{
    size_t n = n_tokens - first < MX_F32_TOKENS ? n_tokens - first : MX_F32_TOKENS;
    const float *rows[16];
    for (size_t t = 0; t < 16; t++) {
        rows[t] = x + (t < n ? t : 0) * x_stride;
    }
    for (size_t begin = 0, width; begin < k; begin += width) {
        width = mx_f32_slice_width(begin, k);
        f32_pack_slice(rows, n, begin, width,
                       packed + mx_f32_tile_offset(n_tokens, begin, width, first));
    }
}

/* Where a register tile works: a slice of k, tokens of one tile of x, panels from
 * `panel` on. */
typedef struct f32_place {
    const float *x; /* [width][stride], the first token's column */
    size_t stride;  /* tokens of the tile of x */
    float *out;     /* row of the first token */
    const float *w; /* panel 0, row `begin` of its columns */
    size_t begin, width, panel;
} f32_place;

/* Valid rows of a panel. */
static inline size_t f32_panel_rows(const mx_f32_product *p, size_t panel)
{
    size_t rest = p->n_rows - panel * MX_PANEL_ROWS;
    return rest < MX_PANEL_ROWS ? rest : MX_PANEL_ROWS;
}

MX_TEMPLATE void f32_tile(const mx_f32_product *p, f32_place at, int n_panels, int n_tokens)
{
    size_t panel_size = p->k * MX_PANEL_ROWS;
    const float *w = at.w + at.panel * panel_size;
    float *out = at.out + at.panel * MX_PANEL_ROWS;
    lanes acc[F32_LONE_PANELS][LANES_F32_TOKENS];
    MX_UNROLL
    for (int i = 0; i < n_panels; i++) {
        size_t rows = f32_panel_rows(p, at.panel + (size_t)i);
        MX_UNROLL
        for (int t = 0; t < n_tokens; t++) {
            const float *resting = out + (size_t)t * p->out_stride + i * MX_PANEL_ROWS;
            acc[i][t] = at.begin == 0 ? lanes_set(0) : lanes_load_part(resting, rows);
        }
    }
    MX_UNROLL_TWICE
    for (size_t k = 0; k < at.width; k++) {
        lanes row[F32_LONE_PANELS];
        MX_UNROLL
        for (int i = 0; i < n_panels; i++) {
            row[i] = lanes_load(w + (size_t)i * panel_size + k * MX_PANEL_ROWS);
        }
        MX_UNROLL
        for (int t = 0; t < n_tokens; t++) {
            lanes value = lanes_set(at.x[k * at.stride + (size_t)t]);
            MX_UNROLL
            for (int i = 0; i < n_panels; i++) {
                acc[i][t] = lanes_fma(value, row[i], acc[i][t]);
            }
        }
    }
    MX_UNROLL
    for (int i = 0; i < n_panels; i++) {
        size_t rows = f32_panel_rows(p, at.panel + (size_t)i);
        MX_UNROLL
        for (int t = 0; t < n_tokens; t++) {
            lanes_store_part(out + (size_t)t * p->out_stride + i * MX_PANEL_ROWS, acc[i][t], rows);
        }
    }
}

/* at, n tokens on. */
static inline f32_place f32_skip(const mx_f32_product *p, f32_place at, size_t n)
{
    at.x += n;
    at.out += n * p->out_stride;
    return at;
}

/* The tokens of a tile of x against n_panels panels; what is less than a full
 * register tile goes in fours and ones. */
MX_TEMPLATE void f32_tokens(const mx_f32_product *p, f32_place at, int n_panels)
{
    size_t n = at.stride;
    if (n == MX_F32_TOKENS) {
        at.stride = MX_F32_TOKENS; /* a literal: addresses need no register */
        MX_UNROLL
        for (int t = 0; t < MX_F32_TOKENS; t += LANES_F32_TOKENS) {
            f32_tile(p, f32_skip(p, at, (size_t)t), n_panels, LANES_F32_TOKENS);
        }
        return;
    }
    for (; n >= 4; n -= 4, at = f32_skip(p, at, 4)) {
        f32_tile(p, at, n_panels, 4);
    }
    for (; n > 0; n--, at = f32_skip(p, at, 1)) {
        f32_tile(p, at, n_panels, 1);
    }
}

/* One tile of x. One token takes several panels at once, or the one chain a panel
 * would wait for itself. */
static void f32_panels(const mx_f32_product *p, f32_place at)
{
    size_t n_panels = (p->n_rows + MX_PANEL_ROWS - 1) / MX_PANEL_ROWS;
    if (at.stride == 1) {
        for (; at.panel + F32_LONE_PANELS <= n_panels; at.panel += F32_LONE_PANELS) {
            f32_tile(p, at, F32_LONE_PANELS, 1);
        }
    }
    for (; at.panel + LANES_F32_PANELS <= n_panels; at.panel += LANES_F32_PANELS) {
        f32_tokens(p, at, LANES_F32_PANELS);
    }
    for (; at.panel < n_panels; at.panel++) {
        f32_tokens(p, at, 1);
    }
}

static void lanes_f32_product(const mx_f32_product *p)
{
    size_t end = p->first_k + p->k;
    for (size_t begin = p->first_k, width; begin < end; begin += width) {
        width = mx_f32_slice_width(begin, end);
        for (size_t t = 0; t < p->n_tokens; t += MX_F32_TOKENS) {
            size_t token = p->first_token + t, rest = p->x_tokens - token;
            f32_place at = {
                .x = p->x + mx_f32_tile_offset(p->x_tokens, begin, width, token),
                .stride = rest < MX_F32_TOKENS ? rest : MX_F32_TOKENS,
                .out = p->out + t * p->out_stride,
                .w = p->panels + (begin - p->first_k) * MX_PANEL_ROWS,
                .begin = begin,
                .width = width,
            };
            f32_panels(p, at);
        }
    }
}

#endif
