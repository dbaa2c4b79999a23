/* Tokenizers of real models against Hugging Face `tokenizers`' ids, and the
 * speed of the worst word. */
#include "base/clock.h"
#include "base/json.h"
#include "io/tokenizer.h"
#include "io_fixture.h"
#include "sanitized.h"

#include <time.h>

enum { SLOWDOWN = MX_SANITIZED ? 20 : 1 };

static mx_tokenizer *open_tokenizer(const char *path)
{
    mx_error err = {0};
    mx_tokenizer *tokenizer = NULL;
    if (mx_tokenizer_open(path, &tokenizer, &err) != MX_OK) {
        fail_msg("%s", err.text);
    }
    return tokenizer;
}

/* The tokenizer in the shared data's `name`, or skip. */
static mx_tokenizer *open_shared(const char *name)
{
    char *path = data_path_or_skip(name);
    mx_tokenizer *tokenizer = open_tokenizer(path);
    free(path);
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
    char *path = data_path_or_skip("golden/tokenizer.jsonl");
    assert_ok(mx_file_read(path, 1 << 24, &lines, &size, err));
    free(path);
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
    char *path = data_path_or_skip("llama-3.2-1b/tokenizer.json");
    *strrchr(path, '/') = '\0'; /* by its directory */
    double begin = mx_clock_seconds();
    mx_tokenizer *tokenizer = open_tokenizer(path);
    print_message("opened in %.3f s\n", mx_clock_seconds() - begin);
    free(path);
    assert_int_equal(check_golden(tokenizer, "llama3"), 300);
    assert_int_equal(mx_tokenizer_vocab(tokenizer), 128256);
    assert_int_equal(mx_tokenizer_bos(tokenizer), 128000);
    assert_int_equal(token_id(tokenizer, "<|eot_id|>"), 128009);
    assert_int_equal(token_id(tokenizer, "\xC4\xA0the"), 279); /* U+0120 "the" */
    assert_int_equal(token_id(tokenizer, "<|eot_id|"), -1);
    assert_int_equal(token_id(tokenizer, ""), -1);
    assert_int_equal(token_id(tokenizer, "\xFF"), -1);
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
    mx_tokenizer *tokenizer = open_shared("smollm2/tokenizer.json");
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
    free(data_path_or_skip("golden/tokenizer.jsonl"));
    char *path = find_smollm2();
    if (path == NULL) {
        skip();
    }
    mx_tokenizer *tokenizer = open_tokenizer(path);
    free(path);
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
    mx_tokenizer *tokenizer = open_shared("llama-3.2-1b/tokenizer.json");
    mx_tokenizer *again = rewrite(tokenizer);
    mx_tokenizer_close(tokenizer);
    assert_int_equal(check_golden(again, "llama3"), 300);
    assert_int_equal(mx_tokenizer_bos(again), 128000);
    mx_tokenizer_close(again);
}

static const char *const shared_names[] = {"llama-3.2-1b/tokenizer.json", "smollm2/tokenizer.json"};

/* Seconds that encoding takes; the bytes must come back. */
static double time_encode(const mx_tokenizer *tokenizer, const char *text, size_t length, size_t *n)
{
    int32_t *ids = NULL;
    clock_t begin = clock(); /* of this process: others may be at work here */
    assert_ok(mx_tokenizer_encode(tokenizer, text, length, false, &ids, n, err));
    double seconds = (double)(clock() - begin) / CLOCKS_PER_SEC;
    check_round_trip(tokenizer, ids, *n, text, length);
    mx_ids_free(ids);
    return seconds;
}

/* Words as long as the text: n log n, not n squared. */
static void test_long_words(void **state)
{
    (void)state;
    enum { LENGTH = 512 * 1024 };
    static const char *const units[] = {"a", " ", "xyz"};
    static char text[LENGTH];
    for (size_t i = 0; i < MX_COUNT(shared_names); i++) {
        mx_tokenizer *tokenizer = open_shared(shared_names[i]);
        for (size_t unit = 0; unit < MX_COUNT(units); unit++) {
            for (size_t at = 0; at < LENGTH; at++) {
                text[at] = units[unit][at % strlen(units[unit])];
            }
            size_t n;
            double seconds = time_encode(tokenizer, text, LENGTH, &n);
            print_message("%s, 512 KiB of '%s': %zu ids in %.3f s\n", shared_names[i], units[unit],
                          n, seconds);
            assert_true(seconds < 1.0 * SLOWDOWN);
        }
        mx_tokenizer_close(tokenizer);
    }
}

static void test_prose(void **state)
{
    (void)state;
    char *text = NULL;
    size_t size = 0, n;
    char *path = data_path_or_skip("text/calibration-novels.txt");
    assert_ok(mx_file_read(path, 1 << 24, &text, &size, err));
    free(path);
    for (size_t i = 0; i < MX_COUNT(shared_names); i++) {
        mx_tokenizer *tokenizer = open_shared(shared_names[i]);
        double seconds = time_encode(tokenizer, text, size, &n);
        print_message("%s: %zu bytes, %zu ids in %.3f s\n", shared_names[i], size, n, seconds);
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
