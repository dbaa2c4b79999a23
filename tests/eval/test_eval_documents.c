/* How texts become documents: splitting, encoding, truncation, windows. */
#include "eval_fixture.h"

#include "eval/pair.h"
#include "eval/whitespace.h"

/* ---- white space ------------------------------------------------------------ */

static size_t encode_utf8(uint32_t c, char *out)
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    size_t size = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    static const unsigned char marks[] = {0, 0, 0xC0, 0xE0, 0xF0};
    for (size_t i = size - 1; i > 0; i--, c >>= 6) {
        out[i] = (char)(0x80 | (c & 0x3F));
    }
    out[0] = (char)(marks[size] | c);
    return size;
}

/* Every code point against Python's str.isspace, which knows 29. */
static void test_isspace(void **state)
{
    (void)state;
    json_t *root = NULL;
    const json_t *spaces = fixture_golden("isspace", &root);
    size_t next = 0;
    for (uint32_t c = 0; c < 0x110000; c++) {
        char text[4];
        size_t size = encode_utf8(c, text);
        bool wanted = c == (uint32_t)json_integer_value(json_array_get(spaces, next)) &&
                      next < json_array_size(spaces);
        next += wanted;
        assert_int_equal(mx_whitespace_length(text, size), wanted ? size : 0);
        assert_int_equal(mx_whitespace_strip(text, size), wanted ? 0 : size);
    }
    assert_int_equal(next, json_array_size(spaces));
    json_decref(root);
}

static void test_words(void **state)
{
    (void)state;
    json_t *root = NULL;
    const json_t *cases = fixture_golden("words", &root);
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *item = json_array_get(cases, i);
        const char *text = fixture_text(item, "text");
        size_t length = strlen(text), words = (size_t)fixture_real(item, "words");
        mx_whitespace_scan whole = {0};
        assert_int_equal(1 + mx_whitespace_runs(&whole, text, length, length), words);
        /* In pieces of any size, cut inside characters too, the sum is the same. */
        for (size_t step = 1; step <= 3; step++) {
            mx_whitespace_scan scan = {0};
            size_t runs = 0;
            for (size_t to = 0; to < length + step; to += step) {
                runs += mx_whitespace_runs(&scan, text, length, to < length ? to : length);
            }
            assert_int_equal(1 + runs, words);
        }
    }
    json_decref(root);
}

/* ---- passages ------------------------------------------------------------------ */

enum { BOS = 1, EOS = 2 };

static mx_task_context make_context(const mx_tokenizer *tokenizer, const mx_eval_options *options)
{
    return (mx_task_context){
        .options = options, .tokenizer = tokenizer, .bos = BOS, .prefix = BOS, .max_context = 4096};
}

static void check_ids(const mx_document *document, size_t at, const json_t *ids)
{
    for (size_t i = 0; i < json_array_size(ids); i++) {
        assert_int_equal(document->tokens[at + i], json_integer_value(json_array_get(ids, i)));
    }
}

/* Against lm_eval's _encode_pair over Hugging Face's tokenizer. */
static void check_pair(const json_t *item, const mx_tokenizer *tokenizer, bool add_bos)
{
    const char *text = fixture_text(item, "text");
    const json_t *context_ids = json_object_get(item, "context_ids");
    const json_t *target_ids = json_object_get(item, "target_ids");
    size_t n_context = json_array_size(context_ids), n_target = json_array_size(target_ids);
    mx_eval_options options = {.add_bos = add_bos};
    mx_task_context context = make_context(tokenizer, &options);
    mx_document_list list = {.hash = MX_HASH_START};
    mx_error err = {0};

    fixture_ok(mx_pair_add(&context, "test", 7, text, strlen(text), &list, &err), err);
    mx_document_list_finish(&list);
    const mx_document *document = &list.items[0];
    const char *wanted = fixture_text(item, "target");
    assert_int_equal(document->index, 7);
    assert_string_equal(document->text + document->target_offset, wanted);
    assert_int_equal(document->target_offset, strlen(fixture_text(item, "context")));
    assert_memory_equal(document->text, fixture_text(item, "context"), document->target_offset);
    /* Without context tokens lm_eval puts the prefix token in front. */
    size_t n_front = add_bos || n_context == 0 ? 1 : 0;
    assert_int_equal(document->n_targets, n_target);
    assert_int_equal(document->n_tokens, n_front + n_context + n_target);
    if (n_front == 1) {
        assert_int_equal(document->tokens[0], BOS);
    }
    check_ids(document, n_front, context_ids);
    check_ids(document, n_front + n_context, target_ids);
    mx_document_list_free(&list);
}

