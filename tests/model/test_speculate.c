/*
 * Speculation must not show in the text: equality with plain decoding over ways to
 * propose, prompts, sampling, and the places where a run of tokens can be cut.
 */
#include "model/model_fixture.h"

#include "base/str.h"
#include "model/speculate_ngram.h"
#include "model/speculate_pace.h"

#include <unistd.h>

/* Text, statistics, and when to stop asking for more. */
typedef struct result {
    mx_str text;
    size_t stop_after; /* bytes, 0: never */
    mx_generate_stats stats;
} result;

static bool collect(void *ctx, const char *text, size_t length)
{
    result *r = ctx;
    mx_str_add_bytes(&r->text, text, length);
    return r->stop_after == 0 || r->text.length < r->stop_after;
}

static result generate(mx_model *model, const char *prompt, const mx_generate_options *options,
                       size_t stop_after)
{
    mx_error err = {0};
    result r = {.stop_after = stop_after};
    fixture_ok(mx_generate_run(model, prompt, options, collect, &r, &r.stats, &err), err);
    assert_true(r.stats.accepted <= r.stats.proposed);
    return r;
}

static void expect_same(const result *a, const result *b)
{
    assert_int_equal(a->stats.new_tokens, b->stats.new_tokens);
    assert_int_equal(a->text.length, b->text.length);
    if (a->text.length > 0) {
        assert_memory_equal(a->text.data, b->text.data, a->text.length);
    }
}

static mx_model *open_tiny(const char *settings)
{
    char path[FIXTURE_PATH];
    fixture_golden("../app/fixtures/tiny", path);
    mx_model *model = fixture_open(path, 2, NULL);
    fixture_apply(model, settings);
    return model;
}

/* ---- equality with plain decoding --------------------------------------------- */

/* Ways to choose a token. */
static const struct {
    float temperature, top_p;
    uint64_t seed;
} choices[] = {{0, 1, 0}, {1, 1, 1}, {1, 1, 2}, {0.7f, 0.9f, 3}, {0.1f, 1, 4}};

static const char *const prompts[] = {
    "x",
    "the old man",
    "the old man and the old man and the old man and the",
    "for i in a: print(i)\nfor j in b: print(j)\nfor k in c: print(",
};

static const uint32_t lengths[] = {1, 2, 15, MX_SPECULATE_MAX};

enum { NEW_TOKENS = 70 };

/* What all generations of a test proposed and accepted. */
typedef struct tally {
    uint64_t proposed, accepted;
} tally;

static mx_generate_options options_of(size_t choice, uint32_t max_tokens)
{
    mx_generate_options options;
    mx_generate_options_init(&options);
    options.temperature = choices[choice].temperature;
    options.top_p = choices[choice].top_p;
    options.seed = choices[choice].seed;
    options.max_tokens = max_tokens;
    options.ignore_eos = true;
    return options;
}

/* Every prompt, choice and length with one way to propose. */
static tally compare_all(mx_model *model, mx_model *draft)
{
    tally t = {0};
    for (size_t i = 0; i < MX_COUNT(prompts) * MX_COUNT(choices); i++) {
        const char *prompt = prompts[i / MX_COUNT(choices)];
        mx_generate_options options = options_of(i % MX_COUNT(choices), NEW_TOKENS);
        result plain = generate(model, prompt, &options, 0);
        assert_int_equal(plain.stats.new_tokens, NEW_TOKENS);
        assert_int_equal(plain.stats.passes, NEW_TOKENS - 1);
        assert_int_equal(plain.stats.proposed, 0);
        for (size_t j = 0; j < MX_COUNT(lengths); j++) {
            options.speculate = lengths[j];
            options.draft = draft;
            result r = generate(model, prompt, &options, 0);
            expect_same(&plain, &r);
            /* Each pass gives the accepted tokens and one more. */
            assert_int_equal(r.stats.passes + r.stats.accepted, NEW_TOKENS - 1);
            t.proposed += r.stats.proposed;
            t.accepted += r.stats.accepted;
            mx_str_free(&r.text);
        }
        mx_str_free(&plain.text);
    }
    return t;
}

static const char w4a6[] = "weights=mxfp4_e2m1 activations=mxfp6_e2m3 block=32 round=even";
static const char dithered[] =
    "weights=mxfp4_e2m1 activations=mxfp6_e2m3 block=32 round=dither seed=7";

