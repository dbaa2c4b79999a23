/* Tokenizers from GGUF metadata: what the keys mean, and keys that are wrong. */
#include "io/tokenizer.h"
#include "io_fixture.h"

enum { GGUF_INT32 = 5, GGUF_UINT32 = 4, GGUF_BOOL = 7, GGUF_STRING = 8, GGUF_ARRAY = 9 };

/* A GGUF file's metadata being put together. */
typedef struct file_builder {
    mx_str values;
    uint64_t n_values;
} file_builder;

static void put_u32(mx_str *out, uint32_t value)
{
    mx_str_add_bytes(out, &value, sizeof value); /* little-endian, as the hosts are */
}

static void put_u64(mx_str *out, uint64_t value)
{
    mx_str_add_bytes(out, &value, sizeof value);
}

static void put_text(mx_str *out, const char *text)
{
    put_u64(out, strlen(text));
    mx_str_add(out, text);
}

static void put_key(file_builder *file, const char *key, uint32_t type)
{
    put_text(&file->values, key);
    put_u32(&file->values, type);
    file->n_values++;
}

static void put_string(file_builder *file, const char *key, const char *value)
{
    put_key(file, key, GGUF_STRING);
    put_text(&file->values, value);
}

static void put_id(file_builder *file, const char *key, uint32_t value)
{
    put_key(file, key, GGUF_UINT32);
    put_u32(&file->values, value);
}

static void put_bool(file_builder *file, const char *key, bool value)
{
    uint8_t byte = value;
    put_key(file, key, GGUF_BOOL);
    mx_str_add_bytes(&file->values, &byte, 1);
}

/* Texts up to a NULL. */
static void put_texts(file_builder *file, const char *key, const char *const *texts)
{
    uint64_t n = 0;
    while (texts[n] != NULL) {
        n++;
    }
    put_key(file, key, GGUF_ARRAY);
    put_u32(&file->values, GGUF_STRING);
    put_u64(&file->values, n);
    for (uint64_t i = 0; i < n; i++) {
        put_text(&file->values, texts[i]);
    }
}

static void put_types(file_builder *file, const char *types)
{
    put_key(file, "tokenizer.ggml.token_type", GGUF_ARRAY);
    put_u32(&file->values, GGUF_INT32);
    put_u64(&file->values, strlen(types));
    for (; *types != '\0'; types++) {
        put_u32(&file->values, (uint32_t)(*types - '0'));
    }
}

/* What a file says; NULL leaves the key out. */
typedef struct metadata {
    const char *model, *pre, *types;
    const char *tokens[16], *merges[8];
    int add_bos, bos; /* -1: no such key */
} metadata;

/* U+0120 stands for the space. */
static const metadata valid = {
    .model = "gpt2",
    .pre = "llama-bpe",
    .tokens = {"a", "b", "\xC4\xA0", "ab",
               "\xC4\xA0"
               "ab",
               "1", "11", "<s>", "<x y>", "[PAD]"},
    .types = "1111111345",
    .merges = {"a b", "\xC4\xA0 ab", "1 1", NULL},
    .add_bos = -1,
    .bos = 7,
};

static mx_status open_metadata(const metadata *meta, mx_tokenizer **out, mx_error *error)
{
    file_builder file = {0};
    put_string(&file, "general.architecture", "llama");
    if (meta->model != NULL) {
        put_string(&file, "tokenizer.ggml.model", meta->model);
    }
    if (meta->pre != NULL) {
        put_string(&file, "tokenizer.ggml.pre", meta->pre);
    }
    put_texts(&file, "tokenizer.ggml.tokens", meta->tokens);
    put_texts(&file, "tokenizer.ggml.merges", meta->merges);
    if (meta->types != NULL) {
        put_types(&file, meta->types);
    }
    if (meta->add_bos >= 0) {
        put_bool(&file, "tokenizer.ggml.add_bos_token", meta->add_bos > 0);
    }
    if (meta->bos >= 0) {
        put_id(&file, "tokenizer.ggml.bos_token_id", (uint32_t)meta->bos);
    }
    mx_str whole = {0};
    mx_str_add(&whole, "GGUF");
    put_u32(&whole, 3);
    put_u64(&whole, 0);
    put_u64(&whole, file.n_values);
    mx_str_add_bytes(&whole, file.values.data, file.values.length);
    while (whole.length % 32 != 0) {
        mx_str_add_bytes(&whole, "", 1);
    }
    mx_gguf *gguf = NULL;
    assert_ok(mx_gguf_parse((const uint8_t *)whole.data, whole.length, "file", &gguf, err));
    mx_status status = mx_tokenizer_from_gguf(gguf, out, error);
    mx_gguf_close(gguf);
    mx_str_free(&whole);
    mx_str_free(&file.values);
    return status;
}

