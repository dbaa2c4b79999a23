/*
 * mx_quantize_run: a checkpoint, tensor by tensor, into a directory. What is rounded
 * is in memory a chunk of rows at a time; source pages are dropped once used.
 */
#define _GNU_SOURCE
#include "quant/layerwise.h"
#include "quant/quantize_plan.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/str.h"
#include "quant/spill.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Bytes copied or expanded between two looks at the progress callback. */
#define CHUNK_BYTES ((size_t)8 << 20)

typedef struct run {
    const mx_checkpoint *checkpoint;
    const mx_specs *specs;
    mx_team *team;
    mx_quantize_plan plan;
    mx_export *export;
    mx_watch watch;
    double start;
    size_t items_done;
    uint64_t bytes_done; /* of the source */
    uint8_t *work;       /* [work_size]: scales and codes, or a chunk of rows */
    size_t work_size;
    const mx_method *method;
    const mx_quantize_options *options;
    const char *model_path;
    char *out_dir_parent;            /* for spilled hidden states; owned */
    const mx_quantize_item **packed; /* [layers][MX_PROJ_COUNT], owned; NULL: rtn */
    mx_quantize_stats stats;
} run;

static mx_status report_progress(run *r, uint64_t within, mx_error *err)
{
    mx_progress progress = {
        .stage = "quantize",
        .unit = "tensors",
        .done = r->items_done,
        .total = r->plan.n_items,
        .work_done = r->bytes_done + within,
        .work_total = r->plan.bytes_in,
        .work_unit = "bytes",
        .seconds = mx_clock_seconds() - r->start,
    };
    if (r->watch.fn == NULL || r->watch.fn(r->watch.ctx, &progress)) {
        return MX_OK;
    }
    return mx_error_set(err, MX_ERR_CANCELLED, "quantize: stopped after %zu of %zu tensors",
                        r->items_done, r->plan.n_items);
}

/* ---- the four actions -------------------------------------------------------- */

/* Gives back the source pages behind rows [begin, end); permuted rows lie anywhere, and
 * go with their whole tensor. */
static void drop_rows(const run *r, const mx_rows *rows, uint64_t begin, uint64_t end)
{
    mx_tensor part = *rows->tensor;
    if (rows->permuted_head_dim != 0) {
        return;
    }
    part.data += begin * rows->row_bytes;
    part.offset += begin * rows->row_bytes;
    part.size = (end - begin) * rows->row_bytes;
    mx_checkpoint_drop(r->checkpoint, &part);
}

/* Rows of a chunk that takes `row_bytes` a row: whole rows, at least one. */
static uint64_t chunk_rows(const mx_rows *rows, size_t row_bytes)
{
    uint64_t n = row_bytes > 0 ? CHUNK_BYTES / row_bytes : rows->n_rows;
    n = n > 0 ? n : 1;
    return n < rows->n_rows ? n : rows->n_rows;
}

/* Stored bytes as they are; permuted rows one by one. */
static mx_status copy_item(run *r, const mx_quantize_item *item, mx_error *err)
{
    const mx_rows *rows = &item->rows;
    if (rows->permuted_head_dim != 0) {
        for (uint64_t row = 0; row < rows->n_rows; row++) {
            MX_TRY(mx_export_write(r->export, mx_rows_at(rows, row), rows->row_bytes, err));
        }
        return MX_OK;
    }
    uint64_t step = chunk_rows(rows, rows->row_bytes);
    for (uint64_t row = 0, end; row < rows->n_rows; row = end) {
        end = rows->n_rows - row < step ? rows->n_rows : row + step;
        MX_TRY(
            mx_export_write(r->export, mx_rows_at(rows, row), (end - row) * rows->row_bytes, err));
        drop_rows(r, rows, row, end);
        MX_TRY(report_progress(r, end * rows->row_bytes, err));
    }
    return MX_OK;
}

