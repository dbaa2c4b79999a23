/* GGUF: tensor descriptions and the layout of the data. */
#include "io/gguf_cursor.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_DIMS = 4, DEFAULT_ALIGNMENT = 32 };

/* The least bytes of a description: empty name, no dimensions, type, offset. */
enum { MIN_TENSOR_BYTES = 8 + 4 + 4 + 8 };

/* ggml's type numbers. Those without a dtype are known by name only. */
static const struct {
    const char *name;
    mx_dtype dtype;
} ggml_types[] = {
    [0] = {"F32", MX_DTYPE_F32},       [1] = {"F16", MX_DTYPE_F16},
    [2] = {"Q4_0", MX_DTYPE_Q4_0},     [3] = {"Q4_1", MX_DTYPE_Q4_1},
    [6] = {"Q5_0", MX_DTYPE_Q5_0},     [7] = {"Q5_1", MX_DTYPE_Q5_1},
    [8] = {"Q8_0", MX_DTYPE_Q8_0},     [9] = {"Q8_1", MX_DTYPE_NONE},
    [10] = {"Q2_K", MX_DTYPE_NONE},    [11] = {"Q3_K", MX_DTYPE_NONE},
    [12] = {"Q4_K", MX_DTYPE_Q4_K},    [13] = {"Q5_K", MX_DTYPE_NONE},
    [14] = {"Q6_K", MX_DTYPE_Q6_K},    [15] = {"Q8_K", MX_DTYPE_NONE},
    [16] = {"IQ2_XXS", MX_DTYPE_NONE}, [17] = {"IQ2_XS", MX_DTYPE_NONE},
    [18] = {"IQ3_XXS", MX_DTYPE_NONE}, [19] = {"IQ1_S", MX_DTYPE_NONE},
    [20] = {"IQ4_NL", MX_DTYPE_NONE},  [21] = {"IQ3_S", MX_DTYPE_NONE},
    [22] = {"IQ2_S", MX_DTYPE_NONE},   [23] = {"IQ4_XS", MX_DTYPE_NONE},
    [24] = {"I8", MX_DTYPE_I8},        [25] = {"I16", MX_DTYPE_I16},
    [26] = {"I32", MX_DTYPE_I32},      [27] = {"I64", MX_DTYPE_I64},
    [28] = {"F64", MX_DTYPE_F64},      [29] = {"IQ1_M", MX_DTYPE_NONE},
    [30] = {"BF16", MX_DTYPE_BF16},    [34] = {"TQ1_0", MX_DTYPE_NONE},
    [35] = {"TQ2_0", MX_DTYPE_NONE},   [39] = {"MXFP4", MX_DTYPE_MXFP4},
    [40] = {"NVFP4", MX_DTYPE_NONE},   [41] = {"Q1_0", MX_DTYPE_NONE},
};

static mx_status tensor_error(const gguf_cursor *cursor, const mx_tensor *tensor,
                              const char *reason, mx_error *err)
{
    return mx_error_set(err, MX_ERR_FORMAT, "%s: tensor %s: %s", cursor->where, tensor->name,
                        reason);
}

/* Copies a name to `*names`, in the buffer that read_descriptions has measured, and
 * moves on. */
static mx_status read_name(gguf_cursor *cursor, char **names, mx_tensor *tensor, mx_error *err)
{
    mx_gguf_string name;
    MX_TRY(mx_gguf_read_string(cursor, "tensor name", &name, err));
    if (memchr(name.data, '\0', name.length) != NULL) {
        return mx_error_set(err, MX_ERR_FORMAT, "%s: tensor name: holds a NUL", cursor->where);
    }
    memcpy(*names, name.data, name.length);
    (*names)[name.length] = '\0';
    tensor->name = *names;
    *names += name.length + 1;
    return MX_OK;
}

/* Types are read lazily: a file may hold tensors that nobody asks for. */
static void set_type(mx_tensor *tensor, uint32_t type)
{
    const bool known = type < MX_COUNT(ggml_types) && ggml_types[type].name != NULL;
    tensor->type_name = known ? ggml_types[type].name : "of an unknown number";
    tensor->dtype = known ? ggml_types[type].dtype : MX_DTYPE_NONE;
}

/* Dimensions lie innermost first in the file, outermost first in `tensor`. */
static mx_status read_shape(gguf_cursor *cursor, mx_tensor *tensor, mx_error *err)
{
    uint32_t n_dims = 0;
    MX_TRY(mx_gguf_read_u32(cursor, "tensor n_dimensions", &n_dims, err));
    if (n_dims > MAX_DIMS) {
        return tensor_error(cursor, tensor, "n_dimensions: more than 4", err);
    }
    tensor->n_dims = (int)n_dims;
    for (int i = tensor->n_dims - 1; i >= 0; i--) {
        MX_TRY(mx_gguf_read_u64(cursor, "tensor dimensions", &tensor->shape[i], err));
    }
    return MX_OK;
}

/* The bytes that shape and type ask for; 0 for types that mxlm does not read. */
static mx_status set_size(const gguf_cursor *cursor, mx_tensor *tensor, mx_error *err)
{
    const mx_dtype_info *info = mx_dtype_get(tensor->dtype);
    uint64_t count = 0;
    if (!mx_shape_count(tensor->shape, tensor->n_dims, &count) ||
        count / info->block > (uint64_t)INT64_MAX / (info->block_bytes + 1u)) {
        return tensor_error(cursor, tensor, "dimensions: number of elements overflows", err);
    }
    /* Blocks run along rows: a row that ends inside one would share it. */
    const uint64_t row = tensor->n_dims == 0 ? 1 : tensor->shape[tensor->n_dims - 1];
    if (row % info->block != 0) {
        return mx_error_set(err, MX_ERR_FORMAT,
                            "%s: tensor %s: dimensions: rows of %llu are not whole blocks of %s",
                            cursor->where, tensor->name, (unsigned long long)row, info->name);
    }
    tensor->size = count / info->block * info->block_bytes;
    return MX_OK;
}

