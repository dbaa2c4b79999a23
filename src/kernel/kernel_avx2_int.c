/*
 * Exact integer product with AVX2. Two panels pass over a group of tokens, a run of
 * blocks at a time, whose unpacked weights stay in the first-level cache (the plan of
 * kernel_avx512_int.c); with 16 registers the fp32 accumulators stay there too. Two,
 * because a tile's lines come from the second or third level for each pass, and
 * because the table of scales then has the stride of the tiles' slots.
 *
 * 4-bit weights are unsigned with their offset; vpmaddubsw's 16-bit sums run over
 * as many quads as cannot overflow (8, or 4 against int8 activations) before they
 * are widened. So 8 rows x token x block of 32 take 8 vpmaddubsw, 7 vpaddw and
 * vpmaddwd, vpaddd (the seed), vcvtdq2ps, fma: 19 operations for the 16 of the peak.
 * All of them, and the loads, pass the same few instructions a cycle: 6 tokens at a
 * time share the weights' loads, and what is left beside is kept small.
 *
 * Byte weights of 7 bits (e2m3) are unsigned with an offset too; their 16-bit sums hold
 * two quads. Others would saturate: they go as |w| times sign(a, w), at most
 * 128 * 127 * 2 in 16 bits (activations are encoded symmetrically, never as -128),
 * widened at each quad.
 */
#include "kernel/lanes_avx2_int.h"

#include <math.h>
#include <string.h>

enum {
    GROUP_TILES = 16, /* 256 tokens: accumulators of a panel take 16 KiB */
    PANELS = 2,       /* at a time */
    RUN_QUADS = 64,   /* unpacked at a time: 4 KiB a panel */
    RUN_BLOCKS = RUN_QUADS / 2,
    RUN_AHEAD = RUN_QUADS / 8, /* blocks of a run of the common length */
    STEP = 6,                  /* tokens at a time, at most: 12 sums, 2 weights, 2 products */
    SCALES = 256,
    SHORT_OFFSET = 64, /* of WEIGHTS_SHORT: half of the layout's, and of its seeds */
};

typedef struct sweep {
    const avx2_product *all;
    const uint8_t *panels;
    size_t n_panels;
    const uint8_t *tiles;
    size_t n_tokens, n_tiles;
    float *out; /* of the first token and row */
    size_t out_stride, n_rows;
    bool plain; /* mx_layout_is_plain, all panels */
    /* Scratch. The table holds exponents e where the data is not plain, else 2^e; an
     * entry is as long as tiles' slots assume, MX_SLOT_BYTES. */
    float table[SCALES][PANELS][16] __attribute__((aligned(64)));
    float acc[PANELS][GROUP_TILES * 16][16] __attribute__((aligned(64)));
    int32_t dots[PANELS][GROUP_TILES * 16][16] __attribute__((aligned(64)));
    /* Of one run. WEIGHTS_BYTES: values, then magnitudes. Others: value + offset. */
    uint8_t weights[PANELS][2][RUN_QUADS][MX_QUAD_BYTES] __attribute__((aligned(64)));
} sweep;

/* Whole blocks of one length, or a part of a long one. */
typedef struct run {
    size_t block, n_blocks;
    size_t first_quad, n_quads;     /* in the row; of each block */
    bool begins, ends;              /* false: the block's dots come from, rest in scratch */
    bool last;                      /* of the row: sums are done */
    const char *tables[RUN_BLOCKS]; /* plus a token's slot: its scale's entry */
} run;

static __m256i nibble_table(const mx_int_layout *layout, const mx_format *format)
{
    uint8_t table[16];
    for (size_t i = 0; i < 16; i++) {
        int value = format->int_table[i & ((1u << format->bits) - 1)];
        table[i] = (uint8_t)(value + layout->offset);
    }
    return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)table));
}

/* value * 2^e, rounded once, for any e of two scales; NaN where e is. */
static lanes scale_any(lanes value, lanes e)
{
    /* |value| < 2^31 is 0 or Inf beyond these. */
    lanes limited = lanes_min(lanes_set(200), lanes_max(lanes_set(-200), e));
    return lanes_add(lanes_scale(value, limited), lanes_sub(e, e));
}

