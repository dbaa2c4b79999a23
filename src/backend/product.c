/*
 * Products with weight matrices. Threads split rows of the weights: every output
 * element is one chain in one thread, so the split cannot change a bit.
 */
#include "backend/backend.h"

#include <string.h>

/* Token chunks keep their part of x in the second-level cache while a group of
 * panels passes over it; panel groups are decoded to fp32 once per call. */
enum {
    TOKEN_CHUNK_BYTES = 512 * 1024,
    PANEL_GROUP_BYTES = 512 * 1024,
    PANEL_GROUP_MAX = 16,
    JOB_PANELS_MAX = 32,
};

static size_t round_up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

static size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* ---- operands ------------------------------------------------------------- */

static bool quant_same(const mx_quant *a, const mx_quant *b)
{
    return a->format == b->format && a->block == b->block && a->rule == b->rule &&
           a->round == b->round && a->flush_subnormals == b->flush_subnormals && a->seed == b->seed;
}

static bool operand_fits(const mx_operand *operand, const mx_matrix *matrix)
{
    if (!operand->ready || !quant_same(&operand->activations, &matrix->activations)) {
        return false;
    }
    bool wants_tiles = matrix->kind == MX_MATRIX_PANELS;
    if (wants_tiles != (operand->tiles != NULL)) {
        return false;
    }
    return !wants_tiles || quant_same(&operand->weights, &matrix->weights);
}

static size_t cast_bytes(const mx_matrix *matrix, size_t n_tokens)
{
    return round_up(n_tokens * matrix->n_cols * sizeof(float), 64);
}

static size_t tiles_bytes(const mx_backend *backend, const mx_matrix *matrix, size_t n_tokens)
{
    size_t n_tiles = (n_tokens + MX_TILE_TOKENS - 1) / MX_TILE_TOKENS;
    return n_tiles *
           backend->kernels.int_tile_bytes(&matrix->weights, &matrix->activations, matrix->n_cols);
}

size_t mx_operand_bytes(const mx_backend *backend, const mx_matrix *matrix, size_t n_tokens)
{
    if (matrix->kind != MX_MATRIX_PANELS) {
        return mx_quant_is_none(&matrix->activations) ? 0 : cast_bytes(matrix, n_tokens);
    }
    bool dither = matrix->activations.round == MX_ROUND_DITHER;
    return tiles_bytes(backend, matrix, n_tokens) + (dither ? cast_bytes(matrix, n_tokens) : 0);
}

typedef struct operand_job {
    const mx_backend *backend;
    const mx_matrix *matrix;
    const float *x; /* [n_tokens][k] */
    size_t n_tokens, tile_bytes;
    const uint64_t *streams; /* [n_tokens] */
    float *cast;             /* [n_tokens][k] */
    uint8_t *tiles;
    mx_quant activations; /* as the tiles are packed */
} operand_job;

static void cast_range(void *ctx, size_t begin, size_t end, int thread)
{
    (void)thread;
    const operand_job *job = ctx;
    size_t k = job->matrix->n_cols;
    for (size_t t = begin; t < end; t++) {
        job->backend->kernels.row_cast(&job->matrix->activations, job->x + t * k, k,
                                       job->streams[t], job->cast + t * k);
    }
}

static void tile_range(void *ctx, size_t begin, size_t end, int thread)
{
    (void)thread;
    const operand_job *job = ctx;
    size_t k = job->matrix->n_cols;
    for (size_t tile = begin; tile < end; tile++) {
        size_t first = tile * MX_TILE_TOKENS;
        job->backend->kernels.int_tile_pack(&job->matrix->weights, &job->activations, k,
                                            job->x + first * k, k,
                                            min_size(job->n_tokens - first, MX_TILE_TOKENS), 0,
                                            job->tiles + tile * job->tile_bytes);
    }
}

