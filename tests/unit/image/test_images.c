/* The daemon's side of images, with a stand-in for the spawner's jobs. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "image/image.h"
#include "image/record.h"
#include "unit/image/tmpdir.h"

typedef void job_done_fn(void *arg, int status, const struct err *err);

static struct {
	struct image_jobs jobs;
	unsigned started, cancelled;
	char kind[32], args[2][256];
	engine_progress_fn *line;
	job_done_fn *done;
	void *arg;
	int refuse;
} fake;

static int fake_start(struct image_jobs *j, const char *kind, const char *const *argv, int input UNUSED, engine_progress_fn *line,
		      job_done_fn *done, void *arg, uint64_t *ret_job, struct err *err)
{
	(void)j;
	if (fake.refuse)
		return err_set(err, fake.refuse, "no spawner");
	fake.started++;
	snprintf(fake.kind, sizeof(fake.kind), "%s", kind);
	for (size_t i = 0; i < 2 && argv[i]; i++)
		snprintf(fake.args[i], sizeof(fake.args[i]), "%s", argv[i]);
	fake.line = line;
	fake.done = done;
	fake.arg = arg;
	*ret_job = fake.started;
	return 0;
}

static void fake_cancel(struct image_jobs *j, uint64_t job)
{
	(void)j;
	(void)job;
	fake.cancelled++;
}

static char dir[] = "/tmp/orw-images-XXXXXX";
static struct loop *loop;
static struct images *images;
static const struct image_alias aliases[] = {
	{ "ubuntu:22.04", "python:3.11-slim" }, { "ring:1", "ring:2" }, { "ring:2", "ring:1" }, { NULL, NULL }
};

static void begin(void)
{
	struct err err = ERR_INIT;

	tmpdir_make(dir);
	fake.jobs = (struct image_jobs){ fake_start, fake_cancel };
	cr_assert_eq(loop_new(&loop, &err), 0);
	cr_assert_eq(images_new(&images, loop, dir, aliases, &fake.jobs, &err), 0, "%s", err.msg);
}

static void end(void)
{
	tmpdir_remove(dir);
}

TestSuite(images, .init = begin, .fini = end, .timeout = 20);

static void put_layer(const char *name, const char *digest, const char *layer, uint64_t bytes)
{
	struct err err = ERR_INIT;
	struct image *i = image_new();

	i->name = xstrdup(name);
	i->digest = xstrdup(digest);
	i->layers = xcalloc(1, sizeof(char *));
	i->layers[i->n_layers++] = xstrdup(layer);
	i->size_bytes = bytes;
	i->workdir = xstrdup("/");
	i->user = xstrdup("");
	cr_assert_eq(image_record_write(dir, i, &err), 0, "%s", err.msg);
	image_unref(i);
}

static void put_record(const char *name, const char *digest)
{
	put_layer(name, digest, "bases/store/overlay/x/diff", 0);
}

static void stop(void *arg)
{
	(void)arg;
	loop_stop(loop, 0);
}

static void turn(void)
{
	loop_defer(loop, stop, NULL);
	cr_assert_eq(loop_run(loop), 0);
}

struct answer {
	unsigned calls, lines;
	struct image *image;
	struct err err;
};

static void on_line(void *arg, const char *line)
{
	(void)line;
	((struct answer *)arg)->lines++;
}

static void on_image(void *arg, struct image *img, const struct err *err)
{
	struct answer *a = arg;

	a->calls++;
	a->image = img;
	err_copy(&a->err, err);
}

static void on_done(void *arg, const struct err *err)
{
	struct answer *a = arg;

	a->calls++;
	err_copy(&a->err, err);
}

#define PYTHON "docker.io/library/python:3.11-slim"

Test(images, find_follows_aliases_and_sees_new_records)
{
	struct err err = ERR_INIT;
	struct image *i = NULL, *again = NULL;

	cr_assert_eq(images_find(images, "ubuntu:22.04", &i, &err), -ENOENT);
	put_record(PYTHON, "sha256:1");
	cr_assert_eq(images_find(images, "ubuntu:22.04", &i, &err), 0, "%s", err.msg);
	cr_assert_str_eq(i->name, PYTHON);
	cr_assert_eq(images_find(images, "python:3.11-slim", &again, &err), 0);
	cr_assert_eq(i, again, "one object while the record is the same");
	image_unref(again);
	put_record(PYTHON, "sha256:22");
	cr_assert_eq(images_find(images, "python:3.11-slim", &again, &err), 0);
	cr_assert_str_eq(again->digest, "sha256:22");
	cr_assert_str_eq(i->digest, "sha256:1", "what a box holds does not change");
	image_unref(again);
	image_unref(i);
	cr_assert_eq(images_find(images, "ring:1", &i, &err), -EINVAL);
	cr_assert(strstr(err.msg, "circle"), "%s", err.msg);
	images_free(images);
}

Test(images, prepare_answers_from_the_loop_only)
{
	struct answer a = { 0 };

	put_record(PYTHON, "sha256:1");
	images_prepare(images, "python:3.11-slim", NULL, on_image, &a);
	cr_assert_eq(a.calls, 0);
	turn();
	cr_assert_eq(a.calls, 1);
	cr_assert_not_null(a.image);
	cr_assert_eq(fake.started, 0);
	image_unref(a.image);
	images_free(images);
}

Test(images, one_pull_serves_all_who_wait)
{
	struct answer a[3] = { 0 };

	images_prepare(images, "python:3.11-slim", on_line, on_image, &a[0]);
	images_prepare(images, "ubuntu:22.04", on_line, on_image, &a[1]);
	images_prepare(images, PYTHON, NULL, on_image, &a[2]);
	turn();
	cr_assert_eq(fake.started, 1);
	cr_assert_str_eq(fake.kind, "pull");
	cr_assert_str_eq(fake.args[0], PYTHON);
	fake.line(fake.arg, "pulling");
	put_record(PYTHON, "sha256:1");
	fake.done(fake.arg, 0, NULL);
	for (int i = 0; i < 3; i++) {
		cr_assert_eq(a[i].calls, 1);
		cr_assert_not_null(a[i].image);
		image_unref(a[i].image);
	}
	cr_assert_eq(a[0].lines + a[1].lines, 2);
	images_free(images);
}

/* A registry that answers no more holds up neither those who wait nor those who come. */
Test(images, a_pull_that_takes_too_long_is_ended_and_may_be_tried_again)
{
	struct answer a = { 0 };
	struct err err = ERR_INIT;

	images_time_limit(images, 1);
	images_prepare(images, "python:3.11-slim", NULL, on_image, &a);
	while (!fake.cancelled)
		turn();
	cr_assert_eq(a.calls, 0, "the job tells its end");
	err_set(&err, -ECANCELED, "cancelled");
	fake.done(fake.arg, 255, &err);
	cr_assert_eq(a.calls, 1);
	cr_assert(strstr(a.err.msg, "could not be pulled: it took longer than 0 s"), "%s", a.err.msg);
	images_time_limit(images, 0);
	images_prepare(images, "python:3.11-slim", NULL, on_image, &a);
	turn();
	cr_assert_eq(fake.started, 2);
	images_free(images);
	fake.done(fake.arg, 255, &err);
}

