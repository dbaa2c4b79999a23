/*
 * What the tests of the model layer share: the tiny models of tests/golden, models
 * opened under a chosen instruction set, and logits of whole sequences.
 */
#ifndef MX_TEST_MODEL_FIXTURE_H
#define MX_TEST_MODEL_FIXTURE_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include "base/cpu.h"
#include "io/safetensors.h"
#include "model/session.h"
#include "sanitized.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FIXTURE_PATH = 4096 };

/* Fails the test with the library's own line. */
#define fixture_ok(expr, err)                                                                      \
    do {                                                                                           \
        if ((expr) != MX_OK) {                                                                     \
            fail_msg("%s: %s", #expr, (err).text);                                                 \
        }                                                                                          \
    } while (0)

/* tests/golden/NAME into path [FIXTURE_PATH]. */
static inline void fixture_golden(const char *name, char *path)
{
    const char *dir = getenv("MXLM_TEST_DIR");
    if (dir == NULL) {
        fail_msg("MXLM_TEST_DIR is not set: run this through ctest");
    }
    snprintf(path, FIXTURE_PATH, "%s/golden/%s", dir, name);
}

/* A tensor of a golden file that must be there, of the type given. */
static inline const mx_tensor *fixture_tensor(const mx_safetensors *golden, const char *name,
                                              mx_dtype dtype)
{
    const mx_tensor *tensor = mx_safetensors_find(golden, name);
    if (tensor == NULL || tensor->dtype != dtype) {
        fail_msg("golden tensor %s is missing or of another type", name);
    }
    return tensor;
}

/* The 32-bit elements of a golden tensor as malloc'd memory: maps need not be
 * aligned. */
static inline void *fixture_words(const mx_tensor *tensor)
{
    void *words = malloc(tensor->size);
    assert_non_null(words);
    memcpy(words, tensor->data, tensor->size);
    return words;
}

/* Opens a model whose kernels are limited to `isa` (NULL: the best there is). */
static inline mx_model *fixture_open(const char *path, int threads, const char *isa)
{
    mx_error err = {0};
    mx_model *model;
    if (isa != NULL) {
        assert_int_equal(setenv("MXLM_CPU", isa, 1), 0);
    } else {
        unsetenv("MXLM_CPU");
    }
    fixture_ok(mx_model_open(path, threads, &model, &err), err);
    unsetenv("MXLM_CPU");
    if (isa != NULL) { /* otherwise a test of all would pass with one */
        assert_string_equal(model->backend.kernels.name, isa);
    }
    return model;
}

/* Applies settings written "key=value key=value"; "" leaves the model as it is. */
static inline void fixture_apply(mx_model *model, const char *settings)
{
    mx_error err = {0};
    mx_specs *specs;
    char text[256], *rest = text;
    if (settings[0] == '\0') {
        return;
    }
    assert_true((size_t)snprintf(text, sizeof text, "%s", settings) < sizeof text);
    fixture_ok(mx_specs_create(&specs, &err), err);
    for (char *word; (word = strtok_r(rest, " ", &rest)) != NULL;) {
        char *value = strchr(word, '=');
        assert_non_null(value);
        *value++ = '\0';
        fixture_ok(mx_specs_set(specs, word, value, &err), err);
    }
    fixture_ok(mx_model_apply(model, specs, (mx_watch){0}, &err), err);
    mx_specs_free(specs);
}

static inline mx_session *fixture_session(mx_model *model, mx_session_config config)
{
    mx_error err = {0};
    mx_session *session;
    fixture_ok(mx_session_create(model, &config, &session, &err), err);
    return session;
}

/* Logits of tokens [first, first + n_rows) of the last call into out [n_rows][vocab]. */
static inline void fixture_logits(mx_session *session, uint32_t first, size_t n_rows, float *out)
{
    mx_error err = {0};
    uint32_t *rows = malloc(n_rows * sizeof *rows);
    assert_non_null(rows);
    for (size_t i = 0; i < n_rows; i++) {
        rows[i] = first + (uint32_t)i;
    }
    fixture_ok(mx_session_logits(session, rows, n_rows, out, &err), err);
    free(rows);
}

/* Runs one whole sequence by itself; the logits of its last n_rows tokens into out
 * [n_rows][vocab]. */
static inline void fixture_sequence(mx_model *model, const int32_t *ids, uint32_t n, size_t n_rows,
                                    float *out)
{
    mx_error err = {0};
    mx_session *session = fixture_session(model, (mx_session_config){n, 1, n, .keep_kv = false});
    fixture_ok(mx_session_forward(session, &(mx_segment){0, 0, ids, n}, 1, &err), err);
    fixture_logits(session, n - (uint32_t)n_rows, n_rows, out);
    mx_session_free(session);
}

/* The instruction sets of this machine, the scalar reference first, into isas [5]. */
static inline size_t fixture_isas(const char **isas)
{
    const struct {
        const char *name;
        uint32_t flag;
    } all[] = {{"avx2", MX_CPU_AVX2},
               {"avx512", MX_CPU_AVX512},
               {"amx", MX_CPU_AMX},
               {"neon", MX_CPU_NEON}};
    size_t n = 0;
    isas[n++] = "ref";
    for (size_t i = 0; i < MX_COUNT(all); i++) {
        if ((mx_cpu_detect() & all[i].flag) != 0) {
            isas[n++] = all[i].name;
        }
    }
    return n;
}

#endif
