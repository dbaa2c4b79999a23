#include "model/kv_store.h"

#include <stdlib.h>
#include <string.h>

enum { KEY_TILE = 16 };

mx_status mx_kv_init(const mx_llama_config *config, uint32_t layers, size_t positions,
                     mx_kv_store *out, mx_error *err)
{
    *out = (mx_kv_store){
        .head_dim = config->head_dim,
        .kv_heads = config->kv_heads,
        .layers = layers,
        .positions = (positions + KEY_TILE - 1) / KEY_TILE * KEY_TILE,
    };
    size_t row = (size_t)layers * config->kv_heads * config->head_dim;
    if (out->positions > SIZE_MAX / sizeof(float) / row) {
        return mx_error_nomem(err, "KV store", SIZE_MAX);
    }
    /* calloc maps zero pages: a long capacity costs memory only where used. */
    out->keys = calloc(out->positions * row, sizeof(float));
    out->values = calloc(out->positions * row, sizeof(float));
    if (out->keys == NULL || out->values == NULL) {
        mx_kv_clear(out);
        return mx_error_nomem(err, "KV store", 2 * out->positions * row * sizeof(float));
    }
    return MX_OK;
}

void mx_kv_clear(mx_kv_store *kv)
{
    free(kv->keys);
    free(kv->values);
    *kv = (mx_kv_store){0};
}

/* Offset of (layer, head, base) in floats. */
static size_t kv_offset(const mx_kv_store *kv, uint32_t layer, uint32_t head, size_t base)
{
    size_t plane = (size_t)layer * kv->kv_heads + head;
    return (plane * kv->positions + base) * kv->head_dim;
}

float *mx_kv_keys(const mx_kv_store *kv, uint32_t layer, uint32_t head, size_t base)
{
    return kv->keys + kv_offset(kv, layer, head, base);
}

float *mx_kv_values(const mx_kv_store *kv, uint32_t layer, uint32_t head, size_t base)
{
    return kv->values + kv_offset(kv, layer, head, base);
}

void mx_kv_put(const mx_kv_store *kv, uint32_t layer, uint32_t head, size_t base, size_t position,
               const float *key, const float *value)
{
    size_t head_dim = kv->head_dim;
    float *keys = mx_kv_keys(kv, layer, head, base);
    float *tile = keys + position / KEY_TILE * KEY_TILE * head_dim; /* [head_dim][16] */
    for (size_t d = 0; d < head_dim; d++) {
        tile[d * KEY_TILE + position % KEY_TILE] = key[d];
    }
    memcpy(mx_kv_values(kv, layer, head, base) + position * head_dim, value,
           head_dim * sizeof(float));
}
