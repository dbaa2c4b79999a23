/* mx_generate_run: prefill in chunks, then a token at a time, or several where
 * speculation proposes them. */
#include "base/clock.h"
#include "base/str.h"
#include "model/prefill.h"
#include "model/sampler.h"
#include "model/speculate.h"

#include <stdlib.h>
#include <string.h>

void mx_generate_options_init(mx_generate_options *options)
{
    *options = (mx_generate_options){.max_tokens = 128, .top_p = 1.0f};
}

/* Bytes of tokens on their way to valid UTF-8: a character may span tokens. */
typedef struct text_stream {
    mx_text_fn emit;
    void *ctx;
    mx_str pending;
} text_stream;

/* Length of the valid UTF-8 sequence at text [n]; 0 when it is cut off by the
 * end, -1 when no valid sequence starts here. (Unicode 15, table 3-7) */
static int utf8_length(const unsigned char *text, size_t n)
{
    unsigned char c = text[0];
    int need = c < 0x80 ? 1 : c < 0xC2 ? -1 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : c < 0xF5 ? 4 : -1;
    for (int i = 1; i < need; i++) {
        if ((size_t)i >= n) {
            return 0;
        }
        unsigned char low = 0x80, high = 0xBF;
        if (i == 1) {
            low = c == 0xE0 ? 0xA0 : c == 0xF0 ? 0x90 : 0x80;
            high = c == 0xED ? 0x9F : c == 0xF4 ? 0x8F : 0xBF;
        }
        if (text[i] < low || text[i] > high) {
            return -1;
        }
    }
    return need;
}

/* Emits what is complete; at the `end`, what is not becomes U+FFFD. */
static bool stream_flush(text_stream *stream, bool end)
{
    const unsigned char *text = (const unsigned char *)stream->pending.data;
    size_t n = stream->pending.length, at = 0;
    mx_str out = {0};
    while (at < n) {
        int length = utf8_length(text + at, n - at);
        if (length == 0 && !end) {
            break;
        }
        if (length <= 0) {
            mx_str_add(&out, "\xEF\xBF\xBD");
            at++;
        } else {
            mx_str_add_bytes(&out, text + at, (size_t)length);
            at += (size_t)length;
        }
    }
    if (at > 0) {
        memmove(stream->pending.data, stream->pending.data + at, n - at);
        stream->pending.length = n - at;
    }
    bool more = out.length == 0 || stream->emit(stream->ctx, out.data, out.length);
    mx_str_free(&out);
    return more;
}

static bool stream_token(text_stream *stream, const mx_tokenizer *tokenizer, int32_t id)
{
    size_t length;
    const char *bytes = mx_tokenizer_bytes(tokenizer, id, &length);
    if (length == 0 || mx_tokenizer_is_special(tokenizer, id)) {
        return true;
    }
    mx_str_add_bytes(&stream->pending, bytes, length);
    return stream_flush(stream, false);
}

static bool is_eos(const mx_llama_config *config, int32_t id)
{
    for (uint32_t i = 0; i < config->n_eos; i++) {
        if (config->eos_ids[i] == id) {
            return true;
        }
    }
    return false;
}

/* What a generation holds while it runs. */
typedef struct generation {
    mx_model *model;
    const mx_generate_options *options;
    mx_session *session;
    mx_sampler sampler;
    mx_speculator speculator;
    float *logits;   /* [1 + speculate][vocab]: of the last pass */
    int32_t *prompt; /* [n_prompt] */
    size_t n_prompt;
    int32_t *tokens;    /* [limit + 1]: the text so far, then what is proposed */
    size_t n_tokens;    /* of the text; all but the last have run */
    uint32_t limit;     /* positions the session has room for */
    uint32_t chunk;     /* tokens of one pass over the prompt */
    text_stream stream; /* where new text goes */
    mx_generate_stats *stats;
} generation;

/* Encodes the prompt; how far the text can go. */
static mx_status read_prompt(generation *g, const char *prompt, mx_error *err)
{
    const mx_tokenizer *tokenizer;
    uint32_t context = g->model->config.context;
    MX_TRY(mx_model_tokenizer(g->model, &tokenizer, err));
    MX_TRY(mx_tokenizer_encode(tokenizer, prompt, strlen(prompt), g->options->add_bos, &g->prompt,
                               &g->n_prompt, err));
    if (g->n_prompt == 0) {
        return mx_error_set(err, MX_ERR_ARGUMENT, "prompt: holds no tokens");
    }
    if (g->n_prompt >= context) {
        return mx_error_set(err, MX_ERR_ARGUMENT,
                            "prompt: %zu tokens, but the model has room for %u", g->n_prompt,
                            context);
    }
    uint64_t wanted = (uint64_t)g->n_prompt + g->options->max_tokens;
    g->limit = wanted < context ? (uint32_t)wanted : context;
    return MX_OK;
}

static mx_status generation_open(generation *g, const char *prompt, mx_error *err)
{
    const mx_generate_options *options = g->options;
    size_t vocab = g->model->config.vocab;
    MX_TRY(read_prompt(g, prompt, err));
    MX_TRY(mx_speculator_init(&g->speculator, g->model, g->limit, options, err));
    g->chunk = mx_prefill_chunk(g->n_prompt);
    mx_session_config config = {
        .max_tokens = g->chunk > options->speculate ? g->chunk : options->speculate + 1,
        .max_sequences = 1,
        .max_context = g->limit,
        .keep_kv = true,
    };
    MX_TRY(mx_session_create(g->model, &config, &g->session, err));
    MX_TRY(mx_sampler_init(&g->sampler, vocab, options->temperature, options->top_p, options->seed,
                           err));
    size_t logits_bytes = (1 + (size_t)options->speculate) * vocab * sizeof(float);
    g->logits = malloc(logits_bytes);
    g->tokens = malloc(((size_t)g->limit + 1) * sizeof(int32_t));
    if (g->logits == NULL || g->tokens == NULL) {
        return mx_error_nomem(err, "logits", logits_bytes);
    }
    memcpy(g->tokens, g->prompt, g->n_prompt * sizeof(int32_t));
    g->n_tokens = g->n_prompt;
    return MX_OK;
}

