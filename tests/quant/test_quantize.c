/*
 * mx_quantize_run on the tiny checkpoints of tests/golden: what lies in the
 * directory, bit by bit, what is refused, and what a failure leaves.
 */
#define _GNU_SOURCE
#include "quant/quant_fixture.h"

#include "io/safetensors.h"

#include <sys/resource.h>
#include <signal.h>
#include <sys/wait.h>

static const char *const models[] = {
    "llama_gqa",                     /* tied, grouped queries */
    "llama_bias",                    /* biases */
    "llama_headdim", "llama_ragged", /* K not a multiple of 32 */
    "llama_sharded",                 /* several files, a separate head */
    "llama_long",                    /* F32 */
};

static const char *const formats[] = {
    FIXTURE_W4A6,
    "weights=fp4_e2m1 block=16 scale_rule=even",
    "weights=fp6_e2m3 activations=fp6_e2m3 scale_rule=rceil round=even",
    "weights=fp6_e3m2 block=axis",
    "weights=fp8_e4m3 activations=fp8_e5m2 block=8",
    "weights=fp8_e5m2 round=floor",
    "weights=int8 activations=int8 scale_rule=ceil",
    "weights=int4 round=dither seed=77",
    FIXTURE_W4A6 " head=mxfp4_e2m1",
    "weights=fp4_e2m1 head=fp8_e4m3 scale_rule=rceil block=16",
    "weights=int8 activations=int8 head=int8 block=axis",
    "weights=fp6_e2m3 head=fp6_e3m2 round=dither seed=5",
    "weights=int2",
};

/* Codes and scales of `name` equal mx_row_encode of the source's rows. */
static void check_packed(const mx_checkpoint *source, const mx_checkpoint *out, const char *name,
                         const mx_quant *quant)
{
    mx_rows from = fixture_rows(source, name);
    mx_rows codes = fixture_rows(out, name);
    char scale_name[256];
    snprintf(scale_name, sizeof scale_name, "%s_scale", name);
    mx_rows scales = fixture_rows(out, scale_name);
    size_t code_bytes = mx_row_code_bytes(quant, from.n_cols);
    size_t n_scales = mx_row_scale_count(quant, from.n_cols);
    assert_int_equal(codes.tensor->dtype, MX_DTYPE_U8);
    assert_int_equal(scales.tensor->dtype, MX_DTYPE_U8);
    assert_true(codes.n_rows == from.n_rows && codes.row_bytes == code_bytes);
    assert_true(scales.n_rows == from.n_rows && scales.row_bytes == n_scales);
    uint8_t *row_codes = malloc(code_bytes), *row_scales = malloc(n_scales);
    for (uint64_t r = 0; r < from.n_rows; r++) {
        float *x = fixture_row(&from, r);
        mx_row_encode(quant, x, from.n_cols, r, row_codes, row_scales);
        assert_memory_equal(mx_rows_at(&codes, r), row_codes, code_bytes);
        assert_memory_equal(mx_rows_at(&scales, r), row_scales, n_scales);
        free(x);
    }
    free(row_codes);
    free(row_scales);
}

/* A tensor that is kept has the source's values; a plain type is kept too. */
static void check_kept(const mx_checkpoint *source, const mx_checkpoint *out, const char *name)
{
    mx_rows from = fixture_rows(source, name), to = fixture_rows(out, name);
    assert_true(from.n_rows == to.n_rows && from.n_cols == to.n_cols);
    if (mx_dtype_get(from.tensor->dtype)->block == 1) {
        assert_int_equal(from.tensor->dtype, to.tensor->dtype);
    }
    assert_true(mx_dtype_get(to.tensor->dtype)->block == 1);
    assert_int_equal(to.permuted_head_dim, 0);
    for (uint64_t r = 0; r < from.n_rows; r++) {
        float *x = fixture_row(&from, r), *y = fixture_row(&to, r);
        assert_memory_equal(x, y, from.n_cols * sizeof *x);
        free(x);
        free(y);
    }
}

