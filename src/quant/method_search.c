/*
 * Exponent search: each block takes, of the scale rule's exponent and its
 * neighbours, the one whose rounded weights have the least error, weighted by the
 * second moments of the inputs:
 *     minimize over e of sum over i of E[x_i^2] * (w^_i(e) - w_i)^2
 * which is the output's error where inputs are uncorrelated.
 */
#include "quant/method.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SEARCH_GRAIN = 4 };

typedef struct search_job {
    const mx_method_problem *problem;
    size_t block, code_bytes, n_scales;
    uint8_t *codes, *scales;
    uint8_t *scratch; /* [threads][n_cols]: codes, one a byte */
} search_job;

/* Error of the block w [n] at scale byte `scale`, and its codes. */
static double block_error(const mx_quant *quant, const float *w, const double *moments, size_t n,
                          uint8_t scale, uint8_t *codes)
{
    double error = 0;
    for (size_t i = 0; i < n; i++) {
        double value;
        codes[i] = mx_method_round(quant, w[i], scale, &value);
        double d = value - (double)w[i];
        error += moments[i] * (d * d);
    }
    return error;
}

/* The best scale byte of a block. The rule's own is NaN only for weights that no
 * scale reaches, which are refused before. */
static uint8_t search_block(const mx_method_problem *problem, const float *w, const double *moments,
                            size_t n, uint8_t *codes)
{
    float amax = 0;
    for (size_t i = 0; i < n; i++) {
        amax = fmaxf(amax, fabsf(w[i]));
    }
    const mx_quant *quant = problem->quant;
    int rule = mx_scale_encode(quant->format, quant->rule, amax), best = rule;
    double least = INFINITY;
    for (int i = 0; i < 2 * problem->settings.search_range + 1; i++) {
        int scale = rule + mx_method_offset(i);
        if (scale < 0 || scale >= (int)MX_E8M0_NAN) {
            continue;
        }
        double error = block_error(quant, w, moments, n, (uint8_t)scale, codes);
        if (error < least) {
            least = error;
            best = scale;
        }
    }
    block_error(quant, w, moments, n, (uint8_t)best, codes);
    return (uint8_t)best;
}

static void search_range(void *ctx, size_t begin, size_t end, int thread)
{
    const search_job *job = ctx;
    const mx_method_problem *problem = job->problem;
    size_t n = problem->n_cols;
    uint8_t *codes = job->scratch + (size_t)thread * n;
    for (size_t row = begin; row < end; row++) {
        const float *w = problem->weights + row * n; /* [n] */
        for (size_t col = 0, b = 0; col < n; col += job->block, b++) {
            size_t length = n - col < job->block ? n - col : job->block;
            job->scales[row * job->n_scales + b] =
                search_block(problem, w + col, problem->moments + col, length, codes + col);
        }
        mx_codes_pack(codes, n, problem->quant->format->bits, job->codes + row * job->code_bytes);
    }
}

static mx_status search_quantize(const mx_method_problem *problem, uint8_t *codes, uint8_t *scales,
                                 mx_error *err)
{
    MX_TRY(mx_method_check_rounding(problem->quant, err));
    size_t threads = problem->team != NULL ? (size_t)mx_team_size(problem->team) : 1;
    search_job job = {
        .problem = problem,
        .block = mx_quant_block(problem->quant, problem->n_cols),
        .code_bytes = mx_row_code_bytes(problem->quant, problem->n_cols),
        .n_scales = mx_row_scale_count(problem->quant, problem->n_cols),
        .codes = codes,
        .scales = scales,
        .scratch = malloc(threads * problem->n_cols),
    };
    if (job.scratch == NULL) {
        return mx_error_nomem(err, problem->name, threads * problem->n_cols);
    }
    mx_team_for(problem->team, problem->n_rows, SEARCH_GRAIN, search_range, &job);
    free(job.scratch);
    return MX_OK;
}

static void search_describe(const mx_method_settings *settings, json_t *object)
{
    json_object_set_new(object, "search_range", json_integer(settings->search_range));
}

const mx_method mx_method_search = {
    .name = "search",
    .needs = MX_NEEDS_MOMENTS,
    .quantize = search_quantize,
    .describe = search_describe,
};
