/*
 * The tokenizer in a GGUF file's metadata: tokens, their types and merges are
 * there; the pre-tokenizer is only named.
 */
#include "io/tokenizer_impl.h"

#include <string.h>

/* tokenizer.ggml.token_type, as in llama.cpp's llama_token_type. */
enum { TYPE_NORMAL = 1, TYPE_UNKNOWN, TYPE_CONTROL, TYPE_USER_DEFINED, TYPE_UNUSED, TYPE_BYTE };

/* What a name in tokenizer.ggml.pre means. "default" is not here: converters
 * write it for patterns that they did not recognize. */
typedef struct pre_tokenizer {
    const char *name;
    bool digits;         /* every digit a word of its own, first */
    const char *pattern; /* then this split; NULL: GPT-2's */
    bool ignore_merges, add_bos;
} pre_tokenizer;

static const char llama3_pattern[] =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}"
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

static const pre_tokenizer pre_tokenizers[] = {
    {"llama-bpe", false, llama3_pattern, true, true},
    {"llama-v3", false, llama3_pattern, true, true},
    {"llama3", false, llama3_pattern, true, true},
    {"smollm", true, NULL, false, false},
    {"gpt-2", false, NULL, false, false},
};

/* ---- pre-tokenizer ---------------------------------------------------------------- */

static bool string_is(const mx_gguf_string *string, const char *text)
{
    return string->length == strlen(text) && memcmp(string->data, text, string->length) == 0;
}

/* Only gpt2, llama.cpp's name for byte-level BPE. An absent `pre` is refused: the
 * pattern that llama.cpp then falls back on is no known model's. */
static mx_status read_pre(mx_tokenizer *tokenizer, const mx_gguf *gguf, const pre_tokenizer **out,
                          mx_error *err)
{
    mx_gguf_string model, pre;
    MX_TRY(mx_gguf_get_string(gguf, "tokenizer.ggml.model", true, &model, err));
    if (!string_is(&model, "gpt2")) {
        return mx_error_set(err, MX_ERR_UNSUPPORTED,
                            "%s: tokenizer.ggml.model: '%.*s' is not supported (only gpt2)",
                            tokenizer->where, model.length < 64 ? (int)model.length : 64,
                            model.data);
    }
    MX_TRY(mx_gguf_get_string(gguf, "tokenizer.ggml.pre", true, &pre, err));
    for (size_t i = 0; i < MX_COUNT(pre_tokenizers); i++) {
        if (string_is(&pre, pre_tokenizers[i].name)) {
            *out = &pre_tokenizers[i];
            return MX_OK;
        }
    }
    return mx_error_set(err, MX_ERR_UNSUPPORTED, "%s: tokenizer.ggml.pre: '%.*s' is not supported",
                        tokenizer->where, pre.length < 64 ? (int)pre.length : 64, pre.data);
}

/* The steps that the original tokenizer.json of these families has. */
static mx_status add_steps(mx_tokenizer *tokenizer, const pre_tokenizer *pre, mx_error *err)
{
    mx_pretok_step digits = {.kind = MX_STEP_DIGITS, .behavior = MX_SPLIT_ISOLATED};
    mx_pretok_step split = {
        .kind = MX_STEP_SPLIT, .behavior = MX_SPLIT_ISOLATED, .pattern.is_regex = true};
    mx_pretok_step byte_level = {
        .kind = MX_STEP_BYTE_LEVEL, .behavior = MX_SPLIT_ISOLATED, .pattern.is_regex = true};
    if (pre->digits) {
        MX_TRY(mx_tokenizer_add_step(tokenizer, &digits, NULL, err));
    }
    if (pre->pattern != NULL) {
        MX_TRY(mx_tokenizer_add_step(tokenizer, &split, pre->pattern, err));
    }
    return mx_tokenizer_add_step(tokenizer, &byte_level,
                                 pre->pattern == NULL ? mx_gpt2_pattern : NULL, err);
}

/* ---- tokens -------------------------------------------------------------------------- */

/* A token's text; messages cannot hold, and tokenizer.json cannot carry, others. */
static mx_status token_text(const mx_tokenizer *tokenizer, const mx_gguf *gguf, const char *key,
                            size_t index, mx_gguf_string *out, mx_error *err)
{
    MX_TRY(mx_gguf_array_string(gguf, key, index, out, err));
    if (mx_utf8_check(out->data, out->length) < out->length ||
        memchr(out->data, '\0', out->length) != NULL) {
        return mx_error_set(err, MX_ERR_FORMAT, "%s: %s[%zu]: not valid UTF-8 text",
                            tokenizer->where, key, index);
    }
    return MX_OK;
}

/* In two passes, so that one allocation holds all bytes. */
static mx_status read_tokens(mx_tokenizer *tokenizer, const mx_gguf *gguf, size_t n, mx_error *err)
{
    static const char key[] = "tokenizer.ggml.tokens";
    size_t n_bytes = 0;
    mx_gguf_string text;
    for (size_t i = 0; i < n; i++) {
        MX_TRY(token_text(tokenizer, gguf, key, i, &text, err));
        n_bytes += text.length;
    }
    if (n == 0 || n > INT32_MAX / 2) {
        return mx_error_set(err, MX_ERR_FORMAT, "%s: %s: %zu tokens", tokenizer->where, key, n);
    }
    MX_TRY(mx_vocab_create(&tokenizer->vocab, (uint32_t)n, (uint32_t)n, n_bytes, err));
    for (size_t i = 0; i < n; i++) {
        MX_TRY(mx_gguf_array_string(gguf, key, i, &text, err));
        MX_TRY(mx_vocab_add(&tokenizer->vocab, (uint32_t)i, text.data, text.length,
                            tokenizer->where, err));
    }
    return MX_OK;
}