/* Every tensor of the source is in `out`, packed or kept. Returns the packed. */
static size_t check_directory(const char *model, const char *dir)
{
    mx_checkpoint *source = fixture_open(model), *out = fixture_open(dir);
    size_t packed = 0;
    for (size_t i = 0; i < mx_checkpoint_count(source); i++) {
        const char *name = mx_checkpoint_at(source, i)->name;
        const mx_specs *specs = mx_checkpoint_specs(out);
        const mx_quant *quant = NULL;
        if (mx_projection_is(name)) {
            char module[256];
            snprintf(module, sizeof module, "%.*s", (int)(strlen(name) - 7), name);
            quant = mx_specs_excludes(specs, module) ? NULL : &specs->weights;
        } else if (specs->head.format != NULL) {
            bool tied = mx_checkpoint_config(source)->tied;
            const char *head = tied ? "model.embed_tokens.weight" : "lm_head.weight";
            quant = strcmp(name, head) == 0 ? &specs->head : NULL;
        }
        if (quant != NULL) {
            check_packed(source, out, name, quant);
            packed++;
        } else {
            check_kept(source, out, name);
        }
    }
    assert_int_equal(mx_checkpoint_count(out), mx_checkpoint_count(source) + packed);
    mx_checkpoint_close(source);
    mx_checkpoint_close(out);
    return packed;
}

static void test_directories(void **state)
{
    (void)state;
    mx_error err = {0};
    for (size_t m = 0; m < MX_COUNT(models); m++) {
        for (size_t f = 0; f < MX_COUNT(formats); f++) {
            char model[FIXTURE_PATH];
            const char *out = fixture_path("out");
            char *summary;
            fixture_golden(models[m], model);
            fixture_ok(
                fixture_quantize(model, out, (fixture_run){.settings = formats[f]}, &summary, &err),
                err);
            assert_true(strstr(summary, "SQNR") != NULL && strstr(summary, out) != NULL);
            bool head = strstr(formats[f], "head=") != NULL;
            assert_true((strstr(summary, "\n  head  ") != NULL) == head);
            free(summary);
            size_t packed = check_directory(model, out);
            assert_int_equal(packed % 7, head ? 1 : 0);
            assert_true(packed >= 7);
            assert_false(mx_path_is_dir(fixture_path("out.partial")));
            fixture_remove(out);
        }
    }
}

/* tests/golden/tiny_llama.gguf with the name of a metadata key changed, so that it
 * has no tokenizer: the real one's is tested on the real checkpoint. */
static const char *gguf_without_tokenizer(void)
{
    mx_error err = {0};
    char path[FIXTURE_PATH], *bytes;
    size_t size;
    static const char key[] = "tokenizer.ggml.model";
    fixture_golden("tiny_llama.gguf", path);
    fixture_ok(mx_file_read(path, 1 << 20, &bytes, &size, &err), err);
    char *at = memmem(bytes, size, key, strlen(key));
    assert_non_null(at);
    at[strlen(key) - 1] = '_';
    const char *out = fixture_path("tiny.gguf");
    fixture_ok(mx_file_write(out, bytes, size, &err), err);
    free(bytes);
    return out;
}

/* Block types expand without loss, q and k rows and biases leave GGUF's order. */
static void test_gguf(void **state)
{
    (void)state;
    mx_error err = {0};
    const char *model = gguf_without_tokenizer(), *out = fixture_path("out");
    static const char *const settings[] = {FIXTURE_W4A6, FIXTURE_W4A6 " exclude=*_proj",
                                           "weights=fp8_e4m3 exclude=q_proj exclude=k_proj"};
    for (size_t s = 0; s < MX_COUNT(settings); s++) {
        fixture_ok(fixture_quantize(model, out, (fixture_run){.settings = settings[s]}, NULL, &err),
                   err);
        size_t packed = check_directory(model, out);
        assert_int_equal(packed, s == 0 ? 7 : s == 1 ? 0 : 5);
        fixture_remove(out);
    }
    unlink(model);
}

static void test_excludes(void **state)
{
    (void)state;
    mx_error err = {0};
    char model[FIXTURE_PATH], *summary;
    const char *out = fixture_path("out");
    fixture_golden("llama_bias", model);
    fixture_run run = {.settings =
                           FIXTURE_W4A6 " exclude=down_proj exclude=model.layers.1.self_attn.*"};
    fixture_ok(fixture_quantize(model, out, run, &summary, &err), err);
    assert_non_null(strstr(summary, "6 more excluded"));
    free(summary);
    assert_int_equal(check_directory(model, out), 14 - 6);
    mx_checkpoint *checkpoint = fixture_open(out);
    json_t *quantization =
        json_object_get(mx_checkpoint_config_json(checkpoint), "quantization_config");
    assert_int_equal(json_array_size(json_object_get(quantization, "exclude")), 1 + 6);
    mx_checkpoint_close(checkpoint);
    fixture_remove(out);
}