static mx_status expand_item(run *r, const mx_quantize_item *item, mx_error *err)
{
    const mx_rows *rows = &item->rows;
    mx_dtype dtype = r->plan.tensors[item->plan].dtype;
    size_t out_bytes = mx_dtype_bytes(dtype, rows->n_cols);
    uint64_t step = chunk_rows(rows, out_bytes);
    for (uint64_t row = 0, end; row < rows->n_rows; row = end) {
        end = rows->n_rows - row < step ? rows->n_rows : row + step;
        MX_TRY(mx_expand_rows(rows, row, end, dtype, r->team, r->work, err));
        MX_TRY(mx_export_write(r->export, r->work, (end - row) * out_bytes, err));
        drop_rows(r, rows, row, end);
        MX_TRY(report_progress(r, end * rows->row_bytes, err));
    }
    return MX_OK;
}

/* Takes one weight's figures into the sums of the summary. */
static void add_stats(run *r, const mx_quantize_item *item, double signal, double noise)
{
    mx_quantize_stats *stats = &r->stats;
    if (!mx_projection_is(item->rows.tensor->name)) {
        stats->head_weights = item->rows.n_rows * item->rows.n_cols;
        stats->head_bytes_in = item->rows.tensor->size;
        stats->head_bytes_out = item->bytes_out;
        stats->head_signal = signal;
        stats->head_noise = noise;
        return;
    }
    stats->n_projections++;
    stats->weights += item->rows.n_rows * item->rows.n_cols;
    stats->projection_bytes_in += item->rows.tensor->size;
    stats->projection_bytes_out += item->bytes_out;
    stats->signal += signal;
    stats->noise += noise;
    double sqnr = noise > 0 ? 10 * log10(signal / noise) : INFINITY;
    if (noise > 0 && (stats->lowest_name == NULL || sqnr < stats->lowest_sqnr)) {
        stats->lowest_sqnr = sqnr;
        stats->lowest_name = item->rows.tensor->name;
    }
}

static size_t item_code_bytes(const mx_quantize_item *item)
{
    return item->rows.n_rows * mx_row_code_bytes(item->quant, item->rows.n_cols);
}

/* The codes of a quantized weight, all or in pieces. An earlier run may have been
 * stopped between them and the scales: then they are there. */
static mx_status write_codes(run *r, const mx_quantize_item *item, const uint8_t *codes,
                             size_t size, mx_error *err)
{
    bool there = mx_export_has(r->export, item->plan, NULL);
    return there ? MX_OK : mx_export_write(r->export, codes, size, err);
}

static mx_status begin_codes(run *r, const mx_quantize_item *item, mx_error *err)
{
    bool there = mx_export_has(r->export, item->plan, NULL);
    return there ? MX_OK : mx_export_begin(r->export, item->plan, err);
}

/* Ends them and, but for a cast, writes the scales. The tensor that ends an item
 * carries the figures of the whole. */
static mx_status end_item(run *r, const mx_quantize_item *item, const uint8_t *scales,
                          double signal, double noise, mx_error *err)
{
    json_t *note = json_pack("{s:f, s:f}", "signal", signal, "noise", noise);
    mx_status status;
    if (item->action == MX_ITEM_PACK) {
        if (!mx_export_has(r->export, item->plan, NULL)) {
            MX_TRY_GOTO(status, mx_export_end(r->export, NULL, err));
        }
        MX_TRY_GOTO(status, mx_export_begin(r->export, item->plan + 1, err));
        MX_TRY_GOTO(status, mx_export_write(r->export, scales,
                                            item->bytes_out - item_code_bytes(item), err));
    }
    MX_TRY_GOTO(status, mx_export_end(r->export, note, err));
    add_stats(r, item, signal, noise);
done:
    json_decref(note);
    return status;
}

