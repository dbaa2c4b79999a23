/* One test for each mistake that other tools shipped (reference notes: numerics). */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include "format_oracle.h"

#include <float.h>

/* TransformerEngine 3262: scale byte FF decoded as Inf, 00 as 0. */
static void scale_ff_is_nan_and_00_is_not_zero(void **state)
{
    (void)state;
    assert_true(isnan(mx_e8m0_decode(0xFF)));
    assert_true(mx_e8m0_decode(0x00) == 0x1p-127f);
    const uint8_t codes[2] = {2, 0}; /* 1 and 0 */
    float out[2];
    const mx_format *fp4 = mx_format_find("fp4_e2m1");
    mx_block_decode(fp4, codes, 0x00, 2, out);
    assert_true(out[0] == 0x1p-127f && out[1] == 0);
    mx_block_decode(fp4, codes, 0xFF, 2, out);
    assert_true(isnan(out[0]) && isnan(out[1]));
}

/* sglang 25519: the scale 128.0, byte 134, became NaN. */
static void scale_128_is_128(void **state)
{
    (void)state;
    assert_true(mx_e8m0_decode(134) == 128.0f);
    assert_int_equal(mx_scale_encode(mx_format_find("fp4_e2m1"), MX_SCALE_FLOOR, 512), 134);
    const float x[8] = {512, 256, -128, 64};
    float out[8];
    mx_quant quant = {.format = mx_format_find("fp4_e2m1"), .block = 8};
    mx_row_cast(&quant, x, 8, 0, out);
    assert_memory_equal(out, x, sizeof x);
}

/* flashinfer 4023: byte 254's reciprocal 2^-127 flushed to zero, Inf * 0 = NaN. */
static void byte_254_has_a_reciprocal(void **state)
{
    (void)state;
    const float x[8] = {0x1p127f, 0, -0x1.8p127f, 0x1p126f, 0x1p121f, 1, 0, FLT_MAX};
    const float want[8] = {0x1p127f, 0, -0x1.8p127f, 0x1p126f, 0x1p121f, 0, 0, 0x1.fcp127f};
    mx_quant quant = {.format = mx_format_find("int8"), .block = 8};
    uint8_t codes[8], scale;
    float out[8];
    mx_row_encode(&quant, x, 8, 0, codes, &scale);
    assert_int_equal(scale, 254);
    mx_row_decode(&quant, codes, &scale, 8, out);
    assert_memory_equal(out, want, sizeof want);
}

/* torchao 1104: quantizing and dequantizing with different scales near subnormals. */
static void both_directions_use_one_scale(void **state)
{
    (void)state;
    for (size_t f = 0; f < mx_format_count(); f++) {
        mx_quant quant = {.format = mx_format_at(f), .block = 8, .round = MX_ROUND_EVEN};
        if (!mx_quant_is_scaled(&quant)) {
            continue;
        }
        float smallest = (float)mx_format_min_positive(quant.format);
        for (int e = -149; e <= -100; e++) {
            /* 2^e alone is representable wherever it reaches the smallest element
             * under the clamped scale 2^-127. */
            const float x[8] = {ldexpf(1, e)};
            float out[8];
            mx_row_cast(&quant, x, 8, 0, out);
            bool reachable = x[0] >= ldexpf(smallest, -127);
            if (reachable) {
                assert_true(out[0] == x[0]);
            } else {
                assert_true(out[0] == 0 || out[0] == ldexpf(smallest, -127));
            }
        }
    }
}

/* torchao 4725: fp32 -> bf16 -> E8M0 shifted the exponent: just below a power of
 * two, bf16 (and log2 in fp32) is the power itself. */
static void just_below_a_power_of_two(void **state)
{
    (void)state;
    const mx_format *fp4 = mx_format_find("fp4_e2m1");
    for (int k = -120; k <= 127; k++) {
        float below = nextafterf(ldexpf(1, k), 0);
        assert_int_equal(mx_scale_encode(fp4, MX_SCALE_FLOOR, below), k - 1 - 2 + 127);
        assert_int_equal(mx_scale_encode(fp4, MX_SCALE_FLOOR, ldexpf(1, k)), k - 2 + 127);
    }
}

/* tt-metal 51971: 132 of 256 E4M3 codes failed a round trip. */
static void every_e4m3_code_survives_a_block(void **state)
{
    (void)state;
    mx_quant quant = {.format = mx_format_find("fp8_e4m3"), .block = 8};
    for (int code = 0; code < 256; code++) {
        float value = quant.format->decode(quant.format, (uint32_t)code);
        if (isnan(value)) {
            continue;
        }
        for (int round = 0; round < MX_ROUND_COUNT; round++) {
            /* 448 beside it holds the scale at 1. */
            const float x[8] = {value, 448};
            uint8_t codes[8], scale;
            quant.round = (mx_round)round;
            mx_row_encode(&quant, x, 8, 0, codes, &scale);
            assert_int_equal(scale, 127);
            assert_int_equal(codes[0], code == 0x80 ? 0 : code);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scale_ff_is_nan_and_00_is_not_zero),
        cmocka_unit_test(scale_128_is_128),
        cmocka_unit_test(byte_254_has_a_reciprocal),
        cmocka_unit_test(both_directions_use_one_scale),
        cmocka_unit_test(just_below_a_power_of_two),
        cmocka_unit_test(every_e4m3_code_survives_a_block),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
