#include "quant/moments.h"

#include "model/forward.h"
#include "quant/linalg.h"

#include <stdlib.h>

/* Tokens of one BLAS call: fixed, since it decides the order of the sums. */
enum { TOKEN_BLOCK = 1024, CAST_GRAIN = 16 };

mx_status mx_moments_init(mx_moments *moments, const mx_session *session, mx_projection projection,
                          mx_error *err)
{
    const mx_model *model = session->model;
    size_t threads = (size_t)mx_team_size(model->backend.team), rows, n;
    mx_projection_shape(&model->config, projection, &rows, &n);
    *moments = (mx_moments){.session = session, .projection = projection, .n_cols = n};
    moments->hessian = calloc(n * n, sizeof *moments->hessian);
    moments->x = malloc(TOKEN_BLOCK * n * sizeof *moments->x);
    moments->cast = malloc(threads * n * sizeof *moments->cast);
    if (moments->hessian == NULL || moments->x == NULL || moments->cast == NULL) {
        mx_moments_clear(moments);
        return mx_error_nomem(err, "calibration moments", n * n * sizeof *moments->hessian);
    }
    return MX_OK;
}

void mx_moments_clear(mx_moments *moments)
{
    free(moments->hessian);
    free(moments->x);
    free(moments->cast);
    *moments = (mx_moments){0};
}

typedef struct widen_job {
    const mx_moments *moments;
    const float *x;          /* [n][n_cols] */
    const uint64_t *streams; /* [n]: of stochastic rounding */
} widen_job;

/* The inputs quantized as the run-time does, in double. */
static void widen_range(void *ctx, size_t begin, size_t end, int thread)
{
    const widen_job *job = ctx;
    const mx_model *model = job->moments->session->model;
    const mx_quant *quant = &model->specs.activations;
    size_t n = job->moments->n_cols;
    float *cast = job->moments->cast + (size_t)thread * n;
    for (size_t t = begin; t < end; t++) {
        const float *x = job->x + t * n;
        double *out = job->moments->x + t * n;
        if (!mx_quant_is_none(quant)) {
            model->backend.kernels.row_cast(quant, x, n, job->streams[t], cast);
            x = cast;
        }
        for (size_t i = 0; i < n; i++) {
            out[i] = x[i];
        }
    }
}

bool mx_moments_tap(void *ctx, uint32_t layer, mx_projection projection, const float *x,
                    size_t n_tokens)
{
    (void)layer;
    mx_moments *moments = ctx;
    if (projection != moments->projection) {
        return true;
    }
    mx_team *team = moments->session->model->backend.team;
    for (size_t first = 0, n; first < n_tokens; first += n) {
        n = n_tokens - first < TOKEN_BLOCK ? n_tokens - first : TOKEN_BLOCK;
        widen_job job = {.moments = moments,
                         .x = x + first * moments->n_cols,
                         .streams = moments->session->streams + first};
        mx_team_for(team, n, CAST_GRAIN, widen_range, &job);
        mx_linalg_gram(team, moments->x, moments->n_cols, n, moments->hessian);
    }
    moments->n_tokens += n_tokens;
    return false;
}

void mx_moments_finish(mx_moments *moments)
{
    size_t n = moments->n_cols;
    double by = moments->n_tokens > 0 ? 1 / (double)moments->n_tokens : 0;
    mx_linalg_mirror(moments->hessian, n);
    for (size_t i = 0; i < n * n; i++) {
        moments->hessian[i] *= by;
    }
}
