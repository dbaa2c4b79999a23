/*
 * The report of a comparison as Markdown, for people: one row a figure, one column a
 * file and one for its change. Sizes in powers of ten, as disks and datasheets have
 * them.
 */
#include "eval/compare.h"
#include "eval/md_table.h"

#include <math.h>
#include <string.h>

/* A bare "–" stands for what a file does not tell. */
#define ABSENT "–"

/* A typographic minus, as wide as the plus: columns of changes line up. */
static const char *sign(double value)
{
    return value < 0 ? "−" : "+";
}

/* " ± x" when there is a standard error. */
static void add_stderr(mx_str *cell, double stderror, const char *fmt_unit, int digits)
{
    if (!isnan(stderror)) {
        mx_str_addf(cell, " ± %.*f%s", digits, stderror, fmt_unit);
    }
}

/* Puts `cell` into the table and frees it; running out of memory is remembered
 * there and told once, by mx_md_table_render. */
static void table_take(mx_md_table *table, mx_str *cell)
{
    mx_md_table_addf(table, "%s", cell->data != NULL ? cell->data : "");
    table->failed = table->failed || cell->failed;
    mx_str_free(cell);
}

/* ---- rows of a task ------------------------------------------------------------ */

/* Shares in percent, in points; the rest as numbers with some digits. */
static bool is_share(mx_compare_metric_id id)
{
    return id == MX_COMPARE_ACC || id == MX_COMPARE_TOP1;
}

/* Bits per byte and divergences differ in the third decimal. */
static int metric_digits(mx_compare_metric_id id)
{
    return id == MX_COMPARE_BITS || id == MX_COMPARE_KL ? 4 : 2;
}

static void add_metric(mx_md_table *table, mx_compare_metric_id id, const mx_compare_task *task)
{
    mx_str cell = {0};
    double scale = is_share(id) ? 100 : 1;
    if (task == NULL || isnan(task->metrics[id].value)) {
        mx_str_add(&cell, ABSENT);
    } else {
        const mx_compare_metric *metric = &task->metrics[id];
        mx_str_addf(&cell, "%.*f", metric_digits(id), scale * metric->value);
        add_stderr(&cell, scale * metric->stderror, "", metric_digits(id));
        mx_str_add(&cell, is_share(id) ? " %" : "");
    }
    table_take(table, &cell);
}

/* The change of a metric and its paired standard error. */
static void add_metric_change(mx_md_table *table, mx_compare_metric_id id,
                              const mx_compare_task *base, const mx_compare_task *other,
                              const mx_compare_difference *difference)
{
    mx_str cell = {0};
    double from = base != NULL ? base->metrics[id].value : NAN;
    double to = other != NULL ? other->metrics[id].value : NAN;
    if (isnan(from) || isnan(to)) {
        mx_str_add(&cell, ABSENT);
    } else if (is_share(id)) {
        mx_str_addf(&cell, "%s%.2f", sign(difference->change[id]),
                    100 * fabs(difference->change[id]));
        add_stderr(&cell, 100 * difference->change_stderr[id], "", 2);
        mx_str_add(&cell, " points");
    } else {
        mx_str_addf(&cell, "%s%.1f %%", sign(to - from), 100 * fabs(to / from - 1));
        bool has_ratio = !isnan(difference->log_ratio[id]);
        double change = has_ratio ? difference->log_ratio[id] : difference->change[id];
        if (!isnan(change)) {
            mx_str_addf(&cell, " (%s%s%.4f", has_ratio ? "ln " : "", sign(change), fabs(change));
            add_stderr(&cell,
                       has_ratio ? difference->log_ratio_stderr[id] : difference->change_stderr[id],
                       "", 4);
            mx_str_add(&cell, ")");
        }
    }
    table_take(table, &cell);
}

/* Nothing when no file has the metric: other tasks have other ones. */
static void add_metric_row(const mx_compare_report *report, size_t t, mx_compare_metric_id id,
                           mx_md_table *table)
{
    const mx_compare_task *const *tasks = &report->tasks[t * report->n_files];
    const mx_compare_task *any = mx_compare_any(report, t);
    if (isnan(any->metrics[id].value)) {
        return;
    }
    mx_md_table_addf(table, "%s %s", any->name, mx_compare_metric_title(id));
    add_metric(table, id, tasks[0]);
    for (size_t f = 1; f < report->n_files; f++) {
        add_metric(table, id, tasks[f]);
        add_metric_change(table, id, tasks[0], tasks[f],
                          &report->differences[t * report->n_files + f]);
    }
}

