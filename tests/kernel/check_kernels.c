/*
 * Products and attention in the shapes of real models, every ISA against the reference by
 * equality; with --bench also their speed on one thread, against the machine's peak
 * measured between the runs:
 *     check_kernels [--bench] [ISA [CASE [TOKENS]]]
 * for example check_kernels --bench avx512 W4A6 512, or --bench avx512 attention. Speeds are
 * medians of interleaved rounds (the share's is that of the rounds' shares), in the thread's
 * own CPU time, so that neighbours on a busy machine disturb less.
 */
#include "kernel_test.h"

#include "bench/peak.h"

#include <time.h>

enum {
    ROUNDS = 9,
    GROUP_PANELS = 16, /* of fp32 products, as backend/ hands them over */
};

typedef struct shape {
    size_t rows, k;
} shape;

static const shape shapes[] = {{576, 576},   {1536, 576},  {576, 1536},
                               {2048, 2048}, {8192, 2048}, {2048, 8192}};
static const size_t token_counts[] = {1, 4, 16, 128, 512};

static double cpu_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Multiply-accumulates a second of the loops that bound a table's kernels
 * (bench/peak.h); 0 when there is no measure for it. */
static double peak_measure(const char *isa, bool integer)
{
    const uint64_t steps = 400000;
    const mx_peak *peak = mx_peak_find(isa);
    while (!integer && peak != NULL && peak->f32_run == NULL) {
        peak = peak->below;
    }
    if (peak == NULL) {
        return 0;
    }
    double start = cpu_seconds();
    (integer ? peak->int_run : peak->f32_run)(steps);
    double seconds = cpu_seconds() - start;
    return (integer ? peak->int_macs : peak->f32_macs) * (double)steps / seconds;
}

/* ---- cases ----------------------------------------------------------------- */

typedef struct bench {
    const mx_kernels *table;
    const char *name;
    mx_quant weights, activations; /* format NULL: fp32 */
    bool integer;                  /* bound by the integer loop */
    size_t rows, k, tokens;
    uint8_t *panels, *tiles;
    float *x, *out;
} bench;

static void *allocate(size_t size)
{
    void *p = aligned_alloc(64, (size + 63) / 64 * 64);
    assert_non_null(p);
    memset(p, 0, size);
    return p;
}

static bool is_blocks(const bench *b)
{
    return b->weights.format != NULL;
}

static void panel_fill(const bench *b, dice *d, uint8_t *panel)
{
    float *numbers = allocate(16 * b->k * sizeof *numbers);
    uint8_t *codes = allocate(16 * mx_row_code_bytes(&b->weights, b->k));
    uint8_t *scales = allocate(16 * mx_row_scale_count(&b->weights, b->k) + 1);
    const uint8_t *code_rows[16], *scale_rows[16];
    const float *rows[16];
    dice_fill(d, DATA_NORMAL, numbers, 16 * b->k);
    for (size_t r = 0; r < 16; r++) {
        rows[r] = numbers + r * b->k;
        code_rows[r] = codes + r * mx_row_code_bytes(&b->weights, b->k);
        scale_rows[r] = scales + r * mx_row_scale_count(&b->weights, b->k);
        if (is_blocks(b)) {
            mx_row_encode(&b->weights, rows[r], b->k, 0, (uint8_t *)code_rows[r],
                          (uint8_t *)scale_rows[r]);
        }
    }
    if (is_blocks(b)) {
        b->table->block_panel_pack(&b->weights, &b->activations, b->k, code_rows, scale_rows, 16,
                                   panel);
    } else {
        b->table->f32_panel_pack(rows, 16, b->k, (float *)(void *)panel);
    }
    free(numbers);
    free(codes);
    free(scales);
}

/* Copies of a panel [k][16] to the group that serves as all groups, slice by slice, as
 * the backend decodes them: [slice][GROUP_PANELS][columns][16]. */
static void f32_group_fill(bench *b, const float *panel)
{
    size_t n_panels = b->rows / 16 < GROUP_PANELS ? b->rows / 16 : GROUP_PANELS;
    for (size_t k = 0, width; k < b->k; k += width) {
        width = mx_f32_slice_width(k, b->k);
        float *slice = (float *)(void *)b->panels + k * 16 * n_panels;
        for (size_t i = 0; i < n_panels; i++) {
            memcpy(slice + i * width * 16, panel + k * 16, width * 16 * sizeof *slice);
        }
    }
}

