/* Round to nearest: every row of a weight through mx_row_encode, by a team. */
#include "quant/quantize.h"

#include "io/llama_layout.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { RTN_GRAIN = 4 }; /* rows a thread takes at a time */

bool mx_projection_is(const char *tensor_name)
{
    return mx_llama_is_projection(tensor_name, NULL);
}

/* One pass over rows of a weight, n_rows of them from `begin` on. */
typedef struct rtn_job {
    const mx_rows *rows;
    size_t begin;
    const mx_quant *quant;
    void (*decode)(const uint8_t *src, size_t n, float *dst);
    uint8_t *codes;  /* [n_rows][code_bytes] */
    uint8_t *scales; /* [n_rows][scale_count] */
    size_t code_bytes, scale_count;
    float *scratch; /* [threads][scratch_stride] */
    size_t scratch_stride;
    double *signal;        /* [n_rows], the noise pass alone */
    double *noise;         /* [n_rows] */
    atomic_size_t bad_row; /* the smallest that cannot be quantized, of all rows; SIZE_MAX */
} rtn_job;

static void rtn_job_reject(rtn_job *job, size_t row)
{
    size_t seen = atomic_load(&job->bad_row);
    while (row < seen && !atomic_compare_exchange_weak(&job->bad_row, &seen, row)) {
    }
}

/* x [n]; an all-ones exponent is NaN or Inf. Integer, so that it vectorizes. */
static bool row_is_finite(const float *x, size_t n)
{
    uint32_t bad = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        bad |= (bits & 0x7F800000u) == 0x7F800000u;
    }
    return bad == 0;
}

static void encode_range(void *ctx, size_t begin, size_t end, int thread)
{
    rtn_job *job = ctx;
    size_t n = job->rows->n_cols;
    float *x = job->scratch + (size_t)thread * job->scratch_stride; /* [n] */
    for (size_t i = begin; i < end; i++) {
        size_t row = job->begin + i;
        uint8_t *scales = job->scales + i * job->scale_count;
        job->decode(mx_rows_at(job->rows, row), n, x);
        if (!row_is_finite(x, n)) {
            rtn_job_reject(job, row);
            continue;
        }
        mx_row_encode(job->quant, x, n, row, job->codes + i * job->code_bytes, scales);
        /* A finite block still has no scale when its exponent passes 127. */
        if (memchr(scales, MX_E8M0_NAN, job->scale_count) != NULL) {
            rtn_job_reject(job, row);
        }
    }
}

static void noise_range(void *ctx, size_t begin, size_t end, int thread)
{
    rtn_job *job = ctx;
    size_t n = job->rows->n_cols;
    float *x = job->scratch + (size_t)thread * job->scratch_stride; /* [n] */
    float *q = x + job->scratch_stride / 2;                         /* [n] */
    for (size_t row = begin; row < end; row++) {
        job->decode(mx_rows_at(job->rows, job->begin + row), n, x);
        mx_row_decode(job->quant, job->codes + row * job->code_bytes,
                      job->scales + row * job->scale_count, n, q);
        double signal = 0, noise = 0;
        for (size_t i = 0; i < n; i++) {
            double d = (double)x[i] - (double)q[i];
            signal += (double)x[i] * (double)x[i];
            noise += d * d;
        }
        job->signal[row] = signal;
        job->noise[row] = noise;
    }
}

