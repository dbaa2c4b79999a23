/*
 * Proposals from the text itself: what followed the last tokens where they stood
 * before. (Prompt look-up decoding: Saxena 2023; LLMA: Yang et al.,
 * arXiv:2304.04487.)
 */
#ifndef MX_MODEL_SPECULATE_NGRAM_H
#define MX_MODEL_SPECULATE_NGRAM_H

#include <stddef.h>
#include <stdint.h>

enum {
    MX_NGRAM_MIN = 2,  /* single tokens repeat everywhere and foretell little */
    MX_NGRAM_MAX = 32, /* longer matches are not told apart */
};

/* Where the longest run of tokens that ends tokens [n] stood before, the latest of
 * equally long ones: the index of what followed, and the run's length in *match.
 * 0 and a match of 0 when fewer than MX_NGRAM_MIN tokens recur. */
size_t mx_ngram_find(const int32_t *tokens, size_t n, uint32_t *match);

#endif
