/*
 * Keys and values of the sequences of a session, in fp32 or bf16, as mx_attention of
 * kernel/kernel.h reads them. Per sequence, layer and KV head: keys in tiles of 16
 * positions, so that the kernel's lanes are positions, [capacity / 16][head_dim][16];
 * values [capacity][head_dim]. bf16 comes in pairs, as dot-product instructions read it:
 * keys [capacity / 16][head_dim / 2][16][2], values [capacity / 2][head_dim][2].
 */
#ifndef MX_MODEL_KV_STORE_H
#define MX_MODEL_KV_STORE_H

#include "backend/backend.h"
#include "io/hf_config.h"

typedef struct mx_kv_store {
    uint32_t head_dim, kv_heads, layers; /* layers held: 1 when nothing is kept */
    mx_kv_type type;
    size_t positions; /* capacity of one layer over all sequences, a multiple of 16 */
    uint8_t *keys;    /* [layers][kv_heads][positions * head_dim] elements of `type` */
    uint8_t *values;  /* the same size */
} mx_kv_store;

size_t mx_kv_element_bytes(mx_kv_type type);

/* Room for `positions` (rounded up to 16) in `layers` layers. Memory is not
 * touched until used. */
mx_status mx_kv_init(const mx_llama_config *config, mx_kv_type type, uint32_t layers,
                     size_t positions, mx_kv_store *out, mx_error *err);
void mx_kv_clear(mx_kv_store *kv);

/* Start of a sequence's keys / values: `base`, a multiple of 16, is its first
 * position in the store. */
const void *mx_kv_keys(const mx_kv_store *kv, uint32_t layer, uint32_t head, size_t base);
const void *mx_kv_values(const mx_kv_store *kv, uint32_t layer, uint32_t head, size_t base);

/* Stores one position's key and value rows [head_dim] of one head, rounded to the
 * store's type. */
void mx_kv_put(const mx_kv_store *kv, uint32_t layer, uint32_t head, size_t base, size_t position,
               const float *key, const float *value);

#endif
