/* GGUF's block types in plain types, without loss. */
#include "quant/quantize_plan.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum {
    EXPAND_GRAIN = 8, /* rows a thread takes at a time */
    NOT_BF16 = 1,
    NOT_F16 = 2, /* a value was seen that the type does not hold */
};

typedef struct expand_job {
    const mx_rows *rows;
    size_t first; /* model row of range index 0 */
    mx_dtype dtype;
    uint8_t *out;   /* [n][n_cols] of dtype; NULL: look for losses */
    float *scratch; /* [threads][n_cols] */
    atomic_uint losses;
} expand_job;

static unsigned find_losses(const float *x, size_t n)
{
    unsigned losses = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t bits, half_bits;
        float half = mx_f16_to_f32(mx_f32_to_f16(x[i]));
        memcpy(&bits, &x[i], sizeof bits);
        memcpy(&half_bits, &half, sizeof half_bits);
        losses |= ((bits & 0xFFFF) != 0 ? NOT_BF16 : 0) | (half_bits != bits ? NOT_F16 : 0);
    }
    return losses;
}

static void store_row(const float *x, size_t n, mx_dtype dtype, uint8_t *out)
{
    if (dtype == MX_DTYPE_F32) {
        memcpy(out, x, n * sizeof *x);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        uint16_t bits = dtype == MX_DTYPE_F16 ? mx_f32_to_f16(x[i]) : mx_f32_to_bf16(x[i]);
        memcpy(out + 2 * i, &bits, sizeof bits);
    }
}

static void expand_range(void *ctx, size_t begin, size_t end, int thread)
{
    expand_job *job = ctx;
    size_t n = job->rows->n_cols;
    float *x = job->scratch + (size_t)thread * n; /* [n] */
    size_t row_bytes = mx_dtype_bytes(job->dtype, n);
    for (size_t i = begin; i < end; i++) {
        /* Once both narrow types are ruled out there is nothing left to find. */
        if (job->out == NULL && atomic_load(&job->losses) == (NOT_BF16 | NOT_F16)) {
            return;
        }
        const mx_dtype_info *info = mx_dtype_get(job->rows->tensor->dtype);
        info->decode(mx_rows_at(job->rows, job->first + i), n, x);
        if (job->out == NULL) {
            atomic_fetch_or(&job->losses, find_losses(x, n));
        } else {
            store_row(x, n, job->dtype, job->out + i * row_bytes);
        }
    }
}

static mx_status expand_run(expand_job *job, size_t n_rows, mx_team *team, mx_error *err)
{
    const mx_rows *rows = job->rows;
    const mx_dtype_info *info = mx_dtype_get(rows->tensor->dtype);
    if (info->decode == NULL || rows->n_cols % info->block != 0) {
        return mx_error_set(err, MX_ERR_UNSUPPORTED, "%s: %s: cannot expand type %s",
                            rows->tensor->file, rows->tensor->name, info->name);
    }
    size_t floats = (team != NULL ? (size_t)mx_team_size(team) : 1) * rows->n_cols;
    job->scratch = calloc(floats, sizeof *job->scratch);
    if (job->scratch == NULL) {
        return mx_error_nomem(err, rows->tensor->name, floats * sizeof(float));
    }
    mx_team_for(team, n_rows, EXPAND_GRAIN, expand_range, job);
    free(job->scratch);
    return MX_OK;
}

mx_status mx_expand_dtype(const mx_rows *rows, mx_team *team, mx_dtype *out, mx_error *err)
{
    expand_job job = {.rows = rows, .dtype = MX_DTYPE_F32};
    atomic_init(&job.losses, 0);
    MX_TRY(expand_run(&job, rows->n_rows, team, err));
    unsigned losses = atomic_load(&job.losses);
    *out = (losses & NOT_BF16) == 0  ? MX_DTYPE_BF16
           : (losses & NOT_F16) == 0 ? MX_DTYPE_F16
                                     : MX_DTYPE_F32;
    return MX_OK;
}

mx_status mx_expand_rows(const mx_rows *rows, size_t begin, size_t end, mx_dtype dtype,
                         mx_team *team, uint8_t *out, mx_error *err)
{
    expand_job job = {.rows = rows, .first = begin, .dtype = dtype, .out = out};
    atomic_init(&job.losses, 0);
    return expand_run(&job, end - begin, team, err);
}