static void test_pairs(void **state)
{
    (void)state;
    json_t *root = NULL;
    mx_tokenizer *tokenizer = fixture_smollm2_tokenizer();
    if (tokenizer == NULL) {
        skip();
    }
    const json_t *cases = fixture_golden("pairs", &root);
    for (size_t i = 0; i < json_array_size(cases); i++) {
        check_pair(json_array_get(cases, i), tokenizer, false);
        check_pair(json_array_get(cases, i), tokenizer, true);
    }
    json_decref(root);
    mx_tokenizer_close(tokenizer);
}

/* With bytes as tokens: lm_eval keeps the last max_length + 1 tokens, of which
 * the final one is only predicted. */
static void test_truncation(void **state)
{
    (void)state;
    mx_tokenizer *tokenizer = fixture_byte_tokenizer();
    mx_eval_options options = {.add_bos = true};
    mx_task_context context = make_context(tokenizer, &options);
    mx_document_list list = {0};
    mx_error err = {0};

    context.max_context = 9; /* BOS + "abcde" + " xyz" is 10: fits exactly */
    fixture_ok(mx_pair_add(&context, "test", 0, "abcde xyz", 9, &list, &err), err);
    context.max_context = 8; /* BOS goes */
    fixture_ok(mx_pair_add(&context, "test", 1, "abcde xyz", 9, &list, &err), err);
    context.max_context = 4; /* one token of context is left */
    fixture_ok(mx_pair_add(&context, "test", 2, "abcde xyz", 9, &list, &err), err);
    context.max_context = 3; /* none would be */
    mx_status status = mx_pair_add(&context, "test", 3, "abcde xyz", 9, &list, &err);
    assert_int_equal(status, MX_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.text, "document 3"));

    mx_document_list_finish(&list);
    assert_int_equal(list.count, 3);
    assert_int_equal(list.items[0].n_tokens, 10);
    assert_int_equal(list.items[0].tokens[0], BOS);
    assert_int_equal(list.items[1].n_tokens, 9);
    assert_int_equal(list.items[1].tokens[0], 'a');
    assert_int_equal(list.items[2].n_tokens, 5);
    assert_int_equal(list.items[2].tokens[0], 'e');
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(list.items[i].n_targets, 4);
        assert_int_equal(list.items[i].tokens[list.items[i].n_tokens - 1], 'z');
    }
    mx_document_list_free(&list);
    mx_tokenizer_close(tokenizer);
}

/* Without a prefix token, or when the text starts with it, the text's own first
 * token is the context. */
static void test_no_prefix(void **state)
{
    (void)state;
    mx_tokenizer *tokenizer = fixture_byte_tokenizer();
    mx_eval_options options = {0};
    mx_task_context context = make_context(tokenizer, &options);
    mx_document_list list = {0};
    mx_error err = {0};
    context.prefix = -1;
    fixture_ok(mx_pair_add(&context, "test", 0, "abc", 3, &list, &err), err);
    context.prefix = ' ';
    fixture_ok(mx_pair_add(&context, "test", 1, "abc", 3, &list, &err), err);
    context.prefix = -1;
    assert_int_equal(mx_pair_add(&context, "test", 2, "", 0, &list, &err), MX_ERR_FORMAT);
    mx_document_list_finish(&list);
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(list.items[i].n_tokens, 4);
        assert_int_equal(list.items[i].n_targets, 3);
        assert_int_equal(list.items[i].tokens[0], ' ');
    }
    mx_document_list_free(&list);
    mx_tokenizer_close(tokenizer);
}

