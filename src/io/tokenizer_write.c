/*
 * Writes a tokenizer as tokenizer.json, put together as text: a tree of JSON
 * values for a vocabulary and its merges would take tens of times its size.
 */
#include "io/tokenizer_impl.h"

#include <stdlib.h>
#include <string.h>

/* A JSON string of valid UTF-8. */
static void add_string(mx_str *out, const char *text, size_t length)
{
    mx_str_add(out, "\"");
    size_t begin = 0;
    for (size_t i = 0; i < length; i++) {
        uint8_t c = (uint8_t)text[i];
        if (c >= 0x20 && c != '"' && c != '\\') {
            continue;
        }
        mx_str_add_bytes(out, text + begin, i - begin);
        mx_str_addf(out, c < 0x20 ? "\\u%04x" : "\\%c", c);
        begin = i + 1;
    }
    mx_str_add_bytes(out, text + begin, length - begin);
    mx_str_add(out, "\"");
}

static void add_text(mx_str *out, const char *text)
{
    add_string(out, text, strlen(text));
}

static void add_bool(mx_str *out, const char *key, bool value)
{
    mx_str_addf(out, "\"%s\": %s", key, value ? "true" : "false");
}

/* A token of the model in byte-level spelling. `spelled` is work space. */
static void add_spelled(mx_str *out, const mx_vocab *vocab, uint32_t id, mx_str *spelled)
{
    spelled->length = 0;
    mx_vocab_spell(vocab, id, spelled);
    out->failed = out->failed || spelled->failed;
    add_string(out, spelled->length > 0 ? spelled->data : "", spelled->length);
}

/* ---- added tokens -------------------------------------------------------------------- */

/* All flags are written: none is left to a reader's default. */
static void add_added_tokens(mx_str *out, const mx_tokenizer *tokenizer)
{
    mx_str_add(out, " \"added_tokens\": [");
    const char *separator = "\n";
    /* In the order of ids, which readers expect. */
    for (uint32_t id = 0; id < tokenizer->vocab.n_ids; id++) {
        uint32_t index = tokenizer->vocab.tokens[id].added;
        if (index == 0) {
            continue;
        }
        const mx_added_token *token = &tokenizer->added.items[index - 1];
        mx_str_addf(out, "%s  {\"id\": %u, \"content\": ", separator, id);
        add_string(out, token->content, token->length);
        mx_str_add(out, ", ");
        add_bool(out, "single_word", token->single_word);
        mx_str_add(out, ", ");
        add_bool(out, "lstrip", token->lstrip);
        mx_str_add(out, ", ");
        add_bool(out, "rstrip", token->rstrip);
        mx_str_add(out, ", ");
        add_bool(out, "normalized", token->match_normalized);
        mx_str_add(out, ", ");
        add_bool(out, "special", token->special);
        mx_str_add(out, "}");
        separator = ",\n";
    }
    mx_str_add(out, "\n ],\n");
}

/* ---- pipeline ------------------------------------------------------------------------- */

/* Nested sequences have become one: the order is what counts. */
static void add_normalizer(mx_str *out, const mx_tokenizer *tokenizer)
{
    if (tokenizer->n_normalizers == 0) {
        mx_str_add(out, " \"normalizer\": null,\n");
        return;
    }
    mx_str_add(out, " \"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [");
    for (size_t i = 0; i < tokenizer->n_normalizers; i++) {
        mx_str_addf(out, "%s{\"type\": \"%s\"}", i == 0 ? "" : ", ",
                    mx_normal_form_names[tokenizer->normalizers[i]]);
    }
    mx_str_add(out, "]},\n");
}

/* trim_offsets concerns offsets only; true is what all known files have. */
static void add_step(mx_str *out, const mx_pretok_step *step)
{
    switch (step->kind) {
    case MX_STEP_SPLIT:
        mx_str_addf(out, "{\"type\": \"Split\", \"pattern\": {\"%s\": ",
                    step->pattern.is_regex ? "Regex" : "String");
        add_text(out, step->pattern.source);
        mx_str_addf(out, "}, \"behavior\": \"%s\", ", mx_split_behavior_names[step->behavior]);
        add_bool(out, "invert", step->invert);
        break;
    case MX_STEP_DIGITS:
        mx_str_add(out, "{\"type\": \"Digits\", ");
        add_bool(out, "individual_digits", step->behavior == MX_SPLIT_ISOLATED);
        break;
    case MX_STEP_BYTE_LEVEL:
        mx_str_add(out, "{\"type\": \"ByteLevel\", ");
        add_bool(out, "add_prefix_space", step->add_prefix_space);
        mx_str_add(out, ", \"trim_offsets\": true, ");
        add_bool(out, "use_regex", step->pattern.code != NULL);
        break;
    }
    mx_str_add(out, "}");
}