/* Range of the block's scale bytes over the tiles. */
static void scale_range(const sweep *s, size_t block, uint32_t *low, uint32_t *high)
{
    const uint8_t *slots = s->tiles + s->all->layout.tile_slots + block * 64;
    __m256i min = load_i(slots), max = min;
    for (size_t i = 0; i < s->n_tiles; i++, slots += s->all->layout.tile_bytes) {
        __m256i a = load_i(slots), b = load_i(slots + 32);
        min = _mm256_min_epu32(min, _mm256_min_epu32(a, b));
        max = _mm256_max_epu32(max, _mm256_max_epu32(a, b));
    }
    uint32_t mins[8], maxs[8];
    _mm256_storeu_si256((__m256i *)(void *)mins, min);
    _mm256_storeu_si256((__m256i *)(void *)maxs, max);
    *low = mins[0];
    *high = maxs[0];
    for (size_t i = 1; i < 8; i++) {
        *low = mins[i] < *low ? mins[i] : *low;
        *high = maxs[i] > *high ? maxs[i] : *high;
    }
    *low /= MX_SLOT_BYTES;
    *high /= MX_SLOT_BYTES;
}

/* 2^e, -149 <= e <= 127. */
MX_TEMPLATE __m256 power_of_two(__m256i e)
{
    __m256i normal = _mm256_slli_epi32(_mm256_add_epi32(e, _mm256_set1_epi32(127)), 23);
    __m256i place = _mm256_add_epi32(e, _mm256_set1_epi32(149));
    __m256i subnormal = _mm256_sllv_epi32(_mm256_set1_epi32(1), place);
    __m256i is_normal = _mm256_cmpgt_epi32(e, _mm256_set1_epi32(-127));
    return _mm256_castsi256_ps(_mm256_blendv_epi8(subnormal, normal, is_normal));
}

/* 2^e, or e, of a panel's rows for scale bytes low .. high of the tokens. */
static void table_fill(const sweep *s, size_t block, uint32_t low, uint32_t high, size_t panel,
                       float (*entries)[PANELS][16])
{
    const uint8_t *scales =
        s->panels + panel * s->all->layout.panel_bytes + s->all->layout.panel_scales;
    __m256i bias = _mm256_set1_epi32(2 * MX_E8M0_BIAS + s->all->layout.pair.shift);
    __m256 nan = _mm256_set1_ps(NAN);
    _mm_prefetch((const char *)scales + (block + RUN_AHEAD) * 16, _MM_HINT_T0);
    for (size_t half = 0; half < 16; half += 8) {
        const __m128i *bytes = (const __m128i *)(const void *)(scales + block * 16 + half);
        __m256i w = _mm256_cvtepu8_epi32(_mm_loadl_epi64(bytes));
        __m256 w_nan = _mm256_castsi256_ps(_mm256_cmpeq_epi32(w, _mm256_set1_epi32(MX_E8M0_NAN)));
        w = _mm256_sub_epi32(w, bias);
        for (uint32_t a = low; a <= high; a++) {
            __m256i e = _mm256_add_epi32(w, _mm256_set1_epi32((int32_t)a));
            __m256 value =
                s->plain ? power_of_two(e) : _mm256_blendv_ps(_mm256_cvtepi32_ps(e), nan, w_nan);
            /* The entry of a NaN token is NaN even where the data is plain. */
            _mm256_store_ps(entries[a - low][panel] + half, a == MX_E8M0_NAN ? nan : value);
        }
    }
}

/* Tables of the blocks from r->block on, as many as fit: shortens the run. */
static void run_tables(sweep *s, run *r)
{
    size_t used = 0;
    for (size_t b = 0; b < r->n_blocks; b++) {
        uint32_t low, high;
        scale_range(s, r->block + b, &low, &high);
        size_t n = high - low + 1;
        if (used + n > SCALES) {
            r->n_blocks = b;
            return;
        }
        for (size_t panel = 0; panel < s->n_panels; panel++) {
            table_fill(s, r->block + b, low, high, panel, s->table + used);
        }
        const char *entries = (const char *)s->table[used];
        r->tables[b] = entries - (size_t)low * sizeof s->table[0];
        used += n;
    }
}

/* Entries of one block's scales, as two addresses: with one the compiler would add
 * each token's slot to it instead of taking it as an index. */
