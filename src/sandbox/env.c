/* sandbox/env.c: environment variables from several sources. */
#include <string.h>

#include "base/mem.h"
#include "sandbox/private.h"

static size_t name_len(const char *kv)
{
	return strcspn(kv, "=");
}

/* The place of kv's name among the first n, or n. */
static size_t place_of(char *const *env, size_t n, const char *kv)
{
	size_t len = name_len(kv);

	for (size_t i = 0; i < n; i++)
		if (name_len(env[i]) == len && !memcmp(env[i], kv, len))
			return i;
	return n;
}

char **env_merge(const char *const *const *lists, size_t n, size_t *ret_bytes)
{
	size_t count = 0, max = 1;
	char **env;

	for (size_t i = 0; i < n; i++)
		for (size_t j = 0; lists[i] && lists[i][j]; j++)
			max++;
	env = xcalloc(max, sizeof(*env));
	for (size_t i = 0; i < n; i++)
		for (size_t j = 0; lists[i] && lists[i][j]; j++) {
			size_t at = place_of(env, count, lists[i][j]);

			free(env[at]);
			env[at] = xstrdup(lists[i][j]);
			count += at == count;
		}
	*ret_bytes = 0;
	for (size_t i = 0; i < count; i++)
		*ret_bytes += strlen(env[i]) + 16; /* with the head of a field */
	return env;
}
