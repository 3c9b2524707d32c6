#include <errno.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "base/time.h"
#include "image/private.h"
#include "image/record.h"

#define ALIAS_HOPS 8

int images_new(struct images **ret, struct loop *l, const char *data_dir, const struct image_alias *aliases,
	       struct image_jobs *jobs, struct err *err)
{
	for (const struct image_alias *a = aliases; a && a->from; a++) {
		auto_free char *from = NULL, *to = NULL;
		int r = image_normalise(&from, a->from, err);
		if (r == 0)
			r = image_normalise(&to, a->to, err);
		if (r < 0)
			return err_wrap(err, r, "images.aliases");
	}
	struct images *s = NEW(struct images);
	s->loop = l;
	s->data_dir = data_dir;
	s->aliases = aliases;
	s->jobs = jobs;
	s->cache = map_new();
	list_init(&s->fetches);
	list_init(&s->removals);
	list_init(&s->collections);
	s->uses = uses_open(l, data_dir);
	loop_timer_init(&s->look, l, images_on_look, s);
	loop_timer_init(&s->sweep_timer, l, images_on_sweep, s);
	*ret = s;
	return 0;
}

void images_time_limit(struct images *s, uint64_t ms)
{
	s->limit_ms = ms;
}

/* -- records, cached ------------------------------------------------------------------------------------------- */
static struct cached *cached_free(struct cached *c)
{
	if (!c)
		return NULL;
	image_unref(c->image);
	image_list_free(c->old, c->n_old);
	free(c);
	return NULL;
}

void cached_drop_unused(struct cached *c)
{
	size_t kept = 0;

	for (size_t k = 0; k < c->n_old; k++)
		if (c->old[k]->refs == 1)
			image_unref(c->old[k]);
		else
			c->old[kept++] = c->old[k];
	c->n_old = kept;
}

static void keep_old(struct cached *c, struct image *i)
{
	c->old = xrealloc(c->old, (c->n_old + 1) * sizeof(*c->old));
	c->old[c->n_old++] = i;
}

static void cached_replace(struct cached *c, struct image *i, const struct stat *seen)
{
	cached_drop_unused(c);
	if (c->image)
		keep_old(c, c->image);
	c->image = i;
	c->seen = *seen;
	cached_drop_unused(c);
}

static bool cached_busy(struct cached *c)
{
	cached_drop_unused(c);
	return c->n_old > 0 || (c->image && c->image->refs > 1);
}

static void images_forget(struct images *s, const char *name)
{
	struct cached *c = map_get(s->cache, name);

	if (c && !cached_busy(c))
		cached_free(map_del(s->cache, name));
}

