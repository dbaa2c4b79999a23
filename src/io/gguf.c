/* GGUF: the file as a whole, and the cursor that reads it. */
/*
 * All numbers are little-endian, strings are a u64 length and bytes:
 *
 *   "GGUF" | u32 version | u64 tensors | u64 pairs
 *   pairs:    string key, u32 type, value         (gguf_values.c)
 *   tensors:  string name, u32 n, u64 dims[n], u32 type, u64 offset
 *   padding to the alignment, data                (gguf_tensors.c)
 */
#include "base/str.h"
#include "io/gguf_cursor.h"

#include <stdlib.h>
#include <string.h>

uint32_t mx_gguf_load_u32(const uint8_t *data)
{
    return (uint32_t)data[0] | (uint32_t)data[1] << 8 | (uint32_t)data[2] << 16 |
           (uint32_t)data[3] << 24;
}

uint64_t mx_gguf_load_u64(const uint8_t *data)
{
    return mx_gguf_load_u32(data) | (uint64_t)mx_gguf_load_u32(data + 4) << 32;
}

mx_status mx_gguf_skip(gguf_cursor *cursor, const char *what, uint64_t size, mx_error *err)
{
    if (size > cursor->size - cursor->at) {
        return mx_error_set(
            err, MX_ERR_FORMAT, "%s: %s: needs %llu bytes at offset %zu of a file of %zu",
            cursor->where, what, (unsigned long long)size, cursor->at, cursor->size);
    }
    /* Cannot wrap: at + size is inside the file. */
    cursor->at += (size_t)size;
    return MX_OK;
}

mx_status mx_gguf_read_u32(gguf_cursor *cursor, const char *what, uint32_t *out, mx_error *err)
{
    MX_TRY(mx_gguf_skip(cursor, what, 4, err));
    *out = mx_gguf_load_u32(cursor->data + cursor->at - 4);
    return MX_OK;
}

mx_status mx_gguf_read_u64(gguf_cursor *cursor, const char *what, uint64_t *out, mx_error *err)
{
    MX_TRY(mx_gguf_skip(cursor, what, 8, err));
    *out = mx_gguf_load_u64(cursor->data + cursor->at - 8);
    return MX_OK;
}

mx_status mx_gguf_read_string(gguf_cursor *cursor, const char *what, mx_gguf_string *out,
                              mx_error *err)
{
    uint64_t length = 0;
    MX_TRY(mx_gguf_read_u64(cursor, what, &length, err));
    const size_t begin = cursor->at;
    MX_TRY(mx_gguf_skip(cursor, what, length, err));
    *out = (mx_gguf_string){(const char *)cursor->data + begin, (size_t)length};
    return MX_OK;
}

/* The three parts in order; counts are checked against the bytes that are left
 * before anything is allocated by them. */
static mx_status parse_file(gguf_cursor *cursor, mx_gguf *reader, mx_error *err)
{
    uint32_t version = 0;
    uint64_t n_tensors = 0, n_values = 0;
    if (cursor->size < 4 || memcmp(cursor->data, "GGUF", 4) != 0) {
        return mx_error_set(err, MX_ERR_FORMAT, "%s: magic: not a GGUF file", cursor->where);
    }
    cursor->at = 4;
    MX_TRY(mx_gguf_read_u32(cursor, "version", &version, err));
    /* A big-endian file shows 3 in the upper byte, hence as another version. */
    if (version != 3) {
        return mx_error_set(err, MX_ERR_UNSUPPORTED,
                            "%s: version: %u, only GGUF version 3 (little-endian) is read",
                            cursor->where, version);
    }
    MX_TRY(mx_gguf_read_u64(cursor, "tensor_count", &n_tensors, err));
    MX_TRY(mx_gguf_read_u64(cursor, "metadata_kv_count", &n_values, err));
    MX_TRY(mx_gguf_read_values(cursor, n_values, reader, err));
    return mx_gguf_read_tensors(cursor, n_tensors, reader, err);
}

/* The reader keeps pointers into `data`; only names are copied, to end in NUL. */
mx_status mx_gguf_parse(const uint8_t *data, size_t size, const char *where, mx_gguf **out,
                        mx_error *err)
{
    *out = NULL;
    mx_gguf *reader = calloc(1, sizeof *reader);
    char *path = mx_str_copy(where, strlen(where));
    if (reader == NULL || path == NULL) {
        free(reader);
        free(path);
        return mx_error_nomem(err, "GGUF reader", sizeof *reader);
    }
    reader->path = path;
    gguf_cursor cursor = {data, size, 0, path};
    mx_status status = parse_file(&cursor, reader, err);
    if (status != MX_OK) {
        mx_gguf_close(reader);
        return status;
    }
    *out = reader;
    return MX_OK;
}

mx_status mx_gguf_open(const char *path, mx_gguf **out, mx_error *err)
{
    *out = NULL;
    mx_map map;
    MX_TRY(mx_map_open(path, &map, err));
    mx_status status = mx_gguf_parse(map.data, map.size, path, out, err);
    if (status != MX_OK) {
        mx_map_close(&map);
        return status;
    }
    (*out)->map = map;
    return MX_OK;
}

void mx_gguf_close(mx_gguf *reader)
{
    if (reader != NULL) {
        mx_tensor_set_free(&reader->tensors);
        mx_gguf_free_values(reader);
        free(reader->names);
        mx_map_close(&reader->map);
        free(reader->path);
        free(reader);
    }
}

const char *mx_gguf_path(const mx_gguf *reader)
{
    return reader->path;
}

const mx_map *mx_gguf_map(const mx_gguf *reader)
{
    return reader->map.data == NULL ? NULL : &reader->map;
}

size_t mx_gguf_count(const mx_gguf *reader)
{
    return reader->tensors.count;
}

const mx_tensor *mx_gguf_at(const mx_gguf *reader, size_t index)
{
    return &reader->tensors.items[index];
}

const mx_tensor *mx_gguf_find(const mx_gguf *reader, const char *name)
{
    return mx_tensor_set_find(&reader->tensors, name);
}
