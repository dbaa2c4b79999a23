/* The "mxlm" object of a results JSON: written here, read by compare. */
#ifndef MX_EVAL_RESULTS_MXLM_H
#define MX_EVAL_RESULTS_MXLM_H

#include "eval/results.h"

#define MX_RESULTS_LAYOUT 1 /* of the "mxlm" object */

/*
 * {"layout", "version", "specs", "specs_text", "kv", "threads", "isa",
 *  "weights": {"projection_weights", "projection_bytes", "projection_bytes_fp32",
 *              "total_bytes", "total_bytes_fp32"},
 *  "activations": {"bits", "bytes_per_token", "bytes_per_token_fp32"},
 *  "memory": {"resident_bytes", "peak_resident_bytes"},
 *  "tasks": {TASK: {"seconds", "tokens", "tokens_per_second", "documents_scored",
 *                   "documents_resumed", "documents_hash"}},
 *  "documents": {TASK: {"acc": "0110...", "ll": [...]}}}
 * "acc" (right answers) is there for MX_TASK_TARGET only; "tokens", "words" and
 * "bytes" (arrays over windows) for the other kinds; "kl" (sums over a window's tokens)
 * and "top1_agreed" for MX_TASK_KL only, and with it "base": {"path", "specs_text"}. What describes
 * a model is null without one. New reference, filled as far as `*failed` tells.
 */
json_t *mx_results_mxlm(const mx_results_run *run, const mx_model_size *size, const json_t *specs,
                        const char *specs_text, const mx_task_result *results, size_t count,
                        bool *failed);

#endif