/* `tensor->offset` is relative to the data section until check_layout. */
static mx_status read_tensor(gguf_cursor *cursor, char **names, mx_tensor *tensor, mx_error *err)
{
    uint32_t type = 0;
    MX_TRY(read_name(cursor, names, tensor, err));
    MX_TRY(read_shape(cursor, tensor, err));
    MX_TRY(mx_gguf_read_u32(cursor, "tensor type", &type, err));
    set_type(tensor, type);
    MX_TRY(mx_gguf_read_u64(cursor, "tensor offset", &tensor->offset, err));
    return set_size(cursor, tensor, err);
}

static int compare_offsets(const void *a, const void *b)
{
    const mx_tensor *const *left = a, *const *right = b;
    if ((*left)->offset != (*right)->offset) {
        return (*left)->offset < (*right)->offset ? -1 : 1;
    }
    return ((*left)->size > (*right)->size) - ((*left)->size < (*right)->size);
}

/* Turns offsets into places in the file; bounds only, see check_overlaps. */
static mx_status place_tensors(const gguf_cursor *cursor, uint64_t alignment,
                               mx_tensor_set *tensors, mx_error *err)
{
    const uint64_t padding = (alignment - cursor->at % alignment) % alignment;
    const uint64_t begin = cursor->at + padding;
    for (size_t i = 0; i < tensors->count; i++) {
        mx_tensor *tensor = &tensors->items[i];
        if (tensor->offset % alignment != 0) {
            return tensor_error(cursor, tensor, "offset: not aligned", err);
        }
        /* Each difference is taken only after what it subtracts is known to fit. */
        if (begin > cursor->size || tensor->offset > cursor->size - begin ||
            tensor->size > cursor->size - begin - tensor->offset) {
            return tensor_error(cursor, tensor, "offset: data lies outside the file", err);
        }
        tensor->offset += begin;
        tensor->data = cursor->data + tensor->offset;
    }
    return MX_OK;
}

static mx_status check_overlaps(const gguf_cursor *cursor, mx_tensor_set *tensors, mx_error *err)
{
    /* Sorted by place for this check, by name afterwards: one list serves both. */
    const mx_tensor **sorted = tensors->by_name;
    for (size_t i = 0; i < tensors->count; i++) {
        sorted[i] = &tensors->items[i];
    }
    qsort(sorted, tensors->count, sizeof(const mx_tensor *), compare_offsets);
    for (size_t i = 1; i < tensors->count; i++) {
        if (sorted[i]->offset - sorted[i - 1]->offset < sorted[i - 1]->size) {
            return tensor_error(cursor, sorted[i], "offset: overlaps another tensor", err);
        }
    }
    return MX_OK;
}

/* The list of tensors, without a look at their data. */
static mx_status read_descriptions(gguf_cursor *cursor, uint64_t count, mx_gguf *reader,
                                   mx_error *err)
{
    if (count > (cursor->size - cursor->at) / MIN_TENSOR_BYTES) {
        return mx_error_set(err, MX_ERR_FORMAT, "%s: tensor_count: %llu tensors do not fit",
                            cursor->where, (unsigned long long)count);
    }
    MX_TRY(mx_tensor_set_alloc(&reader->tensors, (size_t)count, err));
    /* Names are measured first: the buffer must not be as large as the weights. */
    gguf_cursor ahead = *cursor;
    size_t name_bytes = 0;
    for (uint64_t i = 0; i < count; i++) {
        mx_gguf_string name;
        uint32_t n_dims = 0;
        MX_TRY(mx_gguf_read_string(&ahead, "tensor name", &name, err));
        MX_TRY(mx_gguf_read_u32(&ahead, "tensor n_dimensions", &n_dims, err));
        MX_TRY(mx_gguf_skip(&ahead, "tensor description", 8 * (uint64_t)n_dims + 12, err));
        name_bytes += name.length + 1;
    }
    char *names = reader->names = malloc(name_bytes + 1);
    if (names == NULL) {
        return mx_error_nomem(err, "GGUF tensor names", name_bytes);
    }
    for (uint64_t i = 0; i < count; i++) {
        mx_tensor *tensor = &reader->tensors.items[i];
        tensor->file = reader->path;
        MX_TRY(read_tensor(cursor, &names, tensor, err));
    }
    return MX_OK;
}

/* The format asks for multiples of 8; 1, 2 and 4 do no harm, since nothing here reads
 * more than bytes. The upper bound keeps place_tensors from wrapping. */
mx_status mx_gguf_read_tensors(gguf_cursor *cursor, uint64_t count, mx_gguf *reader, mx_error *err)
{
    int64_t alignment = 0;
    MX_TRY(mx_gguf_get_int(reader, "general.alignment", false, DEFAULT_ALIGNMENT, 1, 1 << 30,
                           &alignment, err));
    if ((alignment & (alignment - 1)) != 0) {
        return mx_error_set(err, MX_ERR_FORMAT, "%s: general.alignment: not a power of two",
                            cursor->where);
    }
    MX_TRY(read_descriptions(cursor, count, reader, err));
    MX_TRY(place_tensors(cursor, (uint64_t)alignment, &reader->tensors, err));
    MX_TRY(check_overlaps(cursor, &reader->tensors, err));
    return mx_tensor_set_index(&reader->tensors, cursor->where, err);
}
