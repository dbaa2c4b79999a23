/* Comparison of results files, made by the stand-in for a model or by hand. */
#include "eval_fixture.h"

#include "eval/compare.h"
#include "eval/eval_run.h"

typedef struct bench {
    char dir[FIXTURE_PATH], text[FIXTURE_PATH + 16];
    char files[4][FIXTURE_PATH + 16];
    mx_tokenizer *tokenizer;
} bench;

static int bench_open(void **state)
{
    bench *b = calloc(1, sizeof *b);
    assert_non_null(b);
    fixture_scratch(b->dir);
    snprintf(b->text, sizeof b->text, "%s/text.txt", b->dir);
    fixture_write(b->text, "Some text to be scored.\nIt has words and lines.\n");
    for (size_t i = 0; i < MX_COUNT(b->files); i++) {
        snprintf(b->files[i], sizeof b->files[i], "%s/%zu.json", b->dir, i);
    }
    b->tokenizer = fixture_byte_tokenizer();
    *state = b;
    return 0;
}

static int bench_close(void **state)
{
    bench *b = *state;
    unlink(b->text);
    for (size_t i = 0; i < MX_COUNT(b->files); i++) {
        unlink(b->files[i]);
    }
    assert_int_equal(rmdir(b->dir), 0);
    mx_tokenizer_close(b->tokenizer);
    free(b);
    return 0;
}

/* Writes results file `index`; `shift` moves every log-likelihood and some
 * answers. */
static void make_results_kl(const bench *b, size_t index, const char *tasks, double shift,
                            double divergence, uint64_t limit)
{
    fixture_scorer fake = {.shift = shift, .divergence = divergence};
    mx_eval_setup setup = {.tokenizer = b->tokenizer,
                           .scorer = fixture_scorer_view(&fake),
                           .bos = 1,
                           .eos = 2,
                           .max_context = 1024};
    mx_error err = {0};
    mx_eval_options_init(&setup.options);
    setup.options.tasks = tasks;
    setup.options.limit = limit;
    setup.options.window = 8;
    setup.options.bootstrap_iters = 1000;
    setup.options.output_path = b->files[index];
    setup.kl_scorer = divergence > 0 ? fixture_scorer_view(&fake) : (mx_scorer){0};
    fixture_ok(mx_eval_execute(&setup, (mx_watch){0}, NULL, NULL, &err), err);
}

static void make_results(const bench *b, size_t index, const char *tasks, double shift,
                         uint64_t limit)
{
    make_results_kl(b, index, tasks, shift, 0, limit);
}

static json_t *compare_json_rtn(const bench *b, size_t n, size_t rtn)
{
    const char *paths[] = {b->files[0], b->files[1], b->files[2], b->files[3]};
    mx_error err = {0};
    char *json = NULL;
    json_t *root = NULL;
    fixture_ok(mx_compare_run(paths, n, rtn, NULL, &json, &err), err);
    fixture_ok(mx_json_parse(json, strlen(json), "comparison", &root, &err), err);
    free(json);
    return root;
}

static json_t *compare_json(const bench *b, size_t n)
{
    return compare_json_rtn(b, n, 0);
}

static const json_t *column(const json_t *root, const char *task, size_t index)
{
    const json_t *columns =
        json_object_get(json_object_get(json_object_get(root, "tasks"), task), "columns");
    const json_t *value = json_array_get(columns, index);
    assert_true(json_is_object(value));
    return value;
}

/* Flips counted from the two files' digits. */
static void count_flips(const bench *b, size_t index, uint64_t *lost, uint64_t *gained)
{
    mx_compare_file base, other;
    mx_error err = {0};
    fixture_ok(mx_compare_load(b->files[0], &base, &err), err);
    fixture_ok(mx_compare_load(b->files[index], &other, &err), err);
    const mx_compare_task *from = mx_compare_find(&base, "cloze");
    const mx_compare_task *to = mx_compare_find(&other, "cloze");
    *lost = *gained = 0;
    for (size_t i = 0; i < from->count; i++) {
        *lost += from->right[i] == '1' && to->right[i] == '0';
        *gained += from->right[i] == '0' && to->right[i] == '1';
    }
    mx_compare_file_free(&base);
    mx_compare_file_free(&other);
}