Test(images, a_failed_pull_names_image_and_reason_and_may_be_tried_again)
{
	struct answer a = { 0 };
	struct err why = ERR_INIT;

	images_prepare(images, "nosuch:1", NULL, on_image, &a);
	err_set(&why, -EIO, "no such host");
	fake.done(fake.arg, 256, &why);
	cr_assert_eq(a.calls, 1);
	cr_assert_null(a.image);
	cr_assert_str_eq(a.err.msg, "image nosuch:1 is not here and could not be pulled: no such host");
	images_prepare(images, "nosuch:1", NULL, on_image, &a);
	cr_assert_eq(fake.started, 2);
	fake.refuse = -EPIPE;
	images_prepare(images, "other:1", NULL, on_image, &a);
	turn();
	cr_assert_eq(a.calls, 2);
	cr_assert(strstr(a.err.msg, "no spawner"), "%s", a.err.msg);
}

Test(images, names_of_builds_are_never_pulled)
{
	struct answer a = { 0 };

	images_prepare(images, "localhost/env/a/b:1", NULL, on_image, &a);
	turn();
	cr_assert_eq(fake.started, 0);
	cr_assert_eq(a.calls, 1);
	cr_assert_eq(a.err.code, -ENOENT);
	images_prepare(images, "BAD NAME", NULL, on_image, &a);
	turn();
	cr_assert_eq(a.err.code, -EINVAL);
	images_free(images);
}

