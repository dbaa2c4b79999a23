/*
 * Speed of the products and of attention on one thread, against the machine's peak
 * measured between the runs: check_kernels [ISA] [CASE] [TOKENS], for example
 * check_kernels avx512 W4A6 512 or check_kernels avx512 attention. Medians of interleaved rounds
 * (the share's is that of the rounds' shares), in the thread's own CPU time, so that neighbours on
 * a busy machine disturb less.
 */
#include "kernel_test.h"

#include "bench/peak.h"

#include <time.h>

enum { ROUNDS = 9 };

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

static void panel_fill(const bench *b, dice *d, size_t panel)
{
    float *row = allocate(b->k * sizeof *row);
    uint8_t *codes = allocate(16 * mx_row_code_bytes(&b->weights, b->k));
    uint8_t *scales = allocate(16 * mx_row_scale_count(&b->weights, b->k) + 1);
    const uint8_t *code_rows[16], *scale_rows[16];
    const float *rows[16];
    dice_fill(d, DATA_NORMAL, row, b->k);
    for (size_t r = 0; r < 16; r++) {
        rows[r] = row;
        code_rows[r] = codes + r * mx_row_code_bytes(&b->weights, b->k);
        scale_rows[r] = scales + r * mx_row_scale_count(&b->weights, b->k);
        if (is_blocks(b)) {
            mx_row_encode(&b->weights, row, b->k, 0, (uint8_t *)code_rows[r],
                          (uint8_t *)scale_rows[r]);
        }
    }
    if (is_blocks(b)) {
        size_t bytes = b->table->block_panel_bytes(&b->weights, &b->activations, b->k);
        b->table->block_panel_pack(&b->weights, &b->activations, b->k, code_rows, scale_rows, 16,
                                   b->panels + panel * bytes);
    } else {
        b->table->f32_panel_pack(rows, 16, b->k, (float *)b->panels + panel * 16 * b->k);
    }
    free(row);
    free(codes);
    free(scales);
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
    b->panels = allocate(n_panels * bytes);
    panel_fill(b, &d, 0);
    for (size_t i = 1; i < n_panels; i++) {
        memcpy(b->panels + i * bytes, b->panels, bytes);
    }
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
    } else {
        /* x serves as its own packed form: any numbers do. */
        mx_f32_product product = {
            .panels = (float *)b->panels,
            .n_panels = b->rows / 16,
            .n_rows = b->rows,
            .k = b->k,
            .x = b->x,
            .x_tokens = b->tokens,
            .n_tokens = b->tokens,
            .out = b->out,
            .out_stride = b->rows,
        };
        b->table->f32_product(&product);
    }
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

static void bench_run(bench *b)
{
    bench_open(b);
    double macs = (double)b->rows * (double)b->k * (double)b->tokens;
    size_t repeats = (size_t)(1e9 / macs) + 1;
    double speed[ROUNDS], peak[ROUNDS], share[ROUNDS], pack[ROUNDS];
    for (int i = -1; i < ROUNDS; i++) { /* one round to warm up */
        size_t at = i < 0 ? 0 : (size_t)i;
        peak[at] = peak_measure(b->table->name, b->integer);
        pack[at] = is_blocks(b) ? seconds_of(bench_pack, b, 1) : 0;
        speed[at] = macs / seconds_of(bench_product, b, repeats);
        share[at] = peak[at] > 0 ? speed[at] / peak[at] : 0;
    }
    double got = median(speed), best = median(peak);
    printf("%-7s %-9s %5zux%-5zu %4zu tokens %8.1f GMAC/s  %.3f of %.0f", b->table->name, b->name,
           b->rows, b->k, b->tokens, got / 1e9, median(share), best / 1e9);
    if (is_blocks(b)) {
        printf("   quantizing %.1f%%", 100 * median(pack) * got / macs);
    }
    printf("\n");
    fflush(stdout);
    bench_close(b);
}

/* A pair of formats; none: fp32. */
typedef struct bench_formats {
    const char *name, *weights, *activations;
} bench_formats;

static const bench_formats pairs[] = {
    {"W4A6", "fp4_e2m1", "fp6_e2m3"},      {"int8xint8", "int8", "int8"},
    {"e4m3xe4m3", "fp8_e4m3", "fp8_e4m3"}, {"e3m2xe3m2", "fp6_e3m2", "fp6_e3m2"},
    {"W4A8", "fp4_e2m1", "fp8_e4m3"},      {"fp32", NULL, NULL},
};

