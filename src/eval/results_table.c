/* The table that mxlm eval prints. */
#include "eval/md_table.h"
#include "eval/results.h"

#include <math.h>
#include <string.h>

/*
 * lm_eval's make_table. pytablewriter, which prints it there, drops zeros that
 * end all numbers of a column ("0.29" for 0.2900); here four decimals stay.
 */
static const char *const table_headers[] = {"Tasks", "Version", "Filter", "n-shot", "Metric",
                                            "",      "Value",   "",       "Stderr"};
enum { TABLE_VERSION = 1, TABLE_SHOT = 3, TABLE_VALUE = 6, TABLE_STDERR = 8 };

static void table_add_metric(mx_md_table *table, const mx_task_result *result,
                             const mx_metric *metric, bool first)
{
    mx_md_table_addf(table, "%s", first ? result->request->name : "");
    if (first) {
        mx_md_table_addf(table, "%g", result->request->task->version);
    } else {
        mx_md_table_addf(table, "%s", "");
    }
    mx_md_table_addf(table, "none");
    mx_md_table_addf(table, "0");
    mx_md_table_addf(table, "%s", metric->name);
    mx_md_table_addf(table, "%s", metric->higher_is_better ? "↑" : "↓");
    mx_md_table_addf(table, "%.4f", metric->value);
    mx_md_table_addf(table, "±");
    if (isnan(metric->stderror)) {
        /* A word among the numbers makes pytablewriter align the column left. */
        mx_md_table_addf(table, "   N/A");
        table->right[TABLE_STDERR] = false;
    } else {
        mx_md_table_addf(table, "%.4f", metric->stderror);
    }
}

/* Metrics in the order of their names, as make_table sorts them. */
static void table_add_task(mx_md_table *table, const mx_task_result *result)
{
    const char *last = "";
    for (size_t shown = 0; shown < result->n_metrics; shown++) {
        const mx_metric *next = NULL;
        for (size_t i = 0; i < result->n_metrics; i++) {
            const mx_metric *metric = &result->metrics[i];
            if (strcmp(metric->name, last) > 0 &&
                (next == NULL || strcmp(metric->name, next->name) < 0)) {
                next = metric;
            }
        }
        table_add_metric(table, result, next, shown == 0);
        last = next->name;
    }
}

mx_status mx_results_table(const mx_task_result *results, size_t count, char **out, mx_error *err)
{
    mx_md_table table = {.columns = MX_COUNT(table_headers)};
    mx_str text = {0};
    *out = NULL;
    table.right[TABLE_VERSION] = table.right[TABLE_SHOT] = table.right[TABLE_VALUE] = true;
    table.right[TABLE_STDERR] = true;
    for (size_t i = 0; i < MX_COUNT(table_headers); i++) {
        mx_md_table_addf(&table, "%s", table_headers[i]);
    }
    for (size_t i = 0; i < count; i++) {
        table_add_task(&table, &results[i]);
    }
    mx_status status = mx_md_table_render(&table, &text, err);
    if (status == MX_OK) {
        status = mx_str_take(&text, out, err);
    }
    mx_str_free(&text);
    mx_md_table_free(&table);
    return status;
}
