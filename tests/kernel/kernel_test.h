/*
 * What the kernel tests share: the ladder of tables, buffers that end at a guard
 * page, reproducible data with the hard cases in it, comparison by bits.
 */
#ifndef MX_TESTS_KERNEL_TEST_H
#define MX_TESTS_KERNEL_TEST_H

#include "base/cpu.h"
#include "base/rng.h"
#include "format/dtype.h"
#include "kernel/kernel.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

/* Tables of this machine: the reference first, then each ISA it has. */
typedef struct ladder {
    mx_kernels tables[5];
    size_t count;
} ladder;

static inline ladder ladder_make(void)
{
    static const uint32_t steps[] = {0, MX_CPU_AVX2, MX_CPU_AVX2 | MX_CPU_AVX512,
                                     MX_CPU_AVX2 | MX_CPU_AVX512 | MX_CPU_AMX, MX_CPU_NEON};
    ladder all = {.count = 0};
    for (size_t i = 0; i < MX_COUNT(steps); i++) {
        mx_kernels table;
        mx_kernels_init(mx_cpu_detect() & steps[i], &table);
        bool seen = false; /* steps that this machine has not got repeat one that it has */
        for (size_t j = 0; j < all.count; j++) {
            seen |= strcmp(table.name, all.tables[j].name) == 0;
        }
        if (!seen) {
            all.tables[all.count++] = table;
        }
    }
    return all;
}

/* ---- memory ---------------------------------------------------------------- */

/* `size` bytes that end at (or, to keep `align`, just before) a page that cannot be
 * touched, and start behind one. */
typedef struct guarded {
    uint8_t *map;
    size_t map_size;
    void *data;
} guarded;

static inline guarded guarded_make(size_t size, size_t align)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t body = (size + page - 1) / page * page;
    guarded g = {.map_size = body + 2 * page};
    g.map = mmap(NULL, g.map_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(g.map != MAP_FAILED);
    assert_int_equal(mprotect(g.map + page, body, PROT_READ | PROT_WRITE), 0);
    size_t start = (body - size) / align * align;
    g.data = g.map + page + start;
    memset(g.map + page, 0xA5, body);
    return g;
}

static inline void guarded_free(guarded *g)
{
    munmap(g->map, g->map_size);
    g->data = NULL;
}

static inline guarded guarded_floats(size_t n)
{
    return guarded_make(n * sizeof(float), sizeof(float));
}

/* ---- data ------------------------------------------------------------------ */

/* A counter-based stream of numbers. */
typedef struct dice {
    uint64_t seed, count;
} dice;

static inline uint32_t dice_u32(dice *d)
{
    return mx_philox_u32(d->seed, 7, d->count++);
}

static inline size_t dice_below(dice *d, size_t n)
{
    return dice_u32(d) % n;
}

/* Roughly normal, with variance 1. */
static inline float dice_normal(dice *d)
{
    float sum = 0;
    for (int i = 0; i < 4; i++) {
        sum += (float)dice_u32(d) * 0x1p-32f - 0.5f;
    }
    return sum * 1.7320508f;
}

static inline float float_of_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline uint32_t bits_of_float(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

typedef enum data_kind {
    DATA_NORMAL,  /* well-behaved */
    DATA_WIDE,    /* each 8 elements at a magnitude of their own, zeros and ties among them */
    DATA_EXTREME, /* magnitudes near the ends of fp32, subnormals */
    DATA_SPECIAL, /* any bit pattern, NaN and Inf included, now and then */
    DATA_KINDS,
} data_kind;

static inline float dice_float(dice *d, data_kind kind, int magnitude)
{
    float x = dice_normal(d);
    switch (kind) {
    case DATA_NORMAL:
        return x;
    case DATA_WIDE:
        if (dice_below(d, 4) == 0) { /* on or between grid points of small formats */
            x = (float)dice_below(d, 33) * 0.0625f * (dice_below(d, 2) ? 1 : -1);
        }
        return magnitude % 7 == 0 ? 0.0f * x : ldexpf(x, magnitude % 24 - 12);
    case DATA_EXTREME:
        return ldexpf(x, magnitude % 2 ? 120 + magnitude % 8 : -130 - magnitude % 16);
    default:
        return dice_below(d, 64) == 0 ? float_of_bits(dice_u32(d)) : x;
    }
}

static inline void dice_fill(dice *d, data_kind kind, float *x, size_t n)
{
    int magnitude = 0;
    for (size_t i = 0; i < n; i++) {
        magnitude = i % 8 == 0 ? (int)dice_below(d, 1000) : magnitude;
        x[i] = dice_float(d, kind, magnitude);
    }
}

/* ---- comparison ------------------------------------------------------------ */

/* Bit for bit; any NaN equals any NaN. */
static inline bool same_float(float a, float b)
{
    return bits_of_float(a) == bits_of_float(b) || (isnan(a) && isnan(b));
}

static inline void assert_same(const float *got, const float *want, size_t n, const char *what)
{
    for (size_t i = 0; i < n; i++) {
        if (!same_float(got[i], want[i])) {
            fail_msg("%s: element %zu of %zu is %a, not %a", what, i, n, (double)got[i],
                     (double)want[i]);
        }
    }
}

#endif