static void bench_open(bench *b)
{
    dice d = {.seed = 1};
    size_t n_panels = b->rows / 16, n_tiles = (b->tokens + 15) / 16;
    b->x = allocate(b->tokens * b->k * sizeof *b->x);
    b->out = allocate(b->tokens * b->rows * sizeof *b->out);
    dice_fill(&d, DATA_NORMAL, b->x, b->tokens * b->k);
    size_t bytes = 64 * b->k;
    if (is_blocks(b)) {
        bytes = b->table->block_panel_bytes(&b->weights, &b->activations, b->k);
        b->tiles =
            allocate(n_tiles * b->table->block_tile_bytes(&b->weights, &b->activations, b->k));
    }
    uint8_t *panel = allocate(bytes);
    panel_fill(b, &d, panel);
    b->panels = allocate(n_panels * bytes);
    if (is_blocks(b)) {
        for (size_t i = 0; i < n_panels; i++) {
            memcpy(b->panels + i * bytes, panel, bytes);
        }
    } else {
        f32_group_fill(b, (const float *)(const void *)panel);
    }
    free(panel);
}

static void bench_close(bench *b)
{
    free(b->x);
    free(b->out);
    free(b->panels);
    free(b->tiles);
}

static void bench_pack(bench *b)
{
    size_t bytes = b->table->block_tile_bytes(&b->weights, &b->activations, b->k);
    for (size_t t = 0; t < b->tokens; t += 16) {
        size_t n = b->tokens - t < 16 ? b->tokens - t : 16;
        b->table->block_tile_pack(&b->weights, &b->activations, b->k, b->x + t * b->k, b->k, n, t,
                                  b->tiles + t / 16 * bytes);
    }
}

static void bench_product(bench *b)
{
    if (is_blocks(b)) {
        mx_block_product product = {&b->weights,  &b->activations, b->k,     b->panels,
                                    b->rows / 16, b->rows,         b->tiles, b->tokens,
                                    b->out,       b->rows};
        b->table->block_product(&product);
        return;
    }
    /* x serves as its own packed form: any numbers do. */
    size_t group = b->rows / 16 < GROUP_PANELS ? b->rows / 16 : GROUP_PANELS;
    for (size_t row = 0; row < b->rows; row += group * 16) {
        size_t rows = b->rows - row < group * 16 ? b->rows - row : group * 16;
        mx_f32_product product = {
            .n_panels = rows / 16,
            .n_rows = rows,
            .x = b->x,
            .x_tokens = b->tokens,
            .n_tokens = b->tokens,
            .out = b->out + row,
            .out_stride = b->rows,
        };
        for (; product.first_k < b->k; product.first_k += product.k) {
            product.k = mx_f32_slice_width(product.first_k, b->k);
            product.panels = (float *)(void *)b->panels + product.first_k * 16 * group;
            b->table->f32_product(&product);
        }
    }
}

static void bench_make(bench *b)
{
    if (is_blocks(b)) {
        bench_pack(b);
    }
    bench_product(b);
}

static double seconds_of(void (*fn)(bench *), bench *b, size_t repeats)
{
    double start = cpu_seconds();
    for (size_t i = 0; i < repeats; i++) {
        fn(b);
    }
    return (cpu_seconds() - start) / (double)repeats;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values)
{
    qsort(values, ROUNDS, sizeof *values, compare_doubles);
    return values[ROUNDS / 2];
}

/* Every panel holds the same rows, so that the reference computes but one. */
static void bench_check(bench *b, const mx_kernels *reference)
{
    bench want = *b;
    char what[96];
    want.table = reference;
    want.rows = 16;
    bench_open(&want);
    bench_make(&want);
    bench_make(b);
    for (size_t t = 0; t < b->tokens; t++) {
        for (size_t row = 0; row < b->rows; row += 16) {
            snprintf(what, sizeof what, "%s %s %zux%zu, token %zu of %zu, rows from %zu",
                     b->table->name, b->name, b->rows, b->k, t, b->tokens, row);
            assert_same(b->out + t * b->rows + row, want.out + t * 16, 16, what);
        }
    }
    bench_close(&want);
}

