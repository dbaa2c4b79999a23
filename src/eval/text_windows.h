/*
 * A text file as documents: strided windows, every token scored once.
 *
 * The file is encoded once, without special tokens: t[0..n). A prefix token p
 * stands before it: BOS with add_bos, and then all n tokens are scored; without
 * add_bos p is t[0] itself, which is not scored (nothing comes before it), and
 * what follows is as for the text t[1..n). Windows are lm_eval's
 * get_rolling_token_windows over s = p, t...: a window feeds at most `window`
 * tokens and scores the last of what they predict,
 *     the first: feeds s[0..window), scores s[1..window];
 *     later ones score the next `stride` tokens s[b..e) and feed s[e-1-window..e-1).
 * Every token is scored once. With stride = window this is the disjoint
 * computation: each window sees one token before those it scores and nothing
 * else. A smaller stride gives every token (but the first window's) at least
 * window - stride + 1 tokens of context.
 *
 * Bytes are those of the scored tokens; words are 1 + the runs of white space
 * in the scored text, lm_eval's len(re.split(r"\s+", text)).
 */
#ifndef MX_EVAL_TEXT_WINDOWS_H
#define MX_EVAL_TEXT_WINDOWS_H

#include "eval/eval.h"

/* An mx_task's `load` for tasks over a text file. */
mx_status mx_text_windows_load(const mx_task_context *context, const char *file,
                               mx_document_list *list, char **source, mx_error *err);

#endif