static void test_differences(void **state)
{
    bench *b = *state;
    char tasks[FIXTURE_PATH + 64];
    snprintf(tasks, sizeof tasks, "cloze,perplexity:%s", b->text);
    make_results(b, 0, tasks, 0, 0);
    make_results(b, 1, tasks, -0.5, 0);
    make_results(b, 2, tasks, 0.125, 0);
    json_t *root = compare_json(b, 3);
    static const double shifts[] = {0, -0.5, 0.125};
    for (size_t f = 1; f < 3; f++) {
        uint64_t lost, gained;
        count_flips(b, f, &lost, &gained);
        assert_true(lost + gained > 0);
        const json_t *difference = json_object_get(column(root, "cloze", f), "difference");
        const json_t *test = json_object_get(difference, "mcnemar");
        assert_true(fixture_real(test, "lost") == (double)lost);
        assert_true(fixture_real(test, "gained") == (double)gained);
        assert_true(fixture_real(test, "p") == mx_mcnemar_test(lost, gained).p);
        double change = ((double)gained - (double)lost) / 250;
        assert_true(fabs(fixture_real(difference, "acc") - change) < 1e-15);
        /* Paired differences are -1, 0 and 1. */
        double flips = (double)(lost + gained);
        double error = sqrt((flips - 250 * change * change) / 249 / 250);
        assert_true(fabs(fixture_real(difference, "acc_stderr") - error) < 1e-15);
        /* Every log-likelihood moved by the same amount. */
        const json_t *ln = json_object_get(difference, "ln_perplexity");
        assert_true(fabs(fixture_real(ln, "value") + shifts[f]) < 1e-12);
        assert_true(fabs(fixture_real(ln, "stderr")) < 1e-12);
    }
    const json_t *text = column(root, "perplexity:text.txt", 1);
    const json_t *ln = json_object_get(json_object_get(text, "difference"), "ln_token_perplexity");
    /* 47 scored bytes in 6 windows, each half a nat worse. */
    assert_true(fabs(fixture_real(ln, "value") - 6 * 0.5 / 47) < 1e-12);
    assert_true(fixture_real(ln, "stderr") > 0);
    json_decref(root);
}

/* kl is shown though the baseline has none; changes are between those that have it. */
static void test_divergences(void **state)
{
    bench *b = *state;
    char tasks[FIXTURE_PATH + 64];
    snprintf(tasks, sizeof tasks, "cloze,kl:%s", b->text);
    make_results(b, 0, "cloze", 0, 20);
    make_results_kl(b, 1, tasks, -0.5, 0.5, 20);
    make_results_kl(b, 2, tasks, -0.25, 0.25, 20);
    json_t *root = compare_json(b, 3);
    const json_t *task = json_object_get(json_object_get(root, "tasks"), "kl:text.txt");
    assert_true(json_is_null(json_array_get(json_object_get(task, "columns"), 0)));
    assert_null(json_object_get(column(root, "kl:text.txt", 1), "difference"));
    const json_t *more = json_object_get(column(root, "kl:text.txt", 1), "kl");
    const json_t *less = json_object_get(column(root, "kl:text.txt", 2), "kl");
    assert_true(fixture_real(more, "value") > 0);
    assert_true(fabs(fixture_real(less, "value") / fixture_real(more, "value") - 0.5) < 1e-6);
    json_decref(root);
    /* The other way round: two that have it. */
    const char *paths[] = {b->files[1], b->files[2]};
    mx_error err = {0};
    char *json = NULL, *markdown = NULL;
    fixture_ok(mx_compare_run(paths, 2, 0, &markdown, &json, &err), err);
    fixture_ok(mx_json_parse(json, strlen(json), "comparison", &root, &err), err);
    const json_t *difference = json_object_get(column(root, "kl:text.txt", 1), "difference");
    const json_t *kl = json_object_get(difference, "kl");
    double halved = fixture_real(json_object_get(column(root, "kl:text.txt", 0), "kl"), "value");
    assert_true(fabs(fixture_real(kl, "value") + halved / 2) < 1e-6 * halved);
    assert_true(fixture_real(json_object_get(difference, "top1_agreement"), "value") >= 0);
    assert_non_null(strstr(markdown, "kl:text.txt KL divergence, mean "));
    assert_non_null(strstr(markdown, "−50.0 % (−"));
    assert_non_null(strstr(markdown, "in nats a token"));
    free(json);
    free(markdown);
    json_decref(root);
}

