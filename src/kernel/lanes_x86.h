/* 16 bytes made of `lanes`, the same in all x86 instruction sets here (see
 * lanes_avx512.h). */
#ifndef MX_KERNEL_LANES_X86_H
#define MX_KERNEL_LANES_X86_H

#include <immintrin.h>
#include <stdint.h>

typedef __m128i lanes_bytes;

static inline lanes_bytes lanes_bytes_zero(void)
{
    return _mm_setzero_si128();
}

/* `p` is 16-byte aligned. */
static inline lanes_bytes lanes_bytes_load(const uint8_t *p)
{
    return _mm_load_si128((const __m128i *)(const void *)p);
}

static inline lanes_bytes lanes_bytes_low_nibbles(lanes_bytes bytes)
{
    return _mm_and_si128(bytes, _mm_set1_epi8(15));
}

static inline lanes_bytes lanes_bytes_high_nibbles(lanes_bytes bytes)
{
    return _mm_and_si128(_mm_srli_epi16(bytes, 4), _mm_set1_epi8(15));
}

/* table[i] for each byte i < 16. */
static inline lanes_bytes lanes_bytes_lookup(lanes_bytes table, lanes_bytes bytes)
{
    return _mm_shuffle_epi8(table, bytes);
}

/* `p` is 16-byte aligned. */
static inline void lanes_bytes_store(uint8_t *p, lanes_bytes bytes)
{
    _mm_store_si128((__m128i *)(void *)p, bytes);
}

/* rows[i]'s j-th 4 bytes become rows[j]'s i-th. */
static inline void lanes_bytes_transpose(lanes_bytes rows[4])
{
    __m128i a = _mm_unpacklo_epi32(rows[0], rows[1]);
    __m128i b = _mm_unpacklo_epi32(rows[2], rows[3]);
    __m128i c = _mm_unpackhi_epi32(rows[0], rows[1]);
    __m128i d = _mm_unpackhi_epi32(rows[2], rows[3]);
    rows[0] = _mm_unpacklo_epi64(a, b);
    rows[1] = _mm_unpackhi_epi64(a, b);
    rows[2] = _mm_unpacklo_epi64(c, d);
    rows[3] = _mm_unpackhi_epi64(c, d);
}

#endif
