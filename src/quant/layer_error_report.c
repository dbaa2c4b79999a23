/* The errors of layers as tables for people and as JSON. */
#include "base/json.h"
#include "base/str.h"
#include "quant/layer_error.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const char *const titles[MX_PROJ_COUNT] = {"q", "k", "v", "o", "gate", "up", "down"};

/* ---- text ---------------------------------------------------------------------------- */

static void add_head(mx_str *out, const char *more)
{
    mx_str_add(out, "layer");
    for (int p = 0; p < MX_PROJ_COUNT; p++) {
        mx_str_addf(out, " %8s", titles[p]);
    }
    mx_str_addf(out, "%s\n", more);
}

/* What is not a number is not there; Inf is a weight that is as it was. */
static void add_cell(mx_str *out, double value, const char *format)
{
    char cell[32] = "-";
    if (isfinite(value)) {
        snprintf(cell, sizeof cell, format, value);
    }
    mx_str_addf(out, " %8s", cell);
}

static void add_weights(mx_str *out, const mx_layer_errors *errors)
{
    mx_str_add(out, "weights: SQNR, dB (-: as they were)\n");
    add_head(out, "");
    for (uint32_t layer = 0; layer < errors->n; layer++) {
        mx_str_addf(out, "%5u", layer);
        for (int p = 0; p < MX_PROJ_COUNT; p++) {
            add_cell(out, errors->layers[layer].sqnr[p], "%.2f");
        }
        mx_str_add(out, "\n");
    }
}

static void add_outputs(mx_str *out, const mx_layer_errors *errors)
{
    mx_str_add(out, "\noutputs: squared error relative to the base's, %, on the base's inputs; "
                    "layer: of the\nlayer's output, from the first layer on quantized\n");
    add_head(out, "    layer");
    for (uint32_t layer = 0; layer < errors->n; layer++) {
        const mx_layer_error *error = &errors->layers[layer];
        mx_str_addf(out, "%5u", layer);
        for (int p = 0; p < MX_PROJ_COUNT; p++) {
            add_cell(out, 100 * error->output[p], "%.3f");
        }
        add_cell(out, 100 * error->hidden, "%.3f");
        mx_str_add(out, "\n");
    }
}

mx_status mx_layer_errors_text(const mx_layer_errors *errors, char **out, mx_error *err)
{
    mx_str text = {0};
    if (errors->norms_differ) {
        mx_str_add(&text, "The norms differ: factors were moved between them and the weights, so "
                          "that only the\nlayers' outputs can be compared, not single "
                          "projections.\n\n");
    }
    add_weights(&text, errors);
    if (!isnan(errors->layers[0].hidden)) {
        add_outputs(&text, errors);
    }
    return mx_str_take(&text, out, err);
}

/* ---- JSON ---------------------------------------------------------------------------- */

/* Neither Inf (a weight as it was) nor NaN (not measured) are JSON: null. */
static json_t *json_number_or_null(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

static json_t *json_layer(const mx_layer_error *error, uint32_t layer)
{
    json_t *projections = json_object();
    for (int p = 0; p < MX_PROJ_COUNT; p++) {
        char name[96];
        mx_projection_name(layer, (mx_projection)p, name);
        json_t *figures =
            json_pack("{s:o, s:o}", "weight_sqnr_db", json_number_or_null(error->sqnr[p]),
                      "output_relative_mse", json_number_or_null(error->output[p]));
        json_object_set_new(projections, strrchr(name, '.') + 1, figures);
    }
    return json_pack("{s:i, s:o, s:o}", "layer", (int)layer, "projections", projections,
                     "output_relative_mse", json_number_or_null(error->hidden));
}

mx_status mx_layer_errors_json(const mx_layer_errors *errors, const mx_model *base,
                               const mx_model *quantized, const mx_windows *windows, char **out,
                               mx_error *err)
{
    json_t *layers = json_array(), *text = json_null();
    *out = NULL;
    for (uint32_t layer = 0; layer < errors->n; layer++) {
        json_array_append_new(layers, json_layer(&errors->layers[layer], layer));
    }
    if (windows != NULL) {
        text = json_pack("{s:i, s:i}", "windows", (int)windows->n, "length", (int)windows->length);
    }
    json_t *root =
        json_pack("{s:s, s:s, s:b, s:o, s:o}", "base", mx_checkpoint_path(base->checkpoint),
                  "model", mx_checkpoint_path(quantized->checkpoint), "norms_differ",
                  (int)errors->norms_differ, "calibration", text, "layers", layers);
    if (root == NULL || json_array_size(layers) != errors->n) {
        json_decref(root);
        return mx_error_nomem(err, "errors", 0);
    }
    mx_status status = mx_json_dump(root, 2, out, err);
    json_decref(root);
    return status;
}

/* ---- the public function --------------------------------------------------------------- */

enum { ERRORS_SAMPLES = 8, ERRORS_LENGTH = 512 };

/* Windows of the text, in tokens that mean the same to both models. */
static mx_status read_windows(const mx_model *base, const mx_model *quantized,
                              const mx_errors_options *options, mx_windows *out, mx_error *err)
{
    uint32_t samples = options->calib_samples > 0 ? options->calib_samples : ERRORS_SAMPLES;
    uint32_t length = options->calib_length > 0 ? options->calib_length : ERRORS_LENGTH;
    uint32_t context = base->config.context < quantized->config.context ? base->config.context
                                                                        : quantized->config.context;
    if (options->calib_length == 0 && length > context) {
        length = context;
    }
    if (length < 2 || length > context) {
        return mx_error_set(err, MX_ERR_ARGUMENT,
                            "calibration: windows of %u tokens, but the models take 2 to %u",
                            length, context);
    }
    MX_TRY(mx_model_check_tokens(quantized, base, "base", err));
    return mx_windows_read(base, options->calib_path, samples, length, options->seed, out, err);
}

mx_status mx_model_errors(mx_model *base, mx_model *quantized, const mx_errors_options *options,
                          mx_watch watch, bool json, char **out, mx_error *err)
{
    mx_windows windows = {0};
    mx_layer_errors errors = {0};
    bool calibrated = options->calib_path != NULL;
    mx_status status = MX_OK;
    *out = NULL;
    if (calibrated) {
        MX_TRY(read_windows(base, quantized, options, &windows, err));
    }
    MX_TRY_GOTO(status, mx_layer_errors_measure(base, quantized, calibrated ? &windows : NULL,
                                                watch, &errors, err));
    status = json ? mx_layer_errors_json(&errors, base, quantized, calibrated ? &windows : NULL,
                                         out, err)
                  : mx_layer_errors_text(&errors, out, err);
done:
    mx_layer_errors_clear(&errors);
    mx_windows_clear(&windows);
    return status;
}
