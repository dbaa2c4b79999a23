/* Where every tensor of an exported checkpoint lies; internal to export*.c. */
#ifndef MX_IO_EXPORT_LAYOUT_H
#define MX_IO_EXPORT_LAYOUT_H

#include "base/json.h"
#include "io/safetensors.h"

/* One safetensors file. */
typedef struct mx_export_shard {
    char name[64]; /* "model.safetensors" or "model-00001-of-00002.safetensors" */
    char *header;  /* length field and JSON, owned */
    size_t header_size;
    uint64_t data_size;
} mx_export_shard;

/* One tensor of the plan. */
typedef struct mx_export_slot {
    uint32_t shard;
    uint64_t offset; /* of the first byte, in the file */
    uint64_t size;
} mx_export_slot;

typedef struct mx_export_layout {
    const mx_tensor_plan *plans; /* [n_plans], borrowed */
    size_t n_plans;
    mx_export_slot *slots;   /* [n_plans] */
    mx_export_shard *shards; /* [n_shards], at least one */
    uint32_t n_shards;
} mx_export_layout;

/*
 * Lays out `plans` [n_plans] (borrowed until clear) in files of at most `shard_bytes`
 * of data, but for tensors that are larger by themselves. The same plans give the
 * same bytes. Names given twice, types that safetensors cannot name and sizes beyond
 * int64 are MX_ERR_ARGUMENT; nothing needs clearing then.
 */
mx_status mx_export_layout_init(mx_export_layout *layout, const mx_tensor_plan *plans,
                                size_t n_plans, uint64_t shard_bytes, mx_error *err);
void mx_export_layout_clear(mx_export_layout *layout);

/* model.safetensors.index.json of a layout of several shards. New reference. */
mx_status mx_export_layout_index(const mx_export_layout *layout, json_t **out, mx_error *err);

/* A running 64-bit checksum; the same however the bytes are cut. It guards
 * against torn writes, not against an adversary. */
typedef struct mx_checksum {
    uint64_t state;
    uint8_t pending[8];
    unsigned n_pending;
} mx_checksum;

void mx_checksum_init(mx_checksum *sum);
void mx_checksum_update(mx_checksum *sum, const void *data, size_t size);
uint64_t mx_checksum_value(const mx_checksum *sum);

#endif
