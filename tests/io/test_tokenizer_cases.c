/* Small tokenizers against Hugging Face `tokenizers`: every split behavior, added
 * token flag, normalizer, template and model option, and the patterns that
 * Oniguruma and PCRE2 read differently (tools/oracle_tokenizer.py). */
#include "base/json.h"
#include "io/tokenizer.h"
#include "io_fixture.h"

/* The base tokenizer with the patch's members in place of its own. */
static mx_tokenizer *open_case(const json_t *base, json_t *patch, const char *name)
{
    json_t *whole = json_deep_copy(base);
    assert_int_equal(json_object_update(whole, patch), 0);
    char *text = NULL;
    mx_error err = {0};
    assert_int_equal(mx_json_dump(whole, 0, &text, &err), MX_OK);
    json_decref(whole);
    mx_tokenizer *tokenizer = NULL;
    if (mx_tokenizer_parse_json(text, strlen(text), name, &tokenizer, &err) != MX_OK) {
        fail_msg("%s", err.text);
    }
    free(text);
    return tokenizer;
}

static mx_tokenizer *rewrite(const mx_tokenizer *tokenizer, const char *name)
{
    char *text = NULL;
    mx_error err = {0};
    mx_tokenizer *again = NULL;
    assert_int_equal(mx_tokenizer_to_json(tokenizer, &text, &err), MX_OK);
    if (mx_tokenizer_parse_json(text, strlen(text), name, &again, &err) != MX_OK) {
        fail_msg("rewritten: %s", err.text);
    }
    free(text);
    return again;
}

/* Compares one text's ids with expected[at ...]; returns the number of differences. */
static int compare_ids(const char *name, const char *text, const int32_t *ids, size_t n,
                       const json_t *expected, size_t at, size_t n_expected)
{
    bool same = n == n_expected;
    for (size_t i = 0; same && i < n; i++) {
        same = ids[i] == json_integer_value(json_array_get(expected, at + i));
    }
    if (!same) {
        mx_str line = {0};
        mx_str_addf(&line, "%s: '%s': got", name, text);
        for (size_t i = 0; i < n; i++) {
            mx_str_addf(&line, " %d", ids[i]);
        }
        mx_str_add(&line, ", expected");
        for (size_t i = 0; i < n_expected; i++) {
            mx_str_addf(&line, " %lld",
                        (long long)json_integer_value(json_array_get(expected, at + i)));
        }
        print_error("%s\n", line.data);
        mx_str_free(&line);
    }
    return !same;
}

static int check_case(const mx_tokenizer *tokenizer, const json_t *texts, const json_t *one)
{
    const char *name = json_string_value(json_object_get(one, "name"));
    const json_t *counts = json_object_get(one, "counts");
    const json_t *expected = json_object_get(one, "ids");
    int differences = 0;
    size_t at = 0;
    assert_int_equal(json_array_size(counts), json_array_size(texts));
    for (size_t i = 0; i < json_array_size(texts); i++) {
        const char *text = json_string_value(json_array_get(texts, i));
        size_t count = (size_t)json_integer_value(json_array_get(counts, i));
        int32_t *ids = NULL;
        size_t n = 0;
        mx_error err = {0};
        if (mx_tokenizer_encode(tokenizer, text, strlen(text), true, &ids, &n, &err) != MX_OK) {
            fail_msg("%s: '%s': %s", name, text, err.text);
        }
        differences += compare_ids(name, text, ids, n, expected, at, count);
        mx_ids_free(ids);
        at += count;
    }
    assert_int_equal(at, json_array_size(expected));
    return differences;
}

static void test_cases(void **state)
{
    (void)state;
    char *path = golden_path("tokenizer_cases.json");
    json_t *root = NULL;
    assert_ok(mx_json_load(path, 1 << 24, &root, err));
    free(path);
    const json_t *base = json_object_get(root, "base");
    const json_t *cases = json_object_get(root, "cases");
    const json_t *texts = json_object_get(root, "texts");
    int differences = 0;
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *one = json_array_get(cases, i);
        const char *name = json_string_value(json_object_get(one, "name"));
        mx_tokenizer *tokenizer = open_case(base, json_object_get(one, "patch"), name);
        differences += check_case(tokenizer, texts, one);
        mx_tokenizer *again = rewrite(tokenizer, name);
        differences += check_case(again, texts, one);
        mx_tokenizer_close(again);
        mx_tokenizer_close(tokenizer);
    }
    print_message("%zu tokenizers, %zu texts each\n", json_array_size(cases),
                  json_array_size(texts));
    assert_true(json_array_size(cases) > 80);
    assert_int_equal(differences, 0);
    json_decref(root);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_cases)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
