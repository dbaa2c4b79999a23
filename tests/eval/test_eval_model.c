/* The real checkpoint: the first documents of LAMBADA against lm_eval's figures. */
#include "eval_fixture.h"

#include "eval/eval_run.h"
#include "sanitized.h"

enum { DOCUMENTS = MX_SANITIZED ? 10 : 100 };

/* The checkpoint into path [FIXTURE_PATH]; false when it is not there. */
static bool find_checkpoint(char *path)
{
    static const char name[] = "mxlm/SmolLM2-135M-Instruct.Q4_1.gguf";
    const char *given = getenv("MXLM_SMOLLM2_GGUF"), *cache = getenv("XDG_CACHE_HOME");
    if (given != NULL) {
        snprintf(path, FIXTURE_PATH, "%s", given);
    } else if (cache != NULL && cache[0] != '\0') {
        snprintf(path, FIXTURE_PATH, "%s/%s", cache, name);
    } else {
        snprintf(path, FIXTURE_PATH, "%s/.cache/%s", getenv("HOME") ? getenv("HOME") : "", name);
    }
    if (!mx_path_is_file(path)) {
        print_message("skipped: no checkpoint at %s\n", path);
        return false;
    }
    return true;
}

/* Log-likelihoods and answers of the results JSON. */
typedef struct outcomes {
    json_t *root;
    const json_t *lls;
    const char *right;
} outcomes;

static outcomes evaluate(mx_model *model, const char *data, uint64_t limit, uint32_t batch_size)
{
    mx_eval_options options;
    mx_error err = {0};
    char *json = NULL;
    outcomes out = {0};
    mx_eval_options_init(&options);
    options.data_path = data;
    options.limit = limit;
    options.batch_size = batch_size;
    options.bootstrap_iters = 0;
    fixture_ok(mx_eval_run(model, &options, (mx_watch){0}, NULL, &json, &err), err);
    fixture_ok(mx_json_parse(json, strlen(json), "results", &out.root, &err), err);
    const json_t *documents = json_object_get(json_object_get(out.root, "mxlm"), "documents");
    documents = json_object_get(documents, "lambada_openai");
    out.lls = json_object_get(documents, "ll");
    out.right = fixture_text(documents, "acc");
    assert_int_equal(json_array_size(out.lls), limit);
    free(json);
    return out;
}

static void test_golden(void **state)
{
    (void)state;
    char checkpoint[FIXTURE_PATH], data[FIXTURE_PATH], golden_path[FIXTURE_PATH];
    mx_model *model = NULL;
    mx_error err = {0};
    if (!fixture_path("MXLM_DATA_DIR", "text/lambada_test.jsonl", data) ||
        !fixture_path("MXLM_DATA_DIR", "golden/smollm2_lambada_100.jsonl", golden_path) ||
        !find_checkpoint(checkpoint)) {
        skip();
    }
    fixture_ok(mx_model_open(checkpoint, 0, &model, &err), err);
    outcomes out = evaluate(model, data, DOCUMENTS, 0);
    char *golden = fixture_read(golden_path), *at = golden;
    for (size_t i = 0; i < DOCUMENTS; i++) {
        size_t length = strcspn(at, "\n");
        json_t *line = NULL;
        fixture_ok(mx_json_parse(at, length, golden_path, &line, &err), err);
        const json_t *wanted = json_object_get(line, "float32");
        double ll = json_real_value(json_array_get(out.lls, i));
        assert_int_equal(fixture_real(line, "doc"), i);
        assert_true(fabs(ll - fixture_real(wanted, "ll")) < 1e-3);
        assert_int_equal(out.right[i] == '1', json_is_true(json_object_get(wanted, "greedy")));
        json_decref(line);
        at += length + 1;
    }
    /* The same documents in other batches: the same bits. */
    outcomes few = evaluate(model, data, 9, 1);
    outcomes odd = evaluate(model, data, 9, 7);
    for (size_t i = 0; i < 9; i++) {
        assert_true(json_equal(json_array_get(few.lls, i), json_array_get(out.lls, i)));
        assert_true(json_equal(json_array_get(odd.lls, i), json_array_get(out.lls, i)));
    }
    json_decref(few.root);
    json_decref(odd.root);
    json_decref(out.root);
    free(golden);
    mx_model_close(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_golden)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
