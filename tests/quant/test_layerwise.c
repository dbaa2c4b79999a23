/*
 * Whole runs with calibration: the same bytes for any threads and after any
 * interruption, what the checkpoint says of them, and texts that do not do.
 */
#include "quant/quant_fixture.h"

#include "base/clock.h"
#include "base/json.h"
#include "base/rng.h"
#include "quant/calibration.h"
#include "quant/spill.h"

#include <math.h>
#include <signal.h>
#include <sys/wait.h>

static char model[FIXTURE_PATH];

static void write_text(const char *path, const char *words, int times)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    for (int i = 0; i < times; i++) {
        fprintf(file, "%s %d\n", words, i);
    }
    assert_int_equal(fclose(file), 0);
}

static const char *calib_text(void)
{
    const char *path = fixture_path("calib.txt");
    write_text(path, "the cat sat on a mat and the dog ran", 60);
    return path;
}

static float correct; /* of the runs below; search takes none */

static fixture_run make_run(const char *method, const char *calib, int threads)
{
    return (fixture_run){.options = {.method = method,
                                     .calib_path = calib,
                                     .calib_samples = 6,
                                     .calib_length = 16,
                                     .iterations = 4,
                                     .correct = correct,
                                     .seed = 7,
                                     .threads = threads}};
}

static void check_threads(const char *method, const char *calib)
{
    mx_error err = {0};
    const char *one = fixture_path("one"), *three = fixture_path("three");
    char *summary;
    fixture_ok(fixture_quantize(model, one, make_run(method, calib, 1), &summary, &err), err);
    assert_non_null(strstr(summary, "calibrated on 6 windows of 16 tokens"));
    assert_true((strstr(summary, "sampled from the model") != NULL) == (calib == NULL));
    free(summary);
    fixture_ok(fixture_quantize(model, three, make_run(method, calib, 3), NULL, &err), err);
    fixture_same_folders(one, three);
    mx_checkpoint *checkpoint = fixture_open(one);
    assert_string_equal(mx_checkpoint_method(checkpoint), method);
    mx_checkpoint_close(checkpoint);
    fixture_remove(one);
    fixture_remove(three);
}

static void test_threads(void **state)
{
    (void)state;
    check_threads("search", calib_text());
    check_threads("gptq", calib_text());
    check_threads("gptq", NULL);
    check_threads("blockwise", calib_text());
    correct = 0.5F;
    check_threads("gptq", calib_text());
    check_threads("blockwise", calib_text());
    correct = 0;
}

/* The record of the method in a checkpoint's contract; new reference. */
static json_t *read_record(const char *out)
{
    mx_error err = {0};
    char *path = mx_path_join(out, "config.json");
    json_t *config;
    fixture_ok(mx_json_load(path, (size_t)1 << 20, &config, &err), err);
    const json_t *mxlm = json_object_get(json_object_get(config, "quantization_config"), "mxlm");
    json_t *method = json_incref(json_object_get(mxlm, "method"));
    json_decref(config);
    free(path);
    return method;
}

/* The methods record their settings. */
static void test_record(void **state)
{
    (void)state;
    mx_error err = {0};
    const char *out = fixture_path("record");
    fixture_run run = make_run("gptq", calib_text(), 1);
    run.options.damp = 0.25F;
    run.options.correct = 0.75F;
    fixture_ok(fixture_quantize(model, out, run, NULL, &err), err);
    json_t *method = read_record(out);
    assert_string_equal(json_string_value(json_object_get(method, "name")), "gptq");
    assert_string_equal(json_string_value(json_object_get(method, "calibration")), "calib.txt");
    assert_int_equal(json_integer_value(json_object_get(method, "samples")), 6);
    assert_int_equal(json_integer_value(json_object_get(method, "length")), 16);
    assert_int_equal(json_integer_value(json_object_get(method, "seed")), 7);
    assert_true(json_number_value(json_object_get(method, "damp")) == 0.25);
    assert_true(json_number_value(json_object_get(method, "correct")) == 0.75);
    json_decref(method);
    fixture_remove(out);
}

/* ---- interruptions --------------------------------------------------------------- */

