#include "model/speculate_ngram.h"

/* How many tokens before `end` equal those before n, end < n. */
static uint32_t common_suffix(const int32_t *tokens, size_t n, size_t end)
{
    uint32_t length = 0;
    while (length < MX_NGRAM_MAX && length < end &&
           tokens[end - 1 - length] == tokens[n - 1 - length]) {
        length++;
    }
    return length;
}

/* A scan, not an index: it reads 4 bytes a position, which is nothing against a
 * forward pass that reads every weight and all of the KV store. */
size_t mx_ngram_find(const int32_t *tokens, size_t n, uint32_t *match)
{
    uint32_t best = MX_NGRAM_MIN - 1;
    size_t found = 0;
    for (size_t end = n; end-- > 1 && best < MX_NGRAM_MAX;) {
        uint32_t length = common_suffix(tokens, n, end);
        if (length > best) {
            best = length;
            found = end;
        }
    }
    *match = found > 0 ? best : 0;
    return found;
}
