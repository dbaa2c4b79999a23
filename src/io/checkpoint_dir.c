/* A Hugging Face directory: config.json, and safetensors in one file or shards. */
#include "io/checkpoint_impl.h"

#include "io/quark.h"

#include <stdlib.h>
#include <string.h>

/* Far above real files (2 KB, and 9 MB for 90,000 tensors): parsed JSON takes up to
 * fifty times its text. */
enum { CONFIG_LIMIT = 4 << 20, INDEX_LIMIT = 32 << 20 };

static const char single_file[] = "model.safetensors";
static const char index_file[] = "model.safetensors.index.json";

static mx_status join(const char *dir, const char *name, char **out, mx_error *err)
{
    *out = mx_path_join(dir, name);
    return *out == NULL ? mx_error_nomem(err, name, strlen(dir)) : MX_OK;
}

/* config.json, and with it the numeric contract of a quantized directory. Messages
 * name the file, hence `path` lives until the end. */
static mx_status load_config(mx_checkpoint *checkpoint, mx_error *err)
{
    char *path;
    MX_TRY(join(checkpoint->path, "config.json", &path, err));
    mx_status status;
    MX_TRY_GOTO(status, mx_json_load(path, CONFIG_LIMIT, &checkpoint->config_json, err));
    MX_TRY_GOTO(status,
                mx_llama_config_parse(checkpoint->config_json, path, &checkpoint->config, err));
    const json_t *quantization = json_object_get(checkpoint->config_json, "quantization_config");
    if (quantization != NULL && !json_is_null(quantization)) {
        MX_TRY_GOTO(status, mx_quark_parse(quantization, &checkpoint->config, path,
                                           &checkpoint->specs, &checkpoint->method, err));
        checkpoint->quantized = true;
    }
done:
    free(path);
    return status;
}

/* Appends to checkpoint->shards, which has room. */
static mx_status open_shard(mx_checkpoint *checkpoint, const char *file, mx_error *err)
{
    char *path;
    MX_TRY(join(checkpoint->path, file, &path, err));
    const mx_status status =
        mx_safetensors_open(path, &checkpoint->shards[checkpoint->n_shards], err);
    checkpoint->n_shards += status == MX_OK;
    free(path);
    return status;
}

static mx_status alloc_shards(mx_checkpoint *checkpoint, size_t count, mx_error *err)
{
    checkpoint->shards = calloc(count + 1, sizeof(mx_safetensors *));
    return checkpoint->shards == NULL ? mx_error_nomem(err, "shards", count * sizeof(void *))
                                      : MX_OK;
}

/* A shard is a plain file of the directory: an index from elsewhere must not make
 * us open files outside it. */
static bool is_plain_name(const char *name)
{
    return name != NULL && name[0] != '\0' && name[0] != '.' && strchr(name, '/') == NULL;
}

/* The distinct files of weight_map, in order of appearance: name -> number. */
static mx_status collect_shards(json_t *weight_map, const char *where, json_t *files, mx_error *err)
{
    const char *tensor;
    json_t *value;
    json_object_foreach(weight_map, tensor, value)
    {
        const char *file = json_string_value(value);
        if (!is_plain_name(file)) {
            return mx_error_set(err, MX_ERR_FORMAT,
                                "%s: weight_map.%s: must be the name of a file in the directory",
                                where, tensor);
        }
        if (json_object_get(files, file) == NULL) {
            const json_int_t number = (json_int_t)json_object_size(files);
            json_object_set_new(files, file, json_integer(number));
        }
    }
    return MX_OK;
}