static void generation_close(generation *g)
{
    mx_session_free(g->session);
    mx_sampler_clear(&g->sampler);
    mx_speculator_clear(&g->speculator);
    mx_str_free(&g->stream.pending);
    free(g->logits);
    free(g->tokens);
    mx_ids_free(g->prompt);
}

static bool is_end(const generation *g, int32_t id)
{
    return !g->options->ignore_eos && is_eos(&g->model->config, id);
}

/*
 * Chooses the tokens that follow the text from the logits of the last pass, whose
 * rows are the last token and `proposed` ones behind it. Each row's choice is the
 * sampler's; the next row counts only while the choice is what that row was run
 * for. Returns how many were chosen: they stand behind the text.
 */
static uint32_t choose(generation *g, uint32_t proposed, uint32_t *accepted)
{
    int32_t *next = g->tokens + g->n_tokens;
    *accepted = 0;
    for (uint32_t i = 0;; i++) {
        const float *row = g->logits + i * (size_t)g->model->config.vocab;
        int32_t id = (int32_t)mx_sampler_next(&g->sampler, row, g->n_tokens + i);
        bool right = i < proposed && id == next[i];
        *accepted += right;
        next[i] = id;
        if (!right || is_end(g, id)) {
            return i + 1;
        }
    }
}

/* Adds `n` chosen tokens to the text; false when it ends there. */
static bool take(generation *g, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        int32_t id = g->tokens[g->n_tokens];
        if (is_end(g, id)) {
            return false;
        }
        g->n_tokens++;
        g->stats->new_tokens++;
        /* The last token needs no forward pass: nothing follows it. */
        if (!stream_token(&g->stream, g->model->tokenizer, id) ||
            g->stats->new_tokens == g->options->max_tokens || g->n_tokens > g->limit) {
            return false;
        }
    }
    return true;
}

/* Tokens that may be proposed: they must fit in the context, and one token more
 * than is accepted comes out of a pass. */
static uint32_t room(const generation *g)
{
    uint32_t positions = g->limit - (uint32_t)g->n_tokens;
    uint32_t wanted = g->options->max_tokens - g->stats->new_tokens - 1;
    return positions < wanted ? positions : wanted;
}

/* One pass over the last token and what is proposed behind it. Rejected tokens stay
 * in the KV store beyond the text's end; the next pass starts there and writes over
 * them. */
static mx_status decode(generation *g, uint32_t *proposed, mx_error *err)
{
    uint32_t rows[MX_SPECULATE_MAX + 1];
    MX_TRY(mx_speculator_propose(&g->speculator, g->tokens, g->n_tokens, room(g), proposed, err));
    mx_segment segment = {
        .start = (uint32_t)g->n_tokens - 1,
        .tokens = g->tokens + g->n_tokens - 1,
        .n_tokens = *proposed + 1,
    };
    for (uint32_t i = 0; i <= *proposed; i++) {
        rows[i] = i;
    }
    MX_TRY(mx_session_forward(g->session, &segment, 1, err));
    return mx_session_logits(g->session, rows, segment.n_tokens, g->logits, err);
}

static mx_status generation_run(generation *g, mx_error *err)
{
    mx_generate_stats *stats = g->stats;
    uint32_t proposed = 0, accepted;
    double begin = mx_clock_seconds();
    MX_TRY(mx_prefill_run(g->session, g->chunk, g->tokens, 0, g->n_tokens, g->logits, err));
    MX_TRY(mx_speculator_begin(&g->speculator, g->tokens, g->n_tokens, err));
    double decode_begin = mx_clock_seconds();
    stats->prompt_tokens = (uint32_t)g->n_prompt;
    stats->prefill_seconds = decode_begin - begin;
    bool more = g->options->max_tokens > 0 && take(g, choose(g, 0, &accepted));
    while (more) {
        double pass_begin = mx_clock_seconds();
        MX_TRY(decode(g, &proposed, err));
        uint32_t chosen = choose(g, proposed, &accepted);
        mx_speculator_record(&g->speculator, proposed, accepted, mx_clock_seconds() - pass_begin);
        stats->passes++;
        stats->proposed += proposed;
        stats->accepted += accepted;
        more = take(g, chosen);
    }
    stats->decode_seconds = mx_clock_seconds() - decode_begin;
    stream_flush(&g->stream, true);
    return MX_OK;
}

mx_status mx_generate_run(mx_model *model, const char *prompt, const mx_generate_options *options,
                          mx_text_fn emit, void *emit_ctx, mx_generate_stats *stats, mx_error *err)
{
    mx_generate_stats ignored;
    stats = stats != NULL ? stats : &ignored;
    *stats = (mx_generate_stats){0};
    generation g = {
        .model = model,
        .options = options,
        .stream = {.emit = emit, .ctx = emit_ctx},
        .stats = stats,
    };
    mx_status status = generation_open(&g, prompt, err);
    if (status == MX_OK) {
        status = generation_run(&g, err);
    }
    generation_close(&g);
    return status;
}
