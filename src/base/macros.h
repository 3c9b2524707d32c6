/* base/macros.h: the few language extensions that every other file relies on (gcc >= 12, clang >= 14).
 * No state, no functions with side effects; usable in every program, the static ones too. */
#pragma once

#include <stddef.h>
#include <stdlib.h>

/* The caller must look at the result. Every function that can fail carries it. */
#define MUST_CHECK __attribute__((warn_unused_result))

/* Checks the arguments of a printf-like function at compile time; positions count from 1. */
#define PRINTF_LIKE(fmt, args) __attribute__((format(printf, fmt, args)))

/* It ends the process: the caller needs no code after it. */
#define NORETURN __attribute__((noreturn))
/* Of a parameter that a function type asks for and this function does not need. */
#define UNUSED __attribute__((unused))

/* Of arrays only: for a pointer the number is wrong and nothing warns. MIN and MAX evaluate an argument twice. */
#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

/* The object of `type` whose `member` lies at ptr. ptr must not be NULL. */
#define container_of(ptr, type, member) ((type *)((char *)(ptr) - offsetof(type, member)))

/* AUTO(free_fn) runs free_fn(&variable) when the variable leaves its scope, in the reverse order of the declarations.
 * The variable must have a value by then on every way out, so it gets one where it is declared. */
#define AUTO(fn) __attribute__((cleanup(fn)))

/* Behind auto_free: cleanup functions get the variable's address. */
static inline void auto_free_impl(void *p)
{
	void **pp = p;
	free(*pp);
	*pp = NULL;
}

/* A malloc'ed pointer that is freed at the end of its scope; pass it on with STEAL(). */
#define auto_free AUTO(auto_free_impl)

/* Takes the pointer out of a variable, leaving NULL, so that its clean-up does nothing:
 *   auto_free char *s = strdup(x); ...; *ret = STEAL(s); return 0; */
#define STEAL(p)                     \
	({                           \
		__typeof__(p) p_ = (p); \
		(p) = NULL;          \
		p_;                  \
	})

/* Defines `type_freep` for AUTO(type_freep), for any destructor that returns NULL (they all do, and accept it). Next to
 * the destructor's declaration: DEFINE_FREEP(server, server_free) */
#define DEFINE_FREEP(type, free_fn)                    \
	static inline void type##_freep(struct type **p) \
	{                                              \
		if (*p)                                \
			*p = free_fn(*p);              \
	}