/* A share of RTN's loss, in percent of it. */
static void add_share(mx_md_table *table, bool has, double value, double stderror)
{
    mx_str cell = {0};
    if (!has || isnan(value)) {
        mx_str_add(&cell, ABSENT);
    } else {
        mx_str_addf(&cell, "%s%.1f", value < 0 ? "−" : "", 100 * fabs(value));
        add_stderr(&cell, 100 * stderror, "", 1);
        mx_str_add(&cell, " %");
    }
    table_take(table, &cell);
}

typedef enum recovery_kind { RECOVERY_LOSS, RECOVERY_ACC, RECOVERY_KL } recovery_kind;

/* Between the baseline, 100, and RTN, 0; their own columns say so. */
static void add_recovery_row(const mx_compare_report *report, size_t t, recovery_kind kind,
                             mx_md_table *table)
{
    static const char *const titles[] = {"ln perplexity", "accuracy", "KL divergence"};
    mx_md_table_addf(table, "%s share of RTN's loss in %s recovered",
                     mx_compare_any(report, t)->name, titles[kind]);
    mx_md_table_addf(table, "100 %%");
    for (size_t f = 1; f < report->n_files; f++) {
        const mx_compare_recovery *r = &report->recoveries[t * report->n_files + f];
        const double values[] = {r->loss, r->acc, r->kl};
        const double errors[] = {r->loss_stderr, r->acc_stderr, r->kl_stderr};
        bool has = mx_compare_has_recovery(report, t, f);
        if (f == report->rtn && has && !isnan(values[kind])) {
            mx_md_table_addf(table, "0 %%");
        } else {
            add_share(table, has, values[kind], errors[kind]);
        }
        mx_md_table_addf(table, "%s", "");
    }
}

static void add_recovery_rows(const mx_compare_report *report, size_t t, mx_md_table *table)
{
    const mx_compare_task *const *tasks = &report->tasks[t * report->n_files];
    if (report->rtn == 0) {
        return;
    }
    if (tasks[0] != NULL && !tasks[0]->text) {
        add_recovery_row(report, t, RECOVERY_ACC, table);
    }
    if (tasks[0] != NULL) {
        add_recovery_row(report, t, RECOVERY_LOSS, table);
    }
    if (mx_compare_any(report, t)->kl != NULL) {
        add_recovery_row(report, t, RECOVERY_KL, table);
    }
}

/* Answers that changed, with McNemar's test of them. */
static void add_flips_row(const mx_compare_report *report, size_t t, mx_md_table *table)
{
    const mx_compare_task *base = report->tasks[t * report->n_files];
    if (base == NULL || base->text) {
        return;
    }
    mx_md_table_addf(table, "%s answers lost / gained of %zu, McNemar p", base->name, base->count);
    mx_md_table_addf(table, "%s", "");
    for (size_t f = 1; f < report->n_files; f++) {
        const mx_mcnemar *test = &report->differences[t * report->n_files + f].mcnemar;
        mx_md_table_addf(table, "%llu / %llu", (unsigned long long)test->lost,
                         (unsigned long long)test->gained);
        /* Beyond double's range the p is told as a bound. */
        bool tiny = test->p < 1e-300;
        mx_md_table_addf(table, "p %s %.2g (%s)", tiny ? "<" : "=", tiny ? 1e-300 : test->p,
                         test->exact ? "exact" : "chi-square");
    }
}

/* ---- rows of sizes and times --------------------------------------------------- */

typedef enum value_unit { UNIT_BYTES, UNIT_BITS, UNIT_PERCENT, UNIT_SECONDS, UNIT_RATE } value_unit;

