/*
 * Parts of a tokenizer, shared by its readers (tokenizer_json*.c,
 * tokenizer_gguf.c), its writer and the encoder. The order of the work, as in
 * Hugging Face `tokenizers`:
 *
 *   text -> added tokens that match the raw text        (tokenizer_added.c)
 *        -> per stretch between them: normalizers        (tokenizer_normalize.c)
 *        -> added tokens that match normalized text      (tokenizer_added.c)
 *        -> per stretch: pre-tokenizer steps -> words    (tokenizer_pretok.c)
 *        -> per word: bytes merged by rank -> ids        (tokenizer_bpe.c)
 *        -> template of the post-processor               (tokenizer.c)
 */
#ifndef MX_IO_TOKENIZER_IMPL_H
#define MX_IO_TOKENIZER_IMPL_H

#include "base/json.h"
#include "base/str.h"
#include "io/tokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

/* Steps of a pipeline. Real files hold one to four; the limit bounds recursion. */
#define MX_TOKENIZER_MAX_STEPS 16
/* Bytes of an added token's text. Matching costs at most text times this. */
#define MX_TOKENIZER_MAX_ADDED 4096

/* ---- characters (tokenizer_text.c) ---------------------------------------- */

/* Offset of the first byte that is not UTF-8 (surrogates and overlong forms are
 * not), or `length` when all of it is. */
size_t mx_utf8_check(const char *text, size_t length);
/* The character at `text`, which is valid UTF-8; `*size` is its bytes. */
uint32_t mx_utf8_decode(const char *text, size_t *size);
/* Start of the character that ends at `end` > 0. */
size_t mx_utf8_previous(const char *text, size_t end);
/* Appends one character. */
void mx_utf8_add(mx_str *str, uint32_t character);

bool mx_char_is_space(uint32_t character);   /* White_Space */
bool mx_char_is_word(uint32_t character);    /* \w of Unicode UTS 18 */
bool mx_char_is_numeric(uint32_t character); /* Nd, Nl, No */

/* GPT-2's byte-level alphabet: one printable character per byte. */
uint32_t mx_alphabet_char(uint8_t byte);
/* Undoes it into `out` [length]; false when a character is not of the alphabet. */
bool mx_alphabet_decode(const char *text, size_t length, char *out, size_t *out_length);
void mx_alphabet_add(mx_str *str, const char *bytes, size_t length);

/* ---- JSON text (tokenizer_cursor.c) ------------------------------------------ */

/* Reads on behalf of a caller that names what is wrong: every function is false
 * when the text is not what it takes, and then stays within it. */
typedef struct mx_cursor {
    const char *text; /* [size] valid UTF-8 */
    size_t size, at;
    mx_str decoded[2]; /* strings with escapes, the last two */
    int turn;
} mx_cursor;

void mx_cursor_free(mx_cursor *cursor);
/* The next character that is not white space, 0 at the end; not taken. */
char mx_cursor_peek(mx_cursor *cursor);
/* Takes `c`. */
bool mx_cursor_take(mx_cursor *cursor, char c);
/* A string without its quotes and escapes; valid until two more are read. */
bool mx_cursor_string(mx_cursor *cursor, const char **text, size_t *length);
/* An integer from 0 to INT32_MAX. */
bool mx_cursor_id(mx_cursor *cursor, uint32_t *out);
/* Steps over one value, checking no more than where it ends. */
bool mx_cursor_skip(mx_cursor *cursor);
/* Enters an object and stops before the value of its first member `name`. */
bool mx_cursor_member(mx_cursor *cursor, const char *name);

/* ---- vocabulary (tokenizer_vocab.c) ---------------------------------------- */

typedef struct mx_token {
    uint32_t offset, length; /* its bytes in mx_vocab.bytes */
    uint32_t added;          /* 1 + index into mx_added.items; 0: not an added token */
    bool in_model;           /* an entry of the model's vocabulary */
    bool literal;            /* not of the byte-level alphabet: the bytes are the text */
} mx_token;

/* Token id <-> bytes. Ordinary tokens are kept as raw bytes, so that words are
 * looked up without being spelled in the byte-level alphabet first. */
typedef struct mx_vocab {
    mx_token *tokens; /* [n_ids], by id */
    uint32_t n_ids;   /* largest id + 1 */
    uint32_t n_model; /* entries of the model's vocabulary */
    char *bytes;      /* [n_bytes] */
    size_t n_bytes, capacity;
    uint32_t *table; /* [mask + 1] open addressing, 1 + id; 0: free */
    uint32_t mask;
    uint64_t seed; /* of the hash: files cannot aim at one bucket */
} mx_vocab;

/* Room for ids below `n_ids`, `n_entries` entries and `n_bytes` bytes of text. */
mx_status mx_vocab_create(mx_vocab *vocab, uint32_t n_ids, uint32_t n_entries, size_t n_bytes,
                          mx_error *err);
void mx_vocab_free(mx_vocab *vocab);
/* Adds an entry in byte-level spelling. `what` names it in messages. Twice the
 * same id or text is an error; an id beyond the room is one as well. */
