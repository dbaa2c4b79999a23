/*
 * Byte-pair merging: among all neighbouring pairs the one of lowest rank is
 * merged, the leftmost of equals, until no pair has a rank. A heap of (rank,
 * position) over a linked list of symbols: n log n in the length of the word.
 */
#include "io/tokenizer_impl.h"

#include <stdlib.h>
#include <string.h>

#define NO_RANK UINT32_MAX
#define NONE UINT32_MAX

struct mx_symbol {
    uint32_t id;
    uint32_t previous, next; /* NONE at the ends */
};

/* ---- the table of merges ------------------------------------------------------ */

/* 16 bytes a slot with all that a look-up needs: one cache line per pair asked for,
 * and most pairs asked for are not there. */
mx_status mx_bpe_create(mx_bpe *bpe, size_t n, mx_error *err)
{
    if (n > INT32_MAX / 4) {
        return mx_error_set(err, MX_ERR_UNSUPPORTED, "merges: too many");
    }
    uint32_t slots = 16;
    while (slots / 3 * 2 < n) {
        slots *= 2; /* at most two thirds full */
    }
    size_t bytes = slots * sizeof(mx_merge);
    bpe->table = malloc(bytes);
    if (bpe->table == NULL) {
        return mx_error_nomem(err, "merges", bytes);
    }
    memset(bpe->table, 0xFF, bytes); /* rank NO_RANK: free */
    bpe->mask = slots - 1;
    bpe->n_merges = 0;
    bpe->capacity = (uint32_t)n;
    return MX_OK;
}

void mx_bpe_free(mx_bpe *bpe)
{
    free(bpe->table);
    bpe->table = NULL;
    mx_str_free(&bpe->joined);
}

/* The slot of a pair, or the free slot where it would go. */
static mx_merge *merge_slot(const mx_tokenizer *tokenizer, uint32_t left, uint32_t right)
{
    const mx_bpe *bpe = &tokenizer->bpe;
    uint64_t h = ((uint64_t)left << 32 | right) ^ tokenizer->vocab.seed;
    h *= 0xFF51AFD7ED558CCDU;
    h ^= h >> 32;
    h *= 0xC4CEB9FE1A85EC53U;
    for (uint32_t slot = (uint32_t)(h >> 32) & bpe->mask;; slot = (slot + 1) & bpe->mask) {
        mx_merge *merge = &bpe->table[slot];
        if (merge->rank == NO_RANK || (merge->left == left && merge->right == right)) {
            return merge;
        }
    }
}

/* How much of a text goes into a message. */
static int shown(size_t length)
{
    return length < 64 ? (int)length : 64;
}

static mx_status merge_unknown(const mx_tokenizer *tokenizer, uint32_t rank, const char *text,
                               size_t length, mx_error *err)
{
    return mx_error_set(err, MX_ERR_FORMAT, "%s: merges[%u]: '%.*s' is not in the vocabulary",
                        tokenizer->where, rank, shown(length), text);
}

/* Id of left + right, -1 when it is not in the vocabulary: the bytes of both
 * behind each other. A text outside the alphabet is joined as it is spelled. */
static int32_t joined_id(const mx_vocab *vocab, uint32_t left, uint32_t right, mx_str *joined)
{
    const mx_token *a = &vocab->tokens[left], *b = &vocab->tokens[right];
    joined->length = 0;
    if (a->literal || b->literal) {
        mx_vocab_spell(vocab, left, joined);
        mx_vocab_spell(vocab, right, joined);
    } else {
        mx_str_add_bytes(joined, vocab->bytes + a->offset, a->length);
        mx_str_add_bytes(joined, vocab->bytes + b->offset, b->length);
    }
    return joined->failed
               ? -1
               : mx_vocab_find(vocab, joined->data, joined->length, a->literal || b->literal);
}

/* Both sides and the result must be in the vocabulary: a merge that names others
 * belongs to another file. */