/* A size or a time with its unit, to about three digits. */
static void add_value(mx_md_table *table, double value, value_unit unit)
{
    if (isnan(value)) {
        mx_md_table_addf(table, ABSENT);
    } else if (unit == UNIT_BITS) {
        mx_md_table_addf(table, "%.2f bits", value);
    } else if (unit == UNIT_PERCENT) {
        mx_md_table_addf(table, "%.1f %%", value);
    } else if (unit == UNIT_SECONDS) {
        mx_md_table_addf(table, "%.1f s", value);
    } else if (unit == UNIT_RATE) {
        mx_md_table_addf(table, "%.0f tokens/s", value);
    } else if (value >= 1e9) {
        mx_md_table_addf(table, "%.2f GB", value / 1e9);
    } else if (value >= 1e6) {
        mx_md_table_addf(table, "%.1f MB", value / 1e6);
    } else {
        mx_md_table_addf(table, "%.1f kB", value / 1e3);
    }
}

/* In percent of the baseline, which must be a positive number for that. */
static void add_value_change(mx_md_table *table, double from, double to)
{
    if (isnan(from) || isnan(to) || !(from > 0)) {
        mx_md_table_addf(table, ABSENT);
    } else {
        mx_md_table_addf(table, "%s%.1f %%", sign(to - from), 100 * fabs(to / from - 1));
    }
}

/* values [n_files]; nothing when no file tells. */
static void add_value_row(mx_md_table *table, const char *title, const double *values,
                          size_t n_files, value_unit unit)
{
    bool any = false;
    for (size_t f = 0; f < n_files; f++) {
        any = any || !isnan(values[f]);
    }
    if (!any) {
        return;
    }
    mx_md_table_addf(table, "%s", title);
    add_value(table, values[0], unit);
    for (size_t f = 1; f < n_files; f++) {
        add_value(table, values[f], unit);
        add_value_change(table, values[0], values[f]);
    }
}

/* What a format costs: on disk, in memory, and in traffic a token. */
static void add_size_rows(const mx_compare_report *report, mx_md_table *table)
{
    enum { ROWS = 6 };
    static const struct {
        const char *title;
        value_unit unit;
    } rows[ROWS] = {
        {"weights, projections", UNIT_BYTES},
        {"weights, projections, share of fp32", UNIT_PERCENT},
        {"weights, total", UNIT_BYTES},
        {"memory, peak resident", UNIT_BYTES},
        {"activations, an element", UNIT_BITS},
        {"activations, a token", UNIT_BYTES},
    };
    double values[ROWS][MX_COMPARE_MAX_FILES];
    for (size_t f = 0; f < report->n_files; f++) {
        const mx_compare_sizes *sizes = &report->files[f].sizes;
        values[0][f] = sizes->projection_bytes;
        values[1][f] = 100 * sizes->projection_bytes / sizes->projection_bytes_fp32;
        values[2][f] = sizes->total_bytes;
        values[3][f] = sizes->peak_resident_bytes;
        values[4][f] = sizes->activation_bits;
        values[5][f] = sizes->activation_bytes_token;
    }
    for (size_t r = 0; r < ROWS; r++) {
        add_value_row(table, rows[r].title, values[r], report->n_files, rows[r].unit);
    }
}

static void add_time_rows(const mx_compare_report *report, size_t t, mx_md_table *table)
{
    double seconds[MX_COMPARE_MAX_FILES], rates[MX_COMPARE_MAX_FILES];
    mx_str title = {0};
    for (size_t f = 0; f < report->n_files; f++) {
        const mx_compare_task *task = report->tasks[t * report->n_files + f];
        /* A resumed run's seconds are of a part of the documents only. */
        seconds[f] = task == NULL || task->resumed > 0 ? NAN : task->seconds;
        rates[f] = task != NULL && task->tokens_per_second > 0 ? task->tokens_per_second : NAN;
    }
    const char *name = mx_compare_any(report, t)->name;
    mx_str_addf(&title, "%s runtime", name);
    add_value_row(table, title.data != NULL ? title.data : "", seconds, report->n_files,
                  UNIT_SECONDS);
    table->failed = table->failed || title.failed;
    mx_str_free(&title);
    mx_str_addf(&title, "%s speed", name);
    add_value_row(table, title.data != NULL ? title.data : "", rates, report->n_files, UNIT_RATE);
    table->failed = table->failed || title.failed;
    mx_str_free(&title);
}

