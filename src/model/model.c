/* Opening a checkpoint as a model: every tensor that the config asks for, checked
 * against the config's shapes. */
#include "model/model.h"

#include "base/file.h"
#include "io/llama_layout.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const projection_suffixes[MX_PROJ_COUNT] = {
    [MX_PROJ_Q] = "self_attn.q_proj", [MX_PROJ_K] = "self_attn.k_proj",
    [MX_PROJ_V] = "self_attn.v_proj", [MX_PROJ_O] = "self_attn.o_proj",
    [MX_PROJ_GATE] = "mlp.gate_proj", [MX_PROJ_UP] = "mlp.up_proj",
    [MX_PROJ_DOWN] = "mlp.down_proj",
};

enum { NAME_SIZE = 96 };

void mx_projection_name(uint32_t layer, mx_projection projection, char *name)
{
    snprintf(name, NAME_SIZE, "model.layers.%u.%s", layer, projection_suffixes[projection]);
}

void mx_projection_shape(const mx_llama_config *config, mx_projection projection, size_t *rows,
                         size_t *cols)
{
    size_t heads = (size_t)config->heads * config->head_dim;
    size_t kv = (size_t)config->kv_heads * config->head_dim;
    size_t hidden = config->hidden, intermediate = config->intermediate;
    const size_t shapes[MX_PROJ_COUNT][2] = {
        [MX_PROJ_Q] = {heads, hidden},
        [MX_PROJ_K] = {kv, hidden},
        [MX_PROJ_V] = {kv, hidden},
        [MX_PROJ_O] = {hidden, heads},
        [MX_PROJ_GATE] = {intermediate, hidden},
        [MX_PROJ_UP] = {intermediate, hidden},
        [MX_PROJ_DOWN] = {hidden, intermediate},
    };
    *rows = shapes[projection][0];
    *cols = shapes[projection][1];
}

static mx_status wrong_shape(const mx_tensor *tensor, uint64_t rows, uint64_t cols, mx_error *err)
{
    return mx_error_set(
        err, MX_ERR_FORMAT, "%s: %s: shape does not agree with config.json (needs [%llu, %llu])",
        tensor->file, tensor->name, (unsigned long long)rows, (unsigned long long)cols);
}

static mx_status find_tensor(const mx_model *model, const char *name, const mx_tensor **out,
                             mx_error *err)
{
    *out = mx_checkpoint_find(model->checkpoint, name);
    if (*out == NULL) {
        return mx_error_set(err, MX_ERR_FORMAT, "%s: %s: tensor is missing",
                            mx_checkpoint_path(model->checkpoint), name);
    }
    return MX_OK;
}

/* A vector [n] as owned fp32. */
static mx_status load_vector(const mx_model *model, const char *name, size_t n, float **out,
                             mx_error *err)
{
    const mx_tensor *tensor;
    MX_TRY(find_tensor(model, name, &tensor, err));
    const mx_dtype_info *info = mx_dtype_get(tensor->dtype);
    if (tensor->n_dims != 1 || tensor->shape[0] != n) {
        return mx_error_set(err, MX_ERR_FORMAT, "%s: %s: shape must be [%zu]", tensor->file, name,
                            n);
    }
    if (info->decode == NULL || info->block != 1) {
        return mx_error_set(err, MX_ERR_UNSUPPORTED, "%s: %s: type %s is not a float vector",
                            tensor->file, name, info->name);
    }
    *out = malloc(n * sizeof(float));
    if (*out == NULL) {
        return mx_error_nomem(err, name, n * sizeof(float));
    }
    info->decode(tensor->data, n, *out);
    return MX_OK;
}

/* A matrix that stays as the file stores it. */
static mx_status load_stored(const mx_model *model, const char *name, size_t rows, size_t cols,
                             mx_matrix *out, mx_error *err)
{
    mx_rows stored;
    MX_TRY(mx_checkpoint_rows(model->checkpoint, name, &stored, err));
    const mx_tensor *tensor = stored.tensor;
    const mx_dtype_info *info = mx_dtype_get(tensor->dtype);
    if (stored.n_rows != rows || stored.n_cols != cols) {
        return wrong_shape(tensor, rows, cols, err);
    }
    if (info->decode == NULL || cols % info->block != 0) {
        return mx_error_set(err, MX_ERR_UNSUPPORTED, "%s: %s: type %s cannot hold a weight matrix",
                            tensor->file, name, info->name);
    }
    *out = (mx_matrix){
        .kind = MX_MATRIX_STORED,
        .n_rows = rows,
        .n_cols = cols,
        .dtype = tensor->dtype,
        .data = tensor->data,
        .row_bytes = stored.row_bytes,
        .permuted_head_dim = stored.permuted_head_dim,
        .stored_bytes = tensor->size,
    };
    return MX_OK;
}

