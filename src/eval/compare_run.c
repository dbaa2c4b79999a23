/* A whole comparison: load all files, keep the tasks they share, compare each with
 * the first file, write the reports. */
#include "eval/compare.h"

#include <stdlib.h>

/* Everything of one comparison. */
typedef struct compare_run {
    mx_compare_file files[MX_COMPARE_MAX_FILES];
    mx_compare_report report;
} compare_run;

/* Fills one row of the report with the files' versions of a task; false when a
 * file lacks it. */
static bool compare_collect(const compare_run *run, const char *name, const mx_compare_task **row)
{
    for (size_t f = 0; f < run->report.n_files; f++) {
        row[f] = mx_compare_find(&run->files[f], name);
        if (row[f] == NULL) {
            return false;
        }
    }
    return true;
}

/* The tasks that all files have, in the baseline's order, and the names of the
 * others. */
static mx_status compare_common(compare_run *run, mx_error *err)
{
    mx_compare_report *report = &run->report;
    size_t n_files = report->n_files, most = 0;
    for (size_t f = 0; f < n_files; f++) {
        most += run->files[f].n_tasks;
    }
    report->tasks = calloc(most * n_files, sizeof *report->tasks);
    report->differences = calloc(most * n_files, sizeof *report->differences);
    report->dropped = calloc(most, sizeof *report->dropped);
    if (report->tasks == NULL || report->differences == NULL || report->dropped == NULL) {
        return mx_error_nomem(err, "comparison", most * n_files * sizeof *report->differences);
    }
    for (size_t f = 0; f < n_files; f++) {
        for (size_t i = 0; i < run->files[f].n_tasks; i++) {
            const char *name = run->files[f].tasks[i].name;
            const mx_compare_task **row = &report->tasks[report->n_tasks * n_files];
            bool common = compare_collect(run, name, row);
            if (common && f == 0) {
                report->n_tasks++;
            } else if (!common && (f == 0 || mx_compare_find(&run->files[0], name) == NULL)) {
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

/* The baseline against every other file, task by task; its own column stays zero. */
static mx_status compare_differences(compare_run *run, mx_error *err)
{
    mx_compare_report *report = &run->report;
    for (size_t t = 0; t < report->n_tasks; t++) {
        for (size_t f = 1; f < report->n_files; f++) {
            size_t at = t * report->n_files;
            MX_TRY(mx_compare_tasks(&run->files[0], report->tasks[at], &run->files[f],
                                    report->tasks[at + f], &report->differences[at + f], err));
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

mx_status mx_compare_run(const char *const *paths, size_t n_paths, char **markdown, char **json,
                         mx_error *err)
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
    compare_run *run = calloc(1, sizeof *run);
    if (run == NULL) {
        return mx_error_nomem(err, "comparison", sizeof *run);
    }
    run->report.files = run->files;
    run->report.n_files = n_paths;
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
    free(run->report.dropped);
    free(run);
    return status;
}
