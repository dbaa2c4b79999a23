#include "bench/peak.h"

#include <string.h>

static const mx_peak *const peaks[] = {
#define MX_PEAK(isa) &mx_peak_##isa,
#include "bench/peaks.def"
#undef MX_PEAK
};

const mx_peak *mx_peak_at(size_t index)
{
    return index < MX_COUNT(peaks) ? peaks[index] : NULL;
}

const mx_peak *mx_peak_find(const char *isa)
{
    for (size_t i = 0; i < MX_COUNT(peaks); i++) {
        if (strcmp(peaks[i]->isa, isa) == 0) {
            return peaks[i];
        }
    }
    return NULL;
}
