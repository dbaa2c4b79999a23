/*
 * fp32 product of few tokens with rows of bf16 as they are stored, over `lanes`: 16
 * rows are turned into columns 32 at a time, in the first-level cache, and used at
 * once. For few tokens the matrix is read once and nothing else matters;
 * for many, panels made beforehand (lanes_f32.h) are used again and again.
 */
#ifndef MX_KERNEL_LANES_BF16_H
#define MX_KERNEL_LANES_BF16_H

#include "kernel/kernel.h"
#include "kernel/unroll.h"

#include <string.h>

/* An ISA says how many `lanes` of sums its registers hold beside what makes them,
 * LANES_BF16_SUMS: 4 or 8. */
enum {
    BF16_PANELS = 2,   /* panels at once for one token: four were too many streams */
    BF16_AHEAD = 1024, /* bytes of a row, prefetched */
    BF16_LINE = 64,
    BF16_BURST = 8,   /* lines of a row, prefetched together */
    BF16_LONG = 1024, /* columns that are worth beginning at a line */
    BF16_ELEMENT = 2,
    BF16_STEP = 32, /* columns at a time: a cache line of a row */
    BF16_FEW = 4,   /* tokens of the second smallest tile */
    BF16_FEW_PANELS = LANES_BF16_SUMS / BF16_FEW,
};

/* Columns [k, k + n) of rows as a panel of fp32 [n][16], missing rows zero. */
static void bf16_unpack_part(const uint8_t *const *rows, size_t n_rows, size_t k, size_t n,
                             float *panel)
{
    for (size_t c = 0; c < n; c++) {
        for (size_t r = 0; r < MX_PANEL_ROWS; r++) {
            uint16_t half = 0;
            if (r < n_rows) {
                memcpy(&half, rows[r] + (k + c) * BF16_ELEMENT, sizeof half);
            }
            uint32_t bits = (uint32_t)half << 16;
            memcpy(&panel[c * MX_PANEL_ROWS + r], &bits, sizeof bits);
        }
    }
}

/* Rows to a panel of fp32, which is then used again and again. */
static void lanes_bf16_panel_pack(const uint8_t *const *rows, size_t n_rows, size_t k, float *panel)
{
    size_t i = 0;
    for (; n_rows == MX_PANEL_ROWS && i + BF16_STEP <= k; i += BF16_STEP) {
        float pairs[16 * MX_PANEL_ROWS] __attribute__((aligned(64)));
        const float *words[MX_PANEL_ROWS];
        for (size_t r = 0; r < MX_PANEL_ROWS; r++) {
            words[r] = (const float *)(const void *)(rows[r] + i * BF16_ELEMENT);
        }
        lanes_transpose(words, 0, pairs);
        for (size_t c = 0; c < 16; c++) {
            lanes pair = lanes_load(pairs + c * MX_PANEL_ROWS);
            lanes_store(panel + (i + 2 * c) * MX_PANEL_ROWS, lanes_bf16_low(pair));
            lanes_store(panel + (i + 2 * c + 1) * MX_PANEL_ROWS, lanes_bf16_high(pair));
        }
    }
    bf16_unpack_part(rows, n_rows, i, k - i, panel + i * MX_PANEL_ROWS);
}

/* Sums of a tile. */
typedef lanes bf16_sums[BF16_PANELS][MX_BF16_TOKENS];

/* acc += one column of 16 rows times the tokens' element k. */
MX_TEMPLATE void bf16_add(const float *const *x, size_t k, lanes column, int n_tokens, lanes *acc)
{
    MX_UNROLL
    for (int t = 0; t < n_tokens; t++) {
        acc[t] = lanes_fma(lanes_set(x[t][k]), column, acc[t]);
    }
}