static void ngrams_do_not_change_the_text(void **state)
{
    (void)state;
    const char *const settings[] = {"", w4a6, dithered};
    for (size_t i = 0; i < MX_COUNT(settings); i++) {
        mx_model *model = open_tiny(settings[i]);
        tally t = compare_all(model, NULL);
        /* Both outcomes were tried. */
        assert_true(t.accepted > 0 && t.accepted < t.proposed);
        mx_model_close(model);
    }
}

static void drafts_do_not_change_the_text(void **state)
{
    (void)state;
    mx_model *model = open_tiny(""), *other = open_tiny(w4a6);
    tally t = compare_all(model, other);
    assert_true(t.accepted > 0 && t.accepted < t.proposed);
    t = compare_all(other, model);
    assert_true(t.accepted > 0 && t.accepted < t.proposed);
    mx_model_close(other);
    mx_model_close(model);
}

/* The model as its own draft draws what it will draw: nothing is ever rejected. */
static void own_draft_is_always_right(void **state)
{
    (void)state;
    mx_model *model = open_tiny(w4a6);
    tally t = compare_all(model, model);
    assert_true(t.proposed > 0);
    assert_int_equal(t.accepted, t.proposed);
    mx_model_close(model);
}

/* ---- where a run is cut -------------------------------------------------------- */

/* Compares under all ways to propose; what was accepted. */
static uint64_t compare_ways(mx_model *model, const char *prompt, mx_generate_options options,
                             size_t stop_after)
{
    uint64_t accepted = 0;
    options.speculate = 0;
    result plain = generate(model, prompt, &options, stop_after);
    for (size_t i = 0; i < 2 * MX_COUNT(lengths); i++) {
        options.speculate = lengths[i / 2];
        options.draft = i % 2 == 0 ? model : NULL;
        result r = generate(model, prompt, &options, stop_after);
        expect_same(&plain, &r);
        accepted += r.stats.accepted;
        mx_str_free(&r.text);
    }
    mx_str_free(&plain.text);
    return accepted;
}

static void max_tokens_cuts_a_run(void **state)
{
    (void)state;
    mx_model *model = open_tiny("");
    for (uint32_t n = 0; n < 40; n++) {
        uint64_t accepted = compare_ways(model, prompts[2], options_of(n % 2, n), 0);
        assert_true(n < 20 || accepted > 0);
    }
    mx_model_close(model);
}

static void end_token_cuts_a_run(void **state)
{
    (void)state;
    mx_model *model = open_tiny("");
    uint64_t accepted = 0;
    uint32_t ended = 0;
    for (int32_t id = 2; id < 318; id += 5) {
        model->config.eos_ids[0] = id;
        model->config.n_eos = 1;
        mx_generate_options options = options_of(1, 60);
        options.ignore_eos = false;
        result plain = generate(model, prompts[1], &options, 0);
        if (plain.stats.new_tokens > 8 && plain.stats.new_tokens < 60) {
            ended++;
            accepted += compare_ways(model, prompts[1], options, 0);
        }
        mx_str_free(&plain.text);
    }
    assert_true(ended >= 3);
    assert_true(accepted > 0);
    mx_model_close(model);
}

static void context_cuts_a_run(void **state)
{
    (void)state;
    mx_model *model = open_tiny("");
    /* Short of the whole context: the session asks for what the model says. */
    model->config.context = 60;
    for (size_t choice = 0; choice < 2; choice++) {
        mx_generate_options options = options_of(choice, 100000);
        result plain = generate(model, prompts[1], &options, 0);
        /* The last position's choice is still given out. */
        assert_int_equal(plain.stats.prompt_tokens + plain.stats.new_tokens, 61);
        assert_true(compare_ways(model, prompts[1], options, 0) > 0);
        mx_str_free(&plain.text);
    }
    mx_model_close(model);
}

/* A draft that sees less far than the model falls silent where its context ends. */
static void draft_context_may_be_shorter(void **state)
{
    (void)state;
    mx_model *model = open_tiny(""), *draft = open_tiny("");
    draft->config.context = 40;
    for (size_t i = 0; i < MX_COUNT(prompts); i++) {
        mx_generate_options options = options_of(1, 80);
        result plain = generate(model, prompts[i], &options, 0);
        options.speculate = 15;
        options.draft = draft;
        result r = generate(model, prompts[i], &options, 0);
        expect_same(&plain, &r);
        assert_true(r.stats.accepted < 40);
        mx_str_free(&r.text);
        mx_str_free(&plain.text);
    }
    mx_model_close(draft);
    mx_model_close(model);
}