static bool same_file(const struct stat *a, const struct stat *b)
{
	return a->st_ino == b->st_ino && a->st_size == b->st_size && a->st_mtim.tv_sec == b->st_mtim.tv_sec &&
	       a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

static int load_new(struct images *s, const char *name, const char *path, const struct stat *st, struct image **ret,
		    struct err *err)
{
	AUTO(image_freep) struct image *i = NULL;

	int r = image_record_read(&i, path, err);
	if (r < 0)
		return r;
	if (!str_eq(i->name, name))
		return err_set(err, -EINVAL, "image record %s is of another image: %s", path, i->name);
	struct cached *c = map_get(s->cache, name);
	if (!c)
		map_put(s->cache, name, c = NEW(struct cached));
	cached_replace(c, STEAL(i), st);
	*ret = image_ref(c->image);
	return 0;
}

struct image *images_adopt(struct images *s, struct image *i)
{
	struct cached *c = map_get(s->cache, i->name);

	if (!c)
		map_put(s->cache, i->name, c = NEW(struct cached));
	for (size_t k = 0; k < c->n_old; k++)
		if (str_eq(c->old[k]->digest, i->digest)) {
			image_unref(i);
			return image_ref(c->old[k]);
		}
	keep_old(c, image_ref(i));
	images_sweep_soon(s); /* when its box has ended */
	return i;
}

bool images_is_busy(struct images *s, const char *name)
{
	struct cached *c = map_get(s->cache, name);

	return c && cached_busy(c);
}

bool images_is_moving(struct images *s, const char *name)
{
	return images_is_going(s, name) || images_is_fetched(s, name);
}

int images_load(struct images *s, const char *name, struct image **ret, struct err *err)
{
	auto_free char *path = image_record_path(s->data_dir, name);
	struct cached *c = map_get(s->cache, name);
	struct stat st;

	if (images_is_going(s, name))
		return err_set(err, -ENOENT, "image %s is being removed", name);
	if (stat(path, &st) < 0) {
		if (errno != ENOENT)
			return err_sys(err, "look for image %s: %s", name, path);
		images_forget(s, name);
		return err_set(err, -ENOENT, "image %s is not here", name);
	}
	if (!c || !c->image || !same_file(&c->seen, &st))
		return load_new(s, name, path, &st, ret, err);
	*ret = image_ref(c->image);
	return 0;
}

/* -- names ------------------------------------------------------------------------------------------------------ */
/* The target of the alias whose normalised form is name, or NULL. images_new has checked that all normalise. */
static const char *alias_of(const struct images *s, const char *name)
{
	for (const struct image_alias *a = s->aliases; a && a->from; a++) {
		auto_free char *from = NULL;
		if (image_normalise(&from, a->from, NULL) == 0 && str_eq(from, name))
			return a->to;
	}
	return NULL;
}

int images_resolve(struct images *s, const char *ref, char **ret, struct err *err)
{
	auto_free char *name = NULL;

	int r = image_normalise(&name, ref, err);
	for (int hop = 0; r == 0; hop++) {
		const char *to = alias_of(s, name);
		if (!to)
			break;
		if (hop == ALIAS_HOPS)
			return err_set(err, -EINVAL, "images.aliases: \"%s\" leads in a circle", ref);
		auto_free char *next = NULL;
		r = image_normalise(&next, to, err);
		if (r == 0) {
			free(name);
			name = STEAL(next);
		}
	}
	if (r < 0)
		return r;
	*ret = STEAL(name);
	return 0;
}

int images_find(struct images *s, const char *ref, struct image **ret, struct err *err)
{
	auto_free char *name = NULL;

	int r = images_resolve(s, ref, &name, err);
	r = r < 0 ? r : images_load(s, name, ret, err);
	if (r == 0)
		uses_set(s->uses, name, time_wall_ms());
	return r;
}

bool images_has(struct images *s, const char *ref)
{
	AUTO(image_freep) struct image *img = NULL;

	return images_find(s, ref, &img, NULL) == 0;
}

int64_t images_used_ms(struct images *s, const char *name, bool *ret_busy)
{
	bool busy = images_is_busy(s, name);
	int64_t at_ms = busy ? time_wall_ms() : uses_get(s->uses, name);
	struct stat st;

	if (busy)
		uses_set(s->uses, name, at_ms);
	if (ret_busy)
		*ret_busy = busy;
	if (at_ms)
		return at_ms;
	auto_free char *path = image_record_path(s->data_dir, name);
	return stat(path, &st) < 0 ? 0 : (int64_t)st.st_mtim.tv_sec * 1000;
}

int images_list(struct images *s, struct image ***ret, size_t *ret_n, struct err *err)
{
	return image_record_list(s->data_dir, ret, ret_n, err);
}

/* -- removal ----------------------------------------------------------------------------------------------------- */
struct removal {
	struct list in_images;
	struct images *images; /* NULL = gone meanwhile */
	char *name;
	engine_done_fn *done;
	void *arg;
	struct err err; /* code 0 = success */
	uint64_t job;
	bool running;
};

/* From here on nobody may begin to use it. */
bool images_is_going(const struct images *s, const char *name)
{
	list_foreach((struct list *)&s->removals, struct removal, in_images, x)
		if (x->running && str_eq(x->name, name))
			return true;
	return false;
}

static void removal_finish(void *arg)
{
	struct removal *x = arg;

	list_remove(&x->in_images);
	if (x->images) {
		if (!x->err.code) {
			images_forget(x->images, x->name);
			uses_forget(x->images->uses, x->name);
			images_sweep_soon(x->images); /* it may have lain on one */
		}
		if (x->running)
			images_go_on(x->images, x->name);
		x->done(x->arg, x->err.code ? &x->err : NULL);
	}
	free(x->name);
	free(x);
}

static void removal_done(void *arg, int status, const struct err *err)
{
	struct removal *x = arg;

	if (err && err->code == -ENOENT)
		err_copy(&x->err, err);
	else if (status || err)
		err_set(&x->err, err && err->code == -EBUSY ? -EBUSY : -EIO, "image %s could not be removed: %s",
			x->name, err ? err->msg : "its job failed");
	removal_finish(x);
}

static bool has_layer(const struct image *i, const char *layer)
{
	for (size_t k = 0; k < i->n_layers; k++)
		if (str_eq(i->layers[k], layer))
			return true;
	return false;
}

/* One that was replaced has no name and no record any more, and the tool removes such a one with its last child. */
static bool is_below_old(const struct images *s, const struct image *i)
{
	struct map_iter it = { 0 };

	while (map_next(s->cache, &it)) {
		struct cached *c = it.value;

		cached_drop_unused(c);
		for (size_t n = 0; n < c->n_old; n++)
			for (size_t k = 0; k < i->n_layers; k++)
				if (has_layer(c->old[n], i->layers[k]))
					return true;
	}
	return false;
}

static bool any_old(const struct images *s)
{
	struct map_iter it = { 0 };

	while (map_next(s->cache, &it)) {
		struct cached *c = it.value;

		cached_drop_unused(c);
		if (c->n_old > 0)
			return true;
	}
	return false;
}

/* Without a record, what an earlier removal left of it may be in the store still: its job looks. Of which layers it is nobody
 * knows here, so not while anything is used that was replaced. */
static int check_removal(struct images *s, const char *name, struct err *err)
{
	AUTO(image_freep) struct image *i = NULL;

	if (images_is_going(s, name))
		return err_set(err, -ENOENT, "image %s is being removed", name);
	int r = images_load(s, name, &i, err);
	if (r < 0 && r != -ENOENT)
		return r;
	struct cached *c = map_get(s->cache, name);
	bool below = i ? is_below_old(s, i) : any_old(s);
	i = image_unref(i);
	if ((c && cached_busy(c)) || (below && r == 0))
		return err_set(err, -EBUSY, "image %s is used by a sandbox or an instance", name);
	return below ? r : 0;
}

static int removal_start(struct removal *x)
{
	struct images *s = x->images;
	const char *argv[] = { x->name, NULL };

	int r = check_removal(s, x->name, &x->err);
	if (r < 0)
		return r;
	x->err.code = 0;
	x->running = true;
	return s->jobs->start(s->jobs, "remove", argv, -1, NULL, removal_done, x, &x->job, &x->err);
}

void images_remove(struct images *s, const char *ref, engine_done_fn *done, void *arg)
{
	struct removal *x = NEW(struct removal);

	x->images = s;
	x->done = done;
	x->arg = arg;
	list_init(&x->in_images);
	list_push_back(&s->removals, &x->in_images);
	if (image_normalise(&x->name, ref, &x->err) < 0 || removal_start(x) < 0)
		loop_defer(s->loop, removal_finish, x);
}

struct images *images_free(struct images *s)
{
	struct map_iter it = { 0 };

	if (!s)
		return NULL;
	list_foreach(&s->removals, struct removal, in_images, x) {
		x->images = NULL;
		list_remove(&x->in_images);
	}
	images_cancel_fetches(s);
	images_cancel_gc(s);
	images_cancel_sweep(s);
	loop_timer_stop(&s->look);
	uses_close(s->uses);
	while (map_next(s->cache, &it))
		cached_free(it.value);
	map_free(s->cache);
	free(s);
	return NULL;
}