typedef struct entries {
    const char *low, *high; /* rows 0 .. 7, 8 .. 15 */
} entries;

MX_TEMPLATE entries entries_make(const char *low)
{
    entries at = {low, low + 32};
    __asm__("" : "+r"(at.high));
    return at;
}

/* One row of accumulators at a finished dot. */
MX_TEMPLATE void acc_add(__m256i low, __m256i high, entries at, size_t slot, float *acc, bool plain)
{
    lanes value = {_mm256_cvtepi32_ps(low), _mm256_cvtepi32_ps(high)};
    lanes factor = {_mm256_load_ps((const float *)(const void *)(at.low + slot)),
                    _mm256_load_ps((const float *)(const void *)(at.high + slot))};
    lanes sum = lanes_load(acc);
    sum = plain ? lanes_fma(value, factor, sum) : lanes_add(sum, scale_any(value, factor));
    lanes_store(acc, sum);
}

/* Where a step's tokens stand in a run: by value, so that stores cannot make the
 * compiler load the addresses again. */
typedef struct step {
    const uint8_t *weights;
    const uint8_t *seeds, *slots, *quads; /* of the step's first token */
    const char *const *tables;            /* of the run's blocks */
    size_t panel_at;                      /* of the panel in an entry of the table */
    float *acc;                           /* [n_tokens][16] */
    int32_t *dots;                        /* [n_tokens][16] */
} step;

/* sum += products of 16 rows of a quad with one token's 4 bytes. In assembly since
 * compilers order these so that more values live than there are registers. */
MX_TEMPLATE void quad_add(__m256i low, __m256i high, const uint8_t *token, __m256i sum[2])
{
    const int32_t *bytes = (const int32_t *)(const void *)token;
    __m256i x, y;
    __asm__("vpbroadcastd %[bytes], %[y]\n\t"
            "vpmaddubsw %[y], %[low], %[x]\n\t"
            "vpmaddubsw %[y], %[high], %[y]\n\t"
            "vpaddw %[x], %[sum0], %[sum0]\n\t"
            "vpaddw %[y], %[sum1], %[sum1]"
            : [sum0] "+x"(sum[0]), [sum1] "+x"(sum[1]), [x] "=&x"(x), [y] "=&x"(y)
            : [bytes] "m"(*bytes), [low] "x"(low), [high] "x"(high));
}

/* One quad of 4-bit weights, in 16 bits; the first one begins the sums. */
MX_TEMPLATE void quad_nibbles(step at, size_t q, int n_tokens, __m256i sum[STEP][2])
{
    __m256i low = load_i(at.weights + q * MX_QUAD_BYTES);
    __m256i high = load_i(at.weights + q * MX_QUAD_BYTES + 32);
    MX_UNROLL
    for (int t = 0; t < n_tokens; t++) {
        const uint8_t *token = at.quads + q * MX_QUAD_BYTES + t * 4;
        if (q == 0) {
            __m256i value = broadcast_u32(token);
            sum[t][0] = opaque(_mm256_maddubs_epi16(low, value));
            sum[t][1] = opaque(_mm256_maddubs_epi16(high, value));
        } else {
            quad_add(low, high, token, sum[t]);
        }
    }
}

/* Two quads of byte weights of 8 rows, as products in 16 bits of a token each: their sum
 * where that fits, WEIGHTS_SHORT, else they are widened one by one. */
MX_TEMPLATE __m256i octet_bytes(const __m256i w[2], const __m256i magnitude[2],
                                const uint8_t *token, weights_kind kind)
{
    __m256i ones = _mm256_set1_epi16(1);
    __m256i first = broadcast_u32(token), second = broadcast_u32(token + MX_QUAD_BYTES);
    if (kind == WEIGHTS_SHORT) {
        __m256i pairs = _mm256_add_epi16(_mm256_maddubs_epi16(magnitude[0], first),
                                         _mm256_maddubs_epi16(magnitude[1], second));
        return _mm256_madd_epi16(pairs, ones);
    }
    __m256i x = _mm256_maddubs_epi16(magnitude[0], _mm256_sign_epi8(first, w[0]));
    __m256i y = _mm256_maddubs_epi16(magnitude[1], _mm256_sign_epi8(second, w[1]));
    return _mm256_add_epi32(_mm256_madd_epi16(x, ones), _mm256_madd_epi16(y, ones));
}

