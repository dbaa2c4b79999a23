/*
 * What the tests of the eval layer share: goldens, a tokenizer whose tokens are
 * bytes, a scorer that stands in for a model, and scratch files.
 */
#ifndef MX_TEST_EVAL_FIXTURE_H
#define MX_TEST_EVAL_FIXTURE_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include "base/file.h"
#include "eval/eval.h"
#include "eval/json_build.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FIXTURE_PATH = 4096 };

/* Fails the test with the library's own line. */
#define fixture_ok(expr, err)                                                                      \
    do {                                                                                           \
        if ((expr) != MX_OK) {                                                                     \
            fail_msg("%s: %s", #expr, (err).text);                                                 \
        }                                                                                          \
    } while (0)

/* $VARIABLE/name into path [FIXTURE_PATH]; false when the variable is unset. */
static inline bool fixture_path(const char *variable, const char *name, char *path)
{
    const char *dir = getenv(variable);
    if (dir != NULL) {
        snprintf(path, FIXTURE_PATH, "%s/%s", dir, name);
    }
    return dir != NULL;
}

/* A member of tests/golden/eval.json; `*root` is the caller's reference. */
static inline const json_t *fixture_golden(const char *key, json_t **root)
{
    char path[FIXTURE_PATH];
    mx_error err = {0};
    if (!fixture_path("MXLM_TEST_DIR", "golden/eval.json", path)) {
        fail_msg("MXLM_TEST_DIR is not set: run this through ctest");
    }
    fixture_ok(mx_json_load(path, (size_t)1 << 24, root, &err), err);
    const json_t *member = json_object_get(*root, key);
    assert_true(json_is_array(member));
    assert_true(json_array_size(member) > 0);
    return member;
}

static inline double fixture_real(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    assert_true(json_is_number(value));
    return json_number_value(value);
}

static inline const char *fixture_text(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    assert_true(json_is_string(value));
    return json_string_value(value);
}

/* A new folder under $TMPDIR into dir [FIXTURE_PATH]. */
static inline void fixture_scratch(char *dir)
{
    const char *tmp = getenv("TMPDIR");
    snprintf(dir, FIXTURE_PATH, "%s/mxlm-eval-XXXXXX", tmp != NULL ? tmp : "/tmp");
    assert_non_null(mkdtemp(dir));
}

static inline void fixture_write(const char *path, const char *text)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, strlen(text), file), strlen(text));
    assert_int_equal(fclose(file), 0);
}

/* The whole file as malloc'd text. */
static inline char *fixture_read(const char *path)
{
    char *text = NULL;
    size_t size = 0;
    mx_error err = {0};
    fixture_ok(mx_file_read(path, (size_t)1 << 26, &text, &size, &err), err);
    return text;
}

/* GPT-2's printable stand-in for a byte: U+0100 and up for those that are not
 * printable. */
static inline int fixture_byte_character(int byte)
{
    int next = 256;
    for (int b = 0; b < 256; b++) {
        bool plain = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
        if (b == byte) {
            return plain ? b : next;
        }
        next += !plain;
    }
    return -1;
}

/* A byte-level BPE tokenizer without merges: token id = byte. */
static inline mx_tokenizer *fixture_byte_tokenizer(void)
{
    json_t *vocab = json_object();
    for (int b = 0; b < 256; b++) {
        int c = fixture_byte_character(b);
        char text[4] = {(char)c, 0, 0, 0};
        if (c >= 0x80) {
            text[0] = (char)(0xC0 | c >> 6);
            text[1] = (char)(0x80 | (c & 0x3F));
        }
        assert_int_equal(json_object_set_new(vocab, text, json_integer(b)), 0);
    }
    json_t *root = json_pack("{s:s, s:[], s:n, s:{s:s, s:b, s:b, s:b}, s:n, s:{s:s}, "
                             "s:{s:s, s:o, s:[]}}",
                             "version", "1.0", "added_tokens", "normalizer", "pre_tokenizer",
                             "type", "ByteLevel", "add_prefix_space", 0, "trim_offsets", 1,
                             "use_regex", 1, "post_processor", "decoder", "type", "ByteLevel",
                             "model", "type", "BPE", "vocab", vocab, "merges");
    assert_non_null(root);
    mx_error err = {0};
    mx_tokenizer *tokenizer = NULL;
    char *text = NULL;
    fixture_ok(mx_json_dump(root, 0, &text, &err), err);
    fixture_ok(mx_tokenizer_parse_json(text, strlen(text), "byte tokenizer", &tokenizer, &err),
               err);
    free(text);
    json_decref(root);
    return tokenizer;
}

