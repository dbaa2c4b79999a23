/* mx_cast_run: microxcaling's outputs, bit for bit; the report's figures; what is
 * copied and what is refused. */
#include "quant/quant_fixture.h"

#include "io/safetensors.h"

#include <math.h>

/* A file of `n` tensors whose bytes follow one another in `data`. */
static void write_file(const char *path, const mx_tensor_plan *plans, size_t n, const void *data,
                       size_t size)
{
    static const char *const metadata[] = {"format", "pt", "made by", "test_cast"};
    mx_error err = {0};
    mx_safetensors_writer *writer;
    fixture_ok(mx_safetensors_create(path, plans, n, metadata, 2, &writer, &err), err);
    fixture_ok(mx_safetensors_write(writer, data, size, &err), err);
    fixture_ok(mx_safetensors_finish(writer, &err), err);
}

static mx_status cast(const char *in, const char *out, const char *settings, char **report,
                      mx_error *err)
{
    mx_specs *specs = fixture_specs(settings);
    mx_status status = mx_cast_run(in, out, specs, (mx_watch){0}, report, err);
    mx_specs_free(specs);
    return status;
}

static mx_safetensors *open_file(const char *path)
{
    mx_error err = {0};
    mx_safetensors *reader;
    fixture_ok(mx_safetensors_open(path, &reader, &err), err);
    return reader;
}

/* ---- microxcaling ------------------------------------------------------------------ */

/* Equal bits, NaN payloads aside; two's complement has no -0 (names "int..."). */
static void assert_same_values(const mx_tensor *got, const mx_tensor *expected, const char *what)
{
    assert_true(got->size == expected->size);
    for (uint64_t i = 0; i < got->size / 4; i++) {
        uint32_t a, b;
        memcpy(&a, got->data + 4 * i, 4);
        memcpy(&b, expected->data + 4 * i, 4);
        b = b == 0x80000000 && strncmp(what, "int", 3) == 0 ? 0 : b;
        bool nan_a = (a & 0x7FFFFFFF) > 0x7F800000, nan_b = (b & 0x7FFFFFFF) > 0x7F800000;
        if (nan_a != nan_b || (!nan_a && a != b)) {
            fail_msg("%s: element %llu: %08x is not %08x", what, (unsigned long long)i, a, b);
        }
    }
}

static void test_microxcaling(void **state)
{
    (void)state;
    static const char *const formats[] = {"fp4_e2m1", "fp6_e2m3", "fp6_e3m2", "fp8_e4m3",
                                          "fp8_e5m2", "int8",     "int4"};
    static const char *const rounds[] = {"nearest", "floor", "even"};
    const char *data = getenv("MXLM_DATA_DIR");
    if (data == NULL) {
        print_message("MXLM_DATA_DIR is not set: microxcaling's goldens are not compared\n");
        skip();
    }
    mx_error err = {0};
    char *path = mx_path_join(data, "golden/microxcaling.safetensors");
    const char *in = fixture_path("in.safetensors"), *out = fixture_path("out.safetensors");
    mx_safetensors *golden = open_file(path);
    int compared = 0;
    for (int n = 32; n <= 45; n += 13) {
        char name[128], settings[128];
        snprintf(name, sizeof name, "input.%d", n);
        const mx_tensor *input = mx_safetensors_find(golden, name);
        assert_non_null(input);
        mx_tensor_plan plan = {"x", MX_DTYPE_F32, 2, {input->shape[0], input->shape[1]}};
        write_file(in, &plan, 1, input->data, input->size);
        for (size_t c = 0; c < MX_COUNT(formats) * MX_COUNT(rounds) * 2; c++) {
            const char *format = formats[c % MX_COUNT(formats)];
            const char *round = rounds[c / MX_COUNT(formats) % MX_COUNT(rounds)];
            int block = c / MX_COUNT(formats) / MX_COUNT(rounds) == 0 ? 32 : 16;
            snprintf(name, sizeof name, "%s.%s.b%d.%d", format, round, block, n);
            const mx_tensor *expected = mx_safetensors_find(golden, name);
            if (expected == NULL) {
                assert_true(n == 45 && block == 16); /* the golden has no such output */
                continue;
            }
            snprintf(settings, sizeof settings, "weights=%s round=%s block=%d", format, round,
                     block);
            fixture_ok(cast(in, out, settings, NULL, &err), err);
            mx_safetensors *result = open_file(out);
            assert_same_values(mx_safetensors_at(result, 0), expected, name);
            mx_safetensors_close(result);
            compared++;
        }
    }
    assert_int_equal(compared, 7 * 3 * 3);
    mx_safetensors_close(golden);
    free(path);
}

