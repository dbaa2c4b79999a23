/*
 * Interrupted runs: stopped, killed, out of disk, with torn or damaged state. Each
 * continues to the bytes of a run that nothing disturbed, or says why not.
 */
#define _GNU_SOURCE
#include "quant/quant_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/wait.h>

static const char state_file[] = ".mxlm-export-state";

/* Stops, or dies, at call number `at`. */
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

static char model[FIXTURE_PATH];
static const char *const settings = FIXTURE_W4A6 " exclude=o_proj head=fp6_e2m3";

static mx_status run_stopped(const char *out, stop *s, bool resume, mx_error *err)
{
    fixture_run run = {.settings = settings,
                       .options = {.resume = resume, .threads = 1},
                       .watch = {stop_watch, s}};
    return fixture_quantize(model, out, run, NULL, err);
}

static mx_status run_resumed(const char *out, char **summary, mx_error *err)
{
    fixture_run run = {.settings = settings, .options = {.resume = true, .threads = 1}};
    return fixture_quantize(model, out, run, summary, err);
}

/* What all of this must end in, at "whole". Returns the calls of its callback. */
static int make_whole(void)
{
    mx_error err = {0};
    stop never = {.at = -1};
    fixture_golden("llama_bias", model);
    fixture_remove(fixture_path("whole"));
    fixture_ok(run_stopped(fixture_path("whole"), &never, false, &err), err);
    assert_true(never.calls > 20);
    return never.calls;
}

static void finish_and_compare(const char *out)
{
    mx_error err = {0};
    fixture_ok(run_resumed(out, NULL, &err), err);
    fixture_same_folders(fixture_path("whole"), out);
    fixture_remove(out);
}

/* DIR.partial is no model, and nothing has DIR's name. */
static void check_no_model(const char *out, const char *partial)
{
    mx_error err = {0};
    mx_checkpoint *checkpoint;
    assert_false(mx_path_is_dir(out));
    assert_int_not_equal(mx_checkpoint_open(partial, &checkpoint, &err), MX_OK);
    assert_null(checkpoint);
}

/* At every call of the callback: between tensors, and inside those that are copied
 * in pieces. */
static void test_cancelled_at_every_call(void **state)
{
    (void)state;
    mx_error err = {0};
    const char *out = fixture_path("out"), *partial = fixture_path("out.partial");
    char *summary;
    int calls = make_whole(), n_kept = 0;
    for (int at = 0; at < calls; at++) {
        stop s = {.at = at};
        fixture_fails(run_stopped(out, &s, false, &err), MX_ERR_CANCELLED, "stopped after", err);
        check_no_model(out, partial);
        bool kept = mx_path_is_dir(partial); /* not when nothing was finished */
        n_kept += kept;
        fixture_ok(run_resumed(out, &summary, &err), err);
        assert_int_equal(strstr(summary, "were finished before") != NULL, kept);
        free(summary);
        fixture_same_folders(fixture_path("whole"), out);
        fixture_remove(out);
    }
    assert_int_equal(n_kept, calls - 2); /* the first tensor's calls */
}

/* Stopped again and again, each time a little later. */
static void test_cancelled_again_and_again(void **state)
{
    (void)state;
    mx_error err = {0};
    const char *out = fixture_path("out");
    int calls = make_whole(), n_stops = 0;
    mx_status status = MX_ERR_CANCELLED;
    for (int at = 0; status == MX_ERR_CANCELLED && at < calls; at++) {
        stop s = {.at = at};
        status = run_stopped(out, &s, true, &err);
        n_stops += status == MX_ERR_CANCELLED;
    }
    fixture_ok(status, err);
    assert_true(n_stops > 20);
    fixture_same_folders(fixture_path("whole"), out);
    fixture_remove(out);
}

static void test_killed_at_every_call(void **state)
{
    (void)state;
    const char *out = fixture_path("out"), *partial = fixture_path("out.partial");
    int calls = make_whole();
    for (int at = 0; at < calls; at++) {
        int exit_status;
        fflush(NULL);
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            stop s = {.at = at, .die = true};
            run_stopped(out, &s, false, NULL);
            _exit(0);
        }
        assert_int_equal(waitpid(child, &exit_status, 0), child);
        assert_true(WIFSIGNALED(exit_status) && WTERMSIG(exit_status) == SIGKILL);
        check_no_model(out, partial);
        assert_true(mx_path_is_dir(partial));
        finish_and_compare(out);
    }
}

