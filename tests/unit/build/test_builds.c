/* The queue of builds, with a stand-in for the spawner's jobs. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "build/build.h"
#include "build/job.h"
#include "image/record.h"
#include "unit/image/tmpdir.h"

typedef void job_done_fn(void *arg, int status, const struct err *err);

struct fake_job {
	char kind[16], deployment[64], env[64], input[64];
	engine_progress_fn *line;
	job_done_fn *done;
	void *arg;
	bool cancelled;
};
static struct fake_job jobs[16];
static unsigned n_jobs;
static struct image_jobs fake;

static int fake_start(struct image_jobs *j, const char *kind, const char *const *argv, int input, engine_progress_fn *line,
		      job_done_fn *done, void *arg, uint64_t *ret_job, struct err *err)
{
	struct fake_job *f = &jobs[n_jobs];

	(void)j;
	(void)err;
	*f = (struct fake_job){ .line = line, .done = done, .arg = arg };
	snprintf(f->kind, sizeof(f->kind), "%s", kind);
	snprintf(f->deployment, sizeof(f->deployment), "%s", argv[0]);
	snprintf(f->env, sizeof(f->env), "%s", argv[1] ? argv[1] : "");
	if (input >= 0)
		cr_assert_gt(read(input, f->input, sizeof(f->input) - 1), 0);
	*ret_job = n_jobs++;
	return 0;
}

static void fake_cancel(struct image_jobs *j, uint64_t job)
{
	(void)j;
	jobs[job].cancelled = true;
}

static char dir[] = "/tmp/orw-builds-XXXXXX";
static struct loop *loop;
static struct images *images;
static struct builds *builds;

static void begin(void)
{
	struct err err = ERR_INIT;

	tmpdir_make(dir);
	fake = (struct image_jobs){ fake_start, fake_cancel };
	cr_assert_eq(loop_new(&loop, &err), 0);
	cr_assert_eq(images_new(&images, loop, dir, NULL, &fake, &err), 0);
	cr_assert_eq(
		builds_new(&builds, loop, dir, images, &fake, &(struct builds_settings){ .time_limit_ms = 100 }, &err),
		0);
}

static void end(void)
{
	builds_free(builds);
	images_free(images);
	tmpdir_remove(dir);
}

TestSuite(builds, .init = begin, .fini = end, .timeout = 20);

static void stop(struct loop_timer *t, void *arg)
{
	(void)t;
	(void)arg;
	loop_stop(loop, 0);
}

static void run_for(uint64_t ms)
{
	struct loop_timer t;

	loop_timer_init(&t, loop, stop, NULL);
	loop_timer_start(&t, ms);
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

static void on_done(void *arg, struct image *img, const struct err *err)
{
	struct answer *a = arg;

	a->calls++;
	a->image = img;
	err_copy(&a->err, err);
}

static void put_source(const char *deployment)
{
	auto_free char *folder = xasprintf("%s/builds/%s", dir, deployment), *path = xasprintf("%s/source.tar", folder);
	struct err err = ERR_INIT;

	cr_assert_eq(fd_mkdirs(folder, 0755, &err), 0);
	cr_assert_eq(fd_write_file(path, "x", 1, 0644, &err), 0);
}

static struct build *start(const char *deployment, const char *name, struct answer *a)
{
	struct build_spec spec = { .deployment = deployment, .owner = "alice", .name = name };
	struct err err = ERR_INIT;
	struct build *x = NULL;

	put_source(deployment);
	cr_assert_eq(builds_start(builds, &spec, on_line, on_done, a, &x, &err), 0, "%s", err.msg);
	return x;
}

static void put_record(const char *name)
{
	struct image *i = image_new();

	i->name = xstrdup(name);
	i->digest = xstrdup("sha256:1");
	i->layers = xcalloc(1, sizeof(char *));
	i->layers[i->n_layers++] = xstrdup("x");
	i->workdir = xstrdup("/");
	i->user = xstrdup("");
	cr_assert_eq(image_record_write(dir, i, NULL), 0);
	image_unref(i);
}

Test(builds, one_after_another_with_its_log)
{
	struct answer a = { 0 }, b = { 0 };
	struct build *x = start("d1", "e1", &a), *y = start("d2", "e2", &b);

	cr_assert_eq(n_jobs, 0, "nothing starts inside the call");
	run_for(5);
	cr_assert_eq(n_jobs, 1);
	cr_assert_str_eq(jobs[0].env, "alice/e1");
	cr_assert_eq(build_place(x), 0);
	cr_assert_eq(build_place(y), 1);
	jobs[0].line(jobs[0].arg, "STEP 1/1: FROM x");
	put_record("localhost/env/alice/e1:d1");
	jobs[0].done(jobs[0].arg, 0, NULL);
	cr_assert_eq(a.calls, 0);
	run_for(5);
	cr_assert_eq(a.calls, 1);
	cr_assert_not_null(a.image, "%s", a.err.msg);
	cr_assert_eq(a.lines, 2);
	image_unref(a.image);
	cr_assert_eq(n_jobs, 2, "the next one has started");
	auto_buf struct buf log;
	buf_init(&log, 4096);
	cr_assert_eq(builds_read_log(builds, "d1", 0, 4096, &log, NULL), 0);
	cr_assert(strstr(log.data, "Z STEP 1/1: FROM x\n"), "%s", log.data);
	cr_assert_eq(builds_read_log(builds, "none", 0, 4096, &log, NULL), -ENOENT);
	cr_assert_eq(builds_read_log(builds, "../d1", 0, 4096, &log, NULL), -EINVAL);
}

Test(builds, a_failed_step_comes_with_its_last_lines)
{
	struct answer a = { 0 };
	struct err why = ERR_INIT;

	start("d1", "e1", &a);
	run_for(5);
	for (int i = 0; i < 20; i++) {
		char line[32];
		snprintf(line, sizeof(line), "line %d.", i);
		jobs[0].line(jobs[0].arg, line);
	}
	err_set(&why, -EIO, "STEP \"RUN false\" failed: exit status 1");
	jobs[0].line(jobs[0].arg, why.msg);
	jobs[0].done(jobs[0].arg, 256, &why);
	run_for(5);
	cr_assert_eq(a.calls, 1);
	cr_assert_null(a.image);
	cr_assert_eq(a.err.code, -EINVAL);
	cr_assert(strstr(a.err.msg, "STEP \"RUN false\" failed: exit status 1"), "%s", a.err.msg);
	cr_assert(strstr(a.err.msg, "line 19."), "%s", a.err.msg);
	cr_assert_null(strstr(a.err.msg, "line 5."), "%s", a.err.msg);
}

Test(builds, a_job_that_left_no_record_is_a_failure)
{
	struct answer a = { 0 };

	start("d1", "e1", &a);
	run_for(5);
	jobs[0].done(jobs[0].arg, 0, NULL);
	run_for(5);
	cr_assert_eq(a.calls, 1);
	cr_assert_null(a.image);
	cr_assert_lt(a.err.code, 0);
}

Test(builds, cancel_kills_then_cleans)
{
	struct answer a = { 0 }, b = { 0 };
	struct build *x = start("d1", "e1", &a), *y = start("d2", "e1", &b);

	run_for(5);
	build_cancel(y);
	build_cancel(x);
	build_cancel(x);
	cr_assert(jobs[0].cancelled);
	run_for(5);
	cr_assert_eq(b.calls, 1);
	cr_assert_eq(b.err.code, -ECANCELED);
	cr_assert_eq(a.calls, 0, "not before its processes are dead");
	jobs[0].done(jobs[0].arg, 9, NULL);
	cr_assert_eq(n_jobs, 2);
	cr_assert_str_eq(jobs[1].kind, "clean");
	cr_assert_str_eq(jobs[1].deployment, "alice/e1");
	jobs[1].done(jobs[1].arg, 0, NULL);
	run_for(5);
	cr_assert_eq(a.calls, 1);
	cr_assert_eq(a.err.code, -ECANCELED);
}

/* Its job had made the image, and was about to end. */
Test(builds, an_image_of_a_build_that_was_cancelled_is_removed_before_the_next)
{
	struct answer a = { 0 }, b = { 0 };
	struct build *x = start("d1", "e1", &a);

	start("d2", "e1", &b);
	run_for(5);
	put_record("localhost/env/alice/e1:d1");
	build_cancel(x);
	jobs[0].done(jobs[0].arg, 9, NULL);
	cr_assert_str_eq(jobs[1].kind, "clean");
	jobs[1].done(jobs[1].arg, 0, NULL);
	run_for(5);
	cr_assert_eq(n_jobs, 3);
	cr_assert_str_eq(jobs[2].kind, "remove");
	cr_assert_str_eq(jobs[2].deployment, "localhost/env/alice/e1:d1");
	cr_assert_eq(a.calls, 0);
	jobs[2].done(jobs[2].arg, 1, NULL);
	cr_assert_eq(a.calls, 1, "whether it could be removed or not");
	cr_assert_eq(a.err.code, -ECANCELED);
	cr_assert_str_eq(jobs[3].deployment, "d2");
}

