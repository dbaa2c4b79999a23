/*
 * Calibration tokens: windows of a text file, or text that the model writes.
 */
#ifndef MX_QUANT_CALIBRATION_H
#define MX_QUANT_CALIBRATION_H

#include "model/model.h"

typedef struct mx_windows {
    int32_t *tokens; /* [n][length], owned */
    uint32_t n, length;
    uint64_t source_tokens; /* of the file; 0: sampled from the model */
} mx_windows;

/*
 * `samples` windows of `length` tokens of the text file `path`, or as many as it
 * holds. The text is cut into windows end to end, from an offset that the seed
 * draws; which of them are taken, and in which order, is a Fisher-Yates shuffle:
 * draw i swaps places i and i + floor(u (count - i) / 2^32), u = mx_philox_u32(seed,
 * 1, i), the offset being draw 0 of stream 2. Where the model's tokenizer starts a
 * text with BOS, so does every window, and holds one token less of the text.
 */
mx_status mx_windows_read(const mx_model *model, const char *path, uint32_t samples,
                          uint32_t length, uint64_t seed, mx_windows *out, mx_error *err);

/*
 * `samples` windows of `length` tokens drawn from the model itself at temperature
 * 1, each from the BOS token (a random token where there is none).
 */
mx_status mx_windows_sample(mx_model *model, uint32_t samples, uint32_t length, uint64_t seed,
                            mx_watch watch, mx_windows *out, mx_error *err);

void mx_windows_clear(mx_windows *windows);

#endif