/* A run stopped before its last tensor, at "out.partial". */
static void make_partial(const char *out, int calls)
{
    mx_error err = {0};
    stop s = {.at = calls - 2};
    assert_int_equal(run_stopped(out, &s, false, &err), MX_ERR_CANCELLED);
}

/* The state file cut anywhere, as by a power failure: what is whole is taken over. */
static void test_torn_state(void **state)
{
    (void)state;
    const char *out = fixture_path("out");
    int calls = make_whole();
    make_partial(out, calls);
    char *path = mx_path_join(fixture_path("out.partial"), state_file), *text;
    mx_error err = {0};
    size_t size;
    fixture_ok(mx_file_read(path, 1 << 20, &text, &size, &err), err);
    finish_and_compare(out);
    for (size_t cut = 0; cut < size; cut += 41) {
        make_partial(out, calls);
        assert_int_equal(truncate(path, (off_t)cut), 0);
        finish_and_compare(out);
    }
    free(text);
    free(path);
}

/* Bytes that are not what was written (never reached the disk, say) are made anew. */
static void test_damaged_tensor(void **state)
{
    (void)state;
    const char *out = fixture_path("out");
    char *path = mx_path_join(fixture_path("out.partial"), "model.safetensors");
    int calls = make_whole();
    for (int k = 0; k < 20; k++) {
        make_partial(out, calls);
        int fd = open(path, O_RDWR);
        assert_true(fd >= 0);
        off_t size = lseek(fd, 0, SEEK_END), at = size * k / 20;
        unsigned char byte;
        assert_int_equal(pread(fd, &byte, 1, at), 1);
        byte ^= 0x40;
        assert_int_equal(pwrite(fd, &byte, 1, at), 1);
        close(fd);
        finish_and_compare(out);
    }
    make_partial(out, calls);
    unlink(path);
    finish_and_compare(out);
    free(path);
}

static void test_leftovers_are_removed(void **state)
{
    (void)state;
    mx_error err = {0};
    const char *out = fixture_path("out");
    char *path = mx_path_join(fixture_path("out.partial"), "config.json.tmp-a1b2c3");
    make_partial(out, make_whole());
    fixture_ok(mx_file_write(path, "{", 1, &err), err);
    finish_and_compare(out);
    free(path);
}

static void test_other_settings(void **state)
{
    (void)state;
    mx_error err = {0};
    const char *out = fixture_path("out"), *partial = fixture_path("out.partial");
    char first[FIXTURE_PATH];
    int calls = make_whole();
    make_partial(out, calls);
    size_t n_files = fixture_count(partial);
    fixture_run run = {.settings = settings, .options = {.threads = 1}};
    fixture_fails(fixture_quantize(model, out, run, NULL, &err), MX_ERR_ARGUMENT,
                  "holds an interrupted run", err);
    run.options.resume = true;
    run.shard_bytes = 10000;
    fixture_fails(fixture_quantize(model, out, run, NULL, &err), MX_ERR_ARGUMENT,
                  "out.partial: layout", err);
    run.shard_bytes = 0;
    run.settings = FIXTURE_W4A6 " exclude=o_proj scale_rule=even";
    fixture_fails(fixture_quantize(model, out, run, NULL, &err), MX_ERR_ARGUMENT,
                  "out.partial: specs", err);
    run.settings = settings;
    snprintf(first, sizeof first, "%s", model);
    fixture_golden("llama_llama3", model);
    fixture_fails(fixture_quantize(model, out, run, NULL, &err), MX_ERR_ARGUMENT,
                  "out.partial: source", err);
    snprintf(model, sizeof model, "%s", first);
    assert_int_equal(fixture_count(partial), n_files); /* as it was */
    run.options.threads = 3;                           /* does not matter */
    fixture_ok(fixture_quantize(model, out, run, NULL, &err), err);
    fixture_same_folders(fixture_path("whole"), out);
    fixture_remove(out);
    make_partial(out, calls);
    run.options = (mx_quantize_options){.overwrite = true};
    fixture_ok(fixture_quantize(model, out, run, NULL, &err), err);
    fixture_same_folders(fixture_path("whole"), out);
    fixture_remove(out);
}

