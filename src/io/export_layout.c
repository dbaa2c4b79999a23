/*
 * The layout is settled before the first byte is written: shards, the place of every
 * tensor, headers. Tensors can then be written in any order and by a run that was
 * interrupted, and two runs with the same plans give the same bytes.
 */
#include "io/export_layout.h"

#include "io/safetensors_header.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void mx_checksum_init(mx_checksum *sum)
{
    *sum = (mx_checksum){.state = 0x9E3779B97F4A7C15u};
}

/* FNV-1a over 64-bit words, with the high half folded down after each so that
 * high bits reach low ones. */
static uint64_t checksum_word(uint64_t state, const uint8_t bytes[8])
{
    uint64_t word;
    memcpy(&word, bytes, sizeof word);
    state = (state ^ word) * 0x100000001B3u;
    return state ^ (state >> 32);
}

/* Whole words as they come; up to seven bytes wait for the next call. */
void mx_checksum_update(mx_checksum *sum, const void *data, size_t size)
{
    const uint8_t *bytes = data;
    while (size > 0 && sum->n_pending > 0) {
        sum->pending[sum->n_pending++] = *bytes++;
        size--;
        if (sum->n_pending == 8) {
            sum->state = checksum_word(sum->state, sum->pending);
            sum->n_pending = 0;
        }
    }
    for (; size >= 8; size -= 8, bytes += 8) {
        sum->state = checksum_word(sum->state, bytes);
    }
    if (size > 0) {
        memcpy(sum->pending, bytes, size);
        sum->n_pending = (unsigned)size;
    }
}

/* The number of bytes in the last word is part of it: "a" and "a\0" differ. */
uint64_t mx_checksum_value(const mx_checksum *sum)
{
    uint8_t last[8] = {0};
    memcpy(last, sum->pending, sum->n_pending);
    last[7] ^= (uint8_t)(sum->n_pending << 4);
    return checksum_word(sum->state, last);
}

/* Names must differ over all shards, not only within one: readers merge them. */
static mx_status check_names(const mx_export_layout *layout, mx_error *err)
{
    json_t *seen = json_object();
    mx_status status = seen != NULL ? MX_OK : mx_error_nomem(err, "export", 0);
    for (size_t i = 0; i < layout->n_plans && status == MX_OK; i++) {
        const char *name = layout->plans[i].name;
        if (json_object_get(seen, name) != NULL ||
            json_object_set_new(seen, name, json_true()) != 0) {
            status = mx_error_set(err, MX_ERR_ARGUMENT,
                                  "export: tensor %s: name is taken or not UTF-8", name);
        }
    }
    json_decref(seen);
    return status;
}

/* Gives every tensor a shard: in the order given, a new one when the next tensor
 * would not fit. `*n_shards` receives their number. */
static mx_status assign_shards(mx_export_layout *layout, uint64_t shard_bytes, mx_error *err)
{
    uint64_t used = 0, total = 0;
    uint32_t shard = 0;
    for (size_t i = 0; i < layout->n_plans; i++) {
        mx_export_slot *slot = &layout->slots[i];
        MX_TRY(mx_safetensors_plan_size(&layout->plans[i], "export", &slot->size, err));
        /* The index names the total, in JSON's int64. */
        if (slot->size > (uint64_t)INT64_MAX - total) {
            return mx_error_set(err, MX_ERR_ARGUMENT, "export: all tensors: too large");
        }
        total += slot->size;
        if (used > 0 && slot->size > shard_bytes - (used < shard_bytes ? used : shard_bytes)) {
            shard++;
            used = 0;
        }
        slot->shard = shard;
        used += slot->size;
    }
    layout->n_shards = shard + 1;
    return MX_OK;
}

/*
 * Places the tensors of one shard: 8-byte elements first, then 4, 2 and 1, each
 * in plan order. Every tensor then starts at a multiple of its element size,
 * which readers that view the mapped bytes (torch) require.
 */
static mx_status place_shard(mx_export_layout *layout, uint32_t index, mx_error *err)
{
    mx_export_shard *shard = &layout->shards[index];
    if (layout->n_shards == 1) {
        snprintf(shard->name, sizeof shard->name, "model.safetensors");
    } else {
        snprintf(shard->name, sizeof shard->name, "model-%05u-of-%05u.safetensors", index + 1,
                 layout->n_shards);
    }
    /* transformers refuses files whose metadata does not name a framework. */
    json_t *entries = json_pack("{s:{s:s}}", "__metadata__", "format", "pt");
    mx_status status;
    for (unsigned element = 8; element > 0; element /= 2) {
        for (size_t i = 0; i < layout->n_plans; i++) {
            const mx_tensor_plan *plan = &layout->plans[i];
            mx_export_slot *slot = &layout->slots[i];
            if (slot->shard != index || mx_dtype_get(plan->dtype)->block_bytes != element) {
                continue;
            }
            slot->offset = shard->data_size;
            MX_TRY_GOTO(status, mx_safetensors_header_add(entries, plan, shard->name, slot->offset,
                                                          &shard->data_size, err));
        }
    }
    status =
        mx_safetensors_header_bytes(entries, shard->name, &shard->header, &shard->header_size, err);
done:
    json_decref(entries);
    return status;
}

/* Offsets count from the start of the data until every header has its length. */
mx_status mx_export_layout_init(mx_export_layout *layout, const mx_tensor_plan *plans,
                                size_t n_plans, uint64_t shard_bytes, mx_error *err)
{
    *layout = (mx_export_layout){.plans = plans, .n_plans = n_plans};
    mx_status status;
    layout->slots = calloc(n_plans + 1, sizeof *layout->slots);
    if (layout->slots == NULL) {
        return mx_error_nomem(err, "export", (n_plans + 1) * sizeof *layout->slots);
    }
    MX_TRY_GOTO(status, check_names(layout, err));
    MX_TRY_GOTO(status, assign_shards(layout, shard_bytes, err));
    layout->shards = calloc(layout->n_shards, sizeof *layout->shards);
    if (layout->shards == NULL) {
        status = mx_error_nomem(err, "export", layout->n_shards * sizeof *layout->shards);
        goto done;
    }
    for (uint32_t s = 0; s < layout->n_shards; s++) {
        MX_TRY_GOTO(status, place_shard(layout, s, err));
    }
    for (size_t i = 0; i < n_plans; i++) {
        layout->slots[i].offset += layout->shards[layout->slots[i].shard].header_size;
    }
done:
    if (status != MX_OK) {
        mx_export_layout_clear(layout);
    }
    return status;
}

void mx_export_layout_clear(mx_export_layout *layout)
{
    for (uint32_t s = 0; layout->shards != NULL && s < layout->n_shards; s++) {
        free(layout->shards[s].header);
    }
    free(layout->shards);
    free(layout->slots);
    *layout = (mx_export_layout){0};
}

mx_status mx_export_layout_index(const mx_export_layout *layout, json_t **out, mx_error *err)
{
    *out = NULL;
    uint64_t total = 0;
    json_t *map = json_object();
    for (size_t i = 0; i < layout->n_plans; i++) {
        const mx_export_slot *slot = &layout->slots[i];
        total += slot->size;
        json_object_set_new(map, layout->plans[i].name,
                            json_string(layout->shards[slot->shard].name));
    }
    json_t *index =
        json_pack("{s:{s:I}, s:o}", "metadata", "total_size", (json_int_t)total, "weight_map", map);
    if (index == NULL || json_object_size(map) != layout->n_plans) {
        json_decref(index);
        return mx_error_nomem(err, "model.safetensors.index.json", 0);
    }
    *out = index;
    return MX_OK;
}
