/*
 * The law of the session: a token's logits depend on the tokens before it and on
 * nothing else. Bits are compared, over instruction sets, thread counts, batch
 * sizes, prompts in pieces, and the order in which rows are asked for.
 */
#include "model/model_fixture.h"

enum { N_SEQUENCES = 32, MAX_LENGTH = 50 };

/* Unquantized; the block product of integer pairs and with fp8 on both sides; ties
 * away from zero; other blocks; a weight-only and an activation-only setting;
 * stochastic rounding; a quantized head, which is the embedding too in all but
 * llama_headdim. */
static const char *const settings[] = {
    "",
    "weights=mxfp4_e2m1 activations=mxfp6_e2m3 block=32 round=even",
    "weights=mxfp8_e4m3 activations=mxfp8_e4m3 block=32 round=even",
    "weights=mxfp6_e2m3 activations=mxfp4_e2m1 block=16 round=nearest",
    "weights=mxint8 activations=mxint8 block=axis round=even",
    "weights=mxfp4_e2m1 activations=mxfp8_e5m2 block=axis round=dither seed=3",
    "weights=mxfp4_e2m1 block=32 scale_rule=rceil round=even",
    "activations=mxfp6_e3m2 block=32 round=even",
    "weights=mxfp4_e2m1 activations=mxfp6_e2m3 block=32 round=dither seed=7",
    "weights=mxfp4_e2m1 activations=mxfp6_e2m3 head=mxfp4_e2m1 block=32 round=even",
    "weights=mxint8 activations=mxfp6_e2m3 head=mxfp6_e2m3 block=32 round=dither seed=9",
    "head=mxfp8_e4m3 block=32",
};

/* Grouped queries; ragged blocks and rows; biases and two layers; an odd head_dim
 * in a file of shards would add nothing here. */
static const char *const models[] = {"llama_gqa", "llama_ragged", "llama_bias", "llama_headdim"};

/* 32 sequences of 1 to 50 tokens, the shortest and the longest among them. */
typedef struct batch {
    int32_t ids[N_SEQUENCES][MAX_LENGTH];
    uint32_t length[N_SEQUENCES];
    uint32_t first[N_SEQUENCES]; /* row of the sequence's first token in `expected` */
    uint32_t n_tokens;
    size_t vocab;
} batch;

static void batch_fill(batch *b, size_t vocab)
{
    uint32_t seed = 12345;
    *b = (batch){.vocab = vocab};
    for (int s = 0; s < N_SEQUENCES; s++) {
        b->length[s] = s == 0 ? 1 : s == 1 ? MAX_LENGTH : 1 + (uint32_t)(s * 37) % MAX_LENGTH;
        b->first[s] = b->n_tokens;
        b->n_tokens += b->length[s];
        for (uint32_t i = 0; i < b->length[s]; i++) {
            seed = seed * 1664525u + 1013904223u;
            b->ids[s][i] = (int32_t)((seed >> 8) % vocab);
        }
    }
}

/* Every sequence by itself, in one piece: what all other ways must equal.
 * Returns [n_tokens][vocab]. */
static float *run_alone(mx_model *model, const batch *b)
{
    float *out = malloc(b->n_tokens * b->vocab * sizeof *out);
    assert_non_null(out);
    for (int s = 0; s < N_SEQUENCES; s++) {
        fixture_sequence(model, b->ids[s], b->length[s], b->length[s],
                         out + b->first[s] * b->vocab);
    }
    return out;
}

/* got [n_rows][vocab] against the rows of `expected` from `first`. */
static void assert_same(const float *got, const float *expected, const batch *b, uint32_t first,
                        size_t n_rows, const char *what)
{
    if (memcmp(got, expected + first * b->vocab, n_rows * b->vocab * sizeof(float)) != 0) {
        size_t i = 0;
        while (memcmp(&got[i], &expected[first * b->vocab + i], sizeof(float)) == 0) {
            i++;
        }
        fail_msg("%s: row %zu, logit %zu: %.9g is not %.9g", what, first + i / b->vocab,
                 i % b->vocab, (double)got[i], (double)expected[first * b->vocab + i]);
    }
}