/* Packed codes and their scales from a checkpoint that mxlm quantize wrote; `weight`
 * is the codes' name. */
static mx_status load_codes(const mx_model *model, const char *weight, const mx_quant *quant,
                            size_t rows, size_t cols, mx_matrix *out, mx_error *err)
{
    char name[NAME_SIZE + 16];
    const mx_tensor *codes, *scales;
    MX_TRY(find_tensor(model, weight, &codes, err));
    snprintf(name, sizeof name, "%s_scale", weight);
    MX_TRY(find_tensor(model, name, &scales, err));
    size_t code_bytes = mx_row_code_bytes(quant, cols), n_scales = mx_row_scale_count(quant, cols);
    if (codes->dtype != MX_DTYPE_U8 || codes->n_dims != 2 || codes->shape[0] != rows ||
        codes->shape[1] != code_bytes) {
        return wrong_shape(codes, rows, code_bytes, err);
    }
    if (scales->dtype != MX_DTYPE_U8 || scales->n_dims != 2 || scales->shape[0] != rows ||
        scales->shape[1] != n_scales) {
        return wrong_shape(scales, rows, n_scales, err);
    }
    *out = (mx_matrix){
        .kind = MX_MATRIX_CODES,
        .n_rows = rows,
        .n_cols = cols,
        .data = codes->data,
        .row_bytes = code_bytes,
        .scales = scales->data,
        .weights = *quant,
        .stored_bytes = codes->size + scales->size,
    };
    return MX_OK;
}

/* A weight as the checkpoint has it: codes where the contract says so. */
static mx_status load_weight(const mx_model *model, const char *name, size_t rows, size_t cols,
                             mx_matrix *out, mx_error *err)
{
    const mx_quant *quant = mx_llama_weight_quant(&model->config, &model->specs, name);
    return quant != NULL && mx_quant_is_scaled(quant)
               ? load_codes(model, name, quant, rows, cols, out, err)
               : load_stored(model, name, rows, cols, out, err);
}

static mx_status load_projection(mx_model *model, uint32_t layer, mx_projection projection,
                                 mx_error *err)
{
    char module[NAME_SIZE], name[NAME_SIZE + 16];
    size_t rows, cols;
    mx_matrix *matrix = &model->layers[layer].projections[projection];
    mx_projection_name(layer, projection, module);
    mx_projection_shape(&model->config, projection, &rows, &cols);
    snprintf(name, sizeof name, "%s.weight", module);
    MX_TRY(load_weight(model, name, rows, cols, matrix, err));
    bool mlp = projection >= MX_PROJ_GATE;
    if (mlp ? model->config.mlp_bias : model->config.attention_bias) {
        snprintf(name, sizeof name, "%s.bias", module);
        MX_TRY(load_vector(model, name, rows, &matrix->bias, err));
    }
    return MX_OK;
}

static mx_status load_layer(mx_model *model, uint32_t layer, mx_error *err)
{
    char name[NAME_SIZE];
    size_t hidden = model->config.hidden;
    for (int p = 0; p < MX_PROJ_COUNT; p++) {
        MX_TRY(load_projection(model, layer, (mx_projection)p, err));
    }
    snprintf(name, sizeof name, "model.layers.%u.input_layernorm.weight", layer);
    MX_TRY(load_vector(model, name, hidden, &model->layers[layer].attention_norm, err));
    snprintf(name, sizeof name, "model.layers.%u.post_attention_layernorm.weight", layer);
    return load_vector(model, name, hidden, &model->layers[layer].mlp_norm, err);
}

