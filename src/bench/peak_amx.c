/* AMX: tdpbf16ps on full tiles, 16 x 16 x 32 products of bf16 an instruction: the
 * arithmetic of the block product (kernel_amx.c). What is not about tiles is
 * AVX-512's. */
#include "bench/peak.h"

#include "kernel/amx_tiles.h"

#if defined(__AMX_BF16__) || defined(__AMXBF16__) /* the second: clang 14 */
/* Six accumulators, one A, one B: a product takes 52 cycles and starts every 16. */
static void int_run(uint64_t n)
{
    amx_tiles_configure();
    for (uint64_t j = 0; j < n; j++) {
        _tile_dpbf16ps(0, 6, 7);
        _tile_dpbf16ps(1, 6, 7);
        _tile_dpbf16ps(2, 6, 7);
        _tile_dpbf16ps(3, 6, 7);
        _tile_dpbf16ps(4, 6, 7);
        _tile_dpbf16ps(5, 6, 7);
    }
    _tile_release();
}

const mx_peak mx_peak_amx = {
    .isa = "amx",
    .below = &mx_peak_avx512,
    .any_block = true,
    .int_name = "tdpbf16ps 16x16x32",
    .int_macs = 6.0 * 16 * 16 * 32,
    .int_run = int_run,
};
#endif
