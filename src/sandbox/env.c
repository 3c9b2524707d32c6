/* sandbox/env.c: environment variables from several sources. */
#include <string.h>

#include "base/map.h"
#include "base/mem.h"
#include "sandbox/private.h"

/* An image may name more than a hundred thousand, so each name's place is looked up, not searched for. */
char **env_merge(const char *const *const *lists, size_t n, size_t *ret_bytes)
{
	AUTO(map_freep) struct map *places = map_new();
	size_t count = 0, max = 1;
	char **env;

	for (size_t i = 0; i < n; i++)
		for (size_t j = 0; lists[i] && lists[i][j]; j++)
			max++;
	env = xcalloc(max, sizeof(*env));
	for (size_t i = 0; i < n; i++)
		for (size_t j = 0; lists[i] && lists[i][j]; j++) {
			const char *kv = lists[i][j];
			size_t len = strcspn(kv, "=");
			char **at = map_get_bytes(places, kv, len);

			if (!at) {
				at = &env[count++];
				map_put_bytes(places, kv, len, at);
			}
			free(*at);
			*at = xstrdup(kv);
		}
	*ret_bytes = 0;
	for (size_t i = 0; i < count; i++)
		*ret_bytes += strlen(env[i]) + 16; /* with the head of a field */
	return env;
}
