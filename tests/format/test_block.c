/* Blocks and rows: the fast path equals the formula, scales, NaN, flushing, ragged
 * ends, and rows equal their blocks. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include "base/rng.h"
#include "format_oracle.h"

#include <float.h>

/* A block with values over many binades below 2^top, edge cases among them. */
static void fill_block(uint64_t *seed, int top, float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t r = oracle_random(seed);
        int binade = top - (int)(r % 24);
        uint32_t fraction = oracle_random(seed) & 0x7FFFFF;
        switch (r >> 28) {
        case 0: /* few mantissa bits: exact values and ties */
        case 1:
        case 2:
        case 3:
            fraction &= 0x7C0000;
            break;
        case 4: /* just below such a value */
            fraction = (fraction & 0x7C0000) - 1;
            fraction &= 0x7FFFFF;
            break;
        case 5:
            fraction = (fraction & 0x7C0000) + 1;
            break;
        }
        float value = (float)ldexp(1 + fraction / 8388608.0, binade);
        value = r >> 28 == 6 ? 0.0f : value;
        x[i] = (r >> 27) & 1 ? -value : value;
    }
}

/* The contract of mx_block_encode, element by element. */
static void assert_block_is_formula(const oracle *o, const mx_quant *quant, const float *x,
                                    size_t n)
{
    uint8_t codes[64];
    float amax = 0;
    for (size_t i = 0; i < n; i++) {
        amax = fmaxf(amax, fabsf(x[i]));
    }
    unsigned want_scale = oracle_scale(o, quant->rule, amax);
    uint8_t scale = mx_block_encode(quant, x, n, 3, 40, codes);
    assert_int_equal(scale, want_scale);
    for (size_t i = 0; i < n; i++) {
        double y = ldexp(x[i], 127 - scale);
        uint32_t random = mx_philox_u32(quant->seed, 3, 40 + i);
        uint32_t formula = o->format->encode(o->format, y, quant->round, random);
        uint32_t want = oracle_encode(o, y, quant->round, random);
        if (scale == 255) {
            want = formula = 0;
        }
        if (codes[i] != want || formula != want) {
            fail_msg("%s %s %s scale %u x %a: code %u, formula %u, oracle %u", o->format->name,
                     mx_scale_rule_name(quant->rule), mx_round_name(quant->round), scale, x[i],
                     codes[i], formula, want);
        }
    }
}

static void blocks_equal_the_formula(void **state)
{
    (void)state;
    uint64_t seed = 99;
    ORACLE_FOREACH(format)
    {
        oracle o = oracle_make(format);
        for (int rule = 0; rule < MX_SCALE_RULE_COUNT; rule++) {
            for (int round = 0; round < MX_ROUND_COUNT; round++) {
                mx_quant quant = {.format = o.format,
                                  .rule = (mx_scale_rule)rule,
                                  .round = (mx_round)round,
                                  .seed = 5};
                for (int top = -149; top <= 127; top += 3) {
                    float x[32];
                    fill_block(&seed, top, x, MX_COUNT(x));
                    assert_block_is_formula(&o, &quant, x, MX_COUNT(x));
                    assert_block_is_formula(&o, &quant, x, 1 + (size_t)(top + 149) % 31);
                }
            }
        }
    }
}

static void decode_is_code_times_scale(void **state)
{
    (void)state;
    ORACLE_FOREACH(format)
    {
        uint8_t codes[256];
        float out[256];
        size_t n = (size_t)1 << format->bits;
        for (size_t c = 0; c < n; c++) {
            codes[c] = (uint8_t)c;
        }
        for (int scale = 0; scale < 256; scale++) {
            mx_block_decode(format, codes, (uint8_t)scale, n, out);
            for (size_t c = 0; c < n; c++) {
                double want = ldexp(format->decode(format, codes[c]), scale - 127);
                if (scale == 255 || isnan(want)) {
                    assert_true(isnan(out[c]));
                } else {
                    assert_true((double)out[c] == (fabs(want) > FLT_MAX ? want * INFINITY : want));
                    assert_int_equal(signbit(out[c]) != 0, signbit(want) != 0);
                }
            }
        }
    }
}

