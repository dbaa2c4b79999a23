/* The block product and the quantization that feeds it: every ISA against the reference
 * by bits, the reference against separately written arithmetic. */
#include "kernel_test.h"

/* Any two of them make a pair; those with integer tables come first. */
static const char *const formats[] = {"fp4_e2m1", "fp6_e2m3", "int8",     "int4",
                                      "int2",     "fp8_e4m3", "fp8_e5m2", "fp6_e3m2"};
enum { FORMATS = MX_COUNT(formats), PAIRS = FORMATS * FORMATS };
static const uint32_t blocks[] = {8, 16, 24, 32, 64, 0};

/* One product: operands in canonical form. */
typedef struct problem {
    mx_quant weights, activations;
    size_t k, n_rows, n_tokens;
    uint8_t *codes, *scales; /* of the weights [n_rows][...] */
    size_t code_bytes, scale_count;
    guarded x_memory;
    float *x; /* [n_tokens][k], against a guard page */
    char name[160];
} problem;

static mx_quant quant_make(const char *format, uint32_t block)
{
    mx_quant quant = {.format = mx_format_find(format), .block = block, .round = MX_ROUND_EVEN};
    assert_non_null(quant.format);
    return quant;
}

static problem problem_make(const mx_quant *weights, const mx_quant *activations, size_t k,
                            size_t n_rows, size_t n_tokens)
{
    problem p = {.weights = *weights,
                 .activations = *activations,
                 .k = k,
                 .n_rows = n_rows,
                 .n_tokens = n_tokens};
    p.code_bytes = mx_row_code_bytes(weights, k);
    p.scale_count = mx_row_scale_count(weights, k);
    p.codes = calloc(n_rows, p.code_bytes);
    p.scales = calloc(n_rows, p.scale_count);
    assert_true(p.codes != NULL && p.scales != NULL);
    p.x_memory = guarded_floats(n_tokens * k);
    p.x = p.x_memory.data;
    snprintf(p.name, sizeof p.name, "%s x %s, block %u, k %zu, %zu rows, %zu tokens",
             weights->format->name, activations->format->name, weights->block, k, n_rows, n_tokens);
    return p;
}

static void problem_free(problem *p)
{
    free(p->codes);
    free(p->scales);
    guarded_free(&p->x_memory);
}

/* Weights: quantized random rows, or (special kinds) any code and any scale. */
static void problem_fill(problem *p, dice *d, data_kind w_kind, data_kind a_kind)
{
    float *row = malloc(p->k * sizeof *row);
    for (size_t r = 0; r < p->n_rows; r++) {
        uint8_t *codes = p->codes + r * p->code_bytes, *scales = p->scales + r * p->scale_count;
        dice_fill(d, w_kind == DATA_SPECIAL ? DATA_NORMAL : w_kind, row, p->k);
        mx_row_encode(&p->weights, row, p->k, 0, codes, scales);
        if (w_kind != DATA_SPECIAL) {
            continue;
        }
        for (size_t i = 0; i < p->k / 8 * p->weights.format->bits; i++) {
            codes[i] = (uint8_t)dice_u32(d);
        }
        for (size_t i = 0; i < p->scale_count; i++) {
            static const uint8_t edges[] = {0, 1, 2, 127, 253, 254, 255};
            if (dice_below(d, 8) == 0) {
                scales[i] = edges[dice_below(d, sizeof edges)];
            }
        }
    }
    free(row);
    dice_fill(d, a_kind, p->x, p->n_tokens * p->k);
}