/* Keys of the source's config.json that mxlm knows nothing of are preserved. */
static void test_config_keys(void **state)
{
    (void)state;
    mx_error err = {0};
    char model[FIXTURE_PATH];
    const char *out = fixture_path("out");
    fixture_golden("llama_gqa", model);
    fixture_ok(fixture_quantize(model, out, (fixture_run){0}, NULL, &err), err);
    mx_checkpoint *a = fixture_open(model), *b = fixture_open(out);
    const json_t *before = mx_checkpoint_config_json(a);
    json_t *after = json_deep_copy(mx_checkpoint_config_json(b));
    json_t *quantization = json_object_get(after, "quantization_config");
    json_t *mxlm = json_object_get(quantization, "mxlm");
    assert_string_equal(json_string_value(json_object_get(quantization, "quant_method")), "quark");
    assert_string_equal(json_string_value(json_object_get(mxlm, "method")), "rtn");
    json_object_del(after, "quantization_config");
    assert_true(json_equal(before, after));
    json_decref(after);
    mx_checkpoint_close(a);
    mx_checkpoint_close(b);
    fixture_remove(out);
}

static void write_text(const char *dir, const char *name, const char *text)
{
    mx_error err = {0};
    char *path = mx_path_join(dir, name);
    fixture_ok(mx_file_write(path, text, strlen(text), &err), err);
    free(path);
}

static void test_tokenizer_files_are_copied(void **state)
{
    (void)state;
    mx_error err = {0};
    static const char *const names[] = {"tokenizer.json", "tokenizer_config.json",
                                        "special_tokens_map.json", "generation_config.json",
                                        "chat_template.jinja"};
    const char *model = fixture_copy_model("llama_gqa", "model"), *out = fixture_path("out");
    for (size_t i = 0; i < MX_COUNT(names); i++) {
        write_text(model, names[i], names[i]); /* bytes, not meaning, are copied */
    }
    write_text(model, "notes.txt", "not copied");
    fixture_ok(fixture_quantize(model, out, (fixture_run){0}, NULL, &err), err);
    for (size_t i = 0; i < MX_COUNT(names); i++) {
        char *text, *path = mx_path_join(out, names[i]);
        size_t size;
        fixture_ok(mx_file_read(path, 1000, &text, &size, &err), err);
        assert_string_equal(text, names[i]);
        free(text);
        free(path);
    }
    assert_int_equal(fixture_count(out), MX_COUNT(names) + 2);
    fixture_remove(model);
    fixture_remove(out);
}

/* PLAIN weights make an ordinary checkpoint, and leave no trace of quantization. */
static void test_plain_weights(void **state)
{
    (void)state;
    static const struct {
        const char *format;
        mx_dtype dtype;
    } plain[] = {{"bf16", MX_DTYPE_BF16}, {"fp16", MX_DTYPE_F16}};
    mx_error err = {0};
    char model[FIXTURE_PATH], settings[64];
    const char *out = fixture_path("out");
    fixture_golden("llama_long", model);
    for (size_t i = 0; i < MX_COUNT(plain); i++) {
        snprintf(settings, sizeof settings, "round=even weights=%s", plain[i].format);
        fixture_ok(fixture_quantize(model, out, (fixture_run){.settings = settings}, NULL, &err),
                   err);
        mx_checkpoint *a = fixture_open(model), *b = fixture_open(out);
        assert_null(mx_checkpoint_specs(b));
        assert_int_equal(mx_checkpoint_count(a), mx_checkpoint_count(b));
        for (size_t t = 0; t < mx_checkpoint_count(a); t++) {
            const mx_tensor *tensor = mx_checkpoint_at(a, t);
            if (!mx_projection_is(tensor->name)) {
                check_kept(a, b, tensor->name);
                continue;
            }
            mx_rows from = fixture_rows(a, tensor->name), to = fixture_rows(b, tensor->name);
            assert_int_equal(to.tensor->dtype, plain[i].dtype);
            for (uint64_t r = 0; r < from.n_rows; r++) {
                float *x = fixture_row(&from, r), *y = fixture_row(&to, r);
                for (uint64_t c = 0; c < from.n_cols; c++) {
                    float expected = plain[i].dtype == MX_DTYPE_F16
                                         ? mx_f16_to_f32(mx_f32_to_f16(x[c]))
                                         : mx_bf16_to_f32(mx_f32_to_bf16(x[c]));
                    assert_true(expected == y[c]);
                }
                free(x);
                free(y);
            }
        }
        mx_checkpoint_close(a);
        mx_checkpoint_close(b);
        fixture_remove(out);
    }
}

