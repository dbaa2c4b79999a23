/*
 * The writer. The whole header is known before the first byte of data, since every
 * size follows from the plans: data streams through without seeking back. The file
 * is atomic (base/file.h): a writer that is aborted or fails leaves nothing.
 */
#include "io/safetensors.h"

#include "base/str.h"
#include "io/safetensors_header.h"

#include <stdlib.h>
#include <string.h>

struct mx_safetensors_writer {
    char *path;
    mx_atomic_file *file;
    uint64_t declared, written; /* bytes of the buffer */
};

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
        status = mx_safetensors_header_add(root, &plans[i], path, *end, end, err);
    }
    if (status != MX_OK) {
        json_decref(root);
        root = NULL;
    }
    *out = root;
    return status;
}

mx_status mx_safetensors_create(const char *path, const mx_tensor_plan *plans, size_t n_plans,
                                const char *const *metadata, size_t n_metadata,
                                mx_safetensors_writer **out, mx_error *err)
{
    *out = NULL;
    json_t *root = NULL;
    char *header = NULL;
    size_t header_size = 0;
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
    MX_TRY_GOTO(status, mx_safetensors_header_bytes(root, path, &header, &header_size, err));
    MX_TRY_GOTO(status, mx_atomic_open(path, &writer->file, err));
    MX_TRY_GOTO(status, mx_atomic_write(writer->file, header, header_size, err));
    *out = writer;
    writer = NULL;
done:
    json_decref(root);
    free(header);
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
