#define _GNU_SOURCE
#include "base/team.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

/*
 * Workers wait for a job by spinning for a while, then sleep on a condition
 * variable: the gaps between the operations of a forward pass are microseconds,
 * and a futex wake-up costs about as much as a small projection.
 */
enum { TEAM_MAX_THREADS = 256, TEAM_SPINS = 4000 };

typedef struct mx_worker {
    mx_team *team;
    pthread_t thread;
    int index;
} mx_worker;

struct mx_team {
    int size;
    mx_worker *workers; /* [size - 1] */
    int n_started;

    pthread_mutex_t mutex;
    pthread_cond_t wake;
    atomic_uint generation; /* rises with every job */
    atomic_int sleepers;    /* workers inside pthread_cond_wait */
    atomic_int unfinished;  /* workers that have not finished the current job */
    atomic_bool quit;

    /* The job: written before `generation` rises, read after. */
    mx_range_fn fn;
    void *ctx;
    size_t n, grain;
    atomic_size_t next; /* first index nobody has taken */
};

static void cpu_relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Quota / period of a cgroup, rounded up; 0 when there is none. */
static int quota_cores(const char *path, const char *period_path)
{
    FILE *file = fopen(path, "r");
    long long quota = -1, period = 100000;
    if (file == NULL) {
        return 0;
    }
    /* v2: "max 100000" or "200000 100000"; v1: one number, -1 for none. */
    int fields = fscanf(file, "%lld %lld", &quota, &period);
    fclose(file);
    if (fields == 1 && period_path != NULL && (file = fopen(period_path, "r")) != NULL) {
        if (fscanf(file, "%lld", &period) != 1) {
            period = 0;
        }
        fclose(file);
    }
    if (fields < 1 || quota <= 0 || period <= 0) {
        return 0;
    }
    long long cores = (quota + period - 1) / period;
    return cores > TEAM_MAX_THREADS ? TEAM_MAX_THREADS : (int)cores;
}

int mx_cpu_available(void)
{
    cpu_set_t set;
    int cores = 1;
    if (sched_getaffinity(0, sizeof set, &set) == 0) {
        cores = CPU_COUNT(&set);
    }
    int quota = quota_cores("/sys/fs/cgroup/cpu.max", NULL);
    if (quota == 0) {
        quota = quota_cores("/sys/fs/cgroup/cpu/cpu.cfs_quota_us",
                            "/sys/fs/cgroup/cpu/cpu.cfs_period_us");
    }
    if (quota > 0 && quota < cores) {
        cores = quota;
    }
    return cores < 1 ? 1 : cores > TEAM_MAX_THREADS ? TEAM_MAX_THREADS : cores;
}

static void team_work(mx_team *team, int thread)
{
    for (;;) {
        size_t begin = atomic_fetch_add_explicit(&team->next, team->grain, memory_order_relaxed);
        if (begin >= team->n) {
            return;
        }
        size_t end = team->n - begin < team->grain ? team->n : begin + team->grain;
        team->fn(team->ctx, begin, end, thread);
    }
}

/* Waits until the generation differs from `seen`; false when the team ends. */
static bool team_wait(mx_team *team, unsigned seen)
{
    for (int spin = 0; spin < TEAM_SPINS; spin++) {
        if (atomic_load_explicit(&team->generation, memory_order_acquire) != seen) {
            return !atomic_load(&team->quit);
        }
        cpu_relax();
    }
    pthread_mutex_lock(&team->mutex);
    atomic_fetch_add(&team->sleepers, 1);
    while (atomic_load(&team->generation) == seen) {
        pthread_cond_wait(&team->wake, &team->mutex);
    }
    atomic_fetch_sub(&team->sleepers, 1);
    pthread_mutex_unlock(&team->mutex);
    return !atomic_load(&team->quit);
}

static void *worker_main(void *arg)
{
    mx_worker *worker = arg;
    mx_team *team = worker->team;
    unsigned seen = 0;
    while (team_wait(team, seen)) {
        seen++;
        team_work(team, worker->index);
        atomic_fetch_sub_explicit(&team->unfinished, 1, memory_order_release);
    }
    return NULL;
}

/* Makes the job (or the end) visible to all workers. */
static void team_publish(mx_team *team)
{
    atomic_fetch_add(&team->generation, 1);
    if (atomic_load(&team->sleepers) > 0) {
        pthread_mutex_lock(&team->mutex);
        pthread_cond_broadcast(&team->wake);
        pthread_mutex_unlock(&team->mutex);
    }
}

mx_status mx_team_create(int threads, mx_team **out, mx_error *err)
{
    *out = NULL;
    if (threads < 0 || threads > TEAM_MAX_THREADS) {
        return mx_error_set(err, MX_ERR_ARGUMENT, "threads: %d is outside 0 to %d", threads,
                            TEAM_MAX_THREADS);
    }
    int size = threads == 0 ? mx_cpu_available() : threads;
    mx_team *team = calloc(1, sizeof *team);
    mx_worker *workers = calloc((size_t)size, sizeof *workers);
    if (team == NULL || workers == NULL) {
        free(team);
        free(workers);
        return mx_error_nomem(err, "thread team", sizeof *team);
    }
    team->size = size;
    team->workers = workers;
    pthread_mutex_init(&team->mutex, NULL);
    pthread_cond_init(&team->wake, NULL);
    for (int i = 0; i < size - 1; i++) {
        workers[i] = (mx_worker){.team = team, .index = i + 1};
        if (pthread_create(&workers[i].thread, NULL, worker_main, &workers[i]) != 0) {
            mx_team_free(team);
            return mx_error_set(err, MX_ERR_IO, "cannot start thread %d of %d", i + 1, size);
        }
        team->n_started++;
    }
    *out = team;
    return MX_OK;
}

void mx_team_free(mx_team *team)
{
    if (team == NULL) {
        return;
    }
    atomic_store(&team->quit, true);
    team_publish(team);
    for (int i = 0; i < team->n_started; i++) {
        pthread_join(team->workers[i].thread, NULL);
    }
    pthread_cond_destroy(&team->wake);
    pthread_mutex_destroy(&team->mutex);
    free(team->workers);
    free(team);
}

int mx_team_size(const mx_team *team)
{
    return team == NULL ? 1 : team->size;
}

void mx_team_for(mx_team *team, size_t n, size_t grain, mx_range_fn fn, void *ctx)
{
    if (n == 0) {
        return;
    }
    if (grain == 0) {
        grain = 1;
    }
    /* One range is not worth waking anybody. */
    if (team == NULL || team->size == 1 || n <= grain) {
        for (size_t begin = 0; begin < n; begin += grain) {
            fn(ctx, begin, n - begin < grain ? n : begin + grain, 0);
        }
        return;
    }
    team->fn = fn;
    team->ctx = ctx;
    team->n = n;
    team->grain = grain;
    atomic_store(&team->next, 0);
    atomic_store(&team->unfinished, team->size - 1);
    team_publish(team);
    team_work(team, 0);
    /* Workers end within one range of each other; past that another process
     * holds the core, and it should get ours too. */
    for (int spin = 0; atomic_load_explicit(&team->unfinished, memory_order_acquire) > 0; spin++) {
        if (spin < TEAM_SPINS) {
            cpu_relax();
        } else {
            sched_yield();
        }
    }
}
