/* What both containers share: opening, lookup, rows, memory. Loading is in
 * checkpoint_dir.c and checkpoint_gguf.c, the checks in checkpoint_verify.c. */
#include "io/checkpoint_impl.h"

#include "base/str.h"

#include <stdlib.h>
#include <string.h>

mx_status mx_checkpoint_open(const char *path, mx_checkpoint **out, mx_error *err)
{
    *out = NULL;
    mx_checkpoint *checkpoint = calloc(1, sizeof *checkpoint);
    if (checkpoint == NULL) {
        return mx_error_nomem(err, path, sizeof *checkpoint);
    }
    mx_status status;
    checkpoint->path = mx_str_copy(path, strlen(path));
    if (checkpoint->path == NULL) {
        status = mx_error_nomem(err, path, strlen(path));
        goto done;
    }
    /* By what it is, not by its name; a path that does not exist fails as a file. */
    if (mx_path_is_dir(path)) {
        MX_TRY_GOTO(status, mx_checkpoint_load_dir(checkpoint, err));
    } else {
        MX_TRY_GOTO(status, mx_checkpoint_load_gguf(checkpoint, err));
    }
    MX_TRY_GOTO(status, mx_checkpoint_verify(checkpoint, err));
    *out = checkpoint;
    checkpoint = NULL;
done:
    mx_checkpoint_close(checkpoint);
    return status;
}

void mx_checkpoint_close(mx_checkpoint *checkpoint)
{
    if (checkpoint == NULL) {
        return;
    }
    mx_tensor_set_free(&checkpoint->tensors);
    mx_specs_clear(&checkpoint->specs);
    json_decref(checkpoint->config_json);
    for (size_t i = 0; i < checkpoint->n_shards; i++) {
        mx_safetensors_close(checkpoint->shards[i]);
    }
    free(checkpoint->shards);
    mx_gguf_close(checkpoint->gguf);
    free(checkpoint->names);
    free(checkpoint->biases);
    free(checkpoint->rope_factors);
    free(checkpoint->path);
    free(checkpoint);
}

const char *mx_checkpoint_path(const mx_checkpoint *checkpoint)
{
    return checkpoint->path;
}

bool mx_checkpoint_is_gguf(const mx_checkpoint *checkpoint)
{
    return checkpoint->gguf != NULL;
}

const mx_gguf *mx_checkpoint_gguf(const mx_checkpoint *checkpoint)
{
    return checkpoint->gguf;
}

const mx_llama_config *mx_checkpoint_config(const mx_checkpoint *checkpoint)
{
    return &checkpoint->config;
}

const json_t *mx_checkpoint_config_json(const mx_checkpoint *checkpoint)
{
    return checkpoint->config_json;
}

const mx_specs *mx_checkpoint_specs(const mx_checkpoint *checkpoint)
{
    return checkpoint->quantized ? &checkpoint->specs : NULL;
}

const char *mx_checkpoint_method(const mx_checkpoint *checkpoint)
{
    return checkpoint->method;
}

size_t mx_checkpoint_count(const mx_checkpoint *checkpoint)
{
    return checkpoint->tensors.count;
}

const mx_tensor *mx_checkpoint_at(const mx_checkpoint *checkpoint, size_t index)
{
    return &checkpoint->tensors.items[index];
}

const mx_tensor *mx_checkpoint_find(const mx_checkpoint *checkpoint, const char *name)
{
    return mx_tensor_set_find(&checkpoint->tensors, name);
}

/* ---- rows ---------------------------------------------------------------- */

mx_status mx_checkpoint_rows(const mx_checkpoint *checkpoint, const char *name, mx_rows *out,
                             mx_error *err)
{
    *out = (mx_rows){0};
    const mx_tensor *tensor = mx_checkpoint_find(checkpoint, name);
    if (tensor == NULL) {
        return mx_error_set(err, MX_ERR_FORMAT, "%s: tensor %s: missing", checkpoint->path, name);
    }
    /* verify has seen the types; blocks that do not divide a row cannot be told here
     * from a 1-D tensor in a block type, which has no rows to speak of. */
    const mx_dtype_info *info = mx_dtype_get(tensor->dtype);
    const uint64_t n_cols = tensor->n_dims == 2 ? tensor->shape[1] : 1;
    if (tensor->n_dims < 1 || tensor->n_dims > 2 || n_cols % info->block != 0) {
        return mx_error_set(err, MX_ERR_UNSUPPORTED, "%s: tensor %s: has no rows", tensor->file,
                            name);
    }
    out->tensor = tensor;
    out->n_rows = tensor->shape[0];
    out->n_cols = n_cols;
    out->row_bytes = mx_dtype_bytes(tensor->dtype, n_cols);
    /* 1-D tensors are in order already (order_biases). */
    mx_llama_tensor layout;
    if (checkpoint->gguf != NULL && tensor->n_dims == 2 &&
        mx_llama_tensor_find(&checkpoint->config, name, &layout)) {
        out->permuted_head_dim = layout.permuted_head_dim;
    }
    return MX_OK;
}

/* GGUF's llama conversion turns the two halves of a head, which rotary embedding
 * pairs up (i with i + head_dim / 2), into neighbours (2i, 2i + 1). */
uint64_t mx_permuted_row(uint64_t row, uint32_t head_dim)
{
    const uint64_t half = head_dim / 2, within = row % head_dim;
    return row - within + 2 * (within % half) + within / half;
}

uint64_t mx_rows_source(const mx_rows *rows, uint64_t row)
{
    return rows->permuted_head_dim == 0 ? row : mx_permuted_row(row, rows->permuted_head_dim);
}

const uint8_t *mx_rows_at(const mx_rows *rows, uint64_t row)
{
    return rows->tensor->data + mx_rows_source(rows, row) * rows->row_bytes;
}

/* ---- memory -------------------------------------------------------------- */

/* True when the tensor's bytes lie in `map` (owned copies lie in none). */
static bool map_holds(const mx_map *map, const mx_tensor *tensor)
{
    const uintptr_t data = (uintptr_t)tensor->data;
    return map != NULL && data >= (uintptr_t)map->data && data - (uintptr_t)map->data < map->size;
}

void mx_checkpoint_drop(const mx_checkpoint *checkpoint, const mx_tensor *tensor)
{
    const mx_map *map = checkpoint->gguf != NULL ? mx_gguf_map(checkpoint->gguf) : NULL;
    /* The map that holds the bytes, if any does. */
    for (size_t i = 0; i < checkpoint->n_shards && !map_holds(map, tensor); i++) {
        map = mx_safetensors_map(checkpoint->shards[i]);
    }
    if (map_holds(map, tensor)) {
        mx_map_drop(map, (size_t)(tensor->data - map->data), (size_t)tensor->size);
    }
}
