#include "quant/linalg.h"

#include <cblas.h>
#include <lapacke.h>
#include <pthread.h>
#include <stdatomic.h>

/* Columns and rows of a tile of results. */
enum { TILE = 192, SOLVE_ROWS = 64, SGEMM_TILE = 256 };

static size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* OpenBLAS's own threads would split sums by their number. The setting belongs to
 * the process; mxlm is its only user there. */
static void one_thread(void)
{
    openblas_set_num_threads(1);
}

static void begin(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, one_thread);
}

typedef struct tile_job {
    const double *a, *b;
    size_t rows, cols, inner; /* of the result, and the length of its sums */
    bool transposed;          /* a is [inner][rows] */
    bool symmetric;
    double beta;
    double *c; /* [rows][cols] */
} tile_job;

static void tile_range(void *ctx, size_t first, size_t last, int thread)
{
    (void)thread;
    const tile_job *job = ctx;
    size_t across = (job->cols + TILE - 1) / TILE;
    for (size_t tile = first; tile < last; tile++) {
        size_t row = tile / across * TILE, col = tile % across * TILE;
        if (job->symmetric && col < row) {
            continue;
        }
        const double *a = job->a + (job->transposed ? row : row * job->inner);
        cblas_dgemm(CblasRowMajor, job->transposed ? CblasTrans : CblasNoTrans, CblasNoTrans,
                    (blasint)min_size(job->rows - row, TILE),
                    (blasint)min_size(job->cols - col, TILE), (blasint)job->inner, 1.0, a,
                    (blasint)(job->transposed ? job->rows : job->inner), job->b + col,
                    (blasint)job->cols, job->beta, job->c + row * job->cols + col,
                    (blasint)job->cols);
    }
}

static void run_tiles(mx_team *team, tile_job *job)
{
    begin();
    size_t n = (job->rows + TILE - 1) / TILE * ((job->cols + TILE - 1) / TILE);
    mx_team_for(team, n, 1, tile_range, job);
}

void mx_linalg_gram(mx_team *team, const double *a, size_t rows, const double *b, size_t cols,
                    size_t n, double *sum)
{
    tile_job job = {.a = a,
                    .b = b,
                    .rows = rows,
                    .cols = cols,
                    .inner = n,
                    .transposed = true,
                    .symmetric = a == b,
                    .beta = 1.0,
                    .c = sum};
    run_tiles(team, &job);
}

void mx_linalg_mirror(double *a, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        for (size_t j = i + 1; j < n; j++) {
            a[j * n + i] = a[i * n + j];
        }
    }
}

void mx_linalg_multiply(mx_team *team, const double *a, const double *b, size_t m, size_t k,
                        size_t n, double *c)
{
    tile_job job = {.a = a, .b = b, .rows = m, .cols = n, .inner = k, .c = c};
    run_tiles(team, &job);
}

/* Row-major upper is LAPACK's lower: the _work forms, column by column, take it
 * without a transposed copy. */
bool mx_linalg_cholesky(double *a, size_t n)
{
    begin();
    return LAPACKE_dpotrf_work(LAPACK_COL_MAJOR, 'L', (lapack_int)n, a, (lapack_int)n) == 0;
}

bool mx_linalg_invert(double *u, size_t n)
{
    begin();
    return LAPACKE_dpotri_work(LAPACK_COL_MAJOR, 'L', (lapack_int)n, u, (lapack_int)n) == 0;
}

typedef struct solve_job {
    const double *u;
    size_t n, rows;
    double *x;
    atomic_bool failed;
} solve_job;

static void solve_range(void *ctx, size_t first, size_t last, int thread)
{
    (void)thread;
    solve_job *job = ctx;
    for (size_t tile = first; tile < last; tile++) {
        size_t row = tile * SOLVE_ROWS;
        /* Rows of x are columns of LAPACK's right-hand sides. */
        int info =
            LAPACKE_dpotrs_work(LAPACK_COL_MAJOR, 'L', (lapack_int)job->n,
                                (lapack_int)min_size(job->rows - row, SOLVE_ROWS), job->u,
                                (lapack_int)job->n, job->x + row * job->n, (lapack_int)job->n);
        if (info != 0) {
            atomic_store(&job->failed, true);
        }
    }
}

bool mx_linalg_solve_rows(mx_team *team, const double *u, size_t n, double *x, size_t rows)
{
    begin();
    solve_job job = {.u = u, .n = n, .rows = rows, .x = x};
    atomic_init(&job.failed, false);
    mx_team_for(team, (rows + SOLVE_ROWS - 1) / SOLVE_ROWS, 1, solve_range, &job);
    return !atomic_load(&job.failed);
}

void mx_linalg_sgemm(const mx_sgemm *p)
{
    begin();
    cblas_sgemm(CblasRowMajor, p->transpose_a ? CblasTrans : CblasNoTrans,
                p->transpose_b ? CblasTrans : CblasNoTrans, (blasint)p->m, (blasint)p->n,
                (blasint)p->k, p->alpha, p->a, (blasint)p->lda, p->b, (blasint)p->ldb, p->beta,
                p->c, (blasint)p->ldc);
}

static void sgemm_range(void *ctx, size_t first, size_t last, int thread)
{
    (void)thread;
    const mx_sgemm *whole = ctx;
    size_t across = (whole->n + SGEMM_TILE - 1) / SGEMM_TILE;
    for (size_t tile = first; tile < last; tile++) {
        size_t row = tile / across * SGEMM_TILE, col = tile % across * SGEMM_TILE;
        mx_sgemm part = *whole;
        part.m = min_size(whole->m - row, SGEMM_TILE);
        part.n = min_size(whole->n - col, SGEMM_TILE);
        part.a += whole->transpose_a ? row : row * whole->lda;
        part.b += whole->transpose_b ? col * whole->ldb : col;
        part.c += row * whole->ldc + col;
        mx_linalg_sgemm(&part);
    }
}

void mx_linalg_sgemm_team(mx_team *team, const mx_sgemm *product)
{
    mx_sgemm whole = *product;
    size_t down = (whole.m + SGEMM_TILE - 1) / SGEMM_TILE;
    size_t across = (whole.n + SGEMM_TILE - 1) / SGEMM_TILE;
    mx_team_for(team, down * across, 1, sgemm_range, &whole);
}
