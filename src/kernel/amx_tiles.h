/* Configuration of the tile unit, for what multiplies full tiles. */
#ifndef MX_KERNEL_AMX_TILES_H
#define MX_KERNEL_AMX_TILES_H

#if defined(__AMX_TILE__) || defined(__AMXTILE__) /* the second: clang 14 */
#include <immintrin.h>
#include <stdint.h>

/* All eight registers as 16 rows of 64 bytes: palette 1 (Intel SDM vol. 1, 18.3). */
static inline void amx_tiles_configure(void)
{
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } config = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        config.row_bytes[i] = 64;
        config.rows[i] = 16;
    }
    /* GCC 12 takes the instruction to read the first 8 bytes only. */
    __asm__ volatile("" : : "r"(&config) : "memory");
    _tile_loadconfig(&config);
}
#endif

#endif
