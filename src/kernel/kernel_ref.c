/*
 * The scalar reference of the matrix products and of quantization: plain loops
 * that say what every other ISA must compute.
 *
 * Its integer layouts, for rows r < 16 and tokens t < 16 alike: table values
 * int8 [16][k], then scale bytes [16][n_blocks], padded to 64 bytes.
 */
#include "kernel/kernel_ref.h"

#include "kernel/int_pair.h"

#include <math.h>
#include <string.h>

static size_t ref_int_bytes(const mx_quant *weights, const mx_quant *activations, size_t k)
{
    mx_int_pair pair = mx_int_pair_make(weights, activations, k);
    return mx_round_up(16 * (k + pair.n_blocks), 64);
}

/* Codes [n], one a byte, become table values in place. */
static void codes_to_values(const mx_format *format, uint8_t *codes, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        codes[i] = (uint8_t)format->int_table[codes[i]];
    }
}

static void ref_int_panel_pack(const mx_quant *weights, const mx_quant *activations, size_t k,
                               const uint8_t *const *codes, const uint8_t *const *scales,
                               size_t n_rows, uint8_t *panel)
{
    mx_int_pair pair = mx_int_pair_make(weights, activations, k);
    memset(panel, 0, ref_int_bytes(weights, activations, k));
    for (size_t r = 0; r < n_rows; r++) {
        uint8_t *values = panel + r * k;
        mx_codes_unpack(codes[r], k, weights->format->bits, values);
        codes_to_values(weights->format, values, k);
        memcpy(panel + 16 * k + r * pair.n_blocks, scales[r], pair.n_blocks);
    }
}

static void ref_int_tile_pack(const mx_quant *weights, const mx_quant *activations, size_t k,
                              const float *x, size_t x_stride, size_t n_tokens,
                              uint64_t first_stream, uint8_t *tile)
{
    mx_int_pair pair = mx_int_pair_make(weights, activations, k);
    memset(tile, 0, ref_int_bytes(weights, activations, k));
    for (size_t t = 0; t < n_tokens; t++) {
        for (size_t b = 0; b < pair.n_blocks; b++) {
            size_t i = b * pair.block, n = mx_int_pair_length(&pair, b);
            uint8_t *values = tile + t * k + i;
            tile[16 * k + t * pair.n_blocks + b] =
                mx_block_encode(activations, x + t * x_stride + i, n, first_stream + t, i, values);
            codes_to_values(activations->format, values, n);
        }
    }
}

/* One block's term of the contract: ldexpf((float)dot, exponent), NaN when a
 * scale is. */
static float block_term(int32_t dot, uint8_t w_scale, uint8_t a_scale, int shift)
{
    if (w_scale == MX_E8M0_NAN || a_scale == MX_E8M0_NAN) {
        return NAN;
    }
    return ldexpf((float)dot, w_scale + a_scale - 2 * MX_E8M0_BIAS - shift);
}

/* Row r of a panel times token t of a tile. */
static float int_element(const mx_int_pair *pair, const uint8_t *panel, size_t r,
                         const uint8_t *tile, size_t t)
{
    const int8_t *w = (const int8_t *)panel + r * pair->k;
    const int8_t *a = (const int8_t *)tile + t * pair->k;
    const uint8_t *w_scales = panel + 16 * pair->k + r * pair->n_blocks;
    const uint8_t *a_scales = tile + 16 * pair->k + t * pair->n_blocks;
    float acc = 0;
    for (size_t b = 0; b < pair->n_blocks; b++) {
        size_t begin = b * pair->block, n = mx_int_pair_length(pair, b);
        int32_t dot = 0;
        for (size_t i = begin; i < begin + n; i++) {
            dot += w[i] * a[i];
        }
        acc += block_term(dot, w_scales[b], a_scales[b], pair->shift);
    }
    return acc;
}

static void ref_int_product(const mx_int_product *p)
{
    mx_int_pair pair = mx_int_pair_make(p->weights, p->activations, p->k);
    size_t bytes = ref_int_bytes(p->weights, p->activations, p->k);
    for (size_t t = 0; t < p->n_tokens; t++) {
        const uint8_t *tile = p->tiles + t / MX_TILE_TOKENS * bytes;
        for (size_t r = 0; r < p->n_rows; r++) {
            const uint8_t *panel = p->panels + r / MX_PANEL_ROWS * bytes;
            p->out[t * p->out_stride + r] =
                int_element(&pair, panel, r % MX_PANEL_ROWS, tile, t % MX_TILE_TOKENS);
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

static void ref_f32_product(const mx_f32_product *p)
{
    for (size_t t = 0; t < p->n_tokens; t++) {
        const float *x = p->x + t * p->x_stride;
        for (size_t r = 0; r < p->n_rows; r++) {
            const float *w = p->panels + r / MX_PANEL_ROWS * p->k * MX_PANEL_ROWS;
            float acc = 0;
            for (size_t i = 0; i < p->k; i++) {
                acc = fmaf(x[i], w[i * MX_PANEL_ROWS + r % MX_PANEL_ROWS], acc);
            }
            p->out[t * p->out_stride + r] = acc;
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
                uint32_t bits = (uint32_t)row[2 * i] << 16 | (uint32_t)row[2 * i + 1] << 24;
                float w;
                memcpy(&w, &bits, sizeof w);
                acc = fmaf(x[i], w, acc);
            }
            p->out[t * p->out_stride + r] = acc;
        }
    }
}

void mx_kernels_ref(mx_kernels *table)
{
    *table = (mx_kernels){
        .name = "ref",
        .int_supported = mx_int_pair_supported,
        .int_panel_bytes = ref_int_bytes,
        .int_tile_bytes = ref_int_bytes,
        .int_panel_pack = ref_int_panel_pack,
        .int_tile_pack = ref_int_tile_pack,
        .int_product = ref_int_product,
        .f32_panel_pack = ref_f32_panel_pack,
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