/* ---- the whole ------------------------------------------------------------------ */

/* The files by their settings, since that is what a reader compares. */
static void add_header(const mx_compare_report *report, mx_md_table *table)
{
    mx_md_table_addf(table, "metric");
    for (size_t f = 0; f < report->n_files; f++) {
        mx_md_table_addf(table, "%s", report->files[f].specs);
        if (f > 0) {
            mx_md_table_addf(table, "change");
        }
    }
    for (size_t c = 1; c < table->columns; c++) {
        table->right[c] = true;
    }
}

/* Outside text on a line of its own. */
static void add_plain(mx_str *out, const char *text)
{
    for (; *text != '\0'; text++) {
        unsigned char c = (unsigned char)*text;
        char plain = c < 0x20 || c == 0x7F ? '?' : *text;
        mx_str_add_bytes(out, &plain, 1);
    }
}

/* Each file on a line: the table has no room for paths. */
static void add_files(const mx_compare_report *report, mx_str *out)
{
    for (size_t f = 0; f < report->n_files; f++) {
        const mx_compare_file *file = &report->files[f];
        mx_str_addf(out, "- %s: ", f == 0 ? "baseline" : f == report->rtn ? "RTN" : "new");
        add_plain(out, file->path);
        mx_str_add(out, ": ");
        add_plain(out, file->model);
        mx_str_add(out, ", ");
        add_plain(out, file->specs);
        mx_str_add(out, " (");
        add_plain(out, file->isa);
        mx_str_addf(out, ", %lld threads)", (long long)file->threads);
        if (file->base[0] != '\0') {
            mx_str_add(out, "; KL from ");
            add_plain(out, file->base);
            mx_str_add(out, ", ");
            add_plain(out, file->base_specs);
        }
        mx_str_add(out, "\n");
    }
    mx_str_add(out, "\n");
}

/* What must be known to read the figures, under them. */
static void add_notes(const mx_compare_report *report, mx_str *out)
{
    mx_str_add(out, "\n± is one standard error; that of a change is paired by document. "
                    "ln: the change of the perplexity's logarithm.\n");
    for (size_t t = 0; t < report->n_tasks; t++) {
        if (mx_compare_any(report, t)->kl != NULL) {
            mx_str_add(out, "KL divergence is from the base model's next-token distribution to "
                            "the file's, in nats a token.\n");
            break;
        }
    }
    for (size_t t = 0; t < report->n_tasks; t++) {
        if (strcmp(mx_compare_any(report, t)->name, "cloze") == 0) {
            mx_str_add(out, "cloze is mxlm's own set of embedded passages: its figures are not "
                            "LAMBADA's.\n");
        }
    }
    for (size_t i = 0; i < report->n_dropped; i++) {
        mx_str_add(out, i == 0 ? "Left out, because not every file has it: " : ", ");
        add_plain(out, report->dropped[i]);
    }
    mx_str_add(out, report->n_dropped > 0 ? "\n" : "");
}

static void add_rows(const mx_compare_report *report, mx_md_table *table)
{
    add_header(report, table);
    for (size_t t = 0; t < report->n_tasks; t++) {
        add_metric_row(report, t, MX_COMPARE_ACC, table);
        add_flips_row(report, t, table);
        for (int id = MX_COMPARE_PERPLEXITY; id < MX_COMPARE_METRICS; id++) {
            add_metric_row(report, t, (mx_compare_metric_id)id, table);
        }
        add_recovery_rows(report, t, table);
    }
    add_size_rows(report, table);
    for (size_t t = 0; t < report->n_tasks; t++) {
        add_time_rows(report, t, table);
    }
}

mx_status mx_compare_markdown(const mx_compare_report *report, char **out, mx_error *err)
{
    mx_md_table table = {.columns = 2 * report->n_files};
    mx_str text = {0};
    *out = NULL;
    add_files(report, &text);
    add_rows(report, &table);
    mx_status status = mx_md_table_render(&table, &text, err);
    if (status == MX_OK) {
        add_notes(report, &text);
        status = mx_str_take(&text, out, err);
    }
    mx_str_free(&text);
    mx_md_table_free(&table);
    return status;
}
