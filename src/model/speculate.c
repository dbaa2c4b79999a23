#include "model/speculate.h"

#include "model/speculate_ngram.h"

mx_status mx_speculator_init(mx_speculator *speculator, const mx_model *model, uint32_t limit,
                             const mx_generate_options *options, mx_error *err)
{
    *speculator = (mx_speculator){0};
    if (options->speculate > MX_SPECULATE_MAX) {
        return mx_error_set(err, MX_ERR_ARGUMENT, "speculate: %u tokens, but at most %d",
                            options->speculate, MX_SPECULATE_MAX);
    }
    mx_pace_init(&speculator->pace, options->speculate);
    if (options->draft == NULL || options->speculate == 0) {
        return MX_OK;
    }
    return mx_draft_create(model, options->draft, limit, options, &speculator->draft, err);
}

void mx_speculator_clear(mx_speculator *speculator)
{
    mx_draft_free(speculator->draft);
    *speculator = (mx_speculator){0};
}

mx_status mx_speculator_begin(mx_speculator *speculator, const int32_t *tokens, size_t n,
                              mx_error *err)
{
    return speculator->draft != NULL ? mx_draft_follow(speculator->draft, tokens, n, err) : MX_OK;
}

static uint32_t min_u32(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

mx_status mx_speculator_propose(mx_speculator *speculator, int32_t *tokens, size_t n, uint32_t room,
                                uint32_t *n_proposed, mx_error *err)
{
    uint32_t match = 0;
    size_t found = 0;
    *n_proposed = 0;
    room = min_u32(room, speculator->pace.longest);
    if (room > 0 && speculator->draft == NULL) {
        found = mx_ngram_find(tokens, n, &match);
        room = match > 0 ? room : 0;
    }
    if (room == 0) {
        return MX_OK;
    }
    speculator->kind = mx_pace_class(match);
    room = min_u32(room, mx_pace_length(&speculator->pace, speculator->kind));
    if (speculator->draft != NULL) {
        return mx_draft_propose(speculator->draft, tokens, n, room, n_proposed, err);
    }
    /* In place, so that a period shorter than the proposal goes on by itself. */
    for (uint32_t i = 0; i < room; i++) {
        tokens[n + i] = tokens[found + i];
    }
    *n_proposed = room;
    return MX_OK;
}

void mx_speculator_record(mx_speculator *speculator, uint32_t proposed, uint32_t accepted,
                          double seconds)
{
    mx_pace_record(&speculator->pace, speculator->kind, proposed, accepted, seconds);
}