/* sum = dots of n_quads quads of byte weights: 8 rows after the others, which leaves
 * registers for all tokens. */
MX_TEMPLATE void quads_bytes(step at, size_t n_quads, int n_tokens, weights_kind kind,
                             __m256i sum[STEP][2])
{
    MX_UNROLL
    for (int half = 0; half < 2; half++) {
        /* Or the compiler would keep what it has broadcast, on the stack. */
        __asm__("" : "+r"(at.quads));
        MX_UNROLL
        for (int t = 0; t < n_tokens; t++) {
            sum[t][half] = _mm256_setzero_si256();
        }
        for (size_t q = 0; q < n_quads; q += 2) {
            const uint8_t *weights = at.weights + q * MX_QUAD_BYTES + 32 * half;
            __m256i w[2] = {load_i(weights), load_i(weights + MX_QUAD_BYTES)};
            __m256i magnitude[2] = {w[0], w[1]}; /* unsigned weights are theirs */
            if (kind == WEIGHTS_BYTES) {
                magnitude[0] = load_i(weights + RUN_QUADS * MX_QUAD_BYTES);
                magnitude[1] = load_i(weights + (RUN_QUADS + 1) * MX_QUAD_BYTES);
            }
            MX_UNROLL
            for (int t = 0; t < n_tokens; t++) {
                const uint8_t *token = at.quads + q * MX_QUAD_BYTES + t * 4;
                sum[t][half] =
                    opaque(_mm256_add_epi32(sum[t][half], octet_bytes(w, magnitude, token, kind)));
            }
        }
    }
}

/* sum = dots of n_quads >= 1 quads, without seeds. */
MX_TEMPLATE void quads_dots(step at, size_t n_quads, int n_tokens, weights_kind kind,
                            __m256i sum[STEP][2])
{
    if (kind != WEIGHTS_NIBBLES) {
        quads_bytes(at, n_quads, n_tokens, kind, sum);
        return;
    }
    quad_nibbles(at, 0, n_tokens, sum);
    if (n_quads == 8) {
        MX_UNROLL
        for (size_t q = 1; q < 8; q++) {
            quad_nibbles(at, q, n_tokens, sum);
        }
    } else {
        for (size_t q = 1; q < n_quads; q++) {
            quad_nibbles(at, q, n_tokens, sum);
        }
    }
    __m256i ones = _mm256_set1_epi16(1);
    MX_UNROLL
    for (int t = 0; t < n_tokens; t++) {
        sum[t][0] = _mm256_madd_epi16(sum[t][0], ones);
        sum[t][1] = _mm256_madd_epi16(sum[t][1], ones);
    }
}

/* Dots of one block, or a part of it, onto the accumulators or to rest. */
MX_TEMPLATE void step_add(const run *r, step at, entries table, int n_tokens, weights_kind kind,
                          bool plain, bool whole, __m256i sum[STEP][2])
{
    MX_UNROLL
    for (int t = 0; t < n_tokens; t++) {
        __m256i low = sum[t][0], high = sum[t][1];
        if (!whole && !r->begins) {
            low = _mm256_add_epi32(low, load_i(at.dots + t * 16));
            high = _mm256_add_epi32(high, load_i(at.dots + t * 16 + 8));
        } else if (kind != WEIGHTS_BYTES) { /* which have no offset here */
            __m256i seed = broadcast_u32(at.seeds + t * 4);
            seed = kind == WEIGHTS_SHORT ? _mm256_srai_epi32(seed, 1) : seed;
            low = _mm256_add_epi32(low, seed);
            high = _mm256_add_epi32(high, seed);
        }
        if (whole || r->ends) {
            uint32_t slot;
            memcpy(&slot, at.slots + t * 4, sizeof slot);
            acc_add(low, high, table, slot, at.acc + t * 16, plain);
        } else {
            store_i(at.dots + t * 16, low);
            store_i(at.dots + t * 16 + 8, high);
        }
    }
}