/* `floats` scratch values for each thread, threads on separate cache lines. */
static mx_status rtn_job_init(rtn_job *job, const mx_rows *rows, size_t begin,
                              const mx_quant *quant, mx_team *team, size_t floats, mx_error *err)
{
    const mx_tensor *tensor = rows->tensor;
    const mx_dtype_info *info = mx_dtype_get(tensor->dtype);
    if (info->decode == NULL || rows->n_cols == 0 || rows->n_cols % info->block != 0) {
        return mx_error_set(
            err, MX_ERR_UNSUPPORTED, "%s: %s: cannot quantize rows of %llu elements of type %s",
            tensor->file, tensor->name, (unsigned long long)rows->n_cols, info->name);
    }
    size_t threads = team != NULL ? (size_t)mx_team_size(team) : 1;
    *job = (rtn_job){.rows = rows, .begin = begin, .quant = quant, .decode = info->decode};
    job->code_bytes = mx_row_code_bytes(quant, rows->n_cols);
    job->scale_count = mx_row_scale_count(quant, rows->n_cols);
    job->scratch_stride = (floats + 31) / 32 * 32;
    job->scratch = calloc(threads * job->scratch_stride, sizeof *job->scratch);
    if (job->scratch == NULL) {
        return mx_error_nomem(err, tensor->name, threads * job->scratch_stride * sizeof(float));
    }
    atomic_init(&job->bad_row, SIZE_MAX);
    return MX_OK;
}

/* Names the first value of `row` that stopped the quantization. */
static mx_status bad_row_error(rtn_job *job, size_t row, mx_error *err)
{
    const mx_rows *rows = job->rows;
    float *x = job->scratch; /* [n_cols] */
    job->decode(mx_rows_at(rows, row), rows->n_cols, x);
    for (size_t i = 0; i < rows->n_cols; i++) {
        if (!isfinite(x[i])) {
            return mx_error_set(err, MX_ERR_FORMAT, "%s: %s: row %zu, column %zu is %s",
                                rows->tensor->file, rows->tensor->name, row, i,
                                isnan(x[i]) ? "NaN" : "infinite");
        }
    }
    return mx_error_set(err, MX_ERR_FORMAT,
                        "%s: %s: row %zu holds magnitudes beyond the largest scale of %s",
                        rows->tensor->file, rows->tensor->name, row, job->quant->format->name);
}

mx_status mx_rtn_rows(const mx_rows *rows, size_t begin, size_t end, const mx_quant *quant,
                      mx_team *team, uint8_t *codes, uint8_t *scales, mx_error *err)
{
    rtn_job job;
    MX_TRY(rtn_job_init(&job, rows, begin, quant, team, rows->n_cols, err));
    job.codes = codes;
    job.scales = scales;
    mx_team_for(team, end - begin, RTN_GRAIN, encode_range, &job);
    size_t bad_row = atomic_load(&job.bad_row);
    mx_status status = bad_row != SIZE_MAX ? bad_row_error(&job, bad_row, err) : MX_OK;
    free(job.scratch);
    return status;
}

mx_status mx_rtn_noise(const mx_rows *rows, size_t begin, size_t end, const mx_quant *quant,
                       mx_team *team, const uint8_t *codes, const uint8_t *scales, double *signal,
                       double *noise, mx_error *err)
{
    rtn_job job;
    size_t half = (rows->n_cols + 15) / 16 * 16, n_rows = end - begin;
    MX_TRY(rtn_job_init(&job, rows, begin, quant, team, 2 * half, err));
    mx_status status = MX_OK;
    job.codes = (uint8_t *)(uintptr_t)codes; /* only read by noise_range */
    job.scales = (uint8_t *)(uintptr_t)scales;
    job.signal = calloc(n_rows + 1, sizeof *job.signal);
    job.noise = calloc(n_rows + 1, sizeof *job.noise);
    if (job.signal == NULL || job.noise == NULL) {
        status = mx_error_nomem(err, rows->tensor->name, n_rows * sizeof(double));
        goto done;
    }
    mx_team_for(team, n_rows, RTN_GRAIN, noise_range, &job);
    /* Row sums are added in row order: the figure does not depend on threads. */
    for (size_t row = 0; row < n_rows; row++) {
        *signal += job.signal[row];
        *noise += job.noise[row];
    }
done:
    free(job.signal);
    free(job.noise);
    free(job.scratch);
    return status;
}
