/* Random weights, generated straight into their packed form. */
#include "model/random_model.h"

#include "base/rng.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- one matrix ------------------------------------------------------------ */

/* Rows draw from streams of their own, codes and scales from halves of them. */
static const uint64_t stream_scales = UINT64_C(1) << 31;

typedef struct fill_job {
    const mx_quant *quant;
    size_t n_cols, code_bytes, n_scales;
    uint64_t seed, first_stream;
    int exponent;       /* of the shared scales, on average */
    float amplitude;    /* PLAIN: values are uniform in +- this */
    uint8_t valid[256]; /* finite codes that encoding can give */
    size_t n_valid;
    uint8_t *codes;  /* [rows][code_bytes] */
    uint8_t *scales; /* [rows][n_scales] */
} fill_job;

static void random_bytes(uint64_t seed, uint64_t stream, uint64_t counter, uint8_t *out, size_t n)
{
    for (size_t i = 0; i < n; i += 16, counter++) {
        uint32_t four[4];
        mx_philox(seed, stream, counter, four);
        memcpy(out + i, four, n - i < 16 ? n - i : 16);
    }
}

enum { CHUNK = 1024 }; /* elements made at a time; whole bytes for any code width */

/* Formats such as fp8 have NaN codes, and int8 a -128 that encoding never gives:
 * there each code is drawn from the list of the others. */
static void fill_codes(const fill_job *job, uint64_t stream, uint8_t *row)
{
    unsigned bits = job->quant->format->bits;
    if (job->n_valid == (size_t)1 << bits) {
        random_bytes(job->seed, stream, 0, row, job->code_bytes);
        unsigned used = (unsigned)(job->n_cols * bits % 8);
        if (used != 0) { /* padding bits are zero by contract */
            row[job->code_bytes - 1] &= (uint8_t)((1u << used) - 1);
        }
        return;
    }
    uint8_t codes[CHUNK];
    for (size_t at = 0; at < job->n_cols; at += CHUNK) {
        size_t n = job->n_cols - at < CHUNK ? job->n_cols - at : CHUNK;
        random_bytes(job->seed, stream, at / 16, codes, n);
        for (size_t i = 0; i < n; i++) {
            codes[i] = job->valid[codes[i] * job->n_valid >> 8];
        }
        mx_codes_pack(codes, n, bits, row + at * bits / 8);
    }
}

static void fill_scales(const fill_job *job, uint64_t stream, uint8_t *row)
{
    random_bytes(job->seed, stream | stream_scales, 0, row, job->n_scales);
    for (size_t i = 0; i < job->n_scales; i++) {
        int byte = MX_E8M0_BIAS + job->exponent + row[i] % 3 - 1;
        row[i] = (uint8_t)byte;
    }
}

static void fill_plain(const fill_job *job, uint64_t stream, uint8_t *row)
{
    int16_t random[CHUNK];
    float values[CHUNK];
    size_t element = job->quant->format->bits / 8;
    for (size_t at = 0; at < job->n_cols; at += CHUNK) {
        size_t n = job->n_cols - at < CHUNK ? job->n_cols - at : CHUNK;
        random_bytes(job->seed, stream, at / 8, (uint8_t *)random, n * sizeof random[0]);
        for (size_t i = 0; i < n; i++) {
            values[i] = (float)random[i] * (job->amplitude / 32768);
        }
        mx_row_encode(job->quant, values, n, stream, row + at * element, NULL);
    }
}

static void fill_range(void *ctx, size_t begin, size_t end, int thread)
{
    (void)thread;
    const fill_job *job = ctx;
    for (size_t r = begin; r < end; r++) {
        uint64_t stream = job->first_stream + r;
        if (mx_quant_is_scaled(job->quant)) {
            fill_codes(job, stream, job->codes + r * job->code_bytes);
            fill_scales(job, stream, job->scales + r * job->n_scales);
        } else {
            fill_plain(job, stream, job->codes + r * job->code_bytes);
        }
    }
}

