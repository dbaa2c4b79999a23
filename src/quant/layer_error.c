#include "quant/layer_error.h"

#include "base/clock.h"
#include "model/forward.h"
#include "quant/stream.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Squares of errors and of what they are errors of. Every token and row has sums of its
 * own, added up in order: the total does not depend on the threads. */
typedef struct squares {
    double error, reference;
} squares;

static squares sum_squares(const squares *parts, size_t n)
{
    squares total = {0, 0};
    for (size_t i = 0; i < n; i++) {
        total.error += parts[i].error;
        total.reference += parts[i].reference;
    }
    return total;
}

/* found and wanted [n] */
static squares row_squares(const float *found, const float *wanted, size_t n)
{
    squares sum = {0, 0};
    for (size_t i = 0; i < n; i++) {
        double error = (double)found[i] - (double)wanted[i];
        sum.error += error * error;
        sum.reference += (double)wanted[i] * (double)wanted[i];
    }
    return sum;
}

/* ---- weights ----------------------------------------------------------------------- */

typedef struct weights_range {
    const mx_matrix *base, *quantized;
    float *rows;    /* [threads][2][stride] */
    size_t stride;  /* columns, with the room that decoding needs */
    squares *parts; /* [n_rows] */
} weights_range;

static void weights_rows(void *ctx, size_t begin, size_t end, int thread)
{
    const weights_range *range = ctx;
    float *wanted = range->rows + (size_t)thread * 2 * range->stride;
    float *found = wanted + range->stride;
    for (size_t row = begin; row < end; row++) {
        mx_matrix_row(range->base, row, wanted);
        mx_matrix_row(range->quantized, row, found);
        range->parts[row] = row_squares(found, wanted, range->base->n_cols);
    }
}

static mx_status weights_sqnr(mx_team *team, const mx_matrix *base, const mx_matrix *quantized,
                              double *out, mx_error *err)
{
    size_t threads = (size_t)mx_team_size(team);
    weights_range range = {.base = base, .quantized = quantized, .stride = base->n_cols + 256};
    range.rows = malloc(threads * 2 * range.stride * sizeof *range.rows);
    range.parts = malloc(base->n_rows * sizeof *range.parts);
    mx_status status = MX_OK;
    if (range.rows == NULL || range.parts == NULL) {
        status = mx_error_nomem(err, "weights", threads * 2 * range.stride * sizeof *range.rows);
        goto done;
    }
    mx_team_for(team, base->n_rows, 16, weights_rows, &range);
    squares sum = sum_squares(range.parts, base->n_rows);
    *out = sum.error > 0 ? 10 * log10(sum.reference / sum.error) : INFINITY;
done:
    free(range.rows);
    free(range.parts);
    return status;
}

/* ---- outputs ----------------------------------------------------------------------- */

/* One model on its way through the layers. */
typedef struct walker {
    mx_model *model;
    mx_stream stream;
    float *out; /* [tokens run together][largest n_rows] */
} walker;

typedef struct run {
    walker base, quantized;
    size_t n_tokens;             /* of all windows */
    squares *parts;              /* [n_tokens] */
    squares sums[MX_PROJ_COUNT]; /* of the present layer */
    mx_layer_errors *errors;
} run;

static void walker_close(walker *w)
{
    mx_stream_close(&w->stream);
    free(w->out);
}

static mx_status walker_open(walker *w, mx_model *model, const mx_windows *windows, mx_error *err)
{
    const mx_stream_config config = {
        .windows = windows, .max_tokens = windows->length, .spill_limit = SIZE_MAX};
    size_t rows = 0; /* layers have the same shapes */
    for (int p = 0; p < MX_PROJ_COUNT; p++) {
        size_t n_rows = model->layers[0].projections[p].n_rows;
        rows = n_rows > rows ? n_rows : rows;
    }
    w->model = model;
    w->out = malloc(windows->length * rows * sizeof *w->out);
    if (w->out == NULL) {
        return mx_error_nomem(err, "outputs", windows->length * rows * sizeof *w->out);
    }
    return mx_stream_open(model, &config, &w->stream, err);
}