/* 16 rows of BF16_STEP columns from k on to pairs of columns [16][16], each a word. */
MX_TEMPLATE void bf16_turn(const uint8_t *const *rows, size_t k, float *pairs)
{
    const float *words[MX_PANEL_ROWS];
    MX_UNROLL
    for (size_t r = 0; r < MX_PANEL_ROWS; r++) {
        words[r] = (const float *)(const void *)(rows[r] + k * BF16_ELEMENT);
    }
    lanes_transpose(words, 0, pairs);
}

/* acc += columns [k, k + BF16_STEP), turned, for tokens [first, first + n_tokens). */
MX_TEMPLATE void bf16_columns(const float (*pairs)[16 * MX_PANEL_ROWS], const float *const *x,
                              size_t k, int n_panels, int first, int n_tokens, bf16_sums acc)
{
    bf16_sums sums;
    MX_UNROLL
    for (int i = 0; i < n_panels; i++) {
        MX_UNROLL
        for (int t = 0; t < n_tokens; t++) {
            sums[i][t] = acc[i][first + t];
        }
    }
    MX_UNROLL
    for (size_t c = 0; c < 16; c++) {
        MX_UNROLL
        for (int i = 0; i < n_panels; i++) {
            lanes pair = lanes_load(pairs[i] + c * MX_PANEL_ROWS);
            bf16_add(x + first, k + 2 * c, lanes_bf16_low(pair), n_tokens, sums[i]);
            bf16_add(x + first, k + 2 * c + 1, lanes_bf16_high(pair), n_tokens, sums[i]);
        }
    }
    MX_UNROLL
    for (int i = 0; i < n_panels; i++) {
        MX_UNROLL
        for (int t = 0; t < n_tokens; t++) {
            acc[i][first + t] = sums[i][t];
        }
    }
}

/*
 * Fetches what is used BF16_AHEAD bytes after column k, step `step`, of n_rows rows, near
 * their end what the next tile begins with: a line of each row, or `burst` lines of every burst-th
 * part of the rows in turn, since memory gives neighbours faster. To the second level: rows often
 * lie 4 KB apart, where the first has no room for all. Beyond the last row this does nothing.
 */
MX_TEMPLATE void bf16_fetch(const mx_bf16_product *p, const uint8_t *const *rows, size_t n_rows,
                            size_t k, size_t step, size_t burst)
{
    size_t each = n_rows / burst, turn = step % burst;
    size_t at = (k - turn * BF16_STEP) * BF16_ELEMENT + BF16_AHEAD;
    at += at < p->row_bytes ? 0 : p->row_bytes * (n_rows - 1);
    for (size_t r = turn * each; r < (turn + 1) * each; r++) {
        for (size_t i = 0; i < burst; i++) {
            __builtin_prefetch(rows[r] + at + i * BF16_LINE, 0, 2);
        }
    }
}

/* acc += columns [k, k + BF16_STEP). */
MX_TEMPLATE void bf16_step(const uint8_t *const *rows, const float *const *x, size_t k,
                           int n_panels, int n_tokens, bf16_sums acc)
{
    float pairs[BF16_PANELS][16 * MX_PANEL_ROWS] __attribute__((aligned(64)));
    MX_UNROLL
    for (int i = 0; i < n_panels; i++) {
        bf16_turn(rows + i * MX_PANEL_ROWS, k, pairs[i]);
    }
    int at_once = n_tokens < LANES_BF16_SUMS ? n_tokens : LANES_BF16_SUMS;
    for (int t = 0; t < n_tokens; t += at_once) {
        bf16_columns(pairs, x, k, n_panels, t, at_once, acc);
    }
}

/* acc += columns [begin, end), fewer than BF16_STEP. */
MX_TEMPLATE void bf16_rest(const uint8_t *const *rows, const float *const *x, size_t begin,
                           size_t end, int n_panels, int n_tokens, bf16_sums acc)
{
    MX_UNROLL
    for (int i = 0; i < n_panels; i++) {
        float panel[BF16_STEP * MX_PANEL_ROWS];
        bf16_unpack_part(rows + i * MX_PANEL_ROWS, MX_PANEL_ROWS, begin, end - begin, panel);
        for (size_t k = begin; k < end; k++) {
            lanes column = lanes_load(panel + (k - begin) * MX_PANEL_ROWS);
            bf16_add(x, k, column, n_tokens, acc[i]);
        }
    }
}

