/* fp32 products, casts, norms and element-wise steps: every ISA against
 * the reference by bits, the reference against other arithmetic. */
#include "kernel_test.h"

/* ---- fp32 product ---------------------------------------------------------- */

/* A product of given operands, rows of w [n_rows][k] and x [n_tokens][k], whole or in
 * parts that it may be taken in. */
typedef struct product_case {
    const mx_kernels *table;
    size_t k, n_rows, n_tokens;
    const float *w, *x;
    size_t slice;  /* columns at a time, in multiples of MX_F32_SLICE */
    size_t tokens; /* at a time, in multiples of MX_F32_TOKENS */
} product_case;

/* Slice [first, first + k) of all panels. */
static guarded panels_make(const product_case *c, size_t first, size_t k)
{
    size_t n_panels = (c->n_rows + 15) / 16;
    guarded panels = guarded_make(n_panels * k * 16 * sizeof(float), 64);
    for (size_t i = 0; i < n_panels; i++) {
        const float *rows[16];
        size_t count = c->n_rows - 16 * i < 16 ? c->n_rows - 16 * i : 16;
        for (size_t r = 0; r < count; r++) {
            rows[r] = c->w + (16 * i + r) * c->k + first;
        }
        c->table->f32_panel_pack(rows, count, k, (float *)panels.data + i * k * 16);
    }
    return panels;
}

static guarded packed_make(const product_case *c)
{
    guarded packed = guarded_floats(c->n_tokens * c->k);
    for (size_t t = 0; t < c->n_tokens; t += MX_F32_TOKENS) {
        c->table->f32_tile_pack(c->x + t * c->k, c->k, c->k, t, c->n_tokens, packed.data);
    }
    if (c->n_tokens == 1) {
        assert_memory_equal(packed.data, c->x, c->k * sizeof(float));
    }
    return packed;
}

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

static void product_run(const product_case *c, float *out)
{
    size_t stride = c->n_rows + 5;
    guarded packed = packed_make(c);
    guarded wide = guarded_floats((c->n_tokens - 1) * stride + c->n_rows);
    for (size_t first = 0; first < c->k; first += c->slice) {
        size_t k = smaller(c->k - first, c->slice);
        guarded panels = panels_make(c, first, k);
        for (size_t t = 0; t < c->n_tokens; t += c->tokens) {
            mx_f32_product product = {
                .panels = panels.data,
                .n_panels = (c->n_rows + 15) / 16,
                .n_rows = c->n_rows,
                .first_k = first,
                .k = k,
                .x = packed.data,
                .x_tokens = c->n_tokens,
                .first_token = t,
                .n_tokens = smaller(c->n_tokens - t, c->tokens),
                .out = (float *)wide.data + t * stride,
                .out_stride = stride,
            };
            c->table->f32_product(&product);
        }
        guarded_free(&panels);
    }
    const float *from = wide.data;
    for (size_t t = 0; t < c->n_tokens; t++) {
        memcpy(out + t * c->n_rows, from + t * stride, c->n_rows * sizeof *out);
        for (size_t i = c->n_rows; t + 1 < c->n_tokens && i < stride; i++) {
            assert_int_equal(bits_of_float(from[t * stride + i]), 0xA5A5A5A5);
        }
    }
    guarded_free(&packed);
    guarded_free(&wide);
}

static void product_compare(const ladder *all, dice *d, size_t k, size_t n_rows, size_t n_tokens,
                            data_kind kind)
{
    guarded w = guarded_floats(n_rows * k), x = guarded_floats(n_tokens * k);
    dice_fill(d, kind, w.data, n_rows * k);
    dice_fill(d, kind, x.data, n_tokens * k);
    float *want = malloc(n_rows * n_tokens * sizeof *want);
    float *got = malloc(n_rows * n_tokens * sizeof *got);
    for (size_t t = 0; t < n_tokens; t++) {
        for (size_t r = 0; r < n_rows; r++) {
            float acc = 0;
            for (size_t i = 0; i < k; i++) {
                acc = fmaf(((float *)x.data)[t * k + i], ((float *)w.data)[r * k + i], acc);
            }
            want[t * n_rows + r] = acc;
        }
    }
    for (size_t i = 0; i < all->count; i++) {
        char what[128];
        snprintf(what, sizeof what, "%s: k %zu, %zu rows, %zu tokens", all->tables[i].name, k,
                 n_rows, n_tokens);
        product_case c = {&all->tables[i], k, n_rows, n_tokens, w.data, x.data, k, n_tokens};
        product_run(&c, got);
        assert_same(got, want, n_rows * n_tokens, what);
        c.slice = MX_F32_SLICE * (1 + dice_below(d, 2));
        c.tokens = MX_F32_TOKENS * (1 + dice_below(d, 2));
        product_run(&c, got);
        assert_same(got, want, n_rows * n_tokens, what);
    }
    free(want);
    free(got);
    guarded_free(&w);
    guarded_free(&x);
}

