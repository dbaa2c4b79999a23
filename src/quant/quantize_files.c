/* The small files of a quantized checkpoint, and the settings of its run. */
#include "quant/quantize_plan.h"

#include "base/file.h"
#include "base/str.h"
#include "io/quark.h"
#include "io/tokenizer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* Bytes of a tokenizer or config file that are read; the largest vocabularies in
 * use take about 35 MB. */
#define SMALL_FILE_LIMIT ((size_t)1 << 30)

static const char *const copied_files[] = {
    "tokenizer.json",         "tokenizer_config.json", "special_tokens_map.json",
    "generation_config.json", "chat_template.jinja",
};

static mx_status write_json(mx_export *export, const char *name, const json_t *value, mx_error *err)
{
    char *text = NULL;
    MX_TRY(mx_json_dump(value, 2, &text, err));
    mx_status status = mx_export_text(export, name, text, strlen(text), err);
    free(text);
    return status;
}

/* Copies a file of the source directory when it is there. */
static mx_status copy_file(const char *dir, const char *name, mx_export *export, mx_error *err)
{
    char *path = mx_path_join(dir, name);
    char *text = NULL;
    size_t size = 0;
    if (path == NULL) {
        return mx_error_nomem(err, dir, 0);
    }
    mx_status status = MX_OK;
    if (mx_path_is_file(path)) {
        status = mx_file_read(path, SMALL_FILE_LIMIT, &text, &size, err);
        if (status == MX_OK) {
            status = mx_export_text(export, name, text, size, err);
        }
    }
    free(text);
    free(path);
    return status;
}

/* Adds `key`: the text of the token whose id is metadata `id_key`, if any. */
static mx_status add_token(json_t *object, const char *key, const mx_gguf *gguf, const char *id_key,
                           const mx_tokenizer *tokenizer, mx_error *err)
{
    int64_t id = -1;
    size_t length = 0;
    MX_TRY(mx_gguf_get_int(gguf, id_key, false, -1, -1, INT32_MAX, &id, err));
    const char *text = id >= 0 ? mx_tokenizer_bytes(tokenizer, (int32_t)id, &length) : NULL;
    if (text != NULL && length > 0) {
        json_object_set_new(object, key, json_stringn(text, length));
    }
    return MX_OK;
}

/* tokenizer_config.json as transformers' AutoTokenizer wants it. */
static mx_status gguf_tokenizer_config(const mx_gguf *gguf, const mx_tokenizer *tokenizer,
                                       uint32_t context, json_t **out, mx_error *err)
{
    static const char *const tokens[][2] = {
        {"bos_token", "tokenizer.ggml.bos_token_id"},
        {"eos_token", "tokenizer.ggml.eos_token_id"},
        {"unk_token", "tokenizer.ggml.unknown_token_id"},
        {"pad_token", "tokenizer.ggml.padding_token_id"},
    };
    mx_gguf_string template;
    mx_status status = MX_OK;
    json_t *object =
        json_pack("{s:s, s:I, s:b}", "tokenizer_class", "PreTrainedTokenizerFast",
                  "model_max_length", (json_int_t)context, "clean_up_tokenization_spaces", 0);
    for (size_t i = 0; i < MX_COUNT(tokens); i++) {
        MX_TRY_GOTO(status, add_token(object, tokens[i][0], gguf, tokens[i][1], tokenizer, err));
    }
    MX_TRY_GOTO(status, mx_gguf_get_string(gguf, "tokenizer.chat_template", false, &template, err));
    if (template.data != NULL &&
        json_object_set_new(object, "chat_template",
                            json_stringn(template.data, template.length)) != 0) {
        status = mx_error_set(err, MX_ERR_FORMAT, "%s: tokenizer.chat_template: not UTF-8",
                              mx_gguf_path(gguf));
    }
done:
    if (status != MX_OK) {
        json_decref(object);
        object = NULL;
    }
    *out = object;
    return status;
}

/* generation_config.json: where generation starts and stops. */
static json_t *gguf_generation_config(const mx_llama_config *config)
{
    json_t *object = json_object();
    json_t *eos = json_array();
    for (uint32_t i = 0; i < config->n_eos; i++) {
        json_array_append_new(eos, json_integer(config->eos_ids[i]));
    }
    if (config->bos_id >= 0) {
        json_object_set_new(object, "bos_token_id", json_integer(config->bos_id));
    }
    json_object_set(object, "eos_token_id", config->n_eos == 1 ? json_array_get(eos, 0) : eos);
    json_decref(eos);
    return object;
}