static mx_status load_weights(mx_model *model, mx_error *err)
{
    const mx_llama_config *config = &model->config;
    /* A layer takes at least its norms in the file, so this count is honest only
     * when the file could hold them: check before allocating by it. */
    if (config->layers > mx_checkpoint_count(model->checkpoint)) {
        return mx_error_set(err, MX_ERR_FORMAT, "%s: num_hidden_layers: %u layers, but %zu tensors",
                            mx_checkpoint_path(model->checkpoint), config->layers,
                            mx_checkpoint_count(model->checkpoint));
    }
    model->layers = calloc(config->layers, sizeof *model->layers);
    if (model->layers == NULL) {
        return mx_error_nomem(err, "layers", config->layers * sizeof *model->layers);
    }
    for (uint32_t layer = 0; layer < config->layers; layer++) {
        MX_TRY(load_layer(model, layer, err));
    }
    MX_TRY(load_vector(model, "model.norm.weight", config->hidden, &model->final_norm, err));
    MX_TRY(load_weight(model, "model.embed_tokens.weight", config->vocab, config->hidden,
                       &model->embedding, err));
    if (!config->tied) {
        return load_weight(model, "lm_head.weight", config->vocab, config->hidden, &model->head,
                           err);
    }
    if (model->embedding.kind == MX_MATRIX_CODES) {
        /* The same mapped codes: the head's become panels, rows are read from the
         * file. */
        model->head = model->embedding;
    }
    return MX_OK;
}

/* A directory without tokenizer.json still runs on token ids. */
static mx_status load_tokenizer(mx_model *model, const char *path, mx_error *err)
{
    if (!mx_checkpoint_is_gguf(model->checkpoint)) {
        char *file = mx_path_join(path, "tokenizer.json");
        if (file == NULL) {
            return mx_error_nomem(err, path, strlen(path));
        }
        bool present = mx_path_is_file(file);
        free(file);
        if (!present) {
            return MX_OK;
        }
    }
    MX_TRY(mx_tokenizer_open(path, &model->tokenizer, err));
    if (mx_tokenizer_vocab(model->tokenizer) > model->config.vocab) {
        return mx_error_set(err, MX_ERR_FORMAT,
                            "%s: tokenizer: ids up to %u do not fit vocab_size %u", path,
                            mx_tokenizer_vocab(model->tokenizer) - 1, model->config.vocab);
    }
    return MX_OK;
}

mx_status mx_model_open(const char *path, int threads, mx_model **out, mx_error *err)
{
    *out = NULL;
    mx_model *model = calloc(1, sizeof *model);
    if (model == NULL) {
        return mx_error_nomem(err, path, sizeof *model);
    }
    mx_status status;
    MX_TRY_GOTO(status, mx_checkpoint_open(path, &model->checkpoint, err));
    model->config = *mx_checkpoint_config(model->checkpoint);
    const mx_specs *specs = mx_checkpoint_specs(model->checkpoint);
    if (specs != NULL) {
        MX_TRY_GOTO(status, mx_specs_copy(specs, &model->specs, err));
    }
    MX_TRY_GOTO(status, load_weights(model, err));
    MX_TRY_GOTO(status, load_tokenizer(model, path, err));
    MX_TRY_GOTO(status, mx_backend_init(&model->backend, threads, err));
    *out = model;
    model = NULL;
done:
    mx_model_close(model);
    return status;
}

void mx_model_close(mx_model *model)
{
    if (model == NULL) {
        return;
    }
    for (uint32_t layer = 0; model->layers != NULL && layer < model->config.layers; layer++) {
        for (int p = 0; p < MX_PROJ_COUNT; p++) {
            mx_matrix_clear(&model->layers[layer].projections[p]);
        }
        free(model->layers[layer].attention_norm);
        free(model->layers[layer].mlp_norm);
    }
    free(model->layers);
    mx_matrix_clear(&model->embedding);
    mx_matrix_clear(&model->head);
    free(model->final_norm);
    mx_tokenizer_close(model->tokenizer);
    mx_specs_clear(&model->specs);
    mx_backend_clear(&model->backend);
    mx_checkpoint_close(model->checkpoint);
    free(model);
}

const mx_matrix *mx_model_head(const mx_model *model)
{
    return model->head.n_rows == 0 ? &model->embedding : &model->head;
}

mx_status mx_model_tokenizer(const mx_model *model, const mx_tokenizer **out, mx_error *err)
{
    *out = model->tokenizer;
    if (*out == NULL) {
        return mx_error_set(err, MX_ERR_FORMAT, "%s: tokenizer.json: missing",
                            mx_checkpoint_path(model->checkpoint));
    }
    return MX_OK;
}

