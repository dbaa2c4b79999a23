/*
 * Rows. Work goes in pieces of at most MX_PIECE elements, so that neither stack
 * nor heap grows with a row: a piece is either a run of whole blocks or a part of
 * one large block, which was scanned as a whole before.
 */
#include "format/block_plan.h"

#include <assert.h>
#include <string.h>

#define MX_PIECE 256

extern const mx_format mx_format_fp32;

bool mx_quant_is_none(const mx_quant *quant)
{
    return quant->format == NULL || quant->format == &mx_format_fp32;
}

bool mx_quant_is_scaled(const mx_quant *quant)
{
    return quant->format != NULL && quant->format->kind != MX_KIND_PLAIN;
}

bool mx_block_is_valid(uint64_t block)
{
    /* Blocks start at whole bytes for every element width; only single elements
     * may straddle them. */
    return block % 8 == 0 || block == 1;
}

size_t mx_quant_block(const mx_quant *quant, size_t n)
{
    return quant->block != 0 ? quant->block : n;
}

size_t mx_row_code_bytes(const mx_quant *quant, size_t n)
{
    size_t bits = mx_quant_is_none(quant) ? 32 : quant->format->bits;
    return n / 8 * bits + (n % 8 * bits + 7) / 8;
}

size_t mx_row_scale_count(const mx_quant *quant, size_t n)
{
    if (!mx_quant_is_scaled(quant) || n == 0) {
        return 0;
    }
    size_t block = mx_quant_block(quant, n);
    return n / block + (n % block != 0);
}

/* ---- PLAIN formats ------------------------------------------------------- */

/* Little-endian codes of whole bytes. */
static void plain_row_encode(const mx_quant *quant, const float *x, size_t n, uint64_t stream,
                             uint8_t *codes)
{
    if (mx_quant_is_none(quant)) {
        memcpy(codes, x, n * sizeof *x);
        return;
    }
    size_t bytes = quant->format->bits / 8;
    mx_codec codec;
    mx_codec_init(quant->format, &codec);
    for (size_t i = 0; i < n; i++) {
        uint32_t random = mx_quant_random(quant, stream, i);
        uint32_t code = mx_codec_plain(&codec, x[i], quant->round, random);
        for (size_t j = 0; j < bytes; j++) {
            codes[i * bytes + j] = (uint8_t)(code >> (8 * j));
        }
    }
}

static void plain_row_decode(const mx_quant *quant, const uint8_t *codes, size_t n, float *out)
{
    if (mx_quant_is_none(quant)) {
        memcpy(out, codes, n * sizeof *out);
        return;
    }
    size_t bytes = quant->format->bits / 8;
    for (size_t i = 0; i < n; i++) {
        uint32_t code = 0;
        for (size_t j = 0; j < bytes; j++) {
            code |= (uint32_t)codes[i * bytes + j] << (8 * j);
        }
        out[i] = quant->format->decode(quant->format, code);
    }
}

static void plain_row_cast(const mx_quant *quant, const float *x, size_t n, uint64_t stream,
                           float *out)
{
    if (mx_quant_is_none(quant)) {
        memmove(out, x, n * sizeof *x);
        return;
    }
    mx_codec codec;
    mx_codec_init(quant->format, &codec);
    for (size_t i = 0; i < n; i++) {
        uint32_t random = mx_quant_random(quant, stream, i);
        uint32_t code = mx_codec_plain(&codec, x[i], quant->round, random);
        out[i] = quant->format->decode(quant->format, code);
    }
}

/* ---- formats under a shared scale ----------------------------------------- */

/* Elements of the piece that starts at `at`: whole blocks, or what a large block
 * still holds. */
static size_t row_piece(size_t block, size_t at, size_t n)
{
    size_t piece = MX_PIECE;
    if (block <= MX_PIECE) {
        piece = MX_PIECE / block * block;
    } else if (block - at % block < piece) {
        piece = block - at % block;
    }
    return n - at < piece ? n - at : piece;
}

typedef struct row_walk {
    const mx_quant *quant;
    const float *x; /* [n] */
    size_t n, block;
    uint64_t stream;
    mx_codec codec;
    mx_block_plan plan; /* of the block last begun */
} row_walk;

