/* Long runs of tokens of one sequence, in chunks. */
#ifndef MX_MODEL_PREFILL_H
#define MX_MODEL_PREFILL_H

#include "model/session.h"

enum { MX_PREFILL_CHUNK = 512 };

/* max_tokens of a session that is to take a prompt of n tokens, at least 1. */
uint32_t mx_prefill_chunk(size_t n);

/*
 * Runs tokens [n], n >= 1, of sequence 0 from position `start`, `chunk` at a time,
 * and leaves the logits of the last one in logits [vocab].
 */
mx_status mx_prefill_run(mx_session *session, uint32_t chunk, const int32_t *tokens, size_t start,
                         size_t n, float *logits, mx_error *err);

#endif
