/* GGUF metadata: reading key-value pairs, and typed access to them. */
#include "io/gguf_cursor.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Arrays of arrays are legal and rare; nothing in llama files needs them. */
enum { MAX_NESTING = 8 };

/* The least bytes of a pair: an empty key, a type, a value of one byte. */
enum { MIN_PAIR_BYTES = 8 + 4 + 1 };

static const struct {
    const char *name;
    size_t size;
} type_table[GGUF_TYPE_COUNT] = {
    [GGUF_U8] = {"uint8", 1},    [GGUF_I8] = {"int8", 1},    [GGUF_U16] = {"uint16", 2},
    [GGUF_I16] = {"int16", 2},   [GGUF_U32] = {"uint32", 4}, [GGUF_I32] = {"int32", 4},
    [GGUF_F32] = {"float32", 4}, [GGUF_BOOL] = {"bool", 1},  [GGUF_STRING] = {"string", 0},
    [GGUF_ARRAY] = {"array", 0}, [GGUF_U64] = {"uint64", 8}, [GGUF_I64] = {"int64", 8},
    [GGUF_F64] = {"float64", 8},
};

size_t mx_gguf_type_size(gguf_type type)
{
    return type_table[type].size;
}

const char *mx_gguf_type_name(gguf_type type)
{
    return type_table[type].name;
}

/* ---- reading ------------------------------------------------------------- */

/* An error about the value whose key is `key`; keys are not NUL-terminated. */
static mx_status value_error(const char *where, mx_gguf_string key, const char *reason,
                             mx_error *err)
{
    const int length = key.length > 200 ? 200 : (int)key.length;
    return mx_error_set(err, MX_ERR_FORMAT, "%s: %.*s: %s", where, length, key.data, reason);
}

/* Types arrive as any u32; only known ones index type_table. */
static mx_status read_type(gguf_cursor *cursor, mx_gguf_string key, gguf_type *out, mx_error *err)
{
    uint32_t type = 0;
    MX_TRY(mx_gguf_read_u32(cursor, "metadata type", &type, err));
    if (type >= GGUF_TYPE_COUNT) {
        return value_error(cursor->where, key, "unknown value type", err);
    }
    *out = (gguf_type)type;
    return MX_OK;
}

/* Steps over `count` strings, noting where each starts when `offsets` is given. */
static mx_status skip_strings(gguf_cursor *cursor, uint64_t count, uint64_t *offsets, mx_error *err)
{
    const size_t begin = cursor->at;
    for (uint64_t i = 0; i < count; i++) {
        if (offsets != NULL) {
            offsets[i] = cursor->at - begin;
        }
        mx_gguf_string text;
        MX_TRY(mx_gguf_read_string(cursor, "metadata string", &text, err));
    }
    return MX_OK;
}

/* Steps over `count` arrays inside an array. Each takes at least 12 bytes of the
 * file, so a huge count ends at the end of the file. */
static mx_status skip_nested(gguf_cursor *cursor, mx_gguf_string key, uint64_t count, int depth,
                             mx_error *err)
{
    if (depth > MAX_NESTING) {
        return value_error(cursor->where, key, "arrays nested too deep", err);
    }
    for (uint64_t i = 0; i < count; i++) {
        gguf_type type = GGUF_U8;
        uint64_t inner = 0;
        MX_TRY(read_type(cursor, key, &type, err));
        MX_TRY(mx_gguf_read_u64(cursor, "metadata array length", &inner, err));
        if (type == GGUF_ARRAY) {
            MX_TRY(skip_nested(cursor, key, inner, depth + 1, err));
        } else if (type == GGUF_STRING) {
            MX_TRY(skip_strings(cursor, inner, NULL, err));
        } else if (inner > cursor->size) {
            return value_error(cursor->where, key, "array is longer than the file", err);
        } else {
            MX_TRY(mx_gguf_skip(cursor, "metadata array", inner * mx_gguf_type_size(type), err));
        }
    }
    return MX_OK;
}

/* The offsets of a string array's elements make access O(1): 8 bytes each, and
 * each string takes at least its 8-byte length in the file. */
