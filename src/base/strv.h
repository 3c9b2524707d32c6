/* base/strv.h: lists of strings that end with NULL; the list and its strings are malloc'ed. Like base/mem.h, on which it
 * stands, it is not for the spawner and init. */
#pragma once

#include <stddef.h>

#include "base/macros.h"

/* One that grows. Zeroed = empty; list is NULL as long as nothing was added. The owner frees list with strv_free(). */
struct strv {
	char **list;
	size_t n; /* without the NULL */
};

void strv_add(struct strv *v, char *s);               /* takes s */
void strv_add_all(struct strv *v, char *const *more); /* copies; NULL = none */
/* The list, never NULL, which becomes the caller's; v is empty again. */
char **strv_take(struct strv *v);

/* A copy; NULL gives an empty list. */
char **strv_dup(const char *const *list);
/* NULL is allowed; both return NULL. */
char **strv_free(char **list);
char **strv_erase(char **list); /* the same for secrets: their memory is zeroed first */
