/* The bit stream of codes: known bytes, every width, every ragged length. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include "format_oracle.h"

/* Quark's and compressed-tensors' order: even element in the low nibble. */
static void four_bits_two_a_byte(void **state)
{
    (void)state;
    const uint8_t codes[5] = {1, 2, 3, 4, 15};
    uint8_t packed[3];
    mx_codes_pack(codes, 5, 4, packed);
    const uint8_t want[3] = {0x21, 0x43, 0x0F};
    assert_memory_equal(packed, want, 3);
}

/* Four in three bytes, least significant bit first. */
static void six_bits_four_in_three_bytes(void **state)
{
    (void)state;
    const uint8_t codes[4] = {0x3F, 0x00, 0x21, 0x12};
    uint8_t packed[3];
    mx_codes_pack(codes, 4, 6, packed);
    uint32_t word = 0x3Fu | 0x21u << 12 | 0x12u << 18;
    const uint8_t want[3] = {(uint8_t)word, (uint8_t)(word >> 8), (uint8_t)(word >> 16)};
    assert_memory_equal(packed, want, 3);
}

/* Bit by bit, the definition. */
static unsigned stream_code(const uint8_t *packed, size_t i, unsigned bits)
{
    unsigned code = 0;
    for (unsigned b = 0; b < bits; b++) {
        size_t bit = i * bits + b;
        code |= ((packed[bit / 8] >> (bit % 8)) & 1u) << b;
    }
    return code;
}

static void every_width_and_length(void **state)
{
    (void)state;
    uint64_t seed = 7;
    for (unsigned bits = 1; bits <= 8; bits++) {
        for (size_t n = 0; n <= 67; n++) {
            size_t bytes = (n * bits + 7) / 8;
            /* Exact allocations, so that the sanitizers see any step beyond. */
            uint8_t *codes = malloc(n + 1), *packed = malloc(bytes + 1), *back = malloc(n + 1);
            for (size_t i = 0; i < n; i++) {
                codes[i] = (uint8_t)(oracle_random(&seed) & ((1u << bits) - 1));
            }
            back[n] = packed[bytes] = 0xA5;
            mx_codes_pack(codes, n, bits, packed);
            mx_codes_unpack(packed, n, bits, back);
            assert_memory_equal(back, codes, n);
            for (size_t i = 0; i < n; i++) {
                assert_int_equal(stream_code(packed, i, bits), codes[i]);
            }
            if (n * bits % 8 != 0) {
                assert_int_equal(packed[bytes - 1] >> (n * bits % 8), 0); /* filled up */
            }
            assert_int_equal(packed[bytes], 0xA5);
            assert_int_equal(back[n], 0xA5);
            free(codes);
            free(packed);
            free(back);
        }
    }
}

static void higher_bits_are_ignored(void **state)
{
    (void)state;
    const uint8_t codes[2] = {0xF1, 0xF2};
    uint8_t packed[1];
    mx_codes_pack(codes, 2, 4, packed);
    assert_int_equal(packed[0], 0x21);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(four_bits_two_a_byte),
        cmocka_unit_test(six_bits_four_in_three_bytes),
        cmocka_unit_test(every_width_and_length),
        cmocka_unit_test(higher_bits_are_ignored),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
