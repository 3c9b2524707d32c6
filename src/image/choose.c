#include "image/choose.h"

#include "base/map.h"
#include "base/mem.h"
#include "base/str.h"
#include "image/cstore.h"
#include "image/ref.h"

struct layer {
	uint64_t bytes;
	size_t users; /* images that stay and have it */
	size_t above; /* those that lie on it: the image whose top it is may not go before them */
};

struct group { /* all names of one image */
	int64_t used_ms; /* the newest */
	size_t names;
	bool kept, gone;
};

struct state {
	struct choice *list;
	size_t n;
	struct map *layers;    /* path -> struct layer */
	struct map *by_digest[2]; /* digest -> struct group; the second: of unchanged bases in stores of environments */
	uint64_t total;
};

static uint64_t bytes_of(const struct image *i, size_t k)
{
	if (i->layer_bytes)
		return i->layer_bytes[k];
	return k ? 0 : i->size_bytes;
}

/* A build that added no files: its image has layers of the store of bases alone, and lies on all of them. */
static bool is_unchanged(const struct image *i)
{
	auto_free char *dir = NULL;

	return i->n_layers && str_starts(i->layers[0], CSTORE_BASES "/") && image_name_env_dir(i->name, &dir);
}

static void add_layers(struct state *s, const struct image *i)
{
	bool unchanged = is_unchanged(i);

	for (size_t k = 0; k < i->n_layers; k++) {
		struct layer *l = map_get(s->layers, i->layers[k]);
		uint64_t bytes = bytes_of(i, k);
		if (!l)
			map_put(s->layers, i->layers[k], l = NEW(struct layer));
		if (bytes > l->bytes) {
			s->total += bytes - l->bytes;
			l->bytes = bytes;
		}
		l->users++;
		l->above += k || unchanged;
	}
}

static void add_name(struct state *s, const struct choice *c)
{
	struct map *groups = s->by_digest[is_unchanged(c->image)];
	struct group *g = map_get(groups, c->image->digest);

	if (!g)
		map_put(groups, c->image->digest, g = NEW(struct group));
	g->used_ms = g->names && g->used_ms > c->used_ms ? g->used_ms : c->used_ms;
	g->kept |= c->kept;
	g->names++;
}

static void begin(struct state *s, struct choice *list, size_t n)
{
	*s = (struct state){ .list = list, .n = n, .layers = map_new(), .by_digest = { map_new(), map_new() } };
	for (size_t k = 0; k < n; k++) {
		add_layers(s, list[k].image);
		add_name(s, &list[k]);
		list[k].goes = false;
		list[k].frees_bytes = 0;
	}
}

static void end_map(struct map *m)
{
	struct map_iter it = { 0 };

	while (map_next(m, &it))
		free(it.value);
	map_free(m);
}

static void end(struct state *s)
{
	end_map(s->layers);
	end_map(s->by_digest[0]);
	end_map(s->by_digest[1]);
}

static struct group *group_of(const struct state *s, const struct choice *c)
{
	return map_get(s->by_digest[is_unchanged(c->image)], c->image->digest);
}

static bool may_go(const struct state *s, const struct choice *c, const struct group *g)
{
	const struct image *i = c->image;

	if (g->kept || g->gone || !i->n_layers)
		return false;
	/* Others of the same top layer are no reason: it stays for them. One of them has to be the first to go. */
	const struct layer *top = map_get(s->layers, i->layers[0]);
	return is_unchanged(i) || !top->above;
}

static struct choice *oldest(const struct state *s)
{
	struct choice *found = NULL;
	int64_t least = 0;

	for (size_t k = 0; k < s->n; k++) {
		const struct group *g = group_of(s, &s->list[k]);
		if (!may_go(s, &s->list[k], g) || (found && g->used_ms >= least))
			continue;
		found = &s->list[k];
		least = g->used_ms;
	}
	return found;
}

static void take(struct state *s, struct choice *c)
{
	bool unchanged = is_unchanged(c->image);

	for (size_t k = 0; k < c->image->n_layers; k++) {
		struct layer *l = map_get(s->layers, c->image->layers[k]);
		l->above -= k || unchanged;
		if (--l->users)
			continue;
		c->frees_bytes += l->bytes;
		s->total -= l->bytes;
	}
	c->goes = true;
}

uint64_t image_choose_total(const struct choice *list, size_t n)
{
	struct state s = { .layers = map_new(), .by_digest = { map_new(), map_new() } };

	for (size_t k = 0; k < n; k++)
		add_layers(&s, list[k].image);
	end(&s);
	return s.total;
}

size_t image_choose(struct choice *list, size_t n, uint64_t budget, size_t *order, uint64_t *ret_left)
{
	struct state s;
	struct choice *c;
	size_t n_order = 0;

	begin(&s, list, n);
	while (s.total > budget && (c = oldest(&s))) {
		struct group *g = group_of(&s, c);
		g->gone = true;
		for (size_t k = 0; k < n; k++) {
			if (group_of(&s, &list[k]) != g)
				continue;
			take(&s, &list[k]);
			order[n_order++] = k;
		}
	}
	*ret_left = s.total;
	end(&s);
	return n_order;
}
