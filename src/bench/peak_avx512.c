/* AVX-512: vpdpbusd on zmm registers, 64 products of bytes an instruction. */
#include "bench/peak.h"

#if defined(__AVX512VNNI__)
#include <immintrin.h>

#define HIDE(v) __asm__ volatile("" : "+v"(v))

static void int_run(uint64_t n)
{
    __m512i c[MX_PEAK_CHAINS], x = _mm512_set1_epi8(1);
    MX_PEAK_UNROLL
    for (int i = 0; i < MX_PEAK_CHAINS; i++) {
        c[i] = _mm512_setzero_si512();
    }
    for (uint64_t j = 0; j < n; j++) {
        MX_PEAK_UNROLL
        for (int i = 0; i < MX_PEAK_CHAINS; i++) {
            c[i] = _mm512_dpbusd_epi32(c[i], x, x);
            HIDE(c[i]);
        }
    }
}

static void f32_run(uint64_t n)
{
    __m512 c[MX_PEAK_CHAINS], x = _mm512_set1_ps(0.5f);
    MX_PEAK_UNROLL
    for (int i = 0; i < MX_PEAK_CHAINS; i++) {
        c[i] = _mm512_set1_ps(1);
    }
    for (uint64_t j = 0; j < n; j++) {
        MX_PEAK_UNROLL
        for (int i = 0; i < MX_PEAK_CHAINS; i++) {
            c[i] = _mm512_fmadd_ps(c[i], x, x);
            HIDE(c[i]);
        }
    }
}

/* Cache lines that reading asks for ahead of its loads: with the hardware's own
 * prefetchers alone one core draws less than it can. */
enum { AHEAD = 2048 };

static uint64_t read_bytes(const uint8_t *data, size_t size)
{
    __m512i sum[8];
    for (int i = 0; i < 8; i++) {
        sum[i] = _mm512_setzero_si512();
    }
    for (size_t at = 0; at < size; at += 512) {
        for (int i = 0; i < 8; i++) {
            const uint8_t *from = data + at + 64 * i;
            _mm_prefetch((const char *)from + AHEAD, _MM_HINT_T0);
            sum[i] = _mm512_xor_si512(sum[i], _mm512_load_si512((const void *)from));
        }
    }
    for (int i = 1; i < 8; i++) {
        sum[0] = _mm512_xor_si512(sum[0], sum[i]);
    }
    return (uint64_t)_mm512_reduce_add_epi64(sum[0]);
}

const mx_peak mx_peak_avx512 = {
    .isa = "avx512",
    .int_name = "vpdpbusd zmm",
    .f32_name = "vfmadd zmm",
    .int_macs = 64 * MX_PEAK_CHAINS,
    .f32_macs = 16 * MX_PEAK_CHAINS,
    .int_run = int_run,
    .f32_run = f32_run,
    .read = read_bytes,
};
#endif
