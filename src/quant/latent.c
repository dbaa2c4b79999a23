#include "quant/latent.h"

#include "base/rng.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ROW_GRAIN = 8, GRID_SIZE = 256, START_SEED = 7 };

/* Adam's decays: of the mean shorter than usual runs are long, and of the squares
 * too, since a layer has some hundred steps. */
static const float mean_decay = 0.9F, square_decay = 0.95F;
/* A number starts within this share of its cell, so that rounding it again is no
 * matter of ties. */
static const double cell_share = 0.98;

typedef struct latent_job {
    mx_latent *latent;
    const float *original; /* [n_rows][n_cols] */
    const uint8_t *packed;
    uint8_t *packed_out;
    uint8_t *row; /* [threads][n_cols]: codes */
    size_t code_bytes;
    float grid[GRID_SIZE]; /* the format's values, ascending */
    int n_grid;
    float rate, mean_scale, square_scale;
} latent_job;

static float block_scale(const mx_latent *latent, size_t row, size_t col)
{
    return mx_e8m0_decode(latent->scales[row * latent->n_scales + col / latent->block]);
}

/* ---- start ---------------------------------------------------------------------- */

static int compare_floats(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static void make_grid(const mx_format *format, latent_job *job)
{
    float values[GRID_SIZE];
    int n = 0;
    for (uint32_t code = 0; code < 1u << format->bits; code++) {
        float value = format->decode(format, code);
        if (isfinite(value)) {
            values[n++] = value + 0.0F; /* -0 to +0 */
        }
    }
    qsort(values, (size_t)n, sizeof *values, compare_floats);
    for (int i = 0; i < n; i++) {
        if (i == 0 || values[i] > values[i - 1]) {
            job->grid[job->n_grid++] = values[i];
        }
    }
}

/* u, or where it lies outside of the cell of the grid's value v: a number on its side
 * of the cell, `share` of the way from v to the edge. */
static double into_cell(const latent_job *job, double u, float v, double share)
{
    const float *found =
        bsearch(&v, job->grid, (size_t)job->n_grid, sizeof *job->grid, compare_floats);
    size_t i = (size_t)(found - job->grid);
    double below = i > 0 ? ((double)v - job->grid[i - 1]) / 2 * cell_share : 0;
    double above =
        i + 1 < (size_t)job->n_grid ? ((double)job->grid[i + 1] - v) / 2 * cell_share : 0;
    if (u > v + above) {
        return v + share * above;
    }
    return u < v - below ? v - share * below : u;
}

static void start_range(void *ctx, size_t begin, size_t end, int thread)
{
    const latent_job *job = ctx;
    const mx_latent *latent = job->latent;
    const mx_format *format = latent->quant->format;
    uint8_t *codes = job->row + (size_t)thread * latent->n_cols;
    for (size_t row = begin; row < end; row++) {
        mx_codes_unpack(job->packed + row * job->code_bytes, latent->n_cols, format->bits, codes);
        for (size_t col = 0; col < latent->n_cols; col++) {
            size_t i = row * latent->n_cols + col;
            double scale = (double)block_scale(latent, row, col);
            float value = format->decode(format, codes[col]) + 0.0F;
            double share = mx_philox_u32(START_SEED, row, col) * 0x1p-32;
            latent->weights[i] =
                (float)(into_cell(job, (double)job->original[i] / scale, value, share) * scale);
        }
    }
}

mx_status mx_latent_init(mx_latent *latent, const mx_quant *quant, size_t n_rows, size_t n_cols,
                         const float *original, const uint8_t *codes, const uint8_t *scales,
                         mx_team *team, mx_error *err)
{
    size_t count = n_rows * n_cols, threads = team != NULL ? (size_t)mx_team_size(team) : 1;
    *latent = (mx_latent){.quant = quant,
                          .n_rows = n_rows,
                          .n_cols = n_cols,
                          .block = mx_quant_block(quant, n_cols),
                          .n_scales = mx_row_scale_count(quant, n_cols),
                          .scales = scales};
    latent_job job = {.latent = latent,
                      .original = original,
                      .packed = codes,
                      .code_bytes = mx_row_code_bytes(quant, n_cols)};
    latent->arena = calloc(5 * count, sizeof *latent->arena);
    job.row = malloc(threads * n_cols);
    if (latent->arena == NULL || job.row == NULL) {
        free(job.row);
        mx_latent_clear(latent);
        return mx_error_nomem(err, "weights under training", 5 * count * sizeof(float));
    }
    latent->weights = latent->arena;
    latent->values = latent->arena + count;
    latent->gradient = latent->arena + 2 * count;
    latent->mean = latent->arena + 3 * count;
    latent->mean_square = latent->arena + 4 * count;
    mx_codec_init(quant->format, &latent->codec);
    make_grid(quant->format, &job);
    mx_team_for(team, n_rows, ROW_GRAIN, start_range, &job);
    free(job.row);
    return MX_OK;
}

void mx_latent_clear(mx_latent *latent)
{
    free(latent->arena);
    *latent = (mx_latent){0};
}

/* ---- rounding ------------------------------------------------------------------- */

/* Rounds n weights that share a scale; the arithmetic of mx_method_round. */
static void round_fast(const mx_latent *latent, const float *weights, float scale, size_t n,
                       float *values)
{
    float inverse = 1 / scale;
    for (size_t i = 0; i < n; i++) {
        int32_t code = mx_codec_magnitude(&latent->codec, fabsf(weights[i]) * inverse,
                                          latent->quant->round, 0);
        code = code < latent->codec.max_code ? code : latent->codec.max_code;
        values[i] = copysignf(mx_codec_value(&latent->codec, code) * scale, weights[i]);
    }
}

static void round_range(void *ctx, size_t begin, size_t end, int thread)
{
    (void)thread;
    const latent_job *job = ctx;
    const mx_latent *latent = job->latent;
    size_t n_cols = latent->n_cols;
    bool fast = latent->codec.known && !latent->codec.integer;
    for (size_t row = begin; row < end; row++) {
        for (size_t col = 0; col < n_cols; col += latent->block) {
            size_t i = row * n_cols + col;
            size_t n = n_cols - col < latent->block ? n_cols - col : latent->block;
            uint8_t scale = latent->scales[row * latent->n_scales + col / latent->block];
            /* The ends of E8M0, whose inverses fp32 does not hold well, go the long way. */
            if (fast && scale > 2 && scale < 252) {
                round_fast(latent, latent->weights + i, mx_e8m0_decode(scale), n,
                           latent->values + i);
                continue;
            }
            for (size_t j = i; j < i + n; j++) {
                double value;
                mx_method_round(latent->quant, (double)latent->weights[j], scale, &value);
                latent->values[j] = (float)value;
            }
        }
    }
}

void mx_latent_round(mx_latent *latent, mx_team *team)
{
    latent_job job = {.latent = latent};
    mx_team_for(team, latent->n_rows, ROW_GRAIN, round_range, &job);
}

static void codes_range(void *ctx, size_t begin, size_t end, int thread)
{
    (void)thread;
    const latent_job *job = ctx;
    const mx_latent *latent = job->latent;
    const mx_quant *quant = latent->quant;
    for (size_t row = begin; row < end; row++) {
        uint8_t *packed = job->packed_out + row * job->code_bytes;
        memset(packed, 0, job->code_bytes);
        for (size_t col = 0; col < latent->n_cols; col++) {
            double value;
            uint8_t scale = latent->scales[row * latent->n_scales + col / latent->block];
            uint32_t code = mx_method_round(
                quant, (double)latent->weights[row * latent->n_cols + col], scale, &value);
            size_t bit = col * quant->format->bits;
            code <<= bit % 8;
            packed[bit / 8] |= (uint8_t)code;
            if (code > 0xFF) {
                packed[bit / 8 + 1] |= (uint8_t)(code >> 8);
            }
        }
    }
}

void mx_latent_codes(const mx_latent *latent, mx_team *team, uint8_t *codes)
{
    /* The job is shared with loops that write. */
    mx_latent borrowed = *latent;
    latent_job job = {.latent = &borrowed,
                      .packed_out = codes,
                      .code_bytes = mx_row_code_bytes(latent->quant, latent->n_cols)};
    mx_team_for(team, latent->n_rows, ROW_GRAIN, codes_range, &job);
}

/* ---- steps ------------------------------------------------------------------------ */

static void step_range(void *ctx, size_t begin, size_t end, int thread)
{
    (void)thread;
    const latent_job *job = ctx;
    const mx_latent *latent = job->latent;
    for (size_t row = begin; row < end; row++) {
        for (size_t col = 0; col < latent->n_cols; col++) {
            size_t i = row * latent->n_cols + col;
            float scale = block_scale(latent, row, col), g = latent->gradient[i];
            float most = latent->quant->format->max * scale;
            float mean = mean_decay * latent->mean[i] + (1 - mean_decay) * g;
            float square = square_decay * latent->mean_square[i] + (1 - square_decay) * (g * g);
            latent->mean[i] = mean;
            latent->mean_square[i] = square;
            float move = mean * job->mean_scale / (sqrtf(square * job->square_scale) + 1e-15F);
            float w = latent->weights[i] - job->rate * scale * move;
            latent->weights[i] = w < -most ? -most : w > most ? most : w;
        }
    }
}

void mx_latent_step(mx_latent *latent, mx_team *team, double rate, uint32_t step)
{
    latent_job job = {.latent = latent,
                      .rate = (float)rate,
                      .mean_scale = (float)(1 / (1 - pow((double)mean_decay, step))),
                      .square_scale = (float)(1 / (1 - pow((double)square_decay, step)))};
    mx_team_for(team, latent->n_rows, ROW_GRAIN, step_range, &job);
}