/* ---- windows of a text ---------------------------------------------------------- */

static const mx_task *find_task(const char *name)
{
    for (size_t i = 0; mx_task_at(i) != NULL; i++) {
        if (strcmp(mx_task_at(i)->name, name) == 0) {
            return mx_task_at(i);
        }
    }
    fail_msg("no task %s", name);
    return NULL;
}

static void load_text(const mx_tokenizer *tokenizer, const char *path, bool add_bos,
                      uint32_t window, uint32_t stride, uint64_t limit, mx_document_list *list)
{
    mx_eval_options options = {
        .add_bos = add_bos, .window = window, .stride = stride, .limit = limit};
    mx_task_context context = make_context(tokenizer, &options);
    mx_error err = {0};
    char *source = NULL;
    *list = (mx_document_list){.hash = MX_HASH_START};
    fixture_ok(find_task("perplexity")->load(&context, path, list, &source, &err), err);
    assert_string_equal(source, path);
    free(source);
}

static const char text_sample[] =
    "The sea\n\nwas calm, \t and the gulls\xC2\xA0\xE3\x80\x80slept. ";

/* s = prefix + text; every token after the prefix is scored once, in order, and
 * sees what the definition in text_windows.h says. */
static void check_windows(const mx_tokenizer *tokenizer, const char *path, bool add_bos,
                          uint32_t window, uint32_t stride)
{
    mx_document_list list;
    char s[sizeof text_sample + 1];
    size_t n = strlen(text_sample) + add_bos, scored = 1;
    uint64_t bytes = 0, words = 0;
    snprintf(s, sizeof s, "%s%s", add_bos ? "\x01" : "", text_sample);
    load_text(tokenizer, path, add_bos, window, stride, 0, &list);
    assert_int_equal(list.original, list.count);
    for (size_t i = 0; i < list.count; i++) {
        const mx_document *item = &list.items[i];
        size_t end = scored + item->n_targets;
        size_t wanted = i == 0 ? window : stride;
        assert_int_equal(item->index, i);
        assert_int_equal(item->n_targets, n - scored < wanted ? n - scored : wanted);
        /* As much context as the window holds. */
        assert_int_equal(item->n_tokens, end < window + 1 ? end : window + 1);
        for (size_t k = 0; k < item->n_tokens; k++) {
            assert_int_equal(item->tokens[k], (unsigned char)s[end - item->n_tokens + k]);
        }
        scored = end;
        bytes += item->bytes;
        words += item->words;
    }
    assert_int_equal(scored, n);
    /* Without BOS the first letter is not scored; the words stay the same. */
    assert_int_equal(bytes, n - 1);
    assert_int_equal(words, 9);
    mx_document_list_free(&list);
}

static void test_windows(void **state)
{
    (void)state;
    static const uint32_t settings[][2] = {{7, 7},  {7, 3},       {7, 1},   {1, 1},
                                           {16, 5}, {1000, 1000}, {1000, 2}};
    char dir[FIXTURE_PATH], path[FIXTURE_PATH + 16];
    mx_tokenizer *tokenizer = fixture_byte_tokenizer();
    fixture_scratch(dir);
    snprintf(path, sizeof path, "%s/text.txt", dir);
    fixture_write(path, text_sample);
    for (size_t i = 0; i < MX_COUNT(settings); i++) {
        check_windows(tokenizer, path, false, settings[i][0], settings[i][1]);
        check_windows(tokenizer, path, true, settings[i][0], settings[i][1]);
    }
    unlink(path);
    rmdir(dir);
    mx_tokenizer_close(tokenizer);
}

/* stride = window: window i feeds s[i w .. i w + w) and scores what follows each
 * of those tokens, which is the disjoint computation. */