/* Rounds a weight to nearest, a chunk of rows after the other. */
static mx_status round_item(run *r, const mx_quantize_item *item, mx_error *err)
{
    const mx_rows *rows = &item->rows;
    size_t code_bytes = mx_row_code_bytes(item->quant, rows->n_cols);
    size_t n_scales = mx_row_scale_count(item->quant, rows->n_cols);
    uint8_t *scales = r->work, *codes = r->work + rows->n_rows * n_scales;
    uint64_t step = chunk_rows(rows, rows->row_bytes);
    double signal = 0, noise = 0;
    MX_TRY(begin_codes(r, item, err));
    for (uint64_t row = 0, end; row < rows->n_rows; row = end) {
        uint8_t *own = scales + row * n_scales;
        end = rows->n_rows - row < step ? rows->n_rows : row + step;
        MX_TRY(mx_rtn_rows(rows, row, end, item->quant, r->team, codes, own, err));
        MX_TRY(
            mx_rtn_noise(rows, row, end, item->quant, r->team, codes, own, &signal, &noise, err));
        MX_TRY(write_codes(r, item, codes, (end - row) * code_bytes, err));
        drop_rows(r, rows, row, end);
        MX_TRY(report_progress(r, end * rows->row_bytes, err));
    }
    return end_item(r, item, scales, signal, noise, err);
}

static mx_status write_item(run *r, const mx_quantize_item *item, mx_error *err)
{
    if (item->action == MX_ITEM_PACK || item->action == MX_ITEM_CAST) {
        return round_item(r, item, err);
    }
    MX_TRY(mx_export_begin(r->export, item->plan, err));
    MX_TRY(item->action == MX_ITEM_COPY ? copy_item(r, item, err) : expand_item(r, item, err));
    return mx_export_end(r->export, NULL, err);
}

/* ---- the run ----------------------------------------------------------------- */

static bool is_finished(const run *r, const mx_quantize_item *item, const json_t **note)
{
    return mx_export_has(r->export, item->plan, note) &&
           (item->action != MX_ITEM_PACK || mx_export_has(r->export, item->plan + 1, note));
}

/* Counts an item that an earlier run finished; false when there is none. */
static bool take_finished(run *r, const mx_quantize_item *item)
{
    const json_t *note = NULL;
    if (!is_finished(r, item, &note)) {
        return false;
    }
    if (item->action == MX_ITEM_PACK || item->action == MX_ITEM_CAST) {
        add_stats(r, item, json_number_value(json_object_get(note, "signal")),
                  json_number_value(json_object_get(note, "noise")));
    }
    r->stats.n_resumed += item->action == MX_ITEM_PACK ? 2 : 1;
    return true;
}

static mx_status write_items(run *r, mx_error *err)
{
    for (size_t i = 0; i < r->plan.n_items; i++) {
        const mx_quantize_item *item = &r->plan.items[i];
        MX_TRY(report_progress(r, 0, err));
        /* Methods with calibration are for projections: the head is rounded. */
        bool later = r->packed != NULL && item->action == MX_ITEM_PACK &&
                     mx_projection_is(item->rows.tensor->name);
        if (!take_finished(r, item) && !later) {
            MX_TRY(write_item(r, item, err));
            mx_checkpoint_drop(r->checkpoint, item->rows.tensor);
        }
        r->items_done++;
        r->bytes_done += item->rows.tensor->size;
    }
    return report_progress(r, 0, err);
}

/* ---- methods with calibration -------------------------------------------------- */

static const mx_quantize_item *packed_item(const run *r, uint32_t layer, mx_projection projection)
{
    return r->packed[(size_t)layer * MX_PROJ_COUNT + projection];
}

static bool sink_has(void *ctx, uint32_t layer, mx_projection projection)
{
    const run *r = ctx;
    return is_finished(r, packed_item(r, layer, projection), NULL);
}

static mx_status sink_load(void *ctx, uint32_t layer, mx_projection projection, uint8_t *packed,
                           mx_error *err)
{
    const run *r = ctx;
    const mx_quantize_item *item = packed_item(r, layer, projection);
    size_t code_bytes = item_code_bytes(item);
    MX_TRY(mx_export_read(r->export, item->plan, packed, code_bytes, err));
    return mx_export_read(r->export, item->plan + 1, packed + code_bytes,
                          item->bytes_out - code_bytes, err);
}