Test(builds, one_that_is_cancelled_in_its_last_moment_is_not_told_as_done)
{
	struct answer a = { 0 };
	struct build *x = start("d1", "e1", &a);

	run_for(5);
	put_record("localhost/env/alice/e1:d1");
	jobs[0].done(jobs[0].arg, 0, NULL);
	build_cancel(x);
	run_for(5);
	cr_assert_str_eq(jobs[1].kind, "remove");
	jobs[1].done(jobs[1].arg, 0, NULL);
	cr_assert_eq(a.calls, 1);
	cr_assert_null(a.image);
	cr_assert_eq(a.err.code, -ECANCELED);
}

Test(builds, the_time_limit_ends_it)
{
	struct answer a = { 0 };

	start("d1", "e1", &a);
	run_for(150);
	cr_assert(jobs[0].cancelled);
	jobs[0].done(jobs[0].arg, 9, NULL);
	jobs[1].done(jobs[1].arg, 0, NULL);
	run_for(5);
	cr_assert_eq(a.err.code, -ETIME, "%s", a.err.msg);
}

Test(builds, bad_requests_are_refused)
{
	struct answer a = { 0 };
	struct build_spec s = { .deployment = "d1", .owner = "alice", .name = "e1" };
	struct err err = ERR_INIT;
	struct build *x = NULL;

	cr_assert_eq(builds_start(builds, &s, NULL, on_done, &a, &x, &err), -ENOENT);
	start("d1", "e1", &a);
	cr_assert_eq(builds_start(builds, &s, NULL, on_done, &a, &x, &err), -EEXIST);
	put_source("d2");
	s.deployment = "d2";
	s.dockerfile = "../Dockerfile";
	cr_assert_eq(builds_start(builds, &s, NULL, on_done, &a, &x, &err), -EINVAL);
	s.dockerfile = NULL;
	s.subdir = "/etc";
	cr_assert_eq(builds_start(builds, &s, NULL, on_done, &a, &x, &err), -EINVAL);
	s.subdir = NULL;
	s.owner = "a/b";
	cr_assert_eq(builds_start(builds, &s, NULL, on_done, &a, &x, &err), -EINVAL);
	cr_assert_null(x);
}

