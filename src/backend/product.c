/*
 * Products with weight matrices. Threads split rows of the weights: every output
 * element is one chain in one thread, so the split cannot change a bit.
 */
#include "backend/backend.h"

#include <string.h>

enum {
    PANEL_GROUP_BYTES = 512 * 1024, /* of a group's slice: stays in the second-level cache */
    PANEL_GROUP_MAX = 64,
    TOKEN_CHUNK_LEAST = 8 * MX_F32_TOKENS, /* decoding a group has to pay */
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

/* Few tokens and bf16 rows in their order, as most files hold them. */
static bool is_bf16_product(const mx_matrix *matrix, size_t n_tokens)
{
    return matrix->kind == MX_MATRIX_STORED && matrix->dtype == MX_DTYPE_BF16 &&
           matrix->permuted_head_dim == 0 && mx_quant_is_none(&matrix->cast) &&
           n_tokens <= MX_BF16_TOKENS;
}

static mx_operand_form operand_form(const mx_matrix *matrix, size_t n_tokens)
{
    if (matrix->kind == MX_MATRIX_PANELS) {
        return MX_OPERAND_TILES;
    }
    /* One token is packed as it is. */
    bool rows = n_tokens == 1 || is_bf16_product(matrix, n_tokens);
    return rows ? MX_OPERAND_ROWS : MX_OPERAND_PACKED;
}

bool mx_operand_fits(const mx_operand *operand, const mx_matrix *matrix)
{
    return operand->ready && operand->form == operand_form(matrix, operand->n_tokens) &&
           quant_same(&operand->activations, &matrix->activations) &&
           (operand->form != MX_OPERAND_TILES || quant_same(&operand->weights, &matrix->weights));
}

/* Of fp32 copies of the input: cast, packed. */
static size_t copy_bytes(const mx_matrix *matrix, size_t n_tokens)
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
        bool none = mx_quant_is_none(&matrix->activations);
        return copy_bytes(matrix, n_tokens) * (none ? 1 : 2);
    }
    bool dither = matrix->activations.round == MX_ROUND_DITHER;
    return tiles_bytes(backend, matrix, n_tokens) + (dither ? copy_bytes(matrix, n_tokens) : 0);
}

