/* Images that were replaced: another one came under their name. They have neither name nor record any more, so only the store
 * knows of them, and a job removes those which no box uses. It runs soon after an import, which is what replaces, and no import
 * begins meanwhile; then again, when it could not do all: for a box that has one, a build that may need one. */
#include "base/mem.h"
#include "base/str.h"
#include "image/private.h"

#define SOON_MS 2000
#define AGAIN_MS 60000

struct sweep { /* one job */
	struct images *images; /* NULL = gone */
	uint64_t job;
};

void images_sweep_soon(struct images *s)
{
	s->to_sweep = true;
	if (s->boxes_known && !loop_timer_armed(&s->sweep_timer))
		loop_timer_start(&s->sweep_timer, SOON_MS);
}

static bool is_build(const struct image *i)
{
	return str_starts(i->name, "localhost/env/");
}

/* False: one that must stay has no place in the list, or nothing that tells it from others, or is in another store. */
static bool keep(const char **argv, size_t *n, const struct image *i)
{
	if (*n == IMAGE_SWEEP_MAX || str_empty(i->digest) || is_build(i))
		return false;
	argv[(*n)++] = i->digest;
	return true;
}

/* What boxes use, of a name that may be another's, or nobody's, by the time the job runs. */
static bool list_used(struct images *s, const char **argv, size_t *ret_old)
{
	struct map_iter it = { 0 };
	size_t n = 0;
	bool fits = true;

	*ret_old = 0;
	while (map_next(s->cache, &it)) {
		struct cached *c = it.value;

		cached_drop_unused(c);
		*ret_old += c->n_old;
		for (size_t k = 0; k < c->n_old; k++)
			fits = fits && keep(argv, &n, c->old[k]);
		if (c->image && c->image->refs > 1 && !is_build(c->image))
			fits = fits && keep(argv, &n, c->image);
	}
	return fits;
}

/* A failure of another kind is the next import's to meet. */
static void on_swept(void *arg, int status, const struct err *err UNUSED)
{
	auto_free struct sweep *x = arg;
	struct images *s = x->images;

	if (!s)
		return;
	s->sweeping = NULL;
	s->to_sweep = s->to_sweep || status == IMAGE_JOB_BUSY;
	images_go_on(s, NULL);
}

static void start(struct images *s, const char *const *argv)
{
	struct sweep *x = NEW(struct sweep);

	x->images = s;
	if (s->jobs->start(s->jobs, "sweep", argv, -1, NULL, on_swept, x, &x->job, NULL) < 0) {
		free(x);
		return;
	}
	s->sweeping = x;
	s->to_sweep = false;
}

void images_on_sweep(struct loop_timer *t, void *arg)
{
	const char *argv[IMAGE_SWEEP_MAX + 1] = { NULL };
	struct images *s = arg;
	size_t old = 0;
	bool fits = list_used(s, argv, &old);

	s->to_sweep = s->to_sweep || old < s->old_at_sweep;
	if (fits && s->to_sweep && !s->sweeping && !images_is_importing(s)) {
		s->old_at_sweep = old;
		start(s, argv);
	}
	if (s->to_sweep || s->sweeping || old > 0)
		loop_timer_start(t, AGAIN_MS);
}

void images_cancel_sweep(struct images *s)
{
	loop_timer_stop(&s->sweep_timer);
	if (s->sweeping)
		s->sweeping->images = NULL;
}