Test(images, bootstrap_is_cached_and_import_needs_a_path)
{
	struct answer a = { 0 };

	images_bootstrap(images, "python:3.11-slim", NULL, on_image, &a);
	cr_assert_str_eq(fake.kind, "bootstrap");
	put_record(PYTHON, "sha256:1");
	fake.done(fake.arg, 0, NULL);
	image_unref(a.image);
	images_bootstrap(images, "python:3.11-slim", NULL, on_image, &a);
	turn();
	cr_assert_eq(fake.started, 1);
	cr_assert_eq(a.calls, 2);
	image_unref(a.image);
	images_import(images, "x.tar", "x:1", NULL, on_image, &a);
	turn();
	cr_assert_eq(a.err.code, -EINVAL);
	images_import(images, "/x.tar", "x:1", NULL, on_image, &a);
	cr_assert_str_eq(fake.kind, "import");
	cr_assert_str_eq(fake.args[0], "/x.tar");
	cr_assert_str_eq(fake.args[1], "docker.io/library/x:1");
}

/* The second archive would be forgotten, and its sender told that it is here. */
Test(images, another_archive_under_the_same_name_is_another_import)
{
	struct answer a = { 0 };

	images_import(images, "/a.tar", "x:1", NULL, on_image, &a);
	images_import(images, "/a.tar", "x:1", NULL, on_image, &a);
	cr_assert_eq(fake.started, 1);
	images_import(images, "/b.tar", "x:1", NULL, on_image, &a);
	cr_assert_eq(fake.started, 2);
	cr_assert_str_eq(fake.args[0], "/b.tar");
	put_record("docker.io/library/x:1", "sha256:2");
	fake.done(fake.arg, 0, NULL);
	cr_assert_eq(a.calls, 1, "those of the other archive wait for it");
	image_unref(a.image);
	images_free(images);
}

Test(images, what_is_used_is_not_removed)
{
	struct answer a = { 0 };
	struct image *i = NULL;

	struct err gone = { .code = -ENOENT, .msg = "is not here" };

	images_remove(images, "python:3.11-slim", on_done, &a);
	cr_assert_str_eq(fake.kind, "remove", "what a former removal left may be there");
	fake.done(fake.arg, IMAGE_JOB_GONE, &gone);
	cr_assert_eq(a.err.code, -ENOENT);
	fake.started = 0;
	put_record(PYTHON, "sha256:1");
	cr_assert_eq(images_find(images, PYTHON, &i, NULL), 0);
	images_remove(images, "python:3.11-slim", on_done, &a);
	turn();
	cr_assert_eq(a.err.code, -EBUSY, "%s", a.err.msg);
	/* A newer record does not free the older image's layers. */
	put_record(PYTHON, "sha256:22");
	images_remove(images, "python:3.11-slim", on_done, &a);
	turn();
	cr_assert_eq(a.err.code, -EBUSY);
	cr_assert_eq(fake.started, 0);
	image_unref(i);
	images_remove(images, "python:3.11-slim", on_done, &a);
	cr_assert_str_eq(fake.kind, "remove");
	a.err.code = 0;
	fake.done(fake.arg, 0, NULL);
	cr_assert_eq(a.calls, 4);
	cr_assert_eq(a.err.code, 0);
	images_free(images);
}

