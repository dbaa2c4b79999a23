/*
 * A peer in the same rounds: llama.cpp's llama-bench (or a program with its options
 * and JSON, such as ik_llama.cpp's), one repetition a round.
 */
#include "bench/bench_impl.h"

#include "base/json.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

enum { OUTPUT_LIMIT = 1 << 20 };

/* ---- running it -------------------------------------------------------------- */

/* Starts the program with its standard output in a pipe; its errors go where ours
 * go. */
static mx_status start(char *const argv[], pid_t *pid, int *from, mx_error *err)
{
    int ends[2];
    if (pipe(ends) != 0) {
        return mx_error_set(err, MX_ERR_IO, "%s: pipe: %s", argv[0], strerror(errno));
    }
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
    posix_spawn_file_actions_addclose(&actions, ends[0]);
    posix_spawn_file_actions_addclose(&actions, ends[1]);
    /* llama-bench tells its progress and backends on stderr. */
    posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
    int failed = posix_spawn(pid, argv[0], &actions, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    close(ends[1]);
    *from = ends[0];
    if (failed != 0) {
        close(ends[0]);
        return mx_error_set(err, MX_ERR_IO, "%s: %s", argv[0], strerror(failed));
    }
    return MX_OK;
}

static void read_all(int from, mx_str *out)
{
    char buffer[4096];
    for (;;) {
        ssize_t n = read(from, buffer, sizeof buffer);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return;
        }
        if (out->length < OUTPUT_LIMIT) { /* what is beyond is read and dropped */
            mx_str_add_bytes(out, buffer, (size_t)n);
        }
    }
}

static mx_status run_peer(char *const argv[], char **out, mx_error *err)
{
    pid_t pid;
    int from = -1, how = 0;
    mx_str text = {0};
    MX_TRY(start(argv, &pid, &from, err));
    read_all(from, &text);
    close(from);
    while (waitpid(pid, &how, 0) < 0 && errno == EINTR) {
    }
    if (!WIFEXITED(how) || WEXITSTATUS(how) != 0) {
        mx_str_free(&text);
        return mx_error_set(err, MX_ERR_IO, "%s: failed (%s %d)", argv[0],
                            WIFEXITED(how) ? "exit code" : "signal",
                            WIFEXITED(how) ? WEXITSTATUS(how) : WTERMSIG(how));
    }
    return mx_str_take(&text, out, err);
}

/* ---- rows -------------------------------------------------------------------- */

/* The peer's tests, by the rows of ours that they answer. */
static mx_bench_row *find_row(mx_bench *bench, const char *section, uint32_t threads,
                              uint32_t sequences, const char *name)
{
    for (size_t i = 0; i < bench->n_rows; i++) {
        mx_bench_row *row = &bench->rows[i];
        if (strcmp(row->section, section) == 0 && row->threads == threads &&
            row->sequences == sequences && strcmp(row->name, name) == 0) {
            return row;
        }
    }
    return NULL;
}

static const char *const peer_names[2] = {"peer prefill", "peer decode"};
static const char *const ratio_names[2] = {"mxlm / peer prefill", "mxlm / peer decode"};

static mx_bench_row *our_row(mx_bench *bench, int test, uint32_t threads)
{
    return test == 0 ? find_row(bench, "prefill", threads, 0, "prefill")
                     : find_row(bench, "decode", threads, 1, "decode 1 sequence");
}

mx_status mx_bench_plan_peer(mx_bench *bench, mx_error *err)
{
    if (bench->options->peer_path == NULL || !mx_bench_wants(bench, "peer")) {
        return MX_OK;
    }
    for (uint32_t c = 0; c < bench->n_counts; c++) {
        for (int test = 0; test < 2; test++) {
            const mx_bench_row *ours = our_row(bench, test, bench->counts[c]);
            if (ours == NULL) { /* left out by options->only */
                continue;
            }
            mx_bench_row row = {.section = "peer",
                                .threads = bench->counts[c],
                                .tokens = ours->tokens,
                                .unit = "tok/s"};
            snprintf(row.name, sizeof row.name, "%s", peer_names[test]);
            MX_TRY(mx_bench_add(bench, &row, NULL, err));
            snprintf(row.name, sizeof row.name, "%s", ratio_names[test]);
            row.unit = "x";
            MX_TRY(mx_bench_add(bench, &row, NULL, err));
        }
    }
    return MX_OK;
}

