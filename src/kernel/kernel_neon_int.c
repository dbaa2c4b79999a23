/*
 * Exact integer product with NEON's dot products (SDOT), in the x86 layout
 * (int_layout.h): an SDOT lane is a quad too. One panel passes over up to 128 tokens
 * a piece of a block at a time: its weights, unpacked to int8, and the accumulators
 * stay in the first-level cache, the dots of 16 rows x 4 tokens in 16 registers.
 *
 * SDOT multiplies signed bytes by one quad of a register, so 16 bytes of a tile's
 * quads serve 4 tokens and the layout's offset and seeds are not needed.
 */
#include "kernel/kernel_neon.h"

#include "kernel/int_layout.h"
#include "kernel/lanes_neon.h"
#include "kernel/unroll.h"

#include <math.h>
#include <string.h>

enum {
    GROUP_TILES = 8,  /* 128 tokens: accumulators take 8 KiB */
    PIECE_QUADS = 16, /* of a block, unpacked at a time: whole octets */
    STEP = 4,         /* tokens at a time: the quads of one register */
};

typedef struct sweep {
    const mx_int_layout *layout;
    int8x16_t nibbles; /* code -> value */
    const uint8_t *panel;
    const uint8_t *tiles;
    size_t n_tokens;
    bool plain; /* mx_layout_is_plain */
    /* Scratch. Of the block's rows: 2^(scale - 127) where the data is plain, else the
     * exponent that they give the product, NaN for a NaN scale. */
    float rows[16] __attribute__((aligned(16)));
    float acc[GROUP_TILES * 16][16] __attribute__((aligned(16)));
    int32_t dots[GROUP_TILES * 16][16] __attribute__((aligned(16)));
    int8_t weights[PIECE_QUADS][MX_QUAD_BYTES] __attribute__((aligned(16)));
} sweep;

/* A part of a block: quads [first, first + n_quads) of the row. */
typedef struct piece {
    size_t block, first_quad, n_quads;
    bool begins, ends; /* the block */
} piece;

static int8x16_t nibble_table(const mx_format *format)
{
    int8_t table[16];
    for (size_t i = 0; i < 16; i++) {
        table[i] = format->int_table[i & ((1u << format->bits) - 1)];
    }
    return vld1q_s8(table);
}

/* What the block's weight scales contribute (sweep.rows). */
static void rows_fill(sweep *s, size_t block)
{
    const uint8_t *scales = s->panel + s->layout->panel_scales + block * 16;
    int bias = 2 * MX_E8M0_BIAS + s->layout->pair.shift;
    for (size_t r = 0; r < 16; r++) {
        uint32_t bits = (uint32_t)scales[r] << 23; /* plain: from 1 on, so normal */
        if (s->plain) {
            memcpy(&s->rows[r], &bits, sizeof bits);
        } else {
            s->rows[r] = scales[r] == MX_E8M0_NAN ? NAN : (float)(scales[r] - bias);
        }
    }
}

/* The piece's weights to scratch. */
static void piece_unpack(sweep *s, const piece *part)
{
    const uint8_t *codes = s->panel + s->layout->panel_codes;
    int8_t *to = s->weights[0];
    if (s->layout->nibbles) {
        codes += part->first_quad / 2 * MX_QUAD_BYTES;
        for (size_t q = 0; q < part->n_quads; q += 2, codes += 64, to += 128) {
            for (size_t i = 0; i < 64; i += 16) {
                uint8x16_t x = vld1q_u8(codes + i);
                vst1q_s8(to + i, vqtbl1q_s8(s->nibbles, vandq_u8(x, vdupq_n_u8(15))));
                vst1q_s8(to + 64 + i, vqtbl1q_s8(s->nibbles, vshrq_n_u8(x, 4)));
            }
        }
        return;
    }
    codes += part->first_quad * MX_QUAD_BYTES;
    for (size_t i = 0; i < part->n_quads * MX_QUAD_BYTES; i += 16) {
        uint8x16_t x = veorq_u8(vld1q_u8(codes + i), vdupq_n_u8(MX_BYTE_OFFSET));
        vst1q_s8(to + i, vreinterpretq_s8_u8(x)); /* value + 128 to value */
    }
}

