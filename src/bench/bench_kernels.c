/* Products with the projections' weights, by shape and number of tokens. */
#include "bench/bench_impl.h"

#include "base/clock.h"
#include "base/rng.h"
#include "kernel/block_pair.h"
#include "model/random_model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    BASELINE_BYTES = 64 * 1024 * 1024, /* of the bf16 copies of one shape */
    FEW_TOKENS = 16,                   /* up to here a product is about reading weights */
    SEED = 1,
};
static const double run_seconds = 0.03, quick_seconds = 0.01;
static const uint32_t token_counts[] = {1, 4, 16, 128, 512};
static const uint32_t quick_token_counts[] = {1, 512};
static const char *const projection_names[MX_PROJ_COUNT] = {"q",    "k",  "v",   "o",
                                                            "gate", "up", "down"};

/* ---- weights ----------------------------------------------------------------- */

static mx_bench_weights *find_shape(mx_bench *bench, const mx_matrix *matrix)
{
    for (size_t i = 0; i < bench->n_weights; i++) {
        const mx_matrix *first = bench->weights[i].matrices[0];
        if (first->n_rows == matrix->n_rows && first->n_cols == matrix->n_cols) {
            return &bench->weights[i];
        }
    }
    return NULL;
}

/* All layers' matrices of a projection join those of their shape. */
static mx_status add_projection(mx_bench *bench, mx_projection projection, mx_error *err)
{
    const mx_model *model = bench->model;
    size_t layers = model->config.layers;
    mx_bench_weights *weights = find_shape(bench, &model->layers[0].projections[projection]);
    if (weights == NULL) {
        weights = &bench->weights[bench->n_weights];
        weights->matrices = calloc(layers * MX_PROJ_COUNT, sizeof *weights->matrices);
        if (weights->matrices == NULL) {
            return mx_error_nomem(err, "bench", layers * sizeof *weights->matrices);
        }
        bench->n_weights++;
    } else {
        strcat(weights->name, " ");
    }
    strcat(weights->name, projection_names[projection]); /* all seven fit */
    for (size_t layer = 0; layer < layers; layer++) {
        const mx_matrix *matrix = &model->layers[layer].projections[projection];
        weights->matrices[weights->count++] = matrix;
        weights->quantized |=
            matrix->kind != MX_MATRIX_STORED || !mx_quant_is_none(&matrix->activations);
    }
    return MX_OK;
}

/* The fp32 baseline of a shape: bf16 weights, inputs as they are. */
static mx_status add_baseline(mx_bench *bench, size_t index, mx_error *err)
{
    const mx_bench_weights *like = &bench->weights[index];
    mx_bench_weights *weights = &bench->weights[bench->n_weights++];
    memcpy(weights->name, like->name, sizeof weights->name);
    size_t rows = like->matrices[0]->n_rows, cols = like->matrices[0]->n_cols;
    size_t count = BASELINE_BYTES / (2 * rows * cols) + 1;
    count = count < like->count ? count : like->count;
    mx_quant bf16 = {.format = mx_format_find("bf16")};
    weights->owned = calloc(count, sizeof *weights->owned);
    weights->matrices = calloc(count, sizeof *weights->matrices);
    if (weights->owned == NULL || weights->matrices == NULL) {
        return mx_error_nomem(err, "bench", count * sizeof *weights->owned);
    }
    for (size_t i = 0; i < count; i++) {
        MX_TRY(mx_matrix_random(&bf16, rows, cols, SEED, (uint32_t)i, bench->model->backend.team,
                                &weights->owned[i], err));
        weights->matrices[i] = &weights->owned[i];
        weights->count++;
    }
    return MX_OK;
}

static mx_status make_weights(mx_bench *bench, mx_error *err)
{
    bench->weights = calloc(2 * MX_PROJ_COUNT, sizeof *bench->weights);
    if (bench->weights == NULL) {
        return mx_error_nomem(err, "bench", MX_PROJ_COUNT * sizeof *bench->weights);
    }
    for (int p = 0; p < MX_PROJ_COUNT; p++) {
        MX_TRY(add_projection(bench, (mx_projection)p, err));
    }
    size_t shapes = bench->n_weights;
    for (size_t i = 0; i < shapes; i++) {
        if (bench->weights[i].quantized) {
            MX_TRY(add_baseline(bench, i, err));
        }
    }
    return MX_OK;
}

