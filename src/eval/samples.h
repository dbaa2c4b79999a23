/*
 * The samples file: one JSON object a finished document and line, with the
 * fields of lm_eval's samples_*.jsonl, appended and flushed as documents finish
 * (longest first, not in document order: sort by doc_id). PATH.run.json beside
 * it says which run it belongs to; --resume needs both.
 *
 *   {"task", "doc_id", "doc": {"text"}, "target", "arguments": [[context, target]],
 *    "resps": [[[ll, greedy]]], "filtered_resps": [[ll, greedy]], "filter": "none",
 *    "metrics", "doc_hash", "n_tokens", "n_targets", "perplexity": ll, "acc": 0 or 1}
 * A window of a text has "doc": {"first_token"}, "words" and "bytes" instead of
 * texts, and no "perplexity" and "acc"; beside a base model it has "kl" (a number a
 * target, so that percentiles survive --resume) and "top1_agreed".
 */
#ifndef MX_EVAL_SAMPLES_H
#define MX_EVAL_SAMPLES_H

#include "eval/results.h"

typedef struct mx_samples mx_samples;

/*
 * Starts the file anew, or, with `resume` and when it exists, reads back its
 * finished documents: its run must equal `run` (a JSON object; another one is
 * MX_ERR_ARGUMENT naming the field), an unfinished last line is cut off, any
 * other broken line is MX_ERR_FORMAT. NULL `path` gives NULL, which the other
 * functions accept and do nothing with.
 */
mx_status mx_samples_open(const char *path, const json_t *run, bool resume, mx_samples **out,
                          mx_error *err);
/* Marks the documents read back as done; counts them in result->resumed. A line
 * that does not match its document is MX_ERR_FORMAT. */
mx_status mx_samples_restore(const mx_samples *samples, mx_task_result *result, mx_error *err);
mx_status mx_samples_write(mx_samples *samples, const mx_task_request *request,
                           const mx_document *document, const mx_outcome *outcome, mx_error *err);
/* Frees; reports a failed close. */
mx_status mx_samples_close(mx_samples *samples, mx_error *err);

#endif
