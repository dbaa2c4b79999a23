/*
 * The reader. The file is
 *
 *   u64 length | JSON text of that length | buffer
 *
 * and the JSON maps tensor names to {"dtype", "shape", "data_offsets": [begin, end]},
 * offsets counted from the start of the buffer. Rules:
 * huggingface/safetensors, README and src/tensor.rs.
 */
#include "io/safetensors.h"

#include "base/str.h"
#include "io/safetensors_header.h"
#include "io/tensor_set.h"

#include <stdlib.h>
#include <string.h>

struct mx_safetensors {
    char *path;
    mx_map map; /* data NULL for mx_safetensors_parse */
    mx_tensor_set tensors;
    char *names;      /* all tensor names, NUL-terminated one after the other */
    json_t *metadata; /* NULL when the file has none */
};

/* The bytes being parsed. */
typedef struct source {
    const uint8_t *data; /* [size], the whole file */
    size_t size;
    size_t buffer; /* where the buffer behind the header starts */
    const char *where;
} source;

/* The types of the format, those that mxlm does not read included: a file may
 * hold them, and their sizes are checked like any other. */
static const struct {
    const char *name;
    mx_dtype dtype;
    unsigned bits;
} type_table[] = {
    {"F64", MX_DTYPE_F64, 64},         {"F32", MX_DTYPE_F32, 32},
    {"F16", MX_DTYPE_F16, 16},         {"BF16", MX_DTYPE_BF16, 16},
    {"I64", MX_DTYPE_I64, 64},         {"I32", MX_DTYPE_I32, 32},
    {"I16", MX_DTYPE_I16, 16},         {"I8", MX_DTYPE_I8, 8},
    {"U64", MX_DTYPE_U64, 64},         {"U32", MX_DTYPE_U32, 32},
    {"U16", MX_DTYPE_U16, 16},         {"U8", MX_DTYPE_U8, 8},
    {"BOOL", MX_DTYPE_BOOL, 8},        {"F8_E4M3", MX_DTYPE_F8_E4M3, 8},
    {"F8_E5M2", MX_DTYPE_F8_E5M2, 8},  {"F8_E8M0", MX_DTYPE_F8_E8M0, 8},
    {"F4", MX_DTYPE_NONE, 4},          {"F6_E2M3", MX_DTYPE_NONE, 6},
    {"F6_E3M2", MX_DTYPE_NONE, 6},     {"C64", MX_DTYPE_NONE, 64},
    {"F8_E4M3FNUZ", MX_DTYPE_NONE, 8}, {"F8_E5M2FNUZ", MX_DTYPE_NONE, 8},
};

/* Little-endian, at any address. */
static uint64_t load_u64(const uint8_t *data)
{
    uint64_t value = 0;
    for (int i = 7; i >= 0; i--) {
        value = value << 8 | data[i];
    }
    return value;
}

/* Most findings are about one tensor: file, tensor, then field and reason. */
static mx_status tensor_error(const source *src, const char *name, const char *reason,
                              mx_error *err)
{
    return mx_error_set(err, MX_ERR_FORMAT, "%s: tensor %s: %s", src->where, name, reason);
}

/*
 * Lists and objects of the header, counted before it is parsed: each takes a
 * hundred bytes once parsed, so 100 MB of "[[],[],..." would ask for gigabytes. A
 * tensor has three of them in at least 48 bytes of text.
 */
static bool has_sane_density(const char *text, size_t length)
{
    size_t containers = 0;
    bool in_string = false;
    for (size_t i = 0; i < length; i++) {
        if (in_string && text[i] == '\\') {
            i++;
        } else if (text[i] == '"') {
            in_string = !in_string;
        } else if (!in_string && (text[i] == '[' || text[i] == '{')) {
            containers++;
        }
    }
    return containers <= 2 + length / 16;
}

