/*
 * GGUF version 3, little-endian: metadata key-values and tensors. Shapes are
 * turned outermost-first. Types: F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1,
 * Q4_K, Q6_K, MXFP4; another type is an error only when its tensor is used
 * (mx_gguf_find returns it with dtype MX_DTYPE_NONE and a size of 0).
 */
#ifndef MX_IO_GGUF_H
#define MX_IO_GGUF_H

#include "base/file.h"
#include "io/tensor.h"

typedef struct mx_gguf mx_gguf;

/*
 * Open maps the file; parse is the same over bytes in memory that outlive the reader.
 * Tensors and strings point into them. Structure, bounds and overlaps are checked
 * (MX_ERR_FORMAT); versions other than 3 are MX_ERR_UNSUPPORTED.
 */
mx_status mx_gguf_open(const char *path, mx_gguf **out, mx_error *err);
mx_status mx_gguf_parse(const uint8_t *data, size_t size, const char *where, mx_gguf **out,
                        mx_error *err);
void mx_gguf_close(mx_gguf *reader); /* accepts NULL */
/* Names the file in messages. */
const char *mx_gguf_path(const mx_gguf *reader);
const mx_map *mx_gguf_map(const mx_gguf *reader); /* NULL for mx_gguf_parse */

/* Tensors in the order of their descriptions, and by name (NULL when absent). */
size_t mx_gguf_count(const mx_gguf *reader);
const mx_tensor *mx_gguf_at(const mx_gguf *reader, size_t index);
const mx_tensor *mx_gguf_find(const mx_gguf *reader, const char *name);

/* A length-prefixed string of the file; not NUL-terminated. */
typedef struct mx_gguf_string {
    const char *data;
    size_t length;
} mx_gguf_string;

/* Every metadata key, ascending. */
size_t mx_gguf_key_count(const mx_gguf *reader);
mx_gguf_string mx_gguf_key_at(const mx_gguf *reader, size_t index);

/* Typed metadata; absent: `required` decides between an error and the
 * fallback. Integer getters accept every integer type that holds the value. */
mx_status mx_gguf_get_int(const mx_gguf *reader, const char *key, bool required, int64_t fallback,
                          int64_t min, int64_t max, int64_t *out, mx_error *err);
mx_status mx_gguf_get_real(const mx_gguf *reader, const char *key, bool required, double fallback,
                           double *out, mx_error *err);
mx_status mx_gguf_get_bool(const mx_gguf *reader, const char *key, bool required, bool fallback,
                           bool *out, mx_error *err);
/* `out->data` is NULL when absent and not required. */
mx_status mx_gguf_get_string(const mx_gguf *reader, const char *key, bool required,
                             mx_gguf_string *out, mx_error *err);
/* Arrays: number of elements, then elements. Absent and not required: 0. */
mx_status mx_gguf_get_array(const mx_gguf *reader, const char *key, bool required, size_t *count,
                            mx_error *err);
mx_status mx_gguf_array_string(const mx_gguf *reader, const char *key, size_t index,
                               mx_gguf_string *out, mx_error *err);
mx_status mx_gguf_array_int(const mx_gguf *reader, const char *key, size_t index, int64_t *out,
                            mx_error *err);
mx_status mx_gguf_array_real(const mx_gguf *reader, const char *key, size_t index, double *out,
                             mx_error *err);

#endif