/* The product by one table: out [n_tokens][n_rows], through guarded buffers. */
static void problem_run(const problem *p, const mx_kernels *table, float *out)
{
    size_t n_panels = (p->n_rows + 15) / 16, n_tiles = (p->n_tokens + 15) / 16;
    size_t panel_bytes = table->block_panel_bytes(&p->weights, &p->activations, p->k);
    size_t tile_bytes = table->block_tile_bytes(&p->weights, &p->activations, p->k);
    assert_true(panel_bytes % 64 == 0 && tile_bytes % 64 == 0);
    guarded panels = guarded_make(n_panels * panel_bytes, 64);
    guarded tiles = guarded_make(n_tiles * tile_bytes, 64);
    for (size_t i = 0; i < n_panels; i++) {
        const uint8_t *codes[16], *scales[16];
        size_t rows = p->n_rows - 16 * i < 16 ? p->n_rows - 16 * i : 16;
        for (size_t r = 0; r < rows; r++) {
            codes[r] = p->codes + (16 * i + r) * p->code_bytes;
            scales[r] = p->scales + (16 * i + r) * p->scale_count;
        }
        table->block_panel_pack(&p->weights, &p->activations, p->k, codes, scales, rows,
                                (uint8_t *)panels.data + i * panel_bytes);
    }
    for (size_t i = 0; i < n_tiles; i++) {
        size_t tokens = p->n_tokens - 16 * i < 16 ? p->n_tokens - 16 * i : 16;
        table->block_tile_pack(&p->weights, &p->activations, p->k, p->x + 16 * i * p->k, p->k,
                               tokens, 16 * i, (uint8_t *)tiles.data + i * tile_bytes);
    }
    /* Columns beyond n_rows must stay as they are, but for the last row there is
     * nothing beyond. */
    size_t stride = p->n_rows + 3;
    guarded wide = guarded_floats((p->n_tokens - 1) * stride + p->n_rows);
    float *to = wide.data;
    mx_block_product product = {
        .weights = &p->weights,
        .activations = &p->activations,
        .k = p->k,
        .panels = panels.data,
        .n_panels = n_panels,
        .n_rows = p->n_rows,
        .tiles = tiles.data,
        .n_tokens = p->n_tokens,
        .out = to,
        .out_stride = stride,
    };
    table->block_product(&product);
    for (size_t t = 0; t < p->n_tokens; t++) {
        memcpy(out + t * p->n_rows, to + t * stride, p->n_rows * sizeof *out);
        for (size_t i = p->n_rows; t + 1 < p->n_tokens && i < stride; i++) {
            assert_int_equal(bits_of_float(to[t * stride + i]), 0xA5A5A5A5);
        }
    }
    guarded_free(&panels);
    guarded_free(&tiles);
    guarded_free(&wide);
}

/* All tables against the first. */
static void problem_compare(const problem *p, const ladder *all)
{
    size_t n = p->n_rows * p->n_tokens;
    float *want = malloc(n * sizeof *want), *got = malloc(n * sizeof *got);
    problem_run(p, &all->tables[0], want);
    for (size_t i = 1; i < all->count; i++) {
        char what[200];
        snprintf(what, sizeof what, "%s: %s", all->tables[i].name, p->name);
        problem_run(p, &all->tables[i], got);
        assert_same(got, want, n, what);
    }
    free(want);
    free(got);
}

/* Lengths at the edges of blocks, pieces and vectors. */
static size_t pick_k(dice *d, uint32_t block)
{
    static const size_t axis[] = {1, 5, 16, 45, 64, 100, 260, 520, 1030};
    if (block == 0) {
        return axis[dice_below(d, MX_COUNT(axis))];
    }
    return block * (1 + dice_below(d, 4)) + (dice_below(d, 2) ? dice_below(d, block) : 0);
}

static void test_pairs(void **state)
{
    (void)state;
    static const size_t rows[] = {1, 2, 15, 16, 17, 31, 32, 33, 49, 65};
    static const size_t tokens[] = {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 25, 33};
    ladder all = ladder_make();
    dice d = {.seed = 1};
    for (size_t i = 0; i < PAIRS * MX_COUNT(blocks); i++) {
        uint32_t block = blocks[i % MX_COUNT(blocks)];
        mx_quant w = quant_make(formats[i / MX_COUNT(blocks) % FORMATS], block);
        mx_quant a = quant_make(formats[i / MX_COUNT(blocks) / FORMATS], block);
        for (int kinds = 0; kinds < DATA_KINDS * DATA_KINDS; kinds++) {
            problem p = problem_make(&w, &a, pick_k(&d, block), rows[dice_below(&d, 10)],
                                     tokens[dice_below(&d, 13)]);
            assert_true(all.tables[0].block_supported(&w, &a, p.k));
            problem_fill(&p, &d, kinds % DATA_KINDS, kinds / DATA_KINDS);
            problem_compare(&p, &all);
            problem_free(&p);
        }
    }
}

