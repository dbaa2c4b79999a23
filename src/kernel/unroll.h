/* Full unrolling of loops with literal bounds, so that small arrays of vectors
 * stay in registers; and two steps at a time of long loops around them, which share
 * the loop's own instructions. */
#ifndef MX_KERNEL_UNROLL_H
#define MX_KERNEL_UNROLL_H

#if defined(__clang__)
#define MX_UNROLL _Pragma("clang loop unroll(full)")
#define MX_UNROLL_TWICE _Pragma("clang loop unroll_count(2)")
#elif defined(__SANITIZE_ADDRESS__) /* which makes enough code of one step */
#define MX_UNROLL _Pragma("GCC unroll 16")
#define MX_UNROLL_TWICE
#else
#define MX_UNROLL _Pragma("GCC unroll 16")
#define MX_UNROLL_TWICE _Pragma("GCC unroll 2")
#endif

/* For templates: functions whose shape arguments are literals at each call. */
#define MX_TEMPLATE static inline __attribute__((always_inline))

#endif