static mx_status sink_store(void *ctx, uint32_t layer, mx_projection projection,
                            const uint8_t *codes, const uint8_t *scales, mx_error *err)
{
    run *r = ctx;
    const mx_quantize_item *item = packed_item(r, layer, projection);
    const mx_rows *rows = &item->rows;
    double signal = 0, noise = 0;
    MX_TRY(mx_rtn_noise(rows, 0, rows->n_rows, item->quant, r->team, codes, scales, &signal, &noise,
                        err));
    mx_checkpoint_drop(r->checkpoint, rows->tensor);
    MX_TRY(begin_codes(r, item, err));
    MX_TRY(write_codes(r, item, codes, item_code_bytes(item), err));
    return end_item(r, item, scales, signal, noise, err);
}

/* Where each layer's projections are among the items. */
static mx_status index_packed(run *r, mx_error *err)
{
    uint32_t layers = mx_checkpoint_config(r->checkpoint)->layers;
    r->packed = calloc((size_t)layers * MX_PROJ_COUNT, sizeof *r->packed);
    if (r->packed == NULL) {
        return mx_error_nomem(err, "layers", (size_t)layers * MX_PROJ_COUNT * sizeof *r->packed);
    }
    for (size_t i = 0; i < r->plan.n_items; i++) {
        const mx_quantize_item *item = &r->plan.items[i];
        unsigned layer;
        if (item->action != MX_ITEM_PACK ||
            sscanf(item->rows.tensor->name, "model.layers.%u.", &layer) != 1 || layer >= layers) {
            continue;
        }
        for (int p = 0; p < MX_PROJ_COUNT; p++) {
            char name[96];
            mx_projection_name(layer, (mx_projection)p, name);
            size_t length = strlen(name);
            if (strncmp(item->rows.tensor->name, name, length) == 0 &&
                strcmp(item->rows.tensor->name + length, ".weight") == 0) {
                r->packed[(size_t)layer * MX_PROJ_COUNT + (size_t)p] = item;
            }
        }
    }
    return MX_OK;
}

static mx_layerwise layerwise_job(run *r)
{
    const mx_quantize_options *options = r->options;
    return (mx_layerwise){
        .model_path = r->model_path,
        .specs = r->specs,
        .method = r->method,
        .settings = mx_quantize_method_settings(options),
        .calib_path = options->calib_path,
        .samples = options->calib_samples > 0 ? options->calib_samples : MX_CALIB_SAMPLES,
        .length = options->calib_length > 0 ? options->calib_length : MX_CALIB_LENGTH,
        .seed = options->seed,
        .threads = options->threads,
        .spill_dir = r->out_dir_parent,
        .spill_limit = MX_SPILL_LIMIT,
        .watch = r->watch,
        .sink = {.ctx = r, .has = sink_has, .load = sink_load, .store = sink_store},
    };
}

/* Runs the method; its record, `method`, then tells the windows that the text held
 * rather than those asked for. */
static mx_status calibrate(run *r, json_t *method, mx_error *err)
{
    mx_layerwise job = layerwise_job(r);
    MX_TRY(mx_layerwise_run(&job, err));
    if (json_object_set_new(method, "samples", json_integer(job.windows)) != 0) {
        return mx_error_nomem(err, "method", 0);
    }
    char source[160] = "text sampled from the model itself, temperature 1", short_of[64] = "";
    if (job.calib_path != NULL) {
        snprintf(source, sizeof source, "%.100s, %llu tokens", mx_path_base(job.calib_path),
                 (unsigned long long)job.source_tokens);
    }
    if (job.windows < job.samples) {
        snprintf(short_of, sizeof short_of, ", too short for %u", job.samples);
    }
    snprintf(r->stats.calibration, sizeof r->stats.calibration,
             "calibrated on %u windows of %u tokens (%s%s), seed %llu", job.windows, job.length,
             source, short_of, (unsigned long long)job.seed);
    return MX_OK;
}

