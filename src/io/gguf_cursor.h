/*
 * A bounds-checked walk through a GGUF file, and what it collects; private to
 * gguf*.c. The format: ggml's docs/gguf.md.
 */
#ifndef MX_IO_GGUF_CURSOR_H
#define MX_IO_GGUF_CURSOR_H

#include "io/gguf.h"
#include "io/tensor_set.h"

/* Types of metadata values. */
typedef enum gguf_type {
    GGUF_U8,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_STRING,
    GGUF_ARRAY,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64,
    GGUF_TYPE_COUNT
} gguf_type;

/* One key with its value, still in the file's bytes. */
typedef struct gguf_value {
    mx_gguf_string key;
    gguf_type type; /* of the value, or of an array's elements */
    bool is_array;
    uint64_t count;      /* elements; 1 for a scalar */
    const uint8_t *data; /* the first element */
    uint64_t *strings;   /* [count] offsets of the elements of a string array, from `data`;
                            owned; NULL for other values */
} gguf_value;

struct mx_gguf {
    char *path;
    mx_map map; /* data NULL for mx_gguf_parse */
    mx_tensor_set tensors;
    char *names;        /* all tensor names, NUL-terminated one after the other */
    gguf_value *values; /* [n_values], ascending keys */
    size_t n_values;
};

/* Bytes of a scalar type; 0 for strings and arrays. */
size_t mx_gguf_type_size(gguf_type type);
const char *mx_gguf_type_name(gguf_type type);

typedef struct gguf_cursor {
    const uint8_t *data; /* [size], the whole file */
    size_t size, at;
    const char *where; /* path, for messages */
} gguf_cursor;

/* `what` names the field in messages; running past the end is MX_ERR_FORMAT. */
mx_status mx_gguf_read_u32(gguf_cursor *cursor, const char *what, uint32_t *out, mx_error *err);
mx_status mx_gguf_read_u64(gguf_cursor *cursor, const char *what, uint64_t *out, mx_error *err);
mx_status mx_gguf_read_string(gguf_cursor *cursor, const char *what, mx_gguf_string *out,
                              mx_error *err);
mx_status mx_gguf_skip(gguf_cursor *cursor, const char *what, uint64_t size, mx_error *err);

/* Little-endian numbers at any address. */
uint32_t mx_gguf_load_u32(const uint8_t *data);
uint64_t mx_gguf_load_u64(const uint8_t *data);

/* `count` key-value pairs from the cursor into reader->values, sorted. */
mx_status mx_gguf_read_values(gguf_cursor *cursor, uint64_t count, mx_gguf *reader, mx_error *err);
void mx_gguf_free_values(mx_gguf *reader);

/* `count` tensor descriptions from the cursor, and the layout of the data behind
 * them, into reader->tensors. Needs the values (general.alignment). */
mx_status mx_gguf_read_tensors(gguf_cursor *cursor, uint64_t count, mx_gguf *reader, mx_error *err);

#endif