static mx_status write_gguf_tokenizer(const mx_gguf *gguf, const mx_llama_config *config,
                                      mx_export *export, mx_error *err)
{
    mx_tokenizer *tokenizer = NULL;
    char *text = NULL;
    json_t *object = NULL;
    mx_gguf_string kind;
    mx_status status;
    MX_TRY(mx_gguf_get_string(gguf, "tokenizer.ggml.model", false, &kind, err));
    if (kind.data == NULL) {
        return MX_OK; /* as a directory without tokenizer.json */
    }
    MX_TRY_GOTO(status, mx_tokenizer_from_gguf(gguf, &tokenizer, err));
    MX_TRY_GOTO(status, mx_tokenizer_to_json(tokenizer, &text, err));
    MX_TRY_GOTO(status, mx_export_text(export, "tokenizer.json", text, strlen(text), err));
    MX_TRY_GOTO(status, gguf_tokenizer_config(gguf, tokenizer, config->context, &object, err));
    MX_TRY_GOTO(status, write_json(export, "tokenizer_config.json", object, err));
    json_decref(object);
    object = gguf_generation_config(config);
    status = write_json(export, "generation_config.json", object, err);
done:
    json_decref(object);
    free(text);
    mx_tokenizer_close(tokenizer);
    return status;
}

mx_status mx_quantize_write_tokenizer(const mx_checkpoint *checkpoint, mx_export *export,
                                      mx_error *err)
{
    if (mx_checkpoint_is_gguf(checkpoint)) {
        return write_gguf_tokenizer(mx_checkpoint_gguf(checkpoint),
                                    mx_checkpoint_config(checkpoint), export, err);
    }
    for (size_t i = 0; i < MX_COUNT(copied_files); i++) {
        MX_TRY(copy_file(mx_checkpoint_path(checkpoint), copied_files[i], export, err));
    }
    return MX_OK;
}

mx_status mx_quantize_write_config(const mx_checkpoint *checkpoint, const mx_specs *specs,
                                   const json_t *method, mx_export *export, mx_error *err)
{
    const mx_llama_config *config = mx_checkpoint_config(checkpoint);
    const json_t *source = mx_checkpoint_config_json(checkpoint);
    json_t *root = NULL, *quantization = NULL;
    mx_status status = MX_OK;
    if (source != NULL) {
        root = json_deep_copy(source);
        if (root == NULL) {
            return mx_error_nomem(err, "config.json", 0);
        }
    } else {
        MX_TRY(mx_llama_config_to_json(config, &root, err));
    }
    json_object_del(root, "quantization_config"); /* null at most: the source is unquantized */
    if (mx_quant_is_scaled(&specs->weights)) {
        MX_TRY_GOTO(status, mx_quark_to_json(specs, config, "rtn", &quantization, err));
        json_object_set(json_object_get(quantization, "mxlm"), "method",
                        (json_t *)(uintptr_t)method);
        json_object_set(root, "quantization_config", quantization);
    }
    status = write_json(export, "config.json", root, err);
done:
    json_decref(quantization);
    json_decref(root);
    return status;
}

/* Adds {file: "size mtime"}: a source that was changed is another source. */
static mx_status add_file_identity(json_t *files, const char *path, mx_error *err)
{
    struct stat info;
    if (json_object_get(files, path) != NULL) {
        return MX_OK;
    }
    if (stat(path, &info) != 0) {
        return mx_error_set(err, MX_ERR_IO, "%s: cannot stat: %s", path, strerror(errno));
    }
    json_object_set_new(files, path,
                        json_sprintf("%lld bytes, modified %lld.%09ld", (long long)info.st_size,
                                     (long long)info.st_mtim.tv_sec, info.st_mtim.tv_nsec));
    return MX_OK;
}

static mx_status source_files(const mx_checkpoint *checkpoint, json_t *files, mx_error *err)
{
    for (size_t i = 0; i < mx_checkpoint_count(checkpoint); i++) {
        MX_TRY(add_file_identity(files, mx_checkpoint_at(checkpoint, i)->file, err));
    }
    if (mx_checkpoint_is_gguf(checkpoint)) {
        return MX_OK;
    }
    char *config = mx_path_join(mx_checkpoint_path(checkpoint), "config.json");
    if (config == NULL) {
        return mx_error_nomem(err, "config.json", 0);
    }
    mx_status status = add_file_identity(files, config, err);
    free(config);
    return status;
}

mx_status mx_quantize_settings(const mx_checkpoint *checkpoint, const mx_specs *specs,
                               const json_t *method, const char *calib_path, json_t **out,
                               mx_error *err)
{
    *out = NULL;
    json_t *contract = NULL;
    json_t *files = json_object();
    mx_status status;
    MX_TRY_GOTO(status, source_files(checkpoint, files, err));
    if (calib_path != NULL) {
        MX_TRY_GOTO(status, add_file_identity(files, calib_path, err));
    }
    MX_TRY_GOTO(status, mx_specs_to_json(specs, &contract, err));
    *out = json_pack("{s:O, s:O, s:O}", "specs", contract, "source", files, "method", method);
    if (*out == NULL) {
        status = mx_error_nomem(err, "settings", 0);
    }
done:
    json_decref(contract);
    json_decref(files);
    return status;
}
