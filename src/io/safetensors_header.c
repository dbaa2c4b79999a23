/* Entries and bytes of a safetensors header; the format as in safetensors.c. Plans come
 * from the program, names in them from source files: both are checked. */
#include "io/safetensors_header.h"

#include "io/tensor_set.h"

#include <stdlib.h>
#include <string.h>

/* A wrong plan is the caller's mistake, not bad data. */
static mx_status plan_error(const char *where, const char *name, const char *reason, mx_error *err)
{
    return mx_error_set(err, MX_ERR_ARGUMENT, "%s: tensor %s: %s", where, name, reason);
}

mx_status mx_safetensors_plan_size(const mx_tensor_plan *plan, const char *where, uint64_t *size,
                                   mx_error *err)
{
    const mx_dtype_info *info = mx_dtype_get(plan->dtype);
    if (plan->dtype == MX_DTYPE_NONE || info->block != 1) {
        return plan_error(where, plan->name, "safetensors has no name for its type", err);
    }
    uint64_t count = 0;
    if (plan->n_dims < 0 || plan->n_dims > MX_TENSOR_MAX_DIMS ||
        !mx_shape_count(plan->shape, plan->n_dims, &count) ||
        count > (uint64_t)INT64_MAX / info->block_bytes) {
        return plan_error(where, plan->name, "shape: too large", err);
    }
    *size = count * info->block_bytes;
    return MX_OK;
}

mx_status mx_safetensors_header_add(json_t *root, const mx_tensor_plan *plan, const char *where,
                                    uint64_t begin, uint64_t *end, mx_error *err)
{
    uint64_t size = 0;
    MX_TRY(mx_safetensors_plan_size(plan, where, &size, err));
    /* JSON integers here are int64: offsets must be, too. */
    if (size > (uint64_t)INT64_MAX - begin) {
        return plan_error(where, plan->name, "the file would be too large", err);
    }
    if (strcmp(plan->name, "__metadata__") == 0 || json_object_get(root, plan->name) != NULL) {
        return plan_error(where, plan->name, "name is taken", err);
    }
    /* A shape that could not be built makes json_pack, and then the set, fail. */
    json_t *shape = json_array();
    for (int d = 0; d < plan->n_dims; d++) {
        json_array_append_new(shape, json_integer((json_int_t)plan->shape[d]));
    }
    json_t *entry =
        json_pack("{s:s, s:o, s:[I, I]}", "dtype", mx_dtype_get(plan->dtype)->name, "shape", shape,
                  "data_offsets", (json_int_t)begin, (json_int_t)(begin + size));
    /* Fails for a name that is not UTF-8, and when out of memory. */
    if (json_object_set_new(root, plan->name, entry) != 0) {
        return plan_error(where, plan->name, "name is not UTF-8", err);
    }
    *end = begin + size;
    return MX_OK;
}

mx_status mx_safetensors_header_bytes(const json_t *root, const char *where, char **out,
                                      size_t *size, mx_error *err)
{
    *out = NULL;
    *size = 0;
    char *text = json_dumps(root, JSON_COMPACT);
    if (text == NULL) {
        return mx_error_nomem(err, where, 0);
    }
    const size_t length = strlen(text), padded = (length + 7) / 8 * 8;
    mx_status status = MX_OK;
    if (padded > MX_SAFETENSORS_MAX_HEADER) {
        status = mx_error_set(err, MX_ERR_ARGUMENT, "%s: header length: too many tensors", where);
        goto done;
    }
    char *bytes = malloc(MX_SAFETENSORS_PREFIX + padded);
    if (bytes == NULL) {
        status = mx_error_nomem(err, where, MX_SAFETENSORS_PREFIX + padded);
        goto done;
    }
    for (int i = 0; i < MX_SAFETENSORS_PREFIX; i++) {
        bytes[i] = (char)((uint64_t)padded >> 8 * i & 0xFF);
    }
    memcpy(bytes + MX_SAFETENSORS_PREFIX, text, length);
    memset(bytes + MX_SAFETENSORS_PREFIX + length, ' ', padded - length);
    *out = bytes;
    *size = MX_SAFETENSORS_PREFIX + padded;
done:
    free(text);
    return status;
}
