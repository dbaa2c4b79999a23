#include "base/clock.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

double mx_clock_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* A "Key:   123 kB" line of /proc/self/status, in bytes. */
static uint64_t status_field(const char *key)
{
    FILE *file = fopen("/proc/self/status", "r");
    if (file == NULL) {
        return 0;
    }
    char line[256];
    unsigned long long kib = 0;
    size_t length = strlen(key);
    while (fgets(line, sizeof line, file) != NULL) {
        if (strncmp(line, key, length) == 0 && sscanf(line + length, "%llu", &kib) == 1) {
            break;
        }
    }
    fclose(file);
    return (uint64_t)kib * 1024;
}

uint64_t mx_memory_resident(void)
{
    return status_field("VmRSS:");
}

uint64_t mx_memory_peak(void)
{
    return status_field("VmHWM:");
}