/* Calls of up to `size` sequences each. */
static void check_batched(mx_model *model, const batch *b, uint32_t size, const float *expected,
                          const char *what)
{
    mx_error err = {0};
    mx_session *session = fixture_session(
        model, (mx_session_config){size * MAX_LENGTH, size, MAX_LENGTH, .keep_kv = false});
    float *got = malloc((size_t)size * MAX_LENGTH * b->vocab * sizeof *got);
    assert_non_null(got);
    for (uint32_t s = 0; s < N_SEQUENCES; s += size) {
        mx_segment segments[N_SEQUENCES];
        uint32_t n = s + size <= N_SEQUENCES ? size : N_SEQUENCES - s, tokens = 0;
        for (uint32_t i = 0; i < n; i++) {
            segments[i] = (mx_segment){i, 0, b->ids[s + i], b->length[s + i]};
            tokens += b->length[s + i];
        }
        fixture_ok(mx_session_forward(session, segments, n, &err), err);
        fixture_logits(session, 0, tokens, got);
        assert_same(got, expected, b, b->first[s], tokens, what);
    }
    free(got);
    mx_session_free(session);
}

/* All sequences side by side, each in pieces whose lengths differ: single tokens
 * (decoding), and pieces that straddle the tiles of 16 tokens and of 16 keys. */
static void check_pieces(mx_model *model, const batch *b, const float *expected, const char *what)
{
    static const uint32_t pieces[] = {1, 3, 16, 1, 1, 13, 7, 2, 17};
    mx_error err = {0};
    mx_session *session = fixture_session(
        model, (mx_session_config){N_SEQUENCES * 17, N_SEQUENCES, MAX_LENGTH + 3, .keep_kv = true});
    float *got = malloc(N_SEQUENCES * 17 * b->vocab * sizeof *got);
    assert_non_null(got);
    uint32_t done[N_SEQUENCES] = {0};
    for (size_t step = 0;; step++) {
        mx_segment segments[N_SEQUENCES];
        uint32_t n = 0, tokens = 0;
        for (uint32_t s = 0; s < N_SEQUENCES; s++) {
            uint32_t piece = pieces[(step + s) % MX_COUNT(pieces)], left = b->length[s] - done[s];
            piece = piece < left ? piece : left;
            if (piece > 0) {
                segments[n++] = (mx_segment){s, done[s], b->ids[s] + done[s], piece};
            }
        }
        if (n == 0) {
            break;
        }
        fixture_ok(mx_session_forward(session, segments, n, &err), err);
        for (uint32_t i = 0; i < n; i++) {
            uint32_t s = segments[i].sequence;
            fixture_logits(session, tokens, segments[i].n_tokens, got);
            assert_same(got, expected, b, b->first[s] + done[s], segments[i].n_tokens, what);
            tokens += segments[i].n_tokens;
            done[s] += segments[i].n_tokens;
        }
    }
    free(got);
    mx_session_free(session);
}

/* A sequence that starts afresh in a used place forgets what was there. */
static void check_restart(mx_model *model, const batch *b, const float *expected, const char *what)
{
    mx_error err = {0};
    mx_session *session =
        fixture_session(model, (mx_session_config){MAX_LENGTH, 1, MAX_LENGTH, .keep_kv = true});
    float *got = malloc(MAX_LENGTH * b->vocab * sizeof *got);
    assert_non_null(got);
    for (uint32_t s = 1; s < 6; s++) {
        mx_segment segment = {0, 0, b->ids[s], b->length[s]};
        fixture_ok(mx_session_forward(session, &segment, 1, &err), err);
        fixture_logits(session, 0, b->length[s], got);
        assert_same(got, expected, b, b->first[s], b->length[s], what);
    }
    free(got);
    mx_session_free(session);
}