/* Tokens a second of one element of llama-bench's array: {"n_prompt", "n_gen",
 * "avg_ts", ...}. */
static mx_status record_test(mx_bench *bench, uint32_t threads, const json_t *test, mx_error *err)
{
    const char *where = bench->options->peer_path;
    int64_t n_prompt, n_gen;
    double speed;
    MX_TRY(mx_json_get_int(test, "n_prompt", where, true, 0, 0, 1 << 20, &n_prompt, err));
    MX_TRY(mx_json_get_int(test, "n_gen", where, true, 0, 0, 1 << 20, &n_gen, err));
    MX_TRY(mx_json_get_real(test, "avg_ts", where, true, 0, &speed, err));
    if (!(speed > 0) || (n_prompt > 0) == (n_gen > 0)) {
        return mx_error_set(err, MX_ERR_FORMAT, "%s: avg_ts: no speed of one test", where);
    }
    int kind = n_gen > 0;
    const mx_bench_row *ours = our_row(bench, kind, threads);
    mx_bench_row *peer = find_row(bench, "peer", threads, 0, peer_names[kind]);
    mx_bench_row *ratio = find_row(bench, "peer", threads, 0, ratio_names[kind]);
    if (ours == NULL || peer == NULL || ratio == NULL) {
        return mx_error_set(err, MX_ERR_FORMAT, "%s: a test that was not asked for", where);
    }
    mx_bench_record(peer, speed, 0);
    mx_bench_record(ratio, ours->values[ours->n - 1] / speed, 0);
    return MX_OK;
}

static mx_status record_output(mx_bench *bench, uint32_t threads, const char *text, mx_error *err)
{
    json_t *root = NULL;
    const char *where = bench->options->peer_path;
    MX_TRY(mx_json_parse(text, strlen(text), where, &root, err));
    mx_status status = MX_OK;
    if (!json_is_array(root) || json_array_size(root) == 0) {
        status =
            mx_error_set(err, MX_ERR_FORMAT, "%s: output is not llama-bench's JSON array", where);
    }
    for (size_t i = 0; status == MX_OK && i < json_array_size(root); i++) {
        status = record_test(bench, threads, json_array_get(root, i), err);
    }
    json_decref(root);
    return status;
}

static mx_status peer_once(mx_bench *bench, uint32_t threads, mx_error *err)
{
    const mx_bench_row *prefill = our_row(bench, 0, threads), *decode = our_row(bench, 1, threads);
    char n_prompt[16], n_gen[16], n_threads[16];
    if (prefill == NULL && decode == NULL) {
        return MX_OK;
    }
    snprintf(n_prompt, sizeof n_prompt, "%u", prefill != NULL ? prefill->tokens : 0);
    snprintf(n_gen, sizeof n_gen, "%u", decode != NULL ? decode->tokens : 0);
    snprintf(n_threads, sizeof n_threads, "%u", threads);
    const char *const argv[] = {bench->options->peer_path,
                                "-m",
                                bench->options->peer_model,
                                "-p",
                                n_prompt,
                                "-n",
                                n_gen,
                                "-t",
                                n_threads,
                                "-r",
                                "1",
                                "-o",
                                "json",
                                NULL};
    char *text = NULL;
    /* posix_spawn does not write to the strings; its type is older than const. */
    MX_TRY(run_peer((char *const *)(uintptr_t)argv, &text, err));
    mx_status status = record_output(bench, threads, text, err);
    free(text);
    return status;
}

mx_status mx_bench_peer_round(mx_bench *bench, mx_error *err)
{
    if (bench->options->peer_path == NULL || !mx_bench_wants(bench, "peer")) {
        return MX_OK;
    }
    for (uint32_t c = 0; c < bench->n_counts; c++) {
        MX_TRY(peer_once(bench, bench->counts[c], err));
    }
    return MX_OK;
}
