/* Storage types: all f16, bf16 and fp8 values against their definitions, GGUF blocks
 * against the gguf package (tools/oracle_gguf_types.py). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first. */
#include <cmocka.h>

#include "format/dtype.h"
#include "io/safetensors.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static float float_of(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* Equal bits, or both NaN: the payload of a computed NaN is the processor's. */
static void assert_same(float a, float b)
{
    if (!(isnan(a) && isnan(b)) && bits_of(a) != bits_of(b)) {
        fail_msg("%a is not %a", (double)a, (double)b);
    }
}

/* The value of a minifloat from its definition; all-ones exponents are Inf and NaN
 * when `ieee`, numbers otherwise. */
static double minifloat(uint32_t code, int exponent_bits, int mantissa_bits, bool ieee)
{
    const int bias = (1 << (exponent_bits - 1)) - 1;
    const uint32_t mantissa = code & ((1u << mantissa_bits) - 1);
    const uint32_t exponent = code >> mantissa_bits & ((1u << exponent_bits) - 1);
    const double sign = code >> (exponent_bits + mantissa_bits) & 1 ? -1.0 : 1.0;
    if (ieee && exponent == (1u << exponent_bits) - 1) {
        return mantissa != 0 ? NAN : sign * INFINITY;
    }
    if (exponent == 0) {
        return sign * ldexp((double)mantissa, 1 - bias - mantissa_bits);
    }
    return sign *
           ldexp((double)(mantissa + (1u << mantissa_bits)), (int)exponent - bias - mantissa_bits);
}

static void test_f16_all_values(void **state)
{
    (void)state;
    for (uint32_t code = 0; code < 65536; code++) {
        const float expected = (float)minifloat(code, 5, 10, true);
        assert_same(mx_f16_to_f32((uint16_t)code), expected);
        if (!isnan(expected)) {
            assert_int_equal(mx_f32_to_f16(expected), code);
        } else {
            assert_true(isnan(mx_f16_to_f32(mx_f32_to_f16(mx_f16_to_f32((uint16_t)code)))));
        }
    }
}

/* Between two neighbours: the tie goes to the even code, all else to the nearer. */
static void test_f16_rounding(void **state)
{
    (void)state;
    for (uint32_t code = 0; code < 0x7C00; code++) {
        const float low = mx_f16_to_f32((uint16_t)code);
        /* Above the largest number, the neighbour that rounding sees is 2^16. */
        const float high = code == 0x7BFF ? 65536.0f : mx_f16_to_f32((uint16_t)(code + 1));
        const float tie = low + (high - low) / 2;
        const uint32_t even = code + (code & 1);
        assert_int_equal(mx_f32_to_f16(tie), even);
        assert_int_equal(mx_f32_to_f16(-tie), even | 0x8000);
        assert_int_equal(mx_f32_to_f16(nextafterf(tie, 0)), code);
        assert_int_equal(mx_f32_to_f16(nextafterf(tie, INFINITY)), code + 1);
    }
    assert_int_equal(mx_f32_to_f16(3.0e38f), 0x7C00);
    assert_int_equal(mx_f32_to_f16(-INFINITY), 0xFC00);
    assert_int_equal(mx_f32_to_f16(1e-45f), 0);
    assert_int_equal(mx_f32_to_f16(-0.0f), 0x8000);
    assert_true(isnan(mx_f16_to_f32(mx_f32_to_f16(float_of(0x7F800001)))));
}

static void test_bf16(void **state)
{
    (void)state;
    for (uint32_t code = 0; code < 65536; code++) {
        const float value = mx_bf16_to_f32((uint16_t)code);
        assert_int_equal(bits_of(value), code << 16);
        if (isnan(value)) {
            assert_true(isnan(mx_bf16_to_f32(mx_f32_to_bf16(value))));
            continue;
        }
        assert_int_equal(mx_f32_to_bf16(value), code);
        if (isfinite(value)) {
            assert_int_equal(mx_f32_to_bf16(float_of(code << 16 | 0x7FFF)), code);
            assert_int_equal(mx_f32_to_bf16(float_of(code << 16 | 0x8000)), code + (code & 1));
            assert_int_equal(mx_f32_to_bf16(float_of(code << 16 | 0x8001)), code + 1);
        }
    }
    assert_true(isnan(mx_bf16_to_f32(mx_f32_to_bf16(float_of(0x7F800001)))));
}

