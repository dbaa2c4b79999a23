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
    ROW_GRAIN = 8,
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

bool mx_operand_fits(const mx_operand *operand, const mx_matrix *matrix)
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
    return n_tiles * backend->kernels.block_tile_bytes(&matrix->weights, &matrix->activations,
                                                       matrix->n_cols);
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
    const mx_operand_source *source;
    size_t tile_bytes;
    float *cast;    /* [n_tokens][k] or NULL */
    uint8_t *tiles; /* or NULL */
} operand_job;

/* Rows [begin, end) of x, cast when the job has room for that. */
static const float *make_rows(const operand_job *job, size_t begin, size_t end, int thread)
{
    const mx_operand_source *source = job->source;
    size_t k = job->matrix->n_cols;
    if (source->make != NULL) {
        source->make(source->ctx, begin, end, thread);
    }
    if (job->cast == NULL) {
        return source->x + begin * k;
    }
    for (size_t t = begin; t < end; t++) {
        job->backend->kernels.row_cast(&job->matrix->activations, source->x + t * k, k,
                                       source->streams[t], job->cast + t * k);
    }
    return job->cast + begin * k;
}

static void rows_range(void *ctx, size_t begin, size_t end, int thread)
{
    make_rows(ctx, begin, end, thread);
}

/* A tile's rows are packed as soon as they are made: they are still in the cache. */
static void tile_range(void *ctx, size_t begin, size_t end, int thread)
{
    const operand_job *job = ctx;
    const mx_matrix *matrix = job->matrix;
    mx_quant quant = matrix->activations;
    if (job->cast != NULL) {
        /* A tile holds tokens of several sequences, each with its own stream, so
         * stochastic rounding comes first; packing values that lie on the grid
         * already is exact under any rounding. */
        quant.round = MX_ROUND_EVEN;
    }
    for (size_t tile = begin; tile < end; tile++) {
        size_t first = tile * MX_TILE_TOKENS;
        size_t n = min_size(job->source->n_tokens - first, MX_TILE_TOKENS);
        const float *x = make_rows(job, first, first + n, thread);
        job->backend->kernels.block_tile_pack(&matrix->weights, &quant, matrix->n_cols, x,
                                              matrix->n_cols, n, 0,
                                              job->tiles + tile * job->tile_bytes);
    }
}

