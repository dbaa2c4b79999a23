/*
 * Quantization of one weight matrix, and of a whole checkpoint to disk.
 */
#ifndef MX_QUANT_QUANTIZE_H
#define MX_QUANT_QUANTIZE_H

#include "base/team.h"
#include "io/checkpoint.h"

/*
 * Round-to-nearest (direct cast) of model rows [begin, end) of a stored weight:
 * decodes each to fp32 and mx_row_encode's it with stream = model row number. codes
 * [end - begin][mx_row_code_bytes], scales [end - begin][mx_row_scale_count]. Scratch
 * (one row a thread) is allocated inside. A weight that holds NaN or Inf, or a
 * magnitude that no E8M0 scale reaches, is MX_ERR_FORMAT and named; a type that
 * does not decode to fp32 is MX_ERR_UNSUPPORTED.
 */
mx_status mx_rtn_rows(const mx_rows *rows, size_t begin, size_t end, const mx_quant *quant,
                      mx_team *team, uint8_t *codes, uint8_t *scales, mx_error *err);

/*
 * What quantization of these rows cost: adds the sum of w^2 to `*signal` and that of
 * (w - dequantized)^2 to `*noise`, row by row in double, so that sums are the same for
 * any team and any parts in order. SQNR in dB = 10 log10(signal / noise).
 */
mx_status mx_rtn_noise(const mx_rows *rows, size_t begin, size_t end, const mx_quant *quant,
                       mx_team *team, const uint8_t *codes, const uint8_t *scales, double *signal,
                       double *noise, mx_error *err);

/* True for the seven projections of a layer,
 * "model.layers.<n>.self_attn.{q,k,v,o}_proj.weight" and
 * "model.layers.<n>.mlp.{gate,up,down}_proj.weight". */
bool mx_projection_is(const char *tensor_name);

/*
 * mx_quantize_run (mxlm.h) with the size of an output shard: tensors of more
 * than `shard_bytes` in all are spread over several files (0: the default of
 * io/export.h).
 */
mx_status mx_quantize_write(const char *model_path, const char *out_dir, const mx_specs *specs,
                            const mx_quantize_options *options, uint64_t shard_bytes,
                            mx_watch watch, char **summary, mx_error *err);

#endif
