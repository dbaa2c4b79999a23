/*
 * cloze: short passages in LAMBADA's form, written for mxlm and compiled in, so
 * that an evaluation needs no download. Not comparable with LAMBADA's figures.
 */
#include "eval/pair.h"

#include "base/str.h"

#include <string.h>

extern const mx_task mx_task_cloze;

static const char *const cloze_texts[] = {
#define MX_CLOZE(text) text,
#include "eval/cloze_texts_a.def"
#include "eval/cloze_texts_b.def"
#include "eval/cloze_texts_c.def"
#undef MX_CLOZE
};

static mx_status cloze_load(const mx_task_context *context, const char *file,
                            mx_document_list *list, char **source, mx_error *err)
{
    (void)file;
    static const char where[] = "embedded cloze passages";
    *source = mx_str_copy(where, strlen(where));
    if (*source == NULL) {
        return mx_error_nomem(err, where, sizeof where);
    }
    uint64_t limit = context->options->limit;
    list->original = MX_COUNT(cloze_texts);
    for (uint32_t i = 0; i < MX_COUNT(cloze_texts) && (limit == 0 || i < limit); i++) {
        const char *text = cloze_texts[i];
        MX_TRY(mx_pair_add(context, "cloze", i, text, strlen(text), list, err));
    }
    mx_document_list_finish(list);
    return MX_OK;
}

const mx_task mx_task_cloze = {
    .name = "cloze",
    .description = "last word of an embedded short passage: accuracy, perplexity",
    .kind = MX_TASK_TARGET,
    .version = 1.0,
    .load = cloze_load,
};