static void test_shapes(void **state)
{
    (void)state;
    ladder all = ladder_make();
    dice d = {.seed = 2};
    mx_quant w = quant_make("fp4_e2m1", 32), a = quant_make("fp6_e2m3", 32);
    mx_quant fp8 = quant_make("fp8_e4m3", 32);
    for (size_t rows = 1; rows <= 33; rows++) {
        for (size_t tokens = 1; tokens <= 33; tokens++) {
            const mx_quant *activations = (rows + tokens) % 2 ? &fp8 : &a;
            problem p = problem_make(&w, activations, 64, rows, tokens);
            problem_fill(&p, &d, DATA_NORMAL, DATA_WIDE);
            problem_compare(&p, &all);
            problem_free(&p);
        }
    }
    static const size_t many[] = {63, 64, 65, 127, 128, 129, 137, 257};
    for (size_t i = 0; i < MX_COUNT(many); i++) {
        for (int block = 0; block <= 32; block += 32) { /* axis: blocks of several pieces */
            mx_quant e4m3 = quant_make("fp8_e4m3", (uint32_t)block);
            problem p8 = problem_make(&e4m3, &e4m3, 328, 35, many[i]);
            problem_fill(&p8, &d, DATA_NORMAL, DATA_SPECIAL);
            problem_compare(&p8, &all);
            problem_free(&p8);
            mx_quant w8 = quant_make("int8", (uint32_t)block),
                     w4 = quant_make("fp4_e2m1", (uint32_t)block);
            mx_quant a8 = quant_make("int8", (uint32_t)block);
            problem p = problem_make(i % 2 ? &w8 : &w4, &a8, 328, 35, many[i]);
            problem_fill(&p, &d, DATA_NORMAL, DATA_SPECIAL);
            problem_compare(&p, &all);
            problem_free(&p);
        }
    }
}

/* Largest values everywhere: sums at the limits of every intermediate width. */
static void test_saturated(void **state)
{
    (void)state;
    ladder all = ladder_make();
    for (size_t i = 0; i < PAIRS * MX_COUNT(blocks); i++) {
        uint32_t block = blocks[i % MX_COUNT(blocks)];
        mx_quant w = quant_make(formats[i / MX_COUNT(blocks) % FORMATS], block);
        mx_quant a = quant_make(formats[i / MX_COUNT(blocks) / FORMATS], block);
        for (int signs = 0; signs < 8; signs++) {
            problem p = problem_make(&w, &a, 2080, 17, 5 + 12 * (size_t)(signs % 2));
            float *row = malloc(p.k * sizeof *row);
            for (size_t r = 0; r < p.n_rows; r++) {
                for (size_t j = 0; j < p.k; j++) {
                    row[j] = (signs & 2) && j % 2 ? -1.99f * a.format->max : w.format->max;
                }
                mx_row_encode(&w, row, p.k, 0, p.codes + r * p.code_bytes,
                              p.scales + r * p.scale_count);
                if (signs & 4 && w.format->kind == MX_KIND_INT) { /* the code beyond -max */
                    memset(p.codes + r * p.code_bytes,
                           w.format->bits == 8   ? 0x80
                           : w.format->bits == 4 ? 0x88
                                                 : 0xAA,
                           p.code_bytes);
                }
            }
            for (size_t j = 0; j < p.n_tokens * p.k; j++) {
                p.x[j] = (signs & 1) && j % 3 ? -a.format->max : a.format->max;
            }
            free(row);
            problem_compare(&p, &all);
            problem_free(&p);
        }
    }
}

/* Sums of exponents through both ends of fp32: products that are subnormal, round
 * to subnormals, vanish or overflow, in one product with ordinary ones. */
static void test_range_ends(void **state)
{
    (void)state;
    ladder all = ladder_make();
    dice d = {.seed = 6};
    static const char *const pairs[][2] = {{"fp4_e2m1", "int8"},     {"fp4_e2m1", "fp6_e2m3"},
                                           {"fp8_e4m3", "fp8_e4m3"}, {"fp8_e5m2", "fp8_e5m2"},
                                           {"fp4_e2m1", "fp8_e4m3"}, {"int8", "fp6_e3m2"}};
    for (int i = 0; i < (int)MX_COUNT(pairs) * 330; i++) {
        int e = i / (int)MX_COUNT(pairs) - 190;
        mx_quant w = quant_make(pairs[i % MX_COUNT(pairs)][0], 32);
        mx_quant a = quant_make(pairs[i % MX_COUNT(pairs)][1], 32);
        problem p = problem_make(&w, &a, 96, 18, e % 3 ? 5 : 21);
        problem_fill(&p, &d, DATA_NORMAL, DATA_NORMAL);
        for (size_t j = 0; j < p.n_rows * p.scale_count; j++) {
            p.scales[j] = (uint8_t)(127 + e / 2 + (int)dice_below(&d, 3));
        }
        for (size_t j = 0; j < p.n_tokens * p.k; j++) {
            p.x[j] = ldexpf(p.x[j], e - e / 2);
        }
        problem_compare(&p, &all);
        problem_free(&p);
    }
}