static void bench_time(bench *b)
{
    double macs = (double)b->rows * (double)b->k * (double)b->tokens;
    size_t repeats = (size_t)(1e9 / macs) + 1;
    double speed[ROUNDS], peak[ROUNDS], share[ROUNDS], pack[ROUNDS];
    for (int i = 0; i < ROUNDS; i++) {
        peak[i] = peak_measure(b->table->name, b->integer);
        pack[i] = is_blocks(b) ? seconds_of(bench_pack, b, 1) : 0;
        speed[i] = macs / seconds_of(bench_product, b, repeats);
        share[i] = peak[i] > 0 ? speed[i] / peak[i] : 0;
    }
    double got = median(speed), best = median(peak);
    printf("%-7s %-9s %5zux%-5zu %4zu tokens %8.1f GMAC/s  %.3f of %.0f", b->table->name, b->name,
           b->rows, b->k, b->tokens, got / 1e9, median(share), best / 1e9);
    if (is_blocks(b)) {
        printf("   quantizing %.1f%%", 100 * median(pack) * got / macs);
    }
    printf("\n");
    fflush(stdout);
}

/* A pair of formats; none: fp32. */
typedef struct bench_formats {
    const char *name, *weights, *activations;
} bench_formats;

static const bench_formats pairs[] = {
    {"W4A6", "fp4_e2m1", "fp6_e2m3"},
    {"int8xint8", "int8", "int8"},
    {"e2m3xe2m3", "fp6_e2m3", "fp6_e2m3"},
    {"e4m3xe4m3", "fp8_e4m3", "fp8_e4m3"},
    {"e3m2xe3m2", "fp6_e3m2", "fp6_e3m2"},
    {"W4A8", "fp4_e2m1", "fp8_e4m3"},
    {"fp32", NULL, NULL},
};

/* What main's arguments choose; NULL or 0: all. */
typedef struct selection {
    bool timed;
    const char *isa, *name;
    size_t tokens;
} selection;

static bool is_chosen(const char *chosen, const char *name)
{
    return chosen == NULL || strcmp(chosen, name) == 0;
}

static bench bench_of(const mx_kernels *table, const bench_formats *c)
{
    bench b = {.table = table, .name = c->name};
    if (c->weights != NULL) {
        mx_quant quant = {.block = 32, .round = MX_ROUND_EVEN};
        b.weights = b.activations = quant;
        b.weights.format = mx_format_find(c->weights);
        b.activations.format = mx_format_find(c->activations);
        b.integer = b.weights.format->int_table && b.activations.format->int_table;
        const mx_peak *peak = mx_peak_find(table->name);
        b.integer |= peak != NULL && peak->any_block;
    }
    return b;
}

/* Returns the number of products. */
static size_t bench_case(const mx_kernels *reference, const mx_kernels *table,
                         const bench_formats *c, const selection *chosen)
{
    size_t done = 0;
    for (size_t j = 0; j < MX_COUNT(token_counts); j++) {
        for (size_t i = 0; i < MX_COUNT(shapes); i++) {
            bench b = bench_of(table, c);
            b.rows = shapes[i].rows;
            b.k = shapes[i].k;
            b.tokens = token_counts[j];
            if (chosen->tokens != 0 && chosen->tokens != b.tokens) {
                continue;
            }
            bench_open(&b);
            bench_check(&b, reference);
            if (chosen->timed) {
                bench_time(&b);
            }
            bench_close(&b);
            done++;
        }
    }
    return done;
}

/* ---- attention --------------------------------------------------------------- */

/* Keys and values of either type: n normal numbers, in any order. */
static void *attention_store(mx_kv_type type, const float *from, size_t n)
{
    if (type == MX_KV_FP32) {
        float *store = allocate(n * sizeof *store);
        memcpy(store, from, n * sizeof *store);
        return store;
    }
    uint16_t *store = allocate(n * sizeof *store);
    for (size_t i = 0; i < n; i++) {
        store[i] = mx_bf16_operand(from[i]);
    }
    return store;
}

static void attention_same(const mx_kernels *reference, const mx_kernels *table,
                           const mx_attention *attention)
{
    size_t n = attention->n_tokens * attention->stride;
    mx_attention other = *attention;
    other.out = allocate(n * sizeof *other.out);
    reference->attention(&other);
    table->attention(attention);
    char what[64];
    snprintf(what, sizeof what, "%s attention, %zu keys", table->name, attention->n_keys);
    assert_same(attention->out, other.out, n, what);
    free(other.out);
}

