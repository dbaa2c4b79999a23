/*
 * mx_cast_run: the float tensors of a safetensors file, quantized and dequantized
 * along their last axis, with what that did to them.
 */
#include "base/clock.h"
#include "base/str.h"
#include "base/team.h"
#include "format/specs.h"
#include "io/safetensors.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Bytes of output rows made before they are written. */
#define CAST_CHUNK_BYTES ((size_t)4 << 20)

/* What quantization did to elements of one row, one tensor or all. */
typedef struct cast_stats {
    uint64_t count;      /* elements */
    uint64_t non_finite; /* NaN or Inf in the input, or in its quantized block */
    uint64_t saturated;  /* beyond the largest value of their block's scale */
    uint64_t flushed;    /* nonzero that became zero */
    double signal;       /* sum of x^2 over the finite */
    double noise;        /* sum of (x - q)^2 over the finite */
    double max_error;    /* largest |x - q| over the finite */
} cast_stats;

typedef struct cast_job {
    const mx_quant *quant;
    const mx_tensor *tensor;
    size_t n;         /* elements a row */
    size_t row_bytes; /* n elements of the tensor's type */
    uint64_t first;   /* row of range index 0 */
    uint8_t *out;     /* [rows of a chunk][row_bytes] */
    cast_stats *rows; /* [rows of a chunk] */
    uint8_t *scratch; /* [threads][scratch_bytes]: x [n], q [n], codes, scales */
    size_t scratch_bytes;
} cast_job;

static void stats_add(cast_stats *sum, const cast_stats *part)
{
    sum->count += part->count;
    sum->non_finite += part->non_finite;
    sum->saturated += part->saturated;
    sum->flushed += part->flushed;
    sum->signal += part->signal;
    sum->noise += part->noise;
    sum->max_error = part->max_error > sum->max_error ? part->max_error : sum->max_error;
}

/* One element x that became q; `limit` is the largest magnitude it could become. */
static void stats_take(cast_stats *stats, float x, float q, double limit)
{
    stats->count++;
    if (!isfinite(x) || !isfinite(q)) {
        stats->non_finite++;
        return;
    }
    double error = fabs((double)x - (double)q);
    stats->saturated += fabs((double)x) > limit;
    stats->flushed += x != 0 && q == 0;
    stats->signal += (double)x * (double)x;
    stats->noise += error * error;
    stats->max_error = error > stats->max_error ? error : stats->max_error;
}

/* Elements q [n] in the tensor's own type; q is replaced by what was stored. */
static void store_elements(mx_dtype dtype, float *q, size_t n, uint8_t *out)
{
    if (dtype == MX_DTYPE_F32) {
        memcpy(out, q, n * sizeof *q);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        uint16_t bits = dtype == MX_DTYPE_F16 ? mx_f32_to_f16(q[i]) : mx_f32_to_bf16(q[i]);
        memcpy(out + 2 * i, &bits, sizeof bits);
        q[i] = dtype == MX_DTYPE_F16 ? mx_f16_to_f32(bits) : mx_bf16_to_f32(bits);
    }
}

static void cast_row(const cast_job *job, uint64_t row, uint8_t *scratch, uint8_t *out,
                     cast_stats *stats)
{
    const mx_quant *quant = job->quant;
    size_t n = job->n;
    float *x = (float *)(void *)scratch; /* [n] */
    float *q = x + n;                    /* [n] */
    uint8_t *codes = (uint8_t *)(q + n);
    uint8_t *scales = codes + mx_row_code_bytes(quant, n);
    size_t block = mx_quant_block(quant, n);
    mx_dtype_get(job->tensor->dtype)->decode(job->tensor->data + row * job->row_bytes, n, x);
    mx_row_encode(quant, x, n, row, codes, scales);
    mx_row_decode(quant, codes, scales, n, q);
    store_elements(job->tensor->dtype, q, n, out);
    *stats = (cast_stats){0};
    double limit = quant->format->max;
    for (size_t i = 0; i < n; i++) {
        if (mx_quant_is_scaled(quant) && i % block == 0) {
            limit = (double)quant->format->max * mx_e8m0_decode(scales[i / block]);
        }
        stats_take(stats, x[i], q[i], limit);
    }
}

static void cast_range(void *ctx, size_t begin, size_t end, int thread)
{
    cast_job *job = ctx;
    uint8_t *scratch = job->scratch + (size_t)thread * job->scratch_bytes;
    for (size_t i = begin; i < end; i++) {
        cast_row(job, job->first + i, scratch, job->out + i * job->row_bytes, &job->rows[i]);
    }
}

/* ---- one file ---------------------------------------------------------------- */

typedef struct cast_run {
    const mx_quant *quant;
    mx_safetensors *reader;
    mx_safetensors_writer *writer;
    mx_team *team;
    mx_watch watch;
    double start;
    size_t tensors_done;
    uint64_t bytes_done, bytes_total;
    cast_stats total;
    mx_str report;
} cast_run;

static bool is_float(const mx_tensor *tensor)
{
    return (tensor->dtype == MX_DTYPE_F32 || tensor->dtype == MX_DTYPE_F16 ||
            tensor->dtype == MX_DTYPE_BF16) &&
           tensor->size > 0;
}

