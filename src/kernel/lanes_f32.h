/*
 * fp32 product and panels over `lanes`: one fma chain per output, k ascending. k is
 * taken in slices whose part of the panels stays in the second-level cache;
 * between slices the chains rest in `out`.
 */
#ifndef MX_KERNEL_LANES_F32_H
#define MX_KERNEL_LANES_F32_H

#include "kernel/kernel.h"
#include "kernel/unroll.h"

enum {
    F32_SLICE = 1024,      /* of k: 64 KiB a panel */
    F32_TOKEN_CHUNK = 192, /* tokens that a slice of panels passes before the next panels */
    F32_LONE_PANELS = 4,   /* panels at once for one token */
};

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

/* Where a register tile works: n_panels x n_tokens, columns [begin, end) of k. */
typedef struct f32_place {
    size_t panel, token, begin, end;
} f32_place;

/* What the tile after this one needs first: its x, and where its chains rest.
 * Beyond the last token this does nothing. */
MX_TEMPLATE void f32_prefetch_next(const mx_f32_product *p, f32_place at, const float *x,
                                   const float *out, int n_panels, int n_tokens)
{
    MX_UNROLL
    for (int t = n_tokens; t < 2 * n_tokens; t++) {
        const float *next_x = x + (size_t)t * p->x_stride + at.begin;
        __builtin_prefetch(next_x);
        __builtin_prefetch(next_x + 16);
        MX_UNROLL
        for (int i = 0; i < n_panels; i++) {
            __builtin_prefetch(out + (size_t)t * p->out_stride + i * MX_PANEL_ROWS, 1);
        }
    }
}

/* Valid rows of a panel. */
static inline size_t f32_panel_rows(const mx_f32_product *p, size_t panel)
{
    size_t rest = p->n_rows - panel * MX_PANEL_ROWS;
    return rest < MX_PANEL_ROWS ? rest : MX_PANEL_ROWS;
}

MX_TEMPLATE void f32_tile(const mx_f32_product *p, f32_place at, int n_panels, int n_tokens)
{
    size_t panel_size = p->k * MX_PANEL_ROWS;
    const float *w = p->panels + at.panel * panel_size;
    const float *x = p->x + at.token * p->x_stride;
    float *out = p->out + at.token * p->out_stride + at.panel * MX_PANEL_ROWS;
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
    f32_prefetch_next(p, at, x, out, n_panels, n_tokens);
    for (size_t k = at.begin; k < at.end; k++) {
        lanes row[F32_LONE_PANELS];
        MX_UNROLL
        for (int i = 0; i < n_panels; i++) {
            row[i] = lanes_load(w + (size_t)i * panel_size + k * MX_PANEL_ROWS);
        }
        MX_UNROLL
        for (int t = 0; t < n_tokens; t++) {
            lanes value = lanes_set(x[(size_t)t * p->x_stride + k]);
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

/* Tokens [at.token, end) against n_panels panels; what is less than a full tile
 * goes in fours and ones. */
MX_TEMPLATE void f32_tokens(const mx_f32_product *p, f32_place at, size_t end, int n_panels)
{
    for (; at.token + LANES_F32_TOKENS <= end; at.token += LANES_F32_TOKENS) {
        f32_tile(p, at, n_panels, LANES_F32_TOKENS);
    }
    for (; at.token + 4 <= end; at.token += 4) {
        f32_tile(p, at, n_panels, 4);
    }
    for (; at.token < end; at.token++) {
        f32_tile(p, at, n_panels, 1);
    }
}

static void f32_panels(const mx_f32_product *p, f32_place at, size_t end, size_t n_panels)
{
    for (; at.panel + LANES_F32_PANELS <= n_panels; at.panel += LANES_F32_PANELS) {
        f32_tokens(p, at, end, LANES_F32_PANELS);
    }
    for (; at.panel < n_panels; at.panel++) {
        f32_tokens(p, at, end, 1);
    }
}

/* One token: several panels at once, or the one chain a panel would wait for
 * itself. */
static void f32_lone_token(const mx_f32_product *p, size_t n_panels)
{
    f32_place at = {.end = p->k};
    for (; at.panel + F32_LONE_PANELS <= n_panels; at.panel += F32_LONE_PANELS) {
        f32_tile(p, at, F32_LONE_PANELS, 1);
    }
    for (; at.panel < n_panels; at.panel++) {
        f32_tile(p, at, 1, 1);
    }
}

static void lanes_f32_product(const mx_f32_product *p)
{
    size_t n_panels = (p->n_rows + MX_PANEL_ROWS - 1) / MX_PANEL_ROWS;
    if (p->n_tokens == 1) {
        f32_lone_token(p, n_panels);
        return;
    }
    f32_place at = {0};
    for (at.token = 0; at.token < p->n_tokens; at.token += F32_TOKEN_CHUNK) {
        size_t rest = p->n_tokens - at.token;
        size_t end = at.token + (rest < F32_TOKEN_CHUNK ? rest : F32_TOKEN_CHUNK);
        at.begin = 0;
        do {
            at.end = p->k - at.begin < F32_SLICE ? p->k : at.begin + F32_SLICE;
            f32_panels(p, at, end, n_panels);
            at.begin = at.end;
        } while (at.begin < p->k);
    }
}

#endif
