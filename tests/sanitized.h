/*
 * Sanitized code runs some twenty times as long: less of the real models. gcc and clang
 * say it differently.
 */
#ifndef MX_TEST_SANITIZED_H
#define MX_TEST_SANITIZED_H

#ifdef __has_feature
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define MX_SANITIZED 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define MX_SANITIZED 1
#endif
#ifndef MX_SANITIZED
#define MX_SANITIZED 0
#endif

#endif