/* Rows out of order and twice; scores without logits. */
static void check_rows_and_scores(mx_model *model, const batch *b, const float *expected,
                                  const char *what)
{
    mx_error err = {0};
    uint32_t n = b->length[1], rows[2 * MAX_LENGTH];
    int32_t picks[2 * MAX_LENGTH];
    mx_row_stats stats[2 * MAX_LENGTH];
    float picked[2 * MAX_LENGTH];
    float *got = malloc(2 * n * b->vocab * sizeof *got); /* [2 n][vocab] */
    assert_non_null(got);
    mx_session *session = fixture_session(model, (mx_session_config){n, 1, n, .keep_kv = false});
    fixture_ok(mx_session_forward(session, &(mx_segment){0, 0, b->ids[1], n}, 1, &err), err);
    for (uint32_t i = 0; i < 2 * n; i++) {
        rows[i] = (i * 7 + 3) % n;
        picks[i] = (int32_t)(i * 11 % b->vocab);
    }
    fixture_ok(mx_session_logits(session, rows, 2 * n, got, &err), err);
    fixture_ok(mx_session_score(session, rows, picks, 2 * n, stats, picked, &err), err);
    for (uint32_t i = 0; i < 2 * n; i++) {
        const float *row = got + i * b->vocab; /* [vocab] */
        mx_row_stats by_hand;
        assert_same(row, expected, b, b->first[1] + rows[i], 1, what);
        model->backend.kernels.row_stats(row, b->vocab, &by_hand);
        assert_memory_equal(&picked[i], &row[picks[i]], sizeof(float));
        assert_memory_equal(&stats[i].max, &by_hand.max, sizeof by_hand.max);
        assert_int_equal(stats[i].argmax, by_hand.argmax);
        assert_memory_equal(&stats[i].sum_exp, &by_hand.sum_exp, sizeof by_hand.sum_exp);
    }
    free(got);
    mx_session_free(session);
}

/* Keys and values in bf16: the same law, and other logits than fp32's. */
static void check_kv_bf16(const char *path, const char *const *isas, size_t n_isas, batch *b,
                          const float *fp32)
{
    mx_error err = {0};
    mx_model *model = fixture_open(path, 1, "ref");
    fixture_ok(mx_model_set_kv(model, "bf16", &err), err);
    float *expected = run_alone(model, b);
    mx_model_close(model);
    assert_memory_not_equal(expected, fp32, b->n_tokens * b->vocab * sizeof *fp32);
    for (size_t i = 0; i < n_isas; i++) {
        model = fixture_open(path, 2, isas[i]);
        fixture_ok(mx_model_set_kv(model, "bf16", &err), err);
        check_batched(model, b, 7, expected, "bf16 KV, batches");
        check_pieces(model, b, expected, "bf16 KV, pieces");
        check_restart(model, b, expected, "bf16 KV, again");
        mx_model_close(model);
    }
    model = fixture_open(path, 1, NULL);
    assert_int_equal(mx_model_set_kv(model, "fp8", &err), MX_ERR_ARGUMENT);
    mx_model_close(model);
    free(expected);
}

static void check_machine(const char *path, const char *setting, const char *isa, int threads,
                          const batch *b, const float *expected)
{
    char what[FIXTURE_PATH];
    mx_model *model = fixture_open(path, threads, isa);
    fixture_apply(model, setting);
    snprintf(what, sizeof what, "%s [%s] %s, %d threads", strrchr(path, '/') + 1, setting, isa,
             threads);
    const uint32_t sizes[] = {1, 7, 32};
    for (size_t i = 0; i < MX_COUNT(sizes); i++) {
        check_batched(model, b, sizes[i], expected, what);
    }
    check_pieces(model, b, expected, what);
    check_restart(model, b, expected, what);
    check_rows_and_scores(model, b, expected, what);
    mx_model_close(model);
}

/* The quantized logits must differ from the unquantized ones: equality of
 * everything would also hold for settings that do nothing. */
static void check_setting_acts(const float *logits, float *unquantized, const batch *b)
{
    size_t bytes = b->n_tokens * b->vocab * sizeof *logits;
    assert_memory_not_equal(logits, unquantized, bytes);
}