static void bench_case(const mx_kernels *table, const bench_formats *c, size_t tokens)
{
    for (size_t i = 0; i < MX_COUNT(shapes); i++) {
        bench b = {.table = table,
                   .name = c->name,
                   .rows = shapes[i].rows,
                   .k = shapes[i].k,
                   .tokens = tokens};
        if (c->weights != NULL) {
            mx_quant quant = {.block = 32, .round = MX_ROUND_EVEN};
            b.weights = b.activations = quant;
            b.weights.format = mx_format_find(c->weights);
            b.activations.format = mx_format_find(c->activations);
            b.integer = b.weights.format->int_table && b.activations.format->int_table;
            const mx_peak *peak = mx_peak_find(table->name);
            b.integer |= peak != NULL && peak->any_block;
        }
        bench_run(&b);
    }
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

/* Scores and mix count as multiply-accumulates; the exponentials come on top. */
static void attention_measure(const mx_kernels *table, const mx_attention *attention)
{
    size_t n_tokens = attention->n_tokens, stride = attention->stride;
    double keys = (double)attention->n_keys + ((double)n_tokens - 1) / 2;
    double macs = 2.0 * (double)(stride * n_tokens) * keys;
    size_t repeats = (size_t)(5e8 / macs) + 1;
    double speed[ROUNDS], share[ROUNDS];
    for (int i = -1; i < ROUNDS; i++) { /* one round to warm up */
        size_t at = i < 0 ? 0 : (size_t)i;
        double peak = peak_measure(table->name, false), start = cpu_seconds();
        for (size_t j = 0; j < repeats; j++) {
            table->attention(attention);
        }
        speed[at] = macs * (double)repeats / (cpu_seconds() - start);
        share[at] = peak > 0 ? speed[at] / peak : 0;
    }
    double best = median(speed);
    printf("%-7s attention %s %zu tokens, %zu heads of %zu, %4zu keys %8.1f GMAC/s  %.3f of fp32\n",
           table->name, attention->kv_type == MX_KV_BF16 ? "bf16" : "fp32", n_tokens,
           attention->n_heads, attention->head_dim, attention->n_keys, best / 1e9, median(share));
    fflush(stdout);
}

static void attention_bench(const mx_kernels *table, mx_kv_type type, size_t n_tokens,
                            size_t n_heads, size_t dim, size_t n_keys)
{
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
    attention_measure(table, &attention);
    free(q);
    free(out);
    free(numbers);
    free(k);
    free(v);
    free(scratch);
}

static void attention_benches(const mx_kernels *table)
{
    static const size_t shapes_of_heads[][3] = {/* tokens, heads, head_dim */
                                                {16, 4, 64},
                                                {21, 3, 64},
                                                {64, 1, 128},
                                                {1, 4, 64},
                                                {1, 1, 64}};
    static const size_t key_counts[] = {64, 512, 2048};
    for (size_t i = 0; i < MX_COUNT(shapes_of_heads); i++) {
        for (size_t j = 0; j < MX_COUNT(key_counts); j++) {
            const size_t *sizes = shapes_of_heads[i];
            attention_bench(table, MX_KV_FP32, sizes[0], sizes[1], sizes[2], key_counts[j]);
            attention_bench(table, MX_KV_BF16, sizes[0], sizes[1], sizes[2], key_counts[j]);
        }
    }
}

int main(int argc, char **argv)
{
    ladder all = ladder_make();
    for (size_t t = 1; t < all.count; t++) {
        bool isa = argc < 2 || strcmp(argv[1], all.tables[t].name) == 0;
        if (isa && (argc < 3 || strcmp(argv[2], "attention") == 0)) {
            attention_benches(&all.tables[t]);
        }
        for (size_t i = 0; i < MX_COUNT(pairs); i++) {
            for (size_t j = 0; j < MX_COUNT(token_counts); j++) {
                bool chosen = isa && (argc < 3 || strcmp(argv[2], pairs[i].name) == 0) &&
                              (argc < 4 || strtoul(argv[3], NULL, 10) == token_counts[j]);
                if (chosen) {
                    bench_case(&all.tables[t], &pairs[i], token_counts[j]);
                }
            }
        }
    }
    return 0;
}
