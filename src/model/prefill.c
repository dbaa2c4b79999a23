#include "model/prefill.h"

uint32_t mx_prefill_chunk(size_t n)
{
    return n < MX_PREFILL_CHUNK ? (uint32_t)n : MX_PREFILL_CHUNK;
}

mx_status mx_prefill_run(mx_session *session, uint32_t chunk, const int32_t *tokens, size_t start,
                         size_t n, float *logits, mx_error *err)
{
    uint32_t last = 0;
    for (size_t done = 0; done < n; done += last + 1) {
        size_t left = n - done;
        mx_segment segment = {
            .start = (uint32_t)(start + done),
            .tokens = tokens + done,
            .n_tokens = left < chunk ? (uint32_t)left : chunk,
        };
        MX_TRY(mx_session_forward(session, &segment, 1, err));
        last = segment.n_tokens - 1;
    }
    return mx_session_logits(session, &last, 1, logits, err);
}
