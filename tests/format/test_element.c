/* Element formats: every code of every format, names, tables, roundings. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include "format_oracle.h"

static void list_holds_the_formats(void **state)
{
    (void)state;
    static const char *const names[] = {"fp4_e2m1", "fp6_e2m3", "fp6_e3m2", "fp8_e4m3",
                                        "fp8_e5m2", "int8",     "int4",     "int2",
                                        "bf16",     "fp16",     "fp32"};
    for (size_t i = 0; i < MX_COUNT(names); i++) {
        assert_non_null(mx_format_find(names[i]));
        assert_string_equal(mx_format_find(names[i])->name, names[i]);
    }
    for (size_t i = 0; i < mx_format_count(); i++) {
        assert_ptr_equal(mx_format_find(mx_format_at(i)->name), mx_format_at(i));
        assert_true(strlen(mx_format_at(i)->description) > 10);
    }
    assert_null(mx_format_at(mx_format_count()));
}

static void names_are_found(void **state)
{
    (void)state;
    assert_ptr_equal(mx_format_find("mxfp4_e2m1"), mx_format_find("fp4_e2m1"));
    assert_ptr_equal(mx_format_find("MXFP6_E2M3"), mx_format_find("fp6_e2m3"));
    assert_ptr_equal(mx_format_find("mxint8"), mx_format_find("int8"));
    assert_ptr_equal(mx_format_find("fp4"), mx_format_find("fp4_e2m1")); /* microxcaling's */
    assert_ptr_equal(mx_format_find("bfloat16"), mx_format_find("bf16"));
    assert_ptr_equal(mx_format_find("float16"), mx_format_find("fp16"));
    assert_ptr_equal(mx_format_find("Float32"), mx_format_find("fp32"));
    static const char *const strangers[] = {"",      "mx",     "fp8",    "mxfp8", "fp6",
                                            "mxfp6", "mxbf16", "mxfp32", "int3",  "fp4_e2m1 "};
    for (size_t i = 0; i < MX_COUNT(strangers); i++) {
        assert_null(mx_format_find(strangers[i]));
    }
}

static void values_are_the_oracles(void **state)
{
    (void)state;
    ORACLE_FOREACH(format)
    {
        oracle o = oracle_make(format);
        for (int c = 0; c < o.count; c++) {
            float value = o.format->decode(o.format, (uint32_t)c);
            float negative = o.format->decode(o.format, oracle_code(&o, c, true));
            assert_true(value == o.values[c]);
            assert_true(negative == -o.values[c]);
            assert_true(o.integer || signbit(negative));
        }
        assert_true(o.format->max == o.values[o.count - 1]);
        assert_int_equal(o.format->emax, o.largest_binade);
        assert_true(mx_format_min_positive(o.format) == o.values[1]);
    }
}

static void known_values(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int count; /* of non-negative finite values */
    } counts[] = {{"fp4_e2m1", 8},   {"fp6_e2m3", 32}, {"fp6_e3m2", 32}, {"fp8_e4m3", 127},
                  {"fp8_e5m2", 124}, {"int8", 128},    {"int4", 8},      {"int2", 2}};
    for (size_t i = 0; i < MX_COUNT(counts); i++) {
        oracle o = oracle_make(mx_format_find(counts[i].name));
        assert_int_equal(o.count, counts[i].count);
    }
    static const float e2m1[8] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
    const mx_format *fp4 = mx_format_find("fp4_e2m1");
    for (uint32_t c = 0; c < 8; c++) {
        assert_true(fp4->decode(fp4, c) == e2m1[c]);
    }
    const mx_format *e2m3 = mx_format_find("fp6_e2m3"), *e3m2 = mx_format_find("fp6_e3m2");
    assert_true(e2m3->decode(e2m3, 0x1F) == 7.5f && e2m3->decode(e2m3, 0x01) == 0.125f);
    assert_true(e3m2->decode(e3m2, 0x1F) == 28.0f && e3m2->decode(e3m2, 0x01) == 0.0625f);
    const mx_format *int8 = mx_format_find("int8");
    assert_true(int8->decode(int8, 0x80) == -2.0f && int8->decode(int8, 0xFF) == -1.0f / 64);
}

