/* kl:FILE: how far a model's predictions are from those of a base model, over a text
 * file in the windows of perplexity:FILE. */
#include "eval/text_windows.h"

extern const mx_task mx_task_kl;

const mx_task mx_task_kl = {
    .name = "kl",
    .description = "a text file in strided windows: KL divergence to --base, top-1 agreement",
    .kind = MX_TASK_KL,
    .version = 1.0,
    .takes_file = true,
    .load = mx_text_windows_load,
};
