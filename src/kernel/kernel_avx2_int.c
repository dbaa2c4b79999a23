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
 * Byte weights would saturate: they go as |w| times sign(a, w), at most
 * 128 * 127 * 2 in 16 bits (activations are encoded symmetrically, never as -128),
 * widened at each quad.
 *
 * Few tokens: panels of 4-bit weights are read once, unpacked in registers.
 */
#include "kernel/kernel_avx2.h"

#include "kernel/int_layout.h"
#include "kernel/lanes_avx2.h"
#include "kernel/unroll.h"

#include <math.h>
#include <string.h>

enum {
    GROUP_TILES = 16, /* 256 tokens: accumulators of a panel take 16 KiB */
    PANELS = 2,       /* at a time */
    RUN_QUADS = 64,   /* unpacked at a time: 4 KiB a panel */
    RUN_BLOCKS = RUN_QUADS / 2,
    RUN_AHEAD = RUN_QUADS / 8, /* blocks of a run of the common length */
    PART_QUADS = 8,            /* of a block, at most, between two widenings */
    STEP = 6,                  /* tokens at a time, at most: 12 sums, 2 weights, 2 products */
    SMALL = 4,                 /* "few tokens" */
    SMALL_PANELS = 2,          /* read side by side */
    SMALL_AHEAD = 2048,        /* bytes of codes */
    SCALES = 256,
};