/* e4m3fn: NaN at 0x7F and 0xFF alone. e5m2 and the plain formats: IEEE. */
static void special_codes(void **state)
{
    (void)state;
    const mx_format *e4m3 = mx_format_find("fp8_e4m3"), *e5m2 = mx_format_find("fp8_e5m2");
    for (uint32_t c = 0; c < 256; c++) {
        assert_int_equal(isnan(e4m3->decode(e4m3, c)) != 0, (c & 0x7F) == 0x7F);
        assert_false(isinf(e4m3->decode(e4m3, c)));
        assert_int_equal(isnan(e5m2->decode(e5m2, c)) != 0, (c & 0x7F) > 0x7C);
    }
    assert_true(e5m2->decode(e5m2, 0x7C) == INFINITY && e5m2->decode(e5m2, 0xFC) == -INFINITY);
    const mx_format *bf16 = mx_format_find("bf16"), *fp16 = mx_format_find("fp16");
    assert_true(bf16->decode(bf16, 0xFF80) == -INFINITY && isnan(bf16->decode(bf16, 0x7F81)));
    assert_true(fp16->decode(fp16, 0x7C00) == INFINITY && isnan(fp16->decode(fp16, 0xFE00)));
}

static void every_code_makes_the_round_trip(void **state)
{
    (void)state;
    for (size_t i = 0; i < mx_format_count(); i++) {
        const mx_format *format = mx_format_at(i);
        uint64_t codes = (uint64_t)1 << format->bits;
        uint64_t stride = format->bits > 16 ? 65537 : 1; /* fp32: a sample */
        for (uint64_t c = 0; c < codes; c += stride) {
            uint32_t code = (uint32_t)c;
            float value = format->decode(format, code);
            /* Not of this arithmetic: NaN and Inf, the integers' unused lowest
             * code, and -0 as an input, which gives +0 under a shared scale. */
            bool lowest = format->kind == MX_KIND_INT && c == codes / 2;
            bool minus_zero = format->kind == MX_KIND_FLOAT && c == codes / 2;
            if (!isfinite(value) || lowest || minus_zero) {
                continue;
            }
            for (int r = 0; r < MX_ROUND_COUNT; r++) {
                assert_int_equal(format->encode(format, value, (mx_round)r, UINT32_MAX), code);
            }
        }
    }
}

static void tables_equal_decode(void **state)
{
    (void)state;
    static const char *const with[] = {"fp4_e2m1", "fp6_e2m3", "int8", "int4", "int2"};
    static const char *const without[] = {"fp6_e3m2", "fp8_e4m3", "fp8_e5m2", "bf16", "fp32"};
    for (size_t i = 0; i < MX_COUNT(with); i++) {
        assert_non_null(mx_format_find(with[i])->int_table);
        assert_null(mx_format_find(without[i])->int_table);
    }
    for (size_t i = 0; i < mx_format_count(); i++) {
        const mx_format *format = mx_format_at(i);
        for (uint32_t c = 0; format->int_table != NULL && c < 1u << format->bits; c++) {
            float value = (float)ldexp(format->int_table[c], -format->int_shift);
            assert_true(value == format->decode(format, c));
        }
    }
}

/* Values and their neighbours, midpoints and their neighbours, and far outside. */
static void assert_encodes_as_oracle(const oracle *o, double y)
{
    const double around[] = {y, nextafter(y, INFINITY), nextafter(y, -INFINITY)};
    for (size_t i = 0; i < MX_COUNT(around); i++) {
        for (int r = 0; r < MX_ROUND_COUNT; r++) {
            mx_round round = (mx_round)r;
            static const uint32_t random[] = {0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF};
            for (size_t u = 0; u < MX_COUNT(random); u++) {
                uint32_t want = oracle_encode(o, around[i], round, random[u]);
                uint32_t got = o->format->encode(o->format, around[i], round, random[u]);
                if (want != got) {
                    fail_msg("%s %s %a: %u, not %u", o->format->name, mx_round_name(round),
                             around[i], got, want);
                }
            }
        }
    }
}

static void encode_rounds_as_the_oracle(void **state)
{
    (void)state;
    ORACLE_FOREACH(format)
    {
        oracle o = oracle_make(format);
        for (int c = 0; c + 1 < o.count; c++) {
            for (int sign = -1; sign <= 1; sign += 2) {
                assert_encodes_as_oracle(&o, sign * o.values[c]);
                assert_encodes_as_oracle(&o, sign * (o.values[c] + o.values[c + 1]) / 2);
            }
        }
        static const double far[] = {1e-300, 0x1p-126, 1e6, 1e38, 1e300};
        for (size_t f = 0; f < MX_COUNT(far); f++) {
            assert_encodes_as_oracle(&o, far[f]);
            assert_encodes_as_oracle(&o, -far[f]);
        }
        assert_encodes_as_oracle(&o, o.values[o.count - 1]);
    }
}