/* A head that a tied model carries along is left out. */
static void test_tied_head(void **state)
{
    (void)state;
    mx_error err = {0};
    char golden[FIXTURE_PATH];
    fixture_golden("llama_gqa", golden);
    const char *model = fixture_path("model"), *out = fixture_path("out");
    fixture_ok(mx_path_make_dirs(model, &err), err);
    mx_checkpoint *source = fixture_open(golden);
    size_t n = mx_checkpoint_count(source);
    mx_tensor_plan *plans = calloc(n + 1, sizeof *plans);
    const mx_tensor *embedding = mx_checkpoint_find(source, "model.embed_tokens.weight");
    for (size_t i = 0; i <= n; i++) {
        const mx_tensor *tensor = i < n ? mx_checkpoint_at(source, i) : embedding;
        plans[i] = (mx_tensor_plan){.name = i < n ? tensor->name : "lm_head.weight",
                                    .dtype = tensor->dtype,
                                    .n_dims = tensor->n_dims};
        memcpy(plans[i].shape, tensor->shape, sizeof plans[i].shape);
    }
    mx_safetensors_writer *writer;
    char *path = mx_path_join(model, "model.safetensors");
    fixture_ok(mx_safetensors_create(path, plans, n + 1, NULL, 0, &writer, &err), err);
    for (size_t i = 0; i <= n; i++) {
        const mx_tensor *tensor = i < n ? mx_checkpoint_at(source, i) : embedding;
        fixture_ok(mx_safetensors_write(writer, tensor->data, tensor->size, &err), err);
    }
    fixture_ok(mx_safetensors_finish(writer, &err), err);
    char *config = mx_path_join(golden, "config.json"), *text;
    size_t size;
    fixture_ok(mx_file_read(config, 10000, &text, &size, &err), err);
    write_text(model, "config.json", text);
    fixture_ok(fixture_quantize(model, out, (fixture_run){0}, NULL, &err), err);
    mx_checkpoint *result = fixture_open(out);
    assert_null(mx_checkpoint_find(result, "lm_head.weight"));
    assert_int_equal(mx_checkpoint_count(result), n + 7);
    mx_checkpoint_close(result);
    mx_checkpoint_close(source);
    free(plans);
    free(path);
    free(config);
    free(text);
    fixture_remove(model);
    fixture_remove(out);
}

/* The same bytes for any number of threads, and for shards tensor by tensor. */
static void test_threads_and_shards(void **state)
{
    (void)state;
    mx_error err = {0};
    char model[FIXTURE_PATH];
    fixture_golden("llama_bias", model);
    const char *one = fixture_path("one"), *many = fixture_path("many");
    static const uint64_t shard_bytes[] = {0, 1, 5000, 10000};
    for (size_t s = 0; s < MX_COUNT(shard_bytes); s++) {
        fixture_run run = {.shard_bytes = shard_bytes[s], .options.threads = 1};
        fixture_ok(fixture_quantize(model, one, run, NULL, &err), err);
        for (int threads = 2; threads <= 4; threads += 2) {
            run.options.threads = threads;
            fixture_ok(fixture_quantize(model, many, run, NULL, &err), err);
            fixture_same_folders(one, many);
            fixture_remove(many);
        }
        assert_int_equal(check_directory(model, one), 14);
        char *index = mx_path_join(one, "model.safetensors.index.json");
        assert_int_equal(mx_path_is_file(index), s > 0);
        free(index);
        fixture_remove(one);
    }
}

/* Every tensor starts at a multiple of its element size: torch views the bytes. */
static void test_alignment(void **state)
{
    (void)state;
    mx_error err = {0};
    char model[FIXTURE_PATH];
    fixture_golden("llama_ragged", model);
    const char *out = fixture_path("out");
    fixture_ok(fixture_quantize(model, out, (fixture_run){.settings = "weights=int2"}, NULL, &err),
               err);
    char *path = mx_path_join(out, "model.safetensors");
    mx_safetensors *reader;
    fixture_ok(mx_safetensors_open(path, &reader, &err), err);
    assert_string_equal(mx_safetensors_metadata(reader, "format"), "pt");
    for (size_t i = 0; i < mx_safetensors_count(reader); i++) {
        const mx_tensor *tensor = mx_safetensors_at(reader, i);
        assert_int_equal(tensor->offset % mx_dtype_get(tensor->dtype)->block_bytes, 0);
    }
    mx_safetensors_close(reader);
    free(path);
    fixture_remove(out);
}

