/* The whole evaluation over a stand-in for a model: results, samples, resume. */
#include "eval_fixture.h"

#include "eval/eval_run.h"
#include "eval/eval_stats.h"

/* A folder with data and output files, and the scorer. */
typedef struct bench {
    char dir[FIXTURE_PATH];
    char data[FIXTURE_PATH + 32], text[FIXTURE_PATH + 32], output[FIXTURE_PATH + 32];
    char samples[FIXTURE_PATH + 32], run[FIXTURE_PATH + 48], tasks[FIXTURE_PATH + 64];
    mx_tokenizer *tokenizer;
    fixture_scorer fake;
    mx_eval_setup setup;
} bench;

enum { LINES = 60 };

static void bench_data(const bench *b)
{
    FILE *file = fopen(b->data, "wb");
    assert_non_null(file);
    for (int i = 0; i < LINES; i++) {
        fprintf(file, "{\"text\": \"Passage %d of \\u201cdata\\u201d %0*d ends in word%d\"}\n", i,
                1 + i * 5 % 37, i, i);
    }
    assert_int_equal(fclose(file), 0);
    fixture_write(b->text, "A short text.\nIt has two lines and some words, enough for windows.\n");
}

static int bench_open(void **state)
{
    bench *b = calloc(1, sizeof *b);
    assert_non_null(b);
    fixture_scratch(b->dir);
    snprintf(b->data, sizeof b->data, "%s/lambada_test.jsonl", b->dir);
    snprintf(b->text, sizeof b->text, "%s/text.txt", b->dir);
    snprintf(b->output, sizeof b->output, "%s/results.json", b->dir);
    snprintf(b->samples, sizeof b->samples, "%s/samples.jsonl", b->dir);
    snprintf(b->run, sizeof b->run, "%s.run.json", b->samples);
    snprintf(b->tasks, sizeof b->tasks, "lambada_openai,perplexity:%s", b->text);
    bench_data(b);
    b->tokenizer = fixture_byte_tokenizer();
    mx_eval_options_init(&b->setup.options);
    b->setup.options.tasks = b->tasks;
    b->setup.options.data_path = b->dir;
    b->setup.options.window = 10;
    b->setup.options.stride = 4;
    b->setup.options.bootstrap_iters = 2000;
    b->setup.tokenizer = b->tokenizer;
    b->setup.scorer = fixture_scorer_view(&b->fake);
    b->setup.bos = 1;
    b->setup.eos = 2;
    b->setup.max_context = 256;
    *state = b;
    return 0;
}

static int bench_close(void **state)
{
    bench *b = *state;
    unlink(b->data);
    unlink(b->text);
    unlink(b->output);
    unlink(b->samples);
    unlink(b->run);
    assert_int_equal(rmdir(b->dir), 0); /* nothing else was left */
    mx_tokenizer_close(b->tokenizer);
    free(b);
    return 0;
}

/* Runs it and parses the JSON. */
static json_t *run_json(bench *b)
{
    mx_error err = {0};
    char *json = NULL;
    json_t *root = NULL;
    fixture_ok(mx_eval_execute(&b->setup, (mx_watch){0}, NULL, &json, &err), err);
    fixture_ok(mx_json_parse(json, strlen(json), "results", &root, &err), err);
    free(json);
    return root;
}

static const json_t *member(const json_t *root, const char *a, const char *b, const char *c)
{
    const json_t *value = json_object_get(root, a);
    value = b != NULL ? json_object_get(value, b) : value;
    value = c != NULL ? json_object_get(value, c) : value;
    if (value == NULL) {
        fail_msg("no %s.%s.%s", a, b != NULL ? b : "", c != NULL ? c : "");
    }
    return value;
}

