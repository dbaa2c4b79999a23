/*
 * How many tokens to propose. A pass over 1 + m tokens costs more than one over 1;
 * whether it pays depends on how often proposals are right, which is watched here,
 * and on the machine, whose times are measured. Only the speed depends on them,
 * never the text.
 */
#ifndef MX_MODEL_SPECULATE_PACE_H
#define MX_MODEL_SPECULATE_PACE_H

#include <stdint.h>

enum { MX_PACE_CLASSES = 5 };

typedef struct mx_pace {
    uint32_t longest;             /* tokens proposed at most */
    uint32_t since_plain;         /* passes since the last without proposals */
    double plain;                 /* seconds of a pass without proposals, 0: none yet */
    double extra;                 /* seconds that one proposed token adds */
    double balance;               /* seconds won against plain decoding, or lost */
    double rate[MX_PACE_CLASSES]; /* share of right tokens among the tried, smoothed */
} mx_pace;

void mx_pace_init(mx_pace *pace, uint32_t longest);

/* Kind of a proposal, [0, MX_PACE_CLASSES): by the length of an n-gram match (at
 * least MX_NGRAM_MIN), which says much about how likely the text goes on alike; 0
 * stands for a draft model. */
uint32_t mx_pace_class(uint32_t match);

/* Tokens to propose now, [0, longest], when a proposal of this kind is at hand. */
uint32_t mx_pace_length(const mx_pace *pace, uint32_t kind);

/* What a pass brought: `proposed` tokens of which the first `accepted` were right,
 * in `seconds`, proposing included. */
void mx_pace_record(mx_pace *pace, uint32_t kind, uint32_t proposed, uint32_t accepted,
                    double seconds);

#endif