/* ---- what is refused ----------------------------------------------------------- */

static void test_requests_refused(void **state)
{
    (void)state;
    mx_error err = {0};
    char model[FIXTURE_PATH];
    fixture_golden("llama_gqa", model);
    const char *out = fixture_path("out"), *again = fixture_path("again");
    fixture_fails(fixture_quantize(model, out, (fixture_run){.settings = "block=32"}, NULL, &err),
                  MX_ERR_ARGUMENT, "weights: unquantized", err);
    fixture_run mixed = {.settings = "weights=bf16 activations=fp6_e2m3"};
    fixture_fails(fixture_quantize(model, out, mixed, NULL, &err), MX_ERR_ARGUMENT, "activations",
                  err);
    fixture_fails(fixture_quantize(fixture_path("nothing"), out, (fixture_run){0}, NULL, &err),
                  MX_ERR_IO, "nothing", err);
    fixture_fails(fixture_quantize(model, "", (fixture_run){0}, NULL, &err), MX_ERR_ARGUMENT,
                  "no name", err);
    fixture_ok(fixture_quantize(model, out, (fixture_run){0}, NULL, &err), err);
    fixture_fails(fixture_quantize(out, again, (fixture_run){0}, NULL, &err), MX_ERR_ARGUMENT,
                  "already quantized", err);
    assert_false(mx_path_is_dir(again));
    fixture_remove(out);
    assert_int_equal(fixture_count(fixture_dir), 0);
}

static void test_overwriting(void **state)
{
    (void)state;
    mx_error err = {0};
    const char *model = fixture_copy_model("llama_gqa", "model"), *out = fixture_path("out");
    const char *fresh = fixture_path("fresh");
    fixture_run overwrite = {.options.overwrite = true}, resume = {.options.resume = true};
    fixture_run other = {.settings = "weights=int8", .shard_bytes = 1};
    assert_int_equal(mkdir(out, 0777), 0); /* an empty folder may become the output */
    fixture_ok(fixture_quantize(model, out, other, NULL, &err), err);
    fixture_fails(fixture_quantize(model, out, (fixture_run){0}, NULL, &err), MX_ERR_ARGUMENT,
                  "already exists", err);
    fixture_fails(fixture_quantize(model, out, resume, NULL, &err), MX_ERR_ARGUMENT,
                  "already exists", err);
    fixture_ok(fixture_quantize(model, out, overwrite, NULL, &err), err);
    fixture_ok(fixture_quantize(model, fresh, (fixture_run){0}, NULL, &err), err);
    fixture_same_folders(out, fresh); /* no shard of the old one is left */

    /* The source itself, and a folder that holds it. */
    fixture_fails(fixture_quantize(model, model, overwrite, NULL, &err), MX_ERR_ARGUMENT,
                  "would replace the model", err);
    fixture_fails(fixture_quantize(model, fixture_dir, overwrite, NULL, &err), MX_ERR_ARGUMENT,
                  "would replace the model", err);
    /* Folders that are no models are never emptied. */
    char *below = mx_path_join(out, "precious");
    assert_int_equal(mkdir(below, 0777), 0);
    fixture_fails(fixture_quantize(model, out, overwrite, NULL, &err), MX_ERR_ARGUMENT,
                  "not a model directory", err);
    assert_true(mx_path_is_dir(below));
    rmdir(below);
    char *config = mx_path_join(out, "config.json");
    unlink(config);
    fixture_fails(fixture_quantize(model, out, overwrite, NULL, &err), MX_ERR_ARGUMENT,
                  "not a model directory", err);
    /* Neither is a folder of that name followed by .partial that is not ours. */
    const char *partial = fixture_path("new.partial"), *new_out = fixture_path("new");
    assert_int_equal(mkdir(partial, 0777), 0);
    write_text(partial, "thesis.tex", "all of it");
    fixture_fails(fixture_quantize(model, new_out, overwrite, NULL, &err), MX_ERR_ARGUMENT,
                  "not an interrupted run", err);
    assert_int_equal(fixture_count(partial), 1);
    free(below);
    free(config);
    fixture_remove(partial);
    fixture_remove(out);
    fixture_remove(fresh);
    fixture_remove(model);
    assert_int_equal(fixture_count(fixture_dir), 0);
}