/* Scores and mix count as multiply-accumulates; the exponentials come on top. */
static void attention_time(const mx_kernels *table, const mx_attention *attention)
{
    size_t n_tokens = attention->n_tokens, stride = attention->stride;
    double keys = (double)attention->n_keys + ((double)n_tokens - 1) / 2;
    double macs = 2.0 * (double)(stride * n_tokens) * keys;
    size_t repeats = (size_t)(5e8 / macs) + 1;
    double speed[ROUNDS], share[ROUNDS];
    for (int i = 0; i < ROUNDS; i++) {
        double peak = peak_measure(table->name, false), start = cpu_seconds();
        for (size_t j = 0; j < repeats; j++) {
            table->attention(attention);
        }
        speed[i] = macs * (double)repeats / (cpu_seconds() - start);
        share[i] = peak > 0 ? speed[i] / peak : 0;
    }
    double best = median(speed);
    printf("%-7s attention %s %zu tokens, %zu heads of %zu, %4zu keys %8.1f GMAC/s  %.3f of fp32\n",
           table->name, attention->kv_type == MX_KV_BF16 ? "bf16" : "fp32", n_tokens,
           attention->n_heads, attention->head_dim, attention->n_keys, best / 1e9, median(share));
    fflush(stdout);
}

/* Tokens, query heads that share a KV head, its dimension. */
typedef struct attention_shape {
    size_t tokens, heads, dim;
} attention_shape;

static void attention_case(const mx_kernels *reference, const mx_kernels *table, mx_kv_type type,
                           attention_shape heads, size_t n_keys, bool timed)
{
    size_t n_tokens = heads.tokens, n_heads = heads.heads, dim = heads.dim;
    dice d = {.seed = 2};
    size_t stride = n_heads * dim, size = (n_keys + n_tokens + 15) * dim;
    float *q = allocate(n_tokens * stride * sizeof *q),
          *out = allocate(n_tokens * stride * sizeof *out);
    float *numbers = allocate(2 * size * sizeof *numbers);
    dice_fill(&d, DATA_NORMAL, q, n_tokens * stride);
    dice_fill(&d, DATA_NORMAL, numbers, 2 * size);
    void *k = attention_store(type, numbers, size);
    void *v = attention_store(type, numbers + size, size);
    float *scratch = allocate(MX_ATTENTION_SCRATCH_ROWS * dim * sizeof *scratch);
    mx_attention attention = {
        .q = q,
        .stride = stride,
        .n_tokens = n_tokens,
        .n_heads = n_heads,
        .head_dim = dim,
        .kv_type = type,
        .k = k,
        .v = v,
        .scratch = scratch,
        .n_keys = n_keys,
        .scale = 1 / sqrtf((float)dim),
        .out = out,
    };
    attention_same(reference, table, &attention);
    if (timed) {
        attention_time(table, &attention);
    }
    free(q);
    free(out);
    free(numbers);
    free(k);
    free(v);
    free(scratch);
}

/* Returns the number of cases. */
static size_t attention_cases(const mx_kernels *reference, const mx_kernels *table, bool timed)
{
    static const attention_shape head_shapes[] = {
        {16, 4, 64}, {21, 3, 64}, {64, 1, 128}, {1, 4, 64}, {1, 1, 64}};
    static const size_t key_counts[] = {64, 512, 2048};
    size_t done = 0;
    for (size_t i = 0; i < MX_COUNT(head_shapes); i++) {
        for (size_t j = 0; j < MX_COUNT(key_counts); j++, done += 2) {
            attention_case(reference, table, MX_KV_FP32, head_shapes[i], key_counts[j], timed);
            attention_case(reference, table, MX_KV_BF16, head_shapes[i], key_counts[j], timed);
        }
    }
    return done;
}

static selection chosen;

static void test_kernels(void **state)
{
    (void)state;
    ladder all = ladder_make();
    size_t done = 0;
    for (size_t t = 1; t < all.count; t++) {
        if (!is_chosen(chosen.isa, all.tables[t].name)) {
            continue;
        }
        for (size_t i = 0; i < MX_COUNT(pairs); i++) {
            if (is_chosen(chosen.name, pairs[i].name)) {
                done += bench_case(&all.tables[0], &all.tables[t], &pairs[i], &chosen);
            }
        }
        if (is_chosen(chosen.name, "attention")) {
            done += attention_cases(&all.tables[0], &all.tables[t], chosen.timed);
        }
    }
    if (done == 0 && all.count > 1) {
        fail_msg("no kernel of this machine, case and number of tokens is so named");
    }
}

int main(int argc, char **argv)
{
    chosen.timed = argc > 1 && strcmp(argv[1], "--bench") == 0;
    char **names = argv + 1 + chosen.timed;
    int n = argc - 1 - chosen.timed;
    chosen.isa = n > 0 ? names[0] : NULL;
    chosen.name = n > 1 ? names[1] : NULL;
    chosen.tokens = n > 2 ? strtoul(names[2], NULL, 10) : 0;
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_kernels)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
