/*
 * The backend runs whole operations of the forward pass over a thread team and a
 * kernel table: products with weight matrices, and loops over tokens.
 */
#ifndef MX_BACKEND_BACKEND_H
#define MX_BACKEND_BACKEND_H

#include "base/team.h"
#include "format/dtype.h"
#include "kernel/kernel.h"

typedef struct mx_backend {
    mx_kernels kernels;
    mx_team *team; /* owned */
    uint32_t cpu_flags;
} mx_backend;

/* A team of `threads` (0: all) and the kernels that MXLM_CPU allows. */
mx_status mx_backend_init(mx_backend *backend, int threads, mx_error *err);
void mx_backend_clear(mx_backend *backend);

/* ---- weight matrices ------------------------------------------------------ */

/* How a weight matrix is held. */
typedef enum mx_matrix_kind {
    MX_MATRIX_STORED, /* rows of a plain or GGUF type, usually in the file's map */
    MX_MATRIX_CODES,  /* canonical packed MX codes and scales; fp32 product */
    MX_MATRIX_PANELS, /* the kernels' own layout; block product */
} mx_matrix_kind;

/* A weight matrix [n_rows][n_cols], how its input is quantized, and its bias. */
typedef struct mx_matrix {
    mx_matrix_kind kind;
    size_t n_rows, n_cols;
    mx_dtype dtype;             /* STORED */
    const uint8_t *data;        /* STORED: rows; CODES: packed codes; borrowed unless `owned` */
    size_t row_bytes;           /* of data */
    uint32_t permuted_head_dim; /* STORED: GGUF row permutation, 0 none (io/checkpoint.h) */
    const uint8_t *scales;      /* CODES: [n_rows][scale count]; borrowed unless `owned` */
    const uint8_t *panels;      /* PANELS: [ceil(n_rows / 16)] panels, 64-byte aligned */
    mx_quant cast;              /* STORED: what rows are rounded to as they are read, or none */
    mx_quant weights;           /* CODES, PANELS */
    mx_quant activations;       /* of the product's input; none: taken as it is */
    uint8_t *owned;             /* memory behind data and scales, or panels; free() */
    uint64_t stored_bytes;      /* canonical bytes: rows, or codes and scales */
    float *bias;                /* [n_rows] or NULL; owned */
} mx_matrix;

void mx_matrix_clear(mx_matrix *matrix);

/* Row `row` as fp32 in out [n_cols]; STORED and CODES only. `out` needs room for
 * n_cols rounded up to the storage type's block. */
void mx_matrix_row(const mx_matrix *matrix, size_t row, float *out);

/* The same for columns [begin, begin + n): begin a multiple of MX_F32_SLICE, and only
 * where mx_matrix_has_slices says that rows can be read in parts. */
void mx_matrix_columns(const mx_matrix *matrix, size_t row, size_t begin, size_t n, float *out);
bool mx_matrix_has_slices(const mx_matrix *matrix);

/* STORED: where row `row` begins. */
const uint8_t *mx_matrix_stored_row(const mx_matrix *matrix, size_t row);

/* Told of borrowed bytes that panels have replaced, a few MB at a time: of a mapped
 * file, their pages need not stay in memory. */
typedef struct mx_replaced {
    void (*fn)(void *ctx, const uint8_t *data, size_t size); /* may be NULL */
    void *ctx;
} mx_replaced;

/*
 * Turns CODES into PANELS when weights and activations have a block product;
 * otherwise leaves the matrix as it is. Memory behind the codes is freed when owned,
 * else told to `replaced`.
 */
mx_status mx_matrix_pack(mx_backend *backend, mx_matrix *matrix, mx_replaced replaced,
                         mx_error *err);

/* ---- products ------------------------------------------------------------- */

/* What products read the input as. */
typedef enum mx_operand_form {
    MX_OPERAND_ROWS,   /* fp32 rows: of one token, or few with bf16 weights */
    MX_OPERAND_PACKED, /* packed for f32_product (kernel.h) */
    MX_OPERAND_TILES,  /* tiles of the block product */
} mx_operand_form;

/*
 * The input of products, made ready once and shared by the matrices that take it
 * (q, k, v; gate, up). Lives in caller-owned scratch.
 */
typedef struct mx_operand {
    mx_operand_form form;
    const float *x;       /* ROWS: [n_tokens][k]; PACKED: [n_tokens * k]; cast when quantized */
    const uint8_t *tiles; /* TILES */
    size_t n_tokens, k;
    mx_quant activations, weights; /* what x or tiles were made for */
    bool ready;
} mx_operand;

/* Scratch bytes that one operand of up to n_tokens x k may need for `matrix`. */
size_t mx_operand_bytes(const mx_backend *backend, const mx_matrix *matrix, size_t n_tokens);

/* Where an operand comes from. */
typedef struct mx_operand_source {
    const float *x; /* [n_tokens][k] */
    size_t n_tokens;
    const uint64_t *streams; /* [n_tokens]: keys of stochastic rounding */
    /* Makes rows [begin, end) of x from what came before (a norm, a gate), so that they
     * are quantized while a cache holds them and by the same wake-up of the team; called
     * once for each row. NULL: they are there. */
    mx_range_fn make;
    void *ctx;
} mx_operand_source;

/*
 * Makes `operand` fit `matrix`: quantizes the source's rows as the matrix asks, into
 * `scratch` (64-byte aligned, mx_operand_bytes). Does nothing when it fits
 * already; set `operand->ready` to false when x changed.
 */
void mx_operand_prepare(mx_backend *backend, const mx_matrix *matrix,
                        const mx_operand_source *source, uint8_t *scratch, mx_operand *operand);

/* True when the operand is what products with `matrix` want. */
bool mx_operand_fits(const mx_operand *operand, const mx_matrix *matrix);

/* Scratch bytes of mx_matrix_product for this matrix (all threads together). */
size_t mx_product_bytes(const mx_backend *backend, const mx_matrix *matrix);

/* out [n_tokens][n_rows] = operand times the matrix's rows, plus bias. */
void mx_matrix_product(mx_backend *backend, const mx_matrix *matrix, const mx_operand *operand,
                       uint8_t *scratch, float *out);

/* The same for n <= MX_PRODUCTS matrices that the operand fits, where they allow it
 * with one wake-up of the team: outs[i] belongs to matrices[i]. */
#define MX_PRODUCTS 3
void mx_matrix_products(mx_backend *backend, const mx_matrix *const *matrices, size_t n,
                        const mx_operand *operand, uint8_t *scratch, float *const *outs);

#endif