/* Where a step's tokens stand. */
typedef struct step {
    const uint8_t *slots, *factors, *quads; /* of the step's first token */
    float *acc;                             /* [n_tokens][16] */
    int32_t *dots;                          /* [n_tokens][16] */
} step;

/* Token t of 16 rows; the lane of an instruction must be a literal. */
#define DOT_TOKEN(t)                                                                               \
    do {                                                                                           \
        dot[t][0] = vdotq_laneq_s32(dot[t][0], w[0], a, t);                                        \
        dot[t][1] = vdotq_laneq_s32(dot[t][1], w[1], a, t);                                        \
        dot[t][2] = vdotq_laneq_s32(dot[t][2], w[2], a, t);                                        \
        dot[t][3] = vdotq_laneq_s32(dot[t][3], w[3], a, t);                                        \
    } while (0)

/* dot += the piece's. */
MX_TEMPLATE void step_dots(const int8_t *weights, const uint8_t *quads, size_t n_quads,
                           int n_tokens, int32x4_t dot[STEP][4])
{
    for (size_t q = 0; q < n_quads; q++, weights += MX_QUAD_BYTES, quads += MX_QUAD_BYTES) {
        int8x16_t w[4], a;
        MX_UNROLL
        for (int i = 0; i < 4; i++) {
            w[i] = vld1q_s8(weights + 16 * i);
        }
        if (n_tokens == 1) {
            int32_t quad;
            memcpy(&quad, quads, sizeof quad);
            a = vreinterpretq_s8_s32(vdupq_n_s32(quad));
            DOT_TOKEN(0);
        } else {
            a = vreinterpretq_s8_u8(vld1q_u8(quads));
            DOT_TOKEN(0);
            DOT_TOKEN(1);
            DOT_TOKEN(2);
            DOT_TOKEN(3);
        }
    }
}

/* value * 2^e, rounded once, for any e of two scales; NaN where e is. */
static lanes scale_any(lanes value, lanes e)
{
    /* |value| < 2^31 is 0 or Inf beyond these. */
    lanes limited = lanes_min(lanes_set(200), lanes_max(lanes_set(-200), e));
    return lanes_add(lanes_scale(value, limited), lanes_sub(e, e));
}

/* One token's accumulators at a finished dot. */
MX_TEMPLATE void acc_add(const sweep *s, const int32x4_t dot[4], const uint8_t *factor_at,
                         const uint8_t *slot_at, float *acc, bool plain)
{
    lanes value = {vcvtq_f32_s32(dot[0]), vcvtq_f32_s32(dot[1]), vcvtq_f32_s32(dot[2]),
                   vcvtq_f32_s32(dot[3])};
    lanes rows = lanes_load(s->rows), sum = lanes_load(acc);
    if (plain) {
        float factor;
        memcpy(&factor, factor_at, sizeof factor);
        /* dot * 2^ew is exact, so that the sum alone rounds. */
        sum = lanes_fma(lanes_mul(value, rows), lanes_set(factor), sum);
    } else {
        uint32_t slot;
        memcpy(&slot, slot_at, sizeof slot);
        uint32_t scale = slot / MX_SLOT_BYTES;
        float e = scale == MX_E8M0_NAN ? NAN : (float)scale;
        sum = lanes_add(sum, scale_any(value, lanes_add(rows, lanes_set(e))));
    }
    lanes_store(acc, sum);
}

/* 16 rows and n_tokens tokens over one piece. */
MX_TEMPLATE void step_piece(const sweep *s, const piece *part, step at, size_t n_quads,
                            int n_tokens, bool plain)
{
    int32x4_t dot[STEP][4];
    MX_UNROLL
    for (int t = 0; t < n_tokens; t++) {
        MX_UNROLL
        for (int i = 0; i < 4; i++) {
            dot[t][i] = part->begins ? vdupq_n_s32(0) : vld1q_s32(at.dots + t * 16 + i * 4);
        }
    }
    step_dots(s->weights[0], at.quads, n_quads, n_tokens, dot);
    MX_UNROLL
    for (int t = 0; t < n_tokens; t++) {
        if (part->ends) {
            acc_add(s, dot[t], at.factors + t * 4, at.slots + t * 4, at.acc + t * 16, plain);
            continue;
        }
        MX_UNROLL
        for (int i = 0; i < 4; i++) {
            vst1q_s32(at.dots + t * 16 + i * 4, dot[t][i]);
        }
    }
}

