/*
 * A quantized output head, tied or not, in every format: what lies on disk runs as
 * what was quantized in memory, rows of a tied embedding are the head's own codes
 * decoded, and what cannot be is refused.
 */
#define _GNU_SOURCE
#include "model/model_fixture.h"

#include "io/llama_layout.h"

#include <dirent.h>
#include <unistd.h>

/* Tied; tied with rows that are no whole number of blocks; separate heads. */
static const char *const models[] = {"llama_gqa", "llama_ragged", "llama_sharded", "llama_headdim"};

enum { N_TOKENS = 21 };

static char work_dir[64];

static int make_work_dir(void **state)
{
    (void)state;
    snprintf(work_dir, sizeof work_dir, "/tmp/mxlm-head-XXXXXX");
    return mkdtemp(work_dir) != NULL ? 0 : -1;
}

/* The output folder is flat. */
static void remove_output(const char *path)
{
    DIR *folder = opendir(path);
    assert_non_null(folder);
    for (const struct dirent *entry; (entry = readdir(folder)) != NULL;) {
        unlinkat(dirfd(folder), entry->d_name, 0);
    }
    closedir(folder);
    rmdir(path);
}

static int remove_work_dir(void **state)
{
    (void)state;
    return rmdir(work_dir);
}

/* mx_quantize_run with settings "key=value key=value" into a folder of work_dir. */
static mx_status quantize(const char *model, const char *settings, char *out, mx_error *err)
{
    mx_specs *specs;
    char text[256], *rest = text;
    snprintf(text, sizeof text, "%s", settings);
    snprintf(out, FIXTURE_PATH, "%s/out", work_dir);
    fixture_ok(mx_specs_create(&specs, err), *err);
    for (char *word; (word = strtok_r(rest, " ", &rest)) != NULL;) {
        char *value = strchr(word, '=');
        *value++ = '\0';
        fixture_ok(mx_specs_set(specs, word, value, err), *err);
    }
    mx_status status =
        mx_quantize_run(model, out, specs, &(mx_quantize_options){0}, (mx_watch){0}, NULL, err);
    mx_specs_free(specs);
    return status;
}

/* Logits of every token of one sequence; malloc'd [N_TOKENS][vocab]. */
static float *run(mx_model *model)
{
    int32_t ids[N_TOKENS];
    for (int i = 0; i < N_TOKENS; i++) {
        ids[i] = (int32_t)((uint32_t)(i * 37 + 5) % model->config.vocab);
    }
    float *logits = malloc((size_t)N_TOKENS * model->config.vocab * sizeof *logits);
    assert_non_null(logits);
    fixture_sequence(model, ids, N_TOKENS, N_TOKENS, logits);
    return logits;
}

static void assert_same_results(mx_model *a, mx_model *b, const char *what)
{
    float *x = run(a), *y = run(b);
    if (memcmp(x, y, (size_t)N_TOKENS * a->config.vocab * sizeof *x) != 0) {
        fail_msg("%s: logits differ", what);
    }
    free(x);
    free(y);
}

/* Every row of the embedding: encoded and decoded from the source's where the head
 * is tied, else the source's own. */
static void check_rows(const mx_model *model, const mx_model *source)
{
    size_t n = model->config.hidden;
    const mx_quant *quant = &model->specs.head;
    float got[1024], want[1024];
    uint8_t codes[1024], scales[256];
    assert_true(n <= 768);
    for (size_t row = 0; row < model->config.vocab; row++) {
        mx_matrix_row(&model->embedding, row, got);
        mx_matrix_row(&source->embedding, row, want);
        if (model->config.tied) {
            mx_row_encode(quant, want, n, row, codes, scales);
            mx_row_decode(quant, codes, scales, n, want);
        }
        assert_memory_equal(got, want, n * sizeof *got);
    }
}

