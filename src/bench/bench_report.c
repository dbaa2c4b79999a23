/* What a bench found, as text, CSV and JSON. */
#include "bench/bench_impl.h"

#include "base/file.h"
#include "base/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ---- statistics -------------------------------------------------------------- */

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double mx_bench_median(const double *values, size_t n)
{
    double sorted[MX_BENCH_MAX_ROUNDS];
    n = n < MX_BENCH_MAX_ROUNDS ? n : MX_BENCH_MAX_ROUNDS;
    if (n == 0) {
        return 0;
    }
    memcpy(sorted, values, n * sizeof *sorted);
    qsort(sorted, n, sizeof *sorted, compare_doubles);
    return n % 2 != 0 ? sorted[n / 2] : (sorted[n / 2 - 1] + sorted[n / 2]) / 2;
}

double mx_bench_row_value(const mx_bench_row *row)
{
    return mx_bench_median(row->values, row->n);
}

double mx_bench_row_share(const mx_bench_row *row)
{
    double shares[MX_BENCH_MAX_ROUNDS];
    if (row->bound == MX_BOUND_NONE) {
        return 0;
    }
    for (uint32_t i = 0; i < row->n; i++) {
        shares[i] = row->values[i] / row->roofs[i];
    }
    return mx_bench_median(shares, row->n);
}

static double row_least(const mx_bench_row *row)
{
    double least = row->n > 0 ? row->values[0] : 0;
    for (uint32_t i = 1; i < row->n; i++) {
        least = row->values[i] < least ? row->values[i] : least;
    }
    return least;
}

static double row_most(const mx_bench_row *row)
{
    double most = row->n > 0 ? row->values[0] : 0;
    for (uint32_t i = 1; i < row->n; i++) {
        most = row->values[i] > most ? row->values[i] : most;
    }
    return most;
}

/* ---- where and when ------------------------------------------------------------ */

typedef struct facts {
    char cpu[80];
    char date[32];  /* UTC, ISO 8601 */
    char *numerics; /* mx_specs_describe */
} facts;

static void read_cpu(char *out, size_t size)
{
    char line[256];
    snprintf(out, size, "unknown processor");
    FILE *file = fopen("/proc/cpuinfo", "r");
    if (file == NULL) {
        return;
    }
    while (fgets(line, sizeof line, file) != NULL) {
        const char *value = strchr(line, ':');
        if (strncmp(line, "model name", 10) == 0 && value != NULL) {
            snprintf(out, size, "%.*s", (int)strcspn(value + 2, "\n"), value + 2);
            break;
        }
    }
    fclose(file);
}

static mx_status facts_init(facts *f, const mx_bench *bench, mx_error *err)
{
    time_t now = time(NULL);
    struct tm utc;
    gmtime_r(&now, &utc);
    strftime(f->date, sizeof f->date, "%Y-%m-%dT%H:%M:%SZ", &utc);
    read_cpu(f->cpu, sizeof f->cpu);
    return mx_specs_describe(&bench->model->specs, &f->numerics, err);
}

/* ---- table ------------------------------------------------------------------- */

static void add_heading(mx_str *text, const mx_bench *bench, const facts *f)
{
    const mx_llama_config *c = &bench->model->config;
    mx_str_addf(text, "mxlm %s, %s, %d cores, %s kernels", MX_VERSION, f->cpu, mx_cpu_available(),
                bench->model->backend.kernels.name);
    if (bench->load_average >= 0) {
        mx_str_addf(text, ", load average %.1f at the start", bench->load_average);
    }
    mx_str_addf(text, "\n%s%s: %u layers, hidden %u, intermediate %u, vocabulary %u\n",
                bench->source->name, bench->source->from_file ? "" : " (random weights)", c->layers,
                c->hidden, c->intermediate, c->vocab);
    mx_str_addf(text, "%s\n", f->numerics);
    mx_str_addf(text,
                "Medians of %u rounds. bound: what limits the step on this machine, by the limits\n"
                "measured around it; share: of that bound, the median of the rounds' shares.\n",
                bench->rounds);
}

static void add_row(mx_str *text, const mx_bench_row *row)
{
    char tokens[16] = "";
    if (row->tokens != 0) {
        snprintf(tokens, sizeof tokens, "%u", row->tokens);
    }
    mx_str_addf(text, "  %-38s %6s %7u %10.3f %10.3f  %-8s", row->name, tokens, row->threads,
                mx_bench_row_value(row), row_most(row), row->unit);
    if (row->bound != MX_BOUND_NONE) {
        mx_str_addf(text, " %-10s %10.3f %6.3f", mx_bound_name(row->bound),
                    mx_bench_median(row->roofs, row->n), mx_bench_row_share(row));
    }
    /* No blanks at the end of a line. */
    while (text->length > 0 && text->data[text->length - 1] == ' ') {
        text->data[--text->length] = '\0';
    }
    mx_str_add(text, "\n");
}

/* The sections in this order, whatever order their rows were planned in. */
static const char *const sections[] = {"machine", "load", "kernel", "prefill", "decode", "peer"};

static void add_section(mx_str *text, const mx_bench *bench, const char *section)
{
    bool empty = true;
    for (size_t i = 0; i < bench->n_rows; i++) {
        const mx_bench_row *row = &bench->rows[i];
        if (strcmp(row->section, section) != 0 || row->n == 0) {
            continue;
        }
        if (empty) {
            mx_str_addf(text, "\n%-40s %6s %7s %10s %10s  %-8s %-10s %10s %6s\n", section, "tokens",
                        "threads", "median", "largest", "unit", "bound", "at bound", "share");
            empty = false;
        }
        add_row(text, row);
    }
}

