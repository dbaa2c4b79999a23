/*
 * The real checkpoint (SmolLM2-135M-Instruct, GGUF Q4_1 and Q8_0): codes, the
 * lossless rest, tokenizer and config as others read them.
 */
#include "quant/quant_fixture.h"

#include "io/tokenizer.h"

/* $MXLM_SMOLLM2_GGUF, else the cache; skips the test when it is not there. */
static void real_model(char path[FIXTURE_PATH])
{
    static const char name[] = "mxlm/SmolLM2-135M-Instruct.Q4_1.gguf";
    const char *given = getenv("MXLM_SMOLLM2_GGUF"), *cache = getenv("XDG_CACHE_HOME");
    const char *home = getenv("HOME");
    if (given != NULL) {
        snprintf(path, FIXTURE_PATH, "%s", given);
    } else if (cache != NULL) {
        snprintf(path, FIXTURE_PATH, "%s/%s", cache, name);
    } else {
        snprintf(path, FIXTURE_PATH, "%s/.cache/%s", home != NULL ? home : "", name);
    }
    if (!mx_path_is_file(path)) {
        print_message("%s is not there: the real checkpoint is not tested\n", path);
        skip();
    }
}

/* All rows of a kept tensor are equal; returns the type it was given. */
static mx_dtype check_kept(const mx_checkpoint *source, const mx_checkpoint *out, const char *name)
{
    mx_rows from = fixture_rows(source, name), to = fixture_rows(out, name);
    assert_true(from.n_rows == to.n_rows && from.n_cols == to.n_cols);
    for (uint64_t r = 0; r < from.n_rows; r++) {
        float *x = fixture_row(&from, r), *y = fixture_row(&to, r);
        assert_memory_equal(x, y, from.n_cols * sizeof *x);
        free(x);
        free(y);
    }
    return to.tensor->dtype;
}

static void check_packed(const mx_checkpoint *source, const mx_checkpoint *out, const char *name)
{
    const mx_quant *quant = &mx_checkpoint_specs(out)->weights;
    char scale_name[256];
    snprintf(scale_name, sizeof scale_name, "%s_scale", name);
    mx_rows from = fixture_rows(source, name), codes = fixture_rows(out, name);
    mx_rows scales = fixture_rows(out, scale_name);
    uint8_t row_codes[4096], row_scales[256];
    assert_true(codes.row_bytes == from.n_cols / 2 && scales.row_bytes == from.n_cols / 32);
    assert_true(codes.row_bytes <= sizeof row_codes && scales.row_bytes <= sizeof row_scales);
    for (uint64_t r = 0; r < from.n_rows; r++) {
        float *x = fixture_row(&from, r);
        mx_row_encode(quant, x, from.n_cols, r, row_codes, row_scales);
        assert_memory_equal(mx_rows_at(&codes, r), row_codes, codes.row_bytes);
        assert_memory_equal(mx_rows_at(&scales, r), row_scales, scales.row_bytes);
        free(x);
    }
}

/* The tokenizer that was written gives the GGUF's ids. */
static void check_tokenizer(const char *model, const char *out)
{
    static const char text[] =
        "Hello, world! \n\n<|im_start|>user 12345 caf\xC3\xA9 \xF0\x9F\xA6\x99";
    mx_error err = {0};
    mx_tokenizer *a, *b;
    int32_t *ids_a, *ids_b;
    size_t n_a, n_b;
    fixture_ok(mx_tokenizer_open(model, &a, &err), err);
    fixture_ok(mx_tokenizer_open(out, &b, &err), err);
    fixture_ok(mx_tokenizer_encode(a, text, strlen(text), true, &ids_a, &n_a, &err), err);
    fixture_ok(mx_tokenizer_encode(b, text, strlen(text), true, &ids_b, &n_b, &err), err);
    assert_true(n_a == n_b && n_a > 10);
    assert_memory_equal(ids_a, ids_b, n_a * sizeof *ids_a);
    mx_ids_free(ids_a);
    mx_ids_free(ids_b);
    mx_tokenizer_close(a);
    mx_tokenizer_close(b);
}

static void test_real_checkpoint(void **state)
{
    (void)state;
    mx_error err = {0};
    char model[FIXTURE_PATH];
    real_model(model);
    const char *out = fixture_path("out");
    fixture_ok(fixture_quantize(model, out, (fixture_run){0}, NULL, &err), err);
    mx_checkpoint *source = fixture_open(model), *result = fixture_open(out);
    size_t n_packed = 0;
    for (size_t i = 0; i < mx_checkpoint_count(source); i++) {
        const char *name = mx_checkpoint_at(source, i)->name;
        if (mx_projection_is(name)) {
            check_packed(source, result, name);
            n_packed++;
        } else {
            assert_int_equal(check_kept(source, result, name), MX_DTYPE_F32);
        }
    }
    assert_int_equal(n_packed, 210);
    const mx_llama_config *a = mx_checkpoint_config(source), *b = mx_checkpoint_config(result);
    assert_true(a->hidden == b->hidden && a->layers == b->layers && a->heads == b->heads &&
                a->kv_heads == b->kv_heads && a->head_dim == b->head_dim && a->tied == b->tied &&
                a->vocab == b->vocab && a->norm_eps == b->norm_eps &&
                a->intermediate == b->intermediate && a->context == b->context &&
                a->rope.theta == b->rope.theta && a->bos_id == b->bos_id);
    mx_checkpoint_close(source);
    mx_checkpoint_close(result);
    check_tokenizer(model, out);
    fixture_remove(out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_real_checkpoint)};
    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