/* 16 rows and n_tokens tokens over one run. */
MX_TEMPLATE void step_run(const run *r, step at, int n_tokens, weights_kind kind, bool plain,
                          bool whole)
{
    size_t n_quads = whole ? 8 : r->n_quads;
    for (size_t b = 0; b < r->n_blocks; b++) {
        __m256i sum[STEP][2];
        /* Or the compiler would keep accumulators from block to block, on the stack. */
        __asm__("" : "+r"(at.acc));
        quads_dots(at, n_quads, n_tokens, kind, sum);
        step_add(r, at, entries_make(at.tables[b] + at.panel_at), n_tokens, kind, plain, whole,
                 sum);
        at.weights += n_quads * MX_QUAD_BYTES;
        at.seeds += 64;
        at.slots += 64;
        at.quads += n_quads * MX_QUAD_BYTES;
    }
}

/* The step for some of the `left` tokens of a tile; returns their number. */
MX_TEMPLATE size_t step_tokens(const run *r, step at, size_t left, weights_kind kind, bool plain,
                               bool whole)
{
    size_t n_steps = (left + STEP - 1) / STEP, n_tokens = (left + n_steps - 1) / n_steps;
    if (whole && n_tokens == 6) {
        step_run(r, at, 6, kind, plain, whole);
    } else if (whole && n_tokens == 5) {
        step_run(r, at, 5, kind, plain, whole);
    } else if (n_tokens >= 4) {
        step_run(r, at, n_tokens = 4, kind, plain, whole);
    } else {
        step_run(r, at, n_tokens = 1, kind, plain, whole);
    }
    return n_tokens;
}

/* Finished sums of n_tokens tokens and one panel. */
static void sums_store(const sweep *s, size_t panel, size_t token, size_t n_tokens)
{
    float *out = s->out + token * s->out_stride + panel * 16;
    size_t n_rows = mx_min_size(s->n_rows - panel * 16, 16);
    for (size_t t = 0; t < n_tokens; t++, out += s->out_stride) {
        lanes_store_part(out, lanes_load(s->acc[panel][token + t]), n_rows);
    }
}

/* One run of a panel over a tile, from `first`, its first token in the group, on. */
MX_TEMPLATE void tile_sweep(sweep *s, const run *r, size_t panel, size_t first, weights_kind kind,
                            bool plain, bool whole)
{
    const mx_int_layout *layout = &s->all->layout;
    const uint8_t *tile = s->tiles + first / 16 * layout->tile_bytes;
    size_t n_tokens = mx_min_size(s->n_tokens - first, 16), n;
    for (size_t t = 0; t < n_tokens; t += n) {
        step at = {
            .weights = s->weights[panel][0][0],
            .seeds = tile + layout->tile_seeds + r->block * 64 + t * 4,
            .slots = tile + layout->tile_slots + r->block * 64 + t * 4,
            .quads = tile + layout->tile_codes + r->first_quad * MX_QUAD_BYTES + t * 4,
            .tables = r->tables,
            .panel_at = panel * sizeof s->table[0][0],
            .acc = s->acc[panel][first + t],
            .dots = s->dots[panel][first + t],
        };
        n = step_tokens(r, at, n_tokens - t, kind, plain, whole);
    }
    /* Here rather than when all is done: the stores' misses hide behind the next tile. */
    if (r->last) {
        sums_store(s, panel, first, n_tokens);
    }
}

/* One run over all tokens of the group; the literal arguments make the copies. */
MX_TEMPLATE void run_sweep(sweep *s, const run *r, weights_kind kind, bool plain, bool whole)
{
    for (size_t token = 0; token < s->n_tokens; token += 16) {
        for (size_t panel = 0; panel < s->n_panels; panel++) {
            tile_sweep(s, r, panel, token, kind, plain, whole);
        }
    }
}

MX_TEMPLATE void run_sweep_kind(sweep *s, const run *r, weights_kind kind, bool whole)
{
    if (whole) {
        run_sweep(s, r, kind, true, true);
    } else {
        s->plain ? run_sweep(s, r, kind, true, false) : run_sweep(s, r, kind, false, false);
    }
}

static void run_sweep_any(sweep *s, const run *r)
{
    bool whole = s->plain && r->begins && r->ends && r->n_quads == 8;
    switch (s->all->kind) {
    case WEIGHTS_NIBBLES:
        run_sweep_kind(s, r, WEIGHTS_NIBBLES, whole);
        break;
    case WEIGHTS_SHORT:
        run_sweep_kind(s, r, WEIGHTS_SHORT, whole);
        break;
    default:
        run_sweep_kind(s, r, WEIGHTS_BYTES, whole);
        break;
    }
}

