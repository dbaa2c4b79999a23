#include "quant/block_round.h"

#include <string.h>

size_t mx_block_trial_size(size_t block)
{
    return (block * (3 * sizeof(double) + 2) + 7) / 8 * 8;
}

void mx_block_trial_place(void *memory, size_t block, mx_block_trial *trial)
{
    double *d = memory;
    uint8_t *b = (uint8_t *)(d + 3 * block);
    *trial = (mx_block_trial){.w = d,
                              .errors = d + block,
                              .best_errors = d + 2 * block,
                              .codes = b,
                              .best_codes = b + block};
}

/* The error at one scale, or more than `limit`. */
static double try_scale(const mx_block_task *task, uint8_t scale, double limit, mx_block_trial *t)
{
    size_t n = task->n;
    double loss = 0;
    memcpy(t->w, task->aim, n * sizeof *t->w);
    for (size_t j = 0; j < n; j++) {
        const double *u = task->factor + j * task->stride; /* row of U, [n] */
        double value, wanted = task->nearest != NULL ? task->nearest[j] : t->w[j];
        t->codes[j] = mx_method_round(task->quant, wanted, scale, &value);
        double error = (t->w[j] - value) / u[j];
        t->errors[j] = error;
        loss += error * error;
        if (!(loss < limit)) {
            break;
        }
        for (size_t k = j + 1; k < n; k++) {
            t->w[k] -= error * u[k];
        }
    }
    return loss;
}

static void keep_best(mx_block_trial *t)
{
    double *errors = t->best_errors;
    uint8_t *codes = t->best_codes;
    t->best_errors = t->errors;
    t->best_codes = t->codes;
    t->errors = errors;
    t->codes = codes;
}

uint8_t mx_block_round(const mx_block_task *task, mx_block_trial *trial)
{
    uint8_t best = MX_E8M0_NAN;
    double least = task->limit;
    for (int i = 0; i < 2 * task->range + 1; i++) {
        int scale = task->scale + mx_method_offset(i);
        if (scale < 0 || scale >= (int)MX_E8M0_NAN) {
            continue;
        }
        double loss = try_scale(task, (uint8_t)scale, least, trial);
        if (loss < least) {
            least = loss;
            best = (uint8_t)scale;
            keep_best(trial);
        }
    }
    return best;
}