static void test_f32_product(void **state)
{
    (void)state;
    ladder all = ladder_make();
    dice d = {.seed = 11};
    for (size_t rows = 1; rows <= 67; rows += rows < 34 ? 1 : 11) {
        for (size_t tokens = 1; tokens <= 27; tokens++) {
            product_compare(&all, &d, 1 + dice_below(&d, 35), rows, tokens, DATA_NORMAL);
        }
    }
    product_compare(&all, &d, 1023, 33, 13, DATA_NORMAL);
    product_compare(&all, &d, 1024, 33, 13, DATA_WIDE);
    product_compare(&all, &d, 2051, 33, 97, DATA_NORMAL); /* slices of k, chunks of tokens */
    product_compare(&all, &d, 2051, 70, 1, DATA_NORMAL);
    for (int kind = 0; kind < DATA_KINDS; kind++) {
        product_compare(&all, &d, 100, 40, 14, (data_kind)kind);
    }
}

/* Panels of bf16 rows and of the same rows in fp32 are the same. */
static void bf16_panels_compare(const mx_kernels *table, const uint8_t *rows, size_t row_bytes,
                                const float *w, size_t n_rows, size_t k)
{
    guarded want = guarded_floats(16 * k), got = guarded_floats(16 * k);
    for (size_t first = 0; first < n_rows; first += 16) {
        const uint8_t *stored[16];
        const float *wide[16];
        size_t count = smaller(n_rows - first, 16);
        for (size_t r = 0; r < count; r++) {
            stored[r] = rows + (first + r) * row_bytes;
            wide[r] = w + (first + r) * k;
        }
        table->f32_panel_pack(wide, count, k, want.data);
        table->bf16_panel_pack(stored, count, k, got.data);
        assert_memory_equal(got.data, want.data, 16 * k * sizeof(float));
    }
    guarded_free(&want);
    guarded_free(&got);
}

/* Rows of bf16 at any addresses, with `gap` bytes between them, that end where memory
 * does: against the fma chain over the widened values. */
static void bf16_compare(const ladder *all, dice *d, size_t k, size_t n_rows, size_t n_tokens,
                         size_t gap, data_kind kind)
{
    size_t row_bytes = 2 * k + gap, stride = n_rows + 5;
    guarded rows = guarded_make((n_rows - 1) * row_bytes + 2 * k, 1);
    guarded w = guarded_floats(n_rows * k), x = guarded_floats(n_tokens * k);
    float *weights = w.data, *want = malloc(n_rows * n_tokens * sizeof *want);
    dice_fill(d, kind, w.data, n_rows * k);
    dice_fill(d, kind, x.data, n_tokens * k);
    for (size_t i = 0; i < n_rows * k; i++) {
        uint32_t bits = bits_of_float(weights[i]) & 0xFFFF0000u;
        uint8_t *to = (uint8_t *)rows.data + i / k * row_bytes + i % k * 2;
        memcpy(&weights[i], &bits, sizeof bits);
        to[0] = (uint8_t)(bits >> 16);
        to[1] = (uint8_t)(bits >> 24);
    }
    for (size_t t = 0; t < n_tokens; t++) {
        for (size_t r = 0; r < n_rows; r++) {
            float acc = 0;
            for (size_t i = 0; i < k; i++) {
                acc = fmaf(((float *)x.data)[t * k + i], weights[r * k + i], acc);
            }
            want[t * n_rows + r] = acc;
        }
    }
    for (size_t i = 0; i < all->count; i++) {
        char what[128];
        guarded out = guarded_floats((n_tokens - 1) * stride + n_rows);
        snprintf(what, sizeof what, "%s bf16: k %zu, %zu rows, %zu tokens", all->tables[i].name, k,
                 n_rows, n_tokens);
        all->tables[i].bf16_product(&(mx_bf16_product){rows.data, row_bytes, n_rows, k, x.data, k,
                                                       n_tokens, out.data, stride});
        for (size_t t = 0; t < n_tokens; t++) {
            assert_same((float *)out.data + t * stride, want + t * n_rows, n_rows, what);
        }
        guarded_free(&out);
        bf16_panels_compare(&all->tables[i], rows.data, row_bytes, weights, n_rows, k);
    }
    free(want);
    guarded_free(&rows);
    guarded_free(&w);
    guarded_free(&x);
}

