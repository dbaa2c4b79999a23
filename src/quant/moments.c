#include "quant/moments.h"

#include "model/forward.h"
#include "quant/linalg.h"

#include <stdlib.h>
#include <string.h>

/* Tokens of one BLAS call: fixed, since it decides the order of the sums. */
enum { TOKEN_BLOCK = 1024, WIDEN_GRAIN = 16 };

static bool alloc_taught(mx_moments *moments)
{
    size_t n = moments->n_cols, hidden = moments->hidden, chunk = moments->config.chunk;
    mx_projection projection = moments->config.projection;
    moments->cross = calloc(n * n, sizeof *moments->cross);
    moments->taught_x = malloc(chunk * n * sizeof *moments->taught_x);
    moments->theirs = malloc(TOKEN_BLOCK * (n > hidden ? n : hidden) * sizeof *moments->theirs);
    if (moments->cross == NULL || moments->taught_x == NULL || moments->theirs == NULL) {
        return false;
    }
    if (projection != MX_PROJ_O && projection != MX_PROJ_DOWN) {
        return true;
    }
    moments->residual = calloc(hidden * n, sizeof *moments->residual);
    moments->taught_h = malloc(chunk * hidden * sizeof *moments->taught_h);
    return moments->residual != NULL && moments->taught_h != NULL;
}

mx_status mx_moments_init(mx_moments *moments, const mx_moments_config *config, mx_error *err)
{
    const mx_model *model = config->student->model;
    size_t threads = (size_t)mx_team_size(model->backend.team), rows, n;
    mx_projection_shape(&model->config, config->projection, &rows, &n);
    *moments = (mx_moments){.config = *config, .n_cols = n, .hidden = model->config.hidden};
    moments->hessian = calloc(n * n, sizeof *moments->hessian);
    moments->ours = malloc(TOKEN_BLOCK * n * sizeof *moments->ours);
    moments->cast = malloc(threads * n * sizeof *moments->cast);
    if (moments->hessian == NULL || moments->ours == NULL || moments->cast == NULL ||
        (config->teacher != NULL && !alloc_taught(moments))) {
        mx_moments_clear(moments);
        return mx_error_nomem(err, "calibration moments", 2 * n * n * sizeof(double));
    }
    return MX_OK;
}

void mx_moments_clear(mx_moments *moments)
{
    free(moments->hessian);
    free(moments->cross);
    free(moments->residual);
    free(moments->taught_x);
    free(moments->taught_h);
    free(moments->cast);
    free(moments->ours);
    free(moments->theirs);
    *moments = (mx_moments){0};
}

bool mx_moments_teach(void *ctx, uint32_t layer, mx_projection projection, const float *x,
                      size_t n_tokens)
{
    (void)layer;
    mx_moments *moments = ctx;
    if (projection != moments->config.projection) {
        return true;
    }
    memcpy(moments->taught_x, x, n_tokens * moments->n_cols * sizeof *x);
    if (moments->taught_h != NULL) {
        memcpy(moments->taught_h, moments->config.teacher->hidden,
               n_tokens * moments->hidden * sizeof *x);
    }
    return projection == MX_PROJ_DOWN;
}

/* ---- sums ---------------------------------------------------------------------------- */

typedef struct widen_job {
    const mx_moments *moments;
    const float *x, *minus;  /* [n][width]; minus may be NULL */
    const uint64_t *streams; /* [n]: of stochastic rounding */
    size_t width;
    double *out; /* [n][width] */
} widen_job;

/* The inputs quantized as the run-time does, in double. */
static void cast_range(void *ctx, size_t begin, size_t end, int thread)
{
    const widen_job *job = ctx;
    const mx_model *model = job->moments->config.student->model;
    const mx_quant *quant = &model->specs.activations;
    size_t n = job->width;
    float *cast = job->moments->cast + (size_t)thread * n;
    for (size_t t = begin; t < end; t++) {
        const float *x = job->x + t * n;
        double *out = job->out + t * n;
        if (!mx_quant_is_none(quant)) {
            model->backend.kernels.row_cast(quant, x, n, job->streams[t], cast);
            x = cast;
        }
        for (size_t i = 0; i < n; i++) {
            out[i] = x[i];
        }
    }
}

/* out = x - minus. */
static void widen_range(void *ctx, size_t begin, size_t end, int thread)
{
    (void)thread;
    const widen_job *job = ctx;
    for (size_t i = begin * job->width; i < end * job->width; i++) {
        job->out[i] = (double)job->x[i] - (job->minus != NULL ? (double)job->minus[i] : 0);
    }
}

/* Adds what the teacher saw of tokens [first, first + n) to its moments with ours. */
static void add_taught(mx_moments *moments, size_t first, size_t n)
{
    size_t cols = moments->n_cols, hidden = moments->hidden;
    mx_team *team = moments->config.student->model->backend.team;
    widen_job job = {.x = moments->taught_x + first * cols, .width = cols, .out = moments->theirs};
    mx_team_for(team, n, WIDEN_GRAIN, widen_range, &job);
    mx_linalg_gram(team, moments->theirs, cols, moments->ours, cols, n, moments->cross);
    if (moments->residual != NULL) {
        job.x = moments->taught_h + first * hidden;
        job.minus = moments->config.student->hidden + first * hidden;
        job.width = hidden;
        mx_team_for(team, n, WIDEN_GRAIN, widen_range, &job);
        mx_linalg_gram(team, moments->theirs, hidden, moments->ours, cols, n, moments->residual);
    }
}

bool mx_moments_add(void *ctx, uint32_t layer, mx_projection projection, const float *x,
                    size_t n_tokens)
{
    (void)layer;
    mx_moments *moments = ctx;
    if (projection != moments->config.projection) {
        return true;
    }
    size_t cols = moments->n_cols;
    mx_team *team = moments->config.student->model->backend.team;
    for (size_t first = 0, n; first < n_tokens; first += n) {
        n = n_tokens - first < TOKEN_BLOCK ? n_tokens - first : TOKEN_BLOCK;
        widen_job job = {.moments = moments,
                         .x = x + first * cols,
                         .streams = moments->config.student->streams + first,
                         .width = cols,
                         .out = moments->ours};
        mx_team_for(team, n, WIDEN_GRAIN, cast_range, &job);
        mx_linalg_gram(team, moments->ours, cols, moments->ours, cols, n, moments->hessian);
        if (moments->cross != NULL) {
            add_taught(moments, first, n);
        }
    }
    moments->n_tokens += n_tokens;
    return false;
}

static void scale(double *values, size_t n, double by)
{
    for (size_t i = 0; values != NULL && i < n; i++) {
        values[i] *= by;
    }
}

void mx_moments_finish(mx_moments *moments)
{
    size_t n = moments->n_cols;
    double by = moments->n_tokens > 0 ? 1 / (double)moments->n_tokens : 0;
    mx_linalg_mirror(moments->hessian, n);
    scale(moments->hessian, n * n, by);
    scale(moments->cross, n * n, by);
    scale(moments->residual, moments->hidden * n, by);
}