/* RTN loses half a nat, the new run an eighth: three quarters are won back. */
static void test_recovered(void **state)
{
    bench *b = *state;
    char tasks[2 * FIXTURE_PATH + 128];
    snprintf(tasks, sizeof tasks, "cloze,perplexity:%s", b->text);
    make_results(b, 0, tasks, 0, 0);
    snprintf(tasks, sizeof tasks, "cloze,perplexity:%s,kl:%s", b->text, b->text);
    make_results_kl(b, 1, tasks, -0.5, 0.5, 0);
    make_results_kl(b, 2, tasks, -0.125, 0.125, 0);
    json_t *root = compare_json_rtn(b, 3, 1);
    assert_int_equal(json_integer_value(json_object_get(root, "rtn")), 1);
    static const char *const names[] = {"cloze", "perplexity:text.txt"};
    for (size_t i = 0; i < MX_COUNT(names); i++) {
        const json_t *recovered = json_object_get(column(root, names[i], 2), "recovered");
        const json_t *share = json_object_get(recovered, "ln_perplexity");
        assert_true(fabs(fixture_real(share, "value") - 0.75) < 1e-12);
        assert_true(fabs(fixture_real(share, "stderr")) < 1e-9);
        const json_t *rtn = json_object_get(column(root, names[i], 1), "recovered");
        assert_true(fixture_real(json_object_get(rtn, "ln_perplexity"), "value") == 0);
    }
    const json_t *recovered = json_object_get(column(root, "cloze", 2), "recovered");
    assert_null(json_object_get(recovered, "acc")); /* the stand-in's answers got better */
    recovered = json_object_get(column(root, "kl:text.txt", 2), "recovered");
    assert_true(fabs(fixture_real(json_object_get(recovered, "kl"), "value") - 0.75) < 1e-6);
    assert_null(json_object_get(recovered, "ln_perplexity")); /* the baseline has none */
    json_decref(root);
    /* Answers get worse by the other shift, and losses do not. */
    make_results(b, 1, "cloze", 0.5, 0);
    make_results(b, 2, "cloze", 0.125, 0);
    root = compare_json_rtn(b, 3, 1);
    double acc[3];
    for (size_t f = 0; f < 3; f++) {
        acc[f] = fixture_real(json_object_get(column(root, "cloze", f), "acc"), "value");
    }
    assert_true(acc[1] < acc[2] && acc[2] < acc[0]);
    recovered = json_object_get(column(root, "cloze", 2), "recovered");
    double wanted = (acc[2] - acc[1]) / (acc[0] - acc[1]);
    assert_true(fabs(fixture_real(json_object_get(recovered, "acc"), "value") - wanted) < 1e-12);
    assert_null(json_object_get(recovered, "ln_perplexity"));
    json_decref(root);
}

static void test_recovered_markdown(void **state)
{
    bench *b = *state;
    const char *paths[] = {b->files[0], b->files[1], b->files[2]};
    char *markdown = NULL;
    mx_error err = {0};
    make_results(b, 0, "cloze", 0, 0);
    make_results(b, 1, "cloze", -0.5, 0);
    make_results(b, 2, "cloze", -0.125, 0);
    fixture_ok(mx_compare_run(paths, 3, 1, &markdown, NULL, &err), err);
    const char *row = strstr(markdown, "|cloze share of RTN's loss in ln perplexity recovered|");
    assert_non_null(row);
    assert_non_null(strstr(row, "75.0 ± 0.0 %|"));
    assert_non_null(strstr(markdown, "- RTN: "));
    free(markdown);
    assert_int_equal(mx_compare_run(paths, 3, 3, &markdown, NULL, &err), MX_ERR_ARGUMENT);
}

static void test_markdown(void **state)
{
    bench *b = *state;
    const char *paths[] = {b->files[0], b->files[1], b->files[0]};
    char *markdown = NULL;
    mx_error err = {0};
    make_results(b, 0, "cloze", 0, 100);
    make_results(b, 1, "cloze", -0.5, 100);
    fixture_ok(mx_compare_run(paths, 3, 0, &markdown, NULL, &err), err);
    assert_non_null(strstr(markdown, "|cloze accuracy "));
    assert_non_null(strstr(markdown, "McNemar p"));
    assert_non_null(strstr(markdown, " points|"));
    assert_non_null(strstr(markdown, "ln +0.5000 ± 0.0000"));
    assert_non_null(strstr(markdown, "0 / 0|"));
    assert_non_null(strstr(markdown, "p = 1 (exact)|"));
    assert_non_null(strstr(markdown, "not LAMBADA's"));
    /* Every row of the table has the same columns. */
    const char *at = strstr(markdown, "\n\n|");
    assert_non_null(at);
    for (at += 2; *at != '\n';) {
        size_t bars = 0, length = strcspn(at, "\n");
        for (size_t i = 0; i < length; i++) {
            bars += at[i] == '|';
        }
        assert_int_equal(bars, 7);
        at += length + 1;
    }
    free(markdown);
}