static void test_bf16_product(void **state)
{
    (void)state;
    ladder all = ladder_make();
    dice d = {.seed = 17};
    for (size_t rows = 1; rows <= 67; rows += rows < 34 ? 1 : 11) {
        for (size_t tokens = 1; tokens <= MX_BF16_TOKENS; tokens++) {
            bf16_compare(&all, &d, 1 + dice_below(&d, 70), rows, tokens, 3, DATA_NORMAL);
        }
    }
    for (int kind = 0; kind < DATA_KINDS; kind++) {
        bf16_compare(&all, &d, 100, 40, 3, 3, (data_kind)kind);
        bf16_compare(&all, &d, 1040, 35, 1, 3, (data_kind)kind);
    }
    /* Rows whose columns begin cache lines alike, all of them or after the first few; as
     * many steps as there are in bursts, or others. */
    for (size_t past = 0; past < 32; past++) {
        size_t k = (past % 2 == 0 ? 1024 : 1216) + past, tokens = 1 + past % MX_BF16_TOKENS;
        bf16_compare(&all, &d, k, 33, tokens, 64 - 2 * k % 64, DATA_NORMAL);
    }
    bf16_compare(&all, &d, 2048, 70, 1, 0, DATA_NORMAL);
}

/* ---- casts ----------------------------------------------------------------- */

static void test_row_cast(void **state)
{
    (void)state;
    static const uint32_t blocks[] = {8, 16, 24, 32, 64, 0, 1};
    ladder all = ladder_make();
    dice d = {.seed = 12};
    size_t n_formats = mx_format_count();
    for (size_t i = 0; i < n_formats * MX_COUNT(blocks) * 4 * 4 * DATA_KINDS; i++) {
        mx_quant quant = {
            .format = mx_format_at(i % n_formats),
            .block = blocks[i / n_formats % MX_COUNT(blocks)],
            .round = (mx_round)(i / n_formats / MX_COUNT(blocks) % 4),
            .rule = (mx_scale_rule)(i / n_formats / MX_COUNT(blocks) / 4 % 4),
            .flush_subnormals = i % 2,
            .seed = i,
        };
        data_kind kind = (data_kind)(i / n_formats / MX_COUNT(blocks) / 16);
        size_t n = 1 + dice_below(&d, 150);
        guarded x = guarded_floats(n), out = guarded_floats(n);
        float want[150];
        dice_fill(&d, kind, x.data, n);
        mx_row_cast(&quant, x.data, n, i, want);
        for (size_t t = 0; t < all.count; t++) {
            char what[128];
            snprintf(what, sizeof what, "%s: %s, block %u, %s, %s", all.tables[t].name,
                     quant.format->name, quant.block, mx_round_name(quant.round),
                     mx_scale_rule_name(quant.rule));
            all.tables[t].row_cast(&quant, x.data, n, i, out.data);
            assert_same(out.data, want, n, what);
            memcpy(out.data, x.data, n * sizeof(float)); /* in place */
            all.tables[t].row_cast(&quant, out.data, n, i, out.data);
            assert_same(out.data, want, n, what);
        }
        guarded_free(&x);
        guarded_free(&out);
    }
}

/* Every magnitude near every rounding threshold of each format, under scale 2^0. */
static void test_cast_thresholds(void **state)
{
    (void)state;
    ladder all = ladder_make();
    for (size_t i = 0; i < mx_format_count() * 3; i++) {
        mx_quant quant = {.format = mx_format_at(i / 3), .block = 8, .round = (mx_round)(i % 3)};
        if (!mx_quant_is_scaled(&quant) || quant.format->bits > 8) {
            continue;
        }
        for (uint32_t code = 0; code < 1u << (quant.format->bits - 1); code++) {
            float low = quant.format->decode(quant.format, code);
            float high = quant.format->decode(quant.format, code + 1);
            if (!(low >= 0 && high > low && isfinite(high))) {
                continue;
            }
            float middle = low + (high - low) / 2;
            float x[8] = {quant.format->max,
                          middle,
                          nextafterf(middle, 0),
                          nextafterf(middle, INFINITY),
                          -middle,
                          nextafterf(low, 0),
                          nextafterf(high, 0),
                          -nextafterf(middle, 0)};
            float want[8], got[8];
            mx_row_cast(&quant, x, 8, 0, want);
            for (size_t t = 0; t < all.count; t++) {
                all.tables[t].row_cast(&quant, x, 8, 0, got);
                assert_same(got, want, 8, quant.format->name);
            }
        }
    }
}