mx_status mx_model_check_tokens(const mx_model *model, const mx_model *other, const char *role,
                                mx_error *err)
{
    const mx_tokenizer *ours, *theirs;
    MX_TRY(mx_model_tokenizer(model, &ours, err));
    MX_TRY(mx_model_tokenizer(other, &theirs, err));
    if (model->config.vocab != other->config.vocab ||
        mx_tokenizer_vocab(ours) != mx_tokenizer_vocab(theirs)) {
        return mx_error_set(err, MX_ERR_ARGUMENT,
                            "%s: another vocabulary: %u tokens in %u rows, but the model has %u "
                            "in %u",
                            role, mx_tokenizer_vocab(theirs), other->config.vocab,
                            mx_tokenizer_vocab(ours), model->config.vocab);
    }
    for (uint32_t id = 0; id < mx_tokenizer_vocab(ours); id++) {
        size_t length, their_length;
        const char *bytes = mx_tokenizer_bytes(ours, (int32_t)id, &length);
        const char *their_bytes = mx_tokenizer_bytes(theirs, (int32_t)id, &their_length);
        if (length != their_length || (length > 0 && memcmp(bytes, their_bytes, length) != 0) ||
            mx_tokenizer_is_special(ours, (int32_t)id) !=
                mx_tokenizer_is_special(theirs, (int32_t)id)) {
            return mx_error_set(err, MX_ERR_ARGUMENT,
                                "%s: another tokenizer: token %u differs from the model's", role,
                                id);
        }
    }
    return MX_OK;
}

/* A PLAIN format's rounded elements are ordinary stored rows. */
static mx_status plain_dtype(const mx_format *format, mx_dtype *out, mx_error *err)
{
    *out = format->bits == 32           ? MX_DTYPE_F32
           : format->exponent_bits == 8 ? MX_DTYPE_BF16
           : format->exponent_bits == 5 ? MX_DTYPE_F16
                                        : MX_DTYPE_NONE;
    if (*out == MX_DTYPE_NONE) {
        return mx_error_set(err, MX_ERR_UNSUPPORTED, "weights: %s has no storage type",
                            format->name);
    }
    return MX_OK;
}

/* `matrix` with the rows' codes instead, which it owns; panels where possible. */
static mx_status set_codes(mx_model *model, mx_matrix *matrix, const mx_quant *weights,
                           uint8_t *codes, size_t code_bytes, mx_error *err)
{
    float *bias = matrix->bias;
    matrix->bias = NULL;
    size_t rows = matrix->n_rows, cols = matrix->n_cols;
    mx_matrix_clear(matrix);
    *matrix = (mx_matrix){
        .n_rows = rows,
        .n_cols = cols,
        .data = codes,
        .row_bytes = mx_row_code_bytes(weights, cols),
        .owned = codes,
        .bias = bias,
        .stored_bytes =
            rows * (mx_row_code_bytes(weights, cols) + mx_row_scale_count(weights, cols)),
    };
    if (weights->format->kind == MX_KIND_PLAIN) {
        matrix->kind = MX_MATRIX_STORED;
        return plain_dtype(weights->format, &matrix->dtype, err);
    }
    matrix->kind = MX_MATRIX_CODES;
    matrix->weights = *weights;
    matrix->scales = codes + code_bytes;
    matrix->activations = model->specs.activations;
    return mx_matrix_pack(&model->backend, matrix, (mx_replaced){0}, err);
}

mx_status mx_model_set_projection(mx_model *model, uint32_t layer, mx_projection projection,
                                  const mx_quant *weights, uint8_t *codes, size_t code_bytes,
                                  mx_error *err)
{
    return set_codes(model, &model->layers[layer].projections[projection], weights, codes,
                     code_bytes, err);
}

mx_status mx_model_set_head(mx_model *model, const mx_quant *quant, uint8_t *codes,
                            size_t code_bytes, mx_error *err)
{
    if (model->config.tied) {
        /* Rows are rounded as they are read from the file: no second table. */
        model->embedding.cast = *quant;
    }
    model->head.n_rows = model->config.vocab;
    model->head.n_cols = model->config.hidden;
    return set_codes(model, &model->head, quant, codes, code_bytes, err);
}

/* Gives back the file's pages that panels replaced. */
static void drop_pages(void *ctx, const uint8_t *data, size_t size)
{
    const mx_model *model = ctx;
    if (model->checkpoint != NULL) {
        mx_checkpoint_drop(model->checkpoint, &(mx_tensor){.data = data, .size = size});
    }
}

