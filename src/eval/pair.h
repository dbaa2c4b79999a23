/*
 * Passages whose last word is to be predicted: LAMBADA's form. Splitting and
 * encoding follow lm-evaluation-harness (tasks/lambada/lambada_openai.yaml and
 * TemplateLM._encode_pair).
 */
#ifndef MX_EVAL_PAIR_H
#define MX_EVAL_PAIR_H

#include "eval/eval.h"

/*
 * Bytes of context of a passage: all before its last space (U+0020); the target
 * is that space and what follows. 0 when the passage has no space; the target
 * is then " " and the whole passage.
 */
size_t mx_pair_split(const char *text, size_t length);

/*
 * Appends the passage as a document:
 *   trailing white space of the context moves to the target;
 *   whole = encode(context + target), targets = whole[len(encode(context)):];
 *   with add_bos, BOS goes in front of both; a context without tokens becomes
 *   context->prefix;
 *   of more than max_context + 1 tokens the last max_context + 1 are kept.
 * `where` names the data in messages.
 */
mx_status mx_pair_add(const mx_task_context *context, const char *where, uint32_t index,
                      const char *text, size_t length, mx_document_list *list, mx_error *err);

#endif
