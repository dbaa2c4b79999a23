/*
 * GPTQ (Frantar et al., 2022) on the MX grid. Columns are rounded from first to
 * last; the error of each is spread over the columns not yet rounded so that the
 * outputs change least:
 *     err = (w_j - q_j) / U_jj,  w_k -= err * U_jk  (k > j)
 * with U the upper Cholesky factor of H^-1, H = E x^ x^^T + damping.
 *
 * Three things differ from the usual form. The exponent of a block is chosen when
 * its turn has come, by rounding it, with error feedback inside the block, under
 * each candidate and keeping the one of least sum of err^2 - the block's exact
 * share of the output error. And the target is not W alone: with x the input in
 * the unquantized model,
 *     W' = W + c (W E (x - x^) x^^T + E r x^^T) H^-1
 * is, for c = 1, the least-squares fit of W x + r by W' x^, so that a matrix makes up
 * for the errors of those before it: r is what the residual stream lacks, where the
 * output is added to it, and 0 elsewhere. Half of the way (c = 0.5) does better on
 * text that calibration has not seen.
 *
 * What the loop leaves, descent.h then improves block by block: the loop could not
 * know the columns after, and error feedback alone is far from the least error.
 */
#include "quant/block_round.h"
#include "quant/descent.h"
#include "quant/linalg.h"

#include <cblas.h>
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* Columns after which errors reach the rest of the row at once, and rows that do
 * so together: fixed, because BLAS may sum differently for other shapes. */
enum { LAZY_COLUMNS = 128, ROW_TILE = 32 };

typedef struct gptq_job {
    const mx_method_problem *problem;
    size_t block, lazy; /* lazy: whole blocks */
    size_t n_scales;
    double *hessian; /* [n_cols][n_cols]: damped */
    double *u;       /* [n_cols][n_cols], upper */
    double *target;  /* [n_rows][n_cols]: W' */
    double *work;    /* [threads][ROW_TILE][n_cols + lazy]: weights and errors */
    uint8_t *trials; /* [threads][mx_block_trial_size] */
    uint8_t *plain;  /* [n_rows][n_cols]: codes, one a byte */
    uint8_t *scales; /* [n_rows][n_scales] */
    atomic_size_t bad_row;
} gptq_job;

/* The scale byte of a block w [n], columns [col, col + n); t->best_* hold its codes
 * and errors. MX_E8M0_NAN when its weights are beyond every scale. */
static uint8_t round_block(const gptq_job *job, const double *w, size_t col, size_t n,
                           mx_block_trial *t)
{
    const mx_method_problem *problem = job->problem;
    double amax = 0;
    for (size_t i = 0; i < n; i++) {
        amax = fmax(amax, fabs(w[i]));
        if (!isfinite(w[i])) {
            return MX_E8M0_NAN;
        }
    }
    const mx_block_task task = {
        .quant = problem->quant,
        .n = n,
        .aim = w,
        .factor = job->u + col * problem->n_cols + col,
        .stride = problem->n_cols,
        .scale = mx_scale_encode(problem->quant->format, problem->quant->rule, (float)amax),
        .range = problem->settings.search_range,
        .limit = INFINITY,
    };
    return mx_block_round(&task, t);
}

/* Rounds columns [col, end) of one row w [n_cols]; errors [lazy] receives what the
 * columns beyond `end` are still to be told. */
static bool round_columns(const gptq_job *job, double *w, size_t col, size_t end, uint8_t *scales,
                          uint8_t *codes, double *errors, mx_block_trial *t)
{
    size_t stride = job->problem->n_cols, first = col;
    for (; col < end; col += job->block) {
        size_t n = end - col < job->block ? end - col : job->block;
        uint8_t scale = round_block(job, w + col, col, n, t);
        scales[col / job->block] = scale;
        if (scale == MX_E8M0_NAN) {
            return false;
        }
        memcpy(codes + col, t->best_codes, n);
        memcpy(errors + (col - first), t->best_errors, n * sizeof *errors);
        for (size_t j = 0; j < n; j++) {
            const double *u = job->u + (col + j) * stride;
            for (size_t k = col + n; k < end; k++) {
                w[k] -= t->best_errors[j] * u[k];
            }
        }
    }
    return true;
}

