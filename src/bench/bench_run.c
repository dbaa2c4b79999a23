/* The run: what to measure, then rounds over all of it. */
#include "bench/bench_impl.h"

#include "base/clock.h"

#include <stdlib.h>
#include <string.h>

enum { ROUNDS = 7, QUICK_ROUNDS = 3, MAX_THREADS = 256 };

/* ---- rows -------------------------------------------------------------------- */

mx_status mx_bench_add(mx_bench *bench, const mx_bench_row *row, size_t *index, mx_error *err)
{
    if (bench->n_rows == bench->capacity) {
        size_t capacity = bench->capacity > 0 ? 2 * bench->capacity : 64;
        mx_bench_row *rows = realloc(bench->rows, capacity * sizeof *rows);
        if (rows == NULL) {
            return mx_error_nomem(err, "bench: rows", capacity * sizeof *rows);
        }
        bench->rows = rows;
        bench->capacity = capacity;
    }
    bench->rows[bench->n_rows] = *row;
    if (index != NULL) {
        *index = bench->n_rows;
    }
    bench->n_rows++;
    return MX_OK;
}

void mx_bench_record(mx_bench_row *row, double value, double roof)
{
    if (row->n < MX_BENCH_MAX_ROUNDS) {
        row->values[row->n] = value;
        row->roofs[row->n] = roof;
        row->n++;
    }
}

/* ---- options ----------------------------------------------------------------- */

static const char *const sections[] = {"machine", "load", "kernel", "prefill", "decode", "peer"};

/* Calls `see` for each word of a list with commas between. */
static mx_status each_word(const char *list, mx_status (*see)(mx_bench *, const char *, mx_error *),
                           mx_bench *bench, mx_error *err)
{
    for (const char *at = list;; at++) {
        size_t length = strcspn(at, ",");
        char word[32] = {0};
        memcpy(word, at, length < sizeof word ? length : sizeof word - 1);
        MX_TRY(see(bench, word, err));
        at += length;
        if (*at == '\0') {
            return MX_OK;
        }
    }
}

static mx_status see_section(mx_bench *bench, const char *word, mx_error *err)
{
    (void)bench;
    for (size_t i = 0; i < MX_COUNT(sections); i++) {
        if (strcmp(word, sections[i]) == 0) {
            return MX_OK;
        }
    }
    return mx_error_set(err, MX_ERR_ARGUMENT,
                        "only: '%s' is not one of machine, load, kernel, prefill, decode, peer",
                        word);
}

bool mx_bench_wants(const mx_bench *bench, const char *section)
{
    const char *only = bench->options->only;
    size_t length = strlen(section);
    while (only != NULL) {
        if (strncmp(only, section, length) == 0 && (only[length] == ',' || only[length] == '\0')) {
            return true;
        }
        only = strchr(only, ',');
        if (only == NULL) {
            return false;
        }
        only++;
    }
    return true;
}

static mx_status see_count(mx_bench *bench, const char *word, mx_error *err)
{
    char *end;
    long count = strtol(word, &end, 10);
    if (*word == '\0' || *end != '\0' || count < 1 || count > MAX_THREADS) {
        return mx_error_set(err, MX_ERR_ARGUMENT, "threads: '%s' is not a number from 1 to %d",
                            word, MAX_THREADS);
    }
    if (bench->n_counts == MX_BENCH_MAX_COUNTS) {
        return mx_error_set(err, MX_ERR_ARGUMENT, "threads: more than %u counts",
                            MX_BENCH_MAX_COUNTS);
    }
    bench->counts[bench->n_counts++] = (uint32_t)count;
    return MX_OK;
}

static mx_status read_options(mx_bench *bench, mx_error *err)
{
    const mx_bench_options *options = bench->options;
    if (options->only != NULL) {
        MX_TRY(each_word(options->only, see_section, bench, err));
    }
    if (options->threads != NULL) {
        MX_TRY(each_word(options->threads, see_count, bench, err));
    } else {
        int all = mx_cpu_available();
        bench->counts[bench->n_counts++] = 1;
        if (all > 1) {
            bench->counts[bench->n_counts++] = (uint32_t)all;
        }
    }
    for (uint32_t c = 0; c < bench->n_counts; c++) {
        bench->max_threads =
            bench->counts[c] > bench->max_threads ? bench->counts[c] : bench->max_threads;
    }
    if ((options->peer_path == NULL) != (options->peer_model == NULL)) {
        return mx_error_set(err, MX_ERR_ARGUMENT, "a peer needs its program and its model file");
    }
    if (options->peer_path != NULL && !mx_bench_wants(bench, "peer")) {
        return mx_error_set(err, MX_ERR_ARGUMENT, "only: '%s' leaves out the peer that is given",
                            options->only);
    }
    bench->rounds = options->rounds > 0 ? options->rounds : options->quick ? QUICK_ROUNDS : ROUNDS;
    if (bench->rounds > MX_BENCH_MAX_ROUNDS) {
        return mx_error_set(err, MX_ERR_ARGUMENT, "rounds: %u is more than %u", bench->rounds,
                            MX_BENCH_MAX_ROUNDS);
    }
    return MX_OK;
}

