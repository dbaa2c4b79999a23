/* The metrics of a finished task. Names and formulas are lm_eval's; those of texts
 * divide one sum of losses by three sizes. */
#include "eval/results.h"

#include "eval/eval_stats.h"

#include <math.h>
#include <stdlib.h>

void mx_task_result_free(mx_task_result *result)
{
    free(result->source);
    free(result->outcomes);
    free(result->divergences);
    mx_document_list_free(&result->documents);
    *result = (mx_task_result){0};
}

static void result_add_metric(mx_task_result *result, mx_metric metric)
{
    result->metrics[result->n_metrics++] = metric;
}

/* values [2 * count]: log-likelihoods, then right answers as 0 and 1. */
static mx_status measure_target(mx_task_result *result, double *values, uint32_t bootstrap_iters,
                                mx_team *team, mx_watch watch, mx_error *err)
{
    size_t n = result->documents.count;
    double *lls = values, *right = values + n;
    for (size_t i = 0; i < n; i++) {
        lls[i] = result->outcomes[i].log_likelihood;
        right[i] = result->outcomes[i].greedy ? 1 : 0;
    }
    double stderror = NAN;
    MX_TRY(mx_bootstrap_perplexity_stderr(lls, n, bootstrap_iters, team, watch, &stderror, err));
    result_add_metric(
        result,
        (mx_metric){.name = "perplexity", .value = mx_perplexity(lls, n), .stderror = stderror});
    result_add_metric(result, (mx_metric){.name = "acc",
                                          .value = mx_mean(right, n),
                                          .stderror = mx_mean_stderr(right, n),
                                          .higher_is_better = true});
    return MX_OK;
}

/* Which size of a window a text metric divides by. */
typedef enum text_unit { TEXT_WORDS, TEXT_BYTES, TEXT_TOKENS } text_unit;

static double text_size(const mx_document *window, text_unit unit)
{
    switch (unit) {
    case TEXT_WORDS:
        return (double)window->words;
    case TEXT_BYTES:
        return (double)window->bytes;
    default:
        return (double)window->n_targets;
    }
}

/*
 * exp(-sum ll / sum size) over the windows; as bits, -sum ll / sum size / ln 2.
 * `values` [2 * count] is scratch.
 */
static mx_metric measure_unit(const mx_task_result *result, double *values, const char *name,
                              text_unit unit, bool bits)
{
    size_t n = result->documents.count;
    double *losses = values, *sizes = values + n;
    double loss = 0, size = 0;
    for (size_t i = 0; i < n; i++) {
        losses[i] = -result->outcomes[i].log_likelihood;
        sizes[i] = text_size(&result->documents.items[i], unit);
        loss += losses[i];
        size += sizes[i];
    }
    double mean = loss / size, mean_error = mx_ratio_stderr(losses, sizes, n);
    if (bits) {
        return (mx_metric){.name = name, .value = mean / log(2), .stderror = mean_error / log(2)};
    }
    return (mx_metric){.name = name, .value = exp(mean), .stderror = exp(mean) * mean_error};
}

static void measure_text(mx_task_result *result, double *values)
{
    result_add_metric(result, measure_unit(result, values, "word_perplexity", TEXT_WORDS, false));
    result_add_metric(result, measure_unit(result, values, "byte_perplexity", TEXT_BYTES, false));
    result_add_metric(result, measure_unit(result, values, "bits_per_byte", TEXT_BYTES, true));
    result_add_metric(result, measure_unit(result, values, "token_perplexity", TEXT_TOKENS, false));
}

double mx_outcome_divergence(const mx_document *document, const mx_outcome *outcome)
{
    double sum = 0;
    for (uint32_t t = 0; t < document->n_targets; t++) {
        sum += (double)outcome->divergences[t];
    }
    return sum;
}

/* sum value / sum targets over windows; values [2 * count], the first half filled. */
static mx_metric measure_mean(const mx_task_result *result, double *values, const char *name)
{
    size_t n = result->documents.count;
    double sum = 0, targets = 0, *sizes = values + n;
    for (size_t i = 0; i < n; i++) {
        sizes[i] = (double)result->documents.items[i].n_targets;
        sum += values[i];
        targets += sizes[i];
    }
    return (mx_metric){
        .name = name, .value = sum / targets, .stderror = mx_ratio_stderr(values, sizes, n)};
}

static mx_status measure_kl(mx_task_result *result, double *values, mx_error *err)
{
    size_t n = result->documents.count, targets = 0;
    for (size_t i = 0; i < n; i++) {
        const mx_document *window = &result->documents.items[i];
        values[i] = mx_outcome_divergence(window, &result->outcomes[i]);
        targets += window->n_targets;
    }
    result_add_metric(result, measure_mean(result, values, "kl"));
    double p99 = NAN;
    MX_TRY(mx_percentile(result->divergences, targets, 0.99, &p99, err));
    result_add_metric(result, (mx_metric){.name = "kl_p99", .value = p99, .stderror = NAN});
    for (size_t i = 0; i < n; i++) {
        values[i] = result->outcomes[i].agreed;
    }
    mx_metric agreement = measure_mean(result, values, "top1_agreement");
    agreement.higher_is_better = true;
    result_add_metric(result, agreement);
    result_add_metric(result, measure_unit(result, values, "token_perplexity", TEXT_TOKENS, false));
    return MX_OK;
}

mx_status mx_task_result_measure(mx_task_result *result, uint32_t bootstrap_iters, mx_team *team,
                                 mx_watch watch, mx_error *err)
{
    size_t bytes = result->documents.count * 2 * sizeof(double);
    double *values = malloc(bytes > 0 ? bytes : 1);
    if (values == NULL) {
        return mx_error_nomem(err, result->request->name, bytes);
    }
    mx_status status = MX_OK;
    result->n_metrics = 0;
    if (result->request->task->kind == MX_TASK_TARGET) {
        status = measure_target(result, values, bootstrap_iters, team, watch, err);
    } else if (result->request->task->kind == MX_TASK_KL) {
        status = measure_kl(result, values, err);
    } else {
        measure_text(result, values);
    }
    free(values);
    return status;
}