static void check_refused(const bench *b, size_t n, const char *text)
{
    const char *paths[MX_COMPARE_MAX_FILES + 1];
    char *markdown = NULL, *json = NULL;
    mx_error err = {0};
    for (size_t i = 0; i < MX_COUNT(paths); i++) {
        paths[i] = b->files[i < 2 ? i : 1];
    }
    assert_int_not_equal(mx_compare_run(paths, n, 0, &markdown, &json, &err), MX_OK);
    assert_null(markdown);
    assert_null(json);
    if (strstr(err.text, text) == NULL) {
        fail_msg("'%s' lacks '%s'", err.text, text);
    }
}

static void test_refused(void **state)
{
    bench *b = *state;
    char tasks[FIXTURE_PATH + 64];
    snprintf(tasks, sizeof tasks, "perplexity:%s", b->text);
    make_results(b, 0, "cloze", 0, 50);
    make_results(b, 1, "cloze", 0, 40);
    check_refused(b, 2, "number of documents differs");
    check_refused(b, 1, "2 to");
    check_refused(b, MX_COMPARE_MAX_FILES + 1, "2 to");
    make_results(b, 1, tasks, 0, 0);
    check_refused(b, 2, "no task in common");
    /* The same number of documents, but of another text. */
    make_results(b, 0, tasks, 0, 0);
    fixture_write(b->text, "Some text to be scored.\nIt has words and liNes.\n");
    make_results(b, 1, tasks, 0, 0);
    check_refused(b, 2, "documents differ");
    unlink(b->files[1]);
    check_refused(b, 2, b->files[1]);
}

static void test_dropped(void **state)
{
    bench *b = *state;
    char tasks[FIXTURE_PATH + 64];
    snprintf(tasks, sizeof tasks, "perplexity:%s,cloze", b->text);
    make_results(b, 0, tasks, 0, 50);
    make_results(b, 1, "cloze", 0, 50);
    json_t *root = compare_json(b, 2);
    assert_int_equal(json_object_size(json_object_get(root, "tasks")), 1);
    const json_t *dropped = json_object_get(root, "dropped");
    assert_int_equal(json_array_size(dropped), 1);
    assert_string_equal(json_string_value(json_array_get(dropped, 0)), "perplexity:text.txt");
    json_decref(root);
}

/* ---- hostile files ----------------------------------------------------------------- */

/* Replaces the member at a path "a/b/c" by a JSON value; "" removes it. */
static void damage(const bench *b, const char *path, const char *value)
{
    char names[256], *save = NULL, *text = NULL;
    mx_error err = {0};
    json_t *root = NULL, *object;
    fixture_ok(mx_json_load(b->files[0], (size_t)1 << 24, &root, &err), err);
    snprintf(names, sizeof names, "%s", path);
    object = root;
    char *name = strtok_r(names, "/", &save);
    for (char *next; (next = strtok_r(NULL, "/", &save)) != NULL; name = next) {
        object = json_object_get(object, name);
        assert_true(json_is_object(object));
    }
    assert_non_null(json_object_get(object, name));
    if (value[0] == '\0') {
        json_object_del(object, name);
    } else {
        json_t *replaced = json_loads(value, JSON_DECODE_ANY, NULL);
        assert_non_null(replaced);
        assert_int_equal(json_object_set_new(object, name, replaced), 0);
    }
    fixture_ok(mx_json_dump(root, 2, &text, &err), err);
    fixture_write(b->files[1], text);
    free(text);
    json_decref(root);
}

