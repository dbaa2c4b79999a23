#include "bench/roof.h"

#include "base/clock.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
    CHUNK = 64 * 1024,             /* bytes that a thread reads at a time */
    READ_BYTES = 64 * 1024 * 1024, /* of one measurement at least */
    BUFFER_BYTES = 512 * 1024 * 1024,
    PEAK_STEPS = 10000, /* of one item: some 20 to 100 microseconds */
    PEAK_ITEMS = 64,    /* a thread */
};

/* Twice the last cache keeps nothing of one pass for the next; but a bench does not
 * take more than an eighth of the memory for that. */
size_t mx_roof_memory_size(void)
{
    long cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
    size_t size = cache > BUFFER_BYTES / 2 ? 2 * (size_t)cache : BUFFER_BYTES;
    size_t memory = (size_t)sysconf(_SC_PHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE);
    return size < memory / 8 ? size : memory / 8;
}

mx_status mx_roof_init(mx_roof *roof, const char *isa, size_t size, mx_error *err)
{
    *roof = (mx_roof){.integer = mx_peak_find(isa)};
    if (roof->integer == NULL) {
        return mx_error_set(err, MX_ERR_UNSUPPORTED, "bench: no peak loops for %s kernels", isa);
    }
    roof->wide = roof->integer->f32_run != NULL ? roof->integer : roof->integer->below;
    size = size == 0 ? CHUNK : (size + CHUNK - 1) / CHUNK * CHUNK;
    roof->buffer = aligned_alloc(CHUNK, size);
    if (roof->buffer == NULL) {
        return mx_error_nomem(err, "bench: read buffer", size);
    }
#if defined(MADV_HUGEPAGE)
    (void)madvise(roof->buffer, size, MADV_HUGEPAGE); /* fewer misses of the page tables */
#endif
    memset(roof->buffer, 1, size); /* pages of zeros could be one page */
    roof->size = size;
    return MX_OK;
}

void mx_roof_clear(mx_roof *roof)
{
    free(roof->buffer);
    *roof = (mx_roof){0};
}

typedef struct peak_job {
    void (*run)(uint64_t n);
} peak_job;

static void peak_range(void *ctx, size_t begin, size_t end, int thread)
{
    (void)thread;
    const peak_job *job = ctx;
    job->run(PEAK_STEPS * (uint64_t)(end - begin));
}

double mx_roof_peak(mx_team *team, void (*run)(uint64_t n), double macs)
{
    peak_job job = {run};
    size_t items = PEAK_ITEMS * (size_t)mx_team_size(team);
    double start = mx_clock_seconds();
    mx_team_for(team, items, 1, peak_range, &job);
    return macs * PEAK_STEPS * (double)items / (mx_clock_seconds() - start);
}

double mx_roof_int(const mx_roof *roof, mx_team *team)
{
    return mx_roof_peak(team, roof->integer->int_run, roof->integer->int_macs);
}

double mx_roof_f32(const mx_roof *roof, mx_team *team)
{
    return mx_roof_peak(team, roof->wide->f32_run, roof->wide->f32_macs);
}

typedef struct read_job {
    const mx_roof *roof;
    size_t n_chunks;       /* of the working set */
    _Atomic uint64_t sink; /* the sums' way out: no read is for nothing */
} read_job;

static void read_range(void *ctx, size_t begin, size_t end, int thread)
{
    (void)thread;
    read_job *job = ctx;
    uint64_t sum = 0;
    for (size_t i = begin; i < end; i++) {
        sum += job->roof->wide->read(job->roof->buffer + i % job->n_chunks * CHUNK, CHUNK);
    }
    atomic_fetch_add(&job->sink, sum);
}

double mx_roof_read(const mx_roof *roof, mx_team *team, size_t working_set)
{
    size_t all = roof->size / CHUNK, chunks = (working_set + CHUNK - 1) / CHUNK;
    chunks = chunks == 0 || chunks > all ? all : chunks;
    size_t passes = (READ_BYTES / CHUNK + chunks - 1) / chunks;
    read_job job = {.roof = roof, .n_chunks = chunks};
    double start = mx_clock_seconds();
    mx_team_for(team, passes * chunks, 4, read_range, &job);
    return (double)(passes * chunks) * CHUNK / (mx_clock_seconds() - start);
}

const char *mx_bound_name(mx_bound bound)
{
    static const char *const names[] = {
        [MX_BOUND_NONE] = "", [MX_BOUND_OPERATIONS] = "operations", [MX_BOUND_BYTES] = "bytes"};
    return names[bound];
}

double mx_work_seconds(const mx_work *work, double int_macs, double f32_macs, double bytes,
                       mx_bound *bound)
{
    double operations = 0, reading = 0;
    if (work->int_macs > 0) {
        operations += work->int_macs / int_macs;
    }
    if (work->f32_macs > 0) {
        operations += work->f32_macs / f32_macs;
    }
    if (work->bytes > 0) {
        reading = work->bytes / bytes;
    }
    *bound = reading > operations ? MX_BOUND_BYTES : MX_BOUND_OPERATIONS;
    return reading > operations ? reading : operations;
}

double mx_roof_seconds(const mx_roof *roof, mx_team *team, const mx_work *work, mx_bound *bound)
{
    double int_macs = work->int_macs > 0 ? mx_roof_int(roof, team) : 0;
    double f32_macs = work->f32_macs > 0 ? mx_roof_f32(roof, team) : 0;
    double bytes = work->bytes > 0 ? mx_roof_read(roof, team, work->working_set) : 0;
    return mx_work_seconds(work, int_macs, f32_macs, bytes, bound);
}