/* Columns before the first that begins a cache line in every row; 0 where there is none, or
 * rows are too short for it to pay. Steps that straddle lines read each of them twice. */
static size_t bf16_lead(const mx_bf16_product *p)
{
    size_t past = (uintptr_t)p->rows % BF16_LINE;
    bool alike = p->row_bytes % BF16_LINE == 0 && past % BF16_ELEMENT == 0;
    return alike && past > 0 && p->k >= BF16_LONG ? (BF16_LINE - past) / BF16_ELEMENT : 0;
}

/* n_panels * 16 rows from `row` on, n_tokens or fewer tokens. */
MX_TEMPLATE void bf16_tile(const mx_bf16_product *p, size_t row, int n_panels, int n_tokens)
{
    const uint8_t *rows[BF16_PANELS * MX_PANEL_ROWS];
    const float *x[MX_BF16_TOKENS];
    size_t n_rows = (size_t)n_panels * MX_PANEL_ROWS;
    bf16_sums acc;
    for (size_t r = 0; r < n_rows; r++) {
        size_t valid = row + r < p->n_rows ? row + r : p->n_rows - 1;
        rows[r] = p->rows + valid * p->row_bytes;
    }
    MX_UNROLL
    for (int t = 0; t < n_tokens; t++) {
        size_t valid = (size_t)t < p->n_tokens ? (size_t)t : 0;
        x[t] = p->x + valid * p->x_stride;
        MX_UNROLL
        for (int i = 0; i < n_panels; i++) {
            acc[i][t] = lanes_set(0);
        }
    }
    size_t lead = bf16_lead(p), n_steps = (p->k - lead) / BF16_STEP, k = lead;
    bool bursts = p->k % (BF16_STEP * BF16_BURST) == 0; /* or all rows have no turn */
    bf16_rest(rows, x, 0, lead, n_panels, n_tokens, acc);
    for (size_t step = 0; step < n_steps; step++, k += BF16_STEP) {
        if (bursts) {
            bf16_fetch(p, rows, n_rows, k, step, BF16_BURST);
        } else {
            bf16_fetch(p, rows, n_rows, k, step, 1);
        }
        bf16_step(rows, x, k, n_panels, n_tokens, acc);
    }
    bf16_rest(rows, x, k, p->k, n_panels, n_tokens, acc);
    MX_UNROLL
    for (int i = 0; i < n_panels; i++) {
        size_t first = row + (size_t)i * MX_PANEL_ROWS, rest = p->n_rows - first;
        MX_UNROLL
        for (int t = 0; t < n_tokens; t++) {
            if ((size_t)t < p->n_tokens) {
                lanes_store_part(p->out + (size_t)t * p->out_stride + first, acc[i][t],
                                 rest < MX_PANEL_ROWS ? rest : MX_PANEL_ROWS);
            }
        }
    }
}

MX_TEMPLATE void bf16_rows(const mx_bf16_product *p, int n_panels, int n_tokens)
{
    size_t row = 0, step = (size_t)n_panels * MX_PANEL_ROWS;
    for (; row + step <= p->n_rows; row += step) {
        bf16_tile(p, row, n_panels, n_tokens);
    }
    for (; row < p->n_rows; row += MX_PANEL_ROWS) {
        bf16_tile(p, row, 1, n_tokens);
    }
}

static void lanes_bf16_product(const mx_bf16_product *p)
{
    if (p->n_tokens == 1) {
        bf16_rows(p, BF16_PANELS, 1);
    } else if (p->n_tokens <= BF16_FEW) {
        bf16_rows(p, BF16_FEW_PANELS, BF16_FEW);
    } else {
        bf16_rows(p, 1, MX_BF16_TOKENS);
    }
}

#endif