static void test_two_runs_at_once(void **state)
{
    (void)state;
    mx_error err = {0};
    const char *out = fixture_path("out");
    make_partial(out, make_whole());
    char *path = mx_path_join(fixture_path("out.partial"), state_file);
    int fd = open(path, O_RDWR);
    assert_true(fd >= 0 && flock(fd, LOCK_EX) == 0);
    fixture_fails(run_resumed(out, NULL, &err), MX_ERR_ARGUMENT, "another run is writing", err);
    close(fd);
    finish_and_compare(out);
    free(path);
}

/* ---- a disk that fills up --------------------------------------------------------- */

enum { CANNOT_MOUNT = 77 };

/* In a child with its own mounts: a file system of `kilobytes` at `disk`. */
static bool mount_small(const char *disk, int kilobytes, unsigned long flags)
{
    char options[64];
    snprintf(options, sizeof options, "size=%dk", kilobytes);
    return mount("none", disk, "tmpfs", flags, options) == 0;
}

static bool write_map(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY);
    ssize_t length = (ssize_t)strlen(text);
    bool written = fd >= 0 && write(fd, text, (size_t)length) == length;
    if (fd >= 0) {
        close(fd);
    }
    return written;
}

/* A user and mount namespace of our own; the user is root in it. */
static bool own_mounts(void)
{
    char users[64], groups[64];
    snprintf(users, sizeof users, "0 %u 1", (unsigned)getuid());
    snprintf(groups, sizeof groups, "0 %u 1", (unsigned)getgid());
    return unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0 && write_map("/proc/self/uid_map", users) &&
           write_map("/proc/self/setgroups", "deny") && write_map("/proc/self/gid_map", groups);
}

/* Fills disks of growing size; a larger one lets the run finish. Exits. */
static void fill_disks(const char *disk, const char *out)
{
    mx_error err = {0};
    int failures = 0;
    if (!own_mounts() || !mount_small(disk, 4, 0)) {
        _exit(CANNOT_MOUNT);
    }
    for (int kilobytes = 4; kilobytes < 512; kilobytes += 4) {
        if (!mount_small(disk, kilobytes, MS_REMOUNT)) {
            _exit(CANNOT_MOUNT);
        }
        mx_status status = run_resumed(out, NULL, &err);
        if (status == MX_OK) {
            fixture_same_folders(fixture_path("whole"), out);
            _exit(failures >= 4 ? 0 : 1);
        }
        failures++;
        if (status != MX_ERR_IO || strstr(err.text, strerror(ENOSPC)) == NULL ||
            mx_path_is_dir(out)) {
            fprintf(stderr, "%d KB: %s\n", kilobytes, err.text);
            _exit(2);
        }
    }
    _exit(3);
}

static void test_full_disk(void **state)
{
    (void)state;
    mx_error err = {0};
    int exit_status;
    const char *disk = fixture_path("disk"), *out = fixture_path("disk/out");
    make_whole();
    fixture_ok(mx_path_make_dirs(disk, &err), err);
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        fill_disks(disk, out);
    }
    assert_int_equal(waitpid(child, &exit_status, 0), child);
    fixture_remove(disk);
    assert_true(WIFEXITED(exit_status));
    if (WEXITSTATUS(exit_status) == CANNOT_MOUNT) {
        print_message("this system allows no private tmpfs: a full disk is not tested\n");
        skip();
    }
    assert_int_equal(WEXITSTATUS(exit_status), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cancelled_at_every_call),
        cmocka_unit_test(test_cancelled_again_and_again),
        cmocka_unit_test(test_killed_at_every_call),
        cmocka_unit_test(test_torn_state),
        cmocka_unit_test(test_damaged_tensor),
        cmocka_unit_test(test_leftovers_are_removed),
        cmocka_unit_test(test_other_settings),
        cmocka_unit_test(test_two_runs_at_once),
        cmocka_unit_test(test_full_disk),
    };
    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
