#include "quant/layerwise.h"

#include "base/clock.h"
#include "quant/calibration.h"
#include "quant/moments.h"
#include "quant/refine.h"
#include "quant/stream.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Projections that share an input, in the order of the forward pass. */
enum { GROUPS = 4, GROUP_SIZE = 3 };
static const struct {
    uint32_t n;
    mx_projection members[GROUP_SIZE];
} groups[GROUPS] = {
    {3, {MX_PROJ_Q, MX_PROJ_K, MX_PROJ_V}},
    {1, {MX_PROJ_O}},
    {2, {MX_PROJ_GATE, MX_PROJ_UP}},
    {1, {MX_PROJ_DOWN}},
};

/* Tokens of calibration run together: enough to keep every core busy. */
enum { STREAM_TOKENS = 4096 };

/* The steps of a layer that progress counts: its groups, moving on, and refining,
 * which takes about as long as the groups. */
enum { LAYER_STEPS = GROUPS + 1, REFINE_STEPS = GROUPS };

/* What a layer's projections hold on to until they are refined together. */
typedef struct held {
    float *weights[MX_PROJ_COUNT]; /* [rows][cols], unquantized */
    uint8_t *codes[MX_PROJ_COUNT]; /* codes, then scales; NULL: excluded */
} held;

typedef struct run {
    mx_layerwise *job;
    mx_model *student; /* quantized layer by layer */
    mx_model *teacher; /* as it was; NULL when the method does not ask for it */
    mx_stream student_stream, teacher_stream;
    mx_windows windows;
    held held;          /* of the present layer, if it is to be refined */
    bool refining;      /* it is */
    bool teacher_ahead; /* the teacher's hidden states have left the present layer */
    uint32_t last;      /* the last layer that has something to do */
    uint64_t steps_done, steps;
    uint32_t layer; /* being refined */
    double start;
} run;

static mx_status report_progress(run *r, uint32_t layer, mx_error *err)
{
    mx_progress progress = {.stage = r->job->method->name,
                            .unit = "layers",
                            .done = layer,
                            .total = r->student->config.layers,
                            .work_done = r->steps_done,
                            .work_total = r->steps,
                            .work_unit = "steps",
                            .seconds = mx_clock_seconds() - r->start};
    if (r->job->watch.fn == NULL || r->job->watch.fn(r->job->watch.ctx, &progress)) {
        return MX_OK;
    }
    return mx_error_set(err, MX_ERR_CANCELLED, "%s: stopped in layer %u of %u",
                        r->job->method->name, layer + 1, r->student->config.layers);
}

static bool is_excluded(const run *r, uint32_t layer, mx_projection projection)
{
    char module[96];
    mx_projection_name(layer, projection, module);
    return mx_specs_excludes(r->job->specs, module);
}

/* True when the projection is still to be quantized. */
static bool is_missing(const run *r, uint32_t layer, mx_projection projection)
{
    return !is_excluded(r, layer, projection) &&
           !r->job->sink.has(r->job->sink.ctx, layer, projection);
}

/* True when a projection of the layer is. */
static bool layer_is_missing(const run *r, uint32_t layer)
{
    for (int p = 0; p < MX_PROJ_COUNT; p++) {
        if (is_missing(r, layer, (mx_projection)p)) {
            return true;
        }
    }
    return false;
}

/* True when the projection's codes are to be chosen now: in a layer that is refined,
 * those of an interrupted run's projections are chosen again, since all are needed. */
static bool is_chosen(const run *r, uint32_t layer, mx_projection projection)
{
    return r->refining ? !is_excluded(r, layer, projection) : is_missing(r, layer, projection);
}

static bool group_is_chosen(const run *r, uint32_t layer, int group)
{
    for (uint32_t i = 0; i < groups[group].n; i++) {
        if (is_chosen(r, layer, groups[group].members[i])) {
            return true;
        }
    }
    return false;
}