/* The metrics again, from the documents of the JSON. */
static void test_metrics(void **state)
{
    bench *b = *state;
    json_t *root = run_json(b);
    const char *task = "lambada_openai", *text = "perplexity:text.txt";
    const json_t *lls = member(member(root, "mxlm", "documents", NULL), task, "ll", NULL);
    const char *right =
        json_string_value(member(member(root, "mxlm", "documents", task), "acc", NULL, NULL));
    double values[LINES], acc[LINES], wanted = 0;
    mx_error err = {0};
    assert_int_equal(json_array_size(lls), LINES);
    assert_int_equal(strlen(right), LINES);
    for (size_t i = 0; i < LINES; i++) {
        values[i] = json_real_value(json_array_get(lls, i));
        acc[i] = right[i] - '0';
    }
    const json_t *results = member(root, "results", task, NULL);
    fixture_ok(
        mx_bootstrap_perplexity_stderr(values, LINES, 2000, NULL, (mx_watch){0}, &wanted, &err),
        err);
    assert_true(fixture_real(results, "perplexity,none") == mx_perplexity(values, LINES));
    assert_true(fixture_real(results, "perplexity_stderr,none") == wanted);
    assert_true(fixture_real(results, "acc,none") == mx_mean(acc, LINES));
    assert_true(fixture_real(results, "acc_stderr,none") == mx_mean_stderr(acc, LINES));

    /* Tokens are bytes here, so the two perplexities agree; 14 words, 66 bytes. */
    results = member(root, "results", text, NULL);
    double byte = fixture_real(results, "byte_perplexity,none");
    assert_true(byte == fixture_real(results, "token_perplexity,none"));
    assert_true(fabs(fixture_real(results, "bits_per_byte,none") - log2(byte)) < 1e-12);
    double word = fixture_real(results, "word_perplexity,none");
    assert_true(fabs(14 * log(word) - 66 * log(byte)) < 1e-9);
    double error = fixture_real(results, "byte_perplexity_stderr,none");
    assert_true(fabs(fixture_real(results, "bits_per_byte_stderr,none") - error / byte / log(2)) <
                1e-12);
    json_decref(root);
}

/* Every key that lm_eval wrote is there, in its place. Keys of the YAML's Jinja and
 * few-shot machinery have no meaning here. */
static void check_keys(const json_t *golden, const json_t *ours, const char *where)
{
    static const char *const absent[] = {"dataset_kwargs",    "unsafe_code",    "target_delimiter",
                                         "fewshot_delimiter", "fewshot_config", "dtype"};
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)golden, key, value)
    {
        bool skipped = false;
        for (size_t i = 0; i < MX_COUNT(absent); i++) {
            skipped = skipped || strcmp(key, absent[i]) == 0;
        }
        const char *name = strcmp(key, "lambada_local") == 0 ? "lambada_openai" : key;
        const json_t *found = json_object_get(ours, name);
        bool args = strcmp(key, "model_args") == 0;
        if (found == NULL && !skipped) {
            fail_msg("%s lacks %s", where, name);
        }
        if (json_is_object(value) && !skipped && !args) {
            check_keys(value, found, name);
        }
    }
}

static void test_keys(void **state)
{
    bench *b = *state;
    char path[FIXTURE_PATH];
    json_t *golden = NULL;
    mx_error err = {0};
    if (!fixture_path("MXLM_DATA_DIR", "golden/lm_eval_results.json", path)) {
        skip();
    }
    fixture_ok(mx_json_load(path, (size_t)1 << 24, &golden, &err), err);
    b->setup.options.limit = 20;
    json_t *root = run_json(b);
    check_keys(golden, root, "results");
    assert_int_equal(json_integer_value(member(root, "config", "limit", NULL)), 20);
    const json_t *samples = member(root, "n-samples", "lambada_openai", NULL);
    assert_int_equal(json_integer_value(json_object_get(samples, "original")), LINES);
    assert_int_equal(json_integer_value(json_object_get(samples, "effective")), 20);
    assert_true(json_is_string(member(root, "total_evaluation_time_seconds", NULL, NULL)));
    json_decref(golden);
    json_decref(root);
}

/* What must not depend on the batch, the file or the way there. */
static json_t *core(json_t *root)
{
    const json_t *mxlm = json_object_get(root, "mxlm");
    json_t *both =
        json_pack("[O, O]", json_object_get(root, "results"), json_object_get(mxlm, "documents"));
    assert_non_null(both);
    json_decref(root);
    return both;
}

static void test_batches(void **state)
{
    bench *b = *state;
    json_t *wanted = core(run_json(b));
    static const uint32_t sizes[] = {1, 7, 1000};
    for (size_t i = 0; i < MX_COUNT(sizes); i++) {
        b->setup.options.batch_size = sizes[i];
        json_t *found = core(run_json(b));
        assert_true(json_equal(found, wanted));
        json_decref(found);
    }
    json_decref(wanted);
}

static void test_no_bootstrap(void **state)
{
    bench *b = *state;
    char *table = NULL;
    mx_error err = {0};
    b->setup.options.bootstrap_iters = 0;
    b->setup.options.output_path = b->output;
    fixture_ok(mx_eval_execute(&b->setup, (mx_watch){0}, &table, NULL, &err), err);
    assert_non_null(strstr(table, "|   N/A"));
    json_t *root = NULL;
    fixture_ok(mx_json_load(b->output, (size_t)1 << 24, &root, &err), err);
    assert_string_equal(
        fixture_text(member(root, "results", "lambada_openai", NULL), "perplexity_stderr,none"),
        "N/A");
    free(table);
    json_decref(root);
}