typedef struct sweep {
    const mx_int_layout *layout;
    __m256i nibbles; /* code -> value + offset, in both halves */
    const uint8_t *panels;
    size_t n_panels;
    const uint8_t *tiles;
    size_t n_tokens, n_tiles;
    float *out; /* of the first token and row */
    size_t out_stride, n_rows;
    bool plain;        /* mx_layout_is_plain, all panels */
    size_t part_quads; /* at most PART_QUADS; nibbles: what 16-bit sums hold */
    /* Scratch. The table holds exponents e where the data is not plain, else 2^e; an
     * entry is as long as tiles' slots assume, MX_SLOT_BYTES. */
    float table[SCALES][PANELS][16] __attribute__((aligned(64)));
    float acc[PANELS][GROUP_TILES * 16][16] __attribute__((aligned(64)));
    int32_t dots[PANELS][GROUP_TILES * 16][16] __attribute__((aligned(64)));
    /* Of one run. Nibbles: value + offset. Bytes: values, then magnitudes. */
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

MX_TEMPLATE __m256i load_i(const void *p)
{
    return _mm256_load_si256((const __m256i *)p);
}

MX_TEMPLATE void store_i(void *p, __m256i v)
{
    _mm256_store_si256((__m256i *)p, v);
}

MX_TEMPLATE __m256i broadcast_u32(const void *p)
{
    int32_t bits;
    memcpy(&bits, p, sizeof bits);
    return _mm256_set1_epi32(bits);
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
    const uint8_t *slots = s->tiles + s->layout->tile_slots + block * 64;
    __m256i min = load_i(slots), max = min;
    for (size_t i = 0; i < s->n_tiles; i++, slots += s->layout->tile_bytes) {
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
    const uint8_t *scales = s->panels + panel * s->layout->panel_bytes + s->layout->panel_scales;
    __m256i bias = _mm256_set1_epi32(2 * MX_E8M0_BIAS + s->layout->pair.shift);
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

/* The value, of which the compiler knows nothing: it would make trees of sums, and
 * spill most of their leaves. */
MX_TEMPLATE __m256i opaque(__m256i value)
{
    __asm__("" : "+x"(value));
    return value;
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

/* One quad of byte weights, in 32 bits. */
MX_TEMPLATE void quad_bytes(step at, size_t q, int n_tokens, __m256i sum[STEP][2])
{
    __m256i ones = _mm256_set1_epi16(1);
    MX_UNROLL
    for (int half = 0; half < 2; half++) {
        const uint8_t *weights = at.weights + q * MX_QUAD_BYTES + 32 * half;
        __m256i w = load_i(weights), magnitude = load_i(weights + RUN_QUADS * MX_QUAD_BYTES);
        MX_UNROLL
        for (int t = 0; t < n_tokens; t++) {
            __m256i value = broadcast_u32(at.quads + q * MX_QUAD_BYTES + t * 4);
            __m256i pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(value, w));
            sum[t][half] = _mm256_add_epi32(sum[t][half], _mm256_madd_epi16(pairs, ones));
        }
    }
}

/* sum = dots of n_quads >= 1 quads, without seeds. */
MX_TEMPLATE void quads_dots(step at, size_t n_quads, int n_tokens, bool nibbles,
                            __m256i sum[STEP][2])
{
    if (!nibbles) {
        MX_UNROLL
        for (int t = 0; t < n_tokens; t++) {
            sum[t][0] = sum[t][1] = _mm256_setzero_si256();
        }
        for (size_t q = 0; q < n_quads; q++) {
            quad_bytes(at, q, n_tokens, sum);
        }
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
MX_TEMPLATE void step_add(const run *r, step at, entries table, int n_tokens, bool nibbles,
                          bool plain, bool whole, __m256i sum[STEP][2])
{
    MX_UNROLL
    for (int t = 0; t < n_tokens; t++) {
        __m256i low = sum[t][0], high = sum[t][1];
        if (!whole && !r->begins) {
            low = _mm256_add_epi32(low, load_i(at.dots + t * 16));
            high = _mm256_add_epi32(high, load_i(at.dots + t * 16 + 8));
        } else if (nibbles) { /* byte weights have no offset here */
            __m256i seed = broadcast_u32(at.seeds + t * 4);
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
MX_TEMPLATE void step_run(const run *r, step at, int n_tokens, bool nibbles, bool plain, bool whole)
{
    size_t n_quads = whole ? 8 : r->n_quads;
    for (size_t b = 0; b < r->n_blocks; b++) {
        __m256i sum[STEP][2];
        /* Or the compiler would keep accumulators from block to block, on the stack. */
        __asm__("" : "+r"(at.acc));
        quads_dots(at, n_quads, n_tokens, nibbles, sum);
        step_add(r, at, entries_make(at.tables[b] + at.panel_at), n_tokens, nibbles, plain, whole,
                 sum);
        at.weights += n_quads * MX_QUAD_BYTES;
        at.seeds += 64;
        at.slots += 64;
        at.quads += n_quads * MX_QUAD_BYTES;
    }
}

/* The step for some of the `left` tokens of a tile; returns their number. */
MX_TEMPLATE size_t step_tokens(const run *r, step at, size_t left, bool nibbles, bool plain,
                               bool whole)
{
    size_t n_steps = (left + STEP - 1) / STEP, n_tokens = (left + n_steps - 1) / n_steps;
    if (whole && n_tokens == 6) {
        step_run(r, at, 6, nibbles, plain, whole);
    } else if (whole && n_tokens == 5) {
        step_run(r, at, 5, nibbles, plain, whole);
    } else if (n_tokens >= 4) {
        step_run(r, at, n_tokens = 4, nibbles, plain, whole);
    } else {
        step_run(r, at, n_tokens = 1, nibbles, plain, whole);
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
MX_TEMPLATE void tile_sweep(sweep *s, const run *r, size_t panel, size_t first, bool nibbles,
                            bool plain, bool whole)
{
    const mx_int_layout *layout = s->layout;
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
        n = step_tokens(r, at, n_tokens - t, nibbles, plain, whole);
    }
    /* Here rather than when all is done: the stores' misses hide behind the next tile. */
    if (r->last) {
        sums_store(s, panel, first, n_tokens);
    }
}

/* One run over all tokens of the group; the literal arguments make the copies. */
MX_TEMPLATE void run_sweep(sweep *s, const run *r, bool nibbles, bool plain, bool whole)
{
    for (size_t token = 0; token < s->n_tokens; token += 16) {
        for (size_t panel = 0; panel < s->n_panels; panel++) {
            tile_sweep(s, r, panel, token, nibbles, plain, whole);
        }
    }
}

static void run_sweep_any(sweep *s, const run *r)
{
    bool whole = s->plain && r->begins && r->ends && r->n_quads == 8;
    if (s->layout->nibbles && whole) {
        run_sweep(s, r, true, true, true);
    } else if (s->layout->nibbles) {
        s->plain ? run_sweep(s, r, true, true, false) : run_sweep(s, r, true, false, false);
    } else if (whole) {
        run_sweep(s, r, false, true, true);
    } else {
        s->plain ? run_sweep(s, r, false, true, false) : run_sweep(s, r, false, false, false);
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

static void unpack_bytes(const uint8_t *codes, size_t n_quads, uint8_t (*values)[MX_QUAD_BYTES],
                         uint8_t (*magnitudes)[MX_QUAD_BYTES])
{
    __m256i sign = _mm256_set1_epi8((char)MX_BYTE_OFFSET);
    for (size_t q = 0; q < n_quads; q++, codes += MX_QUAD_BYTES) {
        _mm_prefetch((const char *)codes + n_quads * MX_QUAD_BYTES, _MM_HINT_T0);
        for (size_t half = 0; half < 64; half += 32) {
            __m256i x = _mm256_xor_si256(load_i(codes + half), sign); /* value + 128 to value */
            store_i(values[q] + half, x);
            store_i(magnitudes[q] + half, _mm256_abs_epi8(x));
        }
    }
}

/* The run's weights of a panel to scratch. */
static void panel_unpack(sweep *s, const run *r, size_t panel)
{
    const uint8_t *codes = s->panels + panel * s->layout->panel_bytes + s->layout->panel_codes;
    size_t n_quads = r->n_blocks * r->n_quads;
    if (s->layout->nibbles) { /* quads come in pairs: octets */
        codes += r->first_quad / 2 * MX_QUAD_BYTES;
        unpack_nibbles(s->nibbles, codes, n_quads, s->weights[panel][0]);
    } else {
        codes += r->first_quad * MX_QUAD_BYTES;
        unpack_bytes(codes, n_quads, s->weights[panel][0], s->weights[panel][1]);
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
    const mx_block_pair *pair = &s->layout->pair;
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
    for (size_t q = 0; q < n_quads; q += s->part_quads) {
        r.first_quad = block * s->layout->pair.block / 4 + q;
        r.n_quads = mx_min_size(n_quads - q, s->part_quads);
        r.begins = q == 0;
        r.ends = n_quads - q <= s->part_quads;
        r.last = r.ends && block + 1 == s->layout->pair.n_blocks;
        run_all(s, &r);
    }
}

static void sweep_all(sweep *s)
{
    const mx_block_pair *pair = &s->layout->pair;
    for (size_t b = 0; b < pair->n_blocks;) {
        size_t n_quads = mx_round_up(mx_block_pair_length(pair, b), 8) / 4;
        if (n_quads <= s->part_quads) {
            b = sweep_blocks(s, b, n_quads);
        } else {
            sweep_parts(s, b++, n_quads);
        }
    }
}

/* Quads over which 16-bit sums of unsigned weights cannot overflow. */
static size_t safe_quads(const mx_block_product *product, const mx_int_layout *layout)
{
    int largest = 0;
    for (uint32_t code = 0; code < 1u << product->weights->format->bits; code++) {
        int value = product->weights->format->int_table[code] + layout->offset;
        largest = value > largest ? value : largest;
    }
    int activation = 0;
    for (uint32_t code = 0; code < 1u << product->activations->format->bits; code++) {
        int value = product->activations->format->int_table[code];
        activation = value > activation ? value : activation;
    }
    return mx_min_size((size_t)(INT16_MAX / (2 * largest * activation)), PART_QUADS) / 2 * 2;
}

static bool panels_plain(const sweep *s)
{
    bool plain = true;
    for (size_t panel = 0; panel < s->n_panels; panel++) {
        plain = plain && mx_layout_is_plain(s->layout, s->panels + panel * s->layout->panel_bytes,
                                            s->tiles, s->n_tiles);
    }
    return plain;
}

/* What all panels of a product share. */
typedef struct shared {
    const mx_block_product *product;
    mx_int_layout layout;
    __m256i nibbles; /* sweep's, and part_quads too */
    size_t part_quads;
} shared;

static shared shared_make(const mx_block_product *product)
{
    shared all = {.product = product, .part_quads = PART_QUADS};
    all.layout = mx_int_layout_make(product->weights, product->activations, product->k);
    all.nibbles = _mm256_setzero_si256();
    if (all.layout.nibbles) {
        all.nibbles = nibble_table(&all.layout, product->weights->format);
        all.part_quads = safe_quads(product, &all.layout);
    }
    return all;
}

/* n_panels panels, PANELS at most, and a group of tiles. */
static void product_sweep(const shared *all, size_t panel, size_t n_panels, size_t first_tile)
{
    const mx_block_product *product = all->product;
    const mx_int_layout *layout = &all->layout;
    size_t token = first_tile * 16;
    sweep s;
    s.layout = layout;
    s.panels = product->panels + panel * layout->panel_bytes;
    s.n_panels = n_panels;
    s.tiles = product->tiles + first_tile * layout->tile_bytes;
    s.n_tokens = mx_min_size(product->n_tokens - token, GROUP_TILES * 16);
    s.n_tiles = (s.n_tokens + 15) / 16;
    s.out = product->out + token * product->out_stride + panel * 16;
    s.out_stride = product->out_stride;
    s.n_rows = product->n_rows - panel * 16;
    s.plain = panels_plain(&s);
    s.nibbles = all->nibbles;
    s.part_quads = all->part_quads;
    for (size_t i = 0; i < n_panels; i++) {
        memset(s.acc[i], 0, s.n_tokens * sizeof s.acc[i][0]);
    }
    sweep_all(&s);
}

/* ---- few tokens ------------------------------------------------------------ */

/* Two quads of 4-bit weights, 8 rows (a half) each: sum += over n_tokens. */
MX_TEMPLATE void small_octet(__m256i codes, __m256i table, const uint8_t *a, int half, int n_tokens,
                             __m256i sum[SMALL][2])
{
    __m256i mask = _mm256_set1_epi8(15);
    __m256i first = _mm256_shuffle_epi8(table, _mm256_and_si256(codes, mask));
    __m256i second =
        _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(codes, 4), mask));
    MX_UNROLL
    for (int t = 0; t < n_tokens; t++) {
        __m256i x = _mm256_maddubs_epi16(first, broadcast_u32(a + t * 4));
        __m256i y = _mm256_maddubs_epi16(second, broadcast_u32(a + MX_QUAD_BYTES + t * 4));
        sum[t][half] = opaque(_mm256_add_epi16(sum[t][half], _mm256_add_epi16(x, y)));
    }
}

/* One block of 32 of a plain panel, unpacked in registers; `tile` at its base. */
MX_TEMPLATE void small_block(const mx_int_layout *layout, const uint8_t *panel, const uint8_t *tile,
                             size_t block, __m256i table, int n_tokens, lanes acc[SMALL])
{
    const uint8_t *codes = panel + layout->panel_codes + block * 4 * MX_QUAD_BYTES;
    const uint8_t *a = tile + layout->tile_codes + block * 8 * MX_QUAD_BYTES;
    const uint8_t *scales = panel + layout->panel_scales + block * 16;
    const uint8_t *lane = tile + block * 64;
    /* The processor's own prefetching stops at each page, and begins anew slowly. */
    MX_UNROLL
    for (size_t o = 0; o < 4; o++) {
        _mm_prefetch((const char *)codes + SMALL_AHEAD + o * MX_QUAD_BYTES, _MM_HINT_T0);
    }
    __m256i sum[SMALL][2], ones = _mm256_set1_epi16(1);
    MX_UNROLL
    for (int t = 0; t < n_tokens; t++) {
        sum[t][0] = sum[t][1] = _mm256_setzero_si256();
    }
    MX_UNROLL
    for (size_t o = 0; o < 4; o++) {
        const uint8_t *quads = a + o * 2 * MX_QUAD_BYTES;
        small_octet(load_i(codes + o * MX_QUAD_BYTES), table, quads, 0, n_tokens, sum);
        small_octet(load_i(codes + o * MX_QUAD_BYTES + 32), table, quads, 1, n_tokens, sum);
    }
    MX_UNROLL
    for (int half = 0; half < 2; half++) {
        /* Plain panels: bytes 1 .. 254 are exponent fields as they are. */
        const __m128i *bytes = (const __m128i *)(const void *)(scales + 8 * half);
        __m256i bits = _mm256_slli_epi32(_mm256_cvtepu8_epi32(_mm_loadl_epi64(bytes)), 23);
        MX_UNROLL
        for (int t = 0; t < n_tokens; t++) {
            __m256i dot = _mm256_add_epi32(_mm256_madd_epi16(sum[t][half], ones),
                                           broadcast_u32(lane + layout->tile_seeds + t * 4));
            __m256 value = _mm256_mul_ps(_mm256_cvtepi32_ps(dot), _mm256_castsi256_ps(bits));
            __m256i factor = broadcast_u32(lane + layout->tile_factors + t * 4);
            __m256 *to = half == 0 ? &acc[t].low : &acc[t].high;
            *to = _mm256_fmadd_ps(value, _mm256_castsi256_ps(factor), *to);
        }
    }
}

/* n_panels panels, from `panel` on: as many streams of memory, since a processor asks
 * for more lines at once when several pages are read. */
MX_TEMPLATE void small_panels(const shared *all, size_t panel, size_t n_panels, int n_tokens)
{
    const mx_block_product *product = all->product;
    const mx_int_layout *layout = &all->layout;
    const uint8_t *panels = product->panels + panel * layout->panel_bytes;
    lanes acc[SMALL_PANELS][SMALL];
    MX_UNROLL
    for (size_t p = 0; p < n_panels; p++) {
        MX_UNROLL
        for (int t = 0; t < n_tokens; t++) {
            acc[p][t] = lanes_set(0);
        }
    }
    for (size_t b = 0; b < layout->pair.n_blocks; b++) {
        MX_UNROLL
        for (size_t p = 0; p < n_panels; p++) {
            small_block(layout, panels + p * layout->panel_bytes, product->tiles, b, all->nibbles,
                        n_tokens, acc[p]);
        }
    }
    for (size_t p = 0; p < n_panels; p++) {
        size_t row = (panel + p) * 16;
        MX_UNROLL
        for (int t = 0; t < n_tokens; t++) {
            lanes_store_part(product->out + (size_t)t * product->out_stride + row, acc[p][t],
                             mx_min_size(product->n_rows - row, 16));
        }
    }
}

/* True where small_panels serves: whole blocks of 32, 4-bit weights, 16-bit sums. */
static bool small_fits(const shared *all, size_t panel)
{
    const mx_block_product *product = all->product;
    const mx_int_layout *layout = &all->layout;
    return product->n_tokens <= SMALL && layout->nibbles && layout->pair.block == 32 &&
           product->k % 32 == 0 && all->part_quads == 8 &&
           mx_layout_is_plain(layout, product->panels + panel * layout->panel_bytes, product->tiles,
                              1);
}

/* Some of `left` panels from `panel` on; returns their number, 0 where they are for
 * product_sweep. Two are too many for 16 registers beside 3 or 4 tokens. */
static size_t product_small(const shared *all, size_t panel, size_t left)
{
    if (!small_fits(all, panel)) {
        return 0;
    }
    size_t n_tokens = all->product->n_tokens;
    if (n_tokens <= 2 && left >= SMALL_PANELS && small_fits(all, panel + 1)) {
        n_tokens == 1 ? small_panels(all, panel, SMALL_PANELS, 1)
                      : small_panels(all, panel, SMALL_PANELS, 2);
        return SMALL_PANELS;
    }
    switch (n_tokens) {
    case 1:
        small_panels(all, panel, 1, 1);
        break;
    case 2:
        small_panels(all, panel, 1, 2);
        break;
    case 3:
        small_panels(all, panel, 1, 3);
        break;
    default:
        small_panels(all, panel, 1, 4);
        break;
    }
    return 1;
}

void mx_avx2_int_product(const mx_block_product *product)
{
    shared all = shared_make(product);
    size_t n_panels = (product->n_rows + 15) / 16; /* panels without rows have no output */
    size_t n_tiles = (product->n_tokens + 15) / 16;
    for (size_t tile = 0; tile < n_tiles; tile += GROUP_TILES) {
        for (size_t panel = 0, n; panel < n_panels; panel += n) {
            n = product_small(&all, panel, n_panels - panel);
            if (n == 0) {
                n = mx_min_size(n_panels - panel, PANELS);
                product_sweep(&all, panel, n, tile);
            }
        }
    }
}