Test(builds, the_end_calls_nobody)
{
	struct answer a = { 0 }, b = { 0 };

	start("d1", "e1", &a);
	start("d2", "e2", &b);
	run_for(5);
	builds = builds_free(builds);
	cr_assert(jobs[0].cancelled);
	jobs[0].done(jobs[0].arg, 9, NULL);
	run_for(5);
	cr_assert_eq(a.calls + b.calls, 0);
}

Test(builds, arguments_and_secrets_go_by_standard_input)
{
	struct build_spec spec = { .deployment = "d1", .owner = "alice", .name = "hello", .input = "{\"args\": {}}" };
	struct answer a = { 0 }, b = { 0 };
	struct err err = ERR_INIT;
	struct build *x = NULL;

	put_source("d1");
	cr_assert_eq(builds_start(builds, &spec, on_line, on_done, &a, &x, &err), 0, "%s", err.msg);
	run_for(5);
	cr_assert_str_eq(jobs[0].input, "{\"args\": {}}");
	cr_assert_str_eq(jobs[0].deployment, "d1");
	jobs[0].done(jobs[0].arg, 1, NULL);
	start("d2", "hello", &b);
	run_for(5);
	cr_assert_str_eq(jobs[1].input, "", "nothing was given");
}

Test(builds, a_build_that_was_ended_by_its_limit_is_cleaned)
{
	struct answer a = { 0 };
	struct err why = ERR_INIT;

	err_set(&why, -EIO, "the build was ended: it wrote too much");
	start("d1", "hello", &a);
	run_for(5);
	jobs[0].done(jobs[0].arg, JOB_TO_CLEAN, &why);
	run_for(5);
	cr_assert_str_eq(jobs[1].kind, "clean");
	cr_assert_str_eq(jobs[1].deployment, "alice/hello");
	cr_assert_eq(a.calls, 0, "not before it is clean");
	jobs[1].done(jobs[1].arg, 0, NULL);
	run_for(5);
	cr_assert_eq(a.calls, 1);
	cr_assert_null(a.image);
	cr_assert_str_eq(a.err.msg, why.msg);
}