/* ---- one projection ------------------------------------------------------------ */

static mx_status check_finite(const run *r, const char *name, const float *weights, size_t rows,
                              size_t cols, mx_error *err)
{
    for (size_t i = 0; i < rows * cols; i++) {
        if (!isfinite(weights[i])) {
            return mx_error_set(err, MX_ERR_FORMAT, "%s: %s.weight: row %zu, column %zu is %s",
                                r->job->model_path, name, i / cols, i % cols,
                                isnan(weights[i]) ? "NaN" : "infinite");
        }
        if (fabsf(weights[i]) > 0x1p127f) {
            /* So that neither the rule's exponent nor its neighbours end the range. */
            return mx_error_set(err, MX_ERR_FORMAT,
                                "%s: %s.weight: row %zu, column %zu is beyond 2^127",
                                r->job->model_path, name, i / cols, i % cols);
        }
    }
    return MX_OK;
}

/* weights [rows][cols] as fp32; a little room behind them, since rows decode in
 * whole blocks of their storage type. */
static mx_status decode_weights(const run *r, const mx_matrix *matrix, const char *name,
                                float **out, mx_error *err)
{
    size_t count = matrix->n_rows * matrix->n_cols;
    float *weights = malloc((count + 256) * sizeof *weights);
    if (weights == NULL) {
        return mx_error_nomem(err, name, count * sizeof *weights);
    }
    for (size_t row = 0; row < matrix->n_rows; row++) {
        mx_matrix_row(matrix, row, weights + row * matrix->n_cols);
    }
    mx_status status = check_finite(r, name, weights, matrix->n_rows, matrix->n_cols, err);
    if (status != MX_OK) {
        free(weights);
        weights = NULL;
    }
    *out = weights;
    return status;
}

static mx_status quantize_projection(run *r, uint32_t layer, mx_projection projection,
                                     const float *weights, const mx_moments *moments,
                                     uint8_t *codes, uint8_t *scales, mx_error *err)
{
    char name[96];
    const mx_matrix *matrix = &r->student->layers[layer].projections[projection];
    mx_projection_name(layer, projection, name);
    const mx_method_problem problem = {
        .quant = &r->job->specs->weights,
        .n_rows = matrix->n_rows,
        .n_cols = matrix->n_cols,
        .weights = weights,
        .hessian = moments->hessian,
        .cross = moments->cross,
        .residual = moments->residual,
        .settings = r->job->settings,
        .team = r->student->backend.team,
        .name = name,
    };
    return r->job->method->quantize(&problem, codes, scales, err);
}

/* Chooses the codes and stores them, or holds on to them for a layer to be refined. */
static mx_status choose_projection(run *r, uint32_t layer, mx_projection projection,
                                   const mx_moments *moments, uint8_t *codes, size_t code_bytes,
                                   size_t scale_bytes, mx_error *err)
{
    char name[96];
    float *weights = NULL;
    const mx_matrix *matrix = &r->student->layers[layer].projections[projection];
    mx_projection_name(layer, projection, name);
    MX_TRY(decode_weights(r, matrix, name, &weights, err));
    mx_status status =
        quantize_projection(r, layer, projection, weights, moments, codes, codes + code_bytes, err);
    if (status == MX_OK && r->refining) {
        r->held.weights[projection] = weights;
        r->held.codes[projection] = malloc(code_bytes + scale_bytes);
        if (r->held.codes[projection] == NULL) {
            return mx_error_nomem(err, name, code_bytes + scale_bytes);
        }
        memcpy(r->held.codes[projection], codes, code_bytes + scale_bytes);
        return MX_OK;
    }
    free(weights);
    MX_TRY(status);
    return r->job->sink.store(r->job->sink.ctx, layer, projection, codes, codes + code_bytes, err);
}