/* ---- exponential ----------------------------------------------------------- */

static void test_exp(void **state)
{
    (void)state;
    double worst = 0;
    for (uint32_t bits = 0; bits < 0x42B17218; bits += 331) { /* up to ln FLT_MAX */
        for (int sign = 0; sign < 2; sign++) {
            float x = float_of_bits(bits | (uint32_t)sign << 31);
            long double exact = expl((long double)x);
            float got = mx_exp(x);
            /* One ulp at the exact result, a subnormal one included. */
            int exponent = exact < 0x1p-126L ? -126 : ilogbl(exact);
            double error = (double)fabsl((long double)got - exact) / ldexp(1, exponent - 23);
            worst = error > worst ? error : worst;
        }
    }
    print_message("mx_exp: at most %.3f ulp off\n", worst);
    assert_true(worst < 1.0);
    assert_true(mx_exp(0.0f) == 1 && mx_exp(-0.0f) == 1);
    assert_true(mx_exp(-INFINITY) == 0 && mx_exp(-104.5f) == 0 && mx_exp(-1e30f) == 0);
    assert_true(isinf(mx_exp(INFINITY)) && isinf(mx_exp(88.8f)) && isinf(mx_exp(1e30f)));
    assert_true(isnan(mx_exp(NAN)));
}

/* ---- rows ------------------------------------------------------------------ */

static void test_rms_norm(void **state)
{
    (void)state;
    ladder all = ladder_make();
    dice d = {.seed = 13};
    for (size_t n = 1; n <= 100; n++) {
        for (int kind = 0; kind < DATA_KINDS; kind++) {
            guarded x = guarded_floats(n), w = guarded_floats(n), out = guarded_floats(n);
            float want[100];
            dice_fill(&d, (data_kind)kind, x.data, n);
            dice_fill(&d, DATA_NORMAL, w.data, n);
            all.tables[0].rms_norm(x.data, w.data, 1e-5f, n, want);
            for (size_t t = 1; t < all.count; t++) {
                all.tables[t].rms_norm(x.data, w.data, 1e-5f, n, out.data);
                assert_same(out.data, want, n, all.tables[t].name);
            }
            double sum = 0; /* the definition, in double */
            for (size_t i = 0; i < n; i++) {
                sum += (double)((float *)x.data)[i] * (double)((float *)x.data)[i];
            }
            double scale = 1 / sqrt(sum / (double)n + (double)1e-5f);
            for (size_t i = 0; kind < DATA_EXTREME && i < n; i++) {
                double exact = (double)((float *)x.data)[i] * scale * (double)((float *)w.data)[i];
                assert_true(fabs((double)want[i] - exact) <= 1e-6 * fabs(exact) + 1e-30);
            }
            guarded_free(&x);
            guarded_free(&w);
            guarded_free(&out);
        }
    }
}

static void test_rope(void **state)
{
    (void)state;
    ladder all = ladder_make();
    dice d = {.seed = 14};
    for (size_t dim = 2; dim <= 140; dim += 2) {
        size_t heads = 1 + dim % 3, n = heads * dim;
        guarded x = guarded_floats(n), c = guarded_floats(dim / 2), s = guarded_floats(dim / 2);
        float before[420], want[420];
        dice_fill(&d, DATA_NORMAL, before, n);
        for (size_t i = 0; i < dim / 2; i++) {
            ((float *)c.data)[i] = cosf((float)i);
            ((float *)s.data)[i] = sinf((float)i);
        }
        for (size_t t = 0; t < all.count; t++) {
            memcpy(x.data, before, n * sizeof(float));
            all.tables[t].rope(x.data, heads, dim, c.data, s.data);
            if (t == 0) {
                memcpy(want, x.data, n * sizeof(float));
            }
            assert_same(x.data, want, n, all.tables[t].name);
        }
        for (size_t i = 0; i < n; i++) { /* a rotation by angle i of the pair (a, b) */
            size_t at = i % dim, pair = at % (dim / 2), base = i - at;
            double a = (double)before[base + pair], b = (double)before[base + pair + dim / 2];
            double exact = at < dim / 2 ? a * cos((double)pair) - b * sin((double)pair)
                                        : b * cos((double)pair) + a * sin((double)pair);
            assert_true(fabs((double)want[i] - exact) < 2e-6);
        }
        guarded_free(&x);
        guarded_free(&c);
        guarded_free(&s);
    }
}

