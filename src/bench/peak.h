/*
 * Loops that do nothing but what bounds a kernel: independent multiply-accumulates
 * from registers, and reads. One set of files an instruction set, compiled for it
 * (CMakeLists.txt), so that a bench compares a kernel with its own machine.
 */
#ifndef MX_BENCH_PEAK_H
#define MX_BENCH_PEAK_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

typedef struct mx_peak {
    const char *isa;             /* the kernel table (kernel.h) that it bounds */
    const struct mx_peak *below; /* whose fp32 and read loops serve where these are NULL */
    const char *int_name;        /* what the integer loop consists of, for reports */
    const char *f32_name;        /* the fp32 loop */
    bool any_block;              /* the integer loop bounds every block product */
    double int_macs, f32_macs;   /* multiply-accumulates of one step */
    void (*int_run)(uint64_t n); /* n steps */
    void (*f32_run)(uint64_t n);
    /* Loads every byte of [data, data + size), 64-byte aligned, size a multiple of
     * 1024; the sum keeps the loads alive. */
    uint64_t (*read)(const uint8_t *data, size_t size);
} mx_peak;

/* NULL when there is no measure for the kernels of that name. */
const mx_peak *mx_peak_find(const char *isa);

/* All of them, from the plainest on, each needing what those before it need; NULL at
 * the end of the list. */
const mx_peak *mx_peak_at(size_t index);

#define MX_PEAK(isa) extern const mx_peak mx_peak_##isa;
#include "bench/peaks.def"
#undef MX_PEAK

/* Independent chains of a loop: latency times ports of every core so far (5 x 2),
 * and registers to spare in the smallest file (16). */
#define MX_PEAK_CHAINS 12

#define MX_PEAK_PRAGMA(text) _Pragma(#text)
#define MX_PEAK_UNROLL MX_PEAK_PRAGMA(GCC unroll 12)

#endif