static void reject_row(gptq_job *job, size_t row)
{
    size_t seen = atomic_load(&job->bad_row);
    while (row < seen && !atomic_compare_exchange_weak(&job->bad_row, &seen, row)) {
    }
}

/* One tile of rows, all columns. */
static void round_tile(gptq_job *job, size_t row, size_t rows, int thread)
{
    size_t n = job->problem->n_cols;
    double *w = job->work + (size_t)thread * ROW_TILE * (n + job->lazy); /* [rows][n] */
    double *errors = w + ROW_TILE * n;                                   /* [rows][lazy] */
    uint8_t *codes = job->plain + row * n;                               /* [rows][n] */
    mx_block_trial t;
    mx_block_trial_place(job->trials + (size_t)thread * mx_block_trial_size(job->block), job->block,
                         &t);
    memcpy(w, job->target + row * n, rows * n * sizeof *w);
    for (size_t col = 0; col < n; col += job->lazy) {
        size_t end = n - col < job->lazy ? n : col + job->lazy;
        for (size_t r = 0; r < rows; r++) {
            if (!round_columns(job, w + r * n, col, end, job->scales + (row + r) * job->n_scales,
                               codes + r * n, errors + r * job->lazy, &t)) {
                reject_row(job, row + r);
                return;
            }
        }
        if (end < n) {
            cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (blasint)rows,
                        (blasint)(n - end), (blasint)(end - col), -1.0, errors, (blasint)job->lazy,
                        job->u + col * n + end, (blasint)n, 1.0, w + end, (blasint)n);
        }
    }
}

static void round_range(void *ctx, size_t begin, size_t end, int thread)
{
    gptq_job *job = ctx;
    for (size_t tile = begin; tile < end; tile++) {
        size_t row = tile * ROW_TILE, left = job->problem->n_rows - row;
        round_tile(job, row, left < ROW_TILE ? left : ROW_TILE, thread);
    }
}

/* target = W + c (W (cross - hessian) + residual) H^-1; u: H's factor. */
static mx_status fit_target(gptq_job *job, mx_error *err)
{
    const mx_method_problem *problem = job->problem;
    size_t n = problem->n_cols, count = problem->n_rows * n;
    for (size_t i = 0; i < count; i++) {
        job->target[i] = problem->weights[i];
    }
    if (problem->cross == NULL) {
        return MX_OK;
    }
    double *shift = calloc(count, sizeof *shift); /* [n_rows][n] */
    double *difference = malloc(n * n * sizeof *difference);
    mx_status status = MX_OK;
    if (shift == NULL || difference == NULL) {
        status = mx_error_nomem(err, problem->name, (count + n * n) * sizeof *shift);
        goto done;
    }
    for (size_t i = 0; i < n * n; i++) {
        difference[i] = problem->cross[i] - problem->hessian[i];
    }
    mx_linalg_multiply(problem->team, job->target, difference, problem->n_rows, n, n, shift);
    for (size_t i = 0; problem->residual != NULL && i < count; i++) {
        shift[i] += problem->residual[i];
    }
    if (!mx_linalg_solve_rows(problem->team, job->u, n, shift, problem->n_rows)) {
        status = mx_error_set(err, MX_ERR_FORMAT, "%s: the fit failed", problem->name);
        goto done;
    }
    for (size_t i = 0; i < count; i++) {
        job->target[i] += problem->settings.correct * shift[i];
    }
done:
    free(shift);
    free(difference);
    return status;
}

