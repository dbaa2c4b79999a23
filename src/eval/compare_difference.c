/*
 * How one results file differs from another. Everything is paired by document: two
 * runs of one model on the same texts are far from independent, and the paired
 * difference has a much smaller error than the two figures by themselves.
 */
#include "eval/compare.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Pairing needs the same documents in the same order: their number and the hash of
 * their texts stand for that. The first reason found is the one told. */
static mx_status check_same(const mx_compare_file *base_file, const mx_compare_task *base,
                            const mx_compare_file *other_file, const mx_compare_task *other,
                            mx_error *err)
{
    const char *reason = NULL;
    if (base->count != other->count) {
        reason = "the number of documents differs (another limit or tokenizer)";
    } else if (base->text != other->text || strcmp(base->hash, other->hash) != 0) {
        reason = "the documents differ (other data, window or stride)";
    } else if (base_file->add_bos != other_file->add_bos) {
        reason = "one was computed with BOS in front and the other without";
    }
    if (reason == NULL) {
        return MX_OK;
    }
    return mx_error_set(err, MX_ERR_ARGUMENT, "%s: task %s: cannot be compared with %s: %s",
                        other_file->path, other->name, base_file->path, reason);
}

/* Accuracy: answers that changed. Those that did not say nothing, so the error is
 * of the changes alone (-1, 0, 1 a document), and McNemar's test counts them. */
/* scratch [count] */
static void compare_right(const mx_compare_task *base, const mx_compare_task *other,
                          double *scratch, mx_compare_difference *out)
{
    uint64_t lost = 0, gained = 0;
    for (size_t i = 0; i < base->count; i++) {
        int change = other->right[i] - base->right[i];
        scratch[i] = change;
        lost += change < 0;
        gained += change > 0;
    }
    out->acc = mx_mean(scratch, base->count);
    out->acc_stderr = mx_mean_stderr(scratch, base->count);
    out->mcnemar = mx_mcnemar_test(lost, gained);
}

/*
 * The logarithm of a perplexity is a mean of losses, so the log of a ratio is a
 * mean of paired differences over the same documents: far less noisy than the
 * two perplexities' own errors suggest.
 */
static void compare_losses(const mx_compare_task *base, const mx_compare_task *other,
                           double *scratch, mx_compare_difference *out)
{
    size_t n = base->count;
    for (size_t i = 0; i < n; i++) {
        scratch[i] = base->lls[i] - other->lls[i];
    }
    if (!base->text) {
        out->log_ratio[MX_COMPARE_PERPLEXITY] = mx_mean(scratch, n);
        out->log_ratio_stderr[MX_COMPARE_PERPLEXITY] = mx_mean_stderr(scratch, n);
        return;
    }
    const double *sizes[] = {base->words, base->tokens};
    const mx_compare_metric_id ids[] = {MX_COMPARE_WORD, MX_COMPARE_TOKEN};
    for (size_t k = 0; k < MX_COUNT(ids); k++) {
        out->log_ratio[ids[k]] = mx_mean(scratch, n) / mx_mean(sizes[k], n);
        out->log_ratio_stderr[ids[k]] = mx_ratio_stderr(scratch, sizes[k], n);
    }
}

mx_status mx_compare_tasks(const mx_compare_file *base_file, const mx_compare_task *base,
                           const mx_compare_file *other_file, const mx_compare_task *other,
                           mx_compare_difference *out, mx_error *err)
{
    *out = (mx_compare_difference){.acc = NAN, .acc_stderr = NAN};
    for (size_t i = 0; i < MX_COMPARE_METRICS; i++) {
        out->log_ratio[i] = out->log_ratio_stderr[i] = NAN;
    }
    MX_TRY(check_same(base_file, base, other_file, other, err));
    double *scratch = malloc(base->count * sizeof *scratch);
    if (scratch == NULL) {
        return mx_error_nomem(err, base->name, base->count * sizeof *scratch);
    }
    if (!base->text) {
        compare_right(base, other, scratch, out);
    }
    compare_losses(base, other, scratch, out);
    free(scratch);
    return MX_OK;
}
