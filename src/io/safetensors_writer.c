/*
 * The writer. The whole header is known before the first byte of data, since every
 * size follows from the plans: data streams through without seeking back. The file
 * is atomic (base/file.h): a writer that is aborted or fails leaves nothing.
 */
#include "io/safetensors.h"

#include "base/str.h"
#include "io/tensor_set.h"

#include <stdlib.h>
#include <string.h>

struct mx_safetensors_writer {
    char *path;
    mx_atomic_file *file;
    uint64_t declared, written; /* bytes of the buffer */
};

/* A wrong plan is the caller's mistake, not bad data. */
static mx_status plan_error(const char *path, const char *name, const char *reason, mx_error *err)
{
    return mx_error_set(err, MX_ERR_ARGUMENT, "%s: tensor %s: %s", path, name, reason);
}

/* Bytes of one planned tensor. */
static mx_status plan_size(const char *path, const mx_tensor_plan *plan, uint64_t *size,
                           mx_error *err)
{
    const mx_dtype_info *info = mx_dtype_get(plan->dtype);
    if (plan->dtype == MX_DTYPE_NONE || info->block != 1) {
        return plan_error(path, plan->name, "safetensors has no name for its type", err);
    }
    uint64_t count = 0;
    if (plan->n_dims < 0 || plan->n_dims > MX_TENSOR_MAX_DIMS ||
        !mx_shape_count(plan->shape, plan->n_dims, &count) ||
        count > (uint64_t)INT64_MAX / info->block_bytes) {
        return plan_error(path, plan->name, "shape: too large", err);
    }
    *size = count * info->block_bytes;
    return MX_OK;
}

/* Adds {"dtype", "shape", "data_offsets"} under the tensor's name. */
static mx_status plan_entry(const char *path, json_t *root, const mx_tensor_plan *plan,
                            uint64_t *end, mx_error *err)
{
    uint64_t size = 0;
    MX_TRY(plan_size(path, plan, &size, err));
    if (size > (uint64_t)INT64_MAX - *end) {
        return plan_error(path, plan->name, "the file would be too large", err);
    }
    if (strcmp(plan->name, "__metadata__") == 0 || json_object_get(root, plan->name) != NULL) {
        return plan_error(path, plan->name, "name is taken", err);
    }
    /* A shape that could not be built makes json_pack, and then the set, fail. */
    json_t *shape = json_array();
    for (int i = 0; i < plan->n_dims; i++) {
        json_array_append_new(shape, json_integer((json_int_t)plan->shape[i]));
    }
    json_t *entry =
        json_pack("{s:s, s:o, s:[I, I]}", "dtype", mx_dtype_get(plan->dtype)->name, "shape", shape,
                  "data_offsets", (json_int_t)*end, (json_int_t)(*end + size));
    /* Fails for a name that is not UTF-8, and when out of memory. */
    if (json_object_set_new(root, plan->name, entry) != 0) {
        return plan_error(path, plan->name, "name is not UTF-8", err);
    }
    *end += size;
    return MX_OK;
}

/* The header as JSON; `*end` receives the size of the buffer. Metadata comes first,
 * as in the files that other writers make. */
static mx_status build_header(const char *path, const mx_tensor_plan *plans, size_t n_plans,
                              const char *const *metadata, size_t n_metadata, uint64_t *end,
                              json_t **out, mx_error *err)
{
    json_t *root = json_object();
    *end = 0;
    mx_status status = MX_OK;
    if (n_metadata > 0) {
        json_t *object = json_object();
        for (size_t i = 0; i < n_metadata; i++) {
            if (json_object_set_new(object, metadata[2 * i], json_string(metadata[2 * i + 1])) !=
                0) {
                status = mx_error_set(err, MX_ERR_ARGUMENT, "%s: __metadata__: not UTF-8", path);
            }
        }
        json_object_set_new(root, "__metadata__", object);
    }
    for (size_t i = 0; i < n_plans && status == MX_OK; i++) {
        status = plan_entry(path, root, &plans[i], end, err);
    }
    if (status != MX_OK) {
        json_decref(root);
        root = NULL;
    }
    *out = root;
    return status;
}

/* Length, JSON text, and spaces so that the buffer starts 8-byte aligned. */
static mx_status write_header(mx_atomic_file *file, const char *path, const json_t *root,
                              mx_error *err)
{
    char *text = json_dumps(root, JSON_COMPACT);
    if (text == NULL) {
        return mx_error_nomem(err, "safetensors header", 0);
    }
    const size_t length = strlen(text), padded = (length + 7) / 8 * 8;
    uint8_t prefix[8];
    for (int i = 0; i < 8; i++) {
        prefix[i] = (uint8_t)((uint64_t)padded >> 8 * i);
    }
    mx_status status;
    if (padded > 100 * 1000 * 1000) {
        status = mx_error_set(err, MX_ERR_ARGUMENT, "%s: header length: too many tensors", path);
        goto done;
    }
    MX_TRY_GOTO(status, mx_atomic_write(file, prefix, sizeof prefix, err));
    MX_TRY_GOTO(status, mx_atomic_write(file, text, length, err));
    MX_TRY_GOTO(status, mx_atomic_write(file, "       ", padded - length, err));
done:
    free(text);
    return status;
}

mx_status mx_safetensors_create(const char *path, const mx_tensor_plan *plans, size_t n_plans,
                                const char *const *metadata, size_t n_metadata,
                                mx_safetensors_writer **out, mx_error *err)
{
    *out = NULL;
    json_t *root = NULL;
    mx_safetensors_writer *writer = calloc(1, sizeof *writer);
    if (writer == NULL) {
        return mx_error_nomem(err, "safetensors writer", sizeof *writer);
    }
    mx_status status = MX_OK;
    writer->path = mx_str_copy(path, strlen(path));
    if (writer->path == NULL) {
        status = mx_error_nomem(err, "safetensors writer", strlen(path));
        goto done;
    }
    MX_TRY_GOTO(status, build_header(path, plans, n_plans, metadata, n_metadata, &writer->declared,
                                     &root, err));
    MX_TRY_GOTO(status, mx_atomic_open(path, &writer->file, err));
    MX_TRY_GOTO(status, write_header(writer->file, path, root, err));
    *out = writer;
    writer = NULL;
done:
    json_decref(root);
    mx_safetensors_abort(writer);
    return status;
}

mx_status mx_safetensors_write(mx_safetensors_writer *writer, const void *data, size_t size,
                               mx_error *err)
{
    if (size > writer->declared - writer->written) {
        return mx_error_set(err, MX_ERR_ARGUMENT, "%s: data: more bytes than declared",
                            writer->path);
    }
    MX_TRY(mx_atomic_write(writer->file, data, size, err));
    writer->written += size;
    return MX_OK;
}

mx_status mx_safetensors_finish(mx_safetensors_writer *writer, mx_error *err)
{
    mx_status status;
    if (writer->written != writer->declared) {
        status = mx_error_set(err, MX_ERR_ARGUMENT, "%s: data: %llu bytes of %llu declared",
                              writer->path, (unsigned long long)writer->written,
                              (unsigned long long)writer->declared);
    } else {
        status = mx_atomic_commit(writer->file, err);
        writer->file = NULL; /* commit frees it, whatever it returns */
    }
    mx_safetensors_abort(writer);
    return status;
}

void mx_safetensors_abort(mx_safetensors_writer *writer)
{
    if (writer != NULL) {
        mx_atomic_abort(writer->file);
        free(writer->path);
        free(writer);
    }
}
