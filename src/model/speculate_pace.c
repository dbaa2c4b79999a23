#include "model/speculate_pace.h"

/*
 * Losses are bounded by an account in seconds: a pass that proposed pays in what
 * plain decoding would have taken for its tokens and pays out what it took. A
 * proposal must be covered by the account and a credit of one plain pass, and
 * plain passes add a small share of their time. So text that never repeats runs at
 * 1 - LOSS of plain decoding's speed less that one pass. Winnings count up to
 * MOST_SAVED plain passes: without that limit a long run of luck would pay for as
 * long a run of mistakes.
 */
static const double LOSS = 0.01, MOST_SAVED = 4.0;

/* Weight of a new observation. */
static const double RATE_GAIN = 0.2, TIME_GAIN = 0.25;

/* A plain pass among so many, lest its time be that of a busier or idler machine. */
enum { REFRESH_PASSES = 32 };

void mx_pace_init(mx_pace *pace, uint32_t longest)
{
    /* Rates before any observation: what matches of 2-3, 4-7, 8-15 and more tokens
     * give on mixed text; soon replaced by this text's own. */
    *pace = (mx_pace){.longest = longest, .rate = {0.6, 0.3, 0.5, 0.75, 0.9}};
}

uint32_t mx_pace_class(uint32_t match)
{
    return match == 0 ? 0 : match < 4 ? 1 : match < 8 ? 2 : match < 16 ? 3 : 4;
}

uint32_t mx_pace_length(const mx_pace *pace, uint32_t kind)
{
    if (pace->plain <= 0 || pace->since_plain >= REFRESH_PASSES) {
        return 0;
    }
    /* One more token pays while the chance that all up to it are right exceeds its
     * cost in plain passes. At least one is tried: what is never tried is never
     * learnt, and the account sees to it that trying stays cheap. */
    double cost = pace->extra / pace->plain, chance = pace->rate[kind];
    uint32_t n = 1;
    while (n < pace->longest && (chance *= pace->rate[kind]) > cost) {
        n++;
    }
    double covered = pace->balance + pace->plain;
    while (n > 0 && n * pace->extra > covered) {
        n--;
    }
    return n;
}

static void smooth(double *value, double seen, double gain)
{
    *value += gain * (seen - *value);
}

void mx_pace_record(mx_pace *pace, uint32_t kind, uint32_t proposed, uint32_t accepted,
                    double seconds)
{
    if (proposed == 0) {
        /* The first passes guess that a token costs a quarter of a pass. */
        double extra = pace->plain > 0 ? pace->extra : seconds / 4;
        pace->plain = pace->plain > 0 ? pace->plain : seconds;
        pace->extra = extra;
        /* Down at once, up slowly: passes are held up by other work on the machine,
         * but never run too fast. */
        smooth(&pace->plain, seconds, seconds < pace->plain ? 2 * TIME_GAIN : TIME_GAIN);
        pace->balance += LOSS * seconds;
        pace->since_plain = 0;
        return;
    }
    /* No pass takes longer than its tokens one by one but by an accident. */
    double most = pace->plain * (proposed + 1);
    seconds = seconds < most ? seconds : most;
    double extra = (seconds - pace->plain) / proposed;
    smooth(&pace->extra, extra > 0 ? extra : 0, TIME_GAIN);
    pace->balance += (accepted + 1) * pace->plain - seconds;
    if (pace->balance > MOST_SAVED * pace->plain) {
        pace->balance = MOST_SAVED * pace->plain;
    }
    for (uint32_t i = 0; i < accepted; i++) {
        smooth(&pace->rate[kind], 1, RATE_GAIN);
    }
    if (accepted < proposed) {
        smooth(&pace->rate[kind], 0, RATE_GAIN);
    }
    pace->since_plain++;
}
