/* Attention: every ISA against the reference by bits, the reference against double. */
#include "kernel_test.h"

#include <float.h>

static void test_exp2_weight(void **state)
{
    (void)state;
    static const float maxima[] = {0, 1, -7, 1048575, -1048575, 1048576, -4e6f, 3e9f, -FLT_MAX};
    for (size_t i = 0; i < MX_COUNT(maxima); i++) {
        double worst = 0;
        float m = maxima[i];
        for (float x = -54; x <= 73.5f; x += 0x1p-8f) {
            float s = m + x;
            double rest = (double)s - (double)m; /* s is rounded: what is left of x */
            if (rest >= -54 && rest <= 73.5) {
                worst = fmax(worst, fabs((double)mx_exp2_weight(s, m) / exp2(rest) - 1));
            }
        }
        assert_true(worst < 1.1e-4);
        assert_true(mx_exp2_weight(m, m) == 1);
        assert_true(mx_exp2_weight(-INFINITY, m) == 0x1p-54f && isnan(mx_exp2_weight(NAN, m)));
    }
    assert_true(mx_exp2_weight(-0.0f, 0) == 1 && mx_exp2_weight(-55, 0) == 0x1p-54f);
    assert_true(mx_exp2_weight(5, INFINITY) == 0x1p-54f &&
                isnan(mx_exp2_weight(INFINITY, INFINITY)));
}

/* The definition in double, over plain keys [n_keys][dim]. */
static double attention_exact(const float *q, const float *k, const float *v, size_t dim, size_t n,
                              double scale, size_t d)
{
    double mixed = 0, sum = 0, max = -INFINITY;
    for (int pass = 0; pass < 2; pass++) {
        for (size_t j = 0; j < n; j++) {
            double s = 0;
            for (size_t i = 0; i < dim; i++) {
                s += (double)q[i] * (double)k[j * dim + i];
            }
            s *= scale;
            if (pass == 0) {
                max = s > max ? s : max;
                continue;
            }
            sum += exp(s - max);
            mixed += exp(s - max) * (double)v[j * dim + d];
        }
    }
    return mixed / sum;
}

/* Plain keys [n_keys][dim] to tiles of 16; positions beyond the last key are NaN. */
static void keys_tile(const float *plain, size_t n_keys, size_t dim, float *tiles)
{
    for (size_t i = 0; i < (n_keys + 15) / 16 * 16 * dim; i++) {
        tiles[i] = NAN;
    }
    for (size_t j = 0; j < n_keys; j++) {
        for (size_t i = 0; i < dim; i++) {
            tiles[(j / 16 * dim + i) * 16 + j % 16] = plain[j * dim + i];
        }
    }
}

/* Every table, all tokens in one call and the reference token by token. */
typedef struct attention_case {
    size_t tokens, heads, dim, keys; /* keys: of the first token */
    data_kind kind;
    bool late_nan; /* in the values of the last token, which the others do not see */
    float growth;  /* of a key beside the one before */
} attention_case;

static void attention_check(const ladder *all, const mx_attention *attention, float *want)
{
    size_t n = attention->n_tokens, stride = attention->stride;
    size_t width = attention->n_heads * attention->head_dim;
    for (size_t t = 0; t < n; t++) {
        mx_attention lone = *attention;
        lone.q += t * stride;
        lone.out += t * stride;
        lone.n_keys += t;
        lone.n_tokens = 1;
        all->tables[0].attention(&lone);
        memcpy(want + t * width, lone.out, width * sizeof *want);
    }
    for (size_t i = 0; i < all->count; i++) {
        char what[128];
        snprintf(what, sizeof what, "%s: %zu tokens, %zu heads of %zu, %zu keys",
                 all->tables[i].name, n, attention->n_heads, attention->head_dim,
                 attention->n_keys);
        memset(attention->out, 0xA5, ((n - 1) * stride + width) * sizeof(float));
        all->tables[i].attention(attention);
        for (size_t t = 0; t < n; t++) {
            const float *out = attention->out + t * stride;
            assert_same(out, want + t * width, width, what);
            for (size_t j = width; t + 1 < n && j < stride; j++) {
                assert_int_equal(bits_of_float(out[j]), 0xA5A5A5A5);
            }
        }
    }
}

/* n NaN, to be overwritten. */
static guarded guarded_halves(size_t n)
{
    guarded halves = guarded_make(n * sizeof(uint16_t), sizeof(uint16_t));
    memset(halves.data, 0xFF, n * sizeof(uint16_t));
    return halves;
}

/* Plain keys [n_keys][dim] to tiles of pairs; positions beyond the last key are NaN. */
static guarded keys_pairs(const float *plain, size_t n_keys, size_t dim)
{
    guarded pairs = guarded_halves((n_keys + 15) / 16 * 16 * dim);
    for (size_t j = 0; j < n_keys; j++) {
        for (size_t i = 0; i < dim; i++) {
            size_t at = j / 16 * 16 * dim + (i / 2 * 16 + j % 16) * 2 + i % 2;
            ((uint16_t *)pairs.data)[at] = mx_bf16_operand(plain[j * dim + i]);
        }
    }
    return pairs;
}

