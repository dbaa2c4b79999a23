/* AVX2: 32 products of bytes by vpmaddubsw and the addition of their 16-bit sums. */
#include "bench/peak.h"

#if defined(__AVX2__)
#include <immintrin.h>

#define HIDE(v) __asm__ volatile("" : "+x"(v))

static void int_run(uint64_t n)
{
    __m256i c[MX_PEAK_CHAINS], x = _mm256_set1_epi8(1);
    MX_PEAK_UNROLL
    for (int i = 0; i < MX_PEAK_CHAINS; i++) {
        c[i] = _mm256_setzero_si256();
    }
    for (uint64_t j = 0; j < n; j++) {
        MX_PEAK_UNROLL
        for (int i = 0; i < MX_PEAK_CHAINS; i++) {
            HIDE(x); /* or the product would be taken once, before the loop */
            c[i] = _mm256_add_epi16(c[i], _mm256_maddubs_epi16(x, x));
            HIDE(c[i]);
        }
    }
}

static void f32_run(uint64_t n)
{
    __m256 c[MX_PEAK_CHAINS], x = _mm256_set1_ps(0.5f);
    MX_PEAK_UNROLL
    for (int i = 0; i < MX_PEAK_CHAINS; i++) {
        c[i] = _mm256_set1_ps(1);
    }
    for (uint64_t j = 0; j < n; j++) {
        MX_PEAK_UNROLL
        for (int i = 0; i < MX_PEAK_CHAINS; i++) {
            c[i] = _mm256_fmadd_ps(c[i], x, x);
            HIDE(c[i]);
        }
    }
}

static uint64_t read_bytes(const uint8_t *data, size_t size)
{
    __m256i sum[8];
    for (int i = 0; i < 8; i++) {
        sum[i] = _mm256_setzero_si256();
    }
    for (size_t at = 0; at < size; at += 256) {
        for (int i = 0; i < 8; i++) {
            const __m256i *from = (const __m256i *)(const void *)(data + at + 32 * i);
            sum[i] = _mm256_xor_si256(sum[i], _mm256_load_si256(from));
        }
    }
    for (int i = 1; i < 8; i++) {
        sum[0] = _mm256_xor_si256(sum[0], sum[i]);
    }
    return (uint64_t)_mm256_extract_epi64(sum[0], 0);
}

const mx_peak mx_peak_avx2 = {
    .isa = "avx2",
    .int_name = "vpmaddubsw ymm + vpaddw",
    .f32_name = "vfmadd ymm",
    .int_macs = 32 * MX_PEAK_CHAINS,
    .f32_macs = 8 * MX_PEAK_CHAINS,
    .int_run = int_run,
    .f32_run = f32_run,
    .read = read_bytes,
};
#endif