/* ---- other types and the report ------------------------------------------------------ */

/* Rows are cast in the tensor's own type, with stream = row; other types and their
 * order, names and metadata are kept. */
static void test_types(void **state)
{
    (void)state;
    enum { ROWS = 6, COLS = 40, N = ROWS * COLS };
    mx_error err = {0};
    const char *in = fixture_path("in.safetensors"), *out = fixture_path("out.safetensors");
    const char *setting = "weights=fp6_e2m3 round=dither seed=5";
    const mx_tensor_plan plans[] = {
        {"f32", MX_DTYPE_F32, 3, {2, 3, COLS}},   {"i64", MX_DTYPE_I64, 1, {3}},
        {"bf16", MX_DTYPE_BF16, 2, {ROWS, COLS}}, {"f16", MX_DTYPE_F16, 2, {ROWS, COLS}},
        {"scalar", MX_DTYPE_F32, 0, {0}},         {"empty", MX_DTYPE_F32, 2, {0, 7}},
        {"bytes", MX_DTYPE_U8, 1, {5}},
    };
    struct __attribute__((packed)) {
        float f32[N];
        int64_t i64[3];
        uint16_t bf16[N], f16[N];
        float scalar;
        uint8_t bytes[5];
    } data = {.i64 = {-1, 2, INT64_MAX}, .scalar = 0.7f, .bytes = "abcd"}, result;
    float values[3][N], expected[COLS];
    uint32_t seed = 4;
    for (int i = 0; i < N; i++) {
        seed = seed * 1664525u + 1013904223u;
        float x = (float)(int32_t)seed * 0x1p-31f;
        values[0][i] = data.f32[i] = x;
        data.bf16[i] = mx_f32_to_bf16(x);
        data.f16[i] = mx_f32_to_f16(x);
        values[1][i] = mx_bf16_to_f32(data.bf16[i]);
        values[2][i] = mx_f16_to_f32(data.f16[i]);
    }
    write_file(in, plans, MX_COUNT(plans), &data, sizeof data);
    char *report;
    fixture_ok(cast(in, out, setting, &report, &err), err);
    mx_safetensors *reader = open_file(out);
    assert_int_equal(mx_safetensors_count(reader), MX_COUNT(plans));
    assert_string_equal(mx_safetensors_metadata(reader, "made by"), "test_cast");
    for (size_t i = 0; i < MX_COUNT(plans); i++) {
        const mx_tensor *tensor = mx_safetensors_at(reader, i);
        assert_string_equal(tensor->name, plans[i].name);
        assert_int_equal(tensor->dtype, plans[i].dtype);
        assert_int_equal(tensor->n_dims, plans[i].n_dims);
    }
    memcpy(&result, mx_safetensors_at(reader, 0)->data, sizeof result);
    mx_specs *specs = fixture_specs(setting);
    for (int r = 0; r < ROWS; r++) {
        for (int t = 0; t < 3; t++) {
            mx_row_cast(&specs->weights, values[t] + r * COLS, COLS, (uint64_t)r, expected);
            for (int c = 0; c < COLS; c++) {
                int i = r * COLS + c;
                float got = t == 0   ? result.f32[i]
                            : t == 1 ? mx_bf16_to_f32(result.bf16[i])
                                     : mx_f16_to_f32(result.f16[i]);
                assert_true(got == expected[c]);
            }
        }
    }
    float scalar = data.scalar; /* packed members have no aligned address */
    mx_row_cast(&specs->weights, &scalar, 1, 0, expected);
    scalar = result.scalar;
    assert_true(scalar == expected[0]);
    assert_memory_equal(result.i64, data.i64, sizeof data.i64);
    assert_memory_equal(result.bytes, data.bytes, sizeof data.bytes);
    assert_non_null(strstr(report, "3 tensors without"));
    mx_specs_free(specs);
    mx_safetensors_close(reader);
    free(report);
}