/* In memory and from disk, panels or not, with the head in `format`. */
static void check_format(const char *golden, const char *format, const char *activations)
{
    mx_error err = {0};
    char path[FIXTURE_PATH], out[FIXTURE_PATH], settings[256], *text;
    fixture_golden(golden, path);
    snprintf(settings, sizeof settings, "weights=mxfp4_e2m1 activations=%s head=%s round=even",
             activations, format);
    mx_model *memory = fixture_open(path, 2, NULL), *source = fixture_open(path, 1, NULL);
    fixture_apply(memory, settings);
    fixture_ok(quantize(path, settings, out, &err), err);
    mx_model *disk = fixture_open(out, 2, NULL);
    fixture_ok(mx_specs_describe(&disk->specs, &text, &err), err);
    assert_non_null(strstr(text, format));
    mx_string_free(text);
    assert_same_results(memory, disk, settings);
    check_rows(memory, source);
    check_rows(disk, source);
    mx_quant head = memory->specs.head;
    const mx_matrix *matrix = mx_model_head(disk);
    bool exact =
        disk->backend.kernels.block_supported(&head, &disk->specs.activations, disk->config.hidden);
    assert_int_equal(matrix->kind, exact ? MX_MATRIX_PANELS : MX_MATRIX_CODES);
    assert_ptr_equal(matrix->weights.format, head.format);
    mx_model_size a, b;
    mx_model_measure(memory, &a);
    mx_model_measure(disk, &b);
    assert_true(a.total_bytes == b.total_bytes && a.total_bytes_fp32 == b.total_bytes_fp32);
    mx_model_close(memory);
    mx_model_close(disk);
    mx_model_close(source);
    remove_output(out);
}

static void every_format_is_read_back(void **state)
{
    (void)state;
    for (size_t m = 0; m < MX_COUNT(models); m++) {
        for (size_t f = 0; f < mx_format_count(); f++) {
            const mx_format *format = mx_format_at(f);
            if (format->kind != MX_KIND_PLAIN) {
                check_format(models[m], format->name, m % 2 == 0 ? "mxfp6_e2m3" : "fp32");
                check_format(models[m], format->name, "mxint8");
            }
        }
    }
}

/* A head given to weights that were quantized without one. */
static void head_beside_quantized_weights(void **state)
{
    (void)state;
    mx_error err = {0};
    char path[FIXTURE_PATH], out[FIXTURE_PATH];
    static const char weights[] = "weights=mxfp4_e2m1 activations=mxfp6_e2m3";
    for (size_t m = 0; m < MX_COUNT(models); m++) {
        fixture_golden(models[m], path);
        fixture_ok(quantize(path, weights, out, &err), err);
        mx_model *disk = fixture_open(out, 1, NULL), *memory = fixture_open(path, 1, NULL);
        fixture_apply(disk, "head=mxint8");
        fixture_apply(memory, "weights=mxfp4_e2m1 activations=mxfp6_e2m3 head=mxint8");
        assert_same_results(disk, memory, models[m]);
        mx_model_close(disk);
        mx_model_close(memory);
        remove_output(out);
    }
}

static void impossible_heads_are_refused(void **state)
{
    (void)state;
    mx_error err = {0};
    char path[FIXTURE_PATH], out[FIXTURE_PATH];
    fixture_golden("llama_gqa", path);
    assert_int_equal(quantize(path, "weights=bf16 head=mxfp4_e2m1", out, &err), MX_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "head"));
    fixture_ok(quantize(path, "weights=mxfp4_e2m1 head=mxfp4_e2m1", out, &err), err);
    mx_model *model = fixture_open(out, 1, NULL);
    mx_specs *specs;
    fixture_ok(mx_specs_create(&specs, &err), err);
    fixture_ok(mx_specs_set(specs, "head", "mxint8", &err), err);
    assert_int_equal(mx_model_apply(model, specs, (mx_watch){0}, &err), MX_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "holds a quantized head already"));
    mx_specs_free(specs);
    mx_model_close(model);
    remove_output(out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_format_is_read_back),
        cmocka_unit_test(head_beside_quantized_weights),
        cmocka_unit_test(impossible_heads_are_refused),
    };
    return cmocka_run_group_tests(tests, make_work_dir, remove_work_dir);
}
