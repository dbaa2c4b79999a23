/* Vocabulary: token id <-> bytes, in one arena with one hash table. */
#include "io/tokenizer_impl.h"

#include "base/clock.h"

#include <stdlib.h>
#include <string.h>

/* The smallest table that `n` entries leave at least half free. */
static uint32_t table_slots(uint32_t n)
{
    uint32_t slots = 16;
    while (slots / 2 < n) {
        slots *= 2;
    }
    return slots;
}

/* Differs from run to run (time and address space layout), so that no file can
 * be built whose tokens all fall into one bucket. Results do not depend on it. */
static uint64_t hash_seed(const void *address)
{
    double now = mx_clock_seconds();
    uint64_t bits;
    memcpy(&bits, &now, sizeof bits);
    return bits ^ (uint64_t)(uintptr_t)address * 0x9E3779B97F4A7C15U;
}

/* Murmur3's 64-bit finalizer after every 8 bytes. */
static uint64_t hash_mix(uint64_t h)
{
    h ^= h >> 33;
    h *= 0xFF51AFD7ED558CCDU;
    h ^= h >> 33;
    h *= 0xC4CEB9FE1A85EC53U;
    return h ^ h >> 33;
}

/* The length goes in first: a text and the same with zero bytes behind it differ. */
static uint64_t hash_bytes(const char *bytes, size_t length, uint64_t seed)
{
    uint64_t h = seed ^ length;
    for (; length >= 8; bytes += 8, length -= 8) {
        uint64_t chunk;
        memcpy(&chunk, bytes, 8);
        h = hash_mix(h ^ chunk);
    }
    uint64_t tail = 0;
    memcpy(&tail, bytes, length);
    return hash_mix(h ^ tail);
}

/* All that a vocabulary needs in three allocations; nothing grows afterwards. */
mx_status mx_vocab_create(mx_vocab *vocab, uint32_t n_ids, uint32_t n_entries, size_t n_bytes,
                          mx_error *err)
{
    if (n_ids > INT32_MAX || n_entries > INT32_MAX / 2 || n_bytes > UINT32_MAX) {
        return mx_error_set(err, MX_ERR_UNSUPPORTED, "vocabulary: too large");
    }
    uint32_t slots = table_slots(n_entries);
    *vocab = (mx_vocab){.n_ids = n_ids, .capacity = n_bytes, .mask = slots - 1};
    vocab->tokens = calloc((size_t)n_ids + 1, sizeof *vocab->tokens);
    vocab->bytes = malloc(n_bytes + 1);
    vocab->table = calloc(slots, sizeof *vocab->table);
    if (vocab->tokens == NULL || vocab->bytes == NULL || vocab->table == NULL) {
        return mx_error_nomem(err, "vocabulary", n_ids * sizeof *vocab->tokens + n_bytes);
    }
    vocab->seed = hash_seed(vocab->tokens);
    return MX_OK;
}

void mx_vocab_free(mx_vocab *vocab)
{
    free(vocab->tokens);
    free(vocab->bytes);
    free(vocab->table);
    *vocab = (mx_vocab){0};
}

/* The slot of these bytes, or the free slot where they would go. */
static uint32_t vocab_slot(const mx_vocab *vocab, const char *bytes, size_t length, bool literal)
{
    uint32_t slot = (uint32_t)hash_bytes(bytes, length, vocab->seed + literal) & vocab->mask;
    for (;; slot = (slot + 1) & vocab->mask) {
        uint32_t entry = vocab->table[slot];
        if (entry == 0) {
            return slot;
        }
        const mx_token *token = &vocab->tokens[entry - 1];
        if (token->length == length && token->literal == literal &&
            memcmp(vocab->bytes + token->offset, bytes, length) == 0) {
            return slot;
        }
    }
}

/* Undoes the byte-level alphabet in place, in the arena; a text outside of it is
 * kept as it is and can only be reached as an added token. */
mx_status mx_vocab_add(mx_vocab *vocab, uint32_t id, const char *text, size_t length,
                       const char *what, mx_error *err)
{
    if (id >= vocab->n_ids || length > vocab->capacity - vocab->n_bytes ||
        vocab->n_model > vocab->mask / 2) {
        return mx_error_set(err, MX_ERR_FORMAT, "%s: id %u is out of range", what, id);
    }
    mx_token *token = &vocab->tokens[id];
    if (token->in_model) {
        return mx_error_set(err, MX_ERR_FORMAT, "%s: id %u is given twice", what, id);
    }
    char *bytes = vocab->bytes + vocab->n_bytes;
    size_t n = length;
    bool literal = !mx_alphabet_decode(text, length, bytes, &n);
    if (literal) {
        n = length;
        memcpy(bytes, text, length);
    }
    uint32_t slot = vocab_slot(vocab, bytes, n, literal);
    if (vocab->table[slot] != 0) {
        return mx_error_set(err, MX_ERR_FORMAT, "%s: ids %u and %u have the same text '%.*s'", what,
                            vocab->table[slot] - 1, id, length < 64 ? (int)length : 64, text);
    }
    vocab->table[slot] = id + 1;
    token->offset = (uint32_t)vocab->n_bytes;
    token->length = (uint32_t)n;
    token->in_model = true;
    token->literal = literal;
    vocab->n_bytes += n;
    vocab->n_model++;
    return MX_OK;
}

/* A free slot holds 0, which makes -1: absent. */
int32_t mx_vocab_find(const mx_vocab *vocab, const char *bytes, size_t length, bool literal)
{
    return (int32_t)vocab->table[vocab_slot(vocab, bytes, length, literal)] - 1;
}

mx_status mx_vocab_find_text(const mx_vocab *vocab, const char *text, size_t length, int32_t *id,
                             mx_error *err)
{
    char small[256]; /* longer than nearly every token, to spare the heap */
    char *bytes = length <= sizeof small ? small : malloc(length);
    size_t n = 0;
    if (bytes == NULL) {
        return mx_error_nomem(err, "token", length);
    }
    *id = mx_alphabet_decode(text, length, bytes, &n) ? mx_vocab_find(vocab, bytes, n, false)
                                                      : mx_vocab_find(vocab, text, length, true);
    if (bytes != small) {
        free(bytes);
    }
    return MX_OK;
}

void mx_vocab_spell(const mx_vocab *vocab, uint32_t id, mx_str *out)
{
    const mx_token *token = &vocab->tokens[id];
    if (token->literal) {
        mx_str_add_bytes(out, vocab->bytes + token->offset, token->length);
    } else {
        mx_alphabet_add(out, vocab->bytes + token->offset, token->length);
    }
}