/* Quantizes a projection, or reads it back, and puts it into the student. */
static mx_status settle_projection(run *r, uint32_t layer, mx_projection projection,
                                   const mx_moments *moments, mx_error *err)
{
    if (is_excluded(r, layer, projection)) {
        return MX_OK;
    }
    const mx_layer_sink *sink = &r->job->sink;
    const mx_matrix *matrix = &r->student->layers[layer].projections[projection];
    const mx_quant *quant = &r->job->specs->weights;
    size_t code_bytes = matrix->n_rows * mx_row_code_bytes(quant, matrix->n_cols);
    size_t scale_bytes = matrix->n_rows * mx_row_scale_count(quant, matrix->n_cols);
    uint8_t *codes = malloc(code_bytes + scale_bytes);
    if (codes == NULL) {
        return mx_error_nomem(err, "codes", code_bytes + scale_bytes);
    }
    mx_status status;
    if (is_chosen(r, layer, projection)) {
        status =
            choose_projection(r, layer, projection, moments, codes, code_bytes, scale_bytes, err);
    } else {
        status = sink->load(sink->ctx, layer, projection, codes, err);
    }
    if (status != MX_OK) {
        free(codes);
        return status;
    }
    return mx_model_set_projection(r->student, layer, projection, quant, codes, code_bytes, err);
}

/* ---- layers ---------------------------------------------------------------------- */

/* The inputs of one group, over all windows. */
static mx_status gather_moments(run *r, uint32_t layer, int group, mx_moments *moments,
                                mx_error *err)
{
    mx_stream *student = &r->student_stream, *teacher = &r->teacher_stream;
    bool taught = teacher->session != NULL && r->job->settings.correct != 0;
    const mx_moments_config config = {.projection = groups[group].members[0],
                                      .student = student->session,
                                      .teacher = taught ? teacher->session : NULL,
                                      .chunk = (size_t)student->step * r->windows.length};
    MX_TRY(mx_moments_init(moments, &config, err));
    for (uint32_t window = 0; window < r->windows.n; window += student->step) {
        if (taught) {
            MX_TRY(mx_stream_run(teacher, layer, window, mx_moments_teach, moments, err));
        }
        MX_TRY(mx_stream_run(student, layer, window, mx_moments_add, moments, err));
        MX_TRY(report_progress(r, layer, err));
    }
    /* The teacher's last tap took it to the layer's end. */
    r->teacher_ahead = taught && config.projection == MX_PROJ_DOWN;
    mx_moments_finish(moments);
    return MX_OK;
}

static mx_status settle_group(run *r, uint32_t layer, int group, mx_error *err)
{
    mx_moments moments = {0};
    mx_status status = MX_OK;
    if (group_is_chosen(r, layer, group)) {
        MX_TRY_GOTO(status, gather_moments(r, layer, group, &moments, err));
    }
    for (uint32_t i = 0; i < groups[group].n; i++) {
        MX_TRY_GOTO(status, settle_projection(r, layer, groups[group].members[i], &moments, err));
    }
done:
    mx_moments_clear(&moments);
    return status;
}

static mx_status refine_progress(void *ctx, double share, mx_error *err)
{
    run *r = ctx;
    uint64_t before = r->steps_done;
    r->steps_done += (uint64_t)(share * REFINE_STEPS);
    mx_status status = report_progress(r, r->layer, err);
    r->steps_done = before;
    return status;
}

/* Holds the weights of the layer's projections that stay as they are, too. */
static mx_status hold_excluded(run *r, uint32_t layer, mx_error *err)
{
    for (int p = 0; p < MX_PROJ_COUNT; p++) {
        char name[96];
        mx_projection_name(layer, (mx_projection)p, name);
        if (r->held.weights[p] == NULL) {
            MX_TRY(decode_weights(r, &r->student->layers[layer].projections[p], name,
                                  &r->held.weights[p], err));
        }
    }
    return MX_OK;
}

static void release_held(run *r)
{
    for (int p = 0; p < MX_PROJ_COUNT; p++) {
        free(r->held.weights[p]);
        free(r->held.codes[p]);
    }
    r->held = (held){0};
}

