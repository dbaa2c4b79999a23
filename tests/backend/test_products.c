/*
 * fp32 products with matrices however they are held, of any number of tokens and
 * threads and on every ISA: the fma chain over the decoded rows, bit for bit.
 */
#include "kernel/kernel_test.h"

#include "backend/backend.h"

/* More than two slices; rows that are no whole panels; both a little ragged. */
enum { ROWS = 70, COLS = 2 * MX_F32_SLICE + 96, HEAD_DIM = 14, TOKENS_MOST = 3 * 96 + 5 };

static const size_t token_counts[] = {1, 2, 8, 9, 31, TOKENS_MOST};

typedef struct held {
    const char *name;
    mx_dtype dtype;      /* STORED, or NONE: CODES */
    const char *weights; /* CODES: format; STORED: of the cast, or NULL */
    uint32_t block;
    uint32_t permuted_head_dim;
    const char *activations; /* format or NULL */
} held;

/* Rows in one piece, in slices, and in what cannot be cut into slices. */
static const held cases[] = {
    {"bf16", MX_DTYPE_BF16, NULL, 0, 0, NULL},
    {"bf16, permuted", MX_DTYPE_BF16, NULL, 0, HEAD_DIM, NULL},
    {"bf16, inputs quantized", MX_DTYPE_BF16, NULL, 0, 0, "fp8_e4m3"},
    {"bf16, cast", MX_DTYPE_BF16, "fp6_e3m2", 32, 0, NULL},
    {"fp32, cast over the row", MX_DTYPE_F32, "int8", 0, 0, NULL},
    {"fp16", MX_DTYPE_F16, NULL, 0, 0, NULL},
    {"Q8_0, permuted", MX_DTYPE_Q8_0, NULL, 0, HEAD_DIM, NULL},
    {"codes of fp8, block 32", MX_DTYPE_NONE, "fp8_e5m2", 32, 0, "fp8_e5m2"},
    {"codes of fp6, block 48", MX_DTYPE_NONE, "fp6_e3m2", 48, 0, NULL},
    {"codes of fp4, whole rows", MX_DTYPE_NONE, "fp4_e2m1", 0, 0, "fp8_e4m3"},
};

static mx_quant quant_of(const char *format, uint32_t block)
{
    mx_quant quant = {.block = block, .round = MX_ROUND_EVEN};
    quant.format = format != NULL ? mx_format_find(format) : NULL;
    return quant;
}

/* A row of w [COLS] as the type stores it. */
static void store_row(mx_dtype dtype, const float *w, uint8_t *row)
{
    for (size_t i = 0; i < COLS; i++) {
        uint16_t half = dtype == MX_DTYPE_F16 ? mx_f32_to_f16(w[i]) : mx_f32_to_bf16(w[i]);
        if (dtype == MX_DTYPE_F32) {
            memcpy(row + 4 * i, &w[i], sizeof w[i]);
        } else if (dtype == MX_DTYPE_Q8_0) { /* blocks of 32 behind an fp16 scale */
            uint16_t scale = mx_f32_to_f16(0.03125f);
            memcpy(row + i / 32 * 34, &scale, sizeof scale);
            row[i / 32 * 34 + 2 + i % 32] = (uint8_t)(int8_t)(w[i] * 32);
        } else {
            memcpy(row + 2 * i, &half, sizeof half);
        }
    }
}

static mx_matrix matrix_make(const held *c, dice *d)
{
    mx_quant quant = quant_of(c->weights, c->block);
    bool stored = c->dtype != MX_DTYPE_NONE;
    mx_matrix matrix = {
        .kind = stored ? MX_MATRIX_STORED : MX_MATRIX_CODES,
        .n_rows = ROWS,
        .n_cols = COLS,
        .dtype = c->dtype,
        .permuted_head_dim = c->permuted_head_dim,
        .row_bytes = stored ? mx_dtype_bytes(c->dtype, COLS) : mx_row_code_bytes(&quant, COLS),
        .activations = quant_of(c->activations, 32),
    };
    *(stored ? &matrix.cast : &matrix.weights) = quant;
    size_t n_scales = stored ? 0 : mx_row_scale_count(&quant, COLS);
    matrix.owned = malloc(ROWS * (matrix.row_bytes + n_scales));
    matrix.data = matrix.owned;
    matrix.scales = matrix.owned + ROWS * matrix.row_bytes;
    for (size_t r = 0; r < ROWS; r++) {
        float w[COLS];
        uint8_t *row = matrix.owned + r * matrix.row_bytes;
        dice_fill(d, DATA_NORMAL, w, COLS);
        if (stored) {
            store_row(c->dtype, w, row);
        } else {
            mx_row_encode(&quant, w, COLS, r, row,
                          matrix.owned + ROWS * matrix.row_bytes + r * n_scales);
        }
    }
    return matrix;
}