/* Scales of one operand at their ends, those of the other such that products lie
 * around `middle`: at 1, and where the sums of a block's products become subnormal. */
static void test_scale_ends(void **state)
{
    (void)state;
    static const int bytes[] = {0, 1, 2, 3, 4, 7, 8, 9, 120, 245, 246, 247, 248, 249, 253, 254};
    static const int middles[] = {0,    -90,  -94,  -96,  -98,  -100, -104, -108, -112,
                                  -116, -120, -122, -124, -126, -128, -140, 60,   100};
    ladder all = ladder_make();
    dice d = {.seed = 8};
    static const char *const pairs[][2] = {{"int8", "int8"},         {"fp4_e2m1", "fp6_e2m3"},
                                           {"fp8_e4m3", "fp8_e4m3"}, {"fp8_e5m2", "fp8_e5m2"},
                                           {"fp6_e3m2", "fp4_e2m1"}, {"fp4_e2m1", "fp8_e5m2"}};
    for (size_t i = 0; i < MX_COUNT(bytes) * MX_COUNT(middles) * MX_COUNT(pairs); i++) {
        int middle = middles[i / MX_COUNT(pairs) / MX_COUNT(bytes)];
        int w_byte = bytes[i / MX_COUNT(pairs) % MX_COUNT(bytes)];
        int a_exponent = middle - (w_byte - 127);
        mx_quant w = quant_make(pairs[i % MX_COUNT(pairs)][0], 32);
        mx_quant a = quant_make(pairs[i % MX_COUNT(pairs)][1], 32);
        problem p = problem_make(&w, &a, 128, 33, 17);
        problem_fill(&p, &d, DATA_NORMAL, DATA_NORMAL);
        for (size_t j = 0; j < p.n_rows * p.scale_count; j++) {
            int byte = w_byte + (int)dice_below(&d, 3);
            p.scales[j] = (uint8_t)(byte > 255 ? 255 : byte);
        }
        for (size_t j = 0; j < p.n_tokens * p.k; j++) {
            p.x[j] = ldexpf(p.x[j], a_exponent);
        }
        problem_compare(&p, &all);
        problem_free(&p);
    }
}

/* Whole numbers of 2^-32, which every product of two elements is. */
typedef __int128 steps;
enum { STEP_BITS = 32 };

/* The nearest number of 24 bits, of two equally near the even one. */
static steps steps_round(steps x)
{
    steps magnitude = x < 0 ? -x : x, unit = 1;
    while (magnitude / unit >= (1 << 24)) {
        unit *= 2;
    }
    steps rest = magnitude % unit, below = magnitude - rest;
    bool up = rest * 2 > unit || (rest * 2 == unit && below / unit % 2 == 1);
    magnitude = below + (up ? unit : 0);
    return x < 0 ? -magnitude : magnitude;
}

/* Elements of a packed row in units of 2^-(STEP_BITS / 2), and its scales' bytes by
 * element; false when an element is no finite number. */
static bool row_steps(const mx_quant *quant, const uint8_t *packed, const uint8_t *row_scales,
                      size_t n, double *values, uint8_t *scales)
{
    uint8_t codes[2100];
    bool finite = true;
    size_t block = mx_quant_block(quant, n);
    mx_codes_unpack(packed, n, quant->format->bits, codes);
    for (size_t i = 0; i < n; i++) {
        double value = (double)quant->format->decode(quant->format, codes[i]);
        finite = finite && isfinite(value);
        values[i] = ldexp(value, STEP_BITS / 2);
        scales[i] = row_scales[i / block];
    }
    return finite;
}