static void test_hostile(void **state)
{
    bench *b = *state;
    static const struct {
        const char *path, *value, *error;
    } cases[] = {
        {"results", "", "results: must be an object"},
        {"results", "{}", "results: must be an object"},
        {"results", "[1]", "results: must be an object"},
        {"results/cloze", "7", "sample_len: missing"},
        {"results/cloze/sample_len", "0", "sample_len"},
        {"results/cloze/sample_len", "4294967295", "must be an array of 4294967295"},
        {"results/cloze/sample_len", "1e3", "sample_len"},
        {"results/cloze/acc,none", "0.9", "accuracy is not that of its documents"},
        {"results/cloze/acc,none", "null", "accuracy is not that of its documents"},
        {"results/cloze/acc,none", "\"x\"", "acc,none: must be a number"},
        {"results/cloze/perplexity,none", "2", "perplexity is not that of its documents"},
        {"results/cloze/perplexity,none", "", "perplexity is not that of its documents"},
        {"mxlm", "", "not a results file"},
        {"mxlm", "[]", "not a results file"},
        {"mxlm/layout", "2", "layout"},
        {"mxlm/specs_text", "5", "specs_text: must be a string"},
        {"mxlm/memory", "{\"peak_resident_bytes\": \"x\"}", "peak_resident_bytes"},
        {"mxlm/threads", "-1", "threads"},
        {"mxlm/tasks/cloze", "", "documents_hash: missing"},
        {"mxlm/tasks/cloze/documents_resumed", "99", "documents_resumed"},
        {"mxlm/documents", "{}", "must be an array of 30"},
        {"mxlm/documents/cloze/ll", "[1, 2]", "must be an array of 30"},
        {"mxlm/documents/cloze/ll", "{}", "must be an array of 30"},
        {"mxlm/documents/cloze/acc", "\"0101\"", "must be 30 digits"},
        {"mxlm/documents/cloze/acc", "\"00000000000000x000000000000000\"", "must be 30 digits"},
        {"mxlm/documents/cloze/acc", "[]", "acc: must be a string"},
        {"mxlm/documents/cloze/acc", "", "must be an array of 30"},
    };
    make_results(b, 0, "cloze", 0, 30);
    for (size_t i = 0; i < MX_COUNT(cases); i++) {
        damage(b, cases[i].path, cases[i].value);
        check_refused(b, 2, cases[i].error);
        check_refused(b, 2, b->files[1]);
    }
    char tasks[FIXTURE_PATH + 64];
    snprintf(tasks, sizeof tasks, "kl:%s", b->text);
    make_results_kl(b, 0, tasks, 0, 0.5, 0);
    static const struct {
        const char *path, *value, *error;
    } kl_cases[] = {
        {"results/kl:text.txt/kl,none", "9", "kl is not that of its documents"},
        {"results/kl:text.txt/top1_agreement,none", "0.123", "top1_agreement is not that"},
        {"mxlm/documents/kl:text.txt/kl", "[1]", "must be an array of"},
        {"mxlm/documents/kl:text.txt/top1_agreed", "", "must be an array of"},
        {"mxlm/documents/kl:text.txt/kl", "", "documents differ"},
    };
    for (size_t i = 0; i < MX_COUNT(kl_cases); i++) {
        damage(b, kl_cases[i].path, kl_cases[i].value);
        check_refused(b, 2, kl_cases[i].error);
    }
    static const char *const texts[] = {"", "{", "[]", "{\"mxlm\": {\"layout\": 1}", "5", "null"};
    for (size_t i = 0; i < MX_COUNT(texts); i++) {
        fixture_write(b->files[1], texts[i]);
        check_refused(b, 2, b->files[1]);
    }
}

/* A perplexity beyond double's range is null in the file, and a column without
 * sizes shows dashes. */
static void test_infinite(void **state)
{
    bench *b = *state;
    make_results(b, 0, "cloze", 0, 30);
    make_results(b, 1, "cloze", -2000, 30);
    json_t *root = compare_json(b, 2);
    const json_t *perplexity = json_object_get(column(root, "cloze", 1), "perplexity");
    assert_true(json_is_null(json_object_get(perplexity, "value")));
    const json_t *difference = json_object_get(column(root, "cloze", 1), "difference");
    const json_t *ln = json_object_get(difference, "ln_perplexity");
    assert_true(fabs(fixture_real(ln, "value") - 2000) < 1e-9);
    json_decref(root);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_differences, bench_open, bench_close),
        cmocka_unit_test_setup_teardown(test_divergences, bench_open, bench_close),
        cmocka_unit_test_setup_teardown(test_recovered, bench_open, bench_close),
        cmocka_unit_test_setup_teardown(test_recovered_markdown, bench_open, bench_close),
        cmocka_unit_test_setup_teardown(test_markdown, bench_open, bench_close),
        cmocka_unit_test_setup_teardown(test_refused, bench_open, bench_close),
        cmocka_unit_test_setup_teardown(test_dropped, bench_open, bench_close),
        cmocka_unit_test_setup_teardown(test_hostile, bench_open, bench_close),
        cmocka_unit_test_setup_teardown(test_infinite, bench_open, bench_close),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