/* ---- the machine ------------------------------------------------------------- */

static mx_status run_peak(mx_bench *bench, const mx_bench_row *row, double *seconds, mx_error *err)
{
    (void)err;
    *seconds = 1e9 / mx_roof_peak(bench->model->backend.team, row->peak_run, row->peak_macs);
    return MX_OK;
}

static mx_status run_read(mx_bench *bench, const mx_bench_row *row, double *seconds, mx_error *err)
{
    (void)row;
    (void)err;
    *seconds = 1e9 / mx_roof_read(&bench->roof, bench->model->backend.team, 0);
    return MX_OK;
}

static mx_status add_peak(mx_bench *bench, uint32_t threads, const char *name,
                          void (*run)(uint64_t n), double macs, mx_error *err)
{
    mx_bench_row row = {
        .section = "machine",
        .threads = threads,
        .unit = "GMAC/s",
        .amount = 1,
        .run = run_peak,
        .peak_run = run,
        .peak_macs = macs,
    };
    snprintf(row.name, sizeof row.name, "%s", name);
    return mx_bench_add(bench, &row, NULL, err);
}

/* Of every instruction set up to that of the kernels: what each brought shows side by
 * side. */
static mx_status add_peaks(mx_bench *bench, uint32_t threads, mx_error *err)
{
    const mx_peak *peak = NULL;
    for (size_t i = 0; peak != bench->roof.integer; i++) {
        peak = mx_peak_at(i);
        MX_TRY(add_peak(bench, threads, peak->int_name, peak->int_run, peak->int_macs, err));
        if (peak->f32_run != NULL) {
            MX_TRY(add_peak(bench, threads, peak->f32_name, peak->f32_run, peak->f32_macs, err));
        }
    }
    return MX_OK;
}

mx_status mx_bench_plan_machine(mx_bench *bench, mx_error *err)
{
    if (!mx_bench_wants(bench, "machine")) {
        return MX_OK;
    }
    for (uint32_t c = 0; c < bench->n_counts; c++) {
        mx_bench_row row = {.section = "machine",
                            .threads = bench->counts[c],
                            .unit = "GB/s",
                            .amount = 1,
                            .run = run_read};
        MX_TRY(add_peaks(bench, bench->counts[c], err));
        snprintf(row.name, sizeof row.name, "read %.0f MB", (double)bench->roof.size / 1e6);
        MX_TRY(mx_bench_add(bench, &row, NULL, err));
    }
    return MX_OK;
}

/* ---- rounds ------------------------------------------------------------------ */

/* One team at a time: idle threads of another would wait on the same cores. */
static mx_status use_threads(mx_bench *bench, uint32_t threads, mx_error *err)
{
    mx_backend *backend = &bench->model->backend;
    if ((uint32_t)mx_team_size(backend->team) == threads) {
        return MX_OK;
    }
    mx_team *team;
    MX_TRY(mx_team_create((int)threads, &team, err));
    mx_team_free(backend->team);
    backend->team = team;
    return MX_OK;
}

static mx_status report_progress(mx_bench *bench, mx_error *err)
{
    mx_progress progress = {
        .stage = "bench",
        .unit = "runs",
        .done = bench->runs_done,
        .total = bench->runs_total,
        .seconds = mx_clock_seconds() - bench->started,
    };
    if (bench->watch.fn != NULL && !bench->watch.fn(bench->watch.ctx, &progress)) {
        return mx_error_set(err, MX_ERR_CANCELLED, "bench: interrupted");
    }
    return MX_OK;
}

static bool has_bound(const mx_bench_row *row)
{
    return row->work.int_macs + row->work.f32_macs + row->work.bytes > 0;
}

/* The limits before and after the step, at the same threads: a neighbour who comes
 * in between is seen by one of them. */