void mx_operand_prepare(mx_backend *backend, const mx_matrix *matrix, const float *x,
                        size_t n_tokens, const uint64_t *streams, uint8_t *scratch,
                        mx_operand *operand)
{
    if (operand_fits(operand, matrix)) {
        return;
    }
    *operand = (mx_operand){
        .x = x,
        .stride = matrix->n_cols,
        .n_tokens = n_tokens,
        .k = matrix->n_cols,
        .activations = matrix->activations,
        .weights = matrix->weights,
        .ready = true,
    };
    operand_job job = {
        .backend = backend,
        .matrix = matrix,
        .x = x,
        .n_tokens = n_tokens,
        .streams = streams,
        .activations = matrix->activations,
    };
    bool tiles = matrix->kind == MX_MATRIX_PANELS;
    bool dither = matrix->activations.round == MX_ROUND_DITHER;
    if (mx_quant_is_none(&matrix->activations)) {
        return;
    }
    if (!tiles || dither) {
        job.cast = (float *)(void *)scratch;
        mx_team_for(backend->team, n_tokens, 16, cast_range, &job);
        operand->x = job.cast;
    }
    if (!tiles) {
        return;
    }
    if (dither) {
        /* A tile holds tokens of several sequences, each with its own stream, so
         * stochastic rounding comes first; packing values that lie on the grid
         * already is exact under any rounding. */
        job.x = job.cast;
        job.activations.round = MX_ROUND_EVEN;
        scratch += cast_bytes(matrix, n_tokens);
    }
    job.tiles = scratch;
    job.tile_bytes =
        backend->kernels.int_tile_bytes(&matrix->weights, &matrix->activations, matrix->n_cols);
    size_t n_tiles = (n_tokens + MX_TILE_TOKENS - 1) / MX_TILE_TOKENS;
    mx_team_for(backend->team, n_tiles, 1, tile_range, &job);
    operand->tiles = job.tiles;
}

/* ---- products ------------------------------------------------------------- */

typedef struct product_job {
    const mx_backend *backend;
    const mx_matrix *matrix;
    const mx_operand *operand;
    uint8_t *scratch; /* [threads][thread_bytes] */
    size_t thread_bytes, group, token_chunk, unit_bytes;
    float *out; /* [n_tokens][n_rows] */
} product_job;

/* Columns of one decoded row in scratch: block types decode whole blocks, and
 * rows start on a cache line. */
static size_t padded_cols(const mx_matrix *matrix)
{
    return round_up(matrix->n_cols, 16);
}

/* Panels that one job decodes at a time: an even number, for kernels that take
 * two at once. */
static size_t panel_group(const mx_matrix *matrix)
{
    size_t bytes = matrix->n_cols * MX_PANEL_ROWS * sizeof(float);
    size_t group = PANEL_GROUP_BYTES / bytes / 2 * 2;
    return group < 2 ? 2 : min_size(group, PANEL_GROUP_MAX);
}

/* Per thread: the panels of a group, then 16 decoded rows. */
static size_t thread_bytes(const mx_matrix *matrix)
{
    size_t panels = panel_group(matrix) * matrix->n_cols * MX_PANEL_ROWS * sizeof(float);
    return round_up(panels, 64) + MX_PANEL_ROWS * padded_cols(matrix) * sizeof(float);
}

size_t mx_product_bytes(const mx_backend *backend, const mx_matrix *matrix)
{
    if (matrix->kind == MX_MATRIX_PANELS) {
        return 0;
    }
    return (size_t)mx_team_size(backend->team) * thread_bytes(matrix);
}

/* Decodes rows of panels [begin, end) into `panels`. */
static void decode_panels(const product_job *job, size_t begin, size_t end, float *panels,
                          float *rows)
{
    const mx_matrix *matrix = job->matrix;
    size_t k = matrix->n_cols, padded = padded_cols(matrix);
    for (size_t panel = begin; panel < end; panel++) {
        const float *pointers[MX_PANEL_ROWS] = {0};
        size_t first = panel * MX_PANEL_ROWS;
        size_t n_rows = min_size(matrix->n_rows - first, MX_PANEL_ROWS);
        for (size_t r = 0; r < n_rows; r++) {
            mx_matrix_row(matrix, first + r, rows + r * padded);
            pointers[r] = rows + r * padded;
        }
        job->backend->kernels.f32_panel_pack(pointers, n_rows, k,
                                             panels + (panel - begin) * k * MX_PANEL_ROWS);
    }
}