/* In the session's own scratch, which is idle while a tap looks. */
static void walker_product(walker *w, uint32_t layer, mx_projection projection,
                           const mx_operand_source *source)
{
    const mx_matrix *matrix = &w->model->layers[layer].projections[projection];
    mx_operand operand = {0};
    mx_operand_prepare(&w->model->backend, matrix, source, w->stream.session->operand_scratch,
                       &operand);
    mx_matrix_product(&w->model->backend, matrix, &operand, w->stream.session->product_scratch,
                      w->out);
}

typedef struct outputs_range {
    const float *found, *wanted; /* [tokens][width] */
    size_t width;
    squares *parts; /* [tokens] */
} outputs_range;

static void outputs_tokens(void *ctx, size_t begin, size_t end, int thread)
{
    (void)thread;
    const outputs_range *range = ctx;
    for (size_t t = begin; t < end; t++) {
        range->parts[t] = row_squares(range->found + t * range->width,
                                      range->wanted + t * range->width, range->width);
    }
}

static squares output_squares(const run *r, const float *found, const float *wanted,
                              size_t n_tokens, size_t width)
{
    outputs_range range = {.found = found, .wanted = wanted, .width = width, .parts = r->parts};
    mx_team_for(r->base.model->backend.team, n_tokens, 16, outputs_tokens, &range);
    return sum_squares(r->parts, n_tokens);
}

/* The base's input of a projection, through both. */
static bool tap_projection(void *ctx, uint32_t layer, mx_projection projection, const float *x,
                           size_t n_tokens)
{
    run *r = ctx;
    size_t width = r->base.model->layers[layer].projections[projection].n_rows;
    const mx_operand_source source = {
        .x = x, .n_tokens = n_tokens, .streams = r->base.stream.session->streams};
    walker_product(&r->base, layer, projection, &source);
    walker_product(&r->quantized, layer, projection, &source);
    squares sum = output_squares(r, r->quantized.out, r->base.out, n_tokens, width);
    r->sums[projection].error += sum.error;
    r->sums[projection].reference += sum.reference;
    return true;
}

static mx_status measure_layer(run *r, uint32_t layer, mx_error *err)
{
    mx_layer_error *error = &r->errors->layers[layer];
    memset(r->sums, 0, sizeof r->sums);
    MX_TRY(mx_stream_run_all(&r->base.stream, layer, tap_projection, r, err));
    MX_TRY(mx_stream_run_all(&r->quantized.stream, layer, NULL, NULL, err));
    for (int p = 0; p < MX_PROJ_COUNT; p++) {
        error->output[p] = r->sums[p].error / r->sums[p].reference;
    }
    squares hidden = output_squares(r, r->quantized.stream.hidden, r->base.stream.hidden,
                                    r->n_tokens, r->base.model->config.hidden);
    error->hidden = hidden.error / hidden.reference;
    return MX_OK;
}

/* ---- the whole ---------------------------------------------------------------------- */

static mx_status check_models(const mx_model *base, const mx_model *quantized, mx_error *err)
{
    const mx_llama_config *a = &base->config, *b = &quantized->config;
    if (base->prepared || quantized->prepared) {
        return mx_error_set(err, MX_ERR_ARGUMENT, "errors are measured before a model's first use");
    }
    if (a->layers != b->layers || a->hidden != b->hidden || a->intermediate != b->intermediate ||
        a->heads != b->heads || a->kv_heads != b->kv_heads || a->head_dim != b->head_dim) {
        return mx_error_set(err, MX_ERR_ARGUMENT, "%s: config.json: another shape than %s",
                            mx_checkpoint_path(quantized->checkpoint),
                            mx_checkpoint_path(base->checkpoint));
    }
    for (uint32_t layer = 0; layer < a->layers; layer++) {
        for (int p = 0; p < MX_PROJ_COUNT; p++) {
            if (base->layers[layer].projections[p].kind == MX_MATRIX_PANELS ||
                quantized->layers[layer].projections[p].kind == MX_MATRIX_PANELS) {
                return mx_error_set(err, MX_ERR_ARGUMENT,
                                    "weights quantized in memory cannot be read back");
            }
        }
    }
    return MX_OK;
}

