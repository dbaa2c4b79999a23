#include "backend/backend.h"

#include "base/large.h"

#include <stdlib.h>
#include <string.h>

void mx_matrix_clear(mx_matrix *matrix)
{
    free(matrix->owned);
    free(matrix->bias);
    *matrix = (mx_matrix){0};
}

/* GGUF stores q and k with the halves of each head interleaved: row pair
 * (i, i + half) of the model lies at (2 i, 2 i + 1). */
static size_t stored_row(const mx_matrix *matrix, size_t row)
{
    size_t head_dim = matrix->permuted_head_dim;
    if (head_dim == 0) {
        return row;
    }
    size_t within = row % head_dim, half = head_dim / 2;
    return row - within + 2 * (within % half) + within / half;
}

const uint8_t *mx_matrix_stored_row(const mx_matrix *matrix, size_t row)
{
    return matrix->data + stored_row(matrix, row) * matrix->row_bytes;
}

bool mx_matrix_has_slices(const mx_matrix *matrix)
{
    if (matrix->kind == MX_MATRIX_STORED) {
        /* A cast may share a scale over the row, and dithers by place in it. */
        return mx_quant_is_none(&matrix->cast) &&
               MX_F32_SLICE % mx_dtype_get(matrix->dtype)->block == 0;
    }
    const mx_quant *quant = &matrix->weights;
    return !mx_quant_is_scaled(quant) || (quant->block != 0 && MX_F32_SLICE % quant->block == 0);
}

void mx_matrix_columns(const mx_matrix *matrix, size_t row, size_t begin, size_t n, float *out)
{
    if (matrix->kind == MX_MATRIX_STORED) {
        const uint8_t *data =
            mx_matrix_stored_row(matrix, row) + mx_dtype_bytes(matrix->dtype, begin);
        mx_dtype_get(matrix->dtype)->decode(data, n, out);
        if (!mx_quant_is_none(&matrix->cast)) {
            mx_row_cast(&matrix->cast, out, n, row, out);
        }
        return;
    }
    const mx_quant *quant = &matrix->weights;
    size_t n_scales = mx_row_scale_count(quant, matrix->n_cols);
    const uint8_t *codes = matrix->data + row * matrix->row_bytes;
    const uint8_t *scales = matrix->scales + row * n_scales;
    if (begin > 0) {
        codes += mx_row_code_bytes(quant, begin);
        scales += mx_row_scale_count(quant, begin);
    }
    mx_row_decode(quant, codes, scales, n, out);
}

void mx_matrix_row(const mx_matrix *matrix, size_t row, float *out)
{
    mx_matrix_columns(matrix, row, 0, matrix->n_cols, out);
}

typedef struct pack_job {
    const mx_backend *backend;
    const mx_matrix *matrix;
    size_t panel_bytes, n_scales;
    size_t first; /* panel of range index 0 */
    uint8_t *panels;
} pack_job;

/* Panels between two calls of mx_replaced. */
#define SLICE_BYTES ((size_t)4 << 20)

static void pack_range(void *ctx, size_t begin, size_t end, int thread)
{
    (void)thread;
    const pack_job *job = ctx;
    const mx_matrix *matrix = job->matrix;
    for (size_t panel = job->first + begin; panel < job->first + end; panel++) {
        const uint8_t *codes[MX_PANEL_ROWS] = {0}, *scales[MX_PANEL_ROWS] = {0};
        size_t first = panel * MX_PANEL_ROWS, n_rows = matrix->n_rows - first;
        n_rows = n_rows < MX_PANEL_ROWS ? n_rows : MX_PANEL_ROWS;
        for (size_t r = 0; r < n_rows; r++) {
            codes[r] = matrix->data + (first + r) * matrix->row_bytes;
            scales[r] = matrix->scales + (first + r) * job->n_scales;
        }
        job->backend->kernels.block_panel_pack(&matrix->weights, &matrix->activations,
                                               matrix->n_cols, codes, scales, n_rows,
                                               job->panels + panel * job->panel_bytes);
    }
}

/* Slice by slice, so that codes and panels of one slice at a time are in memory. */
static void pack_slices(mx_backend *backend, pack_job *job, size_t n_panels, mx_replaced replaced)
{
    const mx_matrix *matrix = job->matrix;
    size_t slice = SLICE_BYTES / job->panel_bytes + 1;
    for (job->first = 0; job->first < n_panels; job->first += slice) {
        size_t n = n_panels - job->first < slice ? n_panels - job->first : slice;
        mx_team_for(backend->team, n, 8, pack_range, job);
        size_t row = job->first * MX_PANEL_ROWS, n_rows = matrix->n_rows - row;
        n_rows = n_rows < n * MX_PANEL_ROWS ? n_rows : n * MX_PANEL_ROWS;
        if (matrix->owned == NULL && replaced.fn != NULL) {
            replaced.fn(replaced.ctx, matrix->data + row * matrix->row_bytes,
                        n_rows * matrix->row_bytes);
            replaced.fn(replaced.ctx, matrix->scales + row * job->n_scales, n_rows * job->n_scales);
        }
    }
}

mx_status mx_matrix_pack(mx_backend *backend, mx_matrix *matrix, mx_replaced replaced,
                         mx_error *err)
{
    const mx_kernels *kernels = &backend->kernels;
    if (matrix->kind != MX_MATRIX_CODES ||
        !kernels->block_supported(&matrix->weights, &matrix->activations, matrix->n_cols)) {
        return MX_OK;
    }
    pack_job job = {
        .backend = backend,
        .matrix = matrix,
        .panel_bytes =
            kernels->block_panel_bytes(&matrix->weights, &matrix->activations, matrix->n_cols),
        .n_scales = mx_row_scale_count(&matrix->weights, matrix->n_cols),
    };
    size_t n_panels = (matrix->n_rows + MX_PANEL_ROWS - 1) / MX_PANEL_ROWS;
    size_t bytes = n_panels * job.panel_bytes;
    job.panels = mx_large_alloc(bytes);
    if (job.panels == NULL) {
        return mx_error_nomem(err, "weight panels", bytes);
    }
    pack_slices(backend, &job, n_panels, replaced);
    free(matrix->owned);
    matrix->owned = job.panels;
    matrix->panels = job.panels;
    matrix->data = NULL;
    matrix->scales = NULL;
    matrix->kind = MX_MATRIX_PANELS;
    return MX_OK;
}
