/* Codes as a little-endian bit stream: element i occupies bits [i * bits,
 * (i + 1) * bits). Eight codes always fill `bits` whole bytes. */
#include "format/block.h"

#include <string.h>

/* Inlined with a constant `bits`, so that the compiler unrolls the loops. */
static inline __attribute__((always_inline)) void pack_groups(const uint8_t *codes, size_t groups,
                                                              unsigned bits, uint8_t *packed)
{
    uint64_t mask = (1u << bits) - 1;
    for (size_t g = 0; g < groups; g++, codes += 8, packed += bits) {
        uint64_t word = 0;
        for (unsigned j = 0; j < 8; j++) {
            word |= (codes[j] & mask) << (bits * j);
        }
        for (unsigned j = 0; j < bits; j++) {
            packed[j] = (uint8_t)(word >> (8 * j));
        }
    }
}

static inline __attribute__((always_inline)) void
unpack_groups(const uint8_t *packed, size_t groups, unsigned bits, uint8_t *codes)
{
    uint64_t mask = (1u << bits) - 1;
    for (size_t g = 0; g < groups; g++, codes += 8, packed += bits) {
        uint64_t word = 0;
        for (unsigned j = 0; j < bits; j++) {
            word |= (uint64_t)packed[j] << (8 * j);
        }
        for (unsigned j = 0; j < 8; j++) {
            codes[j] = (uint8_t)((word >> (bits * j)) & mask);
        }
    }
}

/* Whole groups of eight codes. Formats of 4, 6 and 8 bits get loops of their own. */
static void pack_octets(const uint8_t *codes, size_t groups, unsigned bits, uint8_t *packed)
{
    switch (bits) {
    case 4:
        pack_groups(codes, groups, 4, packed);
        break;
    case 6:
        pack_groups(codes, groups, 6, packed);
        break;
    case 8:
        pack_groups(codes, groups, 8, packed);
        break;
    default:
        pack_groups(codes, groups, bits & 7, packed);
        break;
    }
}

static void unpack_octets(const uint8_t *packed, size_t groups, unsigned bits, uint8_t *codes)
{
    switch (bits) {
    case 4:
        unpack_groups(packed, groups, 4, codes);
        break;
    case 6:
        unpack_groups(packed, groups, 6, codes);
        break;
    case 8:
        unpack_groups(packed, groups, 8, codes);
        break;
    default:
        unpack_groups(packed, groups, bits & 7, codes);
        break;
    }
}

void mx_codes_pack(const uint8_t *codes, size_t n, unsigned bits, uint8_t *packed)
{
    size_t groups = n / 8, rest = n % 8;
    pack_octets(codes, groups, bits, packed);
    if (rest != 0) {
        uint8_t tail[8] = {0}, bytes[8];
        memcpy(tail, codes + 8 * groups, rest);
        pack_octets(tail, 1, bits, bytes);
        memcpy(packed + bits * groups, bytes, (rest * bits + 7) / 8);
    }
}

void mx_codes_unpack(const uint8_t *packed, size_t n, unsigned bits, uint8_t *codes)
{
    size_t groups = n / 8, rest = n % 8;
    unpack_octets(packed, groups, bits, codes);
    if (rest != 0) {
        uint8_t tail[8], bytes[8] = {0};
        memcpy(bytes, packed + bits * groups, (rest * bits + 7) / 8);
        unpack_octets(bytes, 1, bits, tail);
        memcpy(codes + 8 * groups, tail, rest);
    }
}