static void test_disjoint(void **state)
{
    (void)state;
    char dir[FIXTURE_PATH], path[FIXTURE_PATH + 16];
    mx_document_list list, limited;
    mx_tokenizer *tokenizer = fixture_byte_tokenizer();
    enum { W = 8 };
    fixture_scratch(dir);
    snprintf(path, sizeof path, "%s/text.txt", dir);
    fixture_write(path, text_sample);
    load_text(tokenizer, path, false, W, W, 0, &list);
    for (size_t i = 0; i < list.count; i++) {
        const mx_document *item = &list.items[i];
        if (i + 1 < list.count) {
            assert_int_equal(item->n_tokens, W + 1);
            assert_int_equal(item->n_targets, W);
            assert_int_equal(item->first, i * W);
        }
    }
    load_text(tokenizer, path, false, W, W, 2, &limited);
    assert_int_equal(limited.count, 2);
    assert_int_equal(limited.original, list.count);
    assert_true(limited.hash != list.hash);
    mx_document_list_free(&list);
    mx_document_list_free(&limited);
    unlink(path);
    rmdir(dir);
    mx_tokenizer_close(tokenizer);
}

/* ---- the other tasks -------------------------------------------------------------- */

static void test_cloze(void **state)
{
    (void)state;
    mx_tokenizer *tokenizer = fixture_byte_tokenizer();
    mx_eval_options options = {0};
    mx_task_context context = make_context(tokenizer, &options);
    mx_document_list list = {.hash = MX_HASH_START};
    mx_error err = {0};
    char *source = NULL;
    fixture_ok(find_task("cloze")->load(&context, NULL, &list, &source, &err), err);
    assert_int_equal(list.count, 250);
    assert_int_equal(list.original, 250);
    for (size_t i = 0; i < list.count; i++) {
        const char *text = list.items[i].text;
        size_t length = strlen(text);
        mx_whitespace_scan scan = {0};
        size_t words = 1 + mx_whitespace_runs(&scan, text, length, length);
        assert_in_range(words, 40, 80);
        assert_null(strstr(text, "  "));
        /* The word to predict is bare. */
        assert_non_null(memchr("abcdefghijklmnopqrstuvwxyz", text[length - 1], 26));
        for (size_t k = 0; k < i; k++) {
            assert_string_not_equal(text, list.items[k].text);
        }
    }
    free(source);
    mx_document_list_free(&list);
    mx_tokenizer_close(tokenizer);
}

static void check_lambada_error(const char *path, const char *lines, const char *wanted)
{
    mx_tokenizer *tokenizer = fixture_byte_tokenizer();
    mx_eval_options options = {.data_path = path};
    mx_task_context context = make_context(tokenizer, &options);
    mx_document_list list = {0};
    mx_error err = {0};
    char *source = NULL;
    if (lines != NULL) {
        fixture_write(path, lines);
    }
    assert_int_not_equal(find_task("lambada_openai")->load(&context, NULL, &list, &source, &err),
                         MX_OK);
    if (strstr(err.text, wanted) == NULL) {
        fail_msg("'%s' lacks '%s'", err.text, wanted);
    }
    free(source);
    mx_document_list_free(&list);
    mx_tokenizer_close(tokenizer);
}

static void test_lambada_errors(void **state)
{
    (void)state;
    char dir[FIXTURE_PATH], path[FIXTURE_PATH + 16];
    fixture_scratch(dir);
    snprintf(path, sizeof path, "%s/data.jsonl", dir);
    check_lambada_error(dir, NULL, "cloze"); /* not there: says what else there is */
    check_lambada_error(dir, NULL, dir);
    check_lambada_error(path, "", "no documents");
    check_lambada_error(path, "{\"text\": \"a b\"}\nnot json\n", "line 2");
    check_lambada_error(path, "{\"text\": \"a b\"}\n\n", "line 2");
    check_lambada_error(path, "{\"text\": 5}\n", "text: must be a string");
    check_lambada_error(path, "{\"txt\": \"a b\"}\n", "text: missing");
    check_lambada_error(path, "[\"a b\"]\n", "text: missing");
    check_lambada_error(path, "{\"text\": \"a\\u0000b\"}\n", "line 1");
    unlink(path);
    rmdir(dir);
}