/* Finds and parses the header; `src->buffer` is where the data begins. */
static mx_status parse_header(source *src, json_t **root, mx_error *err)
{
    if (src->size < MX_SAFETENSORS_PREFIX) {
        return mx_error_set(err, MX_ERR_FORMAT,
                            "%s: header length: %zu bytes are too few for a safetensors file",
                            src->where, src->size);
    }
    const uint64_t length = load_u64(src->data);
    if (length > MX_SAFETENSORS_MAX_HEADER || length > src->size - MX_SAFETENSORS_PREFIX) {
        return mx_error_set(err, MX_ERR_FORMAT,
                            "%s: header length: %llu exceeds %s (truncated or not safetensors?)",
                            src->where, (unsigned long long)length,
                            length > MX_SAFETENSORS_MAX_HEADER ? "the format's 100000000"
                                                               : "the file");
    }
    const char *text = (const char *)src->data + MX_SAFETENSORS_PREFIX;
    if (length == 0 || text[0] != '{') {
        return mx_error_set(err, MX_ERR_FORMAT, "%s: header: does not start with '{'", src->where);
    }
    if (!has_sane_density(text, (size_t)length)) {
        return mx_error_set(err, MX_ERR_FORMAT, "%s: header: not valid: too many lists",
                            src->where);
    }
    MX_TRY(mx_json_parse(text, (size_t)length, src->where, root, err));
    src->buffer = MX_SAFETENSORS_PREFIX + (size_t)length;
    return MX_OK;
}

/* Free text for people and tools; values that are not strings break the format. */
static mx_status parse_metadata(mx_safetensors *reader, json_t *metadata, const char *where,
                                mx_error *err)
{
    if (!json_is_object(metadata)) {
        return mx_error_set(err, MX_ERR_FORMAT, "%s: __metadata__: must be an object", where);
    }
    const char *key;
    json_t *value;
    json_object_foreach(metadata, key, value)
    {
        if (!json_is_string(value)) {
            return mx_error_set(err, MX_ERR_FORMAT, "%s: __metadata__.%s: must be a string", where,
                                key);
        }
    }
    reader->metadata = json_incref(metadata);
    return MX_OK;
}

/* A JSON array of non-negative integers, at most `limit` of them. */
static bool read_u64_array(const json_t *array, size_t limit, uint64_t *out, size_t *count)
{
    if (!json_is_array(array) || json_array_size(array) > limit) {
        return false;
    }
    *count = json_array_size(array);
    for (size_t i = 0; i < *count; i++) {
        const json_t *value = json_array_get(array, i);
        if (!json_is_integer(value) || json_integer_value(value) < 0) {
            return false;
        }
        out[i] = (uint64_t)json_integer_value(value);
    }
    return true;
}

/* The type decides how many bits an element takes, known to mxlm or not. */
static mx_status parse_dtype(const source *src, const json_t *entry, mx_tensor *tensor,
                             unsigned *bits, mx_error *err)
{
    const char *name = json_string_value(json_object_get(entry, "dtype"));
    if (name == NULL) {
        return tensor_error(src, tensor->name, "dtype: must be a string", err);
    }
    for (size_t i = 0; i < MX_COUNT(type_table); i++) {
        if (strcmp(type_table[i].name, name) == 0) {
            tensor->dtype = type_table[i].dtype;
            tensor->type_name = type_table[i].name;
            *bits = type_table[i].bits;
            return MX_OK;
        }
    }
    return mx_error_set(err, MX_ERR_FORMAT, "%s: tensor %s: dtype: unknown type %s", src->where,
                        tensor->name, name);
}

