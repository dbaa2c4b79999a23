/*
 * Context and target of a passage, tokenized as lm_eval's _encode_pair does: the
 * whole text at once, then the context without its trailing white space; what the
 * whole has beyond the context's length is the target. Encoding the two apart would
 * give other tokens where a merge crosses the boundary.
 */
#include "eval/pair.h"

#include "base/str.h"
#include "eval/whitespace.h"

#include <stdlib.h>
#include <string.h>

/* The last space, not the last white space: doc_to_text splits at " ". */
size_t mx_pair_split(const char *text, size_t length)
{
    while (length > 0 && text[length - 1] != ' ') {
        length--;
    }
    return length > 0 ? length - 1 : 0;
}

/* The passage as context + target. Without any space the target alone is
 * " " + text, as doc_to_target builds it. */
static char *pair_text(const char *text, size_t length)
{
    if (memchr(text, ' ', length) != NULL) {
        return mx_str_copy(text, length);
    }
    char *spaced = length < SIZE_MAX - 2 ? malloc(length + 2) : NULL;
    if (spaced != NULL) {
        spaced[0] = ' ';
        memcpy(spaced + 1, text, length);
        spaced[length + 1] = '\0';
    }
    return spaced;
}

/*
 * The tokens before the targets: BOS when asked for, else the prefix token when
 * the context has none (lm_eval's rule for an empty context, its special case of
 * a text that starts with that token included). Returns how many go in front,
 * 0 or 1.
 */
static size_t pair_front(const mx_task_context *context, const int32_t *whole, size_t n_context,
                         int32_t *front)
{
    *front = context->options->add_bos ? context->bos : context->prefix;
    if (context->options->add_bos) {
        return 1;
    }
    return n_context == 0 && context->prefix >= 0 && whole[0] != context->prefix ? 1 : 0;
}

/* Adds the document of `whole` [n_whole], of which the first n_context are
 * context; takes over `text`. */
static mx_status pair_add_tokens(const mx_task_context *context, const char *where,
                                 const int32_t *whole, size_t n_whole, size_t n_context,
                                 mx_document *document, mx_document_list *list, mx_error *err)
{
    int32_t front = -1;
    size_t n_front = pair_front(context, whole, n_context, &front);
    /* A context that is empty even so (the text starts with the prefix token
     * itself) gives its first token to the context. */
    size_t n_before = n_front + n_context > 0 ? n_front + n_context : 1;
    size_t n_all = n_front + n_whole;
    if (n_before >= n_all) {
        return mx_error_set(err, MX_ERR_FORMAT, "%s: document %u: the target has no tokens", where,
                            document->index);
    }
    size_t n_targets = n_all - n_before;
    size_t n_keep = n_all <= context->max_context ? n_all : (size_t)context->max_context + 1;
    if (n_targets >= n_keep) {
        return mx_error_set(err, MX_ERR_UNSUPPORTED,
                            "%s: document %u: a target of %zu tokens exceeds the context of %u",
                            where, document->index, n_targets, context->max_context);
    }
    document->first = list->pool_size;
    document->n_tokens = (uint32_t)n_keep;
    document->n_targets = (uint32_t)n_targets;
    size_t skip = n_all - n_keep;
    if (skip < n_front) {
        MX_TRY(mx_document_list_add_tokens(list, &front, 1, err));
    }
    size_t skip_whole = skip > n_front ? skip - n_front : 0;
    return mx_document_list_add_tokens(list, whole + skip_whole, n_whole - skip_whole, err);
}

mx_status mx_pair_add(const mx_task_context *context, const char *where, uint32_t index,
                      const char *text, size_t length, mx_document_list *list, mx_error *err)
{
    mx_document document = {.index = index};
    int32_t *whole = NULL, *before = NULL;
    size_t n_whole = 0, n_before = 0;
    mx_status status = MX_OK;

    document.text = pair_text(text, length);
    if (document.text == NULL) {
        return mx_error_nomem(err, "document", length);
    }
    size_t size = strlen(document.text);
    document.target_offset = mx_pair_split(document.text, size);
    size_t stripped = mx_whitespace_strip(document.text, document.target_offset);
    MX_TRY_GOTO(status, mx_tokenizer_encode(context->tokenizer, document.text, size, false, &whole,
                                            &n_whole, err));
    MX_TRY_GOTO(status, mx_tokenizer_encode(context->tokenizer, document.text, stripped, false,
                                            &before, &n_before, err));
    if (n_whole == 0) {
        status = mx_error_set(err, MX_ERR_FORMAT, "%s: document %u: no tokens", where, index);
        goto done;
    }
    MX_TRY_GOTO(status,
                pair_add_tokens(context, where, whole, n_whole, n_before, &document, list, err));
    list->hash = mx_hash_bytes(list->hash, document.text, size + 1);
    status = mx_document_list_add(list, &document, err);
    document.text = NULL;
done:
    mx_ids_free(whole);
    mx_ids_free(before);
    free(document.text);
    return status;
}