static void caller_cuts_a_run(void **state)
{
    (void)state;
    mx_model *model = open_tiny("");
    for (size_t bytes = 1; bytes < 60; bytes += 7) {
        compare_ways(model, prompts[2], options_of(0, 60), bytes);
    }
    mx_model_close(model);
}

/* ---- rollback ------------------------------------------------------------------ */

/* A session that ran other tokens ahead gives the bits of one that did not. */
static void rejected_tokens_leave_no_trace(void **state)
{
    (void)state;
    enum { BEFORE = 13, AHEAD = 24, AFTER = 9 };
    const char *const settings[] = {"", w4a6, dithered};
    for (size_t i = 0; i < MX_COUNT(settings); i++) {
        mx_error err = {0};
        mx_model *model = open_tiny(settings[i]);
        size_t vocab = model->config.vocab;
        int32_t text[BEFORE + AFTER], wrong[AHEAD];
        for (int32_t t = 0; t < BEFORE + AFTER; t++) {
            text[t] = 5 + 7 * t;
        }
        for (int32_t t = 0; t < AHEAD; t++) {
            wrong[t] = 300 - 3 * t;
        }
        float *expected = malloc(AFTER * vocab * sizeof(float)); /* [AFTER][vocab] */
        float *logits = malloc(AFTER * vocab * sizeof(float));   /* the same */
        assert_non_null(expected);
        assert_non_null(logits);
        fixture_sequence(model, text, BEFORE + AFTER, AFTER, expected);
        mx_session *session = fixture_session(model, (mx_session_config){64, 1, 64, true});
        fixture_ok(mx_session_forward(session, &(mx_segment){0, 0, text, BEFORE}, 1, &err), err);
        for (uint32_t t = 0; t < AFTER; t += 3) {
            uint32_t start = BEFORE + t;
            fixture_ok(mx_session_forward(session, &(mx_segment){0, start, wrong, AHEAD}, 1, &err),
                       err);
            fixture_ok(
                mx_session_forward(session, &(mx_segment){0, start, text + start, 3}, 1, &err),
                err);
            fixture_logits(session, 0, 3, logits + t * vocab);
        }
        assert_memory_equal(logits, expected, AFTER * vocab * sizeof(float));
        mx_session_free(session);
        free(logits);
        free(expected);
        mx_model_close(model);
    }
}

/* ---- refusals ------------------------------------------------------------------ */

static void expect_refusal(mx_model *model, const mx_generate_options *options, const char *part)
{
    mx_error err = {0};
    result r = {0};
    assert_int_equal(mx_generate_run(model, "x", options, collect, &r, &r.stats, &err),
                     MX_ERR_ARGUMENT);
    assert_int_equal(r.text.length, 0);
    if (strstr(err.text, part) == NULL) {
        fail_msg("error '%s' does not say '%s'", err.text, part);
    }
}

/* fixtures/tiny in a new folder `dir`, with one token spelt otherwise. */
static void write_other_tokenizer(const char *dir)
{
    static const char *const names[] = {"config.json", "model.safetensors", "tokenizer.json"};
    char path[FIXTURE_PATH];
    fixture_golden("../app/fixtures/tiny", path);
    for (size_t i = 0; i < MX_COUNT(names); i++) {
        char from[FIXTURE_PATH + 32], to[FIXTURE_PATH + 32];
        static char data[1 << 20];
        snprintf(from, sizeof from, "%s/%s", path, names[i]);
        snprintf(to, sizeof to, "%s/%s", dir, names[i]);
        FILE *in = fopen(from, "rb"), *out = fopen(to, "wb");
        assert_non_null(in);
        assert_non_null(out);
        size_t n = fread(data, 1, sizeof data - 1, in);
        data[n] = '\0';
        if (i == 2) {
            char *token = strstr(data, "<|begin|>");
            for (; token != NULL; token = strstr(token + 1, "<|begin|>")) {
                memcpy(token, "<|other|>", 9);
            }
        }
        assert_int_equal(fwrite(data, 1, n, out), n);
        fclose(in);
        assert_int_equal(fclose(out), 0);
    }
}

static void remove_copy(const char *dir)
{
    static const char *const names[] = {"config.json", "model.safetensors", "tokenizer.json"};
    for (size_t i = 0; i < MX_COUNT(names); i++) {
        char path[FIXTURE_PATH];
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        unlink(path);
    }
    rmdir(dir);
}

