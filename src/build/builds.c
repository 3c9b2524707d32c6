#include "build/build.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/list.h"
#include "base/mem.h"
#include "base/str.h"
#include "base/time.h"
#include "build/job.h"
#include "image/ref.h"

#define TIME_LIMIT_MS (30 * 60 * 1000)
#define LOG_MAX_BYTES (16u << 20)
#define LAST_LINES 8 /* repeated in the error of a failed step */
#define LAST_LINE_BYTES 200

enum state {
	QUEUED,
	RUNNING,   /* its job runs */
	STOPPING,  /* its job was told to end; job_done follows */
	CLEANING,  /* a job clears what the killed one left in its store */
	FINISHING, /* nothing runs but, perhaps, the removal of its image; done is about to be called */
};

struct builds {
	struct loop *loop;
	const char *data_dir;
	struct images *images;
	struct image_jobs *jobs;
	struct builds_settings settings;
	struct list all; /* struct build, oldest first */
	bool wake;       /* start_deferred is on its way */
	bool gone;       /* builds_free was called before it came */
};

struct build {
	struct list in_builds;
	struct builds *owner; /* NULL = builds_free was called: only free it */
	enum state state;
	char *deployment, *env, *image, *dockerfile, *subdir;
	char *input; /* NULL = none; it may hold secrets */
	build_line_fn *on_line;
	build_done_fn *done;
	void *arg;
	uint64_t job;
	struct loop_timer limit;
	int log_fd;
	size_t log_bytes;
	bool log_cut;
	char *last[LAST_LINES]; /* ring of the newest lines */
	size_t n_last;
	bool dropped;   /* drop_image() was asked already */
	struct err err; /* code 0 = success so far */
};

static void start_next(struct builds *b);

/* -- making and freeing ------------------------------------------------------------------------------------------- */
int builds_new(struct builds **ret, struct loop *l, const char *data_dir, struct images *images,
	       struct image_jobs *jobs, const struct builds_settings *settings, struct err *err)
{
	(void)err;
	struct builds *b = NEW(struct builds);
	b->loop = l;
	b->data_dir = data_dir;
	b->images = images;
	b->jobs = jobs;
	b->settings = *settings;
	if (!b->settings.concurrency)
		b->settings.concurrency = 1;
	if (!b->settings.time_limit_ms)
		b->settings.time_limit_ms = TIME_LIMIT_MS;
	if (!b->settings.log_max_bytes)
		b->settings.log_max_bytes = LOG_MAX_BYTES;
	list_init(&b->all);
	*ret = b;
	return 0;
}

static void build_free(void *arg)
{
	struct build *x = arg;

	loop_timer_stop(&x->limit);
	for (size_t i = 0; i < LAST_LINES; i++)
		free(x->last[i]);
	fd_close(x->log_fd);
	free(x->deployment);
	free(x->env);
	free(x->image);
	free(x->dockerfile);
	free(x->subdir);
	if (x->input)
		explicit_bzero(x->input, strlen(x->input));
	free(x->input);
	free(x);
}

struct builds *builds_free(struct builds *b)
{
	if (!b)
		return NULL;
	list_foreach(&b->all, struct build, in_builds, x) {
		list_remove(&x->in_builds);
		loop_timer_stop(&x->limit);
		x->owner = NULL;
		if (x->state == RUNNING)
			b->jobs->cancel(b->jobs, x->job);
		if (x->state == QUEUED)
			build_free(x);
	}
	b->gone = true;
	if (!b->wake)
		free(b);
	return NULL;
}

/* -- the log ------------------------------------------------------------------------------------------------------ */
static void log_write(struct build *x, const char *line)
{
	char now[TIME_ISO_LEN];
	auto_buf struct buf b = { 0 };

	if (x->log_fd < 0 || x->log_cut)
		return;
	x->log_cut = x->log_bytes > x->owner->settings.log_max_bytes;
	buf_init(&b, BUF_UNLIMITED);
	(void)!buf_printf(&b, "%s %s\n", time_iso(time_wall_ms(), now),
			  x->log_cut ? "(the log is longer than its limit: cut here)" : line);
	x->log_bytes += b.len;
	/* A log that cannot be written (a full disk) is no reason to fail a build. */
	(void)!fd_write_all(x->log_fd, b.data, b.len);
}

static void say(struct build *x, const char *line)
{
	log_write(x, line);
	if (x->on_line)
		x->on_line(x->arg, line);
}

static void remember(struct build *x, const char *line)
{
	char **slot = &x->last[x->n_last++ % LAST_LINES];

	free(*slot);
	*slot = xstrndup(line, LAST_LINE_BYTES);
}

static int log_open(struct build *x, struct err *err)
{
	auto_free char *path = xasprintf("%s/builds/%s/log", x->owner->data_dir, x->deployment);

	x->log_fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0640);
	return x->log_fd < 0 ? err_sys(err, "open %s", path) : 0;
}

int builds_read_log(const struct builds *b, const char *deployment, uint64_t offset, size_t max, struct buf *ret,
		    struct err *err)
{
	auto_free char *path = xasprintf("%s/builds/%s/log", b->data_dir, deployment);
	char *to;

