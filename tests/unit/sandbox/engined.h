/* The local engine on the loop and the link of linked.h, and one image. */
#pragma once

#include "base/strv.h"
#include "image/record.h"
#include "sandbox/local.h"
#include "unit/sandbox/linked.h"

static struct images *images;
static struct engine *engine;
static struct image *image;

#define MOST 3 /* boxes at once */

static const struct local_settings settings = { .pids_max = 100, .room.sums.boxes = MOST, .data_dir = "/" };

static inline void engined_begin(void)
{
	const char *const env[] = { "PATH=/usr/bin:/bin", "FROM=image", NULL };

	linked_begin();
	cr_assert_eq(images_new(&images, loop, fake.dir, NULL, link_jobs(spawner), &err), 0, "%s", err.msg);
	cr_assert_eq(local_engine_new(&engine, loop, spawner, images, &settings, &err), 0, "%s", err.msg);
	image = image_new();
	image->name = xstrdup("docker.io/library/x:latest");
	image->layers = xcalloc(2, sizeof(char *));
	image->layers[0] = xstrdup("bases/overlay/abc/diff");
	image->n_layers = 1;
	image->env = strv_dup(env);
	image->workdir = xstrdup("/work");
	image->user = xstrdup("");
}

static inline void engined_end(void)
{
	image_unref(image);
	local_engine_free(engine);
	linked_end();
}

/* -- boxes --------------------------------------------------------------------------------------------------------------- */
static struct engine_box *made;
static int n_created, n_ended;
static char end_reason[64];
static struct err create_err;

static inline void on_created(void *arg UNUSED, struct engine_box *box, const struct err *e)
{
	made = box;
	n_created++;
	if (e)
		create_err = *e;
	stop();
}

static inline void on_end(void *arg UNUSED, struct engine_box *box UNUSED, const char *reason)
{
	snprintf(end_reason, sizeof(end_reason), "%s", reason);
	made = NULL;
	n_ended++;
	stop();
}

static inline struct engine_box *create(const char *id)
{
	const char *const env[] = { "MINE=1", "FROM=box", NULL };
	struct engine_spec spec = {
		.id = id, .image = image, .size = { 500, 1 << 29 }, .env = env, .lease_ms = 400, .hosts_extra = "10.0.0.9 alias\n",
	};
	int before = n_created;

	made = NULL;
	engine->ops->create(engine, &spec, on_created, on_end, NULL);
	cr_assert_eq(n_created, before, "a callback ran inside the call");
	cr_assert(turn(5000));
	return made;
}

static inline size_t boxes(void)
{
	struct local_counts c;

	local_engine_counts(engine, &c);
	return c.boxes;
}

static inline struct local_counts counts(void)
{
	struct local_counts c;

	local_engine_counts(engine, &c);
	return c;
}

/* -- commands ------------------------------------------------------------------------------------------------------------ */
static struct engine_exec_result result;
static struct err run_err;
static int n_runs;

static inline void on_run(void *arg UNUSED, struct engine_exec *x UNUSED, const struct engine_exec_result *res, const struct err *e)
{
	n_runs++;
	if (res)
		result = *res;
	run_err.code = 0;
	if (e)
		run_err = *e;
	stop();
}

static inline struct engine_exec *run_spec(struct engine_box *b, struct engine_exec_spec *spec)
{
	struct engine_exec *x = NULL;

	spec->id = "run";
	spec->log_fd = -1;
	spec->shell = "/bin/sh";
	spec->cmd_len = spec->cmd ? strlen(spec->cmd) : 0;
	cr_assert_eq(engine->ops->exec(b, spec, on_run, NULL, &x, &err), 0, "%s", err.msg);
	cr_assert_eq(n_runs, 0);
	cr_assert(turn(10000));
	cr_assert_eq(n_runs, 1);
	return x;
}

static inline const char *output_of(struct engine_exec *x)
{
	static char text[100];
	ssize_t n = engine->ops->exec_read(x, 0, text, sizeof(text) - 1);

	cr_assert_geq(n, 0);
	text[n] = 0;
	return text;
}

/* -- files and ports ----------------------------------------------------------------------------------------------------- */
static int got_fd;
static uint64_t got_size;
static struct err got_err;

static inline void on_open(void *arg UNUSED, int fd, uint64_t size, const char *tmp UNUSED, const struct err *e)
{
	got_fd = fd;
	got_size = size;
	got_err.code = 0;
	if (e)
		got_err = *e;
	stop();
}

static inline void on_fd(void *arg, int fd, const struct err *e)
{
	on_open(arg, fd, 0, NULL, e);
}