/* The bytes that shape and dtype ask for. */
static mx_status parse_shape(const source *src, const json_t *entry, mx_tensor *tensor,
                             unsigned bits, mx_error *err)
{
    const json_t *shape = json_object_get(entry, "shape");
    if (json_is_array(shape) && json_array_size(shape) > MX_TENSOR_MAX_DIMS) {
        return mx_error_set(err, MX_ERR_UNSUPPORTED,
                            "%s: tensor %s: shape: more than %d dimensions", src->where,
                            tensor->name, MX_TENSOR_MAX_DIMS);
    }
    size_t n_dims = 0;
    if (!read_u64_array(shape, MX_TENSOR_MAX_DIMS, tensor->shape, &n_dims)) {
        return tensor_error(src, tensor->name, "shape: must be a list of non-negative integers",
                            err);
    }
    tensor->n_dims = (int)n_dims;
    uint64_t count = 0;
    if (!mx_shape_count(tensor->shape, tensor->n_dims, &count) || count > UINT64_MAX / bits) {
        return tensor_error(src, tensor->name, "shape: number of elements overflows", err);
    }
    if (count * bits % 8 != 0) {
        return tensor_error(src, tensor->name, "shape: does not fill whole bytes", err);
    }
    tensor->size = count * bits / 8;
    return MX_OK;
}

/* Where the bytes lie. Compared before anything is added, so that no sum can wrap:
 * offsets up to 2^63 are valid JSON. */
static mx_status parse_offsets(const source *src, const json_t *entry, mx_tensor *tensor,
                               mx_error *err)
{
    uint64_t offsets[2];
    size_t count = 0;
    if (!read_u64_array(json_object_get(entry, "data_offsets"), 2, offsets, &count) || count != 2) {
        return tensor_error(src, tensor->name, "data_offsets: must be two non-negative integers",
                            err);
    }
    if (offsets[0] > offsets[1] || offsets[1] > src->size - src->buffer) {
        return tensor_error(src, tensor->name, "data_offsets: outside the file", err);
    }
    if (offsets[1] - offsets[0] != tensor->size) {
        return mx_error_set(
            err, MX_ERR_FORMAT,
            "%s: tensor %s: data_offsets: %llu bytes where shape and dtype need %llu", src->where,
            tensor->name, (unsigned long long)(offsets[1] - offsets[0]),
            (unsigned long long)tensor->size);
    }
    tensor->offset = src->buffer + offsets[0];
    tensor->data = src->data + tensor->offset;
    return MX_OK;
}

/* One entry. Three members and no more: a fourth would be a rule that this reader
 * does not know. */
static mx_status parse_tensor(const source *src, const json_t *entry, mx_tensor *tensor,
                              mx_error *err)
{
    if (!json_is_object(entry) || json_object_size(entry) != 3) {
        return tensor_error(src, tensor->name, "must be an object of dtype, shape and data_offsets",
                            err);
    }
    unsigned bits = 0;
    MX_TRY(parse_dtype(src, entry, tensor, &bits, err));
    MX_TRY(parse_shape(src, entry, tensor, bits, err));
    return parse_offsets(src, entry, tensor, err);
}

/* By place in the file; empty tensors before the one that starts where they lie. */
static int compare_offsets(const void *a, const void *b)
{
    const mx_tensor *left = a, *right = b;
    if (left->offset != right->offset) {
        return left->offset < right->offset ? -1 : 1;
    }
    if (left->size != right->size) {
        return left->size < right->size ? -1 : 1;
    }
    return strcmp(left->name, right->name);
}

/* The format allows neither holes nor overlaps nor bytes behind the last tensor. */
static mx_status check_layout(const source *src, const mx_tensor_set *tensors, mx_error *err)
{
    uint64_t end = src->buffer;
    for (size_t i = 0; i < tensors->count; i++) {
        const mx_tensor *tensor = &tensors->items[i];
        if (tensor->offset != end) {
            return tensor_error(src, tensor->name,
                                tensor->offset < end ? "data_offsets: overlaps another tensor"
                                                     : "data_offsets: leaves a hole before it",
                                err);
        }
        end += tensor->size;
    }
    if (end != src->size) {
        return mx_error_set(err, MX_ERR_FORMAT, "%s: data: %llu bytes behind the last tensor",
                            src->where, (unsigned long long)(src->size - end));
    }
    return MX_OK;
}