/* weight_map and the shards must name exactly the same tensors. */
static mx_status check_weight_map(const mx_checkpoint *checkpoint, json_t *weight_map,
                                  const json_t *files, const char *where, mx_error *err)
{
    const char *tensor;
    json_t *value;
    json_object_foreach(weight_map, tensor, value)
    {
        const json_t *number = json_object_get(files, json_string_value(value));
        const size_t shard = (size_t)json_integer_value(number);
        if (mx_safetensors_find(checkpoint->shards[shard], tensor) == NULL) {
            return mx_error_set(err, MX_ERR_FORMAT, "%s: weight_map.%s: not in %s", where, tensor,
                                json_string_value(value));
        }
    }
    /* Every mapped name was found where it belongs: a difference in number means
     * that a shard holds something that the map puts elsewhere or does not know. */
    size_t count = 0;
    for (size_t i = 0; i < checkpoint->n_shards; i++) {
        count += mx_safetensors_count(checkpoint->shards[i]);
    }
    if (count != json_object_size(weight_map)) {
        return mx_error_set(err, MX_ERR_FORMAT,
                            "%s: weight_map: %zu tensors, but the shards hold %zu", where,
                            json_object_size(weight_map), count);
    }
    return MX_OK;
}

/* Several files: the index says which tensor is where, and is held to it. */
static mx_status open_indexed(mx_checkpoint *checkpoint, const char *index_path, mx_error *err)
{
    json_t *index = NULL, *files = json_object();
    mx_status status;
    MX_TRY_GOTO(status, mx_json_load(index_path, INDEX_LIMIT, &index, err));
    json_t *weight_map = json_object_get(index, "weight_map");
    if (!json_is_object(weight_map) || json_object_size(weight_map) == 0) {
        status = mx_error_set(err, MX_ERR_FORMAT, "%s: weight_map: must be a non-empty object",
                              index_path);
        goto done;
    }
    MX_TRY_GOTO(status, collect_shards(weight_map, index_path, files, err));
    MX_TRY_GOTO(status, alloc_shards(checkpoint, json_object_size(files), err));
    const char *file;
    json_t *number;
    json_object_foreach(files, file, number)
    {
        MX_TRY_GOTO(status, open_shard(checkpoint, file, err));
    }
    status = check_weight_map(checkpoint, weight_map, files, index_path, err);
done:
    json_decref(index);
    json_decref(files);
    return status;
}

/* As transformers looks for them: the single file first. */
static mx_status open_shards(mx_checkpoint *checkpoint, mx_error *err)
{
    char *single = NULL, *index = NULL;
    mx_status status;
    MX_TRY_GOTO(status, join(checkpoint->path, single_file, &single, err));
    MX_TRY_GOTO(status, join(checkpoint->path, index_file, &index, err));
    if (mx_path_is_file(single)) {
        MX_TRY_GOTO(status, alloc_shards(checkpoint, 1, err));
        MX_TRY_GOTO(status, open_shard(checkpoint, single_file, err));
    } else if (mx_path_is_file(index)) {
        MX_TRY_GOTO(status, open_indexed(checkpoint, index, err));
    } else {
        status = mx_error_set(err, MX_ERR_IO, "%s: neither %s nor %s is there", checkpoint->path,
                              single_file, index_file);
    }
done:
    free(single);
    free(index);
    return status;
}

/* One list over all files. The entries are copies, since checkpoint_verify.c
 * rewrites the types of packed tensors; names stay with the readers. */
static mx_status collect_tensors(mx_checkpoint *checkpoint, mx_error *err)
{
    size_t count = 0;
    for (size_t i = 0; i < checkpoint->n_shards; i++) {
        count += mx_safetensors_count(checkpoint->shards[i]);
    }
    MX_TRY(mx_tensor_set_alloc(&checkpoint->tensors, count, err));
    mx_tensor *next = checkpoint->tensors.items;
    for (size_t i = 0; i < checkpoint->n_shards; i++) {
        for (size_t j = 0; j < mx_safetensors_count(checkpoint->shards[i]); j++) {
            *next++ = *mx_safetensors_at(checkpoint->shards[i], j);
        }
    }
    return mx_tensor_set_index(&checkpoint->tensors, checkpoint->path, err);
}

mx_status mx_checkpoint_load_dir(mx_checkpoint *checkpoint, mx_error *err)
{
    MX_TRY(load_config(checkpoint, err));
    MX_TRY(open_shards(checkpoint, err));
    return collect_tensors(checkpoint, err);
}