static mx_status report_progress(cast_run *run, mx_error *err)
{
    mx_progress progress = {
        .stage = "cast",
        .unit = "tensors",
        .done = run->tensors_done,
        .total = mx_safetensors_count(run->reader),
        .work_done = run->bytes_done,
        .work_total = run->bytes_total,
        .work_unit = "bytes",
        .seconds = mx_clock_seconds() - run->start,
    };
    if (run->watch.fn == NULL || run->watch.fn(run->watch.ctx, &progress)) {
        return MX_OK;
    }
    return mx_error_set(err, MX_ERR_CANCELLED, "cast: stopped; nothing was written");
}

/* Writes `size` bytes that the tensor's [offset, offset + size) became. */
static mx_status write_piece(cast_run *run, const mx_tensor *tensor, uint64_t offset,
                             const void *data, size_t size, mx_error *err)
{
    MX_TRY(mx_safetensors_write(run->writer, data, size, err));
    mx_map_drop(mx_safetensors_map(run->reader), tensor->offset + offset, size);
    run->bytes_done += size;
    return report_progress(run, err);
}

static mx_status copy_tensor(cast_run *run, const mx_tensor *tensor, mx_error *err)
{
    for (uint64_t at = 0, size; at < tensor->size; at += size) {
        size = tensor->size - at < CAST_CHUNK_BYTES ? tensor->size - at : CAST_CHUNK_BYTES;
        MX_TRY(write_piece(run, tensor, at, tensor->data + at, size, err));
    }
    return MX_OK;
}

/* The rows of a float tensor; a scalar is one row of one element. */
static mx_status cast_job_init(cast_job *job, const cast_run *run, const mx_tensor *tensor,
                               size_t *chunk, mx_error *err)
{
    *job = (cast_job){.quant = run->quant, .tensor = tensor};
    job->n = tensor->n_dims > 0 ? tensor->shape[tensor->n_dims - 1] : 1;
    job->row_bytes = mx_dtype_bytes(tensor->dtype, job->n);
    *chunk = job->row_bytes < CAST_CHUNK_BYTES ? CAST_CHUNK_BYTES / job->row_bytes : 1;
    size_t codes = mx_row_code_bytes(run->quant, job->n) + mx_row_scale_count(run->quant, job->n);
    /* Whole cache lines, so that threads do not share one. */
    job->scratch_bytes = (2 * job->n * sizeof(float) + codes + 63) / 64 * 64;
    job->scratch = malloc((size_t)mx_team_size(run->team) * job->scratch_bytes);
    job->out = malloc(*chunk * job->row_bytes);
    job->rows = malloc(*chunk * sizeof *job->rows);
    if (job->scratch == NULL || job->out == NULL || job->rows == NULL) {
        return mx_error_nomem(err, tensor->name, *chunk * job->row_bytes);
    }
    return MX_OK;
}

static void cast_job_clear(cast_job *job)
{
    free(job->scratch);
    free(job->out);
    free(job->rows);
}

static mx_status cast_tensor(cast_run *run, const mx_tensor *tensor, cast_stats *stats,
                             mx_error *err)
{
    cast_job job;
    size_t chunk;
    mx_status status;
    *stats = (cast_stats){0};
    MX_TRY_GOTO(status, cast_job_init(&job, run, tensor, &chunk, err));
    uint64_t n_rows = mx_tensor_count(tensor) / job.n;
    for (uint64_t row = 0, end; row < n_rows; row = end) {
        end = n_rows - row < chunk ? n_rows : row + chunk;
        job.first = row;
        mx_team_for(run->team, end - row, 1, cast_range, &job);
        /* In row order: the figures do not depend on the threads. */
        for (uint64_t i = 0; i < end - row; i++) {
            stats_add(stats, &job.rows[i]);
        }
        MX_TRY_GOTO(status, write_piece(run, tensor, row * job.row_bytes, job.out,
                                        (end - row) * job.row_bytes, err));
    }
done:
    cast_job_clear(&job);
    return status;
}

/* ---- report ------------------------------------------------------------------ */

static double percent(uint64_t part, uint64_t whole)
{
    return whole > 0 ? 100 * (double)part / (double)whole : 0;
}

static void report_line(mx_str *report, int width, const char *name, const char *type,
                        const cast_stats *stats)
{
    char sqnr[32] = "exact";
    if (stats->noise > 0) {
        snprintf(sqnr, sizeof sqnr, "%.2f", 10 * log10(stats->signal / stats->noise));
    }
    mx_str_addf(report, "%-*s %-5s %12llu %9s %12.6g %10.4f%% %10.4f%% %10llu\n", width, name, type,
                (unsigned long long)stats->count, sqnr, stats->max_error,
                percent(stats->saturated, stats->count), percent(stats->flushed, stats->count),
                (unsigned long long)stats->non_finite);
}

static void report_head(mx_str *report, int width)
{
    mx_str_addf(report, "%-*s %-5s %12s %9s %12s %11s %11s %10s\n", width, "tensor", "type",
                "elements", "SQNR dB", "max error", "saturated", "flushed", "non-finite");
}