/* The store's tool takes images without a name away together with the last that lies on them. */
Test(images, what_lies_on_one_that_was_replaced_stays_while_that_is_used)
{
	struct answer a = { 0 };
	struct image *i = NULL;

	put_layer("docker.io/library/x:1", "sha256:1", "bases/store/overlay/a/diff", 1);
	cr_assert_eq(images_find(images, "x:1", &i, NULL), 0);
	put_layer("docker.io/library/x:1", "sha256:22", "bases/store/overlay/b/diff", 1);
	put_layer("docker.io/library/y:1", "sha256:3", "bases/store/overlay/a/diff", 1);
	struct image *newer = NULL;
	cr_assert_eq(images_find(images, "x:1", &newer, NULL), 0);
	image_unref(newer);
	images_remove(images, "y:1", on_done, &a);
	turn();
	cr_assert_eq(a.err.code, -EBUSY);
	cr_assert_eq(fake.started, 0);
	image_unref(i);
	images_remove(images, "y:1", on_done, &a);
	cr_assert_eq(fake.started, 1);
	fake.done(fake.arg, 0, NULL);
	images_free(images);
}

Test(images, what_was_replaced_goes_when_nobody_uses_it)
{
	const struct images_budget budget = { .bytes = 0 };
	struct answer a = { 0 }, b = { 0 };
	struct image *i = NULL;

	images_budget(images, &budget);
	put_record("docker.io/library/x:1", "sha256:1");
	cr_assert_eq(images_find(images, "x:1", &i, NULL), 0);
	images_import(images, "/a.tar", "x:1", NULL, on_image, &a);
	put_record("docker.io/library/x:1", "sha256:22");
	fake.done(fake.arg, 0, NULL);
	cr_assert_eq(a.calls, 1);
	image_unref(a.image);
	while (fake.started < 2)
		turn();
	cr_assert_str_eq(fake.kind, "sweep");
	cr_assert_str_eq(fake.args[0], "sha256:1");
	images_import(images, "/b.tar", "x:1", NULL, on_image, &b);
	turn();
	cr_assert_eq(fake.started, 2, "it knows nothing of what that would replace");
	fake.done(fake.arg, 0, NULL);
	cr_assert_eq(fake.started, 3);
	cr_assert_str_eq(fake.kind, "import");
	fake.done(fake.arg, 0, NULL);
	image_unref(b.image);
	image_unref(i);
	images_free(images);
}

static struct image *adopt(const char *digest)
{
	struct image *i = image_new();

	i->name = xstrdup("docker.io/library/x:1");
	i->digest = xstrdup(digest);
	i->layers = xcalloc(1, sizeof(char *));
	i->layers[i->n_layers++] = xstrdup("bases/store/overlay/a/diff");
	return images_adopt(images, i);
}

/* A sandbox that a former daemon made, of an image that was replaced. */
Test(images, what_is_adopted_stays_with_what_lies_on_it)
{
	struct answer a = { 0 };
	struct image *one = adopt("sha256:1"), *again = adopt("sha256:1"), *other = adopt("sha256:2");

	cr_assert(one == again && one != other);
	image_unref(again);
	image_unref(other);
	put_layer("docker.io/library/x:1", "sha256:22", "bases/store/overlay/b/diff", 1);
	put_layer("docker.io/library/y:1", "sha256:3", "bases/store/overlay/a/diff", 1);
	for (int i = 0; i < 2; i++) {
		images_remove(images, i ? "x:1" : "y:1", on_done, &a);
		turn();
		cr_assert_eq(a.err.code, -EBUSY);
	}
	cr_assert_eq(fake.started, 0);
	image_unref(one);
	images_remove(images, "y:1", on_done, &a);
	cr_assert_eq(fake.started, 1);
	fake.done(fake.arg, 0, NULL);
	images_free(images);
}

Test(images, the_end_cancels_and_calls_nobody)
{
	struct answer a = { 0 };

	images_prepare(images, "nosuch:1", NULL, on_image, &a);
	images_free(images);
	cr_assert_eq(fake.cancelled, 1);
	fake.done(fake.arg, 9, NULL);
	cr_assert_eq(a.calls, 0);
}

Test(images, what_is_being_removed_is_not_here)
{
	struct image *i = NULL;
	struct err err = ERR_INIT;
	struct answer a = { 0 };

	put_record("docker.io/library/x:1", "sha256:1");
	images_remove(images, "x:1", on_done, &a);
	cr_assert_eq(images_find(images, "x:1", &i, &err), -ENOENT, "its layers go any moment");
	cr_assert(strstr(err.msg, "being removed"), "%s", err.msg);
	err_set(&err, -EIO, "its job failed");
	fake.done(fake.arg, 1, &err);
	cr_assert_eq(a.calls, 1);
	cr_assert_eq(images_find(images, "x:1", &i, &err), 0, "it is here again");
	image_unref(i);
}

