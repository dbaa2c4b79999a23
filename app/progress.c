#include "progress.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define DRAW_INTERVAL 0.1 /* seconds between redraws */
#define BAR_MAX 30
#define LINE_MAX_BYTES 512

typedef struct bar {
    bool visible; /* stderr is a terminal */
    bool color;
    bool drawn;    /* a line without its newline is on the screen */
    bool complete; /* that line says 100% */
    char stage[64];
    double last; /* progress->seconds of the last drawing */
} bar;

static volatile sig_atomic_t interrupted;

static void on_signal(int number)
{
    (void)number;
    interrupted = 1;
}

static void catch_signal(int number)
{
    struct sigaction action;
    /* nohup and shells' background jobs start with the signal ignored: so be it. */
    if (sigaction(number, NULL, &action) != 0 || action.sa_handler == SIG_IGN) {
        return;
    }
    action = (struct sigaction){.sa_handler = on_signal};
    sigemptyset(&action.sa_mask);
    /* One shot: the second Ctrl-C finds the default action and ends the program,
     * even if the library does not come back to the callback. */
    action.sa_flags = (int)SA_RESETHAND | SA_RESTART;
    sigaction(number, &action, NULL);
}

void app_interrupt_catch(void)
{
    catch_signal(SIGINT);
    catch_signal(SIGTERM);
}

bool app_interrupted(void)
{
    return interrupted != 0;
}

/* ---- drawing ---------------------------------------------------------------- */

static int terminal_columns(void)
{
    struct winsize size;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) {
        return size.ws_col;
    }
    return 80;
}

/* 1234567 -> "1.2 M". */
static void format_count(double value, char *out, size_t size)
{
    static const char *const units[] = {"", " k", " M", " G", " T"};
    size_t unit = 0;
    while (value >= 1000.0 && unit + 1 < sizeof(units) / sizeof(units[0])) {
        value /= 1000.0;
        unit++;
    }
    snprintf(out, size, value < 10.0 && unit > 0 ? "%.1f%s" : "%.0f%s", value, units[unit]);
}

static void format_time(double seconds, char *out, size_t size)
{
    unsigned long s = seconds > 0.0 && seconds < 1e9 ? (unsigned long)(seconds + 0.5) : 0;
    if (s >= 3600) {
        snprintf(out, size, "%lu:%02lu:%02lu", s / 3600, s / 60 % 60, s % 60);
    } else {
        snprintf(out, size, "%lu:%02lu", s / 60, s % 60);
    }
}

/* The finer measure says more about time than whole units: a long document is not
 * a short one. */
static double fraction_done(const mx_progress *p)
{
    double fraction = 0.0;
    if (p->work_total > 0) {
        fraction = (double)p->work_done / (double)p->work_total;
    } else if (p->total > 0) {
        fraction = (double)p->done / (double)p->total;
    }
    return fraction > 1.0 ? 1.0 : fraction;
}

/* "123/5153 documents, 1.2 k tokens/s, 4:05 left" */
static void format_figures(const mx_progress *p, double fraction, char *out, size_t size)
{
    const char *unit = p->unit != NULL ? p->unit : "";
    int used = p->total > 0 ? snprintf(out, size, "%llu/%llu %s", (unsigned long long)p->done,
                                       (unsigned long long)p->total, unit)
                            : snprintf(out, size, "%llu %s", (unsigned long long)p->done, unit);
    bool by_work = p->work_unit != NULL && p->work_done > 0;
    double count = by_work ? (double)p->work_done : (double)p->done;
    char text[32];
    if (p->seconds > 0.0 && count > 0.0 && used > 0 && (size_t)used < size) {
        const char *rate_unit = by_work ? p->work_unit : unit;
        bool bytes = strcmp(rate_unit, "bytes") == 0;
        format_count(count / p->seconds, text, sizeof(text));
        used += snprintf(out + used, size - (size_t)used, bytes ? ", %s%s/s" : ", %s %s/s", text,
                         bytes ? "B" : rate_unit);
    }
    /* Too early an estimate only misleads. */
    if (fraction > 0.0 && p->seconds > 0.5 && used > 0 && (size_t)used < size) {
        bool over = fraction >= 1.0;
        format_time(over ? p->seconds : p->seconds * (1.0 - fraction) / fraction, text,
                    sizeof(text));
        snprintf(out + used, size - (size_t)used, ", %s%s", text, over ? "" : " left");
    }
}

static void draw(const bar *state, const mx_progress *p)
{
    double fraction = fraction_done(p);
    char figures[LINE_MAX_BYTES / 2];
    format_figures(p, fraction, figures, sizeof(figures));

    int columns = terminal_columns();
    int room = columns - (int)strlen(state->stage) - (int)strlen(figures) - 11;
    int width = room > BAR_MAX ? BAR_MAX : room;
    char line[LINE_MAX_BYTES];
    if (width >= 4 && (p->total > 0 || p->work_total > 0)) {
        char cells[BAR_MAX + 1];
        memset(cells, '.', sizeof(cells));
        memset(cells, '#', (size_t)(fraction * width));
        cells[width] = '\0';
        snprintf(line, sizeof(line), "%s [%s%s%s] %3d%%  %s", state->stage,
                 state->color ? "\033[32m" : "", cells, state->color ? "\033[0m" : "",
                 (int)(fraction * 100.0), figures);
        fprintf(stderr, "\r\033[K%s", line);
    } else {
        /* Cut to one line of the terminal: a wrapped line could not be redrawn. */
        snprintf(line, sizeof(line), "%s %3d%%  %s", state->stage, (int)(fraction * 100.0),
                 figures);
        fprintf(stderr, "\r\033[K%.*s", columns > 1 ? columns - 1 : 1, line);
    }
    fflush(stderr);
}

/* ---- the watch ---------------------------------------------------------------- */

static bar the_bar;

static void finish_line(bar *state)
{
    if (state->drawn) {
        /* A stage left half-way by Ctrl-C shows how far it came; one that ended
         * without saying so would only puzzle. */
        fputs(state->complete || app_interrupted() ? "\n" : "\r\033[K", stderr);
        state->drawn = false;
    }
}

static bool on_progress(void *ctx, const mx_progress *p)
{
    bar *state = ctx;
    if (state->visible) {
        const char *stage = p->stage != NULL ? p->stage : "";
        bool fresh = strncmp(stage, state->stage, sizeof(state->stage) - 1) != 0;
        if (fresh) {
            finish_line(state);
            snprintf(state->stage, sizeof(state->stage), "%s", stage);
        }
        bool complete = p->total > 0 && p->done >= p->total;
        if (fresh || complete || p->seconds < state->last ||
            p->seconds - state->last >= DRAW_INTERVAL) {
            draw(state, p);
            state->drawn = true;
            state->complete = complete;
            state->last = p->seconds;
        }
    }
    return !app_interrupted();
}

mx_watch app_progress_begin(void)
{
    const char *term = getenv("TERM");
    const char *no_color = getenv("NO_COLOR");
    bool dumb = term == NULL || strcmp(term, "dumb") == 0;
    the_bar = (bar){
        .visible = isatty(STDERR_FILENO) == 1 && !dumb,
        .color = no_color == NULL || no_color[0] == '\0', /* no-color.org: set and not empty */
    };
    app_interrupt_catch();
    return (mx_watch){.fn = on_progress, .ctx = &the_bar};
}

void app_progress_end(void)
{
    finish_line(&the_bar);
    the_bar.stage[0] = '\0';
}
