/* The bench's own arithmetic and reports, on a model small enough to take no time. */
#include "bench/bench_impl.h"

#include "base/json.h"
#include "model/random_model.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static mx_llama_config small_config(void)
{
    return (mx_llama_config){
        .hidden = 96,
        .intermediate = 160,
        .layers = 2,
        .heads = 4,
        .kv_heads = 2,
        .head_dim = 16,
        .vocab = 101,
        .context = 2048,
        .norm_eps = 1e-5f,
        .tied = true,
        .bos_id = -1,
        .rope = {.kind = MX_ROPE_DEFAULT, .theta = 10000, .factor = 1},
    };
}

static mx_specs small_specs(const char *weights, const char *activations)
{
    mx_specs specs = {.weights = mx_quant_default(), .activations = mx_quant_default()};
    specs.weights.format = weights != NULL ? mx_format_find(weights) : NULL;
    specs.activations.format = activations != NULL ? mx_format_find(activations) : NULL;
    return specs;
}

static mx_status open_small(void *ctx, int threads, mx_model **out, mx_error *err)
{
    mx_llama_config config = small_config();
    mx_specs specs = small_specs("fp4_e2m1", "fp6_e2m3");
    (void)ctx;
    return mx_model_random(&config, &specs, 1, threads, out, err);
}

static const mx_bench_source small = {"small, \"random\"", true, open_small, NULL};

/* ---- random weights ------------------------------------------------------------ */

/* Every value finite and of the promised size, padding bits zero, the same for any
 * number of threads. */
static void check_matrix(const mx_format *format, size_t cols)
{
    enum { ROWS = 33 };
    mx_quant quant = mx_quant_default();
    quant.format = format;
    mx_matrix one, three;
    mx_team *team;
    assert_int_equal(mx_team_create(3, &team, NULL), MX_OK);
    assert_int_equal(mx_matrix_random(&quant, ROWS, cols, 7, 1, NULL, &one, NULL), MX_OK);
    assert_int_equal(mx_matrix_random(&quant, ROWS, cols, 7, 1, team, &three, NULL), MX_OK);
    assert_memory_equal(one.owned, three.owned, one.stored_bytes);
    float *row = malloc((cols + 256) * sizeof *row);
    uint8_t *codes = malloc(cols), *packed = malloc(one.row_bytes);
    double squares = 0;
    for (size_t r = 0; r < ROWS; r++) {
        mx_matrix_row(&one, r, row);
        for (size_t i = 0; i < cols; i++) {
            assert_true(isfinite(row[i]));
            squares += (double)row[i] * row[i];
        }
        if (one.kind == MX_MATRIX_CODES) {
            mx_codes_unpack(one.data + r * one.row_bytes, cols, format->bits, codes);
            mx_codes_pack(codes, cols, format->bits, packed);
            assert_memory_equal(packed, one.data + r * one.row_bytes, one.row_bytes);
        }
    }
    double size = sqrt(squares / (double)(ROWS * cols)) * sqrt((double)cols);
    assert_true(size > 0.5 && size < 2.5); /* scales vary by a binade each way */
    free(row);
    free(codes);
    free(packed);
    mx_matrix_clear(&one);
    mx_matrix_clear(&three);
    mx_team_free(team);
}

static void test_random_matrix(void **state)
{
    (void)state;
    for (size_t f = 0; f < mx_format_count(); f++) {
        check_matrix(mx_format_at(f), 1536); /* more than one chunk, and not a multiple */
        check_matrix(mx_format_at(f), 45);
    }
}

static void logits_of(const char *weights, const char *activations, int threads, float *logits)
{
    mx_llama_config config = small_config();
    mx_specs specs = small_specs(weights, activations);
    mx_session_config sizes = {4, 1, 16, true};
    mx_model *model;
    mx_session *session;
    const int32_t tokens[] = {3, 100, 0, 57};
    const mx_segment segment = {.tokens = tokens, .n_tokens = 4};
    const uint32_t last = 3;
    assert_int_equal(mx_model_random(&config, &specs, 5, threads, &model, NULL), MX_OK);
    assert_int_equal(mx_session_create(model, &sizes, &session, NULL), MX_OK);
    assert_int_equal(mx_session_forward(session, &segment, 1, NULL), MX_OK);
    assert_int_equal(mx_session_logits(session, &last, 1, logits, NULL), MX_OK);
    mx_session_free(session);
    mx_model_close(model);
}