static mx_status read_string_array(gguf_cursor *cursor, gguf_value *value, mx_error *err)
{
    if (value->count > (cursor->size - cursor->at) / 8) {
        return value_error(cursor->where, value->key, "array is longer than the file", err);
    }
    value->strings = calloc((size_t)value->count + 1, sizeof *value->strings);
    if (value->strings == NULL) {
        return mx_error_nomem(err, "GGUF string array", (size_t)value->count * 8);
    }
    return skip_strings(cursor, value->count, value->strings, err);
}

/* An array: u32 element type, u64 count, elements. The count is compared with the
 * file's size before it is multiplied. */
static mx_status read_array(gguf_cursor *cursor, gguf_value *value, mx_error *err)
{
    value->is_array = true;
    MX_TRY(read_type(cursor, value->key, &value->type, err));
    MX_TRY(mx_gguf_read_u64(cursor, "metadata array length", &value->count, err));
    value->data = cursor->data + cursor->at;
    if (value->type == GGUF_STRING) {
        return read_string_array(cursor, value, err);
    }
    if (value->type == GGUF_ARRAY) {
        return skip_nested(cursor, value->key, value->count, 1, err);
    }
    if (value->count > cursor->size) {
        return value_error(cursor->where, value->key, "array is longer than the file", err);
    }
    return mx_gguf_skip(cursor, "metadata array", value->count * mx_gguf_type_size(value->type),
                        err);
}

/* One pair. Values stay where they are; the getters decode them when asked. */
static mx_status read_value(gguf_cursor *cursor, gguf_value *value, mx_error *err)
{
    MX_TRY(mx_gguf_read_string(cursor, "metadata key", &value->key, err));
    if (value->key.length == 0 || memchr(value->key.data, '\0', value->key.length) != NULL) {
        return value_error(cursor->where, value->key, "empty key, or NUL in a key", err);
    }
    MX_TRY(read_type(cursor, value->key, &value->type, err));
    if (value->type == GGUF_ARRAY) {
        return read_array(cursor, value, err);
    }
    value->count = 1;
    value->data = cursor->data + cursor->at;
    if (value->type == GGUF_STRING) {
        mx_gguf_string text;
        return mx_gguf_read_string(cursor, "metadata string", &text, err);
    }
    MX_TRY(mx_gguf_skip(cursor, "metadata value", mx_gguf_type_size(value->type), err));
    if (value->type == GGUF_BOOL && value->data[0] > 1) {
        return value_error(cursor->where, value->key, "bool is neither 0 nor 1", err);
    }
    return MX_OK;
}

/* By bytes, a prefix before its extensions: keys may hold any byte but NUL. */
static int compare_keys(mx_gguf_string a, mx_gguf_string b)
{
    const size_t common = a.length < b.length ? a.length : b.length;
    const int order = memcmp(a.data, b.data, common);
    return order != 0 ? order : (a.length > b.length) - (a.length < b.length);
}

static int compare_values(const void *a, const void *b)
{
    const gguf_value *left = a, *right = b;
    return compare_keys(left->key, right->key);
}

mx_status mx_gguf_read_values(gguf_cursor *cursor, uint64_t count, mx_gguf *reader, mx_error *err)
{
    if (count > (cursor->size - cursor->at) / MIN_PAIR_BYTES) {
        return mx_error_set(err, MX_ERR_FORMAT, "%s: metadata_kv_count: %llu pairs do not fit",
                            cursor->where, (unsigned long long)count);
    }
    reader->values = calloc((size_t)count + 1, sizeof *reader->values);
    if (reader->values == NULL) {
        return mx_error_nomem(err, "GGUF metadata", (size_t)count * sizeof *reader->values);
    }
    for (; reader->n_values < count; reader->n_values++) {
        /* Counted only when whole; a string array half read is freed here. */
        gguf_value *value = &reader->values[reader->n_values];
        const mx_status status = read_value(cursor, value, err);
        if (status != MX_OK) {
            free(value->strings);
            return status;
        }
    }
    qsort(reader->values, reader->n_values, sizeof *reader->values, compare_values);
    for (size_t i = 1; i < reader->n_values; i++) {
        if (compare_values(&reader->values[i - 1], &reader->values[i]) == 0) {
            return value_error(cursor->where, reader->values[i].key, "key occurs twice", err);
        }
    }
    return MX_OK;
}

