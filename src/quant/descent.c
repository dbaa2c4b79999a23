#include "quant/descent.h"

#include "quant/block_round.h"
#include "quant/linalg.h"

#include <cblas.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Rows that descend together: fixed, because BLAS may sum differently for other
 * shapes. */
enum { ROW_TILE = 32 };

/* The share of a block's error that a change must save: more than the rounding of
 * the sums can feign. */
#define LEAST_GAIN 1e-9

typedef struct descent_job {
    const mx_descent_config *config;
    size_t n, block, n_blocks; /* n: columns */
    double *inverse;           /* [n_blocks][block][block]: of H's diagonal blocks */
    double *factor;            /* [n_blocks][block][block]: upper F, F^T F = inverse */
    double *scratch;           /* [threads][scratch_size] */
    size_t scratch_size;
} descent_job;

/* One tile of rows, in a thread's scratch. */
typedef struct tile {
    size_t row, rows;
    double *q;     /* [ROW_TILE][n]: dequantized */
    double *g;     /* [ROW_TILE][n]: (q - t) H */
    double *step;  /* [ROW_TILE][block]: g times the block's inverse */
    double *delta; /* [ROW_TILE][block]: change of q */
    double *aim;   /* [block] */
    mx_block_trial trial;
} tile;

static size_t scratch_size(size_t n, size_t block)
{
    return ROW_TILE * 2 * (n + block) + block + mx_block_trial_size(block) / sizeof(double);
}

static tile place_tile(const descent_job *job, size_t row, size_t rows, int thread)
{
    size_t n = job->n, block = job->block;
    tile t = {.row = row, .rows = rows};
    t.q = job->scratch + (size_t)thread * job->scratch_size;
    t.g = t.q + ROW_TILE * n;
    t.step = t.g + ROW_TILE * n;
    t.delta = t.step + ROW_TILE * block;
    t.aim = t.delta + ROW_TILE * block;
    mx_block_trial_place(t.aim + block, block, &t.trial);
    return t;
}

static size_t block_length(const descent_job *job, size_t b)
{
    size_t left = job->n - b * job->block;
    return left < job->block ? left : job->block;
}

/* c [rows][cols] = a [rows][inner] b [inner][cols] + beta c. */
static void multiply(size_t rows, size_t cols, size_t inner, const double *a, size_t a_stride,
                     const double *b, size_t b_stride, double beta, double *c, size_t c_stride)
{
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (blasint)rows, (blasint)cols,
                (blasint)inner, 1.0, a, (blasint)a_stride, b, (blasint)b_stride, beta, c,
                (blasint)c_stride);
}

/* values [n] of a block's codes. */
static void decode(const mx_quant *quant, const uint8_t *codes, uint8_t scale, size_t n,
                   double *values)
{
    for (size_t i = 0; i < n; i++) {
        values[i] =
            ldexp((double)quant->format->decode(quant->format, codes[i]), scale - MX_E8M0_BIAS);
    }
}

static void start_tile(const descent_job *job, tile *t)
{
    const mx_descent_config *config = job->config;
    size_t n = job->n;
    for (size_t r = 0; r < t->rows; r++) {
        const uint8_t *scales = config->scales + (t->row + r) * job->n_blocks;
        for (size_t b = 0; b < job->n_blocks; b++) {
            size_t col = b * job->block;
            decode(config->problem->quant, config->codes + (t->row + r) * n + col, scales[b],
                   block_length(job, b), t->q + r * n + col);
        }
    }
    for (size_t i = 0; i < t->rows * n; i++) {
        t->q[i] -= config->target[t->row * n + i];
    }
    multiply(t->rows, n, n, t->q, n, config->hessian, n, 0, t->g, n);
    for (size_t i = 0; i < t->rows * n; i++) {
        t->q[i] += config->target[t->row * n + i];
    }
}

/* The scale that the rule gives the target's block. */
static int rule_scale(const mx_quant *quant, const double *target, size_t n)
{
    double amax = 0;
    for (size_t i = 0; i < n; i++) {
        amax = fmax(amax, fabs(target[i]));
    }
    return mx_scale_encode(quant->format, quant->rule, (float)amax);
}