static void test_unwritable(void **state)
{
    (void)state;
    mx_error err = {0};
    char model[FIXTURE_PATH];
    fixture_golden("llama_gqa", model);
    write_text(fixture_dir, "file", "in the way");
    const char *below_file = fixture_path("file/out"), *file = fixture_path("file");
    fixture_fails(fixture_quantize(model, below_file, (fixture_run){0}, NULL, &err), MX_ERR_IO,
                  "file", err);
    fixture_fails(fixture_quantize(model, file, (fixture_run){0}, NULL, &err), MX_ERR_ARGUMENT,
                  "not a folder", err);
    fixture_fails(fixture_quantize(model, "/proc/mxlm/out", (fixture_run){0}, NULL, &err),
                  MX_ERR_IO, "/proc/mxlm", err);
    unlink(file);
    assert_int_equal(fixture_count(fixture_dir), 0);
}

/* A NaN in the last projection: named, and nothing is left behind. */
static void test_nan_weight(void **state)
{
    (void)state;
    mx_error err = {0};
    const char *model = fixture_copy_model("llama_gqa", "model"), *out = fixture_path("out");
    const char *name = "model.layers.0.self_attn.v_proj.weight";
    fixture_patch(model, name, 3, 5, "\xC0\x7F");
    static const char *const methods[] = {"rtn", "search", "gptq", "blockwise"};
    for (size_t i = 0; i < MX_COUNT(methods); i++) {
        const mx_quantize_options options = {
            .method = methods[i], .calib_samples = 2, .calib_length = 8, .overwrite = true};
        fixture_fails(fixture_quantize(model, out, (fixture_run){.options = options}, NULL, &err),
                      MX_ERR_FORMAT,
                      "model.layers.0.self_attn.v_proj.weight: row 3, column 5 is NaN", err);
    }
    fixture_remove(model);
    assert_int_equal(fixture_count(fixture_dir), 0);
}

/* Files may not grow beyond `limit` in the child, as on a full disk. Returns the
 * child's status and leaves its message in `text`. */
static int run_with_file_limit(const char *model, const char *out, rlim_t limit, char text[512])
{
    int channel[2], exit_status;
    assert_int_equal(pipe(channel), 0);
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        mx_error err = {0};
        struct rlimit limits = {limit, limit};
        signal(SIGXFSZ, SIG_IGN);
        setrlimit(RLIMIT_FSIZE, &limits);
        fixture_run run = {.options.threads = 1, .options.resume = true};
        mx_status status = fixture_quantize(model, out, run, NULL, &err);
        ssize_t n = write(channel[1], err.text, sizeof err.text);
        _exit(n == sizeof err.text ? (int)status : 255);
    }
    assert_int_equal(read(channel[0], text, 512), 512);
    assert_int_equal(waitpid(child, &exit_status, 0), child);
    close(channel[0]);
    close(channel[1]);
    return WEXITSTATUS(exit_status);
}

static void test_full_disk(void **state)
{
    (void)state;
    mx_error err = {0};
    char model[FIXTURE_PATH], text[512];
    fixture_golden("llama_gqa", model);
    const char *out = fixture_path("out"), *partial = fixture_path("out.partial");
    const char *whole = fixture_path("whole");
    fixture_ok(fixture_quantize(model, whole, (fixture_run){0}, NULL, &err), err);
    for (rlim_t limit = 0; limit < 40000; limit += 1500) {
        int status = run_with_file_limit(model, out, limit, text);
        if (status == MX_OK) {
            fixture_same_folders(whole, out);
            fixture_remove(out);
            continue;
        }
        assert_int_equal(status, MX_ERR_IO);
        assert_non_null(strstr(text, "out.partial/"));
        assert_false(mx_path_is_dir(out));
        fixture_remove(partial);
    }
    assert_int_equal(run_with_file_limit(model, out, 100000, text), MX_OK);
    fixture_remove(out);
    fixture_remove(whole);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_directories),
        cmocka_unit_test(test_gguf),
        cmocka_unit_test(test_excludes),
        cmocka_unit_test(test_config_keys),
        cmocka_unit_test(test_tokenizer_files_are_copied),
        cmocka_unit_test(test_plain_weights),
        cmocka_unit_test(test_tied_head),
        cmocka_unit_test(test_threads_and_shards),
        cmocka_unit_test(test_alignment),
        cmocka_unit_test(test_requests_refused),
        cmocka_unit_test(test_overwriting),
        cmocka_unit_test(test_unwritable),
        cmocka_unit_test(test_nan_weight),
        cmocka_unit_test(test_full_disk),
    };
    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