static void test_random_model(void **state)
{
    static const char *const pairs[][2] = {{NULL, NULL},     {"fp4_e2m1", "fp6_e2m3"},
                                           {"int8", "int8"}, {"fp8_e4m3", "fp8_e5m2"},
                                           {"fp16", NULL},   {"fp32", "fp6_e3m2"}};
    (void)state;
    for (size_t i = 0; i < MX_COUNT(pairs); i++) {
        float one[101], three[101];
        logits_of(pairs[i][0], pairs[i][1], 1, one);
        logits_of(pairs[i][0], pairs[i][1], 3, three);
        assert_memory_equal(one, three, sizeof one);
        double squares = 0;
        for (size_t j = 0; j < MX_COUNT(one); j++) {
            squares += (double)one[j] * one[j];
        }
        assert_true(isfinite(squares) && squares > 1e-3);
    }
}

/* Sizes of a config justify memory only as far as the machine has it. */
static void test_random_model_too_large(void **state)
{
    (void)state;
    mx_llama_config config = small_config();
    mx_model *model;
    mx_error err = {0};
    config.hidden = config.intermediate = MX_LLAMA_MAX_WIDTH;
    config.layers = MX_LLAMA_MAX_LAYERS;
    assert_int_equal(mx_model_random(&config, NULL, 1, 1, &model, &err), MX_ERR_UNSUPPORTED);
    assert_null(model);
    assert_non_null(strstr(err.text, "GB"));
}

/* ---- limits ---------------------------------------------------------------------- */

static void test_work_seconds(void **state)
{
    (void)state;
    mx_bound bound;
    mx_work work = {.int_macs = 100, .f32_macs = 30, .bytes = 40};
    assert_true(mx_work_seconds(&work, 50, 10, 20, &bound) == 5);
    assert_int_equal(bound, MX_BOUND_OPERATIONS);
    assert_true(mx_work_seconds(&work, 50, 10, 4, &bound) == 10);
    assert_int_equal(bound, MX_BOUND_BYTES);
    work = (mx_work){.bytes = 40};
    assert_true(mx_work_seconds(&work, 0, 0, 4, &bound) == 10);
}

static void test_peaks(void **state)
{
    (void)state;
    mx_kernels kernels;
    mx_team *team;
    mx_kernels_init(mx_cpu_detect(), &kernels);
    assert_int_equal(mx_team_create(2, &team, NULL), MX_OK);
    const mx_peak *peak = NULL, *last = mx_peak_find(kernels.name);
    assert_non_null(last);
    for (size_t i = 0; peak != last; i++) {
        peak = mx_peak_at(i);
        assert_non_null(peak);
        assert_ptr_equal(mx_peak_find(peak->isa), peak);
        mx_roof roof;
        assert_int_equal(mx_roof_init(&roof, peak->isa, 1 << 20, NULL), MX_OK);
        double read = mx_roof_read(&roof, team, 1 << 20);
        assert_true(mx_roof_int(&roof, team) > 1e6 && isfinite(mx_roof_int(&roof, team)));
        assert_true(mx_roof_f32(&roof, team) > 1e6);
        assert_true(read > 1e6 && isfinite(read));
        mx_roof_clear(&roof);
    }
    assert_null(mx_peak_find("abacus"));
    mx_team_free(team);
}

static void test_median(void **state)
{
    (void)state;
    const double values[] = {5, 1, 4, 2};
    assert_true(mx_bench_median(values, 0) == 0);
    assert_true(mx_bench_median(values, 1) == 5);
    assert_true(mx_bench_median(values, 3) == 4);
    assert_true(mx_bench_median(values, 4) == 3);
}

/* ---- whole runs -------------------------------------------------------------------- */

typedef struct outputs {
    char *table, *csv, *json;
} outputs;

static void outputs_free(outputs *o)
{
    free(o->table);
    free(o->csv);
    free(o->json);
}

static mx_status run(const mx_bench_options *options, outputs *o, mx_error *err)
{
    mx_watch nobody = {0};
    return mx_bench_run(&small, options, nobody, &o->table, &o->csv, &o->json, err);
}

static const json_t *find_row(const json_t *rows, const char *name, int threads)
{
    for (size_t i = 0; i < json_array_size(rows); i++) {
        const json_t *row = json_array_get(rows, i);
        if (strcmp(json_string_value(json_object_get(row, "name")), name) == 0 &&
            json_integer_value(json_object_get(row, "threads")) == threads) {
            return row;
        }
    }
    return NULL;
}