typedef struct operand_job {
    const mx_backend *backend;
    const mx_matrix *matrix;
    const mx_operand_source *source;
    size_t tile_bytes;
    float *cast;    /* [n_tokens][k] or NULL */
    float *packed;  /* [n_tokens * k] or NULL */
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
static void packed_range(void *ctx, size_t begin, size_t end, int thread)
{
    const operand_job *job = ctx;
    size_t n_tokens = job->source->n_tokens, k = job->matrix->n_cols;
    for (size_t tile = begin; tile < end; tile++) {
        size_t first = tile * MX_F32_TOKENS;
        const float *x =
            make_rows(job, first, first + min_size(n_tokens - first, MX_F32_TOKENS), thread);
        job->backend->kernels.f32_tile_pack(x, k, k, first, n_tokens, job->packed);
    }
}

/* The same for the block product's tiles. */
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
    mx_operand_form form = operand_form(matrix, n_tokens);
    bool none = mx_quant_is_none(&matrix->activations);
    operand_job job = {.backend = backend, .matrix = matrix, .source = source};
    if (!none && (form != MX_OPERAND_TILES || matrix->activations.round == MX_ROUND_DITHER)) {
        job.cast = (float *)(void *)scratch;
        scratch += copy_bytes(matrix, n_tokens);
    }
    if (form == MX_OPERAND_TILES) {
        job.tiles = scratch;
        job.tile_bytes = backend->kernels.block_tile_bytes(&matrix->weights, &matrix->activations,
                                                           matrix->n_cols);
        size_t n_tiles = (n_tokens + MX_TILE_TOKENS - 1) / MX_TILE_TOKENS;
        mx_team_for(backend->team, n_tiles, 1, tile_range, &job);
    } else if (form == MX_OPERAND_PACKED) {
        job.packed = (float *)(void *)scratch;
        size_t n_tiles = (n_tokens + MX_F32_TOKENS - 1) / MX_F32_TOKENS;
        mx_team_for(backend->team, n_tiles, 1, packed_range, &job);
    } else if (job.cast != NULL || source->make != NULL) {
        mx_team_for(backend->team, n_tokens, ROW_GRAIN, rows_range, &job);
    }
    const float *rows = job.cast != NULL ? job.cast : source->x;
    *operand = (mx_operand){
        .form = form,
        .x = job.packed != NULL ? job.packed : rows,
        .tiles = job.tiles,
        .n_tokens = n_tokens,
        .k = matrix->n_cols,
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
    size_t thread_bytes, unit_bytes;
    size_t slice, group, chunk, n_chunks; /* fp32: columns, panels, tokens of a step; of tokens */
    float *out;                           /* [n_tokens][n_rows] */
} product_job;

static size_t panel_count(const mx_matrix *matrix)
{
    return (matrix->n_rows + MX_PANEL_ROWS - 1) / MX_PANEL_ROWS;
}

/* Columns that are decoded at a time. */
static size_t slice_cols(const mx_matrix *matrix)
{
    return mx_matrix_has_slices(matrix) ? min_size(matrix->n_cols, MX_F32_SLICE) : matrix->n_cols;
}

/* Panels that are decoded at a time: an even number, for kernels that take two at
 * once. */
static size_t panel_group(const mx_matrix *matrix)
{
    size_t bytes = slice_cols(matrix) * MX_PANEL_ROWS * sizeof(float);
    size_t group = PANEL_GROUP_BYTES / bytes / 2 * 2;
    return group < 2 ? 2 : min_size(group, PANEL_GROUP_MAX);
}

/* Floats of a slice of a panel, and of one decoded row: block types decode whole
 * blocks, and rows start on a cache line. */
static size_t panel_floats(const mx_matrix *matrix)
{
    return slice_cols(matrix) * MX_PANEL_ROWS;
}

static size_t row_floats(const mx_matrix *matrix)
{
    return round_up(slice_cols(matrix), 16);
}

/* Per thread: slices of a group's panels, then of 16 decoded rows. */
static size_t thread_bytes(const mx_matrix *matrix)
{
    return (panel_group(matrix) * panel_floats(matrix) + MX_PANEL_ROWS * row_floats(matrix)) *
           sizeof(float);
}

size_t mx_product_bytes(const mx_backend *backend, const mx_matrix *matrix)
{
    if (matrix->kind == MX_MATRIX_PANELS) {
        return 0;
    }
    return (size_t)mx_team_size(backend->team) * thread_bytes(matrix);
}

/* Columns [first_k, first_k + k) of the 16 rows of a panel; `rows` is scratch. */
static void decode_panel(const product_job *job, size_t panel, size_t first_k, size_t k,
                         float *rows, float *out)
{
    const mx_matrix *matrix = job->matrix;
    const mx_kernels *kernels = &job->backend->kernels;
    size_t first = panel * MX_PANEL_ROWS, stride = row_floats(matrix);
    size_t n_rows = min_size(matrix->n_rows - first, MX_PANEL_ROWS);
    if (matrix->kind == MX_MATRIX_STORED && matrix->dtype == MX_DTYPE_BF16 &&
        mx_quant_is_none(&matrix->cast)) {
        const uint8_t *stored[MX_PANEL_ROWS] = {0};
        for (size_t r = 0; r < n_rows; r++) {
            stored[r] = mx_matrix_stored_row(matrix, first + r) + first_k * sizeof(uint16_t);
        }
        kernels->bf16_panel_pack(stored, n_rows, k, out);
        return;
    }
    const float *pointers[MX_PANEL_ROWS] = {0};
    for (size_t r = 0; r < n_rows; r++) {
        mx_matrix_columns(matrix, first + r, first_k, k, rows + r * stride);
        pointers[r] = rows + r * stride;
    }
    kernels->f32_panel_pack(pointers, n_rows, k, out);
}

/* Group `group` of panels times a chunk of tokens, slice by slice. */
static void f32_group(const product_job *job, size_t group, size_t chunk, int thread)
{
    const mx_matrix *matrix = job->matrix;
    size_t panel = group * job->group, row = panel * MX_PANEL_ROWS, token = chunk * job->chunk;
    float *panels = (float *)(void *)(job->scratch + (size_t)thread * job->thread_bytes);
    float *rows = panels + panel_group(matrix) * panel_floats(matrix);
    mx_f32_product product = {
        .panels = panels,
        .n_panels = min_size(panel_count(matrix) - panel, job->group),
        .n_rows = min_size(matrix->n_rows - row, job->group * MX_PANEL_ROWS),
        .x = job->operand->x,
        .x_tokens = job->operand->n_tokens,
        .first_token = token,
        .n_tokens = min_size(job->operand->n_tokens - token, job->chunk),
        .out = job->out + token * matrix->n_rows + row,
        .out_stride = matrix->n_rows,
    };
    for (size_t k = 0; k < matrix->n_cols; k += job->slice) {
        product.first_k = k;
        product.k = min_size(matrix->n_cols - k, job->slice);
        for (size_t i = 0; i < product.n_panels; i++) {
            decode_panel(job, panel + i, k, product.k, rows,
                         panels + i * product.k * MX_PANEL_ROWS);
        }
        job->backend->kernels.f32_product(&product);
    }
}

static void f32_range(void *ctx, size_t begin, size_t end, int thread)
{
    const product_job *job = ctx;
    for (size_t item = begin; item < end; item++) {
        f32_group(job, item / job->n_chunks, item % job->n_chunks, thread);
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
        .x_stride = job->operand->k,
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

/* Parts of the work that threads take: groups of panels, and of these as many chunks
 * of tokens as it takes to even the threads out. */
static void share_out(product_job *job, size_t n_panels)
{
    size_t n_tokens = job->operand->n_tokens;
    size_t threads = (size_t)mx_team_size(job->backend->team);
    size_t share = n_panels / (2 * threads) / 2 * 2;
    job->group = min_size(panel_group(job->matrix), share < 4 ? 4 : share);
    size_t n_groups = (n_panels + job->group - 1) / job->group;
    size_t wanted = threads == 1 ? 1 : (4 * threads + n_groups - 1) / n_groups;
    size_t chunk = round_up((n_tokens + wanted - 1) / wanted, MX_F32_TOKENS);
    job->chunk = chunk < TOKEN_CHUNK_LEAST ? TOKEN_CHUNK_LEAST : chunk;
    job->n_chunks = (n_tokens + job->chunk - 1) / job->chunk;
}

static void f32_product(mx_backend *backend, const mx_matrix *matrix, const mx_operand *operand,
                        uint8_t *scratch, float *out)
{
    size_t n_panels = panel_count(matrix);
    product_job job = {
        .backend = backend,
        .matrix = matrix,
        .operand = operand,
        .scratch = scratch,
        .thread_bytes = thread_bytes(matrix),
        .slice = slice_cols(matrix),
        .out = out,
    };
    if (is_bf16_product(matrix, operand->n_tokens)) {
        mx_team_for(backend->team, n_panels, job_panels(backend, n_panels), bf16_range, &job);
        return;
    }
    share_out(&job, n_panels);
    size_t n_groups = (n_panels + job.group - 1) / job.group;
    mx_team_for(backend->team, n_groups * job.n_chunks, 1, f32_range, &job);
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
