/*
 * The real checkpoint against transformers and microxcaling
 * (shared data: golden/smollm2_logits.json), and its bits over threads and
 * instruction sets. Skips where the checkpoint or the golden is absent.
 */
#include "model/model_fixture.h"

#include "base/json.h"

#include <math.h>

/* What float32 transformers and a correct program differ by. */
#define CLOSE 2e-4

enum { TOP = 16, MAX_PROMPT = 64, GREEDY = 24 };

/* How much of the golden is run. */
#if MX_SANITIZED
enum { PROMPTS = 1, STEPS = 2, BIT_TOKENS = 3 };
#else
enum { PROMPTS = 6, STEPS = GREEDY, BIT_TOKENS = 23 };
#endif

static const char w4a6[] =
    "weights=mxfp4_e2m1 activations=mxfp6_e2m3 block=32 scale_rule=floor round=even";

/* The GGUF's path, or false where there is none. */
static bool find_checkpoint(char *path)
{
    static const char name[] = "SmolLM2-135M-Instruct.Q4_1.gguf";
    const char *given = getenv("MXLM_SMOLLM2_GGUF"), *cache = getenv("XDG_CACHE_HOME");
    const char *home = getenv("HOME");
    if (given != NULL) {
        snprintf(path, FIXTURE_PATH, "%s", given);
    } else if (cache != NULL && cache[0] != '\0') {
        snprintf(path, FIXTURE_PATH, "%s/mxlm/%s", cache, name);
    } else {
        snprintf(path, FIXTURE_PATH, "%s/.cache/mxlm/%s", home != NULL ? home : "", name);
    }
    if (!mx_path_is_file(path)) {
        print_message("skipped: %s is absent\n", path);
        return false;
    }
    return true;
}

static json_t *load_golden(void)
{
    char path[FIXTURE_PATH];
    mx_error err = {0};
    json_t *root;
    const char *dir = getenv("MXLM_DATA_DIR");
    if (dir == NULL) {
        print_message("skipped: MXLM_DATA_DIR is not set\n");
        return NULL;
    }
    snprintf(path, sizeof path, "%s/golden/smollm2_logits.json", dir);
    if (!mx_path_is_file(path)) {
        print_message("skipped: %s is absent\n", path);
        return NULL;
    }
    fixture_ok(mx_json_load(path, 16 << 20, &root, &err), err);
    return root;
}

static uint32_t read_ids(const json_t *array, int32_t *ids)
{
    size_t n = json_array_size(array);
    assert_in_range(n, 1, MAX_PROMPT);
    for (size_t i = 0; i < n; i++) {
        ids[i] = (int32_t)json_integer_value(json_array_get(array, i));
    }
    return (uint32_t)n;
}

typedef struct difference {
    double largest, sum;
    size_t count;
    size_t positions, close; /* positions in all, and those within CLOSE throughout */
} difference;

static void difference_add(difference *d, double got, double expected)
{
    double far = fabs(got - expected);
    d->largest = isnan(far) ? INFINITY : fmax(d->largest, far);
    d->sum += far;
    d->count++;
}

/* One position: its top 16 logits and its logsumexp. logits [vocab]. */
static void compare_position(const json_t *prompt, size_t position, const float *logits,
                             const mx_row_stats *stats, difference *d)
{
    const json_t *ids = json_array_get(json_object_get(prompt, "top_ids"), position);
    const json_t *tops = json_array_get(json_object_get(prompt, "top_logits"), position);
    const json_t *lse = json_array_get(json_object_get(prompt, "logsumexp"), position);
    assert_int_equal(json_array_size(ids), TOP);
    difference here = {0};
    for (size_t i = 0; i < TOP; i++) {
        json_int_t id = json_integer_value(json_array_get(ids, i));
        difference_add(&here, (double)logits[id], json_real_value(json_array_get(tops, i)));
    }
    difference_add(&here, (double)stats->max + log(stats->sum_exp), json_real_value(lse));
    d->largest = fmax(d->largest, here.largest);
    d->sum += here.sum;
    d->count += here.count;
    d->positions++;
    d->close += here.largest <= CLOSE;
}

static void compare_prompt(mx_model *model, const json_t *prompt, difference *d)
{
    int32_t ids[MAX_PROMPT];
    uint32_t n = read_ids(json_object_get(prompt, "ids"), ids);
    size_t vocab = model->config.vocab;
    float *logits = malloc(n * vocab * sizeof *logits); /* [n][vocab] */
    assert_non_null(logits);
    fixture_sequence(model, ids, n, n, logits);
    for (size_t position = 0; position < n; position++) {
        const float *row = logits + position * vocab;
        mx_row_stats stats;
        model->backend.kernels.row_stats(row, vocab, &stats);
        compare_position(prompt, position, row, &stats, d);
    }
    free(logits);
}

