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

/* Proposals are ids, so the same id must be the same piece of text: bytes of every
 * token, and whether it is special. */
static mx_status check_tokens(const mx_model *target, const mx_model *model, mx_error *err)
{
    const mx_tokenizer *ours, *theirs;
    MX_TRY(mx_model_tokenizer(target, &ours, err));
    MX_TRY(mx_model_tokenizer(model, &theirs, err));
    if (target->config.vocab != model->config.vocab ||
        mx_tokenizer_vocab(ours) != mx_tokenizer_vocab(theirs)) {
        return mx_error_set(err, MX_ERR_ARGUMENT,
                            "draft: another vocabulary: %u tokens in %u rows, but the model has %u "
                            "in %u",
                            mx_tokenizer_vocab(theirs), model->config.vocab,
                            mx_tokenizer_vocab(ours), target->config.vocab);
    }
    for (uint32_t id = 0; id < mx_tokenizer_vocab(ours); id++) {
        size_t length, their_length;
        const char *bytes = mx_tokenizer_bytes(ours, (int32_t)id, &length);
        const char *their_bytes = mx_tokenizer_bytes(theirs, (int32_t)id, &their_length);
        if (length != their_length || (length > 0 && memcmp(bytes, their_bytes, length) != 0) ||
            mx_tokenizer_is_special(ours, (int32_t)id) !=
                mx_tokenizer_is_special(theirs, (int32_t)id)) {
            return mx_error_set(err, MX_ERR_ARGUMENT,
                                "draft: another tokenizer: token %u differs from the model's", id);
        }
    }
    return MX_OK;
}

mx_status mx_draft_create(const mx_model *target, mx_model *model, uint32_t limit,
                          const mx_generate_options *options, mx_draft **out, mx_error *err)
{
    *out = NULL;
    MX_TRY(check_tokens(target, model, err));
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