mx_status mx_bpe_add(mx_tokenizer *tokenizer, uint32_t rank, const char *left, size_t left_length,
                     const char *right, size_t right_length, mx_error *err)
{
    mx_bpe *bpe = &tokenizer->bpe;
    int32_t left_id, right_id;
    MX_TRY(mx_vocab_find_text(&tokenizer->vocab, left, left_length, &left_id, err));
    if (left_id < 0) {
        return merge_unknown(tokenizer, rank, left, left_length, err);
    }
    MX_TRY(mx_vocab_find_text(&tokenizer->vocab, right, right_length, &right_id, err));
    if (right_id < 0) {
        return merge_unknown(tokenizer, rank, right, right_length, err);
    }
    mx_merge merge = {.left = (uint32_t)left_id, .right = (uint32_t)right_id, .rank = rank};
    int32_t id = joined_id(&tokenizer->vocab, merge.left, merge.right, &bpe->joined);
    if (bpe->joined.failed) {
        return mx_error_nomem(err, "merge", left_length + right_length);
    }
    if (id < 0) {
        return mx_error_set(
            err, MX_ERR_FORMAT, "%s: merges[%u]: '%.*s' + '%.*s' is not in the vocabulary",
            tokenizer->where, rank, shown(left_length), left, shown(right_length), right);
    }
    merge.id = (uint32_t)id;
    mx_merge *slot = merge_slot(tokenizer, merge.left, merge.right);
    if (slot->rank == NO_RANK) {
        if (bpe->n_merges == bpe->capacity) {
            return mx_error_set(err, MX_ERR_FORMAT, "%s: merges: too many", tokenizer->where);
        }
        bpe->n_merges++;
    }
    /* A pair given twice has its last rank, as in `tokenizers`. */
    *slot = merge;
    return MX_OK;
}

/* Doubles: ids come one by one and their number is not known before. */
mx_status mx_ids_add(mx_ids *ids, int32_t id, mx_error *err)
{
    if (ids->n == ids->capacity) {
        size_t capacity = ids->capacity < 64 ? 64 : ids->capacity * 2;
        int32_t *data = realloc(ids->data, capacity * sizeof *data);
        if (data == NULL) {
            return mx_error_nomem(err, "token ids", capacity * sizeof *data);
        }
        ids->data = data;
        ids->capacity = capacity;
    }
    ids->data[ids->n++] = id;
    return MX_OK;
}

/* ---- one word ------------------------------------------------------------------ */

void mx_word_space_free(mx_word_space *space)
{
    free(space->symbols);
    free(space->heap);
    *space = (mx_word_space){0};
}

/* The old content is not kept: a word is done when the next begins. */
static mx_status space_reserve(mx_word_space *space, size_t n, mx_error *err)
{
    if (n <= space->capacity) {
        return MX_OK;
    }
    size_t capacity = space->capacity * 2 > n ? space->capacity * 2 : n < 64 ? 64 : n;
    mx_word_space_free(space);
    space->symbols = malloc(capacity * sizeof *space->symbols);
    space->heap = malloc(2 * capacity * sizeof *space->heap);
    if (space->symbols == NULL || space->heap == NULL) {
        mx_word_space_free(space);
        return mx_error_nomem(err, "word", capacity * sizeof *space->symbols);
    }
    space->capacity = capacity;
    return MX_OK;
}

/* A binary min-heap. Keys order by rank first, then by position, which makes the
 * leftmost of equal pairs come first without further ado. */
static void heap_push(mx_word_space *space, uint64_t key)
{
    uint64_t *heap = space->heap;
    size_t at = space->n_heap++;
    while (at > 0 && heap[(at - 1) / 2] > key) {
        heap[at] = heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    heap[at] = key;
}

/* The smallest key: lowest rank, and of equal ranks the leftmost. */
static uint64_t heap_pop(mx_word_space *space)
{
    uint64_t *heap = space->heap;
    uint64_t top = heap[0];
    size_t n = --space->n_heap;
    uint64_t key = heap[n];
    size_t at = 0;
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= n) {
            break;
        }
        if (child + 1 < n && heap[child + 1] < heap[child]) {
            child++;
        }
        if (heap[child] >= key) {
            break;
        }
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = key;
    return top;
}

