/* tests/fuzz/exact.h: memory of which no more is there than has come, for a sanitizer to see a read beyond it. */
#pragma once

#include <stddef.h>

#ifdef __has_feature
#if __has_feature(address_sanitizer)
#define EXACT_POISONS
#endif
#endif
#ifdef __SANITIZE_ADDRESS__
#define EXACT_POISONS
#endif
#ifdef EXACT_POISONS
#include <sanitizer/asan_interface.h>
#endif

/* Of p[0..len), malloc'ed in just this size, only p[0..end) may be read from now on. Call it with end = len at last. */
static inline void exact_until(const char *p, size_t len, size_t end)
{
#ifdef EXACT_POISONS
	__asan_unpoison_memory_region(p, end);
	__asan_poison_memory_region(p + end, len - end);
#else
	(void)p, (void)len, (void)end;
#endif
}