/* The dot of a block in steps: exact where the pair has integer tables, and then
 * rounded once, else two chains, rounded at every addition. */
static double block_steps(const problem *p, const double *w, const double *a, size_t n)
{
    bool exact = p->weights.format->int_table && p->activations.format->int_table;
    steps sums[2] = {0, 0};
    for (size_t i = 0; i < n; i++) {
        steps sum = sums[i % 2] + (steps)w[i] * (steps)a[i];
        sums[i % 2] = exact ? sum : steps_round(sum);
    }
    return (double)steps_round(sums[0] + sums[1]);
}

/* One element of the product: terms that double holds exactly, each rounded to fp32 and
 * added in fp32. NaN when a code is Inf or NaN. */
static float expected_element(const problem *p, size_t r, size_t t)
{
    double w[2100], a[2100];
    uint8_t w_scales[2100], a_scales[2100], codes[2100], scales[2100];
    size_t block = mx_quant_block(&p->weights, p->k);
    bool finite = row_steps(&p->weights, p->codes + r * p->code_bytes,
                            p->scales + r * p->scale_count, p->k, w, w_scales);
    mx_row_encode(&p->activations, p->x + t * p->k, p->k, t, codes, scales);
    row_steps(&p->activations, codes, scales, p->k, a, a_scales);
    float acc = 0;
    if (!finite) {
        return NAN;
    }
    for (size_t b = 0; b < p->k; b += block) {
        size_t n = p->k - b < block ? p->k - b : block;
        double dot = block_steps(p, w + b, a + b, n);
        bool nan = w_scales[b] == 255 || a_scales[b] == 255;
        acc += nan ? NAN : (float)ldexp(dot, w_scales[b] + a_scales[b] - 254 - STEP_BITS);
    }
    return acc;
}

static void test_reference(void **state)
{
    (void)state;
    ladder all = ladder_make();
    dice d = {.seed = 3};
    for (size_t i = 0; i < PAIRS * MX_COUNT(blocks) * DATA_KINDS; i++) {
        data_kind kind = i % DATA_KINDS;
        uint32_t block = blocks[i / DATA_KINDS % MX_COUNT(blocks)];
        mx_quant w = quant_make(formats[i / DATA_KINDS / MX_COUNT(blocks) % FORMATS], block);
        mx_quant a = quant_make(formats[i / DATA_KINDS / MX_COUNT(blocks) / FORMATS], block);
        problem p = problem_make(&w, &a, pick_k(&d, block), 3, 2);
        problem_fill(&p, &d, kind, kind);
        float out[6];
        problem_run(&p, &all.tables[0], out);
        for (size_t j = 0; j < 6; j++) {
            float want = expected_element(&p, j % 3, j / 3);
            if (!isinf(out[j]) || !isnan(want)) { /* Inf codes: see test_special_codes */
                assert_same(&out[j], &want, 1, p.name);
            }
        }
        problem_free(&p);
    }
}

/* Codes beyond the numbers, which only outside checkpoints have: Inf times what it
 * meets, and NaN, by IEEE 754. */
static void test_special_codes(void **state)
{
    (void)state;
    static const struct {
        const char *format;
        uint8_t code;
        float x, want; /* activations, all alike; the dot's sum */
    } cases[] = {
        {"fp8_e4m3", 0x7F, 1, NAN},        {"fp8_e4m3", 0xFF, 0, NAN},
        {"fp8_e5m2", 0x7D, 1, NAN},        {"fp8_e5m2", 0xFF, 0, NAN},
        {"fp8_e5m2", 0x7C, 1, INFINITY},   {"fp8_e5m2", 0xFC, 1, -INFINITY},
        {"fp8_e5m2", 0x7C, -1, -INFINITY}, {"fp8_e5m2", 0x7C, 0, NAN},
        {"fp8_e4m3", 0x80, 1, 31},         {"fp8_e5m2", 0x80, -1, -31},
    };
    ladder all = ladder_make();
    for (size_t i = 0; i < MX_COUNT(cases) * FORMATS * 2; i++) {
        mx_quant w = quant_make(cases[i / 2 / FORMATS].format, 32);
        mx_quant a = quant_make(formats[i / 2 % FORMATS], 32);
        /* One row of 33, tokens enough for every path; the code at one place in the
         * second block, ones before and after it. */
        problem p = problem_make(&w, &a, 96, 33, i % 2 ? 40 : 1);
        float ones[96], out[33 * 40];
        for (size_t j = 0; j < 96; j++) {
            ones[j] = j / 32 == 1 ? 1 : 0;
        }
        for (size_t r = 0; r < 33; r++) {
            mx_row_encode(&w, ones, 96, 0, p.codes + r * p.code_bytes,
                          p.scales + r * p.scale_count);
        }
        p.codes[20 * p.code_bytes + 37] = cases[i / 2 / FORMATS].code;
        for (size_t j = 0; j < p.n_tokens * 96; j++) {
            p.x[j] = cases[i / 2 / FORMATS].x;
        }
        for (size_t table = 0; table < all.count; table++) {
            problem_run(&p, &all.tables[table], out);
            for (size_t j = 0; j < 33 * p.n_tokens; j++) {
                float want = j % 33 == 20 ? cases[i / 2 / FORMATS].want : 32 * p.x[0];
                assert_same(&out[j], &want, 1, p.name);
            }
        }
        problem_free(&p);
    }
}