/* The one buffer of the run: a chunk of rows, and with it all scales of a weight. */
static mx_status alloc_work(run *r, mx_error *err)
{
    for (size_t i = 0; i < r->plan.n_items; i++) {
        const mx_quantize_item *item = &r->plan.items[i];
        size_t size = 0;
        const mx_rows *rows = &item->rows;
        if (item->action == MX_ITEM_EXPAND) {
            size = mx_dtype_bytes(r->plan.tensors[item->plan].dtype, rows->n_cols);
            size *= chunk_rows(rows, size);
        } else if (item->action != MX_ITEM_COPY) {
            size =
                mx_row_code_bytes(item->quant, rows->n_cols) * chunk_rows(rows, rows->row_bytes) +
                rows->n_rows * mx_row_scale_count(item->quant, rows->n_cols);
        }
        r->work_size = size > r->work_size ? size : r->work_size;
    }
    r->work = malloc(r->work_size + 1);
    return r->work != NULL ? MX_OK : mx_error_nomem(err, "quantize", r->work_size);
}

static mx_status check_request(const mx_checkpoint *checkpoint, const mx_specs *specs,
                               mx_error *err)
{
    const char *path = mx_checkpoint_path(checkpoint);
    if (mx_checkpoint_specs(checkpoint) != NULL) {
        return mx_error_set(err, MX_ERR_ARGUMENT,
                            "%s: already quantized; quantize the original checkpoint", path);
    }
    if (specs->weights.format == NULL) {
        return mx_error_set(err, MX_ERR_ARGUMENT,
                            "quantize: weights: unquantized by these settings");
    }
    if (!mx_quant_is_scaled(&specs->weights) && !mx_quant_is_none(&specs->head)) {
        return mx_error_set(err, MX_ERR_ARGUMENT,
                            "quantize: head: a plain checkpoint of %s weights cannot record a "
                            "head of %s; leave it fp32 here and give it to eval",
                            specs->weights.format->name, specs->head.format->name);
    }
    /* A plain checkpoint has no place for it, and dropping it would be silent. */
    if (!mx_quant_is_scaled(&specs->weights) && !mx_quant_is_none(&specs->activations)) {
        return mx_error_set(
            err, MX_ERR_ARGUMENT,
            "quantize: activations: a plain checkpoint of %s weights cannot record %s "
            "activations; leave them fp32 here and give them to eval",
            specs->weights.format->name, specs->activations.format->name);
    }
    return MX_OK;
}

/* Refuses an output folder that is, or holds, the source: replacing it would
 * remove what is being read. */
static mx_status check_apart(const char *model_path, const char *out_dir, mx_error *err)
{
    char *source = realpath(model_path, NULL);
    char *target = realpath(out_dir, NULL);
    bool same = false;
    if (source != NULL && target != NULL) {
        size_t length = strlen(target);
        same = strncmp(source, target, length) == 0 &&
               (source[length] == '\0' || source[length] == '/');
    }
    free(source);
    free(target);
    if (same) {
        return mx_error_set(err, MX_ERR_ARGUMENT, "%s: the output would replace the model %s",
                            out_dir, model_path);
    }
    return MX_OK;
}

static mx_status run_export(run *r, const char *out_dir, const mx_export_options *options,
                            mx_error *err)
{
    json_t *settings = NULL;
    json_t *method = NULL;
    mx_status status;
    MX_TRY_GOTO(status, mx_quantize_method_json(r->method, r->options, &method, err));
    MX_TRY_GOTO(status, mx_quantize_settings(r->checkpoint, r->specs, method,
                                             r->options->calib_path, &settings, err));
    MX_TRY_GOTO(status, mx_export_open(out_dir, r->plan.tensors, r->plan.n_tensors, settings,
                                       options, &r->export, err));
    /* A tokenizer that cannot be written fails the run before the long part. */
    MX_TRY_GOTO(status, mx_quantize_write_tokenizer(r->checkpoint, r->export, err));
    MX_TRY_GOTO(status, write_items(r, err));
    if (r->packed != NULL) {
        MX_TRY_GOTO(status, calibrate(r, method, err));
    }
    /* Last: a folder without it does not open as a model. */
    MX_TRY_GOTO(status, mx_quantize_write_config(r->checkpoint, r->specs, method, r->export, err));
    status = mx_export_commit(r->export, err);
done:
    json_decref(settings);
    json_decref(method);
    return status;
}