/* Copies the names of all tensors and points the (still empty) items at them. */
static mx_status copy_names(mx_safetensors *reader, json_t *root, mx_error *err)
{
    const char *key;
    json_t *entry;
    size_t bytes = 0;
    json_object_foreach(root, key, entry)
    {
        bytes += strlen(key) + 1;
    }
    reader->names = malloc(bytes + 1);
    if (reader->names == NULL) {
        return mx_error_nomem(err, "tensor names", bytes);
    }
    char *name = reader->names;
    mx_tensor *tensor = reader->tensors.items;
    json_object_foreach(root, key, entry)
    {
        if (strcmp(key, "__metadata__") != 0) {
            const size_t length = strlen(key) + 1;
            tensor->name = memcpy(name, key, length);
            tensor->file = reader->path;
            name += length;
            tensor++;
        }
    }
    return MX_OK;
}

/* The header as tensors: filled in the order of the text, put into the order of the
 * file, checked, indexed by name. */
static mx_status parse_entries(mx_safetensors *reader, const source *src, json_t *root,
                               mx_error *err)
{
    json_t *metadata = json_object_get(root, "__metadata__");
    if (metadata != NULL) {
        MX_TRY(parse_metadata(reader, metadata, src->where, err));
    }
    const size_t count = json_object_size(root) - (metadata != NULL);
    MX_TRY(mx_tensor_set_alloc(&reader->tensors, count, err));
    MX_TRY(copy_names(reader, root, err));
    mx_tensor *tensor = reader->tensors.items;
    const char *key;
    json_t *entry;
    json_object_foreach(root, key, entry)
    {
        /* copy_names gave the items their names in this same order. */
        if (entry != metadata) {
            MX_TRY(parse_tensor(src, entry, tensor++, err));
        }
    }
    qsort(reader->tensors.items, count, sizeof *tensor, compare_offsets);
    MX_TRY(check_layout(src, &reader->tensors, err));
    return mx_tensor_set_index(&reader->tensors, src->where, err);
}

mx_status mx_safetensors_parse(const uint8_t *data, size_t size, const char *where,
                               mx_safetensors **out, mx_error *err)
{
    *out = NULL;
    mx_safetensors *reader = calloc(1, sizeof *reader);
    char *path = mx_str_copy(where, strlen(where));
    if (reader == NULL || path == NULL) {
        free(reader);
        free(path);
        return mx_error_nomem(err, "safetensors reader", sizeof *reader);
    }
    reader->path = path;
    source src = {data, size, 0, path};
    json_t *root = NULL;
    mx_status status;
    MX_TRY_GOTO(status, parse_header(&src, &root, err));
    MX_TRY_GOTO(status, parse_entries(reader, &src, root, err));
    *out = reader;
    reader = NULL;
done:
    json_decref(root);
    mx_safetensors_close(reader);
    return status;
}

mx_status mx_safetensors_open(const char *path, mx_safetensors **out, mx_error *err)
{
    *out = NULL;
    mx_map map;
    MX_TRY(mx_map_open(path, &map, err));
    mx_status status = mx_safetensors_parse(map.data, map.size, path, out, err);
    if (status != MX_OK) {
        mx_map_close(&map);
        return status;
    }
    /* From here on the reader owns the mapping. */
    (*out)->map = map;
    return MX_OK;
}

void mx_safetensors_close(mx_safetensors *reader)
{
    if (reader != NULL) {
        mx_tensor_set_free(&reader->tensors);
        json_decref(reader->metadata);
        free(reader->names);
        mx_map_close(&reader->map);
        free(reader->path);
        free(reader);
    }
}

size_t mx_safetensors_count(const mx_safetensors *reader)
{
    return reader->tensors.count;
}

const mx_tensor *mx_safetensors_at(const mx_safetensors *reader, size_t index)
{
    return &reader->tensors.items[index];
}

const mx_tensor *mx_safetensors_find(const mx_safetensors *reader, const char *name)
{
    return mx_tensor_set_find(&reader->tensors, name);
}

const char *mx_safetensors_metadata(const mx_safetensors *reader, const char *key)
{
    return json_string_value(json_object_get(reader->metadata, key));
}

const mx_map *mx_safetensors_map(const mx_safetensors *reader)
{
    return reader->map.data == NULL ? NULL : &reader->map;
}