/* Control and user-defined tokens are found in text as they stand. */
static mx_status read_types(mx_tokenizer *tokenizer, const mx_gguf *gguf, size_t n, mx_error *err)
{
    static const char key[] = "tokenizer.ggml.token_type";
    size_t n_types = 0;
    MX_TRY(mx_gguf_get_array(gguf, key, true, &n_types, err));
    if (n_types != n) {
        return mx_error_set(err, MX_ERR_FORMAT, "%s: %s: %zu entries for %zu tokens",
                            tokenizer->where, key, n_types, n);
    }
    for (size_t i = 0; i < n; i++) {
        int64_t type;
        MX_TRY(mx_gguf_array_int(gguf, key, i, &type, err));
        if (type < TYPE_NORMAL || type > TYPE_BYTE) {
            return mx_error_set(err, MX_ERR_FORMAT, "%s: %s[%zu]: %lld is not a type",
                                tokenizer->where, key, i, (long long)type);
        }
        if (type != TYPE_CONTROL && type != TYPE_UNKNOWN && type != TYPE_USER_DEFINED) {
            continue;
        }
        mx_added_token token = {.id = (uint32_t)i, .special = type != TYPE_USER_DEFINED};
        mx_gguf_string text;
        MX_TRY(mx_gguf_array_string(gguf, "tokenizer.ggml.tokens", i, &text, err));
        if (text.length > 0) {
            MX_TRY(mx_tokenizer_add_token(tokenizer, &token, text.data, text.length, err));
        }
    }
    return MX_OK;
}

/* ---- merges ----------------------------------------------------------------------------- */

/* "a b": tokens hold no space, their alphabet has another character for it. */
static mx_status read_merges(mx_tokenizer *tokenizer, const mx_gguf *gguf, mx_error *err)
{
    static const char key[] = "tokenizer.ggml.merges";
    size_t n = 0;
    MX_TRY(mx_gguf_get_array(gguf, key, true, &n, err));
    MX_TRY(mx_bpe_create(&tokenizer->bpe, n, err));
    for (size_t i = 0; i < n; i++) {
        mx_gguf_string text;
        MX_TRY(token_text(tokenizer, gguf, key, i, &text, err));
        const char *space = memchr(text.data, ' ', text.length);
        if (space == NULL) {
            return mx_error_set(err, MX_ERR_FORMAT, "%s: %s[%zu]: must be two texts",
                                tokenizer->where, key, i);
        }
        size_t left = (size_t)(space - text.data);
        MX_TRY(mx_bpe_add(tokenizer, (uint32_t)i, text.data, left, space + 1,
                          text.length - left - 1, err));
    }
    return MX_OK;
}

/* ---- BOS and EOS --------------------------------------------------------------------------- */

/* BOS or EOS, when the flag says that texts get it. */
static mx_status add_special(mx_tokenizer *tokenizer, const mx_gguf *gguf, const char *flag_key,
                             bool fallback, const char *id_key, mx_ids *out, mx_error *err)
{
    bool add;
    MX_TRY(mx_gguf_get_bool(gguf, flag_key, false, fallback, &add, err));
    if (!add) {
        return MX_OK;
    }
    int64_t id;
    MX_TRY(
        mx_gguf_get_int(gguf, id_key, true, 0, 0, (int64_t)tokenizer->vocab.n_ids - 1, &id, err));
    tokenizer->template.present = true;
    return mx_ids_add(out, (int32_t)id, err);
}

/* Tokens before types and merges, which refer to them. */
static mx_status read_all(mx_tokenizer *tokenizer, const mx_gguf *gguf, mx_error *err)
{
    const pre_tokenizer *pre = NULL;
    size_t n = 0;
    MX_TRY(read_pre(tokenizer, gguf, &pre, err));
    MX_TRY(add_steps(tokenizer, pre, err));
    tokenizer->bpe.ignore_merges = pre->ignore_merges;
    MX_TRY(mx_gguf_get_array(gguf, "tokenizer.ggml.tokens", true, &n, err));
    MX_TRY(read_tokens(tokenizer, gguf, n, err));
    MX_TRY(read_types(tokenizer, gguf, n, err));
    MX_TRY(read_merges(tokenizer, gguf, err));
    MX_TRY(add_special(tokenizer, gguf, "tokenizer.ggml.add_bos_token", pre->add_bos,
                       "tokenizer.ggml.bos_token_id", &tokenizer->template.prefix, err));
    MX_TRY(add_special(tokenizer, gguf, "tokenizer.ggml.add_eos_token", false,
                       "tokenizer.ggml.eos_token_id", &tokenizer->template.suffix, err));
    return mx_tokenizer_finish(tokenizer, err);
}

mx_status mx_tokenizer_from_gguf(const mx_gguf *gguf, mx_tokenizer **out, mx_error *err)
{
    *out = NULL;
    mx_tokenizer *tokenizer = NULL;
    MX_TRY(mx_tokenizer_create(mx_gguf_path(gguf), &tokenizer, err));
    mx_status status = read_all(tokenizer, gguf, err);
    if (status != MX_OK) {
        mx_tokenizer_close(tokenizer);
        return status;
    }
    *out = tokenizer;
    return MX_OK;
}