/* Figures of the reference notes: documents, tokens and targets of SmolLM2. */
static void test_lambada_data(void **state)
{
    (void)state;
    char path[FIXTURE_PATH];
    mx_tokenizer *tokenizer = fixture_smollm2_tokenizer();
    if (tokenizer == NULL || !fixture_path("MXLM_DATA_DIR", "text/lambada_test.jsonl", path)) {
        skip();
    }
    mx_eval_options options = {0};
    mx_task_context context = make_context(tokenizer, &options);
    mx_document_list list = {.hash = MX_HASH_START};
    mx_error err = {0};
    char *source = NULL;
    uint64_t tokens = 0, targets = 0;
    fixture_ok(find_task("lambada_openai")->load(&context, NULL, &list, &source, &err), err);
    for (size_t i = 0; i < list.count; i++) {
        tokens += list.items[i].n_tokens;
        targets += list.items[i].n_targets;
    }
    assert_string_equal(source, path); /* found through $MXLM_DATA_DIR */
    assert_int_equal(list.count, 5153);
    assert_int_equal(tokens, 420349);
    assert_int_equal(targets, 7051);
    free(source);
    mx_document_list_free(&list);
    mx_tokenizer_close(tokenizer);
}

static void check_requests(const char *text, mx_status wanted, size_t wanted_count)
{
    mx_task_request *requests = NULL;
    size_t count = 0;
    mx_error err = {0};
    assert_int_equal(mx_task_requests_parse(text, &requests, &count, &err), wanted);
    assert_int_equal(count, wanted_count);
    mx_task_requests_free(requests, count);
}

static void test_requests(void **state)
{
    (void)state;
    mx_task_request *requests = NULL;
    size_t count = 0;
    mx_error err = {0};
    check_requests("lambada_openai", MX_OK, 1);
    check_requests("cloze,lambada_openai", MX_OK, 2);
    check_requests("", MX_ERR_ARGUMENT, 0);
    check_requests(NULL, MX_ERR_ARGUMENT, 0);
    check_requests("cloze,", MX_ERR_ARGUMENT, 0);
    check_requests("hellaswag", MX_ERR_ARGUMENT, 0);
    check_requests("cloze,cloze", MX_ERR_ARGUMENT, 0);
    check_requests("cloze:file", MX_ERR_ARGUMENT, 0);
    check_requests("cloze:", MX_ERR_ARGUMENT, 0);
    check_requests("perplexity", MX_ERR_ARGUMENT, 0);
    check_requests("perplexity:", MX_ERR_ARGUMENT, 0);
    check_requests("perplexity:a/x.txt,perplexity:b/x.txt", MX_ERR_ARGUMENT, 0);
    fixture_ok(mx_task_requests_parse("cloze,perplexity:dir/a:b.txt,perplexity:\xFF.txt", &requests,
                                      &count, &err),
               err);
    assert_int_equal(count, 3);
    assert_string_equal(requests[1].file, "dir/a:b.txt");
    assert_string_equal(requests[1].name, "perplexity:a:b.txt");
    assert_string_equal(requests[2].file, "\xFF.txt");
    assert_string_equal(requests[2].name, "perplexity:?.txt");
    mx_task_requests_free(requests, count);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_isspace),        cmocka_unit_test(test_words),
        cmocka_unit_test(test_pairs),          cmocka_unit_test(test_truncation),
        cmocka_unit_test(test_no_prefix),      cmocka_unit_test(test_windows),
        cmocka_unit_test(test_disjoint),       cmocka_unit_test(test_cloze),
        cmocka_unit_test(test_lambada_errors), cmocka_unit_test(test_lambada_data),
        cmocka_unit_test(test_requests),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
