/* Jobs that bring an image here: pull, bootstrap, import. One job per kind, name and archive serves every caller that asks
 * while it runs; each caller is a waiter. A waiter whose image is here already waits for the loop's next turn only. */
#include <errno.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "base/time.h"
#include "image/private.h"
#include "image/record.h"

struct waiter {
	struct list in_fetch;
	struct images *images;
	char *ref; /* as the caller wrote it */
	engine_progress_fn *progress;
	engine_image_fn *done;
	void *arg;
	struct image *image; /* the answer of a deferred waiter */
	struct err err;      /* the same; code 0 = success */
};

struct fetch {
	struct list in_images;
	struct images *images; /* NULL = the owner is gone: only free it */
	const char *kind;      /* of the job: "pull", "bootstrap", "import" */
	char *name;            /* normalised, aliases followed */
	char *path;            /* of the archive; NULL = the kind has none */
	uint64_t job;
	bool started;          /* it waits for a removal of the image otherwise, or a sweep */
	struct list waiters;
	struct loop_timer limit;
	struct err err; /* why the job could not start */
	struct err late; /* it was ended for its time; code 0 = it was not */
};

/* -- waiters ------------------------------------------------------------------------------------------------------ */
static struct waiter *waiter_new(struct images *s, const char *ref, engine_progress_fn *progress, engine_image_fn *done,
				 void *arg)
{
	struct waiter *w = NEW(struct waiter);

	w->images = s;
	w->ref = xstrdup(ref);
	w->progress = progress;
	w->done = done;
	w->arg = arg;
	list_init(&w->in_fetch);
	return w;
}

static void waiter_finish(void *arg)
{
	struct waiter *w = arg;

	list_remove(&w->in_fetch);
	if (w->done)
		w->done(w->arg, w->image, w->err.code ? &w->err : NULL);
	else
		image_unref(w->image);
	free(w->ref);
	free(w);
}

/* -- the job ------------------------------------------------------------------------------------------------------ */
static void fetch_line(void *arg, const char *line)
{
	struct fetch *f = arg;

	list_foreach(&f->waiters, struct waiter, in_fetch, w)
		if (w->progress)
			w->progress(w->arg, line);
}

static void explain(struct waiter *w, const struct fetch *f, const char *reason)
{
	auto_free char *same = NULL;

	if (!str_eq(f->kind, "pull")) {
		err_set(&w->err, -EIO, "image %s: %s failed: %s", f->name, f->kind, reason);
		return;
	}
	bool aliased = image_normalise(&same, w->ref, NULL) < 0 || !str_eq(same, f->name);
	err_set(&w->err, -ENOENT, "image %s%s%s is not here and could not be pulled: %s", w->ref, aliased ? " = " : "",
		aliased ? f->name : "", reason);
}

static void fetch_answer(struct fetch *f, const char *reason)
{
	list_foreach(&f->waiters, struct waiter, in_fetch, w) {
		if (reason)
			explain(w, f, reason);
		else
			(void)!images_load(f->images, f->name, &w->image, &w->err);
		waiter_finish(w);
	}
}

static void fetch_free(struct fetch *f)
{
	loop_timer_stop(&f->limit);
	free(f->name);
	free(f->path);
	free(f);
}

static void fetch_done(void *arg, int status, const struct err *err)
{
	struct fetch *f = arg;

	if (status && f->late.code)
		err = &f->late;
	if (f->images) {
		/* Out of the list first: a waiter's callback may ask for the same name again. */
		list_remove(&f->in_images);
		if (!status && !err)
			uses_set(f->images->uses, f->name, time_wall_ms());
		if (f->path)
			images_sweep_soon(f->images);
		images_gc_soon(f->images);
		fetch_answer(f, !status && !err ? NULL : err && err->msg[0] ? err->msg : "the job gave no reason");
	}
	fetch_free(f);
}

/* A registry that answers no more, say. Its job tells the end of it. */
static void on_limit(struct loop_timer *t UNUSED, void *arg)
{
	struct fetch *f = arg;

	err_set(&f->late, -ETIME, "it took longer than %llu s", (unsigned long long)f->images->limit_ms / 1000);
	if (f->started)
		f->images->jobs->cancel(f->images->jobs, f->job);
	else
		fetch_done(f, -1, NULL);
}

static void fetch_failed(void *arg)
{
	struct fetch *f = arg;

	fetch_done(f, -1, &f->err);
}

/* Another archive under the same name is another image: who brings that one must not be answered with this one. */
static struct fetch *fetch_find(struct images *s, const char *kind, const char *name, const char *path)
{
	list_foreach(&s->fetches, struct fetch, in_images, f)
		if (str_eq(f->kind, kind) && str_eq(f->name, name) && (f->path == path || str_eq(f->path, path)))
			return f;
	return NULL;
}