/* Of the column of names: the longest, within a line's reason. */
static int name_width(const mx_safetensors *reader)
{
    int width = 40;
    for (size_t i = 0; i < mx_safetensors_count(reader); i++) {
        const mx_tensor *tensor = mx_safetensors_at(reader, i);
        size_t length = is_float(tensor) ? strlen(tensor->name) : 0;
        width = length > (size_t)width && length <= 200 ? (int)length : width;
    }
    return width;
}

static mx_status cast_all(cast_run *run, mx_error *err)
{
    size_t copied = 0;
    int width = name_width(run->reader);
    report_head(&run->report, width);
    for (size_t i = 0; i < mx_safetensors_count(run->reader); i++) {
        const mx_tensor *tensor = mx_safetensors_at(run->reader, i);
        if (is_float(tensor)) {
            cast_stats stats;
            MX_TRY(cast_tensor(run, tensor, &stats, err));
            stats_add(&run->total, &stats);
            report_line(&run->report, width, tensor->name, mx_dtype_get(tensor->dtype)->name,
                        &stats);
        } else {
            MX_TRY(copy_tensor(run, tensor, err));
            copied++;
        }
        run->tensors_done++;
    }
    report_line(&run->report, width, "all", "", &run->total);
    if (copied > 0) {
        mx_str_addf(&run->report, "%zu tensors without F32, F16 or BF16 elements were copied\n",
                    copied);
    }
    return MX_OK;
}

/* ---- input and output ---------------------------------------------------------- */

/* The strings of a file's __metadata__, key and value in turn, borrowed from
 * `header`, which receives a new reference. */
static mx_status read_metadata(const mx_safetensors *reader, const char *path, json_t **header,
                               const char ***strings, size_t *count, mx_error *err)
{
    const mx_map *map = mx_safetensors_map(reader);
    uint64_t length = 0;
    const char *key;
    json_t *value;
    for (int i = 7; i >= 0; i--) {
        length = length << 8 | map->data[i]; /* the reader has checked it all */
    }
    MX_TRY(mx_json_parse((const char *)map->data + 8, length, path, header, err));
    json_t *metadata = json_object_get(*header, "__metadata__");
    *count = 0;
    *strings = calloc(2 * json_object_size(metadata) + 1, sizeof **strings);
    if (*strings == NULL) {
        return mx_error_nomem(err, path, json_object_size(metadata));
    }
    json_object_foreach(metadata, key, value)
    {
        (*strings)[2 * *count] = key;
        (*strings)[2 * (*count)++ + 1] = json_string_value(value);
    }
    return MX_OK;
}

/* Declares the output: the input's tensors in its order, and its metadata. */
static mx_status create_output(cast_run *run, const char *in_path, const char *out_path,
                               mx_error *err)
{
    size_t n = mx_safetensors_count(run->reader), n_metadata = 0;
    const char **metadata = NULL;
    json_t *header = NULL;
    mx_status status;
    mx_tensor_plan *plans = calloc(n + 1, sizeof *plans);
    if (plans == NULL) {
        return mx_error_nomem(err, out_path, n * sizeof *plans);
    }
    for (size_t i = 0; i < n; i++) {
        const mx_tensor *tensor = mx_safetensors_at(run->reader, i);
        plans[i] = (mx_tensor_plan){tensor->name, tensor->dtype, tensor->n_dims, {0}};
        memcpy(plans[i].shape, tensor->shape, sizeof plans[i].shape);
        run->bytes_total += tensor->size;
    }
    MX_TRY_GOTO(status, read_metadata(run->reader, in_path, &header, &metadata, &n_metadata, err));
    status = mx_safetensors_create(out_path, plans, n, metadata, n_metadata, &run->writer, err);
done:
    free(metadata);
    json_decref(header);
    free(plans);
    return status;
}

mx_status mx_cast_run(const char *in_path, const char *out_path, const mx_specs *specs,
                      mx_watch watch, char **report, mx_error *err)
{
    cast_run run = {.quant = &specs->weights, .watch = watch, .start = mx_clock_seconds()};
    mx_status status;
    if (report != NULL) {
        *report = NULL;
    }
    if (specs->weights.format == NULL) {
        return mx_error_set(err, MX_ERR_ARGUMENT, "cast: no format was chosen");
    }
    MX_TRY_GOTO(status, mx_safetensors_open(in_path, &run.reader, err));
    MX_TRY_GOTO(status, mx_team_create(0, &run.team, err));
    MX_TRY_GOTO(status, create_output(&run, in_path, out_path, err));
    MX_TRY_GOTO(status, cast_all(&run, err));
    status = mx_safetensors_finish(run.writer, err);
    run.writer = NULL; /* finish frees it, whatever it returns */
    if (status == MX_OK && report != NULL) {
        status = mx_str_take(&run.report, report, err);
    }
done:
    mx_safetensors_abort(run.writer);
    mx_str_free(&run.report);
    mx_team_free(run.team);
    mx_safetensors_close(run.reader);
    return status;
}