static size_t largest(size_t a, size_t b)
{
    return a > b ? a : b;
}

static uint8_t *allocate(size_t bytes)
{
    return aligned_alloc(64, (bytes + 63) / 64 * 64 + 64);
}

/* Scratch for any product of the plan; x is uniform in +-1. */
static mx_status make_scratch(mx_bench *bench, size_t tokens, mx_error *err)
{
    size_t rows = 0, cols = 0, operand = 0, product = 0;
    const mx_backend *backend = &bench->model->backend;
    for (size_t i = 0; i < bench->n_weights; i++) {
        for (size_t j = 0; j < bench->weights[i].count; j++) {
            const mx_matrix *matrix = bench->weights[i].matrices[j];
            rows = largest(rows, matrix->n_rows);
            cols = largest(cols, matrix->n_cols);
            operand = largest(operand, mx_operand_bytes(backend, matrix, tokens));
            product = largest(product, mx_product_bytes(backend, matrix));
        }
    }
    bench->x = (float *)(void *)allocate(tokens * cols * sizeof(float));
    bench->out = (float *)(void *)allocate(tokens * rows * sizeof(float));
    bench->operand_scratch = allocate(operand);
    bench->product_scratch = allocate(product);
    if (bench->x == NULL || bench->out == NULL || bench->operand_scratch == NULL ||
        bench->product_scratch == NULL) {
        return mx_error_nomem(err, "bench: products", tokens * (rows + cols) * sizeof(float));
    }
    for (size_t i = 0; i < tokens * cols; i++) {
        int32_t random = (int32_t)mx_philox_u32(SEED, 0, i);
        bench->x[i] = (float)random * 0x1p-31f;
    }
    return MX_OK;
}

void mx_bench_free_kernels(mx_bench *bench)
{
    for (size_t i = 0; i < bench->n_weights; i++) {
        mx_bench_weights *weights = &bench->weights[i];
        for (size_t j = 0; weights->owned != NULL && j < weights->count; j++) {
            mx_matrix_clear(&weights->owned[j]);
        }
        free(weights->owned);
        free(weights->matrices);
    }
    free(bench->weights);
    free(bench->x);
    free(bench->out);
    free(bench->operand_scratch);
    free(bench->product_scratch);
}

/* ---- runs -------------------------------------------------------------------- */

static void prepare(mx_bench *bench, const mx_matrix *matrix, uint32_t tokens, mx_operand *operand)
{
    static const uint64_t streams[512]; /* dithering: any stream does */
    operand->ready = false;
    mx_operand_source source = {.x = bench->x, .n_tokens = tokens, .streams = streams};
    mx_operand_prepare(&bench->model->backend, matrix, &source, bench->operand_scratch, operand);
}

static double seconds_wanted(const mx_bench *bench)
{
    return bench->options->quick ? quick_seconds : run_seconds;
}

static mx_status run_product(mx_bench *bench, const mx_bench_row *row, double *seconds,
                             mx_error *err)
{
    (void)err;
    mx_backend *backend = &bench->model->backend;
    const mx_bench_weights *weights = row->weights;
    /* Few tokens: whole passes over all matrices, the first one not counted, so
     * that caches hold what they hold in decoding. */
    size_t pass = row->tokens <= FEW_TOKENS ? weights->count : 1, n = 0;
    mx_operand operand;
    prepare(bench, weights->matrices[0], row->tokens, &operand);
    double start = 0, elapsed = 0;
    for (bool warm = true; warm || elapsed < seconds_wanted(bench); warm = false) {
        for (size_t i = 0; i < pass; i++, n++) {
            mx_matrix_product(backend, weights->matrices[n % weights->count], &operand,
                              bench->product_scratch, bench->out);
        }
        if (warm) {
            n = 0;
            start = mx_clock_seconds();
        }
        elapsed = mx_clock_seconds() - start;
        *seconds = elapsed / (double)(n > 0 ? n : 1);
    }
    return MX_OK;
}