/* Weights that pick one column each: the product shows every quantized activation. */
static void test_tile_pack(void **state)
{
    (void)state;
    ladder all = ladder_make();
    dice d = {.seed = 4};
    for (size_t i = 0; i < FORMATS * MX_COUNT(blocks) * 4 * 4 * 3; i++) {
        uint32_t block = blocks[i % MX_COUNT(blocks)];
        mx_quant w = quant_make("fp4_e2m1", block);
        mx_quant a = quant_make(formats[i / MX_COUNT(blocks) % FORMATS], block);
        a.round = (mx_round)(i / MX_COUNT(blocks) / FORMATS % 4);
        a.rule = (mx_scale_rule)(i / MX_COUNT(blocks) / (4 * FORMATS) % 4);
        a.flush_subnormals = i % 2;
        a.seed = i;
        size_t k = block == 0 ? 83 : block * 2 + 5;
        problem p = problem_make(&w, &a, k, k, 19);
        problem_fill(&p, &d, DATA_NORMAL, (data_kind)(i / MX_COUNT(blocks) / (16 * FORMATS)));
        float *row = calloc(k, sizeof *row), *want = malloc(k * sizeof *want);
        float *out = malloc(k * 19 * sizeof *out);
        for (size_t r = 0; r < k; r++) {
            row[r] = 1;
            mx_row_encode(&w, row, k, 0, p.codes + r * p.code_bytes, p.scales + r * p.scale_count);
            row[r] = 0;
        }
        for (size_t table = 0; table < all.count; table++) {
            problem_run(&p, &all.tables[table], out);
            for (size_t t = 0; t < 19; t++) {
                mx_row_cast(&a, p.x + t * k, k, t, want);
                float poison = 0; /* a NaN block of a token is in all its sums */
                for (size_t j = 0; j < k; j++) {
                    poison = isnan(want[j]) ? NAN : poison;
                }
                for (size_t j = 0; j < k; j++) {
                    want[j] += poison; /* and a sum is never -0 */
                }
                assert_same(out + t * k, want, k, p.name);
            }
        }
        free(row);
        free(want);
        free(out);
        problem_free(&p);
    }
}

/* Whole blocks of the common length, so many of rows, tokens and columns that every
 * loop around the innermost goes round more than once. */
static void test_long(void **state)
{
    (void)state;
    ladder all = ladder_make();
    dice d = {.seed = 6};
    static const char *const pairs[][2] = {{"fp4_e2m1", "fp6_e2m3"}, {"int8", "int8"},
                                           {"fp6_e2m3", "fp6_e2m3"}, {"fp8_e4m3", "fp8_e4m3"},
                                           {"fp4_e2m1", "fp8_e5m2"}, {"fp6_e3m2", "fp6_e3m2"}};
    static const size_t shapes[][3] = {{2112, 19, 530}, {4160, 33, 40}, {96, 49, 1030}};
    for (size_t i = 0; i < MX_COUNT(pairs); i++) {
        mx_quant w = quant_make(pairs[i][0], 32), a = quant_make(pairs[i][1], 32);
        for (size_t j = 0; j < MX_COUNT(shapes); j++) {
            problem p = problem_make(&w, &a, shapes[j][0], shapes[j][1], shapes[j][2]);
            problem_fill(&p, &d, DATA_NORMAL, j == 1 ? DATA_SPECIAL : DATA_WIDE);
            problem_compare(&p, &all);
            problem_free(&p);
        }
    }
}