/* Plain values [n_keys][dim] to pairs of keys; a missing last key is NaN. */
static guarded values_pairs(const float *plain, size_t n_keys, size_t dim)
{
    guarded pairs = guarded_halves((n_keys + 1) / 2 * 2 * dim);
    for (size_t j = 0; j < n_keys; j++) {
        for (size_t i = 0; i < dim; i++) {
            size_t at = j / 2 * 2 * dim + i * 2 + j % 2;
            ((uint16_t *)pairs.data)[at] = mx_bf16_operand(plain[j * dim + i]);
        }
    }
    return pairs;
}

/* The same attention with bf16 keys and values; want: what the reference makes of it. */
static void attention_check_bf16(const ladder *all, const mx_attention *attention, const float *k,
                                 const float *v, float *want)
{
    size_t n_keys = attention->n_keys + attention->n_tokens - 1, dim = attention->head_dim;
    guarded keys = keys_pairs(k, n_keys, dim), values = values_pairs(v, n_keys, dim);
    mx_attention stored = *attention;
    stored.kv_type = MX_KV_BF16;
    stored.k = keys.data;
    stored.v = values.data;
    attention_check(all, &stored, want);
    guarded_free(&keys);
    guarded_free(&values);
}

/* Some of the sums want [n_tokens][n_heads * dim] against the definition. */
static void attention_check_exact(const mx_attention *p, const float *k, const float *v,
                                  const float *want, double tolerance)
{
    size_t dim = p->head_dim, width = p->n_heads * dim;
    for (size_t i = 0; i < p->n_tokens * width; i += 13) {
        size_t t = i / width, head = i % width / dim;
        const float *row = p->q + t * p->stride + head * dim;
        double exact = attention_exact(row, k, v, dim, p->n_keys + t, (double)p->scale, i % dim);
        assert_true(fabs((double)want[i] - exact) < tolerance);
    }
}

static void attention_compare(const ladder *all, dice *d, attention_case c)
{
    size_t n_keys = c.keys + c.tokens - 1, width = c.heads * c.dim, stride = width + 3;
    size_t n = (c.tokens - 1) * stride + width;
    guarded q = guarded_floats(n), k = guarded_floats((n_keys + 15) / 16 * 16 * c.dim);
    guarded v = guarded_floats(n_keys * c.dim), out = guarded_floats(n);
    guarded scratch = guarded_make(MX_ATTENTION_SCRATCH_ROWS * c.dim * sizeof(float), 64);
    memset(scratch.data, 0xFF, MX_ATTENTION_SCRATCH_ROWS * c.dim * sizeof(float));
    float *plain = malloc(n_keys * c.dim * sizeof *plain);
    float *want = malloc(c.tokens * width * sizeof *want);
    dice_fill(d, c.kind, q.data, n);
    dice_fill(d, c.kind, plain, n_keys * c.dim);
    for (size_t i = 0; c.growth > 0 && i < n_keys * c.dim; i++) {
        plain[i] *= powf(c.growth, (float)(i / c.dim));
    }
    dice_fill(d, c.kind, v.data, n_keys * c.dim);
    if (c.late_nan) {
        ((float *)v.data)[n_keys * c.dim - 1] = NAN;
    }
    keys_tile(plain, n_keys, c.dim, k.data);
    mx_attention attention = {
        .q = q.data,
        .stride = stride,
        .n_tokens = c.tokens,
        .n_heads = c.heads,
        .head_dim = c.dim,
        .k = k.data,
        .v = v.data,
        .scratch = scratch.data,
        .n_keys = c.keys,
        .scale = 1 / sqrtf((float)c.dim),
        .out = out.data,
    };
    /* Of 8 bits in the operands, errors of the mean of values near 1 stay far below 2^-5. */
    attention_check_bf16(all, &attention, plain, v.data, want);
    bool tame = c.kind == DATA_NORMAL && c.growth == 0;
    if (tame) {
        attention_check_exact(&attention, plain, v.data, want, 0x1p-5);
    }
    attention_check(all, &attention, want);
    if (tame) {
        attention_check_exact(&attention, plain, v.data, want, 1e-5);
    }
    free(plain);
    free(want);
    guarded_free(&q);
    guarded_free(&k);
    guarded_free(&v);
    guarded_free(&out);
    guarded_free(&scratch);
}

/* What only later tokens see may be anything: it does not reach the others' sums. */
static void test_attention_late(void **state)
{
    (void)state;
    ladder all = ladder_make();
    dice d = {.seed = 19};
    for (size_t keys = 1; keys < 200; keys += 1 + dice_below(&d, 20)) {
        attention_compare(&all, &d,
                          (attention_case){2 + keys % 9, 2, 32, keys, DATA_WIDE, true, 0});
    }
}