/* Rounds one block of one row again, if that helps; delta [n] is the change. */
static void descend_block(const descent_job *job, tile *t, size_t r, size_t b)
{
    const mx_descent_config *config = job->config;
    const mx_quant *quant = config->problem->quant;
    size_t col = b * job->block, n = block_length(job, b), at = (t->row + r) * job->n + col;
    double *q = t->q + r * job->n + col, *delta = t->delta + r * job->block; /* [n] */
    const double *g = t->g + r * job->n + col, *step = t->step + r * job->block;
    uint8_t *scale = config->scales + (t->row + r) * job->n_blocks + b;
    double error = 0; /* as it is */
    for (size_t i = 0; i < n; i++) {
        t->aim[i] = q[i] - step[i];
        error += g[i] * step[i];
    }
    const mx_block_task task = {
        .quant = quant,
        .n = n,
        .aim = t->aim,
        .nearest = config->feedback ? NULL : config->target + at,
        .factor = job->factor + b * job->block * job->block,
        .stride = job->block,
        .scale = config->feedback ? *scale : rule_scale(quant, config->target + at, n),
        .range = config->problem->settings.search_range,
        .limit = error * (1 - LEAST_GAIN),
    };
    memset(delta, 0, n * sizeof *delta);
    uint8_t best = mx_block_round(&task, &t->trial);
    if (best == MX_E8M0_NAN) {
        return;
    }
    *scale = best;
    memcpy(config->codes + at, t->trial.best_codes, n);
    decode(quant, t->trial.best_codes, best, n, t->aim);
    for (size_t i = 0; i < n; i++) {
        delta[i] = t->aim[i] - q[i];
        q[i] = t->aim[i];
    }
}

static void descend_range(void *ctx, size_t begin, size_t end, int thread)
{
    const descent_job *job = ctx;
    size_t n = job->n, block = job->block, n_rows = job->config->problem->n_rows;
    for (size_t i = begin; i < end; i++) {
        size_t row = i * ROW_TILE, left = n_rows - row, rows = left < ROW_TILE ? left : ROW_TILE;
        tile t = place_tile(job, row, rows, thread);
        start_tile(job, &t);
        for (size_t b = 0; b < job->n_blocks * (size_t)job->config->problem->settings.passes; b++) {
            size_t at = b % job->n_blocks, col = at * block, length = block_length(job, at);
            multiply(rows, length, length, t.g + col, n, job->inverse + at * block * block, block,
                     0, t.step, block);
            for (size_t r = 0; r < rows; r++) {
                descend_block(job, &t, r, at);
            }
            multiply(rows, n, length, t.delta, block, job->config->hessian + col * n, n, 1, t.g, n);
        }
    }
}

/* Copies the upper left [n][n] of a matrix. */
static void copy_square(const double *from, size_t from_stride, size_t n, double *to,
                        size_t to_stride)
{
    for (size_t i = 0; i < n; i++) {
        memcpy(to + i * to_stride, from + i * from_stride, n * sizeof *to);
    }
}

/* The inverse of each diagonal block of H, and that inverse's factor; work [block][block]. */
static bool invert_blocks(descent_job *job, double *work)
{
    for (size_t b = 0; b < job->n_blocks; b++) {
        size_t n = block_length(job, b), at = b * job->block;
        copy_square(job->config->hessian + at * job->n + at, job->n, n, work, n);
        if (!mx_linalg_cholesky(work, n) || !mx_linalg_invert(work, n)) {
            return false;
        }
        mx_linalg_mirror(work, n);
        copy_square(work, n, n, job->inverse + at * job->block, job->block);
        if (!mx_linalg_cholesky(work, n)) {
            return false;
        }
        copy_square(work, n, n, job->factor + at * job->block, job->block);
    }
    return true;
}

mx_status mx_descent_run(const mx_descent_config *config, mx_error *err)
{
    const mx_method_problem *problem = config->problem;
    size_t threads = problem->team != NULL ? (size_t)mx_team_size(problem->team) : 1;
    size_t n = problem->n_cols, block = mx_quant_block(problem->quant, n);
    size_t n_blocks = mx_row_scale_count(problem->quant, n), square = block * block;
    descent_job job = {.config = config, .n = n, .block = block, .n_blocks = n_blocks};
    job.scratch_size = scratch_size(n, block);
    job.inverse = malloc(n_blocks * square * sizeof(double));
    job.factor = malloc(n_blocks * square * sizeof(double));
    job.scratch = malloc((threads * job.scratch_size + square) * sizeof(double));
    mx_status status = MX_OK;
    if (job.inverse == NULL || job.factor == NULL || job.scratch == NULL) {
        status = mx_error_nomem(err, problem->name, 2 * n_blocks * square * sizeof(double));
    } else if (!invert_blocks(&job, job.scratch + threads * job.scratch_size)) {
        status = mx_error_set(err, MX_ERR_ARGUMENT,
                              "%s: the calibration inputs' second moments are singular; give more "
                              "calibration text or a larger damp than %g",
                              problem->name, problem->settings.damp);
    } else {
        mx_team_for(problem->team, (problem->n_rows + ROW_TILE - 1) / ROW_TILE, 1, descend_range,
                    &job);
    }
    free(job.inverse);
    free(job.factor);
    free(job.scratch);
    return status;
}
