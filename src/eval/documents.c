/* Lists of documents. Tokens of all documents share one pool: a list of 5,000 would
 * otherwise be 5,000 small allocations. The pool moves as it grows, so documents
 * point into it only after mx_document_list_finish. */
#include "eval/eval.h"

#include <stdlib.h>
#include <string.h>

/* FNV-1a: enough to tell other documents from these, no defence against an adversary. */
uint64_t mx_hash_bytes(uint64_t hash, const void *bytes, size_t size)
{
    const uint8_t *p = bytes;
    for (size_t i = 0; i < size; i++) {
        hash = (hash ^ p[i]) * UINT64_C(0x100000001b3);
    }
    return hash;
}

/* Grows an array to hold `need` items; capacity at least doubles, so that
 * additions cost constant time each. */
static mx_status list_reserve(void **array, size_t *capacity, size_t need, size_t item_size,
                              mx_error *err)
{
    if (need <= *capacity) {
        return MX_OK;
    }
    size_t wanted = *capacity < 256 ? 256 : *capacity;
    while (wanted < need && wanted <= SIZE_MAX / 2) {
        wanted *= 2;
    }
    if (wanted < need || wanted > SIZE_MAX / item_size) {
        return mx_error_nomem(err, "documents", SIZE_MAX);
    }
    void *grown = realloc(*array, wanted * item_size);
    if (grown == NULL) {
        return mx_error_nomem(err, "documents", wanted * item_size);
    }
    *array = grown;
    *capacity = wanted;
    return MX_OK;
}

mx_status mx_document_list_add_tokens(mx_document_list *list, const int32_t *ids, size_t n_ids,
                                      mx_error *err)
{
    if (n_ids > SIZE_MAX - list->pool_size) {
        return mx_error_nomem(err, "documents", SIZE_MAX);
    }
    void *pool = list->pool;
    mx_status status =
        list_reserve(&pool, &list->pool_capacity, list->pool_size + n_ids, sizeof *list->pool, err);
    list->pool = pool;
    MX_TRY(status);
    if (n_ids > 0) {
        memcpy(list->pool + list->pool_size, ids, n_ids * sizeof *ids);
    }
    list->pool_size += n_ids;
    return MX_OK;
}

mx_status mx_document_list_add(mx_document_list *list, const mx_document *document, mx_error *err)
{
    void *items = list->items;
    mx_status status =
        list_reserve(&items, &list->capacity, list->count + 1, sizeof *list->items, err);
    list->items = items;
    if (status != MX_OK) {
        free(document->text);
        return status;
    }
    list->items[list->count++] = *document;
    return MX_OK;
}

void mx_document_list_finish(mx_document_list *list)
{
    for (size_t i = 0; i < list->count; i++) {
        list->items[i].tokens = list->pool + list->items[i].first;
    }
}

void mx_document_list_free(mx_document_list *list)
{
    for (size_t i = 0; i < list->count; i++) {
        free(list->items[i].text);
    }
    free(list->items);
    free(list->pool);
    *list = (mx_document_list){0};
}
