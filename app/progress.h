/* Progress on the terminal, and Ctrl-C. */
#ifndef APP_PROGRESS_H
#define APP_PROGRESS_H

#include "mxlm.h"

/* A watch for the library's long functions: draws a bar on stderr when that is a
 * terminal, and asks to stop once Ctrl-C was pressed. */
mx_watch app_progress_begin(void);

/* Leaves the terminal's cursor on a fresh line. Call when the work is over, before
 * anything else is printed. */
void app_progress_end(void);

/* True once SIGINT or SIGTERM has arrived; a second one ends the program. */
bool app_interrupted(void);

/* Installs the handlers (app_progress_begin does it too). */
void app_interrupt_catch(void);

#endif
