/*
 * The Mersenne Twister of Matsumoto and Nishimura (1998), as CPython's random has
 * it: constants of the recurrence, of tempering and of init_by_array are theirs.
 */
#include "eval/mt19937.h"

#define MT_SHIFT 397
#define MT_UPPER 0x80000000u
#define MT_LOWER 0x7fffffffu
#define MT_MATRIX 0x9908b0dfu

/* The recurrence without a branch on the lowest bit, so that it vectorizes. */
static inline uint32_t mt_mix(uint32_t upper, uint32_t lower, uint32_t shifted)
{
    uint32_t y = (upper & MT_UPPER) | (lower & MT_LOWER);
    return shifted ^ (y >> 1) ^ ((0u - (y & 1u)) & MT_MATRIX);
}

/* The output function: a linear map that evens out the bits of a state word. */
static inline uint32_t mt_temper(uint32_t y)
{
    y ^= y >> 11;
    y ^= (y << 7) & 0x9d2c5680u;
    y ^= (y << 15) & 0xefc60000u;
    return y ^ (y >> 18);
}

/* The next 624 words. Each depends on the one 397 ahead, cyclically: two loops, so
 * that no index needs a remainder. */
static void mt_refill(mx_mt19937 *mt)
{
    uint32_t *s = mt->state;
    for (size_t i = 0; i < MX_MT_WORDS - MT_SHIFT; i++) {
        s[i] = mt_mix(s[i], s[i + 1], s[i + MT_SHIFT]);
    }
    for (size_t i = MX_MT_WORDS - MT_SHIFT; i < MX_MT_WORDS - 1; i++) {
        s[i] = mt_mix(s[i], s[i + 1], s[i + MT_SHIFT - MX_MT_WORDS]);
    }
    s[MX_MT_WORDS - 1] = mt_mix(s[MX_MT_WORDS - 1], s[0], s[MT_SHIFT - 1]);
    for (size_t i = 0; i < MX_MT_WORDS; i++) {
        mt->output[i] = mt_temper(s[i]);
    }
    mt->next = 0;
}

/* init_genrand of the reference code. */
static void mt_init(uint32_t *s, uint32_t seed)
{
    s[0] = seed;
    for (uint32_t i = 1; i < MX_MT_WORDS; i++) {
        s[i] = 1812433253u * (s[i - 1] ^ (s[i - 1] >> 30)) + i;
    }
}

void mx_mt19937_seed(mx_mt19937 *mt, uint32_t seed)
{
    /* init_by_array of the reference code with a key of one word, which is what
     * an int below 2^32 gives, 0 included. */
    uint32_t *s = mt->state;
    mt_init(s, 19650218u);
    size_t i = 1;
    for (size_t k = 0; k < MX_MT_WORDS; k++) {
        s[i] = (s[i] ^ ((s[i - 1] ^ (s[i - 1] >> 30)) * 1664525u)) + seed;
        if (++i == MX_MT_WORDS) {
            s[0] = s[MX_MT_WORDS - 1];
            i = 1;
        }
    }
    for (size_t k = 0; k < MX_MT_WORDS - 1; k++) {
        s[i] = (s[i] ^ ((s[i - 1] ^ (s[i - 1] >> 30)) * 1566083941u)) - (uint32_t)i;
        if (++i == MX_MT_WORDS) {
            s[0] = s[MX_MT_WORDS - 1];
            i = 1;
        }
    }
    s[0] = 0x80000000u;
    mt->next = MX_MT_WORDS;
}

uint32_t mx_mt19937_u32(mx_mt19937 *mt)
{
    if (mt->next == MX_MT_WORDS) {
        mt_refill(mt);
    }
    return mt->output[mt->next++];
}

/* 27 bits of one word above 26 bits of the next, over 2^53. The words fit int,
 * whose conversion to double is one instruction. */
static inline double mt_double(uint32_t high, uint32_t low)
{
    return ((double)(int32_t)(high >> 5) * 67108864.0 + (double)(int32_t)(low >> 6)) *
           (1.0 / 9007199254740992.0);
}

double mx_mt19937_random(mx_mt19937 *mt)
{
    uint32_t high = mx_mt19937_u32(mt);
    return mt_double(high, mx_mt19937_u32(mt));
}

/* floor(random() * n), as random.choices takes a position. n is below 2^31, so
 * positions fit int32; nothing is rejected, unlike in random.randrange. */
void mx_mt19937_choices(mx_mt19937 *mt, uint32_t n, uint32_t *out, size_t count)
{
    double scale = (double)n;
    size_t i = 0;
    while (i < count) {
        size_t pairs = (MX_MT_WORDS - mt->next) / 2;
        if (pairs == 0) {
            /* No pair of words left in this block: one number across its end,
             * or the first of the next block. */
            out[i++] = (uint32_t)(int32_t)(mx_mt19937_random(mt) * scale);
            continue;
        }
        pairs = pairs < count - i ? pairs : count - i;
        const uint32_t *words = mt->output + mt->next;
        for (size_t k = 0; k < pairs; k++) {
            double position = mt_double(words[2 * k], words[2 * k + 1]) * scale;
            out[i + k] = (uint32_t)(int32_t)position;
        }
        mt->next += 2 * pairs;
        i += pairs;
    }
}