typedef struct stop {
    int calls, at;
    bool die;
} stop;

static bool stop_watch(void *ctx, const mx_progress *progress)
{
    stop *s = ctx;
    assert_true(progress->done <= progress->total && progress->work_done <= progress->work_total);
    if (s->calls++ != s->at) {
        return true;
    }
    if (s->die) {
        raise(SIGKILL);
    }
    return false;
}

static mx_status run_stopped(const char *method, const char *out, stop *s, bool resume,
                             mx_error *err)
{
    fixture_run run = make_run(method, fixture_path("calib.txt"), 1);
    run.options.resume = resume;
    run.watch = (mx_watch){stop_watch, s};
    return fixture_quantize(model, out, run, NULL, err);
}

static void check_resume(const char *method)
{
    mx_error err = {0};
    stop never = {.at = -1};
    const char *whole = fixture_path("whole"), *out = fixture_path("out");
    calib_text();
    fixture_ok(run_stopped(method, whole, &never, false, &err), err);
    assert_true(never.calls > 20);
    for (int at = 1; at < never.calls; at += 3) {
        stop s = {.at = at};
        assert_int_equal(run_stopped(method, out, &s, true, &err), MX_ERR_CANCELLED);
        stop go = {.at = -1};
        fixture_ok(run_stopped(method, out, &go, true, &err), err);
        fixture_same_folders(whole, out);
        fixture_remove(out);
    }
    fixture_remove(whole);
}

static void test_resume(void **state)
{
    (void)state;
    check_resume("gptq");
    check_resume("blockwise");
    correct = 0.5F;
    check_resume("gptq");
    check_resume("blockwise");
    correct = 0;
}

static void check_killed(const char *method)
{
    mx_error err = {0};
    stop never = {.at = -1};
    const char *whole = fixture_path("whole"), *out = fixture_path("out");
    calib_text();
    fixture_ok(run_stopped(method, whole, &never, false, &err), err);
    for (int at = never.calls / 2; at < never.calls; at += never.calls / 4) {
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            stop s = {.at = at, .die = true};
            run_stopped(method, out, &s, false, NULL);
            _exit(1);
        }
        int how = 0;
        assert_int_equal(waitpid(child, &how, 0), child);
        assert_true(WIFSIGNALED(how) && WTERMSIG(how) == SIGKILL);
        stop go = {.at = -1};
        fixture_ok(run_stopped(method, out, &go, true, &err), err);
        fixture_same_folders(whole, out);
        fixture_remove(out);
    }
    fixture_remove(whole);
}

static void test_killed(void **state)
{
    (void)state;
    check_killed("gptq");
    check_killed("blockwise");
}

/* Wherever the clock finds it, with two threads, and continued with one. */
static void check_killed_any_time(const char *method)
{
    mx_error err = {0};
    const char *whole = fixture_path("whole"), *out = fixture_path("out");
    double start = mx_clock_seconds();
    fixture_ok(fixture_quantize(model, whole, make_run(method, calib_text(), 2), NULL, &err), err);
    double seconds = mx_clock_seconds() - start;
    uint64_t seed = (uint64_t)(start * 1e9);
    int n_killed = 0;
    for (uint32_t i = 0; i < 12; i++) {
        double share = ldexp((double)mx_philox_u32(seed, 0, i), -32);
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            fixture_quantize(model, out, make_run(method, fixture_path("calib.txt"), 2), NULL,
                             NULL);
            _exit(0);
        }
        usleep((useconds_t)(share * seconds * 1e6));
        kill(child, SIGKILL);
        int how = 0;
        assert_int_equal(waitpid(child, &how, 0), child);
        n_killed += WIFSIGNALED(how);
        fixture_run run = make_run(method, fixture_path("calib.txt"), 1);
        run.options.resume = true;
        run.options.overwrite = access(out, F_OK) == 0; /* it had finished */
        fixture_ok(fixture_quantize(model, out, run, NULL, &err), err);
        fixture_same_folders(whole, out);
        fixture_remove(out);
    }
    assert_true(n_killed > 0);
    fixture_remove(whole);
}

