/*
 * safetensors: u64 LE header length (<= 100,000,000), a JSON object, then one
 * buffer. Every rule of the format is checked: the header starts with '{', no
 * duplicate keys, known dtypes, sizes equal to shapes, offsets in order without
 * holes or overlaps and ending at the file's end, __metadata__ string to string.
 */
#ifndef MX_IO_SAFETENSORS_H
#define MX_IO_SAFETENSORS_H

#include "base/file.h"
#include "base/json.h"
#include "io/tensor.h"

typedef struct mx_safetensors mx_safetensors;

/* Maps the file and checks it whole; tensors point into the mapping. What breaks a rule
 * is MX_ERR_FORMAT, more dimensions than mxlm has MX_ERR_UNSUPPORTED. */
mx_status mx_safetensors_open(const char *path, mx_safetensors **out, mx_error *err);
/* The same over bytes in memory that outlive the reader (for fuzzing). */
mx_status mx_safetensors_parse(const uint8_t *data, size_t size, const char *where,
                               mx_safetensors **out, mx_error *err);
void mx_safetensors_close(mx_safetensors *reader); /* accepts NULL */

size_t mx_safetensors_count(const mx_safetensors *reader);
/* In file order. */
const mx_tensor *mx_safetensors_at(const mx_safetensors *reader, size_t index);
/* By name, NULL when absent. */
const mx_tensor *mx_safetensors_find(const mx_safetensors *reader, const char *name);
/* __metadata__ value, NULL when absent. */
const char *mx_safetensors_metadata(const mx_safetensors *reader, const char *key);
/* The mapping behind the reader (to drop pages already used); NULL for
 * mx_safetensors_parse. */
const mx_map *mx_safetensors_map(const mx_safetensors *reader);

/*
 * Writer: declare all tensors first, then stream their bytes in the same order;
 * the file appears at finish. Data starts 8-byte aligned.
 */
typedef struct mx_safetensors_writer mx_safetensors_writer;

/* A tensor to be written. */
typedef struct mx_tensor_plan {
    const char *name;
    mx_dtype dtype; /* F64..F8_E5M2: what safetensors can name */
    int n_dims;
    uint64_t shape[MX_TENSOR_MAX_DIMS];
} mx_tensor_plan;

/* `metadata` holds keys and values in turn. Plans that cannot be written (a type without
 * a name, a size beyond int64, a name that is taken) are MX_ERR_ARGUMENT. */
mx_status mx_safetensors_create(const char *path, const mx_tensor_plan *plans, size_t n_plans,
                                const char *const *metadata /* [2 * n_metadata] */,
                                size_t n_metadata, mx_safetensors_writer **out, mx_error *err);
/* The next bytes of the buffer; tensors may be written in pieces. */
mx_status mx_safetensors_write(mx_safetensors_writer *writer, const void *data, size_t size,
                               mx_error *err);
/* Fails unless exactly the declared bytes were written. Frees in any case. */
mx_status mx_safetensors_finish(mx_safetensors_writer *writer, mx_error *err);
void mx_safetensors_abort(mx_safetensors_writer *writer); /* accepts NULL */

#endif