/* Both jobs would wait for the same lock, and the removal might get it second. */
Test(images, a_pull_waits_for_the_removal_of_the_image)
{
	struct answer gone = { 0 }, a[2] = { 0 };
	struct err err = ERR_INIT;

	put_record(PYTHON, "sha256:1");
	images_remove(images, PYTHON, on_done, &gone);
	images_prepare(images, PYTHON, NULL, on_image, &a[0]);
	images_prepare(images, PYTHON, NULL, on_image, &a[1]);
	turn();
	cr_assert_eq(fake.started, 1);
	auto_free char *path = image_record_path(dir, PYTHON);
	cr_assert_eq(unlink(path), 0);
	fake.done(fake.arg, 0, NULL);
	cr_assert_eq(gone.calls, 1);
	cr_assert_eq(fake.started, 2);
	cr_assert_str_eq(fake.kind, "pull");
	put_record(PYTHON, "sha256:1");
	fake.done(fake.arg, 0, NULL);
	cr_assert(a[0].image && a[1].image, "%s", a[0].err.msg);
	image_unref(a[0].image);
	image_unref(a[1].image);

	images_remove(images, PYTHON, on_done, &gone);
	images_prepare(images, PYTHON, NULL, on_image, &a[0]);
	err_set(&err, -EBUSY, "a build runs");
	fake.done(fake.arg, 1, &err);
	cr_assert_eq(fake.started, 3, "it stays: there is nothing to pull");
	cr_assert_eq(a[0].calls, 2);
	image_unref(a[0].image);

	images_time_limit(images, 1);
	images_remove(images, PYTHON, on_done, &gone);
	images_prepare(images, PYTHON, NULL, on_image, &a[0]);
	while (a[0].calls < 3)
		turn();
	cr_assert(strstr(a[0].err.msg, "it took longer"), "%s", a[0].err.msg);
	images_prepare(images, PYTHON, NULL, on_image, &a[0]);
	images_free(images);
	fake.done(fake.arg, 0, NULL);
	cr_assert_eq(a[0].calls, 3);
}

/* -- garbage collection ------------------------------------------------------------------------------------------ */

static struct {
	unsigned calls, told, failed;
	struct images_gc how;
	struct err err;
	const char *needed;
} gc;

static void on_gc(void *arg UNUSED, const struct images_gc *how, const struct err *err)
{
	gc.calls++;
	gc.how = *how;
	err_copy(&gc.err, err);
	loop_stop(loop, 0);
}

static bool is_needed(void *arg UNUSED, const char *name)
{
	return gc.needed && strcmp(name, gc.needed) == 0;
}

static void on_told(void *arg UNUSED, const char *name UNUSED, uint64_t bytes UNUSED, const struct err *err)
{
	gc.told++;
	gc.failed += err != NULL;
}

/* A stand-in whose removals are over at once. */
static struct loop_timer answer_soon;
static char removed[8][64];
static unsigned n_removed;

static void on_answer(struct loop_timer *t UNUSED, void *arg)
{
	struct err why = ERR_INIT;

	if (arg) {
		auto_free char *path = image_record_path(dir, fake.args[0]);
		cr_assert_eq(unlink(path), 0, "%s", path);
		fake.done(fake.arg, 0, NULL);
		return;
	}
	err_set(&why, -EIO, "it does not want to");
	fake.done(fake.arg, 256, &why);
}

static int remove_start(struct image_jobs *j, const char *kind, const char *const *argv, int input, engine_progress_fn *line,
			job_done_fn *done, void *arg, uint64_t *ret_job, struct err *err)
{
	int r = fake_start(j, kind, argv, input, line, done, arg, ret_job, err);

	cr_assert_str_eq(kind, "remove");
	snprintf(removed[n_removed++ % 8], sizeof(removed[0]), "%s", argv[0]);
	loop_timer_start(&answer_soon, 1);
	return r;
}