static mx_status measure(mx_bench *bench, size_t index, mx_error *err)
{
    double seconds, least = 0, roof = 0;
    mx_bench_row *row = &bench->rows[index];
    MX_TRY(use_threads(bench, row->threads, err));
    mx_team *team = bench->model->backend.team;
    if (has_bound(row)) {
        least = mx_roof_seconds(&bench->roof, team, &row->work, &row->bound);
    }
    MX_TRY(row->run(bench, row, &seconds, err));
    if (has_bound(row)) {
        least += mx_roof_seconds(&bench->roof, team, &row->work, &row->bound);
        roof = row->amount / (least / 2);
    }
    mx_bench_record(row, row->amount / seconds, roof);
    bench->runs_done++;
    return report_progress(bench, err);
}

static uint32_t rounds_of(const mx_bench *bench, const mx_bench_row *row)
{
    bool fewer = row->max_rounds != 0 && row->max_rounds < bench->rounds;
    return fewer ? row->max_rounds : bench->rounds;
}

/* Pages, caches and clock speeds settle before anything counts. */
static mx_status warm_up(mx_bench *bench, mx_error *err)
{
    for (size_t i = 0; i < bench->n_rows; i++) {
        const mx_bench_row *row = &bench->rows[i];
        bench->runs_total += row->run != NULL ? rounds_of(bench, row) : 0;
    }
    for (size_t i = 0; i < bench->n_rows; i++) {
        const mx_bench_row *row = &bench->rows[i];
        if (row->run != NULL && row->warm) {
            double seconds;
            MX_TRY(use_threads(bench, row->threads, err));
            MX_TRY(row->run(bench, row, &seconds, err));
            MX_TRY(report_progress(bench, err));
        }
    }
    return MX_OK;
}

static mx_status run_rounds(mx_bench *bench, mx_error *err)
{
    MX_TRY(warm_up(bench, err));
    for (uint32_t round = 0; round < bench->rounds; round++) {
        for (size_t i = 0; i < bench->n_rows; i++) {
            const mx_bench_row *row = &bench->rows[i];
            if (row->run != NULL && round < rounds_of(bench, row)) {
                MX_TRY(measure(bench, i, err));
            }
        }
        MX_TRY(mx_bench_peer_round(bench, err));
    }
    return MX_OK;
}

/* The largest working set that is read. */
static size_t largest_set(const mx_bench *bench)
{
    size_t bytes = mx_bench_wants(bench, "machine") ? mx_roof_memory_size() : 0;
    for (size_t i = 0; i < bench->n_rows; i++) {
        size_t set = bench->rows[i].work.working_set;
        bytes = set > bytes ? set : bytes;
    }
    return bytes;
}

static mx_status plan(mx_bench *bench, mx_error *err)
{
    MX_TRY(mx_bench_plan_kernels(bench, err));
    MX_TRY(mx_bench_plan_model(bench, err));
    MX_TRY(mx_bench_plan_peer(bench, err));
    MX_TRY(mx_roof_init(&bench->roof, bench->model->backend.kernels.name, largest_set(bench), err));
    return mx_bench_plan_machine(bench, err);
}

static void bench_clear(mx_bench *bench)
{
    mx_bench_free_kernels(bench);
    mx_session_free(bench->session);
    mx_model_close(bench->model);
    mx_roof_clear(&bench->roof);
    free(bench->tokens);
    free(bench->logits);
    free(bench->rows);
}

mx_status mx_bench_run(const mx_bench_source *source, const mx_bench_options *options,
                       mx_watch watch, char **table, char **csv, char **json, mx_error *err)
{
    mx_bench bench = {.source = source,
                      .options = options,
                      .watch = watch,
                      .started = mx_clock_seconds(),
                      .load_average = -1};
    mx_status status;
    *table = *csv = *json = NULL;
    (void)getloadavg(&bench.load_average, 1);
    MX_TRY_GOTO(status, read_options(&bench, err));
    MX_TRY_GOTO(status, mx_bench_load(&bench, err));
    MX_TRY_GOTO(status, plan(&bench, err));
    MX_TRY_GOTO(status, run_rounds(&bench, err));
    MX_TRY_GOTO(status, mx_bench_csv(&bench, csv, err));
    MX_TRY_GOTO(status, mx_bench_json(&bench, json, err));
    MX_TRY_GOTO(status, mx_bench_table(&bench, table, err));
done:
    if (status != MX_OK) {
        free(*csv);
        free(*json);
        *csv = *json = NULL;
    }
    bench_clear(&bench);
    return status;
}
