#include "quant/moments.h"

#include "quant/linalg.h"

#include <stdlib.h>
#include <string.h>

/* Tokens of one BLAS call: fixed, since it decides the order of the sums. */
enum { TOKEN_BLOCK = 1024, CAST_GRAIN = 16 };

static double *zeros(size_t rows, size_t cols)
{
    return calloc(rows * cols, sizeof(double));
}

mx_status mx_moments_init(mx_moments *moments, const mx_moments_config *config,
                          const mx_backend *backend, size_t chunk, mx_error *err)
{
    *moments = (mx_moments){.config = *config, .backend = backend};
    size_t n = config->n_cols, widest = n > config->hidden ? n : config->hidden;
    bool taught = config->cross || config->residual;
    moments->squares = zeros(1, n);
    moments->ours = zeros(TOKEN_BLOCK, n);
    moments->cast = calloc((size_t)mx_team_size(backend->team) * n, sizeof(float));
    moments->hessian = config->hessian ? zeros(n, n) : NULL;
    moments->cross = config->cross ? zeros(n, n) : NULL;
    moments->residual = config->residual ? zeros(config->hidden, n) : NULL;
    moments->theirs = taught ? zeros(TOKEN_BLOCK, widest) : NULL;
    moments->taught_x = config->cross ? malloc(chunk * n * sizeof(float)) : NULL;
    moments->taught_h = config->residual ? malloc(chunk * config->hidden * sizeof(float)) : NULL;
    bool failed = moments->squares == NULL || moments->ours == NULL || moments->cast == NULL ||
                  (config->hessian && moments->hessian == NULL) ||
                  (config->cross && (moments->cross == NULL || moments->taught_x == NULL)) ||
                  (config->residual && (moments->residual == NULL || moments->taught_h == NULL)) ||
                  (taught && moments->theirs == NULL);
    if (failed) {
        mx_moments_clear(moments);
        return mx_error_nomem(err, "calibration moments", 2 * n * n * sizeof(double));
    }
    return MX_OK;
}

void mx_moments_clear(mx_moments *moments)
{
    free(moments->squares);
    free(moments->hessian);
    free(moments->cross);
    free(moments->residual);
    free(moments->taught_x);
    free(moments->taught_h);
    free(moments->ours);
    free(moments->cast);
    free(moments->theirs);
    *moments = (mx_moments){0};
}

void mx_moments_teach(void *ctx, const float *x, const float *h, const uint64_t *streams, size_t n)
{
    (void)streams;
    mx_moments *moments = ctx;
    if (moments->taught_x != NULL) {
        memcpy(moments->taught_x, x, n * moments->config.n_cols * sizeof *x);
    }
    if (moments->taught_h != NULL) {
        memcpy(moments->taught_h, h, n * moments->config.hidden * sizeof *h);
    }
}

typedef struct widen_job {
    const mx_moments *moments;
    const float *x, *minus; /* [n][width]; minus may be NULL */
    size_t width;
    const uint64_t *streams; /* [n]; NULL: not quantized */
    double *out;             /* [n][width] */
} widen_job;

/* out = x - minus, or x quantized as the run-time does. */
static void widen_range(void *ctx, size_t begin, size_t end, int thread)
{
    const widen_job *job = ctx;
    const mx_quant *quant = &job->moments->config.activations;
    size_t width = job->width;
    float *cast = job->moments->cast + (size_t)thread * width;
    for (size_t t = begin; t < end; t++) {
        const float *x = job->x + t * width;
        double *out = job->out + t * width;
        if (job->streams != NULL && !mx_quant_is_none(quant)) {
            job->moments->backend->kernels.row_cast(quant, x, width, job->streams[t], cast);
            x = cast;
        }
        for (size_t i = 0; i < width; i++) {
            out[i] = (double)x[i] - (job->minus != NULL ? (double)job->minus[t * width + i] : 0);
        }
    }
}

static void widen(const mx_moments *moments, const float *x, const float *minus, size_t width,
                  const uint64_t *streams, size_t n, double *out)
{
    widen_job job = {
        .moments = moments, .x = x, .minus = minus, .width = width, .streams = streams, .out = out};
    mx_team_for(moments->backend->team, n, CAST_GRAIN, widen_range, &job);
}

/* Adds tokens [first, first + n) of a chunk, n <= TOKEN_BLOCK. */
static void add_block(mx_moments *moments, const float *x, const float *h, const uint64_t *streams,
                      size_t first, size_t n)
{
    size_t cols = moments->config.n_cols, hidden = moments->config.hidden;
    mx_team *team = moments->backend->team;
    widen(moments, x + first * cols, NULL, cols, streams + first, n, moments->ours);
    for (size_t t = 0; t < n && moments->hessian == NULL; t++) {
        for (size_t i = 0; i < cols; i++) {
            moments->squares[i] += moments->ours[t * cols + i] * moments->ours[t * cols + i];
        }
    }
    if (moments->hessian != NULL) {
        mx_linalg_gram(team, moments->ours, cols, moments->ours, cols, n, moments->hessian);
    }
    if (moments->cross != NULL) {
        widen(moments, moments->taught_x + first * cols, NULL, cols, NULL, n, moments->theirs);
        mx_linalg_gram(team, moments->theirs, cols, moments->ours, cols, n, moments->cross);
    }
    if (moments->residual != NULL) {
        widen(moments, moments->taught_h + first * hidden, h + first * hidden, hidden, NULL, n,
              moments->theirs);
        mx_linalg_gram(team, moments->theirs, hidden, moments->ours, cols, n, moments->residual);
    }
}

void mx_moments_add(void *ctx, const float *x, const float *h, const uint64_t *streams, size_t n)
{
    mx_moments *moments = ctx;
    for (size_t first = 0; first < n; first += TOKEN_BLOCK) {
        add_block(moments, x, h, streams, first, n - first < TOKEN_BLOCK ? n - first : TOKEN_BLOCK);
    }
    moments->n_tokens += n;
}

static void scale(double *values, size_t n, double by)
{
    for (size_t i = 0; values != NULL && i < n; i++) {
        values[i] *= by;
    }
}

void mx_moments_finish(mx_moments *moments)
{
    size_t n = moments->config.n_cols;
    double by = moments->n_tokens > 0 ? 1 / (double)moments->n_tokens : 0;
    if (moments->hessian != NULL) {
        mx_linalg_mirror(moments->hessian, n);
        for (size_t i = 0; i < n; i++) {
            moments->squares[i] = moments->hessian[i * n + i];
        }
    }
    scale(moments->squares, n, by);
    scale(moments->hessian, n * n, by);
    scale(moments->cross, n * n, by);
    scale(moments->residual, moments->config.hidden * n, by);
}