mx_status mx_vocab_add(mx_vocab *vocab, uint32_t id, const char *text, size_t length,
                       const char *what, mx_error *err);
/* Id of raw bytes; -1 when absent. */
int32_t mx_vocab_find(const mx_vocab *vocab, const char *bytes, size_t length, bool literal);
/* The same of byte-level spelled text. Only memory can fail. */
mx_status mx_vocab_find_text(const mx_vocab *vocab, const char *text, size_t length, int32_t *id,
                             mx_error *err);
/* Appends the text as it stands in a tokenizer.json. */
void mx_vocab_spell(const mx_vocab *vocab, uint32_t id, mx_str *out);

/* ---- added tokens (tokenizer_added.c) --------------------------------------- */

typedef struct mx_added_token {
    char *content;    /* [length], owned */
    char *normalized; /* owned; NULL when equal to content */
    uint32_t length, normalized_length;
    uint32_t id;
    bool single_word, lstrip, rstrip, match_normalized, special;
} mx_added_token;

/* Patterns sorted bytewise: the longest that is a prefix of a text is found by
 * narrowing a range byte by byte, without looking at the others. */
typedef struct mx_match_set {
    bool normalized; /* tokens stand for their normalized text */
    uint32_t *order; /* [n] indices of added tokens */
    uint32_t n;
    uint32_t first[257]; /* range of `order` by first byte */
} mx_match_set;

typedef struct mx_added {
    mx_added_token *items; /* [n] */
    uint32_t n, capacity;
    mx_match_set all, raw, normalized; /* all: by content, for look-up */
} mx_added;

/* ---- normalizers (tokenizer_normalize.c) ------------------------------------ */

typedef enum mx_normal_form { MX_NFC, MX_NFD, MX_NFKC, MX_NFKD } mx_normal_form;

extern const char *const mx_normal_form_names[4];

/* `text` is valid UTF-8. `*out` is malloc'd, or NULL when nothing changes. */
mx_status mx_normalize(const mx_normal_form *forms, size_t n_forms, const char *text, size_t length,
                       char **out, size_t *out_length, mx_error *err);

/* ---- patterns (tokenizer_pattern.c) ------------------------------------------ */

typedef struct mx_pattern {
    char *source; /* as in the file */
    bool is_regex;
    pcre2_code *code;
} mx_pattern;

/*
 * Compiles a pattern of Oniguruma's syntax (the engine of `tokenizers`), or a
 * literal string. What means something else to PCRE2 is translated; what cannot
 * be is MX_ERR_UNSUPPORTED, and so is what PCRE2 refuses.
 */
mx_status mx_pattern_compile(mx_pattern *pattern, const char *source, bool is_regex,
                             const char *where, mx_error *err);
void mx_pattern_free(mx_pattern *pattern);
/* The translation alone, for tests. */
mx_status mx_pattern_translate(const char *source, const char *where, char **out, mx_error *err);

/* What matching needs besides the pattern; one per call of the encoder. */
typedef struct mx_matcher {
    pcre2_match_data *data;
    pcre2_match_context *context;
} mx_matcher;

/* `length` of the longest text bounds the work of one match. */
mx_status mx_matcher_create(mx_matcher *matcher, size_t length, mx_error *err);
void mx_matcher_free(mx_matcher *matcher);

/* Successive matches in one text, empty ones as Oniguruma's bindings yield them. */
typedef struct mx_scan {
    const mx_pattern *pattern;
    mx_matcher *matcher;
    const char *text; /* [length] valid UTF-8 */
    size_t length, position;
    size_t last_end; /* SIZE_MAX before the first match */
} mx_scan;

/* `*found` false at the end. Exceeding the match limits is an error. */
mx_status mx_scan_next(mx_scan *scan, bool *found, size_t *begin, size_t *end, mx_error *err);

/* ---- pre-tokenizer (tokenizer_pretok.c) --------------------------------------- */

typedef enum mx_step_kind { MX_STEP_SPLIT, MX_STEP_DIGITS, MX_STEP_BYTE_LEVEL } mx_step_kind;

typedef enum mx_split_behavior {
    MX_SPLIT_REMOVED,
    MX_SPLIT_ISOLATED,
    MX_SPLIT_MERGED_WITH_PREVIOUS,
    MX_SPLIT_MERGED_WITH_NEXT,
    MX_SPLIT_CONTIGUOUS,
} mx_split_behavior;

extern const char *const mx_split_behavior_names[5];

typedef struct mx_pretok_step {
    mx_step_kind kind;
    mx_pattern pattern; /* SPLIT, and BYTE_LEVEL with its regex; else code is NULL */
    mx_split_behavior behavior;
    bool invert;
    bool add_prefix_space; /* BYTE_LEVEL */
} mx_pretok_step;

/* GPT-2's pattern, which ByteLevel runs when its use_regex is true. */
extern const char mx_gpt2_pattern[];

/* ---- model (tokenizer_bpe.c) ----------------------------------------------------- */

typedef struct mx_merge {
    uint32_t left, right; /* ids */
    uint32_t rank;        /* UINT32_MAX: free slot */
    uint32_t id;          /* of the result */
} mx_merge;

