/*
 * Quantization of one weight matrix, and of a whole checkpoint to disk.
 */
#ifndef MX_QUANT_QUANTIZE_H
#define MX_QUANT_QUANTIZE_H

#include "base/team.h"
#include "io/checkpoint.h"

/*
 * Round-to-nearest (direct cast) of rows [row_begin, row_end) of a stored
 * weight: decodes each row to fp32 and mx_row_encode's it with stream = model
 * row number. codes [n_rows][mx_row_code_bytes], scales
 * [n_rows][mx_row_scale_count], from row 0. Scratch is allocated inside.
 * A weight that holds NaN or Inf is MX_ERR_FORMAT and named.
 */
mx_status mx_rtn_rows(const mx_rows *rows, const mx_quant *quant, mx_team *team, uint8_t *codes,
                      uint8_t *scales, mx_error *err);

/* True for the seven projections of a layer ("...q_proj.weight" and so on). */
bool mx_projection_is(const char *tensor_name);

/* mx_quantize_run (mxlm.h) lives in quantize.c. */

#endif
