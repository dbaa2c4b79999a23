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

void mx_matrix_row(const mx_matrix *matrix, size_t row, float *out)
{
    if (matrix->kind == MX_MATRIX_STORED) {
        const uint8_t *data = matrix->data + stored_row(matrix, row) * matrix->row_bytes;
        mx_dtype_get(matrix->dtype)->decode(data, matrix->n_cols, out);
        if (!mx_quant_is_none(&matrix->cast)) {
            mx_row_cast(&matrix->cast, out, matrix->n_cols, row, out);
        }
        return;
    }
    size_t n_scales = mx_row_scale_count(&matrix->weights, matrix->n_cols);
    mx_row_decode(&matrix->weights, matrix->data + row * matrix->row_bytes,
                  matrix->scales + row * n_scales, matrix->n_cols, out);
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