static void nan_and_inf_poison_their_block_alone(void **state)
{
    (void)state;
    const float poison[] = {NAN, -NAN, INFINITY, -INFINITY};
    mx_quant quant = {.format = mx_format_find("fp4_e2m1"), .block = 16};
    for (size_t p = 0; p < MX_COUNT(poison); p++) {
        float x[48], out[48];
        uint8_t codes[24], scales[3];
        for (int i = 0; i < 48; i++) {
            x[i] = (float)(i % 5) - 2;
        }
        x[16 + 7] = poison[p];
        mx_row_encode(&quant, x, 48, 0, codes, scales);
        assert_int_equal(scales[0], 127 + 1 - 2);
        assert_int_equal(scales[1], 255);
        assert_int_equal(scales[2], 127 + 1 - 2);
        const uint8_t zeros[8] = {0};
        assert_memory_equal(codes + 8, zeros, 8);
        mx_row_cast(&quant, x, 48, 0, out);
        for (int i = 0; i < 48; i++) {
            assert_int_equal(isnan(out[i]) != 0, i / 16 == 1);
        }
    }
}

static void subnormal_blocks_flush_when_asked(void **state)
{
    (void)state;
    const float x[8] = {1e-40f, -2e-40f, 0, 3e-39f, -1e-45f, 0, 0, 0};
    const float zeros[8] = {0};
    mx_quant quant = {.format = mx_format_find("int8"), .block = 8, .flush_subnormals = true};
    float out[8];
    mx_row_cast(&quant, x, 8, 0, out);
    assert_memory_equal(out, zeros, sizeof out); /* +0, -0 included */
    quant.flush_subnormals = false;
    mx_row_cast(&quant, x, 8, 0, out);
    assert_true(out[3] > 2e-39f);

    /* One normal value keeps its subnormal neighbours as they would be. */
    float mixed[8], kept[8], flushed[8];
    memcpy(mixed, x, sizeof mixed);
    mixed[7] = FLT_MIN;
    mx_row_cast(&quant, mixed, 8, 0, kept);
    quant.flush_subnormals = true;
    mx_row_cast(&quant, mixed, 8, 0, flushed);
    assert_memory_equal(kept, flushed, sizeof kept);
    mixed[0] = NAN; /* NaN wins over flushing */
    mx_row_cast(&quant, mixed, 8, 0, out);
    assert_true(isnan(out[7]));
}

static void sizes_of_rows(void **state)
{
    (void)state;
    mx_quant quant = {.format = mx_format_find("fp6_e2m3"), .block = 32};
    assert_int_equal(mx_row_code_bytes(&quant, 45), 34); /* 270 bits */
    assert_int_equal(mx_row_scale_count(&quant, 45), 2);
    assert_int_equal(mx_row_scale_count(&quant, 0), 0);
    quant.block = 0;
    assert_int_equal(mx_row_scale_count(&quant, 45), 1);
    assert_int_equal(mx_quant_block(&quant, 45), 45);
    quant.format = mx_format_find("bf16");
    assert_int_equal(mx_row_code_bytes(&quant, 45), 90);
    assert_int_equal(mx_row_scale_count(&quant, 45), 0);
    assert_false(mx_quant_is_none(&quant) || mx_quant_is_scaled(&quant));
    quant.format = NULL;
    assert_int_equal(mx_row_code_bytes(&quant, 45), 180);
    assert_true(mx_quant_is_none(&quant));
    assert_true(mx_block_is_valid(0) && mx_block_is_valid(1) && mx_block_is_valid(264));
    assert_false(mx_block_is_valid(12) || mx_block_is_valid(31));
}

/* Rows against their blocks, one at a time: codes, scales, decoded values. */
static void assert_row_is_its_blocks(const mx_quant *quant, const float *x, size_t n)
{
    size_t block = mx_quant_block(quant, n), bits = quant->format->bits;
    size_t code_bytes = mx_row_code_bytes(quant, n), n_scales = mx_row_scale_count(quant, n);
    uint8_t *packed = malloc(code_bytes), *scales = malloc(n_scales), *codes = malloc(n);
    uint8_t *unpacked = malloc(n);
    float *decoded = malloc(n * 4), *cast = malloc(n * 4), *want = malloc(n * 4);
    assert_non_null(want);
    mx_row_encode(quant, x, n, 11, packed, scales);
    mx_row_decode(quant, packed, scales, n, decoded);
    mx_codes_unpack(packed, n, (unsigned)bits, unpacked);
    for (size_t b = 0, at = 0; at < n; b++, at += block) {
        size_t length = n - at < block ? n - at : block;
        uint8_t scale = mx_block_encode(quant, x + at, length, 11, at, codes + at);
        assert_int_equal(scales[b], scale);
        mx_block_decode(quant->format, codes + at, scale, length, want + at);
    }
    assert_memory_equal(unpacked, codes, n);
    assert_memory_equal(decoded, want, n * 4);
    mx_row_cast(quant, x, n, 11, cast);
    assert_memory_equal(cast, want, n * 4);
    memcpy(cast, x, n * 4);
    mx_row_cast(quant, cast, n, 11, cast); /* in place */
    assert_memory_equal(cast, want, n * 4);
    free(packed);
    free(scales);
    free(codes);
    free(unpacked);
    free(decoded);
    free(cast);
    free(want);
}

