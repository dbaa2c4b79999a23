/* A whole comparison: load all files, keep the tasks they share, compare each with
 * the first file, write the reports. */
#include "eval/compare.h"

#include <stdlib.h>

/* Everything of one comparison. */
typedef struct compare_run {
    mx_compare_file files[MX_COMPARE_MAX_FILES];
    mx_compare_report report;
} compare_run;

/* Fills one row of the report with the files' versions of a task; false when it is not
 * for the report. */
static bool compare_collect(const compare_run *run, const char *name, const mx_compare_task **row)
{
    bool all = true, kl = false;
    for (size_t f = 0; f < run->report.n_files; f++) {
        row[f] = mx_compare_find(&run->files[f], name);
        all = all && row[f] != NULL;
        kl = kl || (row[f] != NULL && row[f]->kl != NULL);
    }
    return all || kl;
}

/* True when a file before `file` has the task. */
static bool compare_seen(const compare_run *run, size_t file, const char *name)
{
    for (size_t f = 0; f < file; f++) {
        if (mx_compare_find(&run->files[f], name) != NULL) {
            return true;
        }
    }
    return false;
}

/* Room for every task of every file. */
static mx_status compare_reserve(compare_run *run, mx_error *err)
{
    mx_compare_report *report = &run->report;
    size_t n_files = report->n_files, most = 0;
    for (size_t f = 0; f < n_files; f++) {
        most += run->files[f].n_tasks;
    }
    report->tasks = calloc(most * n_files, sizeof *report->tasks);
    report->differences = calloc(most * n_files, sizeof *report->differences);
    report->recoveries = calloc(most * n_files, sizeof *report->recoveries);
    report->dropped = calloc(most, sizeof *report->dropped);
    if (report->tasks == NULL || report->differences == NULL || report->recoveries == NULL ||
        report->dropped == NULL) {
        return mx_error_nomem(err, "comparison", most * n_files * sizeof *report->differences);
    }
    return MX_OK;
}

/* The tasks to report, in the order of their first file, and the names of the others. */
static mx_status compare_common(compare_run *run, mx_error *err)
{
    mx_compare_report *report = &run->report;
    MX_TRY(compare_reserve(run, err));
    for (size_t f = 0; f < report->n_files; f++) {
        for (size_t i = 0; i < run->files[f].n_tasks; i++) {
            const char *name = run->files[f].tasks[i].name;
            if (compare_seen(run, f, name)) {
                continue;
            }
            if (compare_collect(run, name, &report->tasks[report->n_tasks * report->n_files])) {
                report->n_tasks++;
            } else {
                report->dropped[report->n_dropped++] = name;
            }
        }
    }
    if (report->n_tasks == 0) {
        return mx_error_set(err, MX_ERR_ARGUMENT, "%s: has no task in common with the others",
                            run->files[0].path);
    }
    return MX_OK;
}

const mx_compare_task *mx_compare_any(const mx_compare_report *report, size_t t)
{
    size_t f = 0;
    while (report->tasks[t * report->n_files + f] == NULL) {
        f++;
    }
    return report->tasks[t * report->n_files + f];
}

bool mx_compare_has_difference(const mx_compare_report *report, size_t t, size_t f)
{
    const mx_compare_task *const *row = &report->tasks[t * report->n_files];
    return f > 0 && row[0] != NULL && row[f] != NULL;
}

bool mx_compare_has_recovery(const mx_compare_report *report, size_t t, size_t f)
{
    const mx_compare_task *const *row = &report->tasks[t * report->n_files];
    return report->rtn > 0 && f > 0 && row[report->rtn] != NULL && row[f] != NULL;
}

/* Two files' versions of a task, which must be of the same documents. */
static mx_status compare_pair(const compare_run *run, size_t t, size_t from, size_t to,
                              mx_compare_difference *out, mx_error *err)
{
    const mx_compare_task *const *row = &run->report.tasks[t * run->report.n_files];
    return mx_compare_tasks(&run->files[from], row[from], &run->files[to], row[to], out, err);
}

/* The baseline, and RTN where it is named, against every other file, task by task. */
static mx_status compare_differences(compare_run *run, mx_error *err)
{
    mx_compare_report *report = &run->report;
    for (size_t t = 0; t < report->n_tasks; t++) {
        const mx_compare_task *const *row = &report->tasks[t * report->n_files];
        for (size_t f = 1; f < report->n_files; f++) {
            size_t at = t * report->n_files + f;
            if (mx_compare_has_difference(report, t, f)) {
                MX_TRY(compare_pair(run, t, 0, f, &report->differences[at], err));
            }
            if (mx_compare_has_recovery(report, t, f)) {
                mx_compare_difference paired; /* for its check that the documents agree */
                MX_TRY(compare_pair(run, t, report->rtn, f, &paired, err));
                MX_TRY(mx_compare_recover(row[0], row[report->rtn], row[f], &report->recoveries[at],
                                          err));
            }
        }
    }
    return MX_OK;
}

/* Owns nothing: mx_compare_run frees files and report, whatever was reached. */
static mx_status compare_all(compare_run *run, const char *const *paths, char **markdown,
                             char **json, mx_error *err)
{
    for (size_t f = 0; f < run->report.n_files; f++) {
        MX_TRY(mx_compare_load(paths[f], &run->files[f], err));
    }
    MX_TRY(compare_common(run, err));
    MX_TRY(compare_differences(run, err));
    if (markdown != NULL) {
        MX_TRY(mx_compare_markdown(&run->report, markdown, err));
    }
    return json != NULL ? mx_compare_json(&run->report, json, err) : MX_OK;
}

mx_status mx_compare_run(const char *const *paths, size_t n_paths, size_t rtn, char **markdown,
                         char **json, mx_error *err)
{
    if (markdown != NULL) {
        *markdown = NULL;
    }
    if (json != NULL) {
        *json = NULL;
    }
    if (n_paths < 2 || n_paths > MX_COMPARE_MAX_FILES) {
        return mx_error_set(err, MX_ERR_ARGUMENT,
                            "compare: needs 2 to %d results files, the baseline first",
                            MX_COMPARE_MAX_FILES);
    }
    if (rtn >= n_paths) {
        return mx_error_set(err, MX_ERR_ARGUMENT, "compare: rtn: there is no file %zu", rtn);
    }
    compare_run *run = calloc(1, sizeof *run);
    if (run == NULL) {
        return mx_error_nomem(err, "comparison", sizeof *run);
    }
    run->report.files = run->files;
    run->report.n_files = n_paths;
    run->report.rtn = rtn;
    mx_status status = compare_all(run, paths, markdown, json, err);
    if (status != MX_OK && markdown != NULL) {
        free(*markdown);
        *markdown = NULL;
    }
    for (size_t f = 0; f < n_paths; f++) {
        mx_compare_file_free(&run->files[f]);
    }
    free(run->report.tasks);
    free(run->report.differences);
    free(run->report.recoveries);
    free(run->report.dropped);
    free(run);
    return status;
}