static void test_killed_any_time(void **state)
{
    (void)state;
    check_killed_any_time("gptq");
    check_killed_any_time("blockwise");
}

/* Another seed takes other windows, so that other codes come out. */
static void test_seed(void **state)
{
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        mx_error err = {0};
        static const char *const names[] = {"seven", "eight"};
        char *bytes[2];
        size_t size[2];
        for (size_t j = 0; j < 2; j++) {
            fixture_run run = make_run(i == 0 ? "search" : "gptq", calib_text(), 1);
            run.options.seed += j;
            const char *out = fixture_path(names[j]);
            fixture_ok(fixture_quantize(model, out, run, NULL, &err), err);
            char *path = mx_path_join(out, "model.safetensors");
            fixture_ok(mx_file_read(path, 1 << 20, &bytes[j], &size[j], &err), err);
            free(path);
            fixture_remove(out);
        }
        assert_int_equal(size[0], size[1]);
        assert_true(memcmp(bytes[0], bytes[1], size[0]) != 0);
        free(bytes[0]);
        free(bytes[1]);
    }
}

/* ---- texts ------------------------------------------------------------------------ */

static const char *const calibrated[] = {"search", "gptq", "blockwise"};

/* A run on the text of `words` fails so, and leaves nothing. */
static void check_refused_text(const char *method, const char *words, mx_status wanted,
                               const char *message)
{
    mx_error err = {0};
    const char *path = fixture_path("text.txt"), *out = fixture_path("none");
    fixture_ok(mx_file_write(path, words, strlen(words), &err), err);
    size_t n_files = fixture_count(fixture_dir);
    fixture_fails(fixture_quantize(model, out, make_run(method, path, 1), NULL, &err), wanted,
                  message, err);
    assert_int_equal(fixture_count(fixture_dir), n_files);
}

static void check_refused(fixture_run run, mx_status wanted, const char *message)
{
    mx_error err = {0};
    size_t n_files = fixture_count(fixture_dir);
    fixture_fails(fixture_quantize(model, fixture_path("none"), run, NULL, &err), wanted, message,
                  err);
    assert_int_equal(fixture_count(fixture_dir), n_files);
}

static void test_texts(void **state)
{
    (void)state;
    for (size_t i = 0; i < MX_COUNT(calibrated); i++) {
        const char *method = calibrated[i];
        check_refused_text(method, "", MX_ERR_FORMAT,
                           "text.txt: calibration text of 0 tokens is shorter than one window of "
                           "16");
        check_refused_text(method, "a", MX_ERR_FORMAT, "is shorter than one window of 16");
        check_refused_text(method, "\xFF\xFE not text", MX_ERR_FORMAT, "text.txt");
        check_refused(make_run(method, "/nowhere.txt", 1), MX_ERR_IO, "/nowhere.txt");
        fixture_run run = make_run(method, calib_text(), 1);
        run.options.calib_length = 513;
        check_refused(run, MX_ERR_ARGUMENT, "513 tokens, but the model has 512 positions");
        run = make_run(method, NULL, 1);
        run.options.correct = i == 0 ? 1 : -0.5F; /* search makes up for none */
        check_refused(run, MX_ERR_ARGUMENT, i == 0 ? "makes up for no errors" : "-0.5 is not in");
        run.options.correct = 0;
        run.settings = "weights=bf16";
        check_refused(run, MX_ERR_ARGUMENT, "needs weights with shared scales");
    }
}

/* A sound result: it opens, the summary holds `words`, and the windows used are
 * recorded. */
static void check_sound(const char *source, fixture_run run, const char *words, int windows)
{
    mx_error err = {0};
    const char *out = fixture_path("sound");
    char *summary;
    fixture_ok(fixture_quantize(source, out, run, &summary, &err), err);
    if (strstr(summary, words) == NULL) {
        fail_msg("%s: \"%s\" is not in \"%s\"", run.options.method, words, summary);
    }
    free(summary);
    mx_checkpoint_close(fixture_open(out));
    json_t *method = read_record(out);
    assert_int_equal(json_integer_value(json_object_get(method, "samples")), windows);
    json_decref(method);
    fixture_remove(out);
}