/* Stores what an interrupted run has not, and puts the codes into the student, which
 * takes them over. */
static mx_status settle_refined(run *r, uint32_t layer, mx_projection projection, mx_error *err)
{
    const mx_layer_sink *sink = &r->job->sink;
    const mx_quant *quant = &r->job->specs->weights;
    const mx_matrix *matrix = &r->student->layers[layer].projections[projection];
    size_t code_bytes = matrix->n_rows * mx_row_code_bytes(quant, matrix->n_cols);
    uint8_t *codes = r->held.codes[projection];
    if (codes == NULL) {
        return MX_OK;
    }
    if (!sink->has(sink->ctx, layer, projection)) {
        MX_TRY(sink->store(sink->ctx, layer, projection, codes, codes + code_bytes, err));
    }
    r->held.codes[projection] = NULL;
    return mx_model_set_projection(r->student, layer, projection, quant, codes, code_bytes, err);
}

/* Takes the teacher to the layer's output, if there is one and it is not there. */
static mx_status advance_teacher(run *r, uint32_t layer, mx_error *err)
{
    if (r->teacher == NULL || r->teacher_ahead) {
        return MX_OK;
    }
    r->teacher_ahead = true;
    return mx_stream_run_all(&r->teacher_stream, layer, NULL, NULL, err);
}

/* Improves the layer's codes together; the streams stand at its input, and the
 * teacher's is taken to its output. */
static mx_status refine_layer(run *r, uint32_t layer, mx_error *err)
{
    char name[32];
    snprintf(name, sizeof name, "layer %u", layer);
    MX_TRY(advance_teacher(r, layer, err));
    MX_TRY(hold_excluded(r, layer, err));
    mx_refine_problem problem = {
        .model = r->student,
        .layer = layer,
        .quant = &r->job->specs->weights,
        .x = r->student_stream.hidden,
        .taught = r->teacher_stream.hidden,
        .windows = r->windows.n,
        .length = r->windows.length,
        .seed = r->job->seed,
        .spill_dir = r->job->spill_dir,
        .spill_limit = r->job->spill_limit,
        .settings = r->job->settings,
        .name = name,
        .progress = refine_progress,
        .progress_ctx = r,
    };
    for (int p = 0; p < MX_PROJ_COUNT; p++) {
        const mx_matrix *matrix = &r->student->layers[layer].projections[p];
        problem.weights[p] = r->held.weights[p];
        if (r->held.codes[p] != NULL) {
            problem.codes[p] = r->held.codes[p];
            problem.scales[p] = r->held.codes[p] +
                                matrix->n_rows * mx_row_code_bytes(problem.quant, matrix->n_cols);
        }
    }
    r->layer = layer;
    MX_TRY(r->job->method->refine(&problem, err));
    for (int p = 0; p < MX_PROJ_COUNT; p++) {
        MX_TRY(settle_refined(r, layer, (mx_projection)p, err));
    }
    return MX_OK;
}

/* A layer that lies behind is not needed any more. */
static void release_layer(mx_model *model, uint32_t layer)
{
    for (int p = 0; p < MX_PROJ_COUNT; p++) {
        mx_matrix_clear(&model->layers[layer].projections[p]);
    }
}

static mx_status settle_layer(run *r, uint32_t layer, mx_error *err)
{
    r->refining = r->job->method->refine != NULL && layer_is_missing(r, layer);
    for (int group = 0; group < GROUPS; group++) {
        MX_TRY(report_progress(r, layer, err));
        MX_TRY(settle_group(r, layer, group, err));
        r->steps_done++;
    }
    if (r->refining) {
        mx_status status = refine_layer(r, layer, err);
        release_held(r);
        MX_TRY(status);
    }
    r->steps_done += r->job->method->refine != NULL ? REFINE_STEPS : 0;
    if (layer < r->last) {
        MX_TRY(mx_stream_run_all(&r->student_stream, layer, NULL, NULL, err));
        MX_TRY(advance_teacher(r, layer, err));
        r->teacher_ahead = false;
        release_layer(r->student, layer);
    }
    r->steps_done++;
    return report_progress(r, layer + 1, err);
}