static void rows_equal_their_blocks(void **state)
{
    (void)state;
    static const uint32_t blocks[] = {1, 8, 16, 24, 32, 40, 256, 264, 512, 1000, 0};
    static const size_t lengths[] = {1, 7, 31, 32, 33, 45, 255, 256, 257, 576, 999, 1536};
    static float x[1536];
    uint64_t seed = 17;
    fill_block(&seed, 3, x, MX_COUNT(x));
    ORACLE_FOREACH(format)
    {
        for (size_t b = 0; b < MX_COUNT(blocks); b++) {
            for (size_t l = 0; l < MX_COUNT(lengths); l++) {
                mx_quant quant = {.format = format,
                                  .block = blocks[b],
                                  .rule = (mx_scale_rule)(l % MX_SCALE_RULE_COUNT),
                                  .round = (mx_round)(b % MX_ROUND_COUNT),
                                  .seed = 23};
                assert_row_is_its_blocks(&quant, x, lengths[l]);
            }
        }
    }
}

/* shared_exp_method "none": each element gets its own exponent, so that only the
 * mantissa is rounded. */
static void block_of_one_keeps_every_exponent(void **state)
{
    (void)state;
    mx_quant quant = {.format = mx_format_find("fp4_e2m1"), .block = 1};
    const float x[6] = {1.2f, -1e20f, 3e-30f, 0, 1e-44f, 7};
    const float want[6] = {1, -0x1.8p66f, 0x1.0p-98f, 0, 0, 6};
    float out[6];
    mx_row_cast(&quant, x, 6, 0, out);
    for (int i = 0; i < 6; i++) {
        double ratio = x[i] == 0 ? 1 : out[i] / x[i];
        assert_true(want[i] == 0 ? out[i] == 0 : (ratio > 0.74 && ratio < 1.34));
    }
    assert_true(out[0] == want[0] && out[5] == want[5]);
    uint8_t codes[3], scales[6];
    mx_row_encode(&quant, x, 6, 0, codes, scales);
    assert_int_equal(scales[0], 127 - 2);
    assert_int_equal(scales[1], 127 + 66 - 2);
    assert_int_equal(scales[5], 127);
}

/* A format that brings its own codec instead of element.h's. */
static float own_decode(const mx_format *format, uint32_t code)
{
    (void)format;
    const mx_format *fp4 = mx_format_find("fp4_e2m1");
    return -fp4->decode(fp4, code);
}

static uint32_t own_encode(const mx_format *format, double y, mx_round round, uint32_t random)
{
    (void)format;
    const mx_format *fp4 = mx_format_find("fp4_e2m1");
    return fp4->encode(fp4, -y, round, random);
}

static void formats_may_bring_their_codec(void **state)
{
    (void)state;
    mx_format own = {.name = "own",
                     .kind = MX_KIND_FLOAT,
                     .bits = 4,
                     .emax = 2,
                     .max = 6,
                     .decode = own_decode,
                     .encode = own_encode};
    uint64_t seed = 31;
    float x[100], out[100], want[100];
    uint8_t codes[50], fp4_codes[50], scales[4], fp4_scales[4];
    fill_block(&seed, 0, x, 100);
    for (int r = 0; r < MX_ROUND_COUNT; r++) {
        mx_quant quant = {.format = &own, .block = 32, .round = (mx_round)r, .seed = 2};
        mx_quant fp4 = quant;
        fp4.format = mx_format_find("fp4_e2m1");
        mx_row_encode(&quant, x, 100, 4, codes, scales);
        mx_row_encode(&fp4, x, 100, 4, fp4_codes, fp4_scales);
        assert_memory_equal(scales, fp4_scales, sizeof scales);
        assert_memory_not_equal(codes, fp4_codes, sizeof codes); /* mirrored */
        mx_row_cast(&quant, x, 100, 4, out);
        mx_row_cast(&fp4, x, 100, 4, want);
        for (int i = 0; i < 100; i++) {
            assert_true(out[i] == want[i]);
        }
    }
}

