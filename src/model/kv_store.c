#include "model/kv_store.h"

#include "model/model.h"

#include <stdlib.h>
#include <string.h>

enum { KEY_TILE = 16 };

static const char *const type_names[] = {[MX_KV_FP32] = "fp32", [MX_KV_BF16] = "bf16"};

const char *mx_kv_type_name(mx_kv_type type)
{
    return type_names[type];
}

mx_status mx_model_set_kv(mx_model *model, const char *kv, mx_error *err)
{
    for (size_t i = 0; i < MX_COUNT(type_names); i++) {
        if (strcmp(kv, type_names[i]) == 0) {
            model->kv_type = (mx_kv_type)i;
            return MX_OK;
        }
    }
    return mx_error_set(err, MX_ERR_ARGUMENT, "kv: '%s' is not fp32 or bf16", kv);
}

size_t mx_kv_element_bytes(mx_kv_type type)
{
    return type == MX_KV_BF16 ? sizeof(uint16_t) : sizeof(float);
}

mx_status mx_kv_init(const mx_llama_config *config, mx_kv_type type, uint32_t layers,
                     size_t positions, mx_kv_store *out, mx_error *err)
{
    *out = (mx_kv_store){
        .head_dim = config->head_dim,
        .kv_heads = config->kv_heads,
        .layers = layers,
        .type = type,
        .positions = (positions + KEY_TILE - 1) / KEY_TILE * KEY_TILE,
    };
    size_t row = (size_t)layers * config->kv_heads * config->head_dim;
    size_t element = mx_kv_element_bytes(type);
    if (out->positions > SIZE_MAX / element / row) {
        return mx_error_nomem(err, "KV store", SIZE_MAX);
    }
    /* calloc maps zero pages: a long capacity costs memory only where used. */
    out->keys = calloc(out->positions * row, element);
    out->values = calloc(out->positions * row, element);
    if (out->keys == NULL || out->values == NULL) {
        mx_kv_clear(out);
        return mx_error_nomem(err, "KV store", 2 * out->positions * row * element);
    }
    return MX_OK;
}

void mx_kv_clear(mx_kv_store *kv)
{
    free(kv->keys);
    free(kv->values);
    *kv = (mx_kv_store){0};
}

/* Offset of (layer, head, base) in elements. */
static size_t kv_offset(const mx_kv_store *kv, uint32_t layer, uint32_t head, size_t base)
{
    size_t plane = (size_t)layer * kv->kv_heads + head;
    return (plane * kv->positions + base) * kv->head_dim;
}

const void *mx_kv_keys(const mx_kv_store *kv, uint32_t layer, uint32_t head, size_t base)
{
    return kv->keys + kv_offset(kv, layer, head, base) * mx_kv_element_bytes(kv->type);
}

const void *mx_kv_values(const mx_kv_store *kv, uint32_t layer, uint32_t head, size_t base)
{
    return kv->values + kv_offset(kv, layer, head, base) * mx_kv_element_bytes(kv->type);
}

/* Keys of a tile are transposed, [head_dim][16], and a key is a column. */
static void put_fp32(const mx_kv_store *kv, size_t row, size_t position, const float *key,
                     const float *value)
{
    size_t dim = kv->head_dim, lane = position % KEY_TILE;
    float *tile = (float *)(void *)kv->keys + (row - lane * dim);
    for (size_t d = 0; d < dim; d++) {
        tile[d * KEY_TILE + lane] = key[d];
    }
    memcpy((float *)(void *)kv->values + row, value, dim * sizeof *value);
}

/* The same in pairs: keys [head_dim / 2][16][2], values [head_dim][2] of two positions. */
static void put_bf16(const mx_kv_store *kv, size_t row, size_t position, const float *key,
                     const float *value)
{
    size_t dim = kv->head_dim, lane = position % KEY_TILE;
    uint16_t *tile = (uint16_t *)(void *)kv->keys + (row - lane * dim);
    uint16_t *values = (uint16_t *)(void *)kv->values + (row - position % 2 * dim);
    for (size_t d = 0; d < dim; d++) {
        tile[(d / 2 * KEY_TILE + lane) * 2 + d % 2] = mx_bf16_operand(key[d]);
        values[d * 2 + position % 2] = mx_bf16_operand(value[d]);
    }
}

void mx_kv_put(const mx_kv_store *kv, uint32_t layer, uint32_t head, size_t base, size_t position,
               const float *key, const float *value)
{
    size_t row = kv_offset(kv, layer, head, base + position);
    if (kv->type == MX_KV_BF16) {
        put_bf16(kv, row, position, key, value);
    } else {
        put_fp32(kv, row, position, key, value);
    }
}
