/*
 * The scalar reference of the matrix products and of quantization: plain loops
 * that say what every other ISA must compute.
 *
 * Its layouts of blocks, for rows r < 16 and tokens t < 16 alike: codes [16][k], one a
 * byte, then scale bytes [16][n_blocks], padded to 64 bytes.
 */
#include "kernel/kernel_ref.h"

#include "format/dtype.h"
#include "kernel/block_pair.h"

#include <math.h>
#include <string.h>

static size_t ref_block_bytes(const mx_quant *weights, const mx_quant *activations, size_t k)
{
    mx_block_pair pair = mx_block_pair_make(weights, activations, k);
    return mx_round_up(16 * (k + pair.n_blocks), 64);
}

static void ref_block_panel_pack(const mx_quant *weights, const mx_quant *activations, size_t k,
                                 const uint8_t *const *codes, const uint8_t *const *scales,
                                 size_t n_rows, uint8_t *panel)
{
    mx_block_pair pair = mx_block_pair_make(weights, activations, k);
    memset(panel, 0, ref_block_bytes(weights, activations, k));
    for (size_t r = 0; r < n_rows; r++) {
        mx_codes_unpack(codes[r], k, weights->format->bits, panel + r * k);
        memcpy(panel + 16 * k + r * pair.n_blocks, scales[r], pair.n_blocks);
    }
}

static void ref_block_tile_pack(const mx_quant *weights, const mx_quant *activations, size_t k,
                                const float *x, size_t x_stride, size_t n_tokens,
                                uint64_t first_stream, uint8_t *tile)
{
    mx_block_pair pair = mx_block_pair_make(weights, activations, k);
    memset(tile, 0, ref_block_bytes(weights, activations, k));
    for (size_t t = 0; t < n_tokens; t++) {
        for (size_t b = 0; b < pair.n_blocks; b++) {
            size_t i = b * pair.block, n = mx_block_pair_length(&pair, b);
            tile[16 * k + t * pair.n_blocks + b] = mx_block_encode(
                activations, x + t * x_stride + i, n, first_stream + t, i, tile + t * k + i);
        }
    }
}

/* What codes mean: elements' values, and table values where there is a table. */
typedef struct ref_values {
    float values[256];
    const int8_t *table;
} ref_values;

static void ref_values_make(const mx_format *format, ref_values *out)
{
    out->table = format->int_table;
    for (uint32_t code = 0; code < 1u << format->bits; code++) {
        out->values[code] = format->decode(format, code);
    }
}

/* Codes and scales of one row or token. */
typedef struct ref_row {
    const ref_values *values;
    const uint8_t *codes, *scales;
} ref_row;

/* The dot of elements [begin, end), a block, of two rows in the product of their steps
 * or of 1, as the contract says. */
static float block_dot(const mx_block_pair *pair, ref_row w, ref_row a, size_t begin, size_t end)
{
    float sums[2] = {0, 0}; /* even, odd */
    int32_t dot = 0;
    for (size_t i = begin; i < end; i++) {
        if (pair->is_int) {
            dot += w.values->table[w.codes[i]] * a.values->table[a.codes[i]];
        } else {
            float *sum = &sums[(i - begin) % 2];
            *sum = fmaf(w.values->values[w.codes[i]], a.values->values[a.codes[i]], *sum);
        }
    }
    return pair->is_int ? (float)dot : sums[0] + sums[1];
}

static float block_element(const mx_block_pair *pair, ref_row w, ref_row a)
{
    float acc = 0;
    for (size_t b = 0; b < pair->n_blocks; b++) {
        size_t begin = b * pair->block;
        float dot = block_dot(pair, w, a, begin, begin + mx_block_pair_length(pair, b));
        int exponent = w.scales[b] + a.scales[b] - 2 * MX_E8M0_BIAS;
        if (w.scales[b] == MX_E8M0_NAN || a.scales[b] == MX_E8M0_NAN) {
            dot = NAN;
        }
        acc += ldexpf(dot, exponent - (pair->is_int ? pair->shift : 0));
    }
    return acc;
}

static void ref_block_product(const mx_block_product *p)
{
    mx_block_pair pair = mx_block_pair_make(p->weights, p->activations, p->k);
    size_t bytes = ref_block_bytes(p->weights, p->activations, p->k);
    ref_values w_values, a_values;
    ref_values_make(p->weights->format, &w_values);
    ref_values_make(p->activations->format, &a_values);
    for (size_t t = 0; t < p->n_tokens; t++) {
        const uint8_t *tile = p->tiles + t / MX_TILE_TOKENS * bytes;
        size_t lane = t % MX_TILE_TOKENS;
        ref_row a = {&a_values, tile + lane * p->k, tile + 16 * p->k + lane * pair.n_blocks};
        for (size_t r = 0; r < p->n_rows; r++) {
            const uint8_t *panel = p->panels + r / MX_PANEL_ROWS * bytes;
            size_t row = r % MX_PANEL_ROWS;
            ref_row w = {&w_values, panel + row * p->k, panel + 16 * p->k + row * pair.n_blocks};
            p->out[t * p->out_stride + r] = block_element(&pair, w, a);
        }
    }
}