static void expect_ids(const metadata *meta, const char *text, bool special, const char *expected)
{
    mx_tokenizer *tokenizer = NULL;
    int32_t *ids = NULL;
    size_t n = 0;
    assert_ok(open_metadata(meta, &tokenizer, err));
    assert_ok(mx_tokenizer_encode(tokenizer, text, strlen(text), special, &ids, &n, err));
    mx_str line = {0};
    mx_str_add(&line, "");
    for (size_t i = 0; i < n; i++) {
        mx_str_addf(&line, "%s%d", i == 0 ? "" : " ", ids[i]);
    }
    assert_string_equal(line.data, expected);
    mx_str_free(&line);
    mx_ids_free(ids);
    mx_tokenizer_close(tokenizer);
}

static void test_meaning(void **state)
{
    (void)state;
    /* Control and user-defined tokens are found in the text; padding is not.
     * Llama-3's tokenizer has a BOS unless the file says otherwise. */
    expect_ids(&valid, "ab ab<s>a<x y>b", false, "3 4 7 0 8 1");
    expect_ids(&valid, "ab", true, "7 3");
    expect_ids(&valid, "[PAD]", false, "");
    expect_ids(&valid, "11", false, "6");
    metadata changed = valid;
    changed.add_bos = 0;
    expect_ids(&changed, "ab", true, "3");
    changed = valid;
    changed.pre = "gpt-2";
    expect_ids(&changed, "ab 11", true, "3 2 6");
    changed.pre = "smollm"; /* every digit by itself */
    expect_ids(&changed, "ab 11", true, "3 2 5 5");
    changed.add_bos = 1;
    expect_ids(&changed, "ab", true, "7 3");
    /* A vocabulary's whole words come before its merges with Llama-3's only. */
    changed = valid;
    changed.merges[0] = NULL;
    expect_ids(&changed, "ab", false, "3");
    changed.pre = "gpt-2";
    expect_ids(&changed, "ab", false, "0 1");

    mx_tokenizer *tokenizer = NULL;
    assert_ok(open_metadata(&valid, &tokenizer, err));
    assert_int_equal(mx_tokenizer_vocab(tokenizer), 10);
    assert_int_equal(mx_tokenizer_bos(tokenizer), 7);
    assert_int_equal(token_id(tokenizer, "<x y>"), 8);
    assert_int_equal(token_id(tokenizer, "[PAD]"), 9);
    assert_true(mx_tokenizer_is_special(tokenizer, 7));
    assert_false(mx_tokenizer_is_special(tokenizer, 8));
    mx_tokenizer_close(tokenizer);
}

static void expect_refused(const metadata *meta, mx_status status, const char *says)
{
    mx_error err = {0};
    mx_tokenizer *tokenizer = NULL;
    assert_int_equal(open_metadata(meta, &tokenizer, &err), status);
    assert_null(tokenizer);
    expect_text(&err, says);
    expect_text(&err, "file: ");
}

static void test_refused(void **state)
{
    (void)state;
    metadata bad = valid;
    bad.model = "llama";
    expect_refused(&bad, MX_ERR_UNSUPPORTED, "tokenizer.ggml.model: 'llama'");
    bad.model = NULL;
    expect_refused(&bad, MX_ERR_FORMAT, "tokenizer.ggml.model");
    bad = valid;
    bad.pre = "default";
    expect_refused(&bad, MX_ERR_UNSUPPORTED, "tokenizer.ggml.pre: 'default'");
    bad.pre = NULL;
    expect_refused(&bad, MX_ERR_FORMAT, "tokenizer.ggml.pre");
    bad = valid;
    bad.types = "111";
    expect_refused(&bad, MX_ERR_FORMAT, "token_type: 3 entries for 10 tokens");
    bad.types = "1111111309";
    expect_refused(&bad, MX_ERR_FORMAT, "token_type[8]: 0 is not a type");
    bad.types = NULL;
    expect_refused(&bad, MX_ERR_FORMAT, "token_type");
    bad = valid;
    bad.tokens[1] = "a";
    expect_refused(&bad, MX_ERR_FORMAT, "ids 0 and 1 have the same text 'a'");
    bad.tokens[1] = "\xFF";
    expect_refused(&bad, MX_ERR_FORMAT, "tokenizer.ggml.tokens[1]: not valid UTF-8");
    bad.tokens[0] = NULL;
    bad.types = "";
    expect_refused(&bad, MX_ERR_FORMAT, "tokens: 0 tokens");
    bad = valid;
    bad.merges[1] = "ab";
    expect_refused(&bad, MX_ERR_FORMAT, "merges[1]: must be two texts");
    bad.merges[1] = "a c";
    expect_refused(&bad, MX_ERR_FORMAT, "merges[1]: 'c' is not in the vocabulary");
    bad.merges[1] = "b a";
    expect_refused(&bad, MX_ERR_FORMAT, "merges[1]: 'b' + 'a' is not in the vocabulary");
    bad = valid;
    bad.bos = 10;
    expect_refused(&bad, MX_ERR_FORMAT, "bos_token_id");
    bad.bos = -1;
    expect_refused(&bad, MX_ERR_FORMAT, "bos_token_id");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_meaning),
                                       cmocka_unit_test(test_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
