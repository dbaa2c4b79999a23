/* kl:FILE: a tiny model beside its MXFP4 copy against transformers' figures, whatever the
 * batch and the threads; samples and resume; what is refused. */
#include "eval_fixture.h"

#include "eval/eval_run.h"
#include "eval/eval_stats.h"

typedef struct bench {
    char dir[FIXTURE_PATH], text[FIXTURE_PATH + 16], samples[FIXTURE_PATH + 32];
    char run[FIXTURE_PATH + 48], tasks[FIXTURE_PATH + 32];
    json_t *golden;
} bench;

static int bench_open(void **state)
{
    bench *b = calloc(1, sizeof *b);
    char path[FIXTURE_PATH];
    mx_error err = {0};
    assert_non_null(b);
    assert_true(fixture_path("MXLM_TEST_DIR", "golden/kl.json", path));
    fixture_ok(mx_json_load(path, (size_t)1 << 20, &b->golden, &err), err);
    fixture_scratch(b->dir);
    snprintf(b->text, sizeof b->text, "%s/text.txt", b->dir);
    snprintf(b->samples, sizeof b->samples, "%s/samples.jsonl", b->dir);
    snprintf(b->run, sizeof b->run, "%s.run.json", b->samples);
    snprintf(b->tasks, sizeof b->tasks, "kl:%s", b->text);
    fixture_write(b->text, fixture_text(b->golden, "text"));
    *state = b;
    return 0;
}

static int bench_close(void **state)
{
    bench *b = *state;
    unlink(b->text);
    unlink(b->samples);
    unlink(b->run);
    assert_int_equal(rmdir(b->dir), 0);
    json_decref(b->golden);
    free(b);
    return 0;
}

/* The tiny model; with `quantized`, weights in mxfp4_e2m1. */
static mx_model *open_tiny(bool quantized, int threads)
{
    char path[FIXTURE_PATH];
    mx_model *model = NULL;
    mx_specs *specs = NULL;
    mx_error err = {0};
    assert_true(fixture_path("MXLM_TEST_DIR", "app/fixtures/tiny", path));
    fixture_ok(mx_model_open(path, threads, &model, &err), err);
    if (quantized) {
        fixture_ok(mx_specs_create(&specs, &err), err);
        fixture_ok(mx_specs_set(specs, "weights", "mxfp4_e2m1", &err), err);
        fixture_ok(mx_model_apply(model, specs, (mx_watch){0}, &err), err);
        mx_specs_free(specs);
    }
    return model;
}

static mx_eval_options make_options(const bench *b, uint32_t batch_size)
{
    mx_eval_options options;
    mx_eval_options_init(&options);
    options.tasks = b->tasks;
    options.window = (uint32_t)fixture_real(b->golden, "window");
    options.stride = (uint32_t)fixture_real(b->golden, "stride");
    options.batch_size = batch_size;
    return options;
}

/* Results JSON of the quantized model, or of the base itself, beside the base. */
static json_t *evaluate(mx_eval_options *options, bool quantized, int threads)
{
    mx_error err = {0};
    char *json = NULL;
    json_t *root = NULL;
    mx_model *model = open_tiny(quantized, threads);
    options->base = open_tiny(false, threads);
    fixture_ok(mx_eval_run(model, options, (mx_watch){0}, NULL, &json, &err), err);
    fixture_ok(mx_json_parse(json, strlen(json), "results", &root, &err), err);
    free(json);
    mx_model_close(model);
    mx_model_close(options->base);
    return root;
}

static const json_t *figures(const json_t *root)
{
    return json_object_get(json_object_get(root, "results"), "kl:text.txt");
}

static const json_t *documents(const json_t *root)
{
    const json_t *all = json_object_get(json_object_get(root, "mxlm"), "documents");
    return json_object_get(all, "kl:text.txt");
}

static void check_close(double found, double wanted, double tolerance, const char *what)
{
    if (!(fabs(found - wanted) <= tolerance * fabs(wanted))) {
        fail_msg("%s: %.9g, wanted %.9g", what, found, wanted);
    }
}

static void test_golden(void **state)
{
    const bench *b = *state;
    mx_eval_options options = make_options(b, 0);
    json_t *root = evaluate(&options, true, 2);
    const json_t *found = figures(root), *windows = json_object_get(b->golden, "windows");
    check_close(fixture_real(found, "kl,none"), fixture_real(b->golden, "kl"), 1e-4, "kl");
    check_close(fixture_real(found, "kl_stderr,none"), fixture_real(b->golden, "kl_stderr"), 1e-4,
                "kl_stderr");
    check_close(fixture_real(found, "kl_p99,none"), fixture_real(b->golden, "kl_p99"), 1e-4, "p99");
    check_close(fixture_real(found, "top1_agreement,none"),
                fixture_real(b->golden, "top1_agreement"), 1e-12, "top-1 agreement");
    assert_true(json_array_size(windows) > 2);
    assert_int_equal(json_array_size(json_object_get(documents(root), "kl")),
                     json_array_size(windows));
    for (size_t i = 0; i < json_array_size(windows); i++) {
        const json_t *window = json_array_get(windows, i);
        const char *const ours[] = {"tokens", "kl", "top1_agreed", "ll"};
        const char *const theirs[] = {"targets", "kl", "agreed", "ll"};
        for (size_t k = 0; k < MX_COUNT(ours); k++) {
            const json_t *value = json_array_get(json_object_get(documents(root), ours[k]), i);
            check_close(json_number_value(value), fixture_real(window, theirs[k]), 1e-4, ours[k]);
        }
    }
    json_decref(root);
}