static void add_pre_tokenizer(mx_str *out, const mx_tokenizer *tokenizer)
{
    mx_str_add(out, " \"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [");
    for (size_t i = 0; i < tokenizer->n_steps; i++) {
        mx_str_add(out, i == 0 ? "\n  " : ",\n  ");
        add_step(out, &tokenizer->steps[i]);
    }
    mx_str_add(out, "]},\n");
}

/* A token's name in a template: its text. */
static void add_name(mx_str *out, const mx_tokenizer *tokenizer, int32_t id)
{
    uint32_t index = tokenizer->vocab.tokens[id].added;
    mx_str spelled = {0};
    if (index > 0) {
        const mx_added_token *token = &tokenizer->added.items[index - 1];
        add_string(out, token->content, token->length);
    } else {
        add_spelled(out, &tokenizer->vocab, (uint32_t)id, &spelled);
    }
    mx_str_free(&spelled);
}

/* `after` separates the last of these from what follows. */
static void add_specials(mx_str *out, const mx_tokenizer *tokenizer, const mx_ids *ids, int type,
                         const char *after)
{
    for (size_t i = 0; i < ids->n; i++) {
        mx_str_add(out, "{\"SpecialToken\": {\"id\": ");
        add_name(out, tokenizer, ids->data[i]);
        mx_str_addf(out, ", \"type_id\": %d}}%s", type, i + 1 < ids->n ? ", " : after);
    }
}

/* The template of one text, or of the first or second of a pair. */
static void add_pieces(mx_str *out, const mx_tokenizer *tokenizer, char sequence, int type)
{
    const mx_template *template = &tokenizer->template;
    add_specials(out, tokenizer, &template->prefix, type, ", ");
    mx_str_addf(out, "{\"Sequence\": {\"id\": \"%c\", \"type_id\": %d}}%s", sequence, type,
                template->suffix.n > 0 ? ", " : "");
    add_specials(out, tokenizer, &template->suffix, type, "");
}

/* Has this id been listed before position `at` of prefix + suffix? */
static bool listed_before(const mx_template *template, size_t at, int32_t id)
{
    for (size_t i = 0; i < at; i++) {
        size_t n = template->prefix.n;
        if ((i < n ? template->prefix.data[i] : template->suffix.data[i - n]) == id) {
            return true;
        }
    }
    return false;
}

/* `tokenizers` wants a template for pairs of texts as well, which mxlm has no use
 * for: each text gets what a single one does, as in Llama-3's file. */
static void add_post_processor(mx_str *out, const mx_tokenizer *tokenizer)
{
    const mx_template *template = &tokenizer->template;
    if (!template->present) {
        mx_str_add(out, " \"post_processor\": null,\n");
        return;
    }
    mx_str_add(out, " \"post_processor\": {\"type\": \"TemplateProcessing\",\n  \"single\": [");
    add_pieces(out, tokenizer, 'A', 0);
    mx_str_add(out, "],\n  \"pair\": [");
    add_pieces(out, tokenizer, 'A', 0);
    mx_str_add(out, ", ");
    add_pieces(out, tokenizer, 'B', 1);
    mx_str_add(out, "],\n  \"special_tokens\": {");
    const char *separator = "";
    for (size_t i = 0; i < template->prefix.n + template->suffix.n; i++) {
        size_t n = template->prefix.n;
        int32_t id = i < n ? template->prefix.data[i] : template->suffix.data[i - n];
        if (listed_before(template, i, id)) {
            continue;
        }
        mx_str_add(out, separator);
        add_name(out, tokenizer, id);
        mx_str_add(out, ": {\"id\": ");
        add_name(out, tokenizer, id);
        mx_str_addf(out, ", \"ids\": [%d], \"tokens\": [", id);
        add_name(out, tokenizer, id);
        mx_str_add(out, "]}");
        separator = ", ";
    }
    mx_str_add(out, "}},\n");
}

/* ---- model ------------------------------------------------------------------------------- */