typedef struct mx_bpe {
    mx_merge *table; /* [mask + 1] open addressing by (left, right) */
    uint32_t mask, n_merges, capacity;
    int32_t byte_id[256]; /* -1: not in the vocabulary */
    int32_t unk;          /* -1: unknown bytes vanish, as in `tokenizers` */
    bool fuse_unk, ignore_merges;
    mx_str joined; /* work space of mx_bpe_add */
} mx_bpe;

/* Room for `n` merges, in rank order added by mx_bpe_add. */
mx_status mx_bpe_create(mx_bpe *bpe, size_t n, mx_error *err);
void mx_bpe_free(mx_bpe *bpe);

/* A growing list of token ids; the caller frees `data`. */
typedef struct mx_ids {
    int32_t *data;
    size_t n, capacity;
} mx_ids;

/* Appends; capacity doubles. */
mx_status mx_ids_add(mx_ids *ids, int32_t id, mx_error *err);

/* Work space for merging one word; grows to the longest. */
typedef struct mx_word_space {
    struct mx_symbol *symbols; /* [capacity] */
    uint64_t *heap;            /* [2 * capacity] rank << 32 | position */
    size_t capacity, n_heap;
} mx_word_space;

void mx_word_space_free(mx_word_space *space);

/* ---- the whole -------------------------------------------------------------------- */

/* The post-processor: `prefix` text `suffix`. */
typedef struct mx_template {
    bool present;
    mx_ids prefix, suffix;
} mx_template;

struct mx_tokenizer {
    char *where; /* source, for messages */
    mx_vocab vocab;
    mx_added added;
    mx_normal_form normalizers[MX_TOKENIZER_MAX_STEPS];
    size_t n_normalizers;
    mx_pretok_step steps[MX_TOKENIZER_MAX_STEPS]; /* the last is BYTE_LEVEL */
    size_t n_steps;
    mx_bpe bpe;
    char *unk_token; /* NULL when the model names none */
    mx_template template;
};

/* Adds the next merge in rank order, by byte-level spelled texts. */
mx_status mx_bpe_add(mx_tokenizer *tokenizer, uint32_t rank, const char *left, size_t left_length,
                     const char *right, size_t right_length, mx_error *err);

/* One call of mx_tokenizer_encode. */
typedef struct mx_encoder {
    const mx_tokenizer *tokenizer;
    mx_matcher matcher;
    mx_word_space space;
    char *prefixed; /* a stretch with the space that ByteLevel puts before it */
    size_t prefixed_capacity;
    mx_ids ids;
} mx_encoder;

/* Appends the ids of one word of raw bytes. */
mx_status mx_bpe_encode(mx_encoder *encoder, const char *word, size_t length, mx_error *err);
/* Appends the ids of one stretch of normalized text without added tokens. */
mx_status mx_pretok_run(mx_encoder *encoder, const char *text, size_t length, mx_error *err);

/* A walk over text that yields added tokens and the stretches between them. */
typedef struct mx_added_walk {
    const mx_added *added;
    const mx_match_set *set;
    const char *text; /* [length] */
    size_t length;
    size_t scan;    /* where matching goes on */
    size_t emitted; /* text before it was yielded */
    int32_t token;  /* matched, to be yielded after the stretch before it; -1: none */
    size_t token_end;
} mx_added_walk;

/* Next item: `*token` an index of added.items with begin = end, or -1 and a
 * non-empty stretch of text. False at the end. */
bool mx_added_next(mx_added_walk *walk, int32_t *token, size_t *begin, size_t *end);

/* Readers: an empty tokenizer; then vocab, merges, added tokens, steps; then
 * finish, which builds what encoding needs and checks the whole. */
mx_status mx_tokenizer_create(const char *where, mx_tokenizer **out, mx_error *err);
/* Adds a token with the flags and the id (< vocab.n_ids) of `like` and a copy of
 * `content`. Said twice alike is harmless; a taken id is an error. */
mx_status mx_tokenizer_add_token(mx_tokenizer *tokenizer, const mx_added_token *like,
                                 const char *content, size_t length, mx_error *err);
/* Index into added.items by content, after mx_added_finish; -1: none. */
int32_t mx_added_find(const mx_added *added, const char *content, size_t length);
mx_status mx_tokenizer_finish(mx_tokenizer *tokenizer, mx_error *err);
/* Builds the sorted sets; two tokens of one text are an error. */
mx_status mx_added_finish(mx_tokenizer *tokenizer, mx_error *err);
void mx_added_free(mx_added *added);

/* Appends a step; `source` NULL for DIGITS and for ByteLevel without its regex. */
mx_status mx_tokenizer_add_step(mx_tokenizer *tokenizer, const mx_pretok_step *step,
                                const char *source, mx_error *err);

/* normalizer, pre_tokenizer, post_processor, decoder (tokenizer_json_pipeline.c). */
mx_status mx_tokenizer_read_pipeline(mx_tokenizer *tokenizer, const json_t *root, mx_error *err);

#endif