static void test_silu_add(void **state)
{
    (void)state;
    ladder all = ladder_make();
    dice d = {.seed = 15};
    for (size_t n = 1; n <= 70; n++) {
        for (int kind = 0; kind < DATA_KINDS; kind++) {
            guarded g = guarded_floats(n), u = guarded_floats(n), out = guarded_floats(n);
            float want[70], sum[70];
            dice_fill(&d, (data_kind)kind, g.data, n);
            dice_fill(&d, DATA_NORMAL, u.data, n);
            all.tables[0].silu_mul(g.data, u.data, n, want);
            memcpy(sum, u.data, n * sizeof(float));
            all.tables[0].add(g.data, n, sum);
            for (size_t t = 1; t < all.count; t++) {
                memcpy(out.data, g.data, n * sizeof(float)); /* in place */
                all.tables[t].silu_mul(out.data, u.data, n, out.data);
                assert_same(out.data, want, n, all.tables[t].name);
                memcpy(out.data, u.data, n * sizeof(float));
                all.tables[t].add(g.data, n, out.data);
                assert_same(out.data, sum, n, all.tables[t].name);
            }
            for (size_t i = 0; kind == DATA_NORMAL && i < n; i++) {
                double x = (double)((float *)g.data)[i], y = (double)((float *)u.data)[i];
                assert_true(fabs((double)want[i] - x / (1 + exp(-x)) * y) < 1e-6);
                assert_true((double)sum[i] == (double)(float)(x + y));
            }
            guarded_free(&g);
            guarded_free(&u);
            guarded_free(&out);
        }
    }
}

static void stats_compare(const ladder *all, const float *x, size_t n)
{
    mx_row_stats want, got;
    all->tables[0].row_stats(x, n, &want);
    for (size_t t = 1; t < all->count; t++) {
        all->tables[t].row_stats(x, n, &got);
        assert_int_equal(bits_of_float(got.max), bits_of_float(want.max));
        assert_int_equal(got.argmax, want.argmax);
        assert_true(got.sum_exp == want.sum_exp || (isnan(got.sum_exp) && isnan(want.sum_exp)));
    }
}

static void test_row_stats(void **state)
{
    (void)state;
    ladder all = ladder_make();
    dice d = {.seed = 16};
    for (size_t n = 1; n <= 100; n++) {
        for (int kind = 0; kind < DATA_KINDS; kind++) {
            guarded memory = guarded_floats(n);
            float *x = memory.data;
            dice_fill(&d, (data_kind)kind, x, n);
            stats_compare(&all, x, n);
            x[dice_below(&d, n)] = 9; /* the same largest value twice: the first counts */
            x[dice_below(&d, n)] = 9;
            stats_compare(&all, x, n);
            for (size_t i = 0; i < n; i++) {
                x[i] = n % 3 == 0 ? -INFINITY : n % 3 == 1 ? -0.0f : NAN;
            }
            x[n / 2] = 0.0f * x[n / 2];
            stats_compare(&all, x, n);
            guarded_free(&memory);
        }
    }
    float x[500];
    dice_fill(&d, DATA_NORMAL, x, 500);
    mx_row_stats stats;
    all.tables[0].row_stats(x, 500, &stats);
    double sum = 0;
    for (size_t i = 0; i < 500; i++) {
        sum += exp((double)x[i] - (double)stats.max);
        assert_true(x[i] <= x[stats.argmax]);
    }
    assert_true(fabs(stats.sum_exp / sum - 1) < 1e-7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_f32_product), cmocka_unit_test(test_bf16_product),
        cmocka_unit_test(test_row_cast),    cmocka_unit_test(test_cast_thresholds),
        cmocka_unit_test(test_exp),         cmocka_unit_test(test_rms_norm),
        cmocka_unit_test(test_rope),        cmocka_unit_test(test_silu_add),
        cmocka_unit_test(test_row_stats),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