static row_walk row_begin(const mx_quant *quant, const float *x, size_t n, uint64_t stream)
{
    assert(mx_block_is_valid(quant->block));
    row_walk walk = {
        .quant = quant, .x = x, .n = n, .block = mx_quant_block(quant, n), .stream = stream};
    mx_codec_init(quant->format, &walk.codec);
    return walk;
}

/* Encodes the piece at `at`: codes [piece], and the scale of each block that has a
 * part in it. */
static void row_encode_piece(row_walk *walk, size_t at, size_t piece, uint8_t *codes,
                             uint8_t *scales)
{
    size_t block = walk->block, b = 0;
    for (size_t i = 0; i < piece; i += block, b++) {
        const float *x = walk->x + at + i;
        size_t in_piece = piece - i < block ? piece - i : block;
        if ((at + i) % block == 0) {
            size_t rest = walk->n - at - i;
            walk->plan = mx_block_scan(walk->quant, x, rest < block ? rest : block);
        }
        scales[b] = walk->plan.scale;
        mx_block_encode_planned(&walk->codec, walk->quant, walk->plan, x, in_piece, walk->stream,
                                at + i, codes + i);
    }
}

static void row_decode_piece(const mx_codec *codec, size_t block, size_t piece,
                             const uint8_t *codes, const uint8_t *scales, float *out)
{
    size_t b = 0;
    for (size_t i = 0; i < piece; i += block, b++) {
        size_t in_piece = piece - i < block ? piece - i : block;
        mx_block_decode_planned(codec, codes + i, scales[b], in_piece, out + i);
    }
}

/* Pieces start at multiples of 8 elements, hence at whole bytes; the scale of a large
 * block is written again with each of its pieces. */
void mx_row_encode(const mx_quant *quant, const float *x, size_t n, uint64_t stream, uint8_t *codes,
                   uint8_t *scales)
{
    if (!mx_quant_is_scaled(quant)) {
        plain_row_encode(quant, x, n, stream, codes);
        return;
    }
    uint8_t piece_codes[MX_PIECE], piece_scales[MX_PIECE];
    row_walk walk = row_begin(quant, x, n, stream);
    size_t piece;
    for (size_t at = 0; at < n; at += piece) {
        piece = row_piece(walk.block, at, n);
        row_encode_piece(&walk, at, piece, piece_codes, piece_scales);
        mx_codes_pack(piece_codes, piece, quant->format->bits,
                      codes + mx_row_code_bytes(quant, at));
        memcpy(scales + at / walk.block, piece_scales, (piece - 1) / walk.block + 1);
    }
}

void mx_row_decode(const mx_quant *quant, const uint8_t *codes, const uint8_t *scales, size_t n,
                   float *out)
{
    if (!mx_quant_is_scaled(quant)) {
        plain_row_decode(quant, codes, n, out);
        return;
    }
    assert(mx_block_is_valid(quant->block));
    uint8_t piece_codes[MX_PIECE];
    size_t piece, block = mx_quant_block(quant, n);
    mx_codec codec;
    mx_codec_init(quant->format, &codec);
    for (size_t at = 0; at < n; at += piece) {
        piece = row_piece(block, at, n);
        mx_codes_unpack(codes + mx_row_code_bytes(quant, at), piece, quant->format->bits,
                        piece_codes);
        row_decode_piece(&codec, block, piece, piece_codes, scales + at / block, out + at);
    }
}

/* Encode and decode without packing: the same values as the stored row gives. */
void mx_row_cast(const mx_quant *quant, const float *x, size_t n, uint64_t stream, float *out)
{
    if (!mx_quant_is_scaled(quant)) {
        plain_row_cast(quant, x, n, stream, out);
        return;
    }
    uint8_t codes[MX_PIECE], scales[MX_PIECE];
    row_walk walk = row_begin(quant, x, n, stream);
    size_t piece;
    for (size_t at = 0; at < n; at += piece) {
        piece = row_piece(walk.block, at, n);
        row_encode_piece(&walk, at, piece, codes, scales);
        row_decode_piece(&walk.codec, walk.block, piece, codes, scales, out + at);
    }
}