/* By id, as `tokenizers` writes it. */
static void add_vocab(mx_str *out, const mx_vocab *vocab, mx_str *spelled)
{
    mx_str_add(out, "  \"vocab\": {");
    const char *separator = "\n";
    for (uint32_t id = 0; id < vocab->n_ids; id++) {
        if (vocab->tokens[id].in_model) {
            mx_str_addf(out, "%s   ", separator);
            add_spelled(out, vocab, id, spelled);
            mx_str_addf(out, ": %u", id);
            separator = ",\n";
        }
    }
    mx_str_add(out, "\n  },\n");
}

static int compare_ranks(const void *a, const void *b)
{
    uint32_t rank_a = ((const mx_merge *)a)->rank, rank_b = ((const mx_merge *)b)->rank;
    return (rank_a > rank_b) - (rank_a < rank_b);
}

/* Ranks are implied by order. Pairs, not lines: a line could not hold a text with a
 * space in it. */
static mx_status add_merges(mx_str *out, const mx_tokenizer *tokenizer, mx_str *spelled,
                            mx_error *err)
{
    const mx_bpe *bpe = &tokenizer->bpe;
    mx_merge *merges = malloc(((size_t)bpe->n_merges + 1) * sizeof *merges);
    if (merges == NULL) {
        return mx_error_nomem(err, "merges", bpe->n_merges * sizeof *merges);
    }
    uint32_t n = 0;
    for (uint32_t slot = 0; slot <= bpe->mask; slot++) {
        if (bpe->table[slot].rank != UINT32_MAX) {
            merges[n++] = bpe->table[slot];
        }
    }
    qsort(merges, n, sizeof *merges, compare_ranks);
    mx_str_add(out, "  \"merges\": [");
    for (uint32_t i = 0; i < n; i++) {
        mx_str_add(out, i == 0 ? "\n   [" : ",\n   [");
        add_spelled(out, &tokenizer->vocab, merges[i].left, spelled);
        mx_str_add(out, ", ");
        add_spelled(out, &tokenizer->vocab, merges[i].right, spelled);
        mx_str_add(out, "]");
    }
    mx_str_add(out, "\n  ]\n");
    free(merges);
    return MX_OK;
}

/* Options that mxlm refuses to read are written as off. */
static mx_status add_model(mx_str *out, const mx_tokenizer *tokenizer, mx_error *err)
{
    const mx_bpe *bpe = &tokenizer->bpe;
    mx_str_add(out, " \"model\": {\n  \"type\": \"BPE\",\n  \"dropout\": null,\n  \"unk_token\": ");
    if (tokenizer->unk_token != NULL) {
        add_text(out, tokenizer->unk_token);
    } else {
        mx_str_add(out, "null");
    }
    mx_str_add(out,
               ",\n  \"continuing_subword_prefix\": null,\n  \"end_of_word_suffix\": null,\n  ");
    add_bool(out, "fuse_unk", bpe->fuse_unk);
    mx_str_add(out, ",\n  \"byte_fallback\": false,\n  ");
    add_bool(out, "ignore_merges", bpe->ignore_merges);
    mx_str_add(out, ",\n");
    mx_str spelled = {0};
    add_vocab(out, &tokenizer->vocab, &spelled);
    mx_status status = add_merges(out, tokenizer, &spelled, err);
    mx_str_free(&spelled);
    mx_str_add(out, " }\n");
    return status;
}

/* Members in the order in which `tokenizers` writes them. */
mx_status mx_tokenizer_to_json(const mx_tokenizer *tokenizer, char **out, mx_error *err)
{
    *out = NULL;
    mx_str text = {0};
    mx_str_add(&text, "{\n \"version\": \"1.0\",\n \"truncation\": null,\n \"padding\": null,\n");
    add_added_tokens(&text, tokenizer);
    add_normalizer(&text, tokenizer);
    add_pre_tokenizer(&text, tokenizer);
    add_post_processor(&text, tokenizer);
    mx_str_add(&text, " \"decoder\": {\"type\": \"ByteLevel\", \"add_prefix_space\": true, "
                      "\"trim_offsets\": true, \"use_regex\": true},\n");
    mx_status status = add_model(&text, tokenizer, err);
    if (status != MX_OK) {
        mx_str_free(&text);
        return status;
    }
    mx_str_add(&text, "}\n");
    return mx_str_take(&text, out, err);
}