	if (!str_is_name(deployment, 64))
		return err_set(err, -EINVAL, "deployment: \"%.80s\": expected an id", deployment);
	auto_fd fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return err_sys(err, "the log of deployment %s", deployment);
	for (size_t left = MIN(max, ret->max - ret->len); left;) {
		size_t want = MIN(left, (size_t)65536);
		int r = buf_reserve(ret, want, &to);
		if (r < 0)
			return err_sys_code(err, r, "read the log of deployment %s", deployment);
		ssize_t n = pread(fd, to, want, (off_t)offset);
		if (n < 0)
			return err_sys(err, "read %s", path);
		if (!n)
			break;
		buf_commit(ret, (size_t)n);
		offset += (uint64_t)n;
		left -= (size_t)n;
	}
	return 0;
}

/* -- the end of a build ------------------------------------------------------------------------------------------- */
/* The step that failed, and what it last said: the newest lines that fit, oldest first. */
static void add_last_lines(struct build *x)
{
	size_t n = MIN(x->n_last, (size_t)LAST_LINES), first = x->n_last - n;
	auto_buf struct buf b = { 0 };

	buf_init(&b, ERR_MSG_MAX);
	for (size_t i = first; i < x->n_last; i++) {
		const char *line = x->last[i % LAST_LINES];
		if (!strstr(x->err.msg, line) && buf_printf(&b, "\n  %s", line) < 0)
			break;
	}
	auto_free char *step = xstrdup(x->err.msg);
	if (b.len && str_starts(step, "STEP "))
		err_set(&x->err, -EINVAL, "%.400s; its last lines:%s", step, b.data);
}

static void finish(void *arg);

static void on_dropped(void *arg, const struct err *err UNUSED)
{
	finish(arg);
}

/* One that was ended in its last moments, or whose job failed then, may have left its image: no deployment names it, so it would
 * stay for ever. Before the next build of this environment begins, which may be of the same name. True: on_dropped() follows. */
static bool drop_image(struct build *x)
{
	if (!x->err.code || x->dropped || !images_has(x->owner->images, x->image))
		return false;
	x->dropped = true;
	images_remove(x->owner->images, x->image, on_dropped, x);
	return true;
}

static void finish(void *arg)
{
	struct build *x = arg;
	struct builds *b = x->owner;
	struct image *img = NULL;

	if (b && drop_image(x))
		return;
	if (b) {
		list_remove(&x->in_builds);
		if (!x->err.code)
			(void)!images_find(b->images, x->image, &img, &x->err);
		if (x->err.code)
			log_write(x, x->err.msg);
		build_done_fn *done = x->done;
		done(x->arg, img, x->err.code ? &x->err : NULL);
		images_gc_soon(b->images);
	}
	build_free(x);
	if (b)
		start_next(b);
}

static void finish_soon(struct build *x)
{
	x->state = FINISHING;
	loop_timer_stop(&x->limit);
	loop_defer(x->owner->loop, finish, x);
}

static void clean_done(void *arg, int status, const struct err *err)
{
	struct build *x = arg;

	(void)status;
	(void)err;
	if (x->owner)
		finish_soon(x);
	else
		build_free(x);
}

/* After a kill: containers, temporary files and cgroups of the build. If that job cannot start, the next build of this
 * environment does the same first. */
static void clean(struct build *x)
{
	struct builds *b = x->owner;
	const char *argv[] = { x->env, NULL };

	x->state = CLEANING;
	if (b->jobs->start(b->jobs, "clean", argv, -1, NULL, clean_done, x, &x->job, NULL) < 0)
		finish_soon(x);
}

static void job_done(void *arg, int status, const struct err *err)
{
	struct build *x = arg;

	if (!x->owner) {
		build_free(x);
		return;
	}
	loop_timer_stop(&x->limit);
	if (x->state == STOPPING) {
		clean(x);
		return;
	}
	if (status || err) {
		const char *why = err && err->msg[0] ? err->msg : "the build job gave no reason";
		err_set(&x->err, str_starts(why, "STEP ") || strstr(why, "the source") ? -EINVAL : -EIO, "%s", why);
		add_last_lines(x);
	}
	if (status == JOB_TO_CLEAN)
		clean(x);
	else
		finish_soon(x);
}

static void job_line(void *arg, const char *line)
{
	struct build *x = arg;

	if (!x->owner)
		return;
	remember(x, line);
	say(x, line);
}

/* -- start -------------------------------------------------------------------------------------------------------- */
static void stop_job(struct build *x)
{
	x->state = STOPPING;
	x->owner->jobs->cancel(x->owner->jobs, x->job);
}

static void on_limit(struct loop_timer *t, void *arg)
{
	struct build *x = arg;

	(void)t;
	err_set(&x->err, -ETIME, "the build took longer than %llu s",
		(unsigned long long)(x->owner->settings.time_limit_ms / 1000));
	stop_job(x);
}