static void results_are_invariant(void **state)
{
    char path[FIXTURE_PATH];
    const char *isas[5];
    size_t n_isas = fixture_isas(isas);
    const int threads[] = {1, 2, 4};
    static batch b;
    float *unquantized = NULL;
    fixture_golden(*state, path);
    for (size_t i = 0; i < MX_COUNT(settings); i++) {
        mx_model *model = fixture_open(path, 1, "ref");
        fixture_apply(model, settings[i]);
        batch_fill(&b, model->config.vocab);
        float *expected = run_alone(model, &b);
        mx_model_close(model);
        if (unquantized != NULL) {
            check_setting_acts(expected, unquantized, &b);
        }
        for (size_t j = 0; j < n_isas * MX_COUNT(threads); j++) {
            size_t isa = j / MX_COUNT(threads), team = j % MX_COUNT(threads);
            /* Every pair with the first model; with the others one team size per
             * instruction set, to keep the test short. */
            if (*state == models[0] || team == (isa + 1) % MX_COUNT(threads)) {
                check_machine(path, settings[i], isas[isa], threads[team], &b, expected);
            }
        }
        if (unquantized == NULL) {
            unquantized = expected;
            check_kv_bf16(path, isas, n_isas, &b, unquantized);
        } else {
            free(expected);
        }
    }
    free(unquantized);
}

/* Limits of a session are errors, and the session works on afterwards. */
static void wrong_calls_are_refused(void **state)
{
    (void)state;
    char path[FIXTURE_PATH];
    mx_error err = {0};
    fixture_golden("llama_gqa", path);
    mx_model *model = fixture_open(path, 1, NULL);
    mx_session *session = fixture_session(model, (mx_session_config){8, 2, 8, .keep_kv = true});
    const int32_t ids[16] = {1, 2, 3, 4, 5, 6, 7, 8}, bad_id[1] = {61}, negative[1] = {-1};
    const mx_segment wrong[] = {
        {0, 0, bad_id, 1}, {0, 0, negative, 1}, {2, 0, ids, 1}, {0, 0, ids, 0},
        {0, 0, ids, 9},    {0, 1, ids, 8},      {0, 9, ids, 1}, {0, UINT32_MAX, ids, 2},
    };
    for (size_t i = 0; i < MX_COUNT(wrong); i++) {
        assert_int_equal(mx_session_forward(session, &wrong[i], 1, &err), MX_ERR_ARGUMENT);
    }
    const mx_segment twice[2] = {{1, 0, ids, 2}, {1, 0, ids, 2}};
    assert_int_equal(mx_session_forward(session, twice, 2, &err), MX_ERR_ARGUMENT);
    assert_int_equal(mx_session_forward(session, twice, 0, &err), MX_ERR_ARGUMENT);
    float *logits = malloc(model->config.vocab * sizeof *logits);
    assert_non_null(logits);
    const uint32_t row = 0;
    assert_int_equal(mx_session_logits(session, &row, 1, logits, &err), MX_ERR_ARGUMENT);
    fixture_ok(mx_session_forward(session, twice, 1, &err), err);
    fixture_ok(mx_session_logits(session, &row, 1, logits, &err), err);
    /* Positions that nothing was stored for; going back forgets what was beyond. */
    const struct {
        uint32_t start, n_tokens;
        bool fine;
    } steps[] = {{1, 1, false}, {0, 3, true},  {4, 1, false}, {3, 2, true},
                 {1, 1, true},  {3, 1, false}, {2, 1, true},  {3, 1, true}};
    for (size_t i = 0; i < MX_COUNT(steps); i++) {
        const mx_segment segment = {0, steps[i].start, ids, steps[i].n_tokens};
        assert_int_equal(mx_session_forward(session, &segment, 1, &err),
                         steps[i].fine ? MX_OK : MX_ERR_ARGUMENT);
    }
    fixture_ok(mx_session_forward(session, twice, 1, &err), err);
    const uint32_t beyond = 2;
    assert_int_equal(mx_session_logits(session, &beyond, 1, logits, &err), MX_ERR_ARGUMENT);
    free(logits);
    mx_session_free(session);
    mx_session *none;
    const mx_session_config long_context = {8, 1, 257, .keep_kv = true};
    assert_int_equal(mx_session_create(model, &long_context, &none, &err), MX_ERR_ARGUMENT);
    assert_null(none);
    mx_model_close(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        {models[0], results_are_invariant, NULL, NULL, (void *)(uintptr_t)models[0]},
        {models[1], results_are_invariant, NULL, NULL, (void *)(uintptr_t)models[1]},
        {models[2], results_are_invariant, NULL, NULL, (void *)(uintptr_t)models[2]},
        {models[3], results_are_invariant, NULL, NULL, (void *)(uintptr_t)models[3]},
        cmocka_unit_test(wrong_calls_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