/* ---- the run ---------------------------------------------------------------------- */

/* Layers behind the last missing projection need no run at all. False: nothing is
 * missing. */
static bool find_last(run *r)
{
    for (uint32_t layer = r->student->config.layers; layer-- > 0;) {
        if (layer_is_missing(r, layer)) {
            r->last = layer;
            return true;
        }
    }
    return false;
}

static mx_status open_windows(run *r, mx_error *err)
{
    mx_layerwise *job = r->job;
    if (job->length > r->student->config.context) {
        return mx_error_set(err, MX_ERR_ARGUMENT,
                            "calibration: windows of %u tokens, but the model has %u positions",
                            job->length, r->student->config.context);
    }
    if (job->calib_path != NULL) {
        return mx_windows_read(r->student, job->calib_path, job->samples, job->length, job->seed,
                               &r->windows, err);
    }
    /* An unquantized model of its own: a session settles a model's matrices. */
    mx_model *writer = NULL;
    MX_TRY(mx_model_open(job->model_path, job->threads, &writer, err));
    mx_status status = mx_windows_sample(writer, job->samples, job->length, job->seed, job->watch,
                                         &r->windows, err);
    mx_model_close(writer);
    return status;
}

static mx_status open_streams(run *r, mx_error *err)
{
    mx_layerwise *job = r->job;
    const mx_stream_config config = {.windows = &r->windows,
                                     .max_tokens = STREAM_TOKENS,
                                     .spill_dir = job->spill_dir,
                                     .spill_limit = job->spill_limit};
    MX_TRY(mx_stream_open(r->student, &config, &r->student_stream, err));
    if (job->method->refine == NULL && job->settings.correct == 0) {
        return MX_OK;
    }
    MX_TRY(mx_model_open(job->model_path, job->threads, &r->teacher, err));
    /* The two take turns: one team, so that no idle one wakes beside it. */
    mx_team_free(r->teacher->backend.team);
    r->teacher->backend.team = r->student->backend.team;
    return mx_stream_open(r->teacher, &config, &r->teacher_stream, err);
}

mx_status mx_layerwise_run(mx_layerwise *job, mx_error *err)
{
    run r = {.job = job, .start = mx_clock_seconds()};
    mx_status status;
    MX_TRY(mx_method_check_rounding(&job->specs->weights, err));
    MX_TRY_GOTO(status, mx_model_open(job->model_path, job->threads, &r.student, err));
    MX_TRY_GOTO(status, mx_specs_copy(job->specs, &r.student->specs, err));
    if (r.student->config.tied) {
        r.student->embedding.cast = job->specs->head; /* hidden states begin with it */
    }
    MX_TRY_GOTO(status, open_windows(&r, err));
    job->windows = r.windows.n;
    job->source_tokens = r.windows.source_tokens;
    if (!find_last(&r)) {
        goto done;
    }
    MX_TRY_GOTO(status, open_streams(&r, err));
    uint64_t layer_steps = LAYER_STEPS + (job->method->refine != NULL ? REFINE_STEPS : 0);
    r.steps = (r.last + 1) * layer_steps;
    r.start = mx_clock_seconds();
    for (uint32_t layer = 0; layer <= r.last; layer++) {
        MX_TRY_GOTO(status, settle_layer(&r, layer, err));
    }
done:
    release_held(&r);
    mx_stream_close(&r.student_stream);
    mx_stream_close(&r.teacher_stream);
    mx_windows_clear(&r.windows);
    if (r.teacher != NULL) {
        r.teacher->backend.team = NULL; /* the student's */
    }
    mx_model_close(r.teacher);
    mx_model_close(r.student);
    return status;
}