static void unpack_nibbles(__m256i table, const uint8_t *codes, size_t n_quads,
                           uint8_t (*weights)[MX_QUAD_BYTES])
{
    __m256i mask = _mm256_set1_epi8(15);
    for (size_t q = 0; q < n_quads; q += 2, codes += MX_QUAD_BYTES) {
        /* The next run's codes follow. */
        _mm_prefetch((const char *)codes + n_quads / 2 * MX_QUAD_BYTES, _MM_HINT_T0);
        for (size_t half = 0; half < 64; half += 32) {
            __m256i x = load_i(codes + half), y = _mm256_srli_epi16(x, 4);
            store_i(weights[q] + half, _mm256_shuffle_epi8(table, _mm256_and_si256(x, mask)));
            store_i(weights[q + 1] + half, _mm256_shuffle_epi8(table, _mm256_and_si256(y, mask)));
        }
    }
}

/* Values plus `offset`; magnitudes of the values, NULL: none. */
static void unpack_bytes(const uint8_t *codes, size_t n_quads, int offset,
                         uint8_t (*values)[MX_QUAD_BYTES], uint8_t (*magnitudes)[MX_QUAD_BYTES])
{
    __m256i change = _mm256_set1_epi8((char)(MX_BYTE_OFFSET - offset));
    for (size_t q = 0; q < n_quads; q++, codes += MX_QUAD_BYTES) {
        _mm_prefetch((const char *)codes + n_quads * MX_QUAD_BYTES, _MM_HINT_T0);
        for (size_t half = 0; half < 64; half += 32) {
            __m256i x = _mm256_sub_epi8(load_i(codes + half), change);
            store_i(values[q] + half, x);
            if (magnitudes != NULL) {
                store_i(magnitudes[q] + half, _mm256_abs_epi8(x));
            }
        }
    }
}

/* The run's weights of a panel to scratch. */
static void panel_unpack(sweep *s, const run *r, size_t panel)
{
    const uint8_t *codes =
        s->panels + panel * s->all->layout.panel_bytes + s->all->layout.panel_codes;
    size_t n_quads = r->n_blocks * r->n_quads;
    uint8_t(*values)[MX_QUAD_BYTES] = s->weights[panel][0];
    if (s->all->kind == WEIGHTS_NIBBLES) { /* quads come in pairs: octets */
        codes += r->first_quad / 2 * MX_QUAD_BYTES;
        unpack_nibbles(s->all->nibbles, codes, n_quads, values);
        return;
    }
    codes += r->first_quad * MX_QUAD_BYTES;
    if (s->all->kind == WEIGHTS_SHORT) {
        unpack_bytes(codes, n_quads, SHORT_OFFSET, values, NULL);
    } else {
        unpack_bytes(codes, n_quads, 0, values, s->weights[panel][1]);
    }
}

/* One run of all panels and tokens. */
static void run_all(sweep *s, const run *r)
{
    for (size_t panel = 0; panel < s->n_panels; panel++) {
        panel_unpack(s, r, panel);
    }
    run_sweep_any(s, r);
}

/* Whole blocks from `block` on; returns the block after the run. */
static size_t sweep_blocks(sweep *s, size_t block, size_t n_quads)
{
    const mx_block_pair *pair = &s->all->layout.pair;
    size_t alike = pair->k / pair->block - block; /* full blocks left */
    run r = {
        .block = block,
        .n_blocks = mx_min_size(RUN_QUADS / n_quads, alike > 1 ? alike : 1),
        .first_quad = block * pair->block / 4,
        .n_quads = n_quads,
        .begins = true,
        .ends = true,
    };
    run_tables(s, &r);
    r.last = block + r.n_blocks == pair->n_blocks;
    run_all(s, &r);
    return block + r.n_blocks;
}

