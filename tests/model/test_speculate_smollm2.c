/*
 * Speculation on the real checkpoint: the text of plain decoding, with the n-gram
 * look-up and with the model's own W4A6 as its draft. Skips where it is absent.
 */
#include "model/model_fixture.h"

#include "base/str.h"

#if MX_SANITIZED
enum { NEW_TOKENS = 4 };
#else
enum { NEW_TOKENS = 40 };
#endif

static const char prompt[] =
    "Draft:\nThe city council met on Tuesday to discuss the new bridge over the river. Engineers "
    "said that the old bridge, built in 1931, can no longer carry heavy trucks.\n\nFinal:\nThe "
    "city "
    "council met on";

/* The GGUF's path, or false where there is none. */
static bool find_gguf(char *path)
{
    const char *given = getenv("MXLM_SMOLLM2_GGUF"), *cache = getenv("XDG_CACHE_HOME");
    const char *home = getenv("HOME");
    bool has_cache = cache != NULL && cache[0] != '\0';
    if (given != NULL) {
        snprintf(path, FIXTURE_PATH, "%s", given);
    } else {
        snprintf(path, FIXTURE_PATH, "%s%s/mxlm/SmolLM2-135M-Instruct.Q4_1.gguf",
                 has_cache      ? cache
                 : home != NULL ? home
                                : "",
                 has_cache ? "" : "/.cache");
    }
    if (!mx_path_is_file(path)) {
        print_message("skipped: %s is absent\n", path);
        return false;
    }
    return true;
}

static bool collect(void *ctx, const char *text, size_t length)
{
    mx_str_add_bytes(ctx, text, length);
    return true;
}

static mx_str generate(mx_model *model, const mx_generate_options *options,
                       mx_generate_stats *stats)
{
    mx_error err = {0};
    mx_str text = {0};
    fixture_ok(mx_generate_run(model, prompt, options, collect, &text, stats, &err), err);
    assert_true(text.length > 0);
    return text;
}

/* Plain, then both ways to speculate; what was proposed and accepted. */
static void compare(mx_model *model, mx_model *draft, float temperature, mx_generate_stats *sum)
{
    mx_generate_options options;
    mx_generate_stats stats;
    mx_generate_options_init(&options);
    options.max_tokens = NEW_TOKENS;
    options.temperature = temperature;
    options.seed = 5;
    mx_str plain = generate(model, &options, &stats);
    for (int i = 0; i < 2; i++) {
        options.speculate = 15;
        options.draft = i == 0 ? NULL : draft;
        mx_str text = generate(model, &options, &stats);
        assert_int_equal(text.length, plain.length);
        assert_memory_equal(text.data, plain.data, plain.length);
        sum->proposed += stats.proposed;
        sum->accepted += stats.accepted;
        mx_str_free(&text);
    }
    mx_str_free(&plain);
}

static void text_is_that_of_plain_decoding(void **state)
{
    (void)state;
    char path[FIXTURE_PATH];
    if (!find_gguf(path)) {
        skip();
    }
    mx_model *quantized = fixture_open(path, 0, NULL), *model = fixture_open(path, 0, NULL);
    mx_generate_stats sum = {0};
    fixture_apply(quantized, "weights=mxfp4_e2m1 activations=mxfp6_e2m3 block=32 round=even");
    compare(quantized, quantized, 0, &sum);
    compare(quantized, quantized, 0.8f, &sum);
    compare(model, quantized, 0, &sum);
    print_message("%u of %u proposed tokens accepted\n", sum.accepted, sum.proposed);
    assert_true(sum.accepted > 0);
    mx_model_close(model);
    mx_model_close(quantized);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(text_is_that_of_plain_decoding)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
