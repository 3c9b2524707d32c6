/* base/tally.c: see tally.h. */
#include "base/tally.h"

#include <errno.h>
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

int share_check(const struct share *s, size_t waiting, size_t own, const char *who_wait, struct err *err)
{
	own = MIN(own, waiting);
	if (share_admits(s, waiting, own))
		return 0;
	if (waiting >= s->max)
		return err_set(err, -EUSERS, "%zu %s already, and queue.max is %zu: try again later", waiting, who_wait, s->max);
	return err_set(err, -EUSERS,
		       "%zu %s already, %zu of them of this key, and queue.max is %zu: the places that are left are for other keys "
		       "(queue.share), try again later",
		       waiting, who_wait, own, s->max);
}