static void gc_begin(bool works)
{
	fake.jobs.start = remove_start;
	loop_timer_init(&answer_soon, loop, on_answer, works ? &gc : NULL);
	images_budget(images, &(struct images_budget){ .needed = is_needed, .told = on_told });
	put_layer("docker.io/library/old:1", "sha256:1", "l/1", 100);
	put_layer("docker.io/library/mid:1", "sha256:2", "l/2", 100);
	put_layer(PYTHON, "sha256:3", "l/3", 100);
	put_layer("docker.io/library/new:1", "sha256:4", "l/4", 100);
}

/* Uses it once; the clock of images counts milliseconds. */
static void use(const char *name)
{
	struct image *i = NULL;

	usleep(3000);
	cr_assert_eq(images_find(images, name, &i, NULL), 0);
	image_unref(i);
}

static void collect(uint64_t bytes)
{
	images_gc(images, bytes, NULL, on_gc, NULL);
	cr_assert_eq(loop_run(loop), 0);
}

Test(images, collecting_goes_by_last_use_and_spares_what_is_needed)
{
	struct image *held = NULL;

	gc_begin(true);
	use("mid:1");
	use("new:1");
	use("old:1");
	collect(300);
	cr_assert_eq(n_removed, 1);
	cr_assert_str_eq(removed[0], "docker.io/library/mid:1", "python is an alias's");
	cr_assert_eq(gc.how.freed_bytes, 100);
	cr_assert_eq(gc.how.left_bytes, 300);
	cr_assert_eq(images_find(images, "new:1", &held, NULL), 0);
	gc.needed = "docker.io/library/old:1";
	collect(0);
	cr_assert_eq(n_removed, 1, "one is held, one needed, one an alias's");
	gc.needed = NULL;
	collect(0);
	cr_assert_str_eq(removed[1], "docker.io/library/old:1");
	cr_assert_eq(n_removed, 2);
	cr_assert_eq(gc.told, 2);
	image_unref(held);
	images_free(images);
}

Test(images, collecting_goes_on_after_a_failure_and_tells_it)
{
	gc_begin(false);
	collect(0);
	cr_assert_eq(n_removed, 3, "each once");
	cr_assert_eq(gc.failed, 3);
	cr_assert_eq(gc.how.removed, 0);
	cr_assert_eq(gc.how.left_bytes, 400);
	cr_assert(strstr(gc.err.msg, "it does not want to"), "%s", gc.err.msg);
	images_free(images);
}

Test(images, one_collection_at_a_time)
{
	gc_begin(true);
	images_gc(images, UINT64_MAX, NULL, on_gc, NULL);
	images_gc(images, 0, NULL, on_gc, NULL);
	cr_assert_eq(gc.calls, 0);
	while (gc.calls < 2)
		cr_assert_eq(loop_run(loop), 0);
	cr_assert_eq(n_removed, 3, "by the second one");
	cr_assert_eq(gc.how.removed, 3);
	images_gc(images, 0, NULL, on_gc, NULL);
	images_gc(images, 0, NULL, on_gc, NULL);
	images_free(images);
	turn();
	cr_assert_eq(gc.calls, 2, "nobody is called after the end");
}

Test(images, what_comes_above_the_budget_is_collected_unasked)
{
	gc_begin(true);
	use("new:1");
	images_budget(images, &(struct images_budget){ .bytes = 350, .needed = is_needed, .told = on_told });
	while (!n_removed || loop_timer_armed(&answer_soon))
		turn();
	cr_assert_neq(strcmp(removed[0], "docker.io/library/new:1"), 0);
	images_free(images);
}

Test(images, last_uses_survive_the_daemon)
{
	struct err err = ERR_INIT;
	bool busy = true;

	gc_begin(true);
	use("old:1");
	int64_t at = images_used_ms(images, "docker.io/library/old:1", &busy);
	cr_assert(!busy && at > 1700000000000);
	images_free(images);
	usleep(3000);
	cr_assert_eq(images_new(&images, loop, dir, aliases, &fake.jobs, &err), 0);
	cr_assert_eq(images_used_ms(images, "docker.io/library/old:1", NULL), at);
	cr_assert_eq(images_used_ms(images, "docker.io/library/none:1", NULL), 0);
	images_free(images);
}