static void ref_f32_panel_pack(const float *const *rows, size_t n_rows, size_t k, float *panel)
{
    for (size_t i = 0; i < k; i++) {
        for (size_t r = 0; r < MX_PANEL_ROWS; r++) {
            panel[i * MX_PANEL_ROWS + r] = r < n_rows ? rows[r][i] : 0;
        }
    }
}

static float bf16_at(const uint8_t *row, size_t i)
{
    return mx_bf16_to_f32((uint16_t)(row[2 * i] | row[2 * i + 1] << 8));
}

static void ref_bf16_panel_pack(const uint8_t *const *rows, size_t n_rows, size_t k, float *panel)
{
    for (size_t i = 0; i < k; i++) {
        for (size_t r = 0; r < MX_PANEL_ROWS; r++) {
            panel[i * MX_PANEL_ROWS + r] = r < n_rows ? bf16_at(rows[r], i) : 0;
        }
    }
}

/* Place of token t's element i in the packed x. */
static size_t f32_place(size_t n_tokens, size_t k, size_t t, size_t i)
{
    size_t begin = i / MX_F32_SLICE * MX_F32_SLICE, first = t / MX_F32_TOKENS * MX_F32_TOKENS;
    size_t width = mx_f32_slice_width(begin, k);
    size_t n = n_tokens - first < MX_F32_TOKENS ? n_tokens - first : MX_F32_TOKENS;
    return mx_f32_tile_offset(n_tokens, begin, width, first) + (i - begin) * n + (t - first);
}

static void ref_f32_tile_pack(const float *x, size_t x_stride, size_t k, size_t first,
                              size_t n_tokens, float *packed)
{
    for (size_t t = first; t < n_tokens && t < first + MX_F32_TOKENS; t++) {
        for (size_t i = 0; i < k; i++) {
            packed[f32_place(n_tokens, k, t, i)] = x[(t - first) * x_stride + i];
        }
    }
}

static void ref_f32_product(const mx_f32_product *p)
{
    size_t end = p->first_k + p->k;
    for (size_t t = 0; t < p->n_tokens; t++) {
        for (size_t r = 0; r < p->n_rows; r++) {
            const float *panel = p->panels + r / MX_PANEL_ROWS * p->k * MX_PANEL_ROWS;
            float *out = &p->out[t * p->out_stride + r];
            float acc = p->first_k == 0 ? 0 : *out;
            for (size_t i = p->first_k; i < end; i++) {
                float w = panel[(i - p->first_k) * MX_PANEL_ROWS + r % MX_PANEL_ROWS];
                acc = fmaf(p->x[f32_place(p->x_tokens, end, p->first_token + t, i)], w, acc);
            }
            *out = acc;
        }
    }
}

static void ref_bf16_product(const mx_bf16_product *p)
{
    for (size_t t = 0; t < p->n_tokens; t++) {
        const float *x = p->x + t * p->x_stride;
        for (size_t r = 0; r < p->n_rows; r++) {
            const uint8_t *row = p->rows + r * p->row_bytes;
            float acc = 0;
            for (size_t i = 0; i < p->k; i++) {
                acc = fmaf(x[i], bf16_at(row, i), acc);
            }
            p->out[t * p->out_stride + r] = acc;
        }
    }
}

void mx_kernels_ref(mx_kernels *table)
{
    *table = (mx_kernels){
        .name = "ref",
        .block_supported = mx_block_pair_supported,
        .block_panel_bytes = ref_block_bytes,
        .block_tile_bytes = ref_block_bytes,
        .block_panel_pack = ref_block_panel_pack,
        .block_tile_pack = ref_block_tile_pack,
        .block_product = ref_block_product,
        .f32_panel_pack = ref_f32_panel_pack,
        .bf16_panel_pack = ref_bf16_panel_pack,
        .f32_tile_pack = ref_f32_tile_pack,
        .f32_product = ref_f32_product,
        .bf16_product = ref_bf16_product,
        .row_cast = mx_row_cast,
        .rms_norm = mx_ref_rms_norm,
        .rope = mx_ref_rope,
        .attention = mx_ref_attention,
        .silu_mul = mx_ref_silu_mul,
        .add = mx_ref_add,
        .row_stats = mx_ref_row_stats,
    };
}