static bool norms_differ(const mx_model *base, const mx_model *quantized)
{
    size_t bytes = base->config.hidden * sizeof(float);
    for (uint32_t layer = 0; layer < base->config.layers; layer++) {
        const mx_layer *a = &base->layers[layer], *b = &quantized->layers[layer];
        if (memcmp(a->attention_norm, b->attention_norm, bytes) != 0 ||
            memcmp(a->mlp_norm, b->mlp_norm, bytes) != 0) {
            return true;
        }
    }
    return false;
}

static mx_status report_progress(const mx_layer_errors *errors, uint32_t done, double start,
                                 mx_watch watch, mx_error *err)
{
    mx_progress progress = {.stage = "errors",
                            .unit = "layers",
                            .done = done,
                            .total = errors->n,
                            .seconds = mx_clock_seconds() - start};
    return watch.fn == NULL || watch.fn(watch.ctx, &progress)
               ? MX_OK
               : mx_error_set(err, MX_ERR_CANCELLED, "errors: stopped after %u of %u layers", done,
                              errors->n);
}

static mx_status measure_weights(const mx_model *base, const mx_model *quantized,
                                 mx_layer_errors *errors, mx_error *err)
{
    for (uint32_t layer = 0; layer < errors->n; layer++) {
        for (int p = 0; p < MX_PROJ_COUNT; p++) {
            MX_TRY(weights_sqnr(base->backend.team, &base->layers[layer].projections[p],
                                &quantized->layers[layer].projections[p],
                                &errors->layers[layer].sqnr[p], err));
        }
    }
    return MX_OK;
}

static mx_status measure_outputs(mx_model *base, mx_model *quantized, const mx_windows *windows,
                                 mx_watch watch, mx_layer_errors *errors, mx_error *err)
{
    run r = {.n_tokens = (size_t)windows->n * windows->length, .errors = errors};
    double start = mx_clock_seconds();
    mx_status status;
    MX_TRY_GOTO(status, walker_open(&r.base, base, windows, err));
    MX_TRY_GOTO(status, walker_open(&r.quantized, quantized, windows, err));
    r.parts = malloc(r.n_tokens * sizeof *r.parts);
    if (r.parts == NULL) {
        status = mx_error_nomem(err, "sums", r.n_tokens * sizeof *r.parts);
        goto done;
    }
    for (uint32_t layer = 0; layer < errors->n; layer++) {
        MX_TRY_GOTO(status, report_progress(errors, layer, start, watch, err));
        MX_TRY_GOTO(status, measure_layer(&r, layer, err));
    }
    status = report_progress(errors, errors->n, start, watch, err);
done:
    free(r.parts);
    walker_close(&r.base);
    walker_close(&r.quantized);
    return status;
}

mx_status mx_layer_errors_measure(mx_model *base, mx_model *quantized, const mx_windows *windows,
                                  mx_watch watch, mx_layer_errors *out, mx_error *err)
{
    *out = (mx_layer_errors){0};
    MX_TRY(check_models(base, quantized, err));
    uint32_t n = base->config.layers;
    out->layers = malloc(n * sizeof *out->layers);
    if (out->layers == NULL) {
        return mx_error_nomem(err, "layers", n * sizeof *out->layers);
    }
    out->n = n;
    out->norms_differ = norms_differ(base, quantized);
    for (uint32_t layer = 0; layer < n; layer++) {
        for (int p = 0; p < MX_PROJ_COUNT; p++) {
            out->layers[layer].output[p] = NAN;
        }
        out->layers[layer].hidden = NAN;
    }
    mx_status status = measure_weights(base, quantized, out, err);
    if (status == MX_OK && windows != NULL) {
        status = measure_outputs(base, quantized, windows, watch, out, err);
    }
    if (status != MX_OK) {
        mx_layer_errors_clear(out);
    }
    return status;
}

void mx_layer_errors_clear(mx_layer_errors *errors)
{
    free(errors->layers);
    *errors = (mx_layer_errors){0};
}
