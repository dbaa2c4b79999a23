#include "bench/peak.h"

#include <string.h>

const mx_peak *mx_peak_find(const char *isa)
{
    static const mx_peak *const peaks[] = {
#define MX_PEAK(isa) &mx_peak_##isa,
#include "bench/peaks.def"
#undef MX_PEAK
    };
    for (size_t i = 0; i < MX_COUNT(peaks); i++) {
        if (strcmp(peaks[i]->isa, isa) == 0) {
            return peaks[i];
        }
    }
    return NULL;
}
