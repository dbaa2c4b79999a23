/*
 * Exponent search: weights are rounded to nearest, and of the scale rule's exponent
 * and its neighbours each block takes the one with which the row's output error,
 *     (w^ - w) E[x x^T] (w^ - w)^T,
 * is least, block after block (descent.h). The usual form weighs by the diagonal
 * E[x_i^2] alone, which takes inputs for uncorrelated.
 */
#include "quant/descent.h"

#include <stdlib.h>

typedef struct search_job {
    const mx_method_problem *problem;
    size_t n_scales;
    double *target;  /* [n_rows][n_cols]: the weights */
    double *hessian; /* [n_cols][n_cols]: damped */
    uint8_t *plain;  /* [n_rows][n_cols]: codes, one a byte */
    uint8_t *codes, *scales;
} search_job;

/* Where the descent begins: the rule's exponents. */
static void round_weights(search_job *job)
{
    const mx_method_problem *problem = job->problem;
    size_t n = problem->n_cols, code_bytes = mx_row_code_bytes(problem->quant, n);
    for (size_t row = 0; row < problem->n_rows; row++) {
        const float *w = problem->weights + row * n; /* [n] */
        uint8_t *codes = job->codes + row * code_bytes;
        mx_row_encode(problem->quant, w, n, row, codes, job->scales + row * job->n_scales);
        mx_codes_unpack(codes, n, problem->quant->format->bits, job->plain + row * n);
        for (size_t i = 0; i < n; i++) {
            job->target[row * n + i] = w[i];
        }
    }
}

static mx_status search_run(search_job *job, mx_error *err)
{
    const mx_method_problem *problem = job->problem;
    round_weights(job);
    mx_method_damped(problem, job->hessian);
    const mx_descent_config descent = {
        .problem = problem,
        .target = job->target,
        .hessian = job->hessian,
        .codes = job->plain,
        .scales = job->scales,
    };
    MX_TRY(mx_descent_run(&descent, err));
    mx_method_pack(problem, job->plain, job->codes);
    return MX_OK;
}

static mx_status search_quantize(const mx_method_problem *problem, uint8_t *codes, uint8_t *scales,
                                 mx_error *err)
{
    MX_TRY(mx_method_check_rounding(problem->quant, err));
    size_t n = problem->n_cols, count = problem->n_rows * n;
    search_job job = {
        .problem = problem,
        .n_scales = mx_row_scale_count(problem->quant, n),
        .target = malloc(count * sizeof(double)),
        .hessian = malloc(n * n * sizeof(double)),
        .plain = malloc(count),
        .codes = codes,
        .scales = scales,
    };
    mx_status status;
    if (job.target == NULL || job.hessian == NULL || job.plain == NULL) {
        status = mx_error_nomem(err, problem->name, (count + n * n) * sizeof(double));
    } else {
        status = search_run(&job, err);
    }
    free(job.target);
    free(job.hessian);
    free(job.plain);
    return status;
}

static void search_describe(const mx_method_settings *settings, json_t *object)
{
    json_object_set_new(object, "search_range", json_integer(settings->search_range));
    json_object_set_new(object, "damp", json_real(settings->damp));
    json_object_set_new(object, "passes", json_integer(settings->passes));
}

const mx_method mx_method_search = {
    .name = "search",
    .quantize = search_quantize,
    .describe = search_describe,
};
