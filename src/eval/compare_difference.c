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
    } else if (base->text != other->text || (base->kl == NULL) != (other->kl == NULL) ||
               strcmp(base->hash, other->hash) != 0) {
        reason = "the documents differ (other data, window or stride)";
    } else if (base_file->add_bos != other_file->add_bos) {
        reason = "one was computed with BOS in front and the other without";
    } else if (base->kl != NULL && (strcmp(base_file->base, other_file->base) != 0 ||
                                    strcmp(base_file->base_specs, other_file->base_specs) != 0)) {
        reason = "their divergences are from different models (base)";
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
    out->change[MX_COMPARE_ACC] = mx_mean(scratch, base->count);
    out->change_stderr[MX_COMPARE_ACC] = mx_mean_stderr(scratch, base->count);
    out->mcnemar = mx_mcnemar_test(lost, gained);
}

/* Means over tokens, window by window: divergences and agreement. */
static void compare_divergences(const mx_compare_task *base, const mx_compare_task *other,
                                double *scratch, mx_compare_difference *out)
{
    const double *from[] = {base->kl, base->agreed}, *to[] = {other->kl, other->agreed};
    const mx_compare_metric_id ids[] = {MX_COMPARE_KL, MX_COMPARE_TOP1};
    size_t n = base->count;
    for (size_t k = 0; k < MX_COUNT(ids); k++) {
        for (size_t i = 0; i < n; i++) {
            scratch[i] = to[k][i] - from[k][i];
        }
        out->change[ids[k]] = mx_mean(scratch, n) / mx_mean(base->tokens, n);
        out->change_stderr[ids[k]] = mx_ratio_stderr(scratch, base->tokens, n);
    }
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
    *out = (mx_compare_difference){0};
    for (size_t i = 0; i < MX_COMPARE_METRICS; i++) {
        out->change[i] = out->change_stderr[i] = NAN;
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
    if (base->kl != NULL) {
        compare_divergences(base, other, scratch, out);
    }
    compare_losses(base, other, scratch, out);
    free(scratch);
    return MX_OK;
}

/* ---- the share won back --------------------------------------------------------- */

/* sum won / sum lost over documents, and its standard error; scratch [2 * count] holds
 * what each won and lost. */
static void recover_ratio(const double *scratch, size_t n, double *value, double *stderror)
{
    const double *won = scratch, *lost = scratch + n;
    *value = *stderror = NAN;
    if (mx_mean(lost, n) > 0) {
        *value = mx_mean(won, n) / mx_mean(lost, n);
        *stderror = mx_ratio_stderr(won, lost, n);
    }
}

/* A loss is a sum over documents, so the share of it is a ratio of sums, and the sizes
 * that turn one into a perplexity cancel. */
static void recover_all(const mx_compare_task *base, const mx_compare_task *rtn,
                        const mx_compare_task *other, double *scratch, mx_compare_recovery *out)
{
    size_t n = rtn->count;
    double *won = scratch, *lost = scratch + n;
    for (size_t i = 0; base != NULL && i < n; i++) {
        won[i] = other->lls[i] - rtn->lls[i];
        lost[i] = base->lls[i] - rtn->lls[i];
    }
    if (base != NULL) {
        recover_ratio(scratch, n, &out->loss, &out->loss_stderr);
    }
    if (base != NULL && !base->text) {
        for (size_t i = 0; i < n; i++) {
            won[i] = other->right[i] - rtn->right[i];
            lost[i] = base->right[i] - rtn->right[i];
        }
        recover_ratio(scratch, n, &out->acc, &out->acc_stderr);
    }
    if (rtn->kl != NULL) {
        for (size_t i = 0; i < n; i++) {
            won[i] = rtn->kl[i] - other->kl[i];
            lost[i] = rtn->kl[i];
        }
        recover_ratio(scratch, n, &out->kl, &out->kl_stderr);
    }
}

mx_status mx_compare_recover(const mx_compare_task *base, const mx_compare_task *rtn,
                             const mx_compare_task *other, mx_compare_recovery *out, mx_error *err)
{
    *out = (mx_compare_recovery){NAN, NAN, NAN, NAN, NAN, NAN};
    double *scratch = malloc(2 * rtn->count * sizeof *scratch);
    if (scratch == NULL) {
        return mx_error_nomem(err, rtn->name, 2 * rtn->count * sizeof *scratch);
    }
    recover_all(base, rtn, other, scratch, out);
    free(scratch);
    return MX_OK;
}