static void test_bytes(void **state)
{
    (void)state;
    for (uint32_t code = 0; code < 256; code++) {
        const uint8_t byte = (uint8_t)code;
        float value;
        mx_dtype_get(MX_DTYPE_F8_E5M2)->decode(&byte, 1, &value);
        assert_same(value, (float)minifloat(code, 5, 2, true));
        mx_dtype_get(MX_DTYPE_F8_E4M3)->decode(&byte, 1, &value);
        const bool nan = (code & 0x7F) == 0x7F;
        assert_same(value, nan ? NAN : (float)minifloat(code, 4, 3, false));
        mx_dtype_get(MX_DTYPE_F8_E8M0)->decode(&byte, 1, &value);
        assert_same(value, code == 255 ? NAN : (float)ldexp(1.0, (int)code - 127));
    }
}

/* Plain decoders on unaligned bytes, with tails that no vector width divides. */
static void test_plain_unaligned(void **state)
{
    (void)state;
    enum { N = 37 };
    uint8_t bytes[1 + 8 * N];
    float out[N + 1];
    out[N] = 123.0f;
    for (size_t i = 0; i < N; i++) {
        const double wide = (double)i - 11.25;
        memcpy(bytes + 1 + 8 * i, &wide, sizeof wide);
    }
    mx_dtype_get(MX_DTYPE_F64)->decode(bytes + 1, N, out);
    for (size_t i = 0; i < N; i++) {
        assert_same(out[i], (float)i - 11.25f);
        memcpy(bytes + 1 + 4 * i, &out[i], sizeof out[i]);
    }
    mx_dtype_get(MX_DTYPE_F32)->decode(bytes + 1, N, out);
    for (size_t i = 0; i < N; i++) {
        assert_same(out[i], (float)i - 11.25f);
        const uint16_t half = mx_f32_to_f16(out[i]);
        memcpy(bytes + 1 + 2 * i, &half, sizeof half);
    }
    mx_dtype_get(MX_DTYPE_F16)->decode(bytes + 1, N, out);
    for (size_t i = 0; i < N; i++) {
        assert_same(out[i], (float)i - 11.25f);
        const uint16_t half = mx_f32_to_bf16(out[i]);
        memcpy(bytes + 1 + 2 * i, &half, sizeof half);
    }
    mx_dtype_get(MX_DTYPE_BF16)->decode(bytes + 1, N, out);
    for (size_t i = 0; i < N; i++) {
        assert_same(out[i], mx_bf16_to_f32(mx_f32_to_bf16((float)i - 11.25f)));
    }
    assert_same(out[N], 123.0f);
}

static void check_golden_type(const mx_safetensors *golden, mx_dtype dtype)
{
    const mx_dtype_info *info = mx_dtype_get(dtype);
    char name[32];
    snprintf(name, sizeof name, "%s.blocks", info->name);
    const mx_tensor *blocks = mx_safetensors_find(golden, name);
    snprintf(name, sizeof name, "%s.values", info->name);
    const mx_tensor *values = mx_safetensors_find(golden, name);
    assert_non_null(blocks);
    assert_non_null(values);
    assert_int_equal(blocks->shape[1], info->block_bytes);
    assert_int_equal(values->shape[1], info->block);
    const size_t n = (size_t)mx_tensor_count(values);
    assert_int_equal(mx_dtype_bytes(dtype, n), blocks->size);
    float *expected = malloc(n * sizeof *expected), *out = malloc(n * sizeof *out);
    memcpy(expected, values->data, n * sizeof *expected);
    info->decode(blocks->data, n, out);
    size_t finite = 0;
    for (size_t i = 0; i < n; i++) {
        assert_same(out[i], expected[i]);
        finite += isfinite(out[i]);
    }
    assert_true(finite > n / 2);
    free(expected);
    free(out);
}

static void test_gguf_blocks(void **state)
{
    (void)state;
    const char *root = getenv("MXLM_TEST_DIR");
    char path[1024];
    snprintf(path, sizeof path, "%s/golden/gguf_types.safetensors", root != NULL ? root : "tests");
    mx_error err = {0};
    mx_safetensors *golden;
    if (mx_safetensors_open(path, &golden, &err) != MX_OK) {
        fail_msg("%s", err.text);
    }
    for (int dtype = MX_DTYPE_Q4_0; dtype < MX_DTYPE_COUNT; dtype++) {
        check_golden_type(golden, (mx_dtype)dtype);
    }
    mx_safetensors_close(golden);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_f16_all_values),
        cmocka_unit_test(test_f16_rounding),
        cmocka_unit_test(test_bf16),
        cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_plain_unaligned),
        cmocka_unit_test(test_gguf_blocks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
