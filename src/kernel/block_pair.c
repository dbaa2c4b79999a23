#include "kernel/block_pair.h"

#include "kernel/minifloat_layout.h"

#include <math.h>

/* Steps of a format: one is 2^-format_shift, the largest magnitude format_steps. */
static int format_shift(const mx_format *format)
{
    if (format->int_table != NULL) {
        return format->int_shift;
    }
    return -ilogb(mx_format_min_positive(format));
}

static double format_steps(const mx_format *format)
{
    int max = 0;
    if (format->int_table == NULL) {
        return ldexp(format->max, format_shift(format));
    }
    for (uint32_t code = 0; code < 1u << format->bits; code++) {
        int value = format->int_table[code];
        int magnitude = value < 0 ? -value : value;
        max = magnitude > max ? magnitude : max;
    }
    return max;
}

int mx_significant_bits(const mx_format *format)
{
    return format->kind == MX_KIND_INT ? format->bits - 1 : format->mantissa_bits + 1;
}

bool mx_block_pair_is_int(const mx_quant *weights, const mx_quant *activations)
{
    return weights->format->int_table != NULL && activations->format->int_table != NULL;
}

bool mx_block_pair_supported(const mx_quant *weights, const mx_quant *activations, size_t k)
{
    if (!mx_quant_is_scaled(weights) || !mx_quant_is_scaled(activations) || k == 0) {
        return false;
    }
    size_t block = mx_min_size(mx_quant_block(weights, k), k);
    if (block != mx_min_size(mx_quant_block(activations, k), k)) {
        return false;
    }
    if (block < k && block % 8 != 0) {
        return false;
    }
    if (!mx_block_pair_is_int(weights, activations)) {
        return mx_minifloat_supported(weights->format, activations->format);
    }
    double largest = format_steps(weights->format) * format_steps(activations->format);
    return (double)block * largest <= INT32_MAX;
}

mx_block_pair mx_block_pair_make(const mx_quant *weights, const mx_quant *activations, size_t k)
{
    size_t block = mx_min_size(mx_quant_block(weights, k), k);
    mx_block_pair pair = {
        .k = k,
        .block = block,
        .n_blocks = (k + block - 1) / block,
        .is_int = mx_block_pair_is_int(weights, activations),
        .shift = format_shift(weights->format) + format_shift(activations->format),
    };
    double largest = format_steps(weights->format) * format_steps(activations->format);
    frexp((double)block * largest, &pair.dot_bits);
    return pair;
}

static void range_add(const uint8_t *header, int *min, int *max)
{
    *min = header[MX_SCALE_MIN_AT] < *min ? header[MX_SCALE_MIN_AT] : *min;
    *max = header[MX_SCALE_MAX_AT] > *max ? header[MX_SCALE_MAX_AT] : *max;
}

mx_scale_range mx_scale_range_of(const uint8_t *panels, size_t panel_bytes, size_t n_panels,
                                 const uint8_t *tiles, size_t tile_bytes, size_t n_tiles)
{
    const int zero = MX_SCALE_OF_ZERO;
    mx_scale_range range = {.w_min = zero, .w_max = zero, .a_min = zero, .a_max = zero};
    for (size_t i = 0; i < n_panels; i++) {
        range_add(panels + i * panel_bytes, &range.w_min, &range.w_max);
    }
    for (size_t i = 0; i < n_tiles; i++) {
        range_add(tiles + i * tile_bytes, &range.a_min, &range.a_max);
    }
    return range;
}