/* Greedy tokens that equal the golden's before the first that does not. */
static uint32_t greedy_agreement(mx_model *model, const json_t *prompt)
{
    mx_error err = {0};
    int32_t ids[MAX_PROMPT], expected[MAX_PROMPT], next;
    uint32_t n = read_ids(json_object_get(prompt, "ids"), ids), position = 0, same = 0;
    assert_int_equal(read_ids(json_object_get(prompt, "greedy"), expected), GREEDY);
    mx_session *session = fixture_session(
        model, (mx_session_config){MAX_PROMPT, 1, MAX_PROMPT + GREEDY, .keep_kv = true});
    mx_segment segment = {0, 0, ids, n};
    for (; same < STEPS; same++) {
        mx_row_stats stats;
        float picked;
        const int32_t pick = 0;
        segment.start = position;
        fixture_ok(mx_session_forward(session, &segment, 1, &err), err);
        uint32_t last = segment.n_tokens - 1;
        fixture_ok(mx_session_score(session, &last, &pick, 1, &stats, &picked, &err), err);
        if ((int32_t)stats.argmax != expected[same]) {
            break;
        }
        position += segment.n_tokens;
        next = (int32_t)stats.argmax;
        segment = (mx_segment){0, position, &next, 1};
    }
    mx_session_free(session);
    return same;
}

static void compare_all(mx_model *model, const json_t *prompts, difference *d, uint32_t *greedy)
{
    assert_int_equal(json_array_size(prompts), 6);
    *d = (difference){0};
    *greedy = 0;
    for (size_t i = 0; i < PROMPTS; i++) {
        compare_prompt(model, json_array_get(prompts, i), d);
        *greedy += greedy_agreement(model, json_array_get(prompts, i));
    }
    print_message("%zu logits and logsumexp: largest difference %.2e, mean %.2e; %zu of %zu "
                  "positions within %.0e; %u of %d greedy tokens\n",
                  d->count, d->largest, d->sum / (double)d->count, d->close, d->positions, CLOSE,
                  *greedy, PROMPTS * STEPS);
}

static void unquantized_agrees_with_transformers(void **state)
{
    (void)state;
    char path[FIXTURE_PATH];
    difference d;
    uint32_t greedy;
    json_t *golden = load_golden();
    if (golden == NULL || !find_checkpoint(path)) {
        json_decref(golden);
        skip();
    }
    mx_model *model = fixture_open(path, 0, NULL);
    compare_all(model, json_object_get(golden, "float32"), &d, &greedy);
    assert_int_equal(d.close, d.positions);
    assert_true(d.largest <= CLOSE);
    assert_int_equal(greedy, PROMPTS * STEPS);
    mx_model_close(model);
    json_decref(golden);
}

/*
 * No bound on the largest difference can hold here. The forward pass is
 * discontinuous: an activation within fp32 noise of a rounding boundary may take
 * either side in correct programs, and one that flips moves the logits of its
 * token and of those behind it by up to several units. Between flips everything
 * agrees as closely as unquantized. So positions that agree are counted, and the
 * mean is held against what quantization itself moves (3.2).
 *
 * The limits come from the emulation in float64 throughout, against its own
 * float32 golden: 36 of the 89 positions agree, mean 0.40. (With norms that sum
 * in another order mean 0.05 to 0.09.) A mistake leaves no position close.
 */
static void w4a6_agrees_with_microxcaling(void **state)
{
    (void)state;
    char path[FIXTURE_PATH];
    difference d;
    uint32_t greedy;
    json_t *golden = load_golden();
    if (golden == NULL || !find_checkpoint(path)) {
        json_decref(golden);
        skip();
    }
    mx_model *model = fixture_open(path, 0, NULL);
    fixture_apply(model, w4a6);
    compare_all(model, json_object_get(golden, "mxfp4_e2m1-w mxfp6_e2m3-a rtn floor even"), &d,
                &greedy);
    assert_true(d.positions > 0);
    assert_true(89 * d.close >= 36 * d.positions);
    assert_true(d.sum / (double)d.count <= 0.5);
    mx_model_close(model);
    json_decref(golden);
}

static void compare_bits(const char *path, const char *setting)
{
    static const int32_t ids[] = {504,  2365, 6354, 16438, 27003, 690, 260, 23790,
                                  2767, 30,   198,  378,   669,   216, 533, 339,
                                  657,  1116, 1848, 1812,  29982, 338, 1501};
    enum { N = BIT_TOKENS };
    _Static_assert(N <= MX_COUNT(ids), "fewer tokens than asked for");
    const char *isas[5];
    size_t n_isas = fixture_isas(isas);
    float *expected = NULL;
    for (size_t i = 0; i < 2 * n_isas; i++) {
        int threads = i % 2 == 0 ? 1 : 2;
        mx_model *model = fixture_open(path, threads, isas[i / 2]);
        fixture_apply(model, setting);
        size_t bytes = N * (size_t)model->config.vocab * sizeof(float);
        float *logits = malloc(bytes); /* [N][vocab] */
        assert_non_null(logits);
        fixture_sequence(model, ids, N, N, logits);
        mx_model_close(model);
        if (expected == NULL) {
            expected = logits;
            continue;
        }
        if (memcmp(logits, expected, bytes) != 0) {
            fail_msg("[%s] %s with %d threads differs from ref with one", setting, isas[i / 2],
                     threads);
        }
        free(logits);
    }
    free(expected);
}

static void bits_do_not_depend_on_the_machine(void **state)
{
    (void)state;
    char path[FIXTURE_PATH];
    if (!find_checkpoint(path)) {
        skip();
    }
    compare_bits(path, "");
    compare_bits(path, w4a6);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unquantized_agrees_with_transformers),
        cmocka_unit_test(w4a6_agrees_with_microxcaling),
        cmocka_unit_test(bits_do_not_depend_on_the_machine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