/* The tokenizer of the shared data; NULL (the test should skip) without it. */
static inline mx_tokenizer *fixture_smollm2_tokenizer(void)
{
    char path[FIXTURE_PATH];
    mx_error err = {0};
    mx_tokenizer *tokenizer = NULL;
    if (!fixture_path("MXLM_DATA_DIR", "smollm2/tokenizer.json", path)) {
        print_message("skipped: no smollm2/tokenizer.json ($MXLM_DATA_DIR is not set)\n");
        return NULL;
    }
    fixture_ok(mx_tokenizer_open(path, &tokenizer, &err), err);
    return tokenizer;
}

/* A scorer whose outcomes are made from the tokens alone, and which remembers
 * how it was called. */
typedef struct fixture_scorer {
    mx_session_config limits;
    size_t n_prepared, n_batches, n_documents;
    size_t largest_batch;
    uint64_t largest_tokens;
    uint32_t last_length; /* to see that lengths fall */
    double shift;         /* added to every log-likelihood */
    double divergence;    /* scales divergences */
    uint32_t fail_at;     /* this document's log-likelihood is NaN; UINT32_MAX: none */
} fixture_scorer;

/* A number in [0, 1) that depends on the document's tokens and targets. */
static inline double fixture_fraction(const mx_document *document)
{
    uint64_t hash = mx_hash_bytes(MX_HASH_START, document->tokens,
                                  document->n_tokens * sizeof *document->tokens);
    hash = mx_hash_bytes(hash, &document->n_targets, sizeof document->n_targets);
    return (double)(hash >> 11) / 9007199254740992.0;
}

static inline mx_outcome fixture_outcome(const mx_document *document, double shift)
{
    double fraction = fixture_fraction(document);
    return (mx_outcome){.log_likelihood = -0.25 - 7 * fraction + shift,
                        .greedy = fraction + shift * 0.1 < 0.375};
}

static inline mx_status fixture_prepare(void *ctx, const mx_session_config *limits, mx_error *err)
{
    (void)err;
    fixture_scorer *scorer = ctx;
    scorer->limits = *limits;
    scorer->n_prepared++;
    scorer->last_length = UINT32_MAX;
    return MX_OK;
}

/* The outcome of a document, and divergences where there is room for them. */
static inline mx_outcome fixture_outcome_kl(const fixture_scorer *scorer,
                                            const mx_document *document, float *divergences)
{
    mx_outcome outcome = fixture_outcome(document, scorer->shift);
    for (uint32_t t = 0; divergences != NULL && t < document->n_targets; t++) {
        divergences[t] = (float)(fixture_fraction(document) * (t + 1) * scorer->divergence);
        outcome.agreed += divergences[t] < 1;
    }
    outcome.divergences = divergences;
    return outcome;
}

static inline mx_status fixture_score(void *ctx, const mx_document *const *batch, size_t n,
                                      mx_outcome *outcomes, mx_error *err)
{
    (void)err;
    fixture_scorer *scorer = ctx;
    uint64_t tokens = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t length = batch[i]->n_tokens - 1;
        assert_in_range(batch[i]->n_targets, 1, length);
        assert_true(length <= scorer->last_length);
        assert_true(length <= scorer->limits.max_context);
        scorer->last_length = length;
        tokens += length;
        outcomes[i] = fixture_outcome_kl(scorer, batch[i], outcomes[i].divergences);
        if (batch[i]->index == scorer->fail_at) {
            outcomes[i].log_likelihood = (double)NAN;
        }
    }
    assert_true(n <= scorer->limits.max_sequences);
    assert_true(tokens <= scorer->limits.max_tokens);
    scorer->n_batches++;
    scorer->n_documents += n;
    scorer->largest_batch = n > scorer->largest_batch ? n : scorer->largest_batch;
    scorer->largest_tokens = tokens > scorer->largest_tokens ? tokens : scorer->largest_tokens;
    return MX_OK;
}

static inline mx_scorer fixture_scorer_view(fixture_scorer *scorer)
{
    scorer->fail_at = UINT32_MAX;
    return (mx_scorer){.ctx = scorer, .prepare = fixture_prepare, .score = fixture_score};
}

#endif
