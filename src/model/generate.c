/* mx_generate_run: prefill in chunks, then one token at a time. */
#include "base/clock.h"
#include "base/str.h"
#include "model/sampler.h"
#include "model/session.h"

#include <stdlib.h>
#include <string.h>

enum { PREFILL_CHUNK = 512 };

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
    mx_session *session;
    mx_sampler sampler;
    float *logits; /* [vocab] */
    int32_t *ids;  /* prompt */
    size_t n_ids;
    uint32_t limit; /* positions the session has room for */
} generation;

static mx_status generation_open(generation *g, mx_model *model, const char *prompt,
                                 const mx_generate_options *options, mx_error *err)
{
    const mx_tokenizer *tokenizer;
    MX_TRY(mx_model_tokenizer(model, &tokenizer, err));
    MX_TRY(mx_tokenizer_encode(tokenizer, prompt, strlen(prompt), options->add_bos, &g->ids,
                               &g->n_ids, err));
    if (g->n_ids == 0) {
        return mx_error_set(err, MX_ERR_ARGUMENT, "prompt: holds no tokens");
    }
    if (g->n_ids >= model->config.context) {
        return mx_error_set(err, MX_ERR_ARGUMENT,
                            "prompt: %zu tokens, but the model has room for %u", g->n_ids,
                            model->config.context);
    }
    uint64_t wanted = (uint64_t)g->n_ids + options->max_tokens;
    g->limit = wanted < model->config.context ? (uint32_t)wanted : model->config.context;
    mx_session_config config = {
        .max_tokens = g->n_ids < PREFILL_CHUNK ? (uint32_t)g->n_ids : PREFILL_CHUNK,
        .max_sequences = 1,
        .max_context = g->limit,
        .keep_kv = true,
    };
    MX_TRY(mx_session_create(model, &config, &g->session, err));
    MX_TRY(mx_sampler_init(&g->sampler, model->config.vocab, options->temperature, options->top_p,
                           options->seed, err));
    g->model = model;
    g->logits = malloc(model->config.vocab * sizeof(float));
    return g->logits != NULL ? MX_OK
                             : mx_error_nomem(err, "logits", model->config.vocab * sizeof(float));
}

static void generation_close(generation *g)
{
    mx_session_free(g->session);
    mx_sampler_clear(&g->sampler);
    free(g->logits);
    mx_ids_free(g->ids);
}

/* Runs `n` tokens from position `start`; the last one's logits. */
static mx_status advance(generation *g, const int32_t *tokens, size_t start, size_t n,
                         mx_error *err)
{
    for (size_t done = 0; done < n;) {
        size_t chunk = n - done < PREFILL_CHUNK ? n - done : PREFILL_CHUNK;
        mx_segment segment = {
            .start = (uint32_t)(start + done),
            .tokens = tokens + done,
            .n_tokens = (uint32_t)chunk,
        };
        MX_TRY(mx_session_forward(g->session, &segment, 1, err));
        done += chunk;
        if (done == n) {
            uint32_t last = (uint32_t)chunk - 1;
            MX_TRY(mx_session_logits(g->session, &last, 1, g->logits, err));
        }
    }
    return MX_OK;
}

static mx_status generation_run(generation *g, const mx_generate_options *options,
                                text_stream *stream, mx_generate_stats *stats, mx_error *err)
{
    double begin = mx_clock_seconds();
    MX_TRY(advance(g, g->ids, 0, g->n_ids, err));
    double decode_begin = mx_clock_seconds();
    stats->prompt_tokens = (uint32_t)g->n_ids;
    stats->prefill_seconds = decode_begin - begin;
    for (size_t position = g->n_ids; stats->new_tokens < options->max_tokens; position++) {
        int32_t id = (int32_t)mx_sampler_next(&g->sampler, g->logits, position);
        if (is_eos(&g->model->config, id) && !options->ignore_eos) {
            break;
        }
        stats->new_tokens++;
        bool more = stream_token(stream, g->model->tokenizer, id);
        /* The last token needs no forward pass: nothing follows it. */
        if (!more || stats->new_tokens == options->max_tokens || position >= g->limit) {
            break;
        }
        MX_TRY(advance(g, &id, position, 1, err));
    }
    stats->decode_seconds = mx_clock_seconds() - decode_begin;
    stream_flush(stream, true);
    return MX_OK;
}

mx_status mx_generate_run(mx_model *model, const char *prompt, const mx_generate_options *options,
                          mx_text_fn emit, void *emit_ctx, mx_generate_stats *stats, mx_error *err)
{
    mx_generate_stats ignored;
    stats = stats != NULL ? stats : &ignored;
    *stats = (mx_generate_stats){0};
    generation g = {0};
    text_stream stream = {.emit = emit, .ctx = emit_ctx};
    mx_status status = generation_open(&g, model, prompt, options, err);
    if (status == MX_OK) {
        status = generation_run(&g, options, &stream, stats, err);
    }
    mx_str_free(&stream.pending);
    generation_close(&g);
    return status;
}
