#include "model/draft.h"

#include "model/prefill.h"
#include "model/sampler.h"

#include <stdlib.h>
#include <string.h>

struct mx_draft {
    mx_session *session;
    mx_sampler sampler;
    uint32_t chunk, limit;
    float *logits; /* [vocab]: of the last token seen */
    int32_t *seen; /* [limit]: the tokens in the KV store */
    size_t n_seen;
};

mx_status mx_draft_create(const mx_model *target, mx_model *model, uint32_t limit,
                          const mx_generate_options *options, mx_draft **out, mx_error *err)
{
    *out = NULL;
    MX_TRY(mx_model_check_tokens(target, model, "draft", err));
    mx_status status;
    size_t vocab = model->config.vocab;
    mx_draft *draft = calloc(1, sizeof *draft);
    if (draft == NULL) {
        return mx_error_nomem(err, "draft", sizeof *draft);
    }
    draft->limit = limit < model->config.context ? limit : model->config.context;
    draft->chunk = mx_prefill_chunk(draft->limit);
    mx_session_config config = {draft->chunk, 1, draft->limit, .keep_kv = true};
    MX_TRY_GOTO(status, mx_session_create(model, &config, &draft->session, err));
    MX_TRY_GOTO(status, mx_sampler_init(&draft->sampler, vocab, options->temperature,
                                        options->top_p, options->seed, err));
    draft->logits = malloc(vocab * sizeof(float));
    draft->seen = malloc(draft->limit * sizeof(int32_t));
    if (draft->logits == NULL || draft->seen == NULL) {
        status = mx_error_nomem(err, "draft", vocab * sizeof(float));
        goto done;
    }
    *out = draft;
    draft = NULL;
done:
    mx_draft_free(draft);
    return status;
}

void mx_draft_free(mx_draft *draft)
{
    if (draft == NULL) {
        return;
    }
    mx_session_free(draft->session);
    mx_sampler_clear(&draft->sampler);
    free(draft->logits);
    free(draft->seen);
    free(draft);
}

mx_status mx_draft_follow(mx_draft *draft, const int32_t *tokens, size_t n, mx_error *err)
{
    if (n > draft->limit) {
        return MX_OK;
    }
    /* The last token always runs: its logits are wanted. */
    size_t same = 0;
    while (same < draft->n_seen && same < n - 1 && draft->seen[same] == tokens[same]) {
        same++;
    }
    draft->n_seen = same; /* should the pass fail, no more than this is known */
    MX_TRY(mx_prefill_run(draft->session, draft->chunk, tokens + same, same, n - same,
                          draft->logits, err));
    memcpy(draft->seen + same, tokens + same, (n - same) * sizeof(int32_t));
    draft->n_seen = n;
    return MX_OK;
}

mx_status mx_draft_propose(mx_draft *draft, int32_t *tokens, size_t n, uint32_t room,
                           uint32_t *n_proposed, mx_error *err)
{
    uint32_t count = 0;
    *n_proposed = 0;
    for (; count < room && n + count <= draft->limit; count++) {
        MX_TRY(mx_draft_follow(draft, tokens, n + count, err));
        tokens[n + count] = (int32_t)mx_sampler_next(&draft->sampler, draft->logits, n + count);
    }
    *n_proposed = count;
    return MX_OK;
}
