/* Tokenizers of real models against Hugging Face `tokenizers`' ids, and the
 * speed of the worst word. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/str.h"
#include "io/tokenizer.h"

static char path_buffer[4096];

/* A path under the shared data, or NULL when there is none. */
static const char *data_path(const char *name)
{
    const char *dir = getenv("MXLM_DATA_DIR");
    snprintf(path_buffer, sizeof path_buffer, "%s/%s", dir != NULL ? dir : "", name);
    if (dir == NULL || (!mx_path_is_file(path_buffer) && !mx_path_is_dir(path_buffer))) {
        print_message("skipped: no %s under MXLM_DATA_DIR\n", name);
        return NULL;
    }
    return path_buffer;
}

/* The real checkpoint, or NULL. */
static const char *smollm2_gguf(void)
{
    const char *given = getenv("MXLM_SMOLLM2_GGUF");
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    if (given != NULL) {
        return given;
    }
    snprintf(path_buffer, sizeof path_buffer, "%s%s/mxlm/SmolLM2-135M-Instruct.Q4_1.gguf",
             cache != NULL  ? cache
             : home != NULL ? home
                            : "",
             cache != NULL ? "" : "/.cache");
    if (!mx_path_is_file(path_buffer)) {
        print_message("skipped: no %s\n", path_buffer);
        return NULL;
    }
    return path_buffer;
}

static mx_tokenizer *open_tokenizer(const char *path)
{
    mx_error err = {0};
    mx_tokenizer *tokenizer = NULL;
    if (mx_tokenizer_open(path, &tokenizer, &err) != MX_OK) {
        fail_msg("%s", err.text);
    }
    return tokenizer;
}

/* The text that ids stand for equals `text`. */
static void check_round_trip(const mx_tokenizer *tokenizer, const int32_t *ids, size_t n,
                             const char *text, size_t length)
{
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        size_t size;
        const char *bytes = mx_tokenizer_bytes(tokenizer, ids[i], &size);
        assert_true(size <= length - at);
        assert_memory_equal(bytes, text + at, size);
        at += size;
    }
    assert_int_equal(at, length);
}

/* Returns the number of ids that were compared. */
static size_t check_text(const mx_tokenizer *tokenizer, const char *text, size_t length,
                         const json_t *expected)
{
    mx_error err = {0};
    int32_t *ids = NULL;
    size_t n = 0;
    if (mx_tokenizer_encode(tokenizer, text, length, false, &ids, &n, &err) != MX_OK) {
        fail_msg("%s: %s", text, err.text);
    }
    assert_int_equal(n, json_array_size(expected));
    for (size_t i = 0; i < n; i++) {
        if (ids[i] != json_integer_value(json_array_get(expected, i))) {
            fail_msg("'%s': id %zu is %d", text, i, ids[i]);
        }
    }
    check_round_trip(tokenizer, ids, n, text, length);
    mx_ids_free(ids);
    return n;
}

/* Every line of golden/tokenizer.jsonl under `key`. Returns the number of texts. */
static size_t check_golden(const mx_tokenizer *tokenizer, const char *key)
{
    char *lines = NULL;
    size_t size = 0, n_texts = 0, n_ids = 0;
    mx_error err = {0};
    assert_int_equal(
        mx_file_read(data_path("golden/tokenizer.jsonl"), 1 << 24, &lines, &size, &err), MX_OK);
    for (char *line = lines; line < lines + size; n_texts++) {
        char *end = strchr(line, '\n');
        size_t length = end != NULL ? (size_t)(end - line) : strlen(line);
        json_t *entry = json_loadb(line, length, JSON_ALLOW_NUL, NULL);
        assert_non_null(entry);
        const json_t *text = json_object_get(entry, "text");
        const json_t *expected = json_object_get(entry, key);
        assert_true(json_is_array(expected));
        n_ids += check_text(tokenizer, json_string_value(text), json_string_length(text), expected);
        json_decref(entry);
        line += length + 1;
    }
    free(lines);
    print_message("%s: %zu texts, %zu ids equal\n", key, n_texts, n_ids);
    return n_texts;
}

static void test_llama3_golden(void **state)
{
    (void)state;
    const char *path = data_path("llama-3.2-1b");
    if (path == NULL) {
        skip();
    }
    double begin = mx_clock_seconds();
    mx_tokenizer *tokenizer = open_tokenizer(path);
    double seconds = mx_clock_seconds() - begin;
    print_message("opened in %.3f s\n", seconds);
    assert_int_equal(check_golden(tokenizer, "llama3"), 300);
    assert_int_equal(mx_tokenizer_vocab(tokenizer), 128256);
    assert_int_equal(mx_tokenizer_bos(tokenizer), 128000);
    assert_int_equal(mx_tokenizer_id(tokenizer, "<|eot_id|>"), 128009);
    assert_int_equal(mx_tokenizer_id(tokenizer, "\xC4\xA0the"), 279); /* U+0120 "the" */
    assert_int_equal(mx_tokenizer_id(tokenizer, "<|eot_id|"), -1);
    assert_int_equal(mx_tokenizer_id(tokenizer, ""), -1);
    assert_int_equal(mx_tokenizer_id(tokenizer, "\xFF"), -1);
    assert_true(mx_tokenizer_is_special(tokenizer, 128000));
    assert_false(mx_tokenizer_is_special(tokenizer, 279));
    assert_false(mx_tokenizer_is_special(tokenizer, 1 << 30));

    int32_t *ids = NULL;
    size_t n = 0, size = 1;
    assert_int_equal(mx_tokenizer_encode(tokenizer, "Hello", 5, true, &ids, &n, NULL), MX_OK);
    assert_int_equal(n, 2);
    assert_int_equal(ids[0], 128000);
    assert_int_equal(ids[1], 9906);
    mx_ids_free(ids);
    assert_non_null(mx_tokenizer_bytes(tokenizer, -1, &size));
    assert_int_equal(size, 0);
    mx_tokenizer_bytes(tokenizer, 128256, &size);
    assert_int_equal(size, 0);
    mx_tokenizer_close(tokenizer);
}