static double number(const json_t *row, const char *key)
{
    return json_number_value(json_object_get(row, key));
}

/* Median and share follow from the rounds in the report. */
static void check_row(const json_t *row, size_t rounds)
{
    const json_t *values = json_object_get(row, "rounds");
    const json_t *roofs = json_object_get(row, "at_bound_rounds");
    double list[MX_BENCH_MAX_ROUNDS], shares[MX_BENCH_MAX_ROUNDS];
    assert_int_equal(json_array_size(values), rounds);
    for (size_t i = 0; i < rounds; i++) {
        list[i] = json_real_value(json_array_get(values, i));
        assert_true(list[i] > 0);
        shares[i] = list[i] / json_real_value(json_array_get(roofs, i));
    }
    assert_true(number(row, "median") == mx_bench_median(list, rounds));
    if (json_is_array(roofs)) {
        assert_true(number(row, "share") == mx_bench_median(shares, rounds));
        assert_true(number(row, "share") > 0);
    }
}

/* Fields of a CSV line, commas in quotes not counted. */
static size_t csv_fields(const char *line, size_t length)
{
    size_t n = 1;
    bool quoted = false;
    for (size_t i = 0; i < length; i++) {
        quoted ^= line[i] == '"';
        n += line[i] == ',' && !quoted;
    }
    return n;
}

static void check_csv(const char *csv, size_t rows)
{
    size_t lines = 0, header = csv_fields(csv, strcspn(csv, "\n"));
    for (const char *at = csv; *at != '\0'; lines++) {
        size_t length = strcspn(at, "\n");
        assert_int_equal(csv_fields(at, length), header);
        at += length + 1;
    }
    assert_int_equal(lines, rows + 1);
}

static void test_run(void **state)
{
    (void)state;
    static const char *const names[] = {"int 64x96 q",
                                        "int 32x96 k v",
                                        "int 96x64 o",
                                        "int 160x96 gate up",
                                        "int 96x160 down",
                                        "fp32 160x96 gate up",
                                        "quantize inputs of 64x96 q",
                                        "prefill",
                                        "decode 1 sequence",
                                        "decode 4 sequences"};
    mx_bench_options options = {.threads = "1,2", .quick = true, .rounds = 2};
    outputs o;
    json_t *root;
    assert_int_equal(run(&options, &o, NULL), MX_OK);
    assert_int_equal(mx_json_parse(o.json, strlen(o.json), "json", &root, NULL), MX_OK);
    const json_t *rows = json_object_get(root, "rows");
    for (size_t i = 0; i < MX_COUNT(names); i++) {
        for (int threads = 1; threads <= 2; threads++) {
            const json_t *row = find_row(rows, names[i], threads);
            assert_non_null(row);
            check_row(row, 2);
        }
        assert_non_null(strstr(o.table, names[i]));
    }
    check_row(find_row(rows, "load to first token", 2), 1);
    check_row(find_row(rows, "resident memory", 2), 1);
    check_csv(o.csv, json_array_size(rows));
    json_decref(root);
    outputs_free(&o);
}

/* The long prefill tells attention's share. */
static void test_long_prefill(void **state)
{
    (void)state;
    mx_bench_options options = {.threads = "1", .only = "prefill", .rounds = 4};
    outputs o;
    json_t *root;
    assert_int_equal(run(&options, &o, NULL), MX_OK);
    assert_int_equal(mx_json_parse(o.json, strlen(o.json), "json", &root, NULL), MX_OK);
    const json_t *rows = json_object_get(root, "rows");
    const json_t *share = find_row(rows, "attention's share of the time", 1);
    assert_non_null(share);
    assert_int_equal(json_array_size(rows), 3);
    assert_int_equal(number(share, "tokens"), 2048);
    assert_int_equal(json_array_size(json_object_get(share, "rounds")), 3);
    double median = number(share, "median"); /* a model this narrow does little else */
    assert_true(median > 5 && median < 100);
    json_decref(root);
    outputs_free(&o);
}

/* ---- peers --------------------------------------------------------------------------- */

static char peer_path[1024];

