/* perplexity:FILE: the perplexity of a text file, in strided windows. */
#include "eval/text_windows.h"

extern const mx_task mx_task_perplexity;

const mx_task mx_task_perplexity = {
    .name = "perplexity",
    .description = "a text file in strided windows: perplexity a word, byte and token",
    .kind = MX_TASK_TEXT,
    .version = 1.0,
    .takes_file = true,
    .load = mx_text_windows_load,
};
