/* AMX: tdpbssd on full tiles, 16 x 16 x 64 products of bytes an instruction. What is
 * not about tiles is AVX-512's. */
#include "bench/peak.h"

#if defined(__AMX_INT8__)
#include <immintrin.h>

/* Tile configuration, palette 1 (Intel SDM vol. 1, 18.3). */
typedef struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tile_config;

/* Six accumulators, one A, one B: a product takes 52 cycles and starts every 16. */
static void int_run(uint64_t n)
{
    tile_config config = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        config.row_bytes[i] = 64;
        config.rows[i] = 16;
    }
    /* GCC 12's intrinsic tells the compiler of its first 8 bytes only. */
    __asm__ volatile("" : : "r"(&config) : "memory");
    _tile_loadconfig(&config);
    for (uint64_t j = 0; j < n; j++) {
        _tile_dpbssd(0, 6, 7);
        _tile_dpbssd(1, 6, 7);
        _tile_dpbssd(2, 6, 7);
        _tile_dpbssd(3, 6, 7);
        _tile_dpbssd(4, 6, 7);
        _tile_dpbssd(5, 6, 7);
    }
    _tile_release();
}

const mx_peak mx_peak_amx = {
    .isa = "amx",
    .below = &mx_peak_avx512,
    .int_name = "tdpbssd 16x16x64",
    .int_macs = 6.0 * 16 * 16 * 64,
    .int_run = int_run,
};
#endif