static void test_smollm2_golden(void **state)
{
    (void)state;
    const char *path = data_path("smollm2/tokenizer.json");
    if (path == NULL) {
        skip();
    }
    mx_tokenizer *tokenizer = open_tokenizer(path);
    assert_int_equal(check_golden(tokenizer, "smollm2"), 300);
    assert_int_equal(mx_tokenizer_vocab(tokenizer), 49152);
    assert_int_equal(mx_tokenizer_bos(tokenizer), -1);
    mx_tokenizer_close(tokenizer);
}

/* The tokenizer written as tokenizer.json and read again. */
static mx_tokenizer *rewrite(const mx_tokenizer *tokenizer)
{
    char *json = NULL;
    mx_error err = {0};
    mx_tokenizer *again = NULL;
    assert_int_equal(mx_tokenizer_to_json(tokenizer, &json, &err), MX_OK);
    if (mx_tokenizer_parse_json(json, strlen(json), "rewritten", &again, &err) != MX_OK) {
        fail_msg("%s", err.text);
    }
    free(json);
    return again;
}

static void test_smollm2_gguf_golden(void **state)
{
    (void)state;
    if (data_path("golden/tokenizer.jsonl") == NULL) {
        skip();
    }
    const char *path = smollm2_gguf();
    if (path == NULL) {
        skip();
    }
    mx_tokenizer *tokenizer = open_tokenizer(path);
    assert_int_equal(check_golden(tokenizer, "smollm2"), 300);
    assert_int_equal(mx_tokenizer_vocab(tokenizer), 49152);
    assert_int_equal(mx_tokenizer_bos(tokenizer), -1);
    assert_true(mx_tokenizer_is_special(tokenizer, 2));
    mx_tokenizer *again = rewrite(tokenizer);
    mx_tokenizer_close(tokenizer);
    assert_int_equal(check_golden(again, "smollm2"), 300);
    mx_tokenizer_close(again);
}

static void test_llama3_rewritten(void **state)
{
    (void)state;
    const char *path = data_path("llama-3.2-1b/tokenizer.json");
    if (path == NULL) {
        skip();
    }
    mx_tokenizer *tokenizer = open_tokenizer(path);
    mx_tokenizer *again = rewrite(tokenizer);
    mx_tokenizer_close(tokenizer);
    assert_int_equal(check_golden(again, "llama3"), 300);
    assert_int_equal(mx_tokenizer_bos(again), 128000);
    mx_tokenizer_close(again);
}

/* Words as long as the text: n log n, not n squared. */
static void test_long_words(void **state)
{
    (void)state;
    static const char *const names[] = {"llama-3.2-1b", "smollm2"};
    enum { LENGTH = 512 * 1024 };
    char *text = malloc(LENGTH);
    assert_non_null(text);
    for (size_t i = 0; i < 2 * 3; i++) {
        const char *path = data_path(names[i % 2]);
        if (path == NULL) {
            free(text);
            skip();
        }
        mx_tokenizer *tokenizer = open_tokenizer(path);
        static const char units[3][4] = {"a", " ", "xyz"};
        size_t unit = strlen(units[i / 2]);
        for (size_t at = 0; at < LENGTH; at++) {
            text[at] = units[i / 2][at % unit];
        }
        int32_t *ids = NULL;
        size_t n = 0;
        double begin = mx_clock_seconds();
        assert_int_equal(mx_tokenizer_encode(tokenizer, text, LENGTH, false, &ids, &n, NULL),
                         MX_OK);
        double seconds = mx_clock_seconds() - begin;
        print_message("%s, 512 KiB of '%s': %zu ids in %.3f s\n", names[i % 2], units[i / 2], n,
                      seconds);
        check_round_trip(tokenizer, ids, n, text, LENGTH);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
        assert_true(seconds < 1.0);
#endif
        mx_ids_free(ids);
        mx_tokenizer_close(tokenizer);
    }
    free(text);
}

/* Real prose: the bytes come back, and it does not take long. */
static void test_prose(void **state)
{
    (void)state;
    char *text = NULL;
    size_t size = 0;
    const char *path = data_path("text/calibration-novels.txt");
    if (path == NULL) {
        skip();
    }
    assert_int_equal(mx_file_read(path, 1 << 24, &text, &size, NULL), MX_OK);
    static const char *const names[] = {"llama-3.2-1b", "smollm2"};
    for (size_t i = 0; i < 2; i++) {
        mx_tokenizer *tokenizer = open_tokenizer(data_path(names[i]));
        int32_t *ids = NULL;
        size_t n = 0;
        double begin = mx_clock_seconds();
        assert_int_equal(mx_tokenizer_encode(tokenizer, text, size, false, &ids, &n, NULL), MX_OK);
        print_message("%s: %zu bytes, %zu ids in %.3f s\n", names[i], size, n,
                      mx_clock_seconds() - begin);
        check_round_trip(tokenizer, ids, n, text, size);
        mx_ids_free(ids);
        mx_tokenizer_close(tokenizer);
    }
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_llama3_golden),       cmocka_unit_test(test_smollm2_golden),
        cmocka_unit_test(test_smollm2_gguf_golden), cmocka_unit_test(test_llama3_rewritten),
        cmocka_unit_test(test_long_words),          cmocka_unit_test(test_prose),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