/* Every number of tokens that a last tile may have, beside odd and even numbers of
 * panels: kernels split both unevenly. */
static void test_last_tile(void **state)
{
    (void)state;
    ladder all = ladder_make();
    dice d = {.seed = 9};
    static const char *const pairs[][2] = {{"fp4_e2m1", "fp6_e2m3"}, {"int8", "int8"}};
    for (size_t i = 0; i < MX_COUNT(pairs) * 16; i++) {
        mx_quant w = quant_make(pairs[i / 16][0], 32), a = quant_make(pairs[i / 16][1], 32);
        problem p = problem_make(&w, &a, 288, i % 2 ? 33 : 60, 17 + i % 16);
        problem_fill(&p, &d, DATA_NORMAL, DATA_WIDE);
        problem_compare(&p, &all);
        problem_free(&p);
    }
}

/* A token's result does not depend on its neighbours. */
static void test_batch(void **state)
{
    (void)state;
    ladder all = ladder_make();
    dice d = {.seed = 5};
    for (int fp8 = 0; fp8 < 2; fp8++) {
        mx_quant w = quant_make(fp8 ? "fp8_e5m2" : "fp4_e2m1", 32);
        mx_quant a = quant_make(fp8 ? "fp8_e4m3" : "fp6_e2m3", 32);
        problem p = problem_make(&w, &a, 576, 48, 40);
        problem_fill(&p, &d, DATA_NORMAL, DATA_WIDE);
        float together[48 * 40], alone[48];
        for (size_t i = 0; i < all.count; i++) {
            problem_run(&p, &all.tables[i], together);
            for (size_t t = 0; t < p.n_tokens; t++) {
                problem one = p;
                one.x = p.x + t * p.k;
                one.n_tokens = 1;
                problem_run(&one, &all.tables[i], alone);
                assert_same(alone, together + t * 48, 48, all.tables[i].name);
            }
        }
        problem_free(&p);
    }
}

static void test_supported(void **state)
{
    (void)state;
    ladder all = ladder_make();
    mx_quant e2m1 = quant_make("fp4_e2m1", 32), int8 = quant_make("int8", 32);
    mx_quant e4m3 = quant_make("fp8_e4m3", 32), other = quant_make("int8", 16), none = {0};
    mx_quant odd = quant_make("int8", 12), axis = quant_make("int8", 0);
    mx_quant bf16 = quant_make("bf16", 32);
    for (size_t i = 0; i < all.count; i++) {
        const mx_kernels *t = &all.tables[i];
        assert_true(t->block_supported(&e2m1, &int8, 100));
        assert_true(t->block_supported(&int8, &axis, 20)); /* one block either way */
        assert_true(t->block_supported(&e2m1, &e4m3, 64));
        assert_true(t->block_supported(&e4m3, &int8, 64));
        assert_true(t->block_supported(&e4m3, &e4m3, 1 << 24));
        assert_false(t->block_supported(&e4m3, &bf16, 64));
        assert_false(t->block_supported(&bf16, &e4m3, 64));
        assert_false(t->block_supported(&e4m3, &other, 64));
        assert_false(t->block_supported(&e2m1, &other, 64));
        assert_false(t->block_supported(&none, &int8, 64));
        assert_false(t->block_supported(&int8, &none, 64));
        assert_false(t->block_supported(&odd, &odd, 64));
        assert_false(t->block_supported(&int8, &int8, 0));
        assert_true(t->block_supported(&axis, &axis, 131071));
        assert_false(t->block_supported(&axis, &axis, 131072)); /* 128 * 128 * 2^17 = 2^31 */
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_supported),     cmocka_unit_test(test_reference),
        cmocka_unit_test(test_tile_pack),     cmocka_unit_test(test_saturated),
        cmocka_unit_test(test_shapes),        cmocka_unit_test(test_pairs),
        cmocka_unit_test(test_long),          cmocka_unit_test(test_batch),
        cmocka_unit_test(test_range_ends),    cmocka_unit_test(test_scale_ends),
        cmocka_unit_test(test_special_codes), cmocka_unit_test(test_last_tile),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
