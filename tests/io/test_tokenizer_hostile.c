/* Tokenizer files and texts that are wrong: each is refused on one line that says
 * what and where, and none costs more than it weighs. */
#include "base/clock.h"
#include "io/tokenizer.h"
#include "io/tokenizer_impl.h"
#include "io_fixture.h"

/* The parts of a small valid file; a case replaces one. */
#define BYTE_LEVEL "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true}"
#define VOCAB "{\"a\":0,\"b\":1,\"ab\":2}"
#define MERGES "[[\"a\",\"b\"]]"
#define MODEL(vocab, merges) "{\"type\":\"BPE\",\"vocab\":" vocab ",\"merges\":" merges "}"
#define FILE_OF(added, normalizer, pre, post, model)                                               \
    "{\"version\":\"1.0\",\"added_tokens\":[" added "],\"normalizer\":" normalizer                 \
    ",\"pre_tokenizer\":" pre ",\"post_processor\":" post ",\"decoder\":null,\"model\":" model "}"
#define WITH_MODEL(model) FILE_OF("", "null", BYTE_LEVEL, "null", model)
#define WITH_VOCAB(vocab) WITH_MODEL(MODEL(vocab, "[]"))
#define WITH_MERGES(merges) WITH_MODEL(MODEL(VOCAB, merges))
#define WITH_PRE(pre) FILE_OF("", "null", pre, "null", MODEL(VOCAB, MERGES))
#define WITH_REGEX(regex)                                                                          \
    WITH_PRE("{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":"          \
             "{\"Regex\":\"" regex "\"},\"behavior\":\"Isolated\",\"invert\":false}," BYTE_LEVEL   \
             "]}")
#define WITH_ADDED(added) FILE_OF(added, "null", BYTE_LEVEL, "null", MODEL(VOCAB, MERGES))
#define WITH_POST(post) FILE_OF("", "null", BYTE_LEVEL, post, MODEL(VOCAB, MERGES))
#define ADDED(id, content)                                                                         \
    "{\"id\":" #id ",\"content\":\"" content "\",\"single_word\":false,\"lstrip\":false,"          \
    "\"rstrip\":false,\"normalized\":false,\"special\":true}"
#define VALID WITH_ADDED(ADDED(3, "<s>"))

typedef struct bad_file {
    const char *json;
    mx_status status;
    const char *says;
} bad_file;

static const bad_file bad_files[] = {
    {"", MX_ERR_FORMAT, "not valid JSON"},
    {"[]", MX_ERR_FORMAT, "must be a JSON object"},
    {"{}", MX_ERR_FORMAT, "model: must be an object with vocab and merges"},
    {"{\"version\":\"2.0\"}", MX_ERR_UNSUPPORTED, "version: '2.0'"},
    {"{\"model\":{\"vocab\":{\"a\":0},\"vocab\":{},\"merges\":[]}}", MX_ERR_FORMAT, "JSON"},
    {"{\"a\":\"\xFF\"}", MX_ERR_FORMAT, "byte 6: not valid UTF-8"},
    {"{\"added_tokens\":{}}", MX_ERR_FORMAT, "added_tokens: must be an array"},
    /* vocabulary */
    {WITH_VOCAB("{}"), MX_ERR_FORMAT, "vocab: is empty"},
    {WITH_VOCAB("[1,2]"), MX_ERR_FORMAT, "vocab: byte 0: must be an object"},
    {WITH_VOCAB("null"), MX_ERR_FORMAT, "vocab: byte 0: must be an object"},
    {WITH_VOCAB("{\"a\":-1}"), MX_ERR_FORMAT, "vocab: byte 5"},
    {WITH_VOCAB("{\"a\":1.5}"), MX_ERR_FORMAT, "vocab: byte 6"},
    {WITH_VOCAB("{\"a\":01}"), MX_ERR_FORMAT, "vocab: byte 7"},
    {WITH_VOCAB("{\"a\":\"1\"}"), MX_ERR_FORMAT, "vocab: byte 5"},
    {WITH_VOCAB("{\"a\":0,}"), MX_ERR_FORMAT, "vocab: byte 7"},
    {WITH_VOCAB("{\"a\":{\"b\":0}}"), MX_ERR_FORMAT, "vocab: byte 5"},
    {WITH_VOCAB("{\"a\\u0000\":0}"), MX_ERR_FORMAT, "not valid JSON"},
    {WITH_VOCAB("{\"\\ud800\":0}"), MX_ERR_FORMAT, "not valid JSON"},
    {WITH_VOCAB("{\"a\":4000000000}"), MX_ERR_FORMAT, "vocab: byte 15: must be"},
    {WITH_VOCAB("{\"a\":99999999999999999999}"), MX_ERR_FORMAT, "vocab"},
    {WITH_VOCAB("{\"a\":2000000000}"), MX_ERR_FORMAT, "id 2000000000 is not below 65536"},
    {WITH_VOCAB("{\"a\":7,\"b\":7}"), MX_ERR_FORMAT, "id 7 is given twice"},
    {WITH_VOCAB("{\"a\":0,\"\\u0061\":1}"), MX_ERR_FORMAT, "ids 0 and 1 have the same text 'a'"},
    /* merges */
    {WITH_MERGES("{}"), MX_ERR_FORMAT, "merges: byte 0: must be an array"},
    {WITH_MERGES("[\"ab\"]"), MX_ERR_FORMAT, "merges: byte 5: must be"},
    {WITH_MERGES("[\"a b b\"]"), MX_ERR_FORMAT, "merges: byte 8: must be"},
    {WITH_MERGES("[[\"a\"]]"), MX_ERR_FORMAT, "merges: byte 5"},
    {WITH_MERGES("[[\"a\",\"b\",\"a\"]]"), MX_ERR_FORMAT, "merges: byte 9"},
    {WITH_MERGES("[[\"a\",1]]"), MX_ERR_FORMAT, "merges: byte 6"},
    {WITH_MERGES("[[[\"a\",\"b\"]]]"), MX_ERR_FORMAT, "merges: byte 2"},
    {WITH_MERGES("[\"a c\"]"), MX_ERR_FORMAT, "merges[0]: 'c' is not in the vocabulary"},
    {WITH_MERGES("[\"a b\",\"b a\"]"), MX_ERR_FORMAT, "merges[1]: 'b' + 'a' is not in the vocab"},
    {WITH_MERGES("[\" b\"]"), MX_ERR_FORMAT, "merges[0]: '' is not"},
    /* model */
    {WITH_MODEL("{\"type\":\"Unigram\",\"vocab\":{\"a\":0},\"merges\":[]}"), MX_ERR_UNSUPPORTED,
     "model: type: 'Unigram'"},
    {WITH_MODEL("{\"byte_fallback\":true,\"vocab\":{\"a\":0},\"merges\":[]}"), MX_ERR_UNSUPPORTED,
     "byte_fallback"},
    {WITH_MODEL("{\"dropout\":0.1,\"vocab\":{\"a\":0},\"merges\":[]}"), MX_ERR_UNSUPPORTED,
     "dropout"},
    {WITH_MODEL("{\"end_of_word_suffix\":\"</w>\",\"vocab\":{\"a\":0},\"merges\":[]}"),
     MX_ERR_UNSUPPORTED, "end_of_word_suffix"},
    {WITH_MODEL("{\"continuing_subword_prefix\":\"##\",\"vocab\":{\"a\":0},\"merges\":[]}"),
     MX_ERR_UNSUPPORTED, "continuing_subword_prefix"},
    {WITH_MODEL("{\"unk_token\":\"<unk>\",\"vocab\":{\"a\":0},\"merges\":[]}"), MX_ERR_FORMAT,
     "unk_token: '<unk>' is not in the vocabulary"},
    {WITH_MODEL("{\"ignore_merges\":1,\"vocab\":{\"a\":0},\"merges\":[]}"), MX_ERR_FORMAT,
     "ignore_merges: must be true or false"},
    /* pre-tokenizer */
    {WITH_PRE("null"), MX_ERR_UNSUPPORTED, "does not end in ByteLevel"},
    {WITH_PRE("{\"type\":\"Metaspace\"}"), MX_ERR_UNSUPPORTED, "pre_tokenizer: type: 'Metaspace'"},
    {WITH_PRE("{\"type\":\"Digits\",\"individual_digits\":true}"), MX_ERR_UNSUPPORTED,
     "does not end in ByteLevel"},
    {WITH_PRE("{\"type\":\"Sequence\"}"), MX_ERR_FORMAT, "pretokenizers: must be an array"},
    {WITH_PRE("{\"type\":\"Sequence\",\"pretokenizers\":[" BYTE_LEVEL "," BYTE_LEVEL "]}"),
     MX_ERR_UNSUPPORTED, "'ByteLevel' after ByteLevel"},
    {WITH_PRE("{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a\"},\"behavior\":\"Odd\","
              "\"invert\":false}"),
     MX_ERR_UNSUPPORTED, "behavior: 'Odd'"},
    {WITH_PRE("{\"type\":\"Split\",\"pattern\":\"a\",\"behavior\":\"Isolated\",\"invert\":false}"),
     MX_ERR_FORMAT, "Split: pattern"},
    {WITH_REGEX("(a"), MX_ERR_UNSUPPORTED, "pattern: byte 2: missing closing parenthesis"},
    {WITH_REGEX("[a"), MX_ERR_UNSUPPORTED, "pattern: byte 2: a class is not closed"},
    {WITH_REGEX("[a[b]]"), MX_ERR_UNSUPPORTED, "nested"},
    {WITH_REGEX("[a&&b]"), MX_ERR_UNSUPPORTED, "nested and intersected"},
    {WITH_REGEX("[]a]"), MX_ERR_UNSUPPORTED, "']' first"},
    {WITH_REGEX("[a-\\\\d]"), MX_ERR_UNSUPPORTED, "range that ends in a set"},
    {WITH_REGEX("[^\\\\W]"), MX_ERR_UNSUPPORTED, "negated set inside"},
    {WITH_REGEX("a{2}+"), MX_ERR_UNSUPPORTED, "suffix of an interval"},
    {WITH_REGEX("a(?i)b|c"), MX_ERR_UNSUPPORTED, "kind of group"},
    {WITH_REGEX("(?m:.)"), MX_ERR_UNSUPPORTED, "kind of group"},
    {WITH_REGEX("(?<x>a)"), MX_ERR_UNSUPPORTED, "kind of group"},
    {WITH_REGEX("(*UTF)a"), MX_ERR_UNSUPPORTED, "'(*'"},
    {WITH_REGEX("(a)\\\\1"), MX_ERR_UNSUPPORTED, "byte 4: this escape"},
    {WITH_REGEX("\\\\Qa\\\\E"), MX_ERR_UNSUPPORTED, "this escape"},
    {WITH_REGEX("\\\\p{NoSuch}"), MX_ERR_UNSUPPORTED, "unknown property"},
    {WITH_REGEX("\\\\pL"), MX_ERR_UNSUPPORTED, "name in braces"},
    {WITH_REGEX("\\\\xff"), MX_ERR_UNSUPPORTED, "raw byte"},
    {WITH_REGEX("\\\\x{110000}"), MX_ERR_UNSUPPORTED, "pattern"},
    {WITH_REGEX("a\\\\"), MX_ERR_UNSUPPORTED, "backslash"},
    {WITH_REGEX("((((a{999}){999}){999}){999})"), MX_ERR_UNSUPPORTED, "pattern"},
    /* added tokens */
    {WITH_ADDED("1"), MX_ERR_FORMAT, "added_tokens[0]: must be an object"},
    {WITH_ADDED("{\"id\":3,\"content\":\"<s>\"}"), MX_ERR_FORMAT, "single_word: missing"},
    {WITH_ADDED(ADDED(4000000000, "<s>")), MX_ERR_FORMAT, "added_tokens[0]: id: 4000000000"},
    {WITH_ADDED(ADDED(9, "<s>")), MX_ERR_UNSUPPORTED, "'<s>' has id 9 here, and 3 by its place"},
    {WITH_ADDED(ADDED(3, "a")), MX_ERR_UNSUPPORTED, "'a' has id 3 here, and 0 by its place"},
    {WITH_ADDED(ADDED(3, "<s>") "," ADDED(4, "<s>")), MX_ERR_FORMAT, "two match this text"},
    /* normalizer, post-processor */
    {FILE_OF("", "{\"type\":\"Lowercase\"}", BYTE_LEVEL, "null", MODEL(VOCAB, MERGES)),
     MX_ERR_UNSUPPORTED, "normalizer: type: 'Lowercase'"},
    {WITH_POST("{\"type\":\"BertProcessing\"}"), MX_ERR_UNSUPPORTED, "'BertProcessing'"},
    {WITH_POST("{\"type\":\"TemplateProcessing\"}"), MX_ERR_FORMAT, "single and special_tokens"},
    {WITH_POST("{\"type\":\"TemplateProcessing\",\"single\":[],\"special_tokens\":{}}"),
     MX_ERR_UNSUPPORTED, "without sequence A"},
    {WITH_POST("{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"x\"}}],"
               "\"special_tokens\":{}}"),
     MX_ERR_FORMAT, "'x' has no ids"},
    {WITH_POST("{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"x\"}}],"
               "\"special_tokens\":{\"x\":{\"ids\":[4000000000]}}}"),
     MX_ERR_FORMAT, "ids must be of the vocabulary"},
    {WITH_POST("{\"type\":\"TemplateProcessing\",\"single\":[{\"Sequence\":{\"id\":\"B\"}}],"
               "\"special_tokens\":{}}"),
     MX_ERR_UNSUPPORTED, "single[0]"},
};

static void test_bad_files(void **state)
{
    (void)state;
    mx_tokenizer *tokenizer = NULL;
    assert_ok(mx_tokenizer_parse_json(VALID, strlen(VALID), "file", &tokenizer, err));
    mx_tokenizer_close(tokenizer);
    int wrong = 0;
    for (size_t i = 0; i < MX_COUNT(bad_files); i++) {
        const bad_file *bad = &bad_files[i];
        mx_error err = {0};
        mx_status status =
            mx_tokenizer_parse_json(bad->json, strlen(bad->json), "file", &tokenizer, &err);
        assert_null(tokenizer);
        if (status != bad->status || strncmp(err.text, "file: ", 6) != 0 ||
            strstr(err.text, bad->says) == NULL || strchr(err.text, '\n') != NULL) {
            print_error("%s: status %d, '%s', expected '%s'\n", bad->json, status, err.text,
                        bad->says);
            wrong++;
        }
        /* Without anybody to tell. */
        assert_int_equal(
            mx_tokenizer_parse_json(bad->json, strlen(bad->json), "file", &tokenizer, NULL),
            bad->status);
    }
    assert_int_equal(wrong, 0);
}

/* A file cut off anywhere is refused. */
static void test_truncated(void **state)
{
    (void)state;
    for (size_t size = 0; size < strlen(VALID); size++) {
        /* Exactly as large, so that a sanitizer sees reading beyond. */
        char *part = malloc(size + (size == 0));
        memcpy(part, VALID, size);
        mx_tokenizer *tokenizer = NULL;
        assert_int_equal(mx_tokenizer_parse_json(part, size, "file", &tokenizer, NULL),
                         MX_ERR_FORMAT);
        free(part);
    }
}

static void test_missing_file(void **state)
{
    (void)state;
    mx_error err = {0};
    mx_tokenizer *tokenizer = NULL;
    assert_int_equal(mx_tokenizer_open("/nonexistent/tokenizer.json", &tokenizer, &err), MX_ERR_IO);
    expect_text(&err, "/nonexistent/tokenizer.json");
    assert_int_equal(mx_tokenizer_open("/", &tokenizer, &err), MX_ERR_IO);
    expect_text(&err, "tokenizer.json");
    assert_null(tokenizer);
    mx_tokenizer_close(NULL);
    mx_ids_free(NULL);
}

static void test_bad_text(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        size_t length, at;
    } cases[] = {
        {"ab\x80", 3, 2},       {"\xC0\xAF", 2, 0},          {"a\xE0\x9F\xBF", 4, 1},
        {"\xED\xA0\x80", 3, 0}, {"\xF0\x8F\xBF\xBF", 4, 0},  {"\xF4\x90\x80\x80", 4, 0},
        {"\xF8", 1, 0},         {"12345678\xE2\x82", 10, 8}, {"12345678\xFF", 9, 8},
        {"\xC3", 1, 0},         {"\xF0\x9F\x99", 3, 0},
    };
    mx_tokenizer *tokenizer = NULL;
    assert_ok(mx_tokenizer_parse_json(VALID, strlen(VALID), "file", &tokenizer, err));
    int32_t *ids;
    size_t n;
    for (size_t i = 0; i < MX_COUNT(cases); i++) {
        char says[64];
        mx_error err = {0};
        snprintf(says, sizeof says, "text: byte %zu: not valid UTF-8", cases[i].at);
        assert_int_equal(
            mx_tokenizer_encode(tokenizer, cases[i].text, cases[i].length, false, &ids, &n, &err),
            MX_ERR_FORMAT);
        expect_text(&err, says);
        assert_null(ids);
        assert_int_equal(n, 0);
    }
    /* A NUL is a character; nothing is nothing, and not NULL. */
    assert_ok(mx_tokenizer_encode(tokenizer, "a\0ab", 4, false, &ids, &n, err));
    assert_int_equal(n, 2);
    mx_ids_free(ids);
    assert_ok(mx_tokenizer_encode(tokenizer, "", 0, true, &ids, &n, err));
    assert_int_equal(n, 0);
    assert_non_null(ids);
    mx_ids_free(ids);
    mx_tokenizer_close(tokenizer);
}