/* A block longer than 16-bit sums may be, in parts. */
static void sweep_parts(sweep *s, size_t block, size_t n_quads)
{
    run r = {.block = block, .n_blocks = 1};
    run_tables(s, &r);
    for (size_t q = 0; q < n_quads; q += s->all->part_quads) {
        r.first_quad = block * s->all->layout.pair.block / 4 + q;
        r.n_quads = mx_min_size(n_quads - q, s->all->part_quads);
        r.begins = q == 0;
        r.ends = n_quads - q <= s->all->part_quads;
        r.last = r.ends && block + 1 == s->all->layout.pair.n_blocks;
        run_all(s, &r);
    }
}

static void sweep_all(sweep *s)
{
    const mx_block_pair *pair = &s->all->layout.pair;
    for (size_t b = 0; b < pair->n_blocks;) {
        size_t n_quads = mx_round_up(mx_block_pair_length(pair, b), 8) / 4;
        if (n_quads <= s->all->part_quads) {
            b = sweep_blocks(s, b, n_quads);
        } else {
            sweep_parts(s, b++, n_quads);
        }
    }
}

static int largest_value(const mx_format *format)
{
    int largest = 0;
    for (uint32_t code = 0; code < 1u << format->bits; code++) {
        int value = format->int_table[code];
        largest = value > largest ? value : largest;
    }
    return largest;
}

/* Quads, an even number, over which 16-bit sums of unsigned weights cannot overflow. */
static size_t safe_quads(const mx_block_product *product, int offset)
{
    int largest = largest_value(product->weights->format) + offset;
    int activation = largest_value(product->activations->format);
    return mx_min_size((size_t)(INT16_MAX / (2 * largest * activation)), PART_QUADS) / 2 * 2;
}

static bool panels_plain(const sweep *s)
{
    bool plain = true;
    for (size_t panel = 0; panel < s->n_panels; panel++) {
        plain = plain &&
                mx_layout_is_plain(&s->all->layout, s->panels + panel * s->all->layout.panel_bytes,
                                   s->tiles, s->n_tiles);
    }
    return plain;
}

static avx2_product product_make(const mx_block_product *product)
{
    avx2_product all = {.product = product, .part_quads = PART_QUADS};
    all.layout = mx_int_layout_make(product->weights, product->activations, product->k);
    all.nibbles = _mm256_setzero_si256();
    if (all.layout.nibbles) {
        all.nibbles = nibble_table(&all.layout, product->weights->format);
        all.part_quads = safe_quads(product, all.layout.offset);
        all.kind = WEIGHTS_NIBBLES;
    } else {
        bool is_short = largest_value(product->weights->format) < SHORT_OFFSET &&
                        safe_quads(product, SHORT_OFFSET) >= 2;
        all.kind = is_short ? WEIGHTS_SHORT : WEIGHTS_BYTES;
    }
    return all;
}

/* n_panels panels, PANELS at most, and a group of tiles. */
static void product_sweep(const avx2_product *all, size_t panel, size_t n_panels, size_t first_tile)
{
    const mx_block_product *product = all->product;
    const mx_int_layout *layout = &all->layout;
    size_t token = first_tile * 16;
    sweep s;
    s.all = all;
    s.panels = product->panels + panel * layout->panel_bytes;
    s.n_panels = n_panels;
    s.tiles = product->tiles + first_tile * layout->tile_bytes;
    s.n_tokens = mx_min_size(product->n_tokens - token, GROUP_TILES * 16);
    s.n_tiles = (s.n_tokens + 15) / 16;
    s.out = product->out + token * product->out_stride + panel * 16;
    s.out_stride = product->out_stride;
    s.n_rows = product->n_rows - panel * 16;
    s.plain = panels_plain(&s);
    for (size_t i = 0; i < n_panels; i++) {
        memset(s.acc[i], 0, s.n_tokens * sizeof s.acc[i][0]);
    }
    sweep_all(&s);
}

void mx_avx2_int_product(const mx_block_product *product)
{
    avx2_product all = product_make(product);
    size_t n_panels = (product->n_rows + 15) / 16; /* panels without rows have no output */
    size_t n_tiles = (product->n_tokens + 15) / 16;
    for (size_t tile = 0; tile < n_tiles; tile += GROUP_TILES) {
        for (size_t panel = 0, n; panel < n_panels; panel += n) {
            n = mx_avx2_int_small(&all, panel, n_panels - panel);
            if (n == 0) {
                n = mx_min_size(n_panels - panel, PANELS);
                product_sweep(&all, panel, n, tile);
            }
        }
    }
}
