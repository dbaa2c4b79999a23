/*
 * The header of a safetensors file, as the two writers make it: the stream of
 * safetensors_writer.c and the preallocated shards of export_layout.c. Private to
 * src/io. `where` names the file in messages.
 */
#ifndef MX_IO_SAFETENSORS_HEADER_H
#define MX_IO_SAFETENSORS_HEADER_H

#include "io/safetensors.h"

enum {
    MX_SAFETENSORS_PREFIX = 8,                     /* bytes of the length field */
    MX_SAFETENSORS_MAX_HEADER = 100 * 1000 * 1000, /* the format's bound on the JSON text */
};

/* Bytes of a planned tensor; MX_ERR_ARGUMENT when safetensors has no name for its
 * type or its size is not below 2^63. */
mx_status mx_safetensors_plan_size(const mx_tensor_plan *plan, const char *where, uint64_t *size,
                                   mx_error *err);

/* Adds the entry of a tensor that starts `begin` bytes into the buffer, and writes
 * where it ends. A name that is taken, reserved or not UTF-8 is MX_ERR_ARGUMENT. */
mx_status mx_safetensors_header_add(json_t *root, const mx_tensor_plan *plan, const char *where,
                                    uint64_t begin, uint64_t *end, mx_error *err);

/* All bytes before the buffer: the length field, the text of `root`, and spaces so
 * that the buffer starts 8-byte aligned. `*out` is malloc'd. */
mx_status mx_safetensors_header_bytes(const json_t *root, const char *where, char **out,
                                      size_t *size, mx_error *err);

#endif