static mx_status check_correct(const run *r, mx_error *err)
{
    float correct = r->options->correct;
    if (!(correct >= 0 && correct <= 1)) {
        return mx_error_set(err, MX_ERR_ARGUMENT, "quantize: correct: %g is not in [0, 1]",
                            (double)correct);
    }
    if (correct > 0 && !r->method->corrects) {
        return mx_error_set(err, MX_ERR_ARGUMENT,
                            "quantize: correct: method %s makes up for no errors but its own; "
                            "gptq and blockwise do",
                            r->method->name);
    }
    return MX_OK;
}

/* Takes the method, and what it needs beside round-to-nearest. */
static mx_status prepare_method(run *r, const char *out_dir, mx_error *err)
{
    MX_TRY(
        mx_method_find(r->options->method != NULL ? r->options->method : "rtn", &r->method, err));
    r->stats.method = r->method->name;
    MX_TRY(check_correct(r, err));
    if (r->method->quantize == NULL) {
        return MX_OK;
    }
    if (!mx_quant_is_scaled(&r->specs->weights)) {
        return mx_error_set(err, MX_ERR_ARGUMENT,
                            "quantize: method %s needs weights with shared scales, not %s",
                            r->method->name, r->specs->weights.format->name);
    }
    MX_TRY(mx_method_check_rounding(&r->specs->weights, err));
    /* Beside DIR: the file system that is to hold the result. */
    size_t length = strlen(out_dir);
    while (length > 0 && out_dir[length - 1] == '/') {
        length--;
    }
    while (length > 0 && out_dir[length - 1] != '/') {
        length--;
    }
    r->out_dir_parent = length > 0 ? mx_str_copy(out_dir, length) : mx_str_copy(".", 1);
    return r->out_dir_parent != NULL ? index_packed(r, err) : mx_error_nomem(err, out_dir, length);
}

mx_status mx_quantize_write(const char *model_path, const char *out_dir, const mx_specs *specs,
                            const mx_quantize_options *options, uint64_t shard_bytes,
                            mx_watch watch, char **summary, mx_error *err)
{
    mx_checkpoint *checkpoint = NULL;
    run r = {.specs = specs,
             .watch = watch,
             .options = options,
             .model_path = model_path,
             .start = mx_clock_seconds()};
    mx_export_options export_options = {
        .resume = options->resume, .overwrite = options->overwrite, .shard_bytes = shard_bytes};
    mx_status status;
    if (summary != NULL) {
        *summary = NULL;
    }
    MX_TRY_GOTO(status, check_apart(model_path, out_dir, err));
    MX_TRY_GOTO(status, mx_checkpoint_open(model_path, &checkpoint, err));
    MX_TRY_GOTO(status, check_request(checkpoint, specs, err));
    r.checkpoint = checkpoint;
    MX_TRY_GOTO(status, mx_team_create(options->threads, &r.team, err));
    MX_TRY_GOTO(status, mx_quantize_plan_init(&r.plan, checkpoint, specs, r.team, err));
    MX_TRY_GOTO(status, alloc_work(&r, err));
    MX_TRY_GOTO(status, prepare_method(&r, out_dir, err));
    MX_TRY_GOTO(status, run_export(&r, out_dir, &export_options, err));
    r.stats.seconds = mx_clock_seconds() - r.start;
    if (summary != NULL) {
        status = mx_quantize_report(&r.plan, &r.stats, specs, r.export, out_dir, summary, err);
    }
done:
    /* What a stopped run or a full disk left can be resumed; bad data cannot. */
    mx_export_close(r.export, status == MX_ERR_CANCELLED || status == MX_ERR_IO);
    free(r.work);
    free(r.packed);
    free(r.out_dir_parent);
    mx_quantize_plan_clear(&r.plan);
    mx_team_free(r.team);
    mx_checkpoint_close(checkpoint);
    return status;
}

mx_status mx_quantize_run(const char *model_path, const char *out_dir, const mx_specs *specs,
                          const mx_quantize_options *options, mx_watch watch, char **summary,
                          mx_error *err)
{
    return mx_quantize_write(model_path, out_dir, specs, options, 0, watch, summary, err);
}