/* One window of 16 tokens, so that second moments of 32 and 64 inputs have rank 16 at
 * most; fewer windows than asked for, which is said; one token over and over. */
static void test_poor_text(void **state)
{
    (void)state;
    char same[512];
    memset(same, ' ', sizeof same - 1);
    same[sizeof same - 1] = '\0';
    for (size_t i = 0; i < MX_COUNT(calibrated); i++) {
        fixture_run run = make_run(calibrated[i], calib_text(), 1);
        run.options.calib_samples = 1;
        check_sound(model, run, "calibrated on 1 windows of 16 tokens (calib.txt", 1);
        run = make_run(calibrated[i], fixture_path("short.txt"), 1);
        write_text(run.options.calib_path, "the cat sat on", 3);
        check_sound(model, run, ", too short for 6), seed 7", 2);
        write_text(run.options.calib_path, same, 1);
        check_sound(model, run, "calibrated on", 6);
    }
}

/* Gains of zero: whole blocks of inputs that are never but zero. */
static void test_dead_channels(void **state)
{
    (void)state;
    const char *dead = fixture_copy_model("../app/fixtures/tiny", "dead");
    for (uint64_t i = 0; i < 32; i++) {
        fixture_patch(dead, "model.layers.0.input_layernorm.weight", 0, i, "\0\0");
        if (i % 3 != 0) {
            fixture_patch(dead, "model.layers.1.post_attention_layernorm.weight", 0, i, "\0\0");
        }
    }
    for (size_t i = 0; i < MX_COUNT(calibrated); i++) {
        check_sound(dead, make_run(calibrated[i], calib_text(), 2), "calibrated on 6 windows", 6);
    }
    fixture_remove(dead);
}

/* Windows do not overlap, and a seed has its own. */
static void test_windows(void **state)
{
    (void)state;
    mx_error err = {0};
    mx_model *opened;
    mx_windows a, b, c;
    const char *path = calib_text();
    fixture_ok(mx_model_open(model, 1, &opened, &err), err);
    fixture_ok(mx_windows_read(opened, path, 5, 16, 1, &a, &err), err);
    fixture_ok(mx_windows_read(opened, path, 5, 16, 1, &b, &err), err);
    fixture_ok(mx_windows_read(opened, path, 5, 16, 2, &c, &err), err);
    assert_true(a.n == 5 && a.length == 16 && a.source_tokens > 80);
    assert_memory_equal(a.tokens, b.tokens, 5 * 16 * sizeof *a.tokens);
    assert_memory_not_equal(a.tokens, c.tokens, 5 * 16 * sizeof *a.tokens);
    mx_windows_clear(&a);
    mx_windows_clear(&b);
    mx_windows_clear(&c);
    mx_model_close(opened);
}

static void test_spill(void **state)
{
    (void)state;
    mx_error err = {0};
    mx_spill memory, file;
    fixture_ok(mx_spill_open(100000, 100000, fixture_dir, &memory, &err), err);
    fixture_ok(mx_spill_open(100000, 99999, fixture_dir, &file, &err), err);
    assert_true(!memory.in_file && file.in_file);
    memset(file.data, 1, file.size);
    size_t before = fixture_count(fixture_dir);
    mx_spill_close(&memory);
    mx_spill_close(&file);
    mx_spill_close(&file);
    assert_int_equal(fixture_count(fixture_dir), before); /* it never had a name */
    fixture_fails(mx_spill_open(100, 1, "/nowhere", &file, &err), MX_ERR_IO, "/nowhere", err);
}

static int setup(void **state)
{
    fixture_golden("../app/fixtures/tiny", model);
    return fixture_setup(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_threads),         cmocka_unit_test(test_record),
        cmocka_unit_test(test_resume),          cmocka_unit_test(test_killed),
        cmocka_unit_test(test_killed_any_time), cmocka_unit_test(test_seed),
        cmocka_unit_test(test_texts),           cmocka_unit_test(test_poor_text),
        cmocka_unit_test(test_dead_channels),   cmocka_unit_test(test_windows),
        cmocka_unit_test(test_spill),
    };
    return cmocka_run_group_tests(tests, setup, fixture_teardown);
}