/* ---- samples ------------------------------------------------------------------ */

static void check_sample(const json_t *root)
{
    const json_t *pair = json_array_get(json_object_get(root, "filtered_resps"), 0);
    const json_t *resp = json_array_get(json_array_get(json_object_get(root, "resps"), 0), 0);
    double ll = json_real_value(json_array_get(pair, 0));
    assert_true(json_equal(resp, pair));
    if (strcmp(fixture_text(root, "task"), "lambada_openai") != 0) {
        assert_true(fixture_real(root, "bytes") >= 1);
        return;
    }
    const json_t *arguments = json_array_get(json_object_get(root, "arguments"), 0);
    const char *text = fixture_text(json_object_get(root, "doc"), "text");
    char joined[512];
    snprintf(joined, sizeof joined, "%s%s", json_string_value(json_array_get(arguments, 0)),
             json_string_value(json_array_get(arguments, 1)));
    assert_string_equal(joined, text);
    assert_string_equal(fixture_text(root, "target"),
                        json_string_value(json_array_get(arguments, 1)));
    assert_true(fixture_real(root, "perplexity") == ll);
    assert_true((fixture_real(root, "acc") == 1) == json_is_true(json_array_get(pair, 1)));
}

/* Splits at newlines and checks each; returns their number. */
static size_t check_samples(const char *text)
{
    size_t n = 0;
    mx_error err = {0};
    for (const char *at = text; *at != '\0'; n++) {
        size_t length = strcspn(at, "\n");
        json_t *root = NULL;
        assert_int_equal(at[length], '\n');
        fixture_ok(mx_json_parse(at, length, "sample", &root, &err), err);
        check_sample(root);
        json_decref(root);
        at += length + 1;
    }
    return n;
}

static bool stop_at_30(void *ctx, const mx_progress *progress)
{
    (void)ctx;
    return strcmp(progress->stage, "bootstrap") == 0 || progress->done < 30;
}

/* A run that is stopped, its last line cut, and resumed gives the same results
 * and scores only what is missing. */
static void test_resume(void **state)
{
    bench *b = *state;
    mx_error err = {0};
    json_t *wanted = core(run_json(b));
    size_t all = b->fake.n_documents;

    b->setup.options.samples_path = b->samples;
    b->setup.options.batch_size = 6;
    mx_status status = mx_eval_execute(&b->setup, (mx_watch){.fn = stop_at_30}, NULL, NULL, &err);
    assert_int_equal(status, MX_ERR_CANCELLED);
    char *text = fixture_read(b->samples);
    assert_int_equal(check_samples(text), 30);
    size_t length = strlen(text);
    assert_int_equal(truncate(b->samples, (off_t)length - 20), 0);
    free(text);

    b->fake.n_documents = 0;
    b->setup.options.resume = true;
    json_t *root = run_json(b);
    const json_t *task = member(member(root, "mxlm", "tasks", NULL), "lambada_openai", NULL, NULL);
    assert_int_equal(fixture_real(task, "documents_resumed"), 29);
    assert_int_equal(fixture_real(task, "documents_scored"), LINES - 29);
    json_t *found = core(root);
    assert_int_equal(b->fake.n_documents, all - 29);
    assert_true(json_equal(found, wanted));
    json_decref(found);
    text = fixture_read(b->samples);
    assert_int_equal(check_samples(text), all);
    free(text);

    /* Once more: nothing is left to do. */
    b->fake.n_documents = 0;
    found = core(run_json(b));
    assert_int_equal(b->fake.n_documents, 0);
    assert_true(json_equal(found, wanted));
    json_decref(found);
    json_decref(wanted);
}

static void check_resume_error(bench *b, mx_status wanted, const char *text)
{
    mx_error err = {0};
    size_t before = b->fake.n_documents;
    char *table = NULL, *json = NULL;
    char *samples = fixture_read(b->samples);
    b->setup.options.samples_path = b->samples;
    b->setup.options.resume = true;
    assert_int_equal(mx_eval_execute(&b->setup, (mx_watch){0}, &table, &json, &err), wanted);
    assert_null(table);
    assert_null(json);
    if (strstr(err.text, text) == NULL) {
        fail_msg("'%s' lacks '%s'", err.text, text);
    }
    assert_int_equal(b->fake.n_documents, before);
    char *after = fixture_read(b->samples);
    assert_string_equal(after, samples); /* a refused file stays as it is */
    free(samples);
    free(after);
}