void mx_gguf_free_values(mx_gguf *reader)
{
    for (size_t i = 0; i < reader->n_values; i++) {
        free(reader->values[i].strings);
    }
    free(reader->values);
}

/* ---- typed access -------------------------------------------------------- */

size_t mx_gguf_key_count(const mx_gguf *reader)
{
    return reader->n_values;
}

mx_gguf_string mx_gguf_key_at(const mx_gguf *reader, size_t index)
{
    return reader->values[index].key;
}

static const gguf_value *find_value(const mx_gguf *reader, const char *key)
{
    const gguf_value wanted = {.key = {key, strlen(key)}};
    return bsearch(&wanted, reader->values, reader->n_values, sizeof wanted, compare_values);
}

/* The value of `key`, which must be an array or must not; NULL when absent and
 * not required. */
static mx_status get_value(const mx_gguf *reader, const char *key, bool required, bool array,
                           const gguf_value **out, mx_error *err)
{
    *out = find_value(reader, key);
    if (*out == NULL) {
        return required ? mx_error_set(err, MX_ERR_FORMAT, "%s: %s: missing", reader->path, key)
                        : MX_OK;
    }
    if ((*out)->is_array != array) {
        return mx_error_set(err, MX_ERR_FORMAT, "%s: %s: must %sbe an array", reader->path, key,
                            array ? "" : "not ");
    }
    return MX_OK;
}

/* The key is there, with a type that cannot answer: never a conversion by force. */
static mx_status wrong_type(const mx_gguf *reader, const gguf_value *value, const char *wanted,
                            mx_error *err)
{
    return mx_error_set(err, MX_ERR_FORMAT, "%s: %.*s: must be %s, is %s", reader->path,
                        (int)(value->key.length > 200 ? 200 : value->key.length), value->key.data,
                        wanted, mx_gguf_type_name(value->type));
}

/* An integer of any type; false for other types and what int64 does not hold. */
static bool load_int(gguf_type type, const uint8_t *data, int64_t *out)
{
    switch (type) {
    case GGUF_U8:
        *out = data[0];
        return true;
    case GGUF_I8:
        *out = (int8_t)data[0];
        return true;
    case GGUF_U16:
        /* Byte by byte: values lie at any address. */
        *out = data[0] | data[1] << 8;
        return true;
    case GGUF_I16:
        *out = (int16_t)(data[0] | data[1] << 8);
        return true;
    case GGUF_U32:
        *out = mx_gguf_load_u32(data);
        return true;
    case GGUF_I32:
        *out = (int32_t)mx_gguf_load_u32(data);
        return true;
    case GGUF_U64:
    case GGUF_I64:
        *out = (int64_t)mx_gguf_load_u64(data);
        return type == GGUF_I64 || *out >= 0;
    default:
        return false;
    }
}

/* A float or integer of any type. */
static bool load_real(gguf_type type, const uint8_t *data, double *out)
{
    int64_t integer;
    if (type == GGUF_F32) {
        float single;
        memcpy(&single, data, sizeof single);
        *out = single;
        return true;
    }
    if (type == GGUF_F64) {
        memcpy(out, data, sizeof *out);
        return true;
    }
    if (load_int(type, data, &integer)) {
        *out = (double)integer;
        return true;
    }
    return false;
}

mx_status mx_gguf_get_int(const mx_gguf *reader, const char *key, bool required, int64_t fallback,
                          int64_t min, int64_t max, int64_t *out, mx_error *err)
{
    const gguf_value *value;
    *out = fallback;
    MX_TRY(get_value(reader, key, required, false, &value, err));
    if (value == NULL) {
        return MX_OK;
    }
    int64_t number;
    if (!load_int(value->type, value->data, &number)) {
        return wrong_type(reader, value, "an integer", err);
    }
    if (number < min || number > max) {
        return mx_error_set(err, MX_ERR_FORMAT, "%s: %s: %lld is outside %lld to %lld",
                            reader->path, key, (long long)number, (long long)min, (long long)max);
    }
    *out = number;
    return MX_OK;
}

