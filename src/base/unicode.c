#include "base/unicode.h"

#include <stdlib.h>
#include <utf8proc.h>

bool unicode_is_ascii(const char *s)
{
	while (*s && !(*s & 0x80))
		s++;
	return !*s;
}

static char *in_form(const char *s, utf8proc_option_t form)
{
	utf8proc_uint8_t *to = NULL;
	const utf8proc_option_t how = UTF8PROC_NULLTERM | UTF8PROC_STABLE | form;

	if (!s)
		return NULL;
	if (utf8proc_map((const utf8proc_uint8_t *)s, 0, &to, how) == UTF8PROC_ERROR_NOMEM)
		abort(); /* as base/mem.h */
	return (char *)to;
}

char *unicode_fold(const char *s)
{
	return in_form(s, UTF8PROC_COMPOSE | UTF8PROC_COMPAT | UTF8PROC_CASEFOLD | UTF8PROC_IGNORE);
}

char *unicode_composed(const char *s)
{
	return in_form(s, UTF8PROC_COMPOSE);
}

char *unicode_decomposed(const char *s)
{
	return in_form(s, UTF8PROC_DECOMPOSE);
}