static mx_status factorize(gptq_job *job, mx_error *err)
{
    const mx_method_problem *problem = job->problem;
    size_t n = problem->n_cols;
    mx_method_damped(problem, job->hessian);
    memcpy(job->u, job->hessian, n * n * sizeof *job->u);
    bool good = mx_linalg_cholesky(job->u, n);
    if (good) {
        MX_TRY(fit_target(job, err));
        good = mx_linalg_invert(job->u, n) && mx_linalg_cholesky(job->u, n);
    }
    /* LAPACK lets NaN pass. */
    for (size_t i = 0; good && i < n; i++) {
        good = isfinite(job->u[i * n + i]) && job->u[i * n + i] > 0;
    }
    if (!good) {
        return mx_error_set(err, MX_ERR_ARGUMENT,
                            "%s: the calibration inputs' second moments are singular; give more "
                            "calibration text or a larger damp than %g",
                            problem->name, problem->settings.damp);
    }
    return MX_OK;
}

static mx_status gptq_alloc(gptq_job *job, mx_error *err)
{
    const mx_method_problem *problem = job->problem;
    size_t threads = problem->team != NULL ? (size_t)mx_team_size(problem->team) : 1;
    size_t n = problem->n_cols, count = problem->n_rows * n;
    job->hessian = malloc(n * n * sizeof *job->hessian);
    job->u = malloc(n * n * sizeof *job->u);
    job->target = malloc(count * sizeof *job->target);
    job->work = malloc(threads * ROW_TILE * (n + job->lazy) * sizeof *job->work);
    job->trials = malloc(threads * mx_block_trial_size(job->block));
    job->plain = malloc(count);
    if (job->hessian == NULL || job->u == NULL || job->target == NULL || job->work == NULL ||
        job->trials == NULL || job->plain == NULL) {
        return mx_error_nomem(err, problem->name, (2 * n + problem->n_rows) * n * sizeof *job->u);
    }
    return MX_OK;
}

static void gptq_free(gptq_job *job)
{
    free(job->hessian);
    free(job->u);
    free(job->target);
    free(job->work);
    free(job->trials);
    free(job->plain);
}

/* The loop over all rows. */
static mx_status round_rows(gptq_job *job, mx_error *err)
{
    const mx_method_problem *problem = job->problem;
    atomic_init(&job->bad_row, problem->n_rows);
    mx_team_for(problem->team, (problem->n_rows + ROW_TILE - 1) / ROW_TILE, 1, round_range, job);
    if (atomic_load(&job->bad_row) == problem->n_rows) {
        return MX_OK;
    }
    return mx_error_set(err, MX_ERR_FORMAT,
                        "%s: row %zu: error feedback left the range of %s; a larger damp than "
                        "%g may help",
                        problem->name, atomic_load(&job->bad_row), problem->quant->format->name,
                        problem->settings.damp);
}

static mx_status gptq_quantize(const mx_method_problem *problem, uint8_t *codes, uint8_t *scales,
                               mx_error *err)
{
    MX_TRY(mx_method_check_rounding(problem->quant, err));
    size_t n = problem->n_cols, block = mx_quant_block(problem->quant, n);
    gptq_job job = {
        .problem = problem,
        .block = block,
        .lazy = block >= LAZY_COLUMNS ? block : LAZY_COLUMNS / block * block,
        .n_scales = mx_row_scale_count(problem->quant, n),
        .scales = scales,
    };
    mx_status status;
    MX_TRY_GOTO(status, gptq_alloc(&job, err));
    MX_TRY_GOTO(status, factorize(&job, err));
    MX_TRY_GOTO(status, round_rows(&job, err));
    const mx_descent_config descent = {
        .problem = problem,
        .target = job.target,
        .hessian = job.hessian,
        .codes = job.plain,
        .scales = scales,
        .feedback = true,
    };
    MX_TRY_GOTO(status, mx_descent_run(&descent, err));
    mx_method_pack(problem, job.plain, codes);
done:
    gptq_free(&job);
    return status;
}

static void gptq_describe(const mx_method_settings *settings, json_t *object)
{
    json_object_set_new(object, "search_range", json_integer(settings->search_range));
    json_object_set_new(object, "damp", json_real(settings->damp));
    json_object_set_new(object, "correct", json_real(settings->correct));
    json_object_set_new(object, "passes", json_integer(settings->passes));
}

const mx_method mx_method_gptq = {
    .name = "gptq",
    .corrects = true,
    .quantize = gptq_quantize,
    .describe = gptq_describe,
};