/* One block of 32 by hand: fp4 floor rule, amax 7 -> scale 2^0, largest value 6. */
static void test_report(void **state)
{
    (void)state;
    mx_error err = {0};
    const char *in = fixture_path("in.safetensors"), *out = fixture_path("out.safetensors");
    float x[64] = {7, 6.5f, -6.25f, 6, 0.25f, 0.2f, -0.1f, 1, 0, -0.0f, NAN};
    mx_tensor_plan plan = {"block", MX_DTYPE_F32, 2, {2, 32}};
    /* Row 0 is finite; row 1 holds a NaN, so all its 32 values become NaN. */
    x[10] = 0;
    x[32] = NAN;
    write_file(in, &plan, 1, x, sizeof x);
    char *report, name[64], type[16], sqnr[16];
    fixture_ok(cast(in, out, "weights=fp4_e2m1 round=even", &report, &err), err);
    unsigned long long count, non_finite;
    double max_error, saturated, flushed;
    char *line = strstr(report, "\nblock ");
    assert_non_null(line);
    assert_int_equal(sscanf(line, "%63s %15s %llu %15s %lf %lf%% %lf%% %llu", name, type, &count,
                            sqnr, &max_error, &saturated, &flushed, &non_finite),
                     8);
    assert_string_equal(type, "F32");
    assert_true(count == 64 && non_finite == 32);
    assert_true(max_error == 1);                          /* 7 -> 6 */
    assert_true(fabs(saturated - 100 * 3 / 64.0) < 1e-4); /* 7, 6.5, -6.25 */
    assert_true(fabs(flushed - 100 * 3 / 64.0) < 1e-4);   /* 0.25 (tie to even), 0.2, -0.1 */
    double signal = 49 + 42.25 + 39.0625 + 36 + 0.0625 + 0.04 + 0.01 + 1;
    double noise = 1 + 0.25 + 0.0625 + 0.0625 + 0.04 + 0.01;
    assert_true(fabs(atof(sqnr) - 10 * log10(signal / noise)) < 0.006);
    free(report);
}

static void test_plain_format(void **state)
{
    (void)state;
    mx_error err = {0};
    const char *in = fixture_path("in.safetensors"), *out = fixture_path("out.safetensors");
    float x[3] = {1 + 0x1p-9f, 70000, -1e-9f};
    mx_tensor_plan plan = {"x", MX_DTYPE_F32, 1, {3}};
    write_file(in, &plan, 1, x, sizeof x);
    fixture_ok(cast(in, out, "weights=bf16 round=even", NULL, &err), err);
    mx_safetensors *reader = open_file(out);
    float got[3];
    memcpy(got, mx_safetensors_at(reader, 0)->data, sizeof got);
    for (int i = 0; i < 3; i++) {
        assert_true(got[i] == mx_bf16_to_f32(mx_f32_to_bf16(x[i])));
    }
    mx_safetensors_close(reader);
}

/* ---- refused --------------------------------------------------------------------------- */

static bool stop_at_once(void *ctx, const mx_progress *progress)
{
    (void)ctx;
    assert_string_equal(progress->stage, "cast");
    return false;
}

static void test_refused(void **state)
{
    (void)state;
    mx_error err = {0};
    const char *in = fixture_path("in.safetensors"), *out = fixture_path("none.safetensors");
    float x[32] = {1};
    mx_tensor_plan plan = {"x", MX_DTYPE_F32, 1, {32}};
    write_file(in, &plan, 1, x, sizeof x);
    fixture_fails(cast(in, out, "block=32", NULL, &err), MX_ERR_ARGUMENT, "no format", err);
    fixture_fails(cast(fixture_path("missing"), out, "weights=int8", NULL, &err), MX_ERR_IO,
                  "missing", err);
    fixture_fails(cast(in, fixture_path("no/where"), "weights=int8", NULL, &err), MX_ERR_IO,
                  "no/where", err);
    mx_specs *specs = fixture_specs("weights=int8");
    assert_int_equal(mx_cast_run(in, out, specs, (mx_watch){stop_at_once, NULL}, NULL, &err),
                     MX_ERR_CANCELLED);
    mx_specs_free(specs);
    fixture_ok(mx_file_write(in, "not a safetensors file", 22, &err), err);
    char *report;
    fixture_fails(cast(in, out, "weights=int8", &report, &err), MX_ERR_FORMAT, "in.safetensors",
                  err);
    assert_null(report);
    assert_false(mx_path_is_file(out));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_microxcaling), cmocka_unit_test(test_types),
        cmocka_unit_test(test_report),       cmocka_unit_test(test_plain_format),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
