#include "kernel/int_pair.h"

/* Largest magnitude of an int table. */
static int table_max(const mx_format *format)
{
    int max = 0;
    for (uint32_t code = 0; code < 1u << format->bits; code++) {
        int value = format->int_table[code];
        int magnitude = value < 0 ? -value : value;
        max = magnitude > max ? magnitude : max;
    }
    return max;
}

bool mx_int_pair_supported(const mx_quant *weights, const mx_quant *activations, size_t k)
{
    const mx_format *w = weights->format, *a = activations->format;
    if (w == NULL || a == NULL || w->int_table == NULL || a->int_table == NULL || k == 0) {
        return false;
    }
    size_t block = mx_min_size(mx_quant_block(weights, k), k);
    if (block != mx_min_size(mx_quant_block(activations, k), k)) {
        return false;
    }
    if (block < k && block % 8 != 0) {
        return false;
    }
    uint64_t product = (uint64_t)table_max(w) * (uint64_t)table_max(a);
    return block <= (uint64_t)INT32_MAX / product;
}

mx_int_pair mx_int_pair_make(const mx_quant *weights, const mx_quant *activations, size_t k)
{
    size_t block = mx_min_size(mx_quant_block(weights, k), k);
    mx_int_pair pair = {
        .k = k,
        .block = block,
        .n_blocks = (k + block - 1) / block,
        .shift = weights->format->int_shift + activations->format->int_shift,
    };
    uint64_t largest = (uint64_t)block * (uint64_t)table_max(weights->format) *
                       (uint64_t)table_max(activations->format);
    while (largest >> pair.dot_bits != 0) {
        pair.dot_bits++;
    }
    return pair;
}
