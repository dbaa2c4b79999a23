#include "quant/moments.h"

#include "quant/linalg.h"

#include <stdlib.h>

/* Tokens of one BLAS call: fixed, since it decides the order of the sums. */
enum { TOKEN_BLOCK = 1024, CAST_GRAIN = 16 };

mx_status mx_moments_init(mx_moments *moments, size_t n_cols, const mx_quant *activations,
                          const mx_backend *backend, mx_error *err)
{
    *moments = (mx_moments){.n_cols = n_cols, .activations = *activations, .backend = backend};
    moments->hessian = calloc(n_cols * n_cols, sizeof *moments->hessian);
    moments->x = malloc(TOKEN_BLOCK * n_cols * sizeof *moments->x);
    moments->cast = malloc((size_t)mx_team_size(backend->team) * n_cols * sizeof *moments->cast);
    if (moments->hessian == NULL || moments->x == NULL || moments->cast == NULL) {
        mx_moments_clear(moments);
        return mx_error_nomem(err, "calibration moments", n_cols * n_cols * sizeof(double));
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
    const float *x; /* [n][n_cols] */
    const uint64_t *streams;
} widen_job;

/* The inputs quantized as the run-time does, in double. */
static void widen_range(void *ctx, size_t begin, size_t end, int thread)
{
    const widen_job *job = ctx;
    const mx_moments *moments = job->moments;
    size_t n = moments->n_cols;
    float *cast = moments->cast + (size_t)thread * n;
    for (size_t t = begin; t < end; t++) {
        const float *x = job->x + t * n;
        double *out = moments->x + t * n;
        if (!mx_quant_is_none(&moments->activations)) {
            moments->backend->kernels.row_cast(&moments->activations, x, n, job->streams[t], cast);
            x = cast;
        }
        for (size_t i = 0; i < n; i++) {
            out[i] = x[i];
        }
    }
}

void mx_moments_add(void *ctx, const float *x, const uint64_t *streams, size_t n)
{
    mx_moments *moments = ctx;
    mx_team *team = moments->backend->team;
    for (size_t first = 0, tokens; first < n; first += tokens) {
        tokens = n - first < TOKEN_BLOCK ? n - first : TOKEN_BLOCK;
        widen_job job = {
            .moments = moments, .x = x + first * moments->n_cols, .streams = streams + first};
        mx_team_for(team, tokens, CAST_GRAIN, widen_range, &job);
        mx_linalg_gram(team, moments->x, moments->n_cols, tokens, moments->hessian);
    }
    moments->n_tokens += n;
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