static float *floats(size_t n)
{
    float *p = aligned_alloc(64, (n * sizeof *p + 63) / 64 * 64);
    assert_non_null(p);
    return p;
}

/* want [TOKENS_MOST][ROWS]: a token's outputs do not depend on the others'. */
static void chains(const mx_matrix *matrix, const float *x, float *want)
{
    float *w = floats(ROWS * COLS), *cast = floats(COLS);
    for (size_t r = 0; r < ROWS; r++) {
        mx_matrix_row(matrix, r, w + r * COLS);
    }
    for (size_t t = 0; t < TOKENS_MOST; t++) {
        mx_row_cast(&matrix->activations, x + t * COLS, COLS, t, cast);
        for (size_t r = 0; r < ROWS; r++) {
            float acc = 0;
            for (size_t i = 0; i < COLS; i++) {
                acc = fmaf(cast[i], w[r * COLS + i], acc);
            }
            want[t * ROWS + r] = acc;
        }
    }
    free(w);
    free(cast);
}

static void product_check(mx_backend *backend, const mx_matrix *matrix, const char *name,
                          const float *x, size_t n_tokens, const float *want)
{
    char what[128];
    uint64_t streams[TOKENS_MOST];
    for (size_t t = 0; t < n_tokens; t++) {
        streams[t] = t;
    }
    mx_operand operand = {0};
    mx_operand_source source = {.x = x, .n_tokens = n_tokens, .streams = streams};
    uint8_t *made = (uint8_t *)floats(mx_operand_bytes(backend, matrix, n_tokens) / 4 + 1);
    uint8_t *scratch = (uint8_t *)floats(mx_product_bytes(backend, matrix) / 4 + 1);
    float *out = floats(n_tokens * ROWS);
    mx_operand_prepare(backend, matrix, &source, made, &operand);
    assert_true(mx_operand_fits(&operand, matrix));
    mx_matrix_product(backend, matrix, &operand, scratch, out);
    snprintf(what, sizeof what, "%s: %s, %zu tokens, %d threads", backend->kernels.name, name,
             n_tokens, mx_team_size(backend->team));
    assert_same(out, want, n_tokens * ROWS, what);
    free(made);
    free(scratch);
    free(out);
}

static void test_f32_products(void **state)
{
    (void)state;
    ladder all = ladder_make();
    dice d = {.seed = 23};
    float *x = floats(TOKENS_MOST * COLS), *want = floats(TOKENS_MOST * ROWS);
    dice_fill(&d, DATA_NORMAL, x, TOKENS_MOST * COLS);
    for (size_t i = 0; i < MX_COUNT(cases); i++) {
        mx_matrix matrix = matrix_make(&cases[i], &d);
        chains(&matrix, x, want);
        for (int threads = 1; threads <= 5; threads += 4) {
            mx_backend backend;
            assert_int_equal(mx_backend_init(&backend, threads, NULL), MX_OK);
            for (size_t t = 0; t < all.count; t++) {
                size_t most = t == 0 ? 31 : TOKENS_MOST; /* the reference is slow */
                backend.kernels = all.tables[t];
                for (size_t n = 0; n < MX_COUNT(token_counts); n++) {
                    if (token_counts[n] <= most) {
                        product_check(&backend, &matrix, cases[i].name, x, token_counts[n], want);
                    }
                }
            }
            mx_backend_clear(&backend);
        }
        mx_matrix_clear(&matrix);
    }
    free(x);
    free(want);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_f32_products)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