/* Patterns that backtrack without end, or need much stack, stop with an error or
 * end: never silently, never late. */
static void test_explosive_patterns(void **state)
{
    (void)state;
    static const struct {
        const char *json;
        bool ends;
    } cases[] = {
        {WITH_REGEX("(a+)+(a+)+[^a]"), false},
        {WITH_REGEX("(a|a)*[^a]"), false},
        {WITH_REGEX("(?:a|b)+"), true},
        {WITH_REGEX("(?:\\\\s|(a))*$"), true},
    };
    enum { LENGTH = 100000 };
    static char text[LENGTH];
    memset(text, 'a', LENGTH);
    for (size_t i = 0; i < MX_COUNT(cases); i++) {
        mx_tokenizer *tokenizer = NULL;
        assert_ok(
            mx_tokenizer_parse_json(cases[i].json, strlen(cases[i].json), "file", &tokenizer, err));
        int32_t *ids = NULL;
        size_t n = 0;
        mx_error err = {0};
        double begin = mx_clock_seconds();
        mx_status status = mx_tokenizer_encode(tokenizer, text, LENGTH, false, &ids, &n, &err);
        print_message("pattern %zu: %.3f s, %s\n", i, mx_clock_seconds() - begin, err.text);
        if (cases[i].ends) {
            assert_int_equal(status, MX_OK);
            assert_int_equal(n, LENGTH);
        } else {
            assert_int_equal(status, MX_ERR_UNSUPPORTED);
            expect_text(&err, "the tokenizer's pattern gave up");
            assert_null(ids);
        }
        mx_ids_free(ids);
        mx_tokenizer_close(tokenizer);
    }
}