mx_status mx_gguf_get_real(const mx_gguf *reader, const char *key, bool required, double fallback,
                           double *out, mx_error *err)
{
    const gguf_value *value;
    *out = fallback;
    MX_TRY(get_value(reader, key, required, false, &value, err));
    if (value == NULL) {
        return MX_OK;
    }
    double number;
    if (!load_real(value->type, value->data, &number)) {
        return wrong_type(reader, value, "a number", err);
    }
    if (!isfinite(number)) {
        return mx_error_set(err, MX_ERR_FORMAT, "%s: %s: not finite", reader->path, key);
    }
    *out = number;
    return MX_OK;
}

mx_status mx_gguf_get_bool(const mx_gguf *reader, const char *key, bool required, bool fallback,
                           bool *out, mx_error *err)
{
    const gguf_value *value;
    *out = fallback;
    MX_TRY(get_value(reader, key, required, false, &value, err));
    if (value == NULL) {
        return MX_OK;
    }
    if (value->type != GGUF_BOOL) {
        return wrong_type(reader, value, "a bool", err);
    }
    *out = value->data[0] != 0;
    return MX_OK;
}

/* The string whose length prefix lies at `data`; bounds were checked at reading. */
static mx_gguf_string load_string(const uint8_t *data)
{
    return (mx_gguf_string){(const char *)data + 8, (size_t)mx_gguf_load_u64(data)};
}

mx_status mx_gguf_get_string(const mx_gguf *reader, const char *key, bool required,
                             mx_gguf_string *out, mx_error *err)
{
    const gguf_value *value;
    *out = (mx_gguf_string){0};
    MX_TRY(get_value(reader, key, required, false, &value, err));
    if (value == NULL) {
        return MX_OK;
    }
    if (value->type != GGUF_STRING) {
        return wrong_type(reader, value, "a string", err);
    }
    *out = load_string(value->data);
    return MX_OK;
}

mx_status mx_gguf_get_array(const mx_gguf *reader, const char *key, bool required, size_t *count,
                            mx_error *err)
{
    const gguf_value *value;
    *count = 0;
    MX_TRY(get_value(reader, key, required, true, &value, err));
    if (value != NULL) {
        *count = (size_t)value->count;
    }
    return MX_OK;
}

/* The array `key`, with `index` inside it. */
static mx_status get_element(const mx_gguf *reader, const char *key, size_t index,
                             const gguf_value **out, mx_error *err)
{
    MX_TRY(get_value(reader, key, true, true, out, err));
    if (index >= (*out)->count) {
        return mx_error_set(err, MX_ERR_FORMAT, "%s: %s[%zu]: beyond the last element",
                            reader->path, key, index);
    }
    return MX_OK;
}

mx_status mx_gguf_array_string(const mx_gguf *reader, const char *key, size_t index,
                               mx_gguf_string *out, mx_error *err)
{
    const gguf_value *value;
    *out = (mx_gguf_string){0};
    MX_TRY(get_element(reader, key, index, &value, err));
    if (value->type != GGUF_STRING) {
        return wrong_type(reader, value, "an array of strings", err);
    }
    *out = load_string(value->data + value->strings[index]);
    return MX_OK;
}

mx_status mx_gguf_array_int(const mx_gguf *reader, const char *key, size_t index, int64_t *out,
                            mx_error *err)
{
    const gguf_value *value;
    *out = 0;
    MX_TRY(get_element(reader, key, index, &value, err));
    if (!load_int(value->type, value->data + index * mx_gguf_type_size(value->type), out)) {
        *out = 0;
        return wrong_type(reader, value, "an array of integers", err);
    }
    return MX_OK;
}

mx_status mx_gguf_array_real(const mx_gguf *reader, const char *key, size_t index, double *out,
                             mx_error *err)
{
    const gguf_value *value;
    *out = 0;
    MX_TRY(get_element(reader, key, index, &value, err));
    if (!load_real(value->type, value->data + index * mx_gguf_type_size(value->type), out)) {
        return wrong_type(reader, value, "an array of numbers", err);
    }
    return MX_OK;
}
