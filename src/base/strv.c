#include "base/strv.h"

#include <string.h>

#include "base/mem.h"

void strv_add(struct strv *v, char *s)
{
	v->list = xrealloc(v->list, (v->n + 2) * sizeof(*v->list));
	v->list[v->n++] = s;
	v->list[v->n] = NULL;
}

void strv_add_all(struct strv *v, char *const *more)
{
	for (; more && *more; more++)
		strv_add(v, xstrdup(*more));
}

char **strv_take(struct strv *v)
{
	char **list = v->list ? v->list : xcalloc(1, sizeof(*list));

	*v = (struct strv){ 0 };
	return list;
}

char **strv_dup(const char *const *list)
{
	struct strv v = { 0 };

	strv_add_all(&v, (char *const *)list);
	return strv_take(&v);
}

char **strv_free(char **list)
{
	for (char **s = list; s && *s; s++)
		free(*s);
	free(list);
	return NULL;
}

char **strv_erase(char **list)
{
	for (char **s = list; s && *s; s++)
		explicit_bzero(*s, strlen(*s));
	return strv_free(list);
}