static void test_resume_refused(void **state)
{
    bench *b = *state;
    b->setup.options.samples_path = b->samples;
    json_decref(run_json(b));
    char *good = fixture_read(b->samples), *run = fixture_read(b->run);
    char line[2048];
    snprintf(line, sizeof line, "%.*s\n", (int)strcspn(good, "\n"), good);

    b->setup.options.limit = 5;
    check_resume_error(b, MX_ERR_ARGUMENT, "limit differs");
    b->setup.options.limit = 0;
    b->setup.options.stride = 5;
    check_resume_error(b, MX_ERR_ARGUMENT, "stride differs");
    b->setup.options.stride = 4;
    /* Broken lines before the end. */
    static const struct {
        const char *line, *error;
    } bad[] = {
        {"\n", "line 2"},
        {"{}\n", "line 2: task: missing"},
        {"[1, 2]\n", "line 2: task: missing"},
        {"{\"task\": \"x\", \"doc_id\": -1, \"doc_hash\": \"0\"}\n", "doc_id"},
        {"{\"task\": \"x\", \"doc_id\": 1, \"doc_hash\": \"0\"}\n", "filtered_resps"},
        {"{\"task\": \"x\", \"doc_id\": 1, \"doc_hash\": \"0\", \"filtered_resps\": [[1, 2]]}\n",
         "filtered_resps"},
        {"{\"task\": \"x\", \"doc_id\": 1, \"doc_hash\": \"zz\", \"filtered_resps\": [[1, "
         "true]]}\n",
         "doc_hash"},
        {"{\"task\": \"lambada_openai\", \"doc_id\": 1, \"doc_hash\": \"0000000000000001\", "
         "\"filtered_resps\": [[-1, true]]}\n",
         "is not of document 1"},
        {"{\"task\": \"lambada_openai\", \"doc_id\": 4000000000, \"doc_hash\": "
         "\"0000000000000001\", \"filtered_resps\": [[-1, true]]}\n",
         "is not of document 4000000000"},
    };
    char text[4096];
    for (size_t i = 0; i < MX_COUNT(bad); i++) {
        snprintf(text, sizeof text, "%s%s%s", line, bad[i].line, line);
        fixture_write(b->samples, text);
        check_resume_error(b, MX_ERR_FORMAT, bad[i].error);
    }
    snprintf(text, sizeof text, "%s%s", line, line);
    fixture_write(b->samples, text);
    check_resume_error(b, MX_ERR_FORMAT, "given twice");
    /* A samples file without its run. */
    fixture_write(b->samples, line);
    fixture_write(b->run, "{\"tasks\": 5}");
    check_resume_error(b, MX_ERR_ARGUMENT, "differs");
    unlink(b->run);
    check_resume_error(b, MX_ERR_IO, "run.json");
    free(good);
    free(run);
}

/* ---- options -------------------------------------------------------------------- */

static void check_refused(const bench *b, const mx_eval_options *options, const char *text)
{
    mx_eval_setup setup = b->setup;
    mx_error err = {0};
    setup.options = *options;
    assert_int_equal(mx_eval_execute(&setup, (mx_watch){0}, NULL, NULL, &err), MX_ERR_ARGUMENT);
    if (strstr(err.text, text) == NULL) {
        fail_msg("'%s' lacks '%s'", err.text, text);
    }
}

static void test_options(void **state)
{
    bench *b = *state;
    mx_eval_options options = b->setup.options;
    options.window = 257;
    check_refused(b, &options, "window");
    options.window = 8;
    options.stride = 9;
    check_refused(b, &options, "stride");
    options.stride = 0;
    options.resume = true;
    check_refused(b, &options, "resume");
    options.resume = false;
    options.tasks = "nothing";
    check_refused(b, &options, "'nothing' is not a task; tasks are lambada_openai, cloze");
    options.tasks = "cloze";
    options.add_bos = true;
    b->setup.bos = -1;
    check_refused(b, &options, "BOS");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_metrics, bench_open, bench_close),
        cmocka_unit_test_setup_teardown(test_keys, bench_open, bench_close),
        cmocka_unit_test_setup_teardown(test_batches, bench_open, bench_close),
        cmocka_unit_test_setup_teardown(test_no_bootstrap, bench_open, bench_close),
        cmocka_unit_test_setup_teardown(test_resume, bench_open, bench_close),
        cmocka_unit_test_setup_teardown(test_resume_refused, bench_open, bench_close),
        cmocka_unit_test_setup_teardown(test_options, bench_open, bench_close),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