bool images_is_fetched(struct images *s, const char *name)
{
	list_foreach(&s->fetches, struct fetch, in_images, f)
		if (str_eq(f->name, name))
			return true;
	return false;
}

bool images_is_importing(const struct images *s)
{
	list_foreach((struct list *)&s->fetches, struct fetch, in_images, f)
		if (f->path && f->started)
			return true;
	return false;
}

/* The jobs of one store wait for each other in no order: a removal that comes after the pull would leave nothing of it, and a
 * sweep that knows nothing of the image which the import replaces would take that. */
static bool must_wait(const struct images *s, const struct fetch *f)
{
	return images_is_going(s, f->name) || (f->path && s->sweeping);
}

static void fetch_start(struct fetch *f)
{
	const char *argv[] = { f->path ? f->path : f->name, f->path ? f->name : NULL, NULL };
	struct images *s = f->images;

	f->started = true;
	if (s->jobs->start(s->jobs, f->kind, argv, -1, fetch_line, fetch_done, f, &f->job, &f->err) == 0)
		return;
	loop_timer_stop(&f->limit);
	loop_defer(s->loop, fetch_failed, f);
}

/* A removal that could not be done leaves the image: nothing is to be pulled then. */
void images_go_on(struct images *s, const char *name)
{
	list_foreach(&s->fetches, struct fetch, in_images, f) {
		AUTO(image_freep) struct image *here = NULL;

		if (f->started || (name && !str_eq(f->name, name)) || must_wait(s, f))
			continue;
		if (!f->path && images_load(s, f->name, &here, NULL) == 0)
			fetch_done(f, 0, NULL);
		else
			fetch_start(f);
	}
}

static void fetch_join(struct images *s, const char *kind, const char *name, const char *path, struct waiter *w)
{
	struct fetch *f = fetch_find(s, kind, name, path);

	if (!f) {
		f = NEW(struct fetch);
		f->images = s;
		f->kind = kind;
		f->name = xstrdup(name);
		f->path = path ? xstrdup(path) : NULL;
		list_init(&f->waiters);
		list_push_back(&s->fetches, &f->in_images);
		loop_timer_init(&f->limit, s->loop, on_limit, f);
		if (s->limit_ms)
			loop_timer_start(&f->limit, s->limit_ms);
		if (!must_wait(s, f))
			fetch_start(f);
	}
	list_push_back(&f->waiters, &w->in_fetch);
}

void images_cancel_fetches(struct images *s)
{
	list_foreach(&s->fetches, struct fetch, in_images, f) {
		list_foreach(&f->waiters, struct waiter, in_fetch, w) {
			w->done = NULL;
			waiter_finish(w);
		}
		f->images = NULL;
		loop_timer_stop(&f->limit);
		list_remove(&f->in_images);
		if (!f->started)
			fetch_free(f);
		else if (!f->err.code)
			s->jobs->cancel(s->jobs, f->job);
	}
}

/* -- entry points -------------------------------------------------------------------------------------------------- */
void images_prepare(struct images *s, const char *ref, engine_progress_fn *progress, engine_image_fn *done, void *arg)
{
	struct waiter *w = waiter_new(s, ref, progress, done, arg);
	auto_free char *name = NULL;

	int r = images_resolve(s, ref, &name, &w->err);
	if (r == 0)
		r = images_load(s, name, &w->image, &w->err);
	if (r == 0)
		uses_set(s->uses, name, time_wall_ms());
	if (r == -ENOENT && !str_starts(name, "localhost/")) {
		w->err.code = 0;
		fetch_join(s, "pull", name, NULL, w);
		return;
	}
	if (r == -ENOENT)
		err_set(&w->err, r, "image %s is not here; names below localhost/ are built here and never pulled",
			ref);
	loop_defer(s->loop, waiter_finish, w);
}

void images_bootstrap(struct images *s, const char *ref, engine_progress_fn *progress, engine_image_fn *done, void *arg)
{
	struct waiter *w = waiter_new(s, ref, progress, done, arg);
	auto_free char *name = NULL;

	int r = image_normalise(&name, ref, &w->err);
	if (r == 0)
		r = images_load(s, name, &w->image, &w->err);
	if (r != -ENOENT) {
		loop_defer(s->loop, waiter_finish, w);
		return;
	}
	w->err.code = 0;
	fetch_join(s, "bootstrap", name, NULL, w);
}

void images_import(struct images *s, const char *path, const char *ref, engine_progress_fn *progress,
		   engine_image_fn *done, void *arg)
{
	struct waiter *w = waiter_new(s, ref, progress, done, arg);
	auto_free char *name = NULL;

	int r = image_normalise(&name, ref, &w->err);
	if (r == 0 && path[0] != '/')
		r = err_set(&w->err, -EINVAL, "path: \"%.200s\": expected an absolute path of this machine", path);
	if (r < 0) {
		loop_defer(s->loop, waiter_finish, w);
		return;
	}
	fetch_join(s, "import", name, path, w);
}