void mx_operand_prepare(mx_backend *backend, const mx_matrix *matrix,
                        const mx_operand_source *source, uint8_t *scratch, mx_operand *operand)
{
    if (mx_operand_fits(operand, matrix)) {
        return;
    }
    size_t n_tokens = source->n_tokens;
    bool tiles = matrix->kind == MX_MATRIX_PANELS, none = mx_quant_is_none(&matrix->activations);
    operand_job job = {.backend = backend, .matrix = matrix, .source = source};
    if (!none && (!tiles || matrix->activations.round == MX_ROUND_DITHER)) {
        job.cast = (float *)(void *)scratch;
        scratch += cast_bytes(matrix, n_tokens);
    }
    if (tiles) {
        job.tiles = scratch;
        job.tile_bytes = backend->kernels.block_tile_bytes(&matrix->weights, &matrix->activations,
                                                           matrix->n_cols);
        size_t n_tiles = (n_tokens + MX_TILE_TOKENS - 1) / MX_TILE_TOKENS;
        mx_team_for(backend->team, n_tiles, 1, tile_range, &job);
    } else if (job.cast != NULL || source->make != NULL) {
        mx_team_for(backend->team, n_tokens, ROW_GRAIN, rows_range, &job);
    }
    *operand = (mx_operand){
        .x = job.cast != NULL ? job.cast : source->x,
        .stride = matrix->n_cols,
        .n_tokens = n_tokens,
        .k = matrix->n_cols,
        .tiles = job.tiles,
        .activations = matrix->activations,
        .weights = matrix->weights,
        .ready = true,
    };
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

/* Panels [begin, end) of a block product, all tokens at once: the kernels
 * group them as their caches want. */
static void block_panels(const product_job *job, size_t begin, size_t end)
{
    const mx_matrix *matrix = job->matrix;
    size_t first_row = begin * MX_PANEL_ROWS;
    mx_block_product product = {
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
    job->backend->kernels.block_product(&product);
}

/* Few tokens and bf16 rows in their order, as most files hold them. */
static bool is_bf16_product(const mx_matrix *matrix, const mx_operand *operand)
{
    return matrix->kind == MX_MATRIX_STORED && matrix->dtype == MX_DTYPE_BF16 &&
           matrix->permuted_head_dim == 0 && mx_quant_is_none(&matrix->cast) &&
           operand->n_tokens <= MX_BF16_TOKENS;
}

static void bf16_range(void *ctx, size_t begin, size_t end, int thread)
{
    (void)thread;
    const product_job *job = ctx;
    const mx_matrix *matrix = job->matrix;
    size_t first_row = begin * MX_PANEL_ROWS;
    mx_bf16_product product = {
        .rows = matrix->data + first_row * matrix->row_bytes,
        .row_bytes = matrix->row_bytes,
        .n_rows = min_size(matrix->n_rows - first_row, (end - begin) * MX_PANEL_ROWS),
        .k = matrix->n_cols,
        .x = job->operand->x,
        .x_stride = job->operand->stride,
        .n_tokens = job->operand->n_tokens,
        .out = job->out + first_row,
        .out_stride = matrix->n_rows,
    };
    job->backend->kernels.bf16_product(&product);
}

/* Products that share an operand, their panels counted one after the other. */
typedef struct block_jobs {
    product_job jobs[MX_PRODUCTS];
    size_t n;
} block_jobs;

static size_t panel_count(const mx_matrix *matrix)
{
    return (matrix->n_rows + MX_PANEL_ROWS - 1) / MX_PANEL_ROWS;
}

static void block_range(void *ctx, size_t begin, size_t end, int thread)
{
    (void)thread;
    const block_jobs *all = ctx;
    size_t first = 0; /* panel of the job */
    for (size_t i = 0; i < all->n; i++) {
        size_t count = panel_count(all->jobs[i].matrix);
        if (begin < first + count && end > first) {
            block_panels(&all->jobs[i], begin > first ? begin - first : 0,
                         min_size(end - first, count));
        }
        first += count;
    }
}

/* Panels of one job: an even number, for kernels that take two at once; enough of
 * them that a job outlasts its own start, and jobs enough to even the threads out. */
static size_t job_panels(const mx_backend *backend, size_t n_panels)
{
    size_t share = n_panels / (4 * (size_t)mx_team_size(backend->team));
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

static void add_bias(mx_backend *backend, const mx_matrix *matrix, size_t n_tokens, float *out)
{
    if (matrix->bias != NULL) {
        bias_job bias = {backend, matrix, out};
        mx_team_for(backend->team, n_tokens, 16, bias_range, &bias);
    }
}

static void f32_product(mx_backend *backend, const mx_matrix *matrix, const mx_operand *operand,
                        uint8_t *scratch, float *out)
{
    size_t n_panels = panel_count(matrix);
    size_t row_bytes = matrix->n_cols * sizeof(float);
    size_t chunk = TOKEN_CHUNK_BYTES / row_bytes / MX_TILE_TOKENS * MX_TILE_TOKENS;
    product_job job = {
        .backend = backend,
        .matrix = matrix,
        .operand = operand,
        .scratch = scratch,
        .token_chunk = chunk < 3 * MX_TILE_TOKENS ? 3 * MX_TILE_TOKENS : chunk,
        .thread_bytes = thread_bytes(matrix),
        .group = panel_group(matrix),
        .out = out,
    };
    if (is_bf16_product(matrix, operand)) {
        mx_team_for(backend->team, n_panels, job_panels(backend, n_panels), bf16_range, &job);
        return;
    }
    mx_team_for(backend->team, n_panels, job.group, f32_range, &job);
}

void mx_matrix_products(mx_backend *backend, const mx_matrix *const *matrices, size_t n,
                        const mx_operand *operand, uint8_t *scratch, float *const *outs)
{
    block_jobs all = {.n = 0};
    size_t n_panels = 0;
    for (size_t i = 0; i < n; i++) {
        const mx_matrix *matrix = matrices[i];
        if (matrix->kind != MX_MATRIX_PANELS) {
            f32_product(backend, matrix, operand, scratch, outs[i]);
            continue;
        }
        all.jobs[all.n++] = (product_job){
            .backend = backend,
            .matrix = matrix,
            .operand = operand,
            .unit_bytes = backend->kernels.block_panel_bytes(&matrix->weights, &matrix->activations,
                                                             matrix->n_cols),
            .out = outs[i],
        };
        n_panels += panel_count(matrix);
    }
    mx_team_for(backend->team, n_panels, job_panels(backend, n_panels), block_range, &all);
    for (size_t i = 0; i < n; i++) {
        add_bias(backend, matrices[i], operand->n_tokens, outs[i]);
    }
}

void mx_matrix_product(mx_backend *backend, const mx_matrix *matrix, const mx_operand *operand,
                       uint8_t *scratch, float *out)
{
    mx_matrix_products(backend, &matrix, 1, operand, scratch, &out);
}
