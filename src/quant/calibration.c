#include "quant/calibration.h"

#include "base/file.h"
#include "base/rng.h"

#include <stdlib.h>
#include <string.h>

/* Bytes of a calibration text; far beyond what calibration can use. */
#define TEXT_LIMIT ((size_t)1 << 30)

enum { SHUFFLE_STREAM = 1, OFFSET_STREAM = 2 };

void mx_windows_clear(mx_windows *windows)
{
    free(windows->tokens);
    *windows = (mx_windows){0};
}

/* A number below n, n < 2^32. */
static uint32_t draw_below(uint64_t seed, uint64_t stream, uint64_t index, uint32_t n)
{
    return (uint32_t)(((uint64_t)mx_philox_u32(seed, stream, index) * n) >> 32);
}

/* Which windows of `count` are taken, in order: order [count]. */
static void shuffle(uint32_t *order, uint32_t count, uint64_t seed)
{
    for (uint32_t i = 0; i < count; i++) {
        order[i] = i;
    }
    for (uint32_t i = 0; i < count; i++) {
        uint32_t j = i + draw_below(seed, SHUFFLE_STREAM, i, count - i);
        uint32_t chosen = order[j];
        order[j] = order[i];
        order[i] = chosen;
    }
}

/* Cuts ids [n_ids] into windows and takes out->n of them. */
static mx_status cut_windows(const int32_t *ids, size_t n_ids, int32_t bos, uint64_t seed,
                             mx_windows *out, mx_error *err)
{
    size_t body = out->length - (bos >= 0);
    uint32_t count = (uint32_t)(n_ids / body);
    uint32_t spare = (uint32_t)(n_ids - (size_t)count * body);
    uint32_t offset = draw_below(seed, OFFSET_STREAM, 0, spare + 1);
    out->n = out->n < count ? out->n : count;
    out->tokens = malloc((size_t)out->n * out->length * sizeof *out->tokens);
    uint32_t *order = malloc(count * sizeof *order);
    if (out->tokens == NULL || order == NULL) {
        free(order);
        return mx_error_nomem(err, "calibration windows", count * sizeof *order);
    }
    shuffle(order, count, seed);
    for (uint32_t i = 0; i < out->n; i++) {
        int32_t *window = out->tokens + (size_t)i * out->length;
        if (bos >= 0) {
            *window++ = bos;
        }
        memcpy(window, ids + offset + order[i] * body, body * sizeof *window);
    }
    free(order);
    return MX_OK;
}

mx_status mx_windows_read(const mx_model *model, const char *path, uint32_t samples,
                          uint32_t length, uint64_t seed, mx_windows *out, mx_error *err)
{
    *out = (mx_windows){.n = samples, .length = length};
    const mx_tokenizer *tokenizer;
    char *text = NULL;
    int32_t *ids = NULL;
    size_t size = 0, n_ids = 0;
    mx_status status;
    MX_TRY(mx_model_tokenizer(model, &tokenizer, err));
    int32_t bos = mx_tokenizer_bos(tokenizer);
    MX_TRY(mx_file_read(path, TEXT_LIMIT, &text, &size, err));
    mx_error inner = {0};
    status = mx_tokenizer_encode(tokenizer, text, size, false, &ids, &n_ids, &inner);
    if (status != MX_OK) {
        mx_error_set(err, status, "%s: %s", path, inner.text);
        goto done;
    }
    if (n_ids < (size_t)length - (bos >= 0)) {
        status = mx_error_set(err, MX_ERR_FORMAT,
                              "%s: calibration text of %zu tokens is shorter than one window of %u",
                              path, n_ids, length);
        goto done;
    }
    out->source_tokens = n_ids;
    status = cut_windows(ids, n_ids, bos, seed, out, err);
done:
    if (status != MX_OK) {
        mx_windows_clear(out);
    }
    mx_ids_free(ids);
    free(text);
    return status;
}