static mx_status run_peer(const char *behaviour, outputs *o, mx_error *err)
{
    const char *dir = getenv("MXLM_TEST_DIR");
    if (dir == NULL) {
        fail_msg("MXLM_TEST_DIR is not set: run this through ctest");
        return MX_ERR_ARGUMENT; /* the compiler does not see that fail_msg stays away */
    }
    snprintf(peer_path, sizeof peer_path, "%s/bench/fake_peer.sh", dir);
    setenv("FAKE_PEER", behaviour, 1);
    mx_bench_options options = {.threads = "1,2",
                                .only = "prefill,decode,peer",
                                .quick = true,
                                .rounds = 1,
                                .peer_path = peer_path,
                                .peer_model = "model.gguf"};
    return run(&options, o, err);
}

static void test_peer(void **state)
{
    (void)state;
    outputs o;
    json_t *root;
    assert_int_equal(run_peer("", &o, NULL), MX_OK);
    assert_int_equal(mx_json_parse(o.json, strlen(o.json), "json", &root, NULL), MX_OK);
    const json_t *rows = json_object_get(root, "rows");
    for (int threads = 1; threads <= 2; threads++) {
        double prefill = number(find_row(rows, "prefill", threads), "median");
        double decode = number(find_row(rows, "decode 1 sequence", threads), "median");
        assert_true(number(find_row(rows, "peer prefill", threads), "median") == 1000);
        assert_true(number(find_row(rows, "peer decode", threads), "median") == 10 * threads);
        assert_true(number(find_row(rows, "mxlm / peer prefill", threads), "median") ==
                    prefill / 1000);
        assert_true(number(find_row(rows, "mxlm / peer decode", threads), "median") ==
                    decode / (10 * threads));
    }
    json_decref(root);
    outputs_free(&o);
}

static void test_bad_peers(void **state)
{
    (void)state;
    outputs o;
    mx_error err = {0};
    assert_int_equal(run_peer("fail", &o, &err), MX_ERR_IO);
    assert_non_null(strstr(err.text, "exit code 3"));
    assert_null(o.table);
    assert_int_equal(run_peer("noise", &o, &err), MX_ERR_FORMAT);
    mx_bench_options options = {.threads = "1",
                                .quick = true,
                                .only = "decode,peer",
                                .peer_path = "/no/such/peer",
                                .peer_model = "x"};
    assert_int_equal(run(&options, &o, &err), MX_ERR_IO);
    assert_non_null(strstr(err.text, "/no/such/peer"));
    options.only = "decode";
    assert_int_equal(run(&options, &o, &err), MX_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "only: 'decode' leaves out the peer"));
}

/* ---- options --------------------------------------------------------------------------- */

static bool stop(void *ctx, const mx_progress *progress)
{
    uint64_t *calls = ctx;
    assert_true(progress->done <= progress->total);
    return ++*calls < 3;
}

static void test_cancel(void **state)
{
    (void)state;
    uint64_t calls = 0;
    mx_bench_options options = {.threads = "1", .quick = true, .only = "decode"};
    mx_watch watch = {stop, &calls};
    outputs o;
    assert_int_equal(mx_bench_run(&small, &options, watch, &o.table, &o.csv, &o.json, NULL),
                     MX_ERR_CANCELLED);
    assert_int_equal(calls, 3);
    assert_null(o.table);
    assert_null(o.csv);
    assert_null(o.json);
}

static void test_bad_options(void **state)
{
    (void)state;
    static const mx_bench_options bad[] = {{.threads = "0"},
                                           {.threads = "1,"},
                                           {.threads = "two"},
                                           {.threads = "1,257"},
                                           {.only = "kernel,speed"},
                                           {.rounds = 65},
                                           {.peer_path = "/peer"},
                                           {.peer_model = "model.gguf"},
                                           {.only = ""},
                                           {.threads = "1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1"}};
    for (size_t i = 0; i < MX_COUNT(bad); i++) {
        outputs o;
        mx_error err = {0};
        assert_int_equal(run(&bad[i], &o, &err), MX_ERR_ARGUMENT);
        assert_true(err.text[0] != '\0');
        assert_null(o.table);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_matrix),
        cmocka_unit_test(test_random_model),
        cmocka_unit_test(test_random_model_too_large),
        cmocka_unit_test(test_work_seconds),
        cmocka_unit_test(test_peaks),
        cmocka_unit_test(test_median),
        cmocka_unit_test(test_run),
        cmocka_unit_test(test_long_prefill),
        cmocka_unit_test(test_peer),
        cmocka_unit_test(test_bad_peers),
        cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_bad_options),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
