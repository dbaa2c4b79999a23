/*
 * A team of threads. Work is split over items whose results do not depend on
 * which thread computes them: threads split rows or tokens, never a sum.
 */
#ifndef MX_BASE_TEAM_H
#define MX_BASE_TEAM_H

#include "base/status.h"

typedef struct mx_team mx_team;

/* Cores this process may use: affinity and cgroup v1/v2 CPU quota, at least 1. */
int mx_cpu_available(void);

/* A team of `threads` (0: mx_cpu_available(); at most 256), the caller being
 * one of them. */
mx_status mx_team_create(int threads, mx_team **out, mx_error *err);
void mx_team_free(mx_team *team);
int mx_team_size(const mx_team *team);

/*
 * Calls `fn(ctx, begin, end, thread)` for ranges that cover [0, n) once, each a
 * multiple of `grain` long but for the last; `thread` is in [0, size). Returns
 * when all are done. A NULL team runs in the caller. Not reentrant.
 */
typedef void (*mx_range_fn)(void *ctx, size_t begin, size_t end, int thread);
void mx_team_for(mx_team *team, size_t n, size_t grain, mx_range_fn fn, void *ctx);

#endif