static void f32_range(void *ctx, size_t begin, size_t end, int thread)
{
    const product_job *job = ctx;
    const mx_matrix *matrix = job->matrix;
    const mx_operand *operand = job->operand;
    uint8_t *scratch = job->scratch + (size_t)thread * job->thread_bytes;
    float *panels = (float *)(void *)scratch;
    size_t panels_bytes = round_up(job->group * matrix->n_cols * MX_PANEL_ROWS * sizeof(float), 64);
    decode_panels(job, begin, end, panels, (float *)(void *)(scratch + panels_bytes));
    size_t first_row = begin * MX_PANEL_ROWS;
    for (size_t t = 0; t < operand->n_tokens; t += job->token_chunk) {
        mx_f32_product product = {
            .panels = panels,
            .n_panels = end - begin,
            .n_rows = min_size(matrix->n_rows - first_row, (end - begin) * MX_PANEL_ROWS),
            .k = matrix->n_cols,
            .x = operand->x + t * operand->stride,
            .x_stride = operand->stride,
            .n_tokens = min_size(operand->n_tokens - t, job->token_chunk),
            .out = job->out + t * matrix->n_rows + first_row,
            .out_stride = matrix->n_rows,
        };
        job->backend->kernels.f32_product(&product);
    }
}

/* All tokens at once: the kernels group them as their caches want. */
static void int_range(void *ctx, size_t begin, size_t end, int thread)
{
    (void)thread;
    const product_job *job = ctx;
    const mx_matrix *matrix = job->matrix;
    size_t first_row = begin * MX_PANEL_ROWS;
    mx_int_product product = {
        .weights = &matrix->weights,
        .activations = &matrix->activations,
        .k = matrix->n_cols,
        .panels = matrix->panels + begin * job->unit_bytes,
        .n_panels = end - begin,
        .n_rows = min_size(matrix->n_rows - first_row, (end - begin) * MX_PANEL_ROWS),
        .tiles = job->operand->tiles,
        .n_tokens = job->operand->n_tokens,
        .out = job->out + first_row,
        .out_stride = matrix->n_rows,
    };
    job->backend->kernels.int_product(&product);
}

/* Panels of one job: an even number, for kernels that take two at once; enough of
 * them that a job outlasts its own start, and jobs enough to even the threads out. */
static size_t job_panels(const mx_backend *backend, size_t n_panels)
{
    size_t share = n_panels / (8 * (size_t)mx_team_size(backend->team));
    return share < 2 ? 2 : min_size(share / 2 * 2, JOB_PANELS_MAX);
}

typedef struct bias_job {
    const mx_backend *backend;
    const mx_matrix *matrix;
    float *out;
} bias_job;

static void bias_range(void *ctx, size_t begin, size_t end, int thread)
{
    (void)thread;
    const bias_job *job = ctx;
    for (size_t t = begin; t < end; t++) {
        job->backend->kernels.add(job->matrix->bias, job->matrix->n_rows,
                                  job->out + t * job->matrix->n_rows);
    }
}

void mx_matrix_product(mx_backend *backend, const mx_matrix *matrix, const mx_operand *operand,
                       uint8_t *scratch, float *out)
{
    size_t row_bytes = matrix->n_cols * sizeof(float);
    size_t chunk = TOKEN_CHUNK_BYTES / row_bytes / MX_TILE_TOKENS * MX_TILE_TOKENS;
    product_job job = {
        .backend = backend,
        .matrix = matrix,
        .operand = operand,
        .scratch = scratch,
        .token_chunk = chunk < 3 * MX_TILE_TOKENS ? 3 * MX_TILE_TOKENS : chunk,
        .out = out,
    };
    size_t n_panels = (matrix->n_rows + MX_PANEL_ROWS - 1) / MX_PANEL_ROWS;
    if (matrix->kind == MX_MATRIX_PANELS) {
        job.unit_bytes = backend->kernels.int_panel_bytes(&matrix->weights, &matrix->activations,
                                                          matrix->n_cols);
        mx_team_for(backend->team, n_panels, job_panels(backend, n_panels), int_range, &job);
    } else {
        job.thread_bytes = thread_bytes(matrix);
        job.group = panel_group(matrix);
        mx_team_for(backend->team, n_panels, job.group, f32_range, &job);
    }
    if (matrix->bias != NULL) {
        bias_job bias = {backend, matrix, out};
        mx_team_for(backend->team, operand->n_tokens, 16, bias_range, &bias);
    }
}
