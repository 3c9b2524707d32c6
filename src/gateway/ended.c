/* gateway/ended.c: what is remembered of sessions that are over, so that who still calls one is told why: 410 instead of 404.
 * A server that ends thousands a second ends millions in the hour that each is remembered, so an entry is small (the id's
 * bytes, the store's text of the namespace, a reason that all with the same one share: some 200 bytes with the map) and
 * their number has a bound: beyond it the oldest are forgotten first. */
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "gateway/private.h"

#define ENDED_MAX 200000

struct ended_reason {
	size_t users;
	char text[];
};

static struct ended_reason *reason_take(struct gateway *g, const char *text)
{
	struct ended_reason *r = map_get(g->reasons, text);

	if (!r) {
		r = xmalloc(sizeof(*r) + strlen(text) + 1);
		r->users = 0;
		*str_put(r->text, text) = '\0';
		map_put(g->reasons, r->text, r);
	}
	r->users++;
	return r;
}

static void reason_give(struct gateway *g, struct ended_reason *r)
{
	if (--r->users)
		return;
	map_del(g->reasons, r->text);
	free(r);
}

void ended_init(struct gateway *g)
{
	if (!g->settings.remember_max)
		g->settings.remember_max = ENDED_MAX;
	g->ended = map_new();
	g->reasons = map_new();
	list_init(&g->ended_list);
	list_init(&g->recorded);
}

static void ended_free(struct gateway *g, struct ended *e)
{
	map_del_bytes(g->ended, e->id, sizeof(e->id));
	list_remove(&e->node);
	list_remove(&e->recorded);
	slots_give(g->records, e->slot);
	reason_give(g, e->reason);
	free(e);
}

/* The records stay as they are: they are sealed. */
void ended_done(struct gateway *g)
{
	list_foreach(&g->ended_list, struct ended, node, e)
		ended_free(g, e);
	map_free(g->ended);
	map_free(g->reasons);
}

struct ended *ended_add(struct gateway *g, const char *id, const char *namespace_id, const char *reason)
{
	unsigned char bytes[SID_BYTES];

	if (sid_bytes(id, bytes) < 0)
		return NULL;
	struct ended *e = NEW(struct ended);
	memcpy(e->id, bytes, sizeof(e->id));
	e->slot = SLOTS_NONE;
	list_init(&e->recorded);
	e->namespace_id = namespace_id;
	e->reason = reason_take(g, reason);
	e->until_ms = loop_now_ms(g->loop) + g->settings.remember_ms;
	if (map_len(g->ended) >= g->settings.remember_max)
		ended_free(g, container_of(g->ended_list.next, struct ended, node));
	map_put_bytes(g->ended, e->id, sizeof(e->id), e);
	list_push_back(&g->ended_list, &e->node);
	return e;
}

const struct ended *ended_find(const struct gateway *g, const char *id, const struct auth_caller *c)
{
	unsigned char bytes[SID_BYTES];
	const struct ended *e = sid_bytes(id, bytes) < 0 ? NULL : map_get_bytes(g->ended, bytes, sizeof(bytes));

	return e && str_eq(e->namespace_id, c->ns->id) ? e : NULL;
}

const char *ended_reason(const struct ended *e)
{
	return e->reason->text;
}

void ended_sweep(struct gateway *g, uint64_t now)
{
	list_foreach(&g->ended_list, struct ended, node, e) {
		if (now < e->until_ms)
			return;
		ended_free(g, e);
	}
}