static void other_tokens_are_refused(void **state)
{
    (void)state;
    char dir[] = "/tmp/mxlm-speculate-XXXXXX";
    assert_non_null(mkdtemp(dir));
    write_other_tokenizer(dir);
    mx_model *model = open_tiny(""), *other = fixture_open(dir, 1, NULL);
    mx_generate_options options = options_of(0, 4);
    options.speculate = 4;
    options.draft = other;
    expect_refusal(model, &options, "draft: another tokenizer: token 0 differs");
    other->config.vocab = 300;
    expect_refusal(model, &options, "draft: another vocabulary: ");
    other->config.vocab = 318;
    options.draft = NULL;
    options.speculate = MX_SPECULATE_MAX + 1;
    expect_refusal(model, &options, "speculate: 65 tokens, but at most 64");
    mx_model_close(other);
    mx_model_close(model);
    remove_copy(dir);
}

/* ---- parts --------------------------------------------------------------------- */

static void expect_found(const char *letters, size_t found, uint32_t match)
{
    int32_t tokens[128];
    size_t n = strlen(letters);
    for (size_t i = 0; i < n; i++) {
        tokens[i] = letters[i];
    }
    uint32_t got = 99;
    assert_int_equal(mx_ngram_find(tokens, n, &got), found);
    assert_int_equal(got, match);
}

static void longest_then_latest_ngram_is_found(void **state)
{
    (void)state;
    expect_found("a", 0, 0);
    expect_found("abcdefg", 0, 0);
    expect_found("abca", 0, 0); /* one token says nothing */
    expect_found("abcab", 2, 2);
    expect_found("xabc1xab2ab3xab", 8, 3); /* longer */
    expect_found("ab1ab2ab", 5, 2);        /* later */
    expect_found("aaaa", 3, 3);            /* may overlap what it matches */
    char many[101] = {0};
    memset(many, 'a', 100);
    expect_found(many, 99, MX_NGRAM_MAX);
}

/* Time of n tokens where a plain pass takes 1 and a proposed token `extra`, and each
 * proposed token is right with a chance of `right` in 8. */
static double simulate(uint32_t n, double extra, uint32_t right, uint32_t kind, uint32_t *longest)
{
    mx_pace pace;
    double seconds = 0;
    uint32_t draw = 12345;
    *longest = 0;
    mx_pace_init(&pace, 15);
    for (uint32_t done = 0; done < n;) {
        uint32_t proposed = mx_pace_length(&pace, kind), accepted = 0;
        assert_true(proposed <= 15);
        for (bool on = true; on && accepted < proposed; accepted += on) {
            draw = draw * 1664525u + 1013904223u;
            on = draw >> 29 < right;
        }
        double took = 1 + extra * proposed;
        mx_pace_record(&pace, kind, proposed, accepted, took);
        seconds += took;
        done += accepted + 1;
        *longest = proposed > *longest ? proposed : *longest;
    }
    return seconds;
}

static void losses_are_bounded(void **state)
{
    (void)state;
    const double extras[] = {0, 0.02, 0.1, 0.3, 1.0};
    for (uint32_t kind = 0; kind < MX_PACE_CLASSES; kind++) {
        for (size_t i = 0; i < MX_COUNT(extras); i++) {
            for (uint32_t right = 0; right <= 8; right++) {
                uint32_t longest;
                double seconds = simulate(200, extras[i], right, kind, &longest);
                if (200 / seconds < 0.97) {
                    fail_msg("kind %u, extra %g, right %u/8: %g of plain speed", kind, extras[i],
                             right, 200 / seconds);
                }
            }
        }
    }
}

static void luck_makes_proposals_long(void **state)
{
    (void)state;
    uint32_t longest;
    for (uint32_t kind = 0; kind < MX_PACE_CLASSES; kind++) {
        double seconds = simulate(400, 0.08, 8, kind, &longest);
        assert_int_equal(longest, 15);
        assert_true(400 / seconds > 5);
        assert_true(400 / simulate(400, 0.08, 6, kind, &longest) > 1.8);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ngrams_do_not_change_the_text),
        cmocka_unit_test(drafts_do_not_change_the_text),
        cmocka_unit_test(own_draft_is_always_right),
        cmocka_unit_test(max_tokens_cuts_a_run),
        cmocka_unit_test(end_token_cuts_a_run),
        cmocka_unit_test(context_cuts_a_run),
        cmocka_unit_test(draft_context_may_be_shorter),
        cmocka_unit_test(caller_cuts_a_run),
        cmocka_unit_test(rejected_tokens_leave_no_trace),
        cmocka_unit_test(other_tokens_are_refused),
        cmocka_unit_test(longest_then_latest_ngram_is_found),
        cmocka_unit_test(losses_are_bounded),
        cmocka_unit_test(luck_makes_proposals_long),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