/* The codes to draw from, and the exponent that gives weights of the size `rms`. */
static void plan_codes(fill_job *job, double rms)
{
    const mx_format *format = job->quant->format;
    double squares = 0;
    for (uint32_t code = 0; code < 1u << format->bits; code++) {
        float value = format->decode(format, code);
        if (isfinite(value) && fabsf(value) <= format->max) {
            job->valid[job->n_valid++] = (uint8_t)code;
            squares += (double)value * value;
        }
    }
    job->exponent = (int)lrint(log2(rms / sqrt(squares / (double)job->n_valid)));
}

/* A malloc'd block: codes, then scales. */
static mx_status fill(const mx_quant *quant, size_t n_rows, size_t n_cols, uint64_t seed,
                      uint32_t id, mx_team *team, uint8_t **out, mx_error *err)
{
    fill_job job = {
        .quant = quant,
        .n_cols = n_cols,
        .code_bytes = mx_row_code_bytes(quant, n_cols),
        .n_scales = mx_row_scale_count(quant, n_cols),
        .seed = seed,
        .first_stream = (uint64_t)id << 32,
        .amplitude = (float)sqrt(3.0 / (double)n_cols),
    };
    if (mx_quant_is_scaled(quant)) {
        plan_codes(&job, 1 / sqrt((double)n_cols));
    }
    size_t bytes = n_rows * (job.code_bytes + job.n_scales);
    *out = malloc(bytes);
    if (*out == NULL) {
        return mx_error_nomem(err, "random weights", bytes);
    }
    job.codes = *out;
    job.scales = *out + n_rows * job.code_bytes;
    mx_team_for(team, n_rows, 16, fill_range, &job);
    return MX_OK;
}

mx_status mx_matrix_random(const mx_quant *quant, size_t n_rows, size_t n_cols, uint64_t seed,
                           uint32_t id, mx_team *team, mx_matrix *out, mx_error *err)
{
    *out = (mx_matrix){0};
    if (quant->format == NULL) {
        return mx_error_set(err, MX_ERR_ARGUMENT, "random weights: a format is needed");
    }
    uint8_t *codes;
    MX_TRY(fill(quant, n_rows, n_cols, seed, id, team, &codes, err));
    size_t code_bytes = mx_row_code_bytes(quant, n_cols);
    *out = (mx_matrix){
        .n_rows = n_rows,
        .n_cols = n_cols,
        .data = codes,
        .row_bytes = code_bytes,
        .owned = codes,
        .stored_bytes = n_rows * (code_bytes + mx_row_scale_count(quant, n_cols)),
    };
    if (mx_quant_is_scaled(quant)) {
        out->kind = MX_MATRIX_CODES;
        out->scales = codes + n_rows * code_bytes;
        out->weights = *quant;
    } else {
        const mx_format *format = quant->format;
        out->kind = MX_MATRIX_STORED;
        out->dtype = format->bits == 32           ? MX_DTYPE_F32
                     : format->exponent_bits == 8 ? MX_DTYPE_BF16
                                                  : MX_DTYPE_F16;
    }
    return MX_OK;
}

/* ---- a model --------------------------------------------------------------- */

static mx_quant quant_bf16(void)
{
    return (mx_quant){.format = mx_format_find("bf16")};
}

static mx_quant projection_quant(const mx_model *model, const char *module)
{
    const mx_quant *weights = &model->specs.weights;
    bool quantized = !mx_quant_is_none(weights) && !mx_specs_excludes(&model->specs, module);
    return quantized ? *weights : quant_bf16();
}

static mx_status random_projection(mx_model *model, uint32_t layer, mx_projection projection,
                                   uint64_t seed, mx_error *err)
{
    char module[96];
    mx_projection_name(layer, projection, module);
    mx_quant quant = projection_quant(model, module);
    mx_matrix *matrix = &model->layers[layer].projections[projection];
    size_t rows, cols;
    mx_projection_shape(&model->config, projection, &rows, &cols);
    uint32_t id = layer * MX_PROJ_COUNT + (uint32_t)projection + 2;
    uint8_t *codes;
    MX_TRY(fill(&quant, rows, cols, seed, id, model->backend.team, &codes, err));
    matrix->n_rows = rows;
    matrix->n_cols = cols;
    return mx_model_set_projection(model, layer, projection, &quant, codes,
                                   rows * mx_row_code_bytes(&quant, cols), err);
}