static void test_attention(void **state)
{
    (void)state;
    static const size_t dims[] = {2, 8, 16, 24, 48, 64, 80, 128, 130};
    ladder all = ladder_make();
    dice d = {.seed = 17};
    for (size_t heads = 1; heads <= 9; heads++) {
        for (size_t i = 0; i < MX_COUNT(dims); i++) {
            for (size_t keys = 1; keys <= 200; keys += 1 + dice_below(&d, 100)) {
                attention_case c = {1 + dice_below(&d, 5), heads, dims[i], keys,
                                    DATA_NORMAL,           false, 0};
                attention_compare(&all, &d, c);
            }
        }
    }
    for (int kind = 0; kind < DATA_KINDS; kind++) {
        attention_compare(&all, &d, (attention_case){3, 3, 64, 137, (data_kind)kind, false, 0});
    }
}

/* Tiles of tokens whose last keys lie in two blocks, and more rows than one pass
 * over the keys takes. */
static void test_attention_tiles(void **state)
{
    (void)state;
    ladder all = ladder_make();
    dice d = {.seed = 18};
    for (size_t keys = 1; keys <= 130; keys += 1 + dice_below(&d, 12)) {
        attention_compare(&all, &d, (attention_case){22, 3, 20, keys, DATA_WIDE, false, 0});
        attention_compare(&all, &d, (attention_case){1, 71, 16, keys, DATA_NORMAL, false, 0});
        attention_compare(&all, &d, (attention_case){90, 1, 32, keys, DATA_NORMAL, false, 0});
    }
}

/* Whole tiles of rows over whole blocks, which AMX takes in turn; scores that stay, that
 * leave the reach of the first block's largest in some rows, and that no fp32 holds. */
static void test_attention_whole(void **state)
{
    (void)state;
    static const attention_case shapes[] = {
        {16, 4, 64, 64, DATA_NORMAL, false, 0},   {16, 4, 64, 128, DATA_NORMAL, false, 0},
        {8, 4, 64, 191, DATA_NORMAL, false, 0},   {16, 3, 64, 320, DATA_NORMAL, false, 0},
        {21, 3, 64, 260, DATA_NORMAL, false, 0},  {32, 1, 128, 130, DATA_NORMAL, false, 0},
        {48, 1, 128, 256, DATA_NORMAL, false, 0}, {32, 2, 96, 128, DATA_NORMAL, false, 0},
        {16, 1, 64, 128, DATA_NORMAL, false, 0},
    };
    static const float growths[] = {0, 1.01f, 1.02f, 1.04f, 1.4f};
    ladder all = ladder_make();
    dice d = {.seed = 20};
    for (size_t s = 0; s < MX_COUNT(shapes); s++) {
        for (size_t g = 0; g < MX_COUNT(growths); g++) {
            attention_case c = shapes[s];
            c.growth = growths[g];
            attention_compare(&all, &d, c);
        }
        for (int kind = 0; kind < DATA_KINDS; kind++) {
            attention_case c = shapes[s];
            c.kind = (data_kind)kind;
            attention_compare(&all, &d, c);
        }
    }
}

/* Scores that grow and fall over the blocks, so that sums are rescaled or vanish;
 * -Inf, NaN and very large ones. */
static void test_attention_scores(void **state)
{
    (void)state;
    enum { KEYS = 200 };
    static const float steps[] = {0.01f, 1, 200, -1, -200, 1e36f, -1e36f};
    ladder all = ladder_make();
    for (size_t s = 0; s < MX_COUNT(steps) * 3; s++) {
        float plain[KEYS], k[(KEYS + 15) / 16 * 16], v[KEYS], q = 1, out, want;
        _Alignas(64) float scratch[MX_ATTENTION_SCRATCH_ROWS];
        for (size_t j = 0; j < KEYS; j++) {
            plain[j] = steps[s / 3] * (float)j;
            v[j] = (float)(j % 7) - 3;
        }
        if (s % 3 != 0) {
            plain[s / 3 * 25] = s % 3 == 1 ? -INFINITY : NAN;
        }
        keys_tile(plain, KEYS, 1, k);
        mx_attention attention = {.q = &q,
                                  .stride = 1,
                                  .n_tokens = 1,
                                  .n_heads = 1,
                                  .head_dim = 1,
                                  .k = k,
                                  .v = v,
                                  .scratch = scratch,
                                  .n_keys = KEYS,
                                  .scale = 1,
                                  .out = &out};
        attention_check(&all, &attention, &want);
        assert_true(isnan(want) == (s % 3 == 2));
        if (s == 3 * 2) { /* steep: the last key takes all */
            assert_true(want == v[KEYS - 1]);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exp2_weight),     cmocka_unit_test(test_attention),
        cmocka_unit_test(test_attention_tiles), cmocka_unit_test(test_attention_whole),
        cmocka_unit_test(test_attention_late),  cmocka_unit_test(test_attention_scores),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
