/*
 * The machine's limits, measured with a team of threads in the moment a program's
 * step is measured: neighbours slow both, so only their ratio means something.
 */
#ifndef MX_BENCH_ROOF_H
#define MX_BENCH_ROOF_H

#include "base/team.h"
#include "bench/peak.h"

typedef struct mx_roof {
    const mx_peak *integer, *wide; /* integer loops; fp32 and read loops */
    uint8_t *buffer;               /* [size], owned */
    size_t size;                   /* what "from memory" means: beyond the last cache if possible */
} mx_roof;

/* `isa` is the name of the kernel table; `size` the largest working set that will be
 * asked for. An ISA without loops of its own is MX_ERR_UNSUPPORTED. */
mx_status mx_roof_init(mx_roof *roof, const char *isa, size_t size, mx_error *err);
void mx_roof_clear(mx_roof *roof);

/* Multiply-accumulates a second of all the team's threads together: of any loops,
 * and of those of the roof. */
double mx_roof_peak(mx_team *team, void (*run)(uint64_t n), double macs);
double mx_roof_int(const mx_roof *roof, mx_team *team);
double mx_roof_f32(const mx_roof *roof, mx_team *team);

/* A working set that lies in memory, beyond the last cache if possible. */
size_t mx_roof_memory_size(void);

/* Bytes a second that the team reads, over and over through `working_set` bytes
 * (0: the whole buffer): the speed depends on the cache that holds them. */
double mx_roof_read(const mx_roof *roof, mx_team *team, size_t working_set);

/* ---- the bound of a step ----------------------------------------------------- */

/* The least that a step has to do. */
typedef struct mx_work {
    double int_macs, f32_macs; /* products with weights, in their arithmetic */
    double bytes;              /* weights and KV read */
    size_t working_set;        /* bytes that repetitions of the step go through */
} mx_work;

typedef enum mx_bound {
    MX_BOUND_NONE, /* not measured against a limit */
    MX_BOUND_OPERATIONS,
    MX_BOUND_BYTES,
} mx_bound;

const char *mx_bound_name(mx_bound bound);

/* Seconds that the work takes at the limits (operations and bytes overlap), and
 * which of them binds. */
double mx_work_seconds(const mx_work *work, double int_macs, double f32_macs, double bytes,
                       mx_bound *bound);

/* The same with limits measured now. */
double mx_roof_seconds(const mx_roof *roof, mx_team *team, const mx_work *work, mx_bound *bound);

#endif
