/* base/fair.c: see fair.h. */
#include "base/fair.h"

#include "base/mem.h"
#include "base/str.h"

struct fair_lane {
	struct list node;  /* in fair.lanes */
	struct list items; /* struct fair_item.node */
	char *key;
};

void fair_init(struct fair *f)
{
	list_init(&f->lanes);
	f->len = 0;
}

static struct fair_lane *lane_of(struct fair *f, const char *key)
{
	list_foreach(&f->lanes, struct fair_lane, node, l)
		if (str_eq(l->key, key))
			return l;
	struct fair_lane *l = NEW(struct fair_lane);
	l->key = xstrdup(key);
	list_init(&l->items);
	list_push_back(&f->lanes, &l->node);
	return l;
}

void fair_push(struct fair *f, struct fair_item *it, const char *key)
{
	it->lane = lane_of(f, key);
	f->len++;
	list_push_back(&it->lane->items, &it->node);
}

void fair_push_first(struct fair *f, struct fair_item *it, const char *key)
{
	it->lane = lane_of(f, key);
	f->len++;
	list_push_front(&it->lane->items, &it->node);
	list_remove(&it->lane->node);
	list_push_front(&f->lanes, &it->lane->node);
}

static struct fair_item *first_of(const struct fair_lane *l)
{
	return container_of(l->items.next, struct fair_item, node); /* a lane is never empty */
}

struct fair_item *fair_first(const struct fair *f)
{
	const struct fair_lane *l = list_first(&f->lanes, struct fair_lane, node);
	return l ? first_of(l) : NULL;
}

void fair_remove(struct fair *f, struct fair_item *it)
{
	struct fair_lane *l = it->lane;
	if (!l)
		return;
	it->lane = NULL;
	list_remove(&it->node);
	f->len--;
	if (!list_empty(&l->items))
		return;
	list_remove(&l->node);
	free(l->key);
	free(l);
}

struct fair_item *fair_pop(struct fair *f)
{
	struct fair_item *it = fair_first(f);
	if (!it)
		return NULL;
	list_remove(&it->lane->node);
	list_push_back(&f->lanes, &it->lane->node);
	fair_remove(f, it);
	return it;
}

void fair_each(const struct fair *f, void (*fn)(struct fair_item *it, void *arg), void *arg)
{
	list_foreach(&f->lanes, struct fair_lane, node, l)
		list_foreach(&l->items, struct fair_item, node, it)
			fn(it, arg);
}

void fair_in_order(const struct fair *f, void (*fn)(struct fair_item *it, size_t place, void *arg), void *arg)
{
	auto_free struct fair_item **next = xcalloc(f->len + 1, sizeof(*next)); /* of each key that has any left */
	size_t keys = 0, place = 0;

	list_foreach(&f->lanes, struct fair_lane, node, l)
		next[keys++] = first_of(l);
	while (keys) {
		size_t left = 0;

		for (size_t k = 0; k < keys; k++) {
			struct fair_item *it = next[k];
			const struct list *after = it->node.next;

			if (after != &it->lane->items)
				next[left++] = container_of(after, struct fair_item, node);
			fn(it, place++, arg);
		}
		keys = left;
	}
}
