/* Keeping the images within a budget. One step at a time: the records are read by a worker, what goes first is chosen, its job
 * is run, and all is looked at anew, as what is used may have changed meanwhile. */
#include <errno.h>

#include "base/mem.h"
#include "base/str.h"
#include "image/choose.h"
#include "image/private.h"
#include "image/record.h"

#define SOON_MS 2000
#define EVERY_MS (5 * 60 * 1000)

struct gc {
	struct list in_images; /* while it waits for the one before */
	struct images *images; /* NULL = gone */
	char *data_dir;        /* for the worker */
	uint64_t bytes;        /* the rest may have so many */
	engine_progress_fn *progress;
	images_gc_fn *done; /* NULL = nobody asked for it */
	void *arg;
	struct map *failed; /* names that could not be removed: not tried again */
	struct image **list; /* of this step */
	size_t n;
	char *name;         /* that is being removed */
	uint64_t frees_bytes;
	struct images_gc how;
	struct err err; /* the first failure; code 0 = none */
	bool working;   /* a worker reads */
};

static void gc_step(struct gc *g);
static void start_next(struct images *s);

/* -- making and freeing ------------------------------------------------------------------------------------------ */
static void forget_list(struct gc *g)
{
	g->list = image_list_free(g->list, g->n);
	g->n = 0;
}

static void gc_free(struct gc *g)
{
	forget_list(g);
	map_free(g->failed);
	free(g->data_dir);
	free(g->name);
	free(g);
}

static void gc_end(struct gc *g)
{
	struct images *s = g->images;

	s->gc = NULL;
	if (g->done)
		g->done(g->arg, &g->how, g->err.code ? &g->err : NULL);
	gc_free(g);
	start_next(s);
}

void images_cancel_gc(struct images *s)
{
	struct gc *g = s->gc;

	list_foreach(&s->collections, struct gc, in_images, waiting) {
		list_remove(&waiting->in_images);
		gc_free(waiting);
	}
	s->gc = NULL;
	if (!g)
		return;
	g->images = NULL;
	if (!g->working)
		gc_free(g); /* a removal that runs forgot its caller before */
}

/* -- what is kept ------------------------------------------------------------------------------------------------ */
static bool is_alias_target(struct images *s, const char *name)
{
	for (const struct image_alias *a = s->aliases; a && a->from; a++) {
		auto_free char *to = NULL;
		if (images_resolve(s, a->from, &to, NULL) == 0 && str_eq(to, name))
			return true;
	}
	return false;
}

static bool is_kept(struct gc *g, const char *name)
{
	struct images *s = g->images;

	return map_get(g->failed, name) || images_is_busy(s, name) || images_is_moving(s, name) || is_alias_target(s, name) ||
	       (s->budget.needed && s->budget.needed(s->budget.arg, name));
}

/* -- one removal ------------------------------------------------------------------------------------------------- */
static void tell(struct gc *g, const struct err *err)
{
	struct images *s = g->images;

	if (s->budget.told)
		s->budget.told(s->budget.arg, g->name, g->frees_bytes, err);
	if (!g->progress)
		return;
	auto_free char *line = err ? xasprintf("%s stays: %s", g->name, err->msg)
				   : xasprintf("removed %s: %.1f MiB", g->name, (double)g->frees_bytes / (1 << 20));
	g->progress(g->arg, line);
}

static void on_removed(void *arg, const struct err *err)
{
	struct gc *g = arg;

	tell(g, err);
	if (err) {
		map_put(g->failed, g->name, g);
		if (!g->err.code)
			err_copy(&g->err, err);
	} else {
		g->how.removed++;
		g->how.freed_bytes += g->frees_bytes;
	}
	gc_step(g);
}

/* -- one step ---------------------------------------------------------------------------------------------------- */
/* The place of what goes next; false: nothing is to go, or may. */
static bool choose(struct gc *g, size_t *ret)
{
	auto_free struct choice *list = xcalloc(g->n + 1, sizeof(*list));
	auto_free size_t *order = xcalloc(g->n + 1, sizeof(*order));

	for (size_t k = 0; k < g->n; k++)
		list[k] = (struct choice){ .image = g->list[k], .used_ms = images_used_ms(g->images, g->list[k]->name, NULL),
					   .kept = is_kept(g, g->list[k]->name) };
	if (!image_choose(list, g->n, g->bytes, order, &g->how.left_bytes))
		return false;
	g->frees_bytes = list[order[0]].frees_bytes;
	*ret = order[0];
	return true;
}

static void read_records(void *arg)
{
	struct gc *g = arg;

	(void)!image_record_list(g->data_dir, &g->list, &g->n, NULL); /* what cannot be read is looked at the next time */
}

static void on_read(void *arg)
{
	struct gc *g = arg;
	size_t which;

	g->working = false;
	if (!g->images) {
		gc_free(g);
		return;
	}
	bool any = choose(g, &which);
	free(g->name);
	g->name = any ? xstrdup(g->list[which]->name) : NULL;
	forget_list(g);
	if (any)
		images_remove(g->images, g->name, on_removed, g);
	else
		gc_end(g);
}

static void gc_step(struct gc *g)
{
	g->working = true;
	loop_work(g->images->loop, LOOP_LANE_ANY, read_records, on_read, g);
}

static void gc_start(struct gc *g)
{
	g->images->gc = g;
	gc_step(g);
}

static void start_next(struct images *s)
{
	struct gc *g = list_first(&s->collections, struct gc, in_images);

	if (!g || s->gc)
		return;
	list_remove(&g->in_images);
	gc_start(g);
}

static struct gc *gc_new(struct images *s, uint64_t bytes, engine_progress_fn *progress, images_gc_fn *done, void *arg)
{
	struct gc *g = NEW(struct gc);

	*g = (struct gc){ .images = s, .data_dir = xstrdup(s->data_dir), .bytes = bytes, .progress = progress, .done = done,
			  .arg = arg, .failed = map_new() };
	list_init(&g->in_images);
	return g;
}

/* -- when -------------------------------------------------------------------------------------------------------- */
void images_on_look(struct loop_timer *t, void *arg)
{
	struct images *s = arg;

	if (!s->gc)
		gc_start(gc_new(s, s->budget.bytes, NULL, NULL, NULL));
	loop_timer_start(t, EVERY_MS);
}

void images_budget(struct images *s, const struct images_budget *budget)
{
	s->budget = *budget;
	s->boxes_known = true;
	if (s->to_sweep)
		images_sweep_soon(s);
	if (budget->bytes)
		loop_timer_start(&s->look, SOON_MS);
}

uint64_t images_budget_bytes(const struct images *s)
{
	return s->budget.bytes;
}

uint64_t images_total_bytes(struct image *const *list, size_t n)
{
	auto_free struct choice *all = xcalloc(n + 1, sizeof(*all));

	for (size_t k = 0; k < n; k++)
		all[k].image = list[k];
	return image_choose_total(all, n);
}

void images_gc_soon(struct images *s)
{
	if (s->budget.bytes)
		loop_timer_start(&s->look, SOON_MS);
}

void images_gc(struct images *s, uint64_t bytes, engine_progress_fn *progress, images_gc_fn *done, void *arg)
{
	struct gc *g = gc_new(s, bytes, progress, done, arg);

	if (s->gc)
		list_push_back(&s->collections, &g->in_images);
	else
		gc_start(g);
}