static void zero_keeps_the_sign_of_what_was_rounded(void **state)
{
    (void)state;
    const mx_format *fp4 = mx_format_find("fp4_e2m1"), *int4 = mx_format_find("int4");
    assert_int_equal(fp4->encode(fp4, -0.1, MX_ROUND_NEAREST, 0), 8); /* -0 */
    assert_int_equal(fp4->encode(fp4, -0.0, MX_ROUND_NEAREST, 0), 0);
    assert_int_equal(int4->encode(int4, -0.1, MX_ROUND_NEAREST, 0), 0);
    const mx_format *bf16 = mx_format_find("bf16");
    assert_int_equal(bf16->encode(bf16, -0.0, MX_ROUND_EVEN, 0), 0x8000); /* IEEE */
}

/* The plain formats against C's own conversions. */
static void plain_formats_convert_as_ieee(void **state)
{
    (void)state;
    const mx_format *bf16 = mx_format_find("bf16"), *fp16 = mx_format_find("fp16");
    uint64_t seed = 1;
    for (int i = 0; i < 200000; i++) {
        uint32_t bits = oracle_random(&seed);
        float x = oracle_bits_float(bits);
        if (!isfinite(x)) {
            continue;
        }
        uint32_t even = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
        assert_int_equal(bf16->encode(bf16, x, MX_ROUND_EVEN, 0), even);
        assert_int_equal(bf16->encode(bf16, x, MX_ROUND_FLOOR, 0), bits >> 16);
        assert_int_equal(bf16->encode(bf16, x, MX_ROUND_NEAREST, 0), (bits + 0x8000) >> 16);
    }
    assert_int_equal(fp16->encode(fp16, 65519, MX_ROUND_EVEN, 0), 0x7BFF);
    assert_int_equal(fp16->encode(fp16, 65520, MX_ROUND_EVEN, 0), 0x7C00); /* Inf */
    assert_int_equal(fp16->encode(fp16, -1e30, MX_ROUND_FLOOR, 0), 0xFBFF);
    assert_int_equal(fp16->encode(fp16, 0x1p-24, MX_ROUND_EVEN, 0), 1);
    assert_int_equal(fp16->encode(fp16, 0x1p-25, MX_ROUND_EVEN, 0), 0);
    assert_int_equal(fp16->encode(fp16, 0x1.8p-25, MX_ROUND_EVEN, 0), 1);
    assert_int_equal(fp16->encode(fp16, 1 + 0x1.8p-11, MX_ROUND_EVEN, 0), 0x3C01);
}

static void choices_parse_and_name_errors(void **state)
{
    (void)state;
    mx_error err = {0};
    for (int i = 0; i < MX_ROUND_COUNT; i++) {
        mx_round round;
        assert_int_equal(mx_round_parse(mx_round_name((mx_round)i), &round, &err), MX_OK);
        assert_int_equal(round, i);
    }
    for (int i = 0; i < MX_SCALE_RULE_COUNT; i++) {
        mx_scale_rule rule;
        assert_int_equal(mx_scale_rule_parse(mx_scale_rule_name((mx_scale_rule)i), &rule, &err),
                         MX_OK);
        assert_int_equal(rule, i);
    }
    mx_round round;
    assert_int_equal(mx_round_parse("up", &round, &err), MX_ERR_ARGUMENT);
    assert_string_equal(err.text, "round: unknown value 'up' (nearest, even, floor or dither)");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(list_holds_the_formats),
        cmocka_unit_test(names_are_found),
        cmocka_unit_test(values_are_the_oracles),
        cmocka_unit_test(known_values),
        cmocka_unit_test(special_codes),
        cmocka_unit_test(every_code_makes_the_round_trip),
        cmocka_unit_test(tables_equal_decode),
        cmocka_unit_test(encode_rounds_as_the_oracle),
        cmocka_unit_test(zero_keeps_the_sign_of_what_was_rounded),
        cmocka_unit_test(plain_formats_convert_as_ieee),
        cmocka_unit_test(choices_parse_and_name_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
