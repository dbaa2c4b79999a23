/* Monotonic time and memory use of the process, for reports. */
#ifndef MX_BASE_CLOCK_H
#define MX_BASE_CLOCK_H

#include <stdint.h>

double mx_clock_seconds(void);     /* monotonic */
uint64_t mx_memory_resident(void); /* bytes now resident (VmRSS), 0 when unknown */
uint64_t mx_memory_peak(void);     /* largest resident size so far (VmHWM) */

#endif
