/* base/tally.c: see tally.h. */
#include "base/tally.h"

#include <stdint.h>

#include "base/map.h"

void tally_init(struct tally *t)
{
	t->counts = map_new();
}

void tally_done(struct tally *t)
{
	t->counts = map_free(t->counts);
}

size_t tally_of(const struct tally *t, const char *key)
{
	return (uintptr_t)map_get(t->counts, key);
}

void tally_add(struct tally *t, const char *key)
{
	map_put(t->counts, key, (void *)(uintptr_t)(tally_of(t, key) + 1));
}

void tally_sub(struct tally *t, const char *key)
{
	size_t left = tally_of(t, key) - 1;

	if (left)
		map_put(t->counts, key, (void *)(uintptr_t)left);
	else
		map_del(t->counts, key);
}

bool share_admits(const struct share *s, size_t waiting, size_t own)
{
	if (waiting >= s->max)
		return false;
	return !s->times || !own || own / s->times < s->max - waiting;
}