static mx_status run_quantize(mx_bench *bench, const mx_bench_row *row, double *seconds,
                              mx_error *err)
{
    (void)err;
    mx_operand operand;
    size_t n = 0;
    prepare(bench, row->weights->matrices[0], row->tokens, &operand);
    double start = mx_clock_seconds(), elapsed = 0;
    do {
        prepare(bench, row->weights->matrices[0], row->tokens, &operand);
        elapsed = mx_clock_seconds() - start;
    } while (n++, elapsed < seconds_wanted(bench));
    *seconds = elapsed / (double)n;
    return MX_OK;
}

/* ---- plan -------------------------------------------------------------------- */

/* What a product is called: by its arithmetic. */
static const char *product_name(const mx_bench_weights *weights)
{
    const mx_matrix *matrix = weights->matrices[0];
    if (matrix->kind != MX_MATRIX_PANELS) {
        return weights->quantized ? "codes fp32" : "fp32";
    }
    return mx_block_pair_is_int(&matrix->weights, &matrix->activations) ? "int" : "minifloat";
}

static mx_status add_product(mx_bench *bench, const mx_bench_weights *weights, uint32_t threads,
                             uint32_t tokens, mx_error *err)
{
    const mx_matrix *matrix = weights->matrices[0];
    mx_bench_row row = {
        .section = "kernel",
        .threads = threads,
        .tokens = tokens,
        .unit = "GMAC/s",
        .amount = (double)matrix->n_rows * (double)matrix->n_cols * tokens / 1e9,
        .run = run_product,
        .weights = weights,
        .work = {.working_set = (size_t)matrix->stored_bytes * weights->count},
    };
    mx_bench_add_matrix(bench, matrix, tokens, &row.work);
    snprintf(row.name, sizeof row.name, "%s %zux%zu %s", product_name(weights), matrix->n_rows,
             matrix->n_cols, weights->name);
    return mx_bench_add(bench, &row, NULL, err);
}

/* Making the operand of a shape: once for q, k, v and once for gate, up. */
static mx_status add_quantize(mx_bench *bench, const mx_bench_weights *weights, uint32_t threads,
                              uint32_t tokens, mx_error *err)
{
    const mx_matrix *matrix = weights->matrices[0];
    double elements = (double)matrix->n_cols * tokens;
    mx_bench_row row = {
        .section = "kernel",
        .threads = threads,
        .tokens = tokens,
        .unit = "Gelem/s",
        .amount = elements / 1e9,
        .run = run_quantize,
        .weights = weights,
    };
    snprintf(row.name, sizeof row.name, "quantize inputs of %zux%zu %s", matrix->n_rows,
             matrix->n_cols, weights->name);
    return mx_bench_add(bench, &row, NULL, err);
}

mx_status mx_bench_plan_kernels(mx_bench *bench, mx_error *err)
{
    if (!mx_bench_wants(bench, "kernel")) {
        return MX_OK;
    }
    bool quick = bench->options->quick;
    const uint32_t *tokens = quick ? quick_token_counts : token_counts;
    size_t n_tokens = quick ? MX_COUNT(quick_token_counts) : MX_COUNT(token_counts);
    uint32_t most = tokens[n_tokens - 1];
    MX_TRY(make_weights(bench, err));
    MX_TRY(make_scratch(bench, most, err));
    for (uint32_t c = 0; c < bench->n_counts; c++) {
        for (size_t i = 0; i < bench->n_weights; i++) {
            const mx_bench_weights *weights = &bench->weights[i];
            for (size_t t = 0; t < n_tokens; t++) {
                MX_TRY(add_product(bench, weights, bench->counts[c], tokens[t], err));
            }
            if (!mx_quant_is_none(&weights->matrices[0]->activations)) {
                MX_TRY(add_quantize(bench, weights, bench->counts[c], most, err));
            }
        }
    }
    return MX_OK;
}
