/*
 * Prints one line a golden model, setting and prompt: a hash of the bits of all its
 * logits. scripts/check-arm.sh compares the lines of two machines.
 * usage: check_logits GOLDEN-DIR     (MXLM_CPU chooses the instruction set)
 */
#include "io/safetensors.h"
#include "model/session.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATH_SIZE = 4096, SETTINGS_SIZE = 256 };

static const char *const models[] = {"mha",  "gqa",     "llama3", "linear",  "params",
                                     "bias", "headdim", "ragged", "sharded", "long"};

/* One exact integer product of each kind (4-bit and byte weights), and pairs without
 * one. */
static const char *const settings[] = {
    "weights=fp4_e2m1 activations=fp6_e2m3 block=32 scale_rule=floor round=even",
    "weights=int8 activations=int8 block=16 scale_rule=floor round=nearest",
    "weights=fp8_e4m3 activations=fp6_e3m2 block=32 scale_rule=floor round=even",
    "weights=fp4_e2m1 activations=fp8_e5m2 block=16 scale_rule=floor round=even",
};

/* FNV-1a over the bytes of n floats; every NaN counts as one. */
static uint64_t hash_floats(const float *x, size_t n, uint64_t hash)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t bits = 0x7FC00000;
        if (x[i] == x[i]) {
            memcpy(&bits, &x[i], sizeof bits);
        }
        for (int shift = 0; shift < 32; shift += 8) {
            hash = (hash ^ (bits >> shift & 0xFF)) * UINT64_C(0x100000001B3);
        }
    }
    return hash;
}

/* "key=value key=value" to the model. */
static mx_status settings_apply(mx_model *model, const char *text, mx_error *err)
{
    mx_specs *specs = NULL;
    char copy[SETTINGS_SIZE], *rest = copy;
    snprintf(copy, sizeof copy, "%s", text);
    mx_status status = mx_specs_create(&specs, err);
    for (char *word; status == MX_OK && (word = strtok_r(rest, " ", &rest)) != NULL;) {
        char *value = strchr(word, '=');
        *value++ = '\0';
        status = mx_specs_set(specs, word, value, err);
    }
    if (status == MX_OK) {
        status = mx_model_apply(model, specs, (mx_watch){0}, err);
    }
    mx_specs_free(specs);
    return status;
}

/* The logits of all positions of one prompt, a tensor of ids as bytes. */
static mx_status prompt_hash(mx_model *model, const mx_tensor *prompt, uint64_t *hash,
                             mx_error *err)
{
    uint32_t n = (uint32_t)prompt->size, vocab = model->config.vocab;
    int32_t *ids = calloc(n, sizeof *ids);
    uint32_t *rows = calloc(n, sizeof *rows);
    float *logits = calloc((size_t)n * vocab, sizeof *logits); /* [n][vocab] */
    mx_session *session = NULL;
    mx_session_config config = {n, 1, n, .keep_kv = false};
    mx_status status = MX_ERR_NOMEM;
    if (ids == NULL || rows == NULL || logits == NULL) {
        goto done;
    }
    for (uint32_t i = 0; i < n; i++) {
        ids[i] = prompt->data[i];
        rows[i] = i;
    }
    MX_TRY_GOTO(status, mx_session_create(model, &config, &session, err));
    MX_TRY_GOTO(status, mx_session_forward(session, &(mx_segment){0, 0, ids, n}, 1, err));
    MX_TRY_GOTO(status, mx_session_logits(session, rows, n, logits, err));
    *hash = hash_floats(logits, (size_t)n * vocab, UINT64_C(0xCBF29CE484222325));
done:
    mx_session_free(session);
    free(logits);
    free(rows);
    free(ids);
    return status;
}

/* All prompts of a golden file. */
static mx_status variant_print(const char *dir, const char *name, const char *text, mx_error *err)
{
    char path[PATH_SIZE], file[PATH_SIZE + 16], key[32];
    mx_safetensors *golden = NULL;
    mx_model *model = NULL;
    mx_status status = MX_OK;
    snprintf(path, sizeof path, "%s/llama_%s", dir, name);
    snprintf(file, sizeof file, "%s.safetensors", path);
    MX_TRY_GOTO(status, mx_safetensors_open(file, &golden, err));
    MX_TRY_GOTO(status, mx_model_open(path, 2, &model, err));
    if (text[0] != '\0') {
        MX_TRY_GOTO(status, settings_apply(model, text, err));
    }
    for (int prompt = 0;; prompt++) {
        snprintf(key, sizeof key, "ids.%d", prompt);
        const mx_tensor *ids = mx_safetensors_find(golden, key);
        if (ids == NULL) {
            break;
        }
        uint64_t hash = 0;
        MX_TRY_GOTO(status, prompt_hash(model, ids, &hash, err));
        printf("%016" PRIx64 " %s prompt %d: %s\n", hash, name, prompt,
               text[0] != '\0' ? text : "unquantized");
    }
done:
    mx_model_close(model);
    mx_safetensors_close(golden);
    return status;
}

/* One golden model without and with each setting. */
static mx_status model_print(const char *dir, const char *name, mx_error *err)
{
    mx_status status = variant_print(dir, name, "", err);
    for (size_t i = 0; status == MX_OK && i < MX_COUNT(settings); i++) {
        status = variant_print(dir, name, settings[i], err);
    }
    return status;
}

int main(int argc, char **argv)
{
    mx_error err = {0};
    if (argc != 2) {
        fprintf(stderr, "usage: check_logits GOLDEN-DIR\n");
        return 2;
    }
    for (size_t i = 0; i < MX_COUNT(models); i++) {
        if (model_print(argv[1], models[i], &err) != MX_OK) {
            fprintf(stderr, "check_logits: %s\n", err.text);
            return 1;
        }
    }
    return 0;
}