static void unquantized_rows_keep_their_bits(void **state)
{
    (void)state;
    const uint32_t bits[5] = {0x7FA00001, 0x80000000, 0x00000001, 0xFF800000, 0x3F800000};
    float x[5], out[5];
    uint8_t codes[20];
    memcpy(x, bits, sizeof x);
    const mx_format *const formats[] = {NULL, mx_format_find("fp32")};
    for (size_t f = 0; f < 2; f++) {
        mx_quant quant = {.format = formats[f]};
        mx_row_encode(&quant, x, 5, 0, codes, NULL);
        assert_memory_equal(codes, bits, sizeof bits);
        mx_row_decode(&quant, codes, NULL, 5, out);
        assert_memory_equal(out, bits, sizeof bits);
        memset(out, 0, sizeof out);
        mx_row_cast(&quant, x, 5, 0, out);
        assert_memory_equal(out, bits, sizeof bits);
    }
}

static void plain_rows_round_elements(void **state)
{
    (void)state;
    const float x[6] = {1.00390625f, -NAN, -INFINITY, FLT_MAX, -0.0f, 3.14159274f};
    const uint16_t want[6] = {0x3F81, 0x7FC0, 0xFF80, 0x7F80, 0x8000, 0x4049};
    mx_quant quant = {.format = mx_format_find("bf16"), .round = MX_ROUND_NEAREST};
    uint8_t codes[12];
    float out[6], cast[6];
    mx_row_encode(&quant, x, 6, 0, codes, NULL);
    for (int i = 0; i < 6; i++) {
        assert_int_equal(codes[2 * i] | codes[2 * i + 1] << 8, want[i]);
    }
    mx_row_decode(&quant, codes, NULL, 6, out);
    mx_row_cast(&quant, x, 6, 0, cast);
    assert_memory_equal(out, cast, sizeof out);
    for (int i = 0; i < 6; i++) {
        assert_int_equal(oracle_float_bits(out[i]), (uint32_t)want[i] << 16);
    }
    quant.round = MX_ROUND_EVEN;
    mx_row_encode(&quant, x, 1, 0, codes, NULL);
    assert_int_equal(codes[0], 0x80); /* the tie goes down */
}

/* Rows of plain formats against the formula of their elements. */
static void plain_rows_equal_the_formula(void **state)
{
    (void)state;
    static const char *const plain[] = {"bf16", "fp16"};
    enum { N = 60000 };
    static float x[N];
    static uint8_t codes[2 * N];
    uint64_t seed = 5;
    for (int i = 0; i < N; i++) {
        uint32_t bits = oracle_random(&seed);
        if (i % 2 == 0) { /* within fp16's range, with its subnormals and overflow */
            bits = (bits & 0x807FFFFF) | (100 + bits % 46) << 23;
        }
        if (i % 3 == 0) { /* exact values and ties of both formats */
            bits &= 0xFFFFF000 | (bits & 1) << 12;
        }
        x[i] = oracle_bits_float(bits);
    }
    for (size_t f = 0; f < MX_COUNT(plain); f++) {
        const mx_format *format = mx_format_find(plain[f]);
        for (int r = 0; r < MX_ROUND_COUNT; r++) {
            mx_quant quant = {.format = format, .round = (mx_round)r, .seed = 3};
            mx_row_encode(&quant, x, N, 6, codes, NULL);
            for (size_t i = 0; i < N; i++) {
                uint32_t random = mx_philox_u32(3, 6, i);
                uint32_t got = codes[2 * i] | (uint32_t)codes[2 * i + 1] << 8;
                if (isfinite(x[i])) {
                    assert_int_equal(got, format->encode(format, x[i], quant.round, random));
                }
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_equal_the_formula),
        cmocka_unit_test(decode_is_code_times_scale),
        cmocka_unit_test(nan_and_inf_poison_their_block_alone),
        cmocka_unit_test(subnormal_blocks_flush_when_asked),
        cmocka_unit_test(sizes_of_rows),
        cmocka_unit_test(rows_equal_their_blocks),
        cmocka_unit_test(block_of_one_keeps_every_exponent),
        cmocka_unit_test(formats_may_bring_their_codec),
        cmocka_unit_test(unquantized_rows_keep_their_bits),
        cmocka_unit_test(plain_rows_round_elements),
        cmocka_unit_test(plain_rows_equal_the_formula),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