static void test_invariance(void **state)
{
    const bench *b = *state;
    mx_eval_options options = make_options(b, 0);
    json_t *wanted = evaluate(&options, true, 1);
    static const struct {
        uint32_t batch_size;
        int threads;
    } cases[] = {{1, 1}, {3, 2}, {2, 5}};
    for (size_t i = 0; i < MX_COUNT(cases); i++) {
        options.batch_size = cases[i].batch_size;
        json_t *found = evaluate(&options, true, cases[i].threads);
        assert_true(json_equal((json_t *)figures(found), (json_t *)figures(wanted)));
        assert_true(json_equal((json_t *)documents(found), (json_t *)documents(wanted)));
        json_decref(found);
    }
    json_decref(wanted);
}

/* A model diverges from itself by nothing at all. */
static void test_itself(void **state)
{
    const bench *b = *state;
    mx_eval_options options = make_options(b, 0);
    json_t *root = evaluate(&options, false, 2);
    assert_true(fixture_real(figures(root), "kl,none") == 0);
    assert_true(fixture_real(figures(root), "kl_p99,none") == 0);
    assert_true(fixture_real(figures(root), "top1_agreement,none") == 1);
    json_decref(root);
}

static bool stop_after_two(void *ctx, const mx_progress *progress)
{
    (void)ctx;
    return progress->done < 2;
}

static void test_resume(void **state)
{
    const bench *b = *state;
    mx_eval_options options = make_options(b, 1);
    mx_error err = {0};
    json_t *wanted = evaluate(&options, true, 1);
    mx_model *model = open_tiny(true, 1);
    options.base = open_tiny(false, 1);
    options.samples_path = b->samples;
    assert_int_equal(
        mx_eval_run(model, &options, (mx_watch){stop_after_two, NULL}, NULL, NULL, &err),
        MX_ERR_CANCELLED);
    mx_model_close(model);
    mx_model_close(options.base);
    options.resume = true;
    json_t *found = evaluate(&options, true, 1);
    assert_true(json_equal((json_t *)figures(found), (json_t *)figures(wanted)));
    assert_true(json_equal((json_t *)documents(found), (json_t *)documents(wanted)));
    json_decref(wanted);
    json_decref(found);
}

/* A samples line that lacks one of its divergences. */
static void test_short_line(void **state)
{
    const bench *b = *state;
    mx_eval_options options = make_options(b, 0);
    mx_error err = {0};
    options.samples_path = b->samples;
    options.resume = true;
    json_decref(evaluate(&options, true, 1));
    char *text = fixture_read(b->samples);
    size_t at = 0;
    while (strncmp(text + at, "\"kl\": [", 7) != 0) {
        at++;
    }
    memset(text + at + 7, ' ', strcspn(text + at + 7, ",") + 1);
    fixture_write(b->samples, text);
    mx_model *model = open_tiny(true, 1);
    options.base = open_tiny(false, 1);
    assert_int_equal(mx_eval_run(model, &options, (mx_watch){0}, NULL, NULL, &err), MX_ERR_FORMAT);
    assert_non_null(strstr(err.text, "kl: must have"));
    mx_model_close(model);
    mx_model_close(options.base);
    free(text);
}

static void check_refused(mx_model *model, mx_model *base, const mx_eval_options *given,
                          const char *text)
{
    mx_eval_options options = *given;
    mx_error err = {0};
    options.base = base;
    assert_int_equal(mx_eval_run(model, &options, (mx_watch){0}, NULL, NULL, &err),
                     MX_ERR_ARGUMENT);
    if (strstr(err.text, text) == NULL) {
        fail_msg("'%s' lacks '%s'", err.text, text);
    }
}

static void test_refused(void **state)
{
    const bench *b = *state;
    mx_eval_options options = make_options(b, 0);
    mx_model *model = open_tiny(false, 1), *base = open_tiny(false, 1);
    check_refused(model, NULL, &options, "needs a model to compare with");
    options.tasks = "cloze";
    check_refused(model, base, &options, "no task compares with it");
    options.tasks = b->tasks;
    base->config.context = 8;
    check_refused(model, base, &options, "base: its context of 8");
    base->config.vocab--;
    check_refused(model, base, &options, "base: another vocabulary");
    base->config.vocab++;
    mx_model_close(model);
    mx_model_close(base);
}

static void test_percentile(void **state)
{
    (void)state;
    static const float x[] = {5, 1, 4, 2, 3};
    mx_error err = {0};
    double found = 0;
    fixture_ok(mx_percentile(x, 5, 0.99, &found, &err), err);
    assert_true(fabs(found - 4.96) < 1e-12); /* numpy.percentile([5, 1, 4, 2, 3], 99) */
    fixture_ok(mx_percentile(x, 5, 0.5, &found, &err), err);
    assert_true(found == 3);
    fixture_ok(mx_percentile(x, 1, 0.99, &found, &err), err);
    assert_true(found == 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_golden, bench_open, bench_close),
        cmocka_unit_test_setup_teardown(test_invariance, bench_open, bench_close),
        cmocka_unit_test_setup_teardown(test_itself, bench_open, bench_close),
        cmocka_unit_test_setup_teardown(test_resume, bench_open, bench_close),
        cmocka_unit_test_setup_teardown(test_short_line, bench_open, bench_close),
        cmocka_unit_test_setup_teardown(test_refused, bench_open, bench_close),
        cmocka_unit_test(test_percentile),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