static void start_one(struct build *x)
{
	struct builds *b = x->owner;
	const char *argv[] = { x->deployment, x->env, x->dockerfile, x->subdir, NULL };

	auto_fd input = -1;
	x->state = RUNNING;
	loop_timer_start(&x->limit, b->settings.time_limit_ms);
	int r = x->input ? fd_memfd(&input, "build", x->input, strlen(x->input), &x->err) : 0;
	if (r < 0 || b->jobs->start(b->jobs, "build", argv, input, job_line, job_done, x, &x->job, &x->err) < 0)
		finish_soon(x);
	else
		say(x, "build started");
}

void builds_count(const struct builds *b, unsigned *ret_queued, unsigned *ret_running)
{
	*ret_queued = *ret_running = 0;
	list_foreach(&b->all, struct build, in_builds, x)
		++*(x->state == QUEUED ? ret_queued : ret_running);
}

/* Builds of one environment share a store, so they go one after another whatever the concurrency. */
static bool env_is_busy(const struct builds *b, const char *env)
{
	list_foreach(&b->all, struct build, in_builds, x)
		if (x->state != QUEUED && str_eq(x->env, env))
			return true;
	return false;
}

bool builds_has(const struct builds *b, const char *owner, const char *name)
{
	auto_free char *env = xasprintf("%s/%s", owner, name);

	list_foreach(&b->all, struct build, in_builds, x)
		if (str_eq(x->env, env))
			return true;
	return false;
}

static void start_next(struct builds *b)
{
	unsigned queued, running;

	builds_count(b, &queued, &running);
	list_foreach(&b->all, struct build, in_builds, x) {
		if (running >= b->settings.concurrency)
			break;
		if (x->state != QUEUED || env_is_busy(b, x->env))
			continue;
		start_one(x);
		running++;
	}
}

static void start_deferred(void *arg)
{
	struct builds *b = arg;

	b->wake = false;
	if (b->gone)
		free(b);
	else
		start_next(b);
}

static bool is_rel_path(const char *s)
{
	return *s != '/' && *s != '-' && !strstr(s, "..") && strlen(s) < 256 &&
	       strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._/:@-") == strlen(s);
}

static int check(struct builds *b, const struct build_spec *spec, struct err *err)
{
	auto_free char *path = xasprintf("%s/builds/%s/source.tar", b->data_dir, spec->deployment);

	if (spec->dockerfile && !is_rel_path(spec->dockerfile))
		return err_set(err, -EINVAL, "dockerfile: \"%.200s\": expected a path inside the source",
			       spec->dockerfile);
	if (spec->subdir && !is_rel_path(spec->subdir))
		return err_set(err, -EINVAL, "subdirectory: \"%.200s\": expected a path inside the source",
			       spec->subdir);
	if (access(path, R_OK) < 0)
		return err_sys(err, "the source of deployment %s", spec->deployment);
	list_foreach(&b->all, struct build, in_builds, x)
		if (str_eq(x->deployment, spec->deployment))
			return err_set(err, -EEXIST, "deployment %s is being built already", spec->deployment);
	return 0;
}

int builds_start(struct builds *b, const struct build_spec *spec, build_line_fn *on_line, build_done_fn *done,
		 void *arg, struct build **ret, struct err *err)
{
	auto_free char *image = NULL;

	int r = image_of_build(&image, spec->owner, spec->name, spec->deployment, err);
	if (r == 0)
		r = check(b, spec, err);
	if (r < 0)
		return r;
	struct build *x = NEW(struct build);
	x->owner = b;
	x->deployment = xstrdup(spec->deployment);
	x->env = xasprintf("%s/%s", spec->owner, spec->name);
	x->image = STEAL(image);
	x->dockerfile = xstrdup(str_empty(spec->dockerfile) ? "Dockerfile" : spec->dockerfile);
	x->subdir = xstrdup(str_empty(spec->subdir) ? "." : spec->subdir);
	x->input = spec->input ? xstrdup(spec->input) : NULL;
	x->on_line = on_line;
	x->done = done;
	x->arg = arg;
	x->log_fd = -1;
	loop_timer_init(&x->limit, b->loop, on_limit, x);
	r = log_open(x, err);
	if (r < 0) {
		build_free(x);
		return r;
	}
	list_push_back(&b->all, &x->in_builds);
	if (!b->wake)
		loop_defer(b->loop, start_deferred, b);
	b->wake = true;
	*ret = x;
	return 0;
}

void build_cancel(struct build *x)
{
	if (x->state == STOPPING || x->state == CLEANING)
		return;
	if (x->state != FINISHING || !x->err.code)
		err_set(&x->err, -ECANCELED, "the build was cancelled");
	if (x->state == FINISHING)
		return;
	if (x->state == RUNNING)
		stop_job(x);
	else
		finish_soon(x);
}

unsigned build_place(const struct build *x)
{
	unsigned place = 1;

	if (x->state != QUEUED)
		return 0;
	list_foreach(&x->owner->all, struct build, in_builds, o) {
		if (o == x)
			break;
		place += o->state == QUEUED;
	}
	return place;
}
