/*
 * config.json's quantization_config of a directory in Quark's OCP-MX layout:
 * weights as U8 codes `X.weight` [out][row code bytes] with U8 E8M0 scales
 * `X.weight_scale` [out][blocks] (reference notes: interop). mxlm adds an object
 * "mxlm": {"version": 1, "specs": <mx_specs_to_json>, "method": "rtn"}, which is
 * then the full numeric contract; Quark's own files are read from Quark's fields.
 * A method with parameters is an object, {"name": "gptq", ...}: how the codes were
 * found, which no reader needs.
 */
#ifndef MX_IO_QUARK_H
#define MX_IO_QUARK_H

#include "format/specs.h"
#include "io/hf_config.h"

/*
 * quant_method is "quark" where Quark's loaders read the same bytes the same way:
 * weights, and activations if quantized, in fp4 or fp6 over blocks of 32, and the
 * head not quantized. Others are the same object under "mxlm", so that a loader which
 * does not know the layout refuses the file instead of misreading it. A quantized
 * head is layer_quant_config.lm_head; when tied, its codes and scales are
 * model.embed_tokens.weight and model.embed_tokens.weight_scale.
 *
 * Reads `object` (quantization_config) of a directory whose config is `config`
 * into `*out` (mx_specs_clear frees it). `*method` is "rtn" and the like, borrowed
 * from `object`, or NULL when the file is Quark's own. Every field is either
 * honoured or refused by its name (MX_ERR_UNSUPPORTED); with "mxlm" present,
 * Quark's fields must say the same as it does (MX_ERR_FORMAT).
 */
mx_status mx_quark_parse(const json_t *object, const mx_llama_config *config, const char *where,
                         mx_specs *out, const char **method, mx_error *err);

/* What mx_quark_parse reads, for weights quantized by `specs` (a format with
 * shared scales, else MX_ERR_ARGUMENT). `method` names the algorithm. Excluded
 * projections are listed one by one, by exact name, behind "lm_head" if that is
 * not quantized. New reference. */
mx_status mx_quark_to_json(const mx_specs *specs, const mx_llama_config *config, const char *method,
                           json_t **out, mx_error *err);

#endif