void mx_model_drop_embedding(const mx_model *model)
{
    const mx_matrix *table = &model->embedding;
    if (model->head.n_rows == 0 || table->owned != NULL) {
        return;
    }
    void *ctx = (void *)(uintptr_t)model;
    drop_pages(ctx, table->data, table->n_rows * table->row_bytes);
    if (table->kind == MX_MATRIX_CODES) {
        drop_pages(ctx, table->scales,
                   table->n_rows * mx_row_scale_count(&table->weights, table->n_cols));
    }
}

/* Codes in their final form, for inputs as the settings say. */
static mx_status prepare_matrix(mx_model *model, mx_matrix *matrix, mx_error *err)
{
    if (matrix->kind == MX_MATRIX_PANELS) {
        return MX_OK;
    }
    matrix->activations = model->specs.activations;
    return mx_matrix_pack(&model->backend, matrix, (mx_replaced){drop_pages, model}, err);
}

mx_status mx_model_prepare(mx_model *model, mx_error *err)
{
    if (model->prepared) {
        return MX_OK;
    }
    char module[NAME_SIZE];
    for (uint32_t layer = 0; layer < model->config.layers; layer++) {
        for (int p = 0; p < MX_PROJ_COUNT; p++) {
            mx_projection_name(layer, (mx_projection)p, module);
            if (!mx_specs_excludes(&model->specs, module)) {
                MX_TRY(prepare_matrix(model, &model->layers[layer].projections[p], err));
            }
        }
    }
    /* A head that is not quantized takes its inputs as they are. */
    if (model->head.kind == MX_MATRIX_CODES && model->head.n_rows > 0) {
        MX_TRY(prepare_matrix(model, &model->head, err));
    }
    model->prepared = true;
    return MX_OK;
}

static void add_matrix(const mx_matrix *matrix, uint64_t *bytes, uint64_t *fp32)
{
    uint64_t bias = matrix->bias != NULL ? matrix->n_rows * sizeof(float) : 0;
    *bytes += matrix->stored_bytes + bias;
    *fp32 += (uint64_t)matrix->n_rows * matrix->n_cols * sizeof(float) + bias;
}

/* Bits of one row of n inputs in the format `quant`. */
static double input_bits(const mx_quant *quant, size_t n)
{
    if (mx_quant_is_none(quant)) {
        return 32.0 * (double)n;
    }
    return (double)n * quant->format->bits + 8.0 * (double)mx_row_scale_count(quant, n);
}

static void measure_projection(const mx_model *model, uint32_t layer, mx_projection projection,
                               double *bits, double *elements, mx_model_size *out)
{
    const mx_matrix *matrix = &model->layers[layer].projections[projection];
    out->projection_weights += (uint64_t)matrix->n_rows * matrix->n_cols;
    add_matrix(matrix, &out->projection_bytes, &out->projection_bytes_fp32);
    /* k, v share q's input and up shares gate's. */
    if (projection == MX_PROJ_K || projection == MX_PROJ_V || projection == MX_PROJ_UP) {
        return;
    }
    char module[NAME_SIZE];
    mx_projection_name(layer, projection, module);
    mx_quant none = {0};
    bool excluded = mx_specs_excludes(&model->specs, module);
    *bits += input_bits(excluded ? &none : &model->specs.activations, matrix->n_cols);
    *elements += (double)matrix->n_cols;
}

void mx_model_measure(const mx_model *model, mx_model_size *out)
{
    *out = (mx_model_size){0};
    double bits = 0, elements = 0;
    for (uint32_t layer = 0; layer < model->config.layers; layer++) {
        for (int p = 0; p < MX_PROJ_COUNT; p++) {
            measure_projection(model, layer, (mx_projection)p, &bits, &elements, out);
        }
    }
    uint64_t norms = (2ull * model->config.layers + 1) * model->config.hidden * sizeof(float);
    out->total_bytes = out->projection_bytes + norms;
    out->total_bytes_fp32 = out->projection_bytes_fp32 + norms;
    add_matrix(mx_model_head(model), &out->total_bytes, &out->total_bytes_fp32);
    if (!model->config.tied) {
        add_matrix(&model->embedding, &out->total_bytes, &out->total_bytes_fp32);
    }
    out->activation_bits = bits / elements;
    out->activation_bytes_token = bits / 8;
    out->activation_bytes_token_fp32 = elements * 4;
}