mx_status mx_bench_table(const mx_bench *bench, char **out, mx_error *err)
{
    facts f;
    mx_str text = {0};
    MX_TRY(facts_init(&f, bench, err));
    add_heading(&text, bench, &f);
    for (size_t i = 0; i < MX_COUNT(sections); i++) {
        add_section(&text, bench, sections[i]);
    }
    free(f.numerics);
    return mx_str_take(&text, out, err);
}

/* ---- CSV --------------------------------------------------------------------- */

/* A field by RFC 4180. */
static void add_field(mx_str *text, const char *field)
{
    bool quote = strpbrk(field, ",\"\n") != NULL;
    mx_str_add(text, quote ? "\"" : "");
    for (const char *c = field; *c != '\0'; c++) {
        if (*c == '"') {
            mx_str_add(text, "\"");
        }
        mx_str_add_bytes(text, c, 1);
    }
    mx_str_add(text, quote ? "\"" : "");
}

static void add_csv_row(mx_str *text, const mx_bench *bench, const facts *f,
                        const mx_bench_row *row)
{
    const char *const fields[] = {f->date,
                                  f->cpu,
                                  bench->model->backend.kernels.name,
                                  mx_path_base(bench->source->name),
                                  f->numerics,
                                  row->section,
                                  row->name};
    for (size_t i = 0; i < MX_COUNT(fields); i++) {
        add_field(text, fields[i]);
        mx_str_add(text, ",");
    }
    mx_str_addf(text, "%u,%u,%u,%s,%.6g,%.6g,%.6g,", row->tokens, row->threads, row->n, row->unit,
                mx_bench_row_value(row), row_least(row), row_most(row));
    if (row->bound != MX_BOUND_NONE) {
        mx_str_addf(text, "%s,%.6g,%.4f\n", mx_bound_name(row->bound),
                    mx_bench_median(row->roofs, row->n), mx_bench_row_share(row));
    } else {
        mx_str_add(text, ",,\n");
    }
}

mx_status mx_bench_csv(const mx_bench *bench, char **out, mx_error *err)
{
    facts f;
    mx_str text = {0};
    MX_TRY(facts_init(&f, bench, err));
    mx_str_add(&text, "date,cpu,kernels,model,numerics,section,name,tokens,threads,rounds,unit,"
                      "median,least,most,bound,at_bound,share\n");
    for (size_t i = 0; i < bench->n_rows; i++) {
        if (bench->rows[i].n > 0) {
            add_csv_row(&text, bench, &f, &bench->rows[i]);
        }
    }
    free(f.numerics);
    return mx_str_take(&text, out, err);
}

/* ---- JSON -------------------------------------------------------------------- */

static json_t *numbers_json(const double *values, size_t n)
{
    json_t *list = json_array();
    for (size_t i = 0; list != NULL && i < n; i++) {
        if (json_array_append_new(list, json_real(values[i])) != 0) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

static json_t *row_json(const mx_bench_row *row)
{
    bool bound = row->bound != MX_BOUND_NONE;
    return json_pack("{s:s, s:s, s:I, s:I, s:s, s:f, s:o, s:o, s:o, s:o, s:o}", "section",
                     row->section, "name", row->name, "tokens", (json_int_t)row->tokens, "threads",
                     (json_int_t)row->threads, "unit", row->unit, "median", mx_bench_row_value(row),
                     "rounds", numbers_json(row->values, row->n), "bound",
                     bound ? json_string(mx_bound_name(row->bound)) : json_null(), "at_bound",
                     bound ? json_real(mx_bench_median(row->roofs, row->n)) : json_null(), "share",
                     bound ? json_real(mx_bench_row_share(row)) : json_null(), "at_bound_rounds",
                     bound ? numbers_json(row->roofs, row->n) : json_null());
}

static json_t *rows_json(const mx_bench *bench)
{
    json_t *rows = json_array();
    for (size_t i = 0; rows != NULL && i < bench->n_rows; i++) {
        const mx_bench_row *row = &bench->rows[i];
        if (row->n > 0 && json_array_append_new(rows, row_json(row)) != 0) {
            json_decref(rows);
            return NULL;
        }
    }
    return rows;
}

static json_t *report_json(const mx_bench *bench, const facts *f, json_t *config, json_t *specs)
{
    /* "o" takes over the references, also when packing fails. */
    return json_pack("{s:s, s:s, s:s, s:i, s:s, s:f, s:s%, s:b, s:o, s:o, s:s, s:i, s:o}", "mxlm",
                     MX_VERSION, "date", f->date, "cpu", f->cpu, "cores", mx_cpu_available(),
                     "kernels", bench->model->backend.kernels.name, "load_average",
                     bench->load_average, "model", bench->source->name, strlen(bench->source->name),
                     "random_weights", !bench->source->from_file, "config", config, "specs", specs,
                     "numerics", f->numerics, "rounds", (int)bench->rounds, "rows",
                     rows_json(bench));
}

mx_status mx_bench_json(const mx_bench *bench, char **out, mx_error *err)
{
    facts f;
    json_t *config = NULL, *specs = NULL;
    MX_TRY(facts_init(&f, bench, err));
    mx_status status = mx_llama_config_to_json(&bench->model->config, &config, err);
    if (status == MX_OK) {
        status = mx_specs_to_json(&bench->model->specs, &specs, err);
    }
    if (status == MX_OK) {
        json_t *root = report_json(bench, &f, config, specs);
        config = specs = NULL;
        status = root != NULL ? mx_json_dump(root, 2, out, err)
                              : mx_error_set(err, MX_ERR_NOMEM, "bench: JSON");
        json_decref(root);
    }
    json_decref(config);
    json_decref(specs);
    free(f.numerics);
    return status;
}