/* Half a million marks of alternating class on one letter: ordered, in no time. */
static void test_many_marks(void **state)
{
    (void)state;
    enum { MARKS = 500000 };
    static char text[1 + 2 * MARKS];
    text[0] = 'e';
    for (size_t i = 0; i < MARKS; i++) {
        memcpy(text + 1 + 2 * i, i % 2 == 0 ? "\xCC\x81" : "\xCC\xA3", 2); /* above, below */
    }
    static const mx_normal_form form = MX_NFC;
    char *out = NULL;
    size_t length = 0;
    double begin = mx_clock_seconds();
    assert_ok(mx_normalize(&form, 1, text, sizeof text, &out, &length, err));
    print_message("%d marks ordered in %.3f s\n", MARKS, mx_clock_seconds() - begin);
    /* e with dot below, then all other dots, then all acutes. */
    assert_int_equal(length, 3 + 2 * (MARKS - 1));
    assert_memory_equal(out, "\xE1\xBA\xB9\xCC\xA3", 5);
    assert_memory_equal(out + length - 2, "\xCC\x81", 2);
    assert_memory_equal(out + 3 + 2 * (MARKS / 2 - 1), "\xCC\x81", 2);
    free(out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bad_files),          cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_missing_file),       cmocka_unit_test(test_bad_text),
        cmocka_unit_test(test_explosive_patterns), cmocka_unit_test(test_many_marks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
