/* E8M0 scales: all 256 bytes, and the four rules against their formulas. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include "format_oracle.h"

#include <float.h>

static void all_bytes_decode(void **state)
{
    (void)state;
    for (int byte = 0; byte < 255; byte++) {
        float value = mx_e8m0_decode((uint8_t)byte);
        assert_true((double)value == ldexp(1, byte - 127));
    }
    assert_true(isnan(mx_e8m0_decode(255)));
    assert_int_equal(fpclassify(mx_e8m0_decode(0)), FP_SUBNORMAL);
}

/* Powers of two are reproduced by every rule, through every byte. */
static void all_bytes_make_the_round_trip(void **state)
{
    (void)state;
    const mx_format *int8 = mx_format_find("int8"); /* emax 0: amax 2^k has e0 = k */
    for (int byte = 0; byte < 255; byte++) {
        float value = mx_e8m0_decode((uint8_t)byte);
        assert_int_equal(mx_scale_encode(int8, MX_SCALE_FLOOR, value), byte);
        assert_int_equal(mx_scale_encode(int8, MX_SCALE_EVEN, value), byte);
        assert_int_equal(mx_scale_encode(int8, MX_SCALE_CEIL, value), byte);
    }
}

static void assert_scale(const oracle *o, float amax)
{
    for (int r = 0; r < MX_SCALE_RULE_COUNT; r++) {
        unsigned want = oracle_scale(o, (mx_scale_rule)r, amax);
        unsigned got = mx_scale_encode(o->format, (mx_scale_rule)r, amax);
        if (want != got) {
            fail_msg("%s %s amax %a: byte %u, not %u", o->format->name,
                     mx_scale_rule_name((mx_scale_rule)r), amax, got, want);
        }
    }
}

static void rules_equal_their_formulas(void **state)
{
    (void)state;
    uint64_t seed = 1;
    ORACLE_FOREACH(format)
    {
        oracle o = oracle_make(format);
        /* Around every significand at which some rule of some format steps. */
        static const double turns[] = {1, 1.5, 1.75, 1.8125, 1.875, 1.9375, 1.984375, 1.9921875};
        for (int k = -149; k <= 127; k++) {
            for (size_t t = 0; t < MX_COUNT(turns); t++) {
                float amax = (float)ldexp(turns[t], k);
                assert_scale(&o, amax);
                assert_scale(&o, nextafterf(amax, FLT_MAX));
                assert_scale(&o, nextafterf(amax, 0));
            }
        }
        assert_scale(&o, 0);
        assert_scale(&o, FLT_MAX);
        assert_scale(&o, FLT_TRUE_MIN);
        for (int n = 0; n < 3000; n++) {
            assert_scale(&o, oracle_bits_float(oracle_random(&seed) & 0x7FFFFFFF));
        }
    }
}

/* The thresholds of the reference notes, one format's at a time. */
static void thresholds_are_those_of_the_tools(void **state)
{
    (void)state;
    static const struct {
        const char *format;
        mx_scale_rule rule;
        float m;   /* the rule steps up at m (EVEN) or above it */
        bool at_m; /* already at m */
    } cases[] = {
        {"fp4_e2m1", MX_SCALE_EVEN, 1.75f, true},   {"fp6_e2m3", MX_SCALE_EVEN, 1.9375f, true},
        {"fp4_e2m1", MX_SCALE_RCEIL, 1.5f, false},  {"fp6_e2m3", MX_SCALE_RCEIL, 1.875f, false},
        {"fp4_e2m1", MX_SCALE_CEIL, 1.0f, false},   {"fp8_e4m3", MX_SCALE_RCEIL, 1.75f, false},
        {"fp8_e4m3", MX_SCALE_EVEN, 1.9375f, true}, {"int8", MX_SCALE_RCEIL, 1.984375f, false},
        {"int8", MX_SCALE_EVEN, 1.9921875f, true},
    };
    for (size_t i = 0; i < MX_COUNT(cases); i++) {
        const mx_format *format = mx_format_find(cases[i].format);
        unsigned low = (unsigned)(127 + 10 - format->emax);
        float turn = ldexpf(cases[i].m, 10);
        unsigned at = mx_scale_encode(format, cases[i].rule, turn);
        assert_int_equal(at, cases[i].at_m ? low + 1 : low);
        unsigned above = mx_scale_encode(format, cases[i].rule, nextafterf(turn, 1e9f));
        if (cases[i].m > 1) { /* below 1 lies the next lower binade */
            assert_int_equal(mx_scale_encode(format, cases[i].rule, nextafterf(turn, 1)), low);
        }
        assert_int_equal(above, low + 1);
        assert_int_equal(mx_scale_encode(format, MX_SCALE_FLOOR, ldexpf(1.999f, 10)), low);
    }
}

static void ends_of_the_range(void **state)
{
    (void)state;
    const mx_format *fp4 = mx_format_find("fp4_e2m1"), *int8 = mx_format_find("int8");
    const mx_format *e5m2 = mx_format_find("fp8_e5m2");
    for (int r = 0; r < MX_SCALE_RULE_COUNT; r++) {
        mx_scale_rule rule = (mx_scale_rule)r;
        assert_int_equal(mx_scale_encode(fp4, rule, INFINITY), 255);
        assert_int_equal(mx_scale_encode(fp4, rule, NAN), 255);
        assert_int_equal(mx_scale_encode(fp4, rule, 0), 0);  /* -126 - 2, clamped */
        assert_int_equal(mx_scale_encode(int8, rule, 0), 1); /* 2^-126 */
        assert_int_equal(mx_scale_encode(e5m2, rule, 1e-40f), 0);
    }
    assert_int_equal(mx_scale_encode(fp4, MX_SCALE_FLOOR, FLT_MAX), 252);
    assert_int_equal(mx_scale_encode(int8, MX_SCALE_FLOOR, FLT_MAX), 254);
    assert_int_equal(mx_scale_encode(int8, MX_SCALE_CEIL, FLT_MAX), 255); /* 128 > 127 */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_bytes_decode),
        cmocka_unit_test(all_bytes_make_the_round_trip),
        cmocka_unit_test(rules_equal_their_formulas),
        cmocka_unit_test(thresholds_are_those_of_the_tools),
        cmocka_unit_test(ends_of_the_range),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
