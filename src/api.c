/* The public entry points that belong to no layer, or tie two of them. */
#include "base/clock.h"
#include "io/llama_layout.h"
#include "model/model.h"
#include "quant/quantize.h"

#include <stdio.h>
#include <stdlib.h>

const char *mx_version(void)
{
    return MX_VERSION;
}

const char *mx_status_name(mx_status status)
{
    static const char *const names[] = {
        [MX_OK] = "ok",
        [MX_ERR_IO] = "input/output error",
        [MX_ERR_FORMAT] = "invalid data",
        [MX_ERR_UNSUPPORTED] = "unsupported",
        [MX_ERR_ARGUMENT] = "invalid argument",
        [MX_ERR_NOMEM] = "out of memory",
        [MX_ERR_CANCELLED] = "cancelled",
    };
    if ((unsigned)status >= MX_COUNT(names)) {
        return "unknown status";
    }
    return names[status];
}

void mx_string_free(char *text)
{
    free(text);
}

/* Quantizes a weight's stored rows: a malloc'd block of codes, then scales. */
static mx_status quantize_weight(const mx_model *model, const char *name, const mx_quant *quant,
                                 uint8_t **out, size_t *code_bytes, mx_error *err)
{
    mx_rows rows;
    MX_TRY(mx_checkpoint_rows(model->checkpoint, name, &rows, err));
    *code_bytes = rows.n_rows * mx_row_code_bytes(quant, rows.n_cols);
    size_t scale_bytes = rows.n_rows * mx_row_scale_count(quant, rows.n_cols);
    uint8_t *codes = malloc(*code_bytes + scale_bytes);
    if (codes == NULL) {
        return mx_error_nomem(err, name, *code_bytes + scale_bytes);
    }
    mx_status status = mx_rtn_rows(&rows, 0, rows.n_rows, quant, model->backend.team, codes,
                                   codes + *code_bytes, err);
    if (status != MX_OK) {
        free(codes);
        return status;
    }
    mx_checkpoint_drop(model->checkpoint, rows.tensor);
    *out = codes;
    return MX_OK;
}

static mx_status apply_projection(mx_model *model, uint32_t layer, mx_projection projection,
                                  mx_error *err)
{
    char module[96], name[112];
    uint8_t *codes = NULL;
    size_t code_bytes = 0;
    mx_projection_name(layer, projection, module);
    if (mx_specs_excludes(&model->specs, module)) {
        return MX_OK;
    }
    snprintf(name, sizeof name, "%s.weight", module);
    const mx_quant *quant = &model->specs.weights;
    MX_TRY(quantize_weight(model, name, quant, &codes, &code_bytes, err));
    return mx_model_set_projection(model, layer, projection, quant, codes, code_bytes, err);
}

/* The head that model->specs asks for. */
static mx_status apply_head(mx_model *model, mx_error *err)
{
    const mx_quant *quant = &model->specs.head;
    uint8_t *codes = NULL;
    size_t code_bytes = 0;
    if (mx_quant_is_none(quant)) {
        return MX_OK;
    }
    MX_TRY(quantize_weight(model, mx_llama_head_name(&model->config), quant, &codes, &code_bytes,
                           err));
    return mx_model_set_head(model, quant, codes, code_bytes, err);
}

static mx_status apply_weights(mx_model *model, mx_watch watch, mx_error *err)
{
    mx_progress progress = {
        .stage = "quantize",
        .unit = "projections",
        .total = (uint64_t)model->config.layers * MX_PROJ_COUNT,
    };
    double begin = mx_clock_seconds();
    for (uint32_t layer = 0; layer < model->config.layers; layer++) {
        for (int p = 0; p < MX_PROJ_COUNT; p++) {
            MX_TRY(apply_projection(model, layer, (mx_projection)p, err));
            progress.done++;
            progress.seconds = mx_clock_seconds() - begin;
            if (watch.fn != NULL && !watch.fn(watch.ctx, &progress)) {
                return mx_error_set(err, MX_ERR_CANCELLED, "quantize: stopped");
            }
        }
    }
    return MX_OK;
}

/* What may be added to weights that are quantized already. */
static mx_status apply_to_quantized(mx_model *model, const mx_specs *specs, mx_error *err)
{
    if (specs->n_excludes > 0) {
        return mx_error_set(err, MX_ERR_ARGUMENT,
                            "exclude: the checkpoint's own exclusions are in force");
    }
    if (specs->activations.format != NULL) {
        model->specs.activations = specs->activations;
    }
    if (specs->head.format == NULL) {
        return MX_OK;
    }
    if (model->specs.head.format != NULL) {
        return mx_error_set(err, MX_ERR_ARGUMENT, "head: %s holds a quantized head already",
                            mx_checkpoint_path(model->checkpoint));
    }
    model->specs.head = specs->head;
    return apply_head(model, err);
}

mx_status mx_model_apply(mx_model *model, const mx_specs *specs, mx_watch watch, mx_error *err)
{
    if (model->prepared) {
        return mx_error_set(err, MX_ERR_ARGUMENT, "settings come before a model's first use");
    }
    bool weights_given = specs->weights.format != NULL;
    bool weights_quantized = model->specs.weights.format != NULL;
    if (weights_given && weights_quantized) {
        return mx_error_set(err, MX_ERR_ARGUMENT, "weights: %s holds quantized weights already",
                            mx_checkpoint_path(model->checkpoint));
    }
    if (weights_quantized) {
        return apply_to_quantized(model, specs, err);
    }
    MX_TRY(mx_specs_copy(specs, &model->specs, err));
    if (!mx_quant_is_none(&specs->weights)) {
        MX_TRY(apply_weights(model, watch, err));
    }
    return apply_head(model, err);
}
