/* Scalar code as the compiler makes it for the baseline processor. */
#include "bench/peak.h"

#include <string.h>

/* The empty asm makes a value unknown: the compiler can neither fold the loop nor
 * vectorize across it. */
#define HIDE(v) __asm__ volatile("" : "+r"(v))
#if defined(__x86_64__)
#define HIDE_FLOAT(v) __asm__ volatile("" : "+x"(v))
#else
#define HIDE_FLOAT(v) __asm__ volatile("" : "+w"(v))
#endif

enum { INT_CHAINS = 6 }; /* general registers are few */

static void int_run(uint64_t n)
{
    int32_t c[INT_CHAINS] = {0}, x = 3;
    HIDE(x);
    for (uint64_t j = 0; j < n; j++) {
        MX_PEAK_UNROLL
        for (int i = 0; i < INT_CHAINS; i++) {
            int32_t y = x;
            HIDE(y);
            c[i] += (int32_t)((uint32_t)y * (uint32_t)x & 0xFF);
            HIDE(c[i]);
        }
    }
}

static void f32_run(uint64_t n)
{
    float c[MX_PEAK_CHAINS] = {0}, x = 0.5f;
    for (uint64_t j = 0; j < n; j++) {
        MX_PEAK_UNROLL
        for (int i = 0; i < MX_PEAK_CHAINS; i++) {
            c[i] = c[i] * x + x;
            HIDE_FLOAT(c[i]);
        }
    }
}

static uint64_t read_bytes(const uint8_t *data, size_t size)
{
    uint64_t sum[4] = {0};
    for (size_t at = 0; at < size; at += 32) {
        uint64_t four[4];
        memcpy(four, data + at, sizeof four);
        for (int i = 0; i < 4; i++) {
            sum[i] += four[i];
        }
    }
    return sum[0] + sum[1] + sum[2] + sum[3];
}

const mx_peak mx_peak_ref = {
    .isa = "ref",
    .int_name = "scalar multiply and add",
    .f32_name = "scalar fp32 multiply and add",
    .int_macs = INT_CHAINS,
    .f32_macs = MX_PEAK_CHAINS,
    .int_run = int_run,
    .f32_run = f32_run,
    .read = read_bytes,
};