/* One piece over all tokens of the group; the literal arguments make the copies. Two
 * or three last tokens take a whole step: a tile has room for 16, and what the missing
 * ones hold goes nowhere. */
MX_TEMPLATE void piece_sweep(sweep *s, const piece *part, size_t n_quads, bool plain)
{
    const mx_int_layout *layout = s->layout;
    for (size_t token = 0; token < s->n_tokens; token += STEP) {
        const uint8_t *tile = s->tiles + token / 16 * layout->tile_bytes + token % 16 * 4;
        step at = {
            .slots = tile + layout->tile_slots + part->block * 64,
            .factors = tile + layout->tile_factors + part->block * 64,
            .quads = tile + layout->tile_codes + part->first_quad * MX_QUAD_BYTES,
            .acc = s->acc[token],
            .dots = s->dots[token],
        };
        if (s->n_tokens - token > 1) {
            step_piece(s, part, at, n_quads, STEP, plain);
        } else {
            step_piece(s, part, at, n_quads, 1, plain);
        }
    }
}

static void block_sweep(sweep *s, size_t block)
{
    const mx_block_pair *pair = &s->layout->pair;
    size_t begin = block * pair->block / 4;
    size_t n_quads = mx_round_up(mx_block_pair_length(pair, block), 8) / 4;
    rows_fill(s, block);
    for (size_t q = 0; q < n_quads; q += PIECE_QUADS) {
        piece part = {
            .block = block,
            .first_quad = begin + q,
            .n_quads = mx_min_size(n_quads - q, PIECE_QUADS),
            .begins = q == 0,
            .ends = n_quads - q <= PIECE_QUADS,
        };
        piece_unpack(s, &part);
        if (!s->plain) {
            piece_sweep(s, &part, part.n_quads, false);
        } else if (part.n_quads == 8) {
            piece_sweep(s, &part, 8, true);
        } else {
            piece_sweep(s, &part, part.n_quads, true);
        }
    }
}

static void product_sweep(const mx_block_product *product, const mx_int_layout *layout,
                          size_t panel, size_t first_tile)
{
    size_t token = first_tile * 16;
    sweep s;
    s.layout = layout;
    s.panel = product->panels + panel * layout->panel_bytes;
    s.tiles = product->tiles + first_tile * layout->tile_bytes;
    s.n_tokens = mx_min_size(product->n_tokens - token, GROUP_TILES * 16);
    s.plain = mx_layout_is_plain(layout, s.panel, s.tiles, (s.n_tokens + 15) / 16);
    s.nibbles = vdupq_n_s8(0);
    if (layout->nibbles) {
        s.nibbles = nibble_table(product->weights->format);
    }
    memset(s.acc, 0, mx_round_up(s.n_tokens, STEP) * sizeof s.acc[0]);
    for (size_t b = 0; b < layout->pair.n_blocks; b++) {
        block_sweep(&s, b);
    }
    size_t n_rows = mx_min_size(product->n_rows - panel * 16, 16);
    for (size_t t = 0; t < s.n_tokens; t++) {
        lanes_store_part(product->out + (token + t) * product->out_stride + panel * 16,
                         lanes_load(s.acc[t]), n_rows);
    }
}

void mx_neon_int_product(const mx_block_product *product)
{
    mx_int_layout layout = mx_int_layout_make(product->weights, product->activations, product->k);
    size_t n_panels = (product->n_rows + 15) / 16; /* panels without rows have no output */
    size_t n_tiles = (product->n_tokens + 15) / 16;
    for (size_t tile = 0; tile < n_tiles; tile += GROUP_TILES) {
        for (size_t panel = 0; panel < n_panels; panel++) {
            product_sweep(product, &layout, panel, tile);
        }
    }
}