static mx_status ones(size_t n, float **out, mx_error *err)
{
    *out = malloc(n * sizeof(float));
    if (*out == NULL) {
        return mx_error_nomem(err, "norm", n * sizeof(float));
    }
    for (size_t i = 0; i < n; i++) {
        (*out)[i] = 1;
    }
    return MX_OK;
}

static mx_status random_weights(mx_model *model, uint64_t seed, mx_error *err)
{
    const mx_llama_config *config = &model->config;
    mx_team *team = model->backend.team;
    mx_quant bf16 = quant_bf16();
    model->layers = calloc(config->layers, sizeof *model->layers);
    if (model->layers == NULL) {
        return mx_error_nomem(err, "layers", config->layers * sizeof *model->layers);
    }
    for (uint32_t layer = 0; layer < config->layers; layer++) {
        for (int p = 0; p < MX_PROJ_COUNT; p++) {
            MX_TRY(random_projection(model, layer, (mx_projection)p, seed, err));
        }
        MX_TRY(ones(config->hidden, &model->layers[layer].attention_norm, err));
        MX_TRY(ones(config->hidden, &model->layers[layer].mlp_norm, err));
    }
    MX_TRY(ones(config->hidden, &model->final_norm, err));
    const mx_quant *head = mx_quant_is_none(&model->specs.head) ? &bf16 : &model->specs.head;
    const mx_quant *embedding = config->tied ? head : &bf16;
    MX_TRY(mx_matrix_random(embedding, config->vocab, config->hidden, seed, 0, team,
                            &model->embedding, err));
    if (!config->tied) {
        return mx_matrix_random(head, config->vocab, config->hidden, seed, 1, team, &model->head,
                                err);
    }
    if (model->embedding.kind == MX_MATRIX_CODES) {
        model->head = model->embedding;
        model->head.owned = NULL; /* as of a file, whose codes become panels */
    }
    return MX_OK;
}

/* Bytes of all matrices at most: bf16, or the weight format's. */
static double weights_bytes(const mx_model *model)
{
    const mx_llama_config *config = &model->config;
    double weights = 0;
    for (int p = 0; p < MX_PROJ_COUNT; p++) {
        size_t rows, cols;
        mx_projection_shape(config, (mx_projection)p, &rows, &cols);
        weights += (double)rows * (double)cols;
    }
    mx_quant quant = projection_quant(model, "");
    double element = (quant.format->bits + 0.25) / 8; /* and its share of a scale */
    /* Two at most: embedding and head, or a tied head's codes and panels. */
    double table = 2.0 * config->vocab * config->hidden;
    bool one = config->tied && mx_quant_is_none(&model->specs.head);
    return weights * config->layers * element + table * (one ? 1 : 2);
}

static mx_status check_memory(const mx_model *model, mx_error *err)
{
    double need = weights_bytes(model);
    double have = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
    if (need > have) {
        return mx_error_set(err, MX_ERR_UNSUPPORTED,
                            "random weights: this config takes %.1f GB, the machine has %.1f GB",
                            need / 1e9, have / 1e9);
    }
    return MX_OK;
}

mx_status mx_model_random(const mx_llama_config *config, const mx_specs *specs, uint64_t seed,
                          int threads, mx_model **out, mx_error *err)
{
    *out = NULL;
    mx_model *model = calloc(1, sizeof *model);
    if (model == NULL) {
        return mx_error_nomem(err, "model", sizeof *model);
    }
    mx_status status;
    model->config = *config;
    model->config.attention_bias = model->config.mlp_bias = false; /* no part in the work */
    if (specs != NULL) {
        MX_TRY_GOTO(status, mx_specs_copy(specs, &model->specs, err));
    }
    MX_TRY_GOTO(status, check_memory(model, err));
    MX_TRY_GOTO(status, mx_backend_init(&model->backend, threads, err));
    MX_TRY_GOTO(status, random_weights(model, seed, err));
    *out = model;
    model = NULL;
done:
    mx_model_close(model);
    return status;
}