/* Queues the pair whose left symbol is at `position`, when it has a rank. Every
 * merge takes one entry out and puts at most two in: 2n entries are enough. */
static void push_pair(const mx_tokenizer *tokenizer, mx_word_space *space, uint32_t position)
{
    const struct mx_symbol *symbol = &space->symbols[position];
    if (symbol->next == NONE) {
        return;
    }
    uint32_t right = space->symbols[symbol->next].id;
    uint32_t rank = merge_slot(tokenizer, symbol->id, right)->rank;
    if (rank != NO_RANK) {
        heap_push(space, (uint64_t)rank << 32 | position);
    }
}

/*
 * Entries in the heap are never removed when their pair changes; they are checked
 * when they come up. An entry is valid when the pair now at its position has its
 * rank: ranks belong to one pair each.
 */
static void merge_all(const mx_tokenizer *tokenizer, mx_word_space *space, uint32_t n)
{
    struct mx_symbol *symbols = space->symbols;
    space->n_heap = 0;
    for (uint32_t i = 0; i + 1 < n; i++) {
        push_pair(tokenizer, space, i);
    }
    while (space->n_heap > 0) {
        uint64_t top = heap_pop(space);
        uint32_t position = (uint32_t)top;
        struct mx_symbol *left = &symbols[position];
        if (left->id == NONE || left->next == NONE) {
            continue; /* merged into its left neighbour, or now the last */
        }
        struct mx_symbol *right = &symbols[left->next];
        const mx_merge *merge = merge_slot(tokenizer, left->id, right->id);
        if (merge->rank != (uint32_t)(top >> 32)) {
            continue; /* the pair here has changed since; ranks are unique to pairs */
        }
        left->id = merge->id;
        left->next = right->next;
        right->id = NONE;
        if (left->next != NONE) {
            symbols[left->next].previous = position;
        }
        if (left->previous != NONE) {
            push_pair(tokenizer, space, left->previous);
        }
        push_pair(tokenizer, space, position);
    }
}

/* The bytes of a word as symbols; returns their number. Bytes outside the
 * vocabulary become the unknown token (adjacent ones a single one when fused),
 * or vanish when there is none. */
static uint32_t word_symbols(const mx_bpe *bpe, const char *word, size_t length,
                             struct mx_symbol *symbols)
{
    uint32_t n = 0;
    bool after_unknown = false;
    for (size_t i = 0; i < length; i++) {
        int32_t id = bpe->byte_id[(uint8_t)word[i]];
        bool unknown = id < 0;
        if (unknown) {
            id = bpe->unk;
            if (id < 0 || (after_unknown && bpe->fuse_unk)) {
                continue;
            }
        }
        after_unknown = unknown;
        symbols[n] = (struct mx_symbol){(uint32_t)id, n - 1, n + 1};
        n++;
    }
    if (n > 0) {
        symbols[0].previous = NONE; /* which 0 - 1 is already; said for the reader */
        symbols[n - 1].next = NONE;
    }
    return n;
}

/* ignore_merges: a word that is in the vocabulary is that token, even where merging
 * would not arrive at it (Llama-3's vocabulary is tiktoken's, which works so). */
mx_status mx_bpe_encode(mx_encoder *encoder, const char *word, size_t length, mx_error *err)
{
    const mx_tokenizer *tokenizer = encoder->tokenizer;
    const mx_bpe *bpe = &tokenizer->bpe;
    if (bpe->ignore_merges) {
        int32_t id = mx_vocab_find(&tokenizer->vocab, word, length, false);
        if (id >= 0) {
            return mx_ids_add(&encoder->ids, id, err);
        }
    }
    MX_TRY(space_reserve(&encoder->space, length, err));
    struct mx_symbol *symbols = encoder->space.symbols;
    uint32_t n = word_symbols(bpe, word, length, symbols);
    merge_all(tokenizer, &encoder->space, n);
    for (uint32_t i = n > 0 ? 0 : NONE; i != NONE; i = symbols[i].next) {
        MX_TRY(mx_ids_add(&encoder->ids, (int32_t)symbols[i].id, err));
    }
    return MX_OK;
}
