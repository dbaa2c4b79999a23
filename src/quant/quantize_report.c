#include "quant/quantize_plan.h"

#include "base/clock.h"
#include "base/str.h"

#include <math.h>
#include <stdlib.h>

static double megabytes(uint64_t bytes)
{
    return (double)bytes / 1e6;
}

static void add_sqnr(mx_str *text, const mx_quantize_stats *stats)
{
    if (!(stats->noise > 0)) {
        mx_str_add(text, "  SQNR         infinite: every weight is held exactly\n");
        return;
    }
    mx_str_addf(text, "  SQNR         %.2f dB over the projections; lowest %.2f dB, %s\n",
                10 * log10(stats->signal / stats->noise), stats->lowest_sqnr,
                stats->lowest_name != NULL ? stats->lowest_name : "-");
}

/* A quantized head, which is the embedding too when tied. */
static void add_head(mx_str *text, const mx_quantize_stats *stats)
{
    if (stats->head_weights == 0) {
        return;
    }
    double weights = (double)stats->head_weights;
    mx_str_addf(text,
                "  head         %.1f M weights: %.1f MB as stored, %.1f MB now (%.3f bits a "
                "weight)",
                weights / 1e6, megabytes(stats->head_bytes_in), megabytes(stats->head_bytes_out),
                8 * (double)stats->head_bytes_out / weights);
    if (stats->head_noise > 0) {
        mx_str_addf(text, ", SQNR %.2f dB", 10 * log10(stats->head_signal / stats->head_noise));
    }
    mx_str_add(text, "\n");
}

mx_status mx_quantize_report(const mx_quantize_plan *plan, const mx_quantize_stats *stats,
                             const mx_specs *specs, const mx_export *export, const char *out_dir,
                             char **out, mx_error *err)
{
    char *description = NULL;
    mx_str text = {0};
    MX_TRY(mx_specs_describe(specs, &description, err));
    double weights = (double)stats->weights;
    mx_str_addf(&text, "%s\n  settings     %s\n", out_dir, description);
    if (stats->calibration[0] != '\0') {
        mx_str_addf(&text, "  method       %s; %s\n", stats->method, stats->calibration);
    }
    mx_str_addf(&text,
                "  projections  %zu, %.1f M weights: %.1f MB as stored, %.1f MB now "
                "(%.3f bits a weight)",
                stats->n_projections, weights / 1e6, megabytes(stats->projection_bytes_in),
                megabytes(stats->projection_bytes_out),
                weights > 0 ? 8 * (double)stats->projection_bytes_out / weights : 0.0);
    if (plan->n_excluded > 0) {
        mx_str_addf(&text, "; %zu more excluded", plan->n_excluded);
    }
    mx_str_add(&text, "\n");
    add_head(&text, stats);
    mx_str_addf(&text, "  all tensors  %.1f MB as stored, %.1f MB now\n", megabytes(plan->bytes_in),
                megabytes(mx_export_bytes(export)));
    if (stats->n_projections > 0) {
        add_sqnr(&text, stats);
    }
    mx_str_addf(&text, "  time         %.2f s, peak memory %.1f MB", stats->seconds,
                megabytes(mx_memory_peak()));
    if (stats->n_resumed > 0) {
        mx_str_addf(&text, "; %zu of %zu tensors were finished before", stats->n_resumed,
                    plan->n_tensors);
    }
    mx_str_add(&text, "\n");
    free(description);
    return mx_str_take(&text, out, err);
}
