/* sandbox/exec.c: commands in a box. init holds a result until it is acknowledged, so what is here is the daemon's knowledge
 * of it; a released run that is still going is acknowledged when it ends. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/str.h"
#include "base/strv.h"
#include "sandbox/outcome.h"
#include "sandbox/private.h"

#define CMD_MAX_BYTES (16u * 1024 * 1024)
#define INLINE_MAX_BYTES (100u * 1024) /* command and variables in one message; longer commands go by file */
#define SHELL_DEFAULT "/bin/bash"
#define SCRIPT_PATH "/dev/fd/9"        /* wire.h, WIRE_RUN_SCRIPT */
#define AGAIN_MS 100                   /* after a result whose descriptor found no room */
#define AGAIN_MAX 100                  /* times */

/* -- ends --------------------------------------------------------------------------------------------------------------- */

static void exec_release_memory(void *arg)
{
	struct exec *x = arg;

	fd_close(x->spool);
	free(x->output);
	free(x->id);
	free(x);
}

static struct box *exec_box(const struct exec *x)
{
	return (struct box *)x->base.box;
}

static void exec_free(struct exec *x)
{
	list_remove(&x->node);
	if (!x->delivering) /* else deliver_left() does it */
		loop_release(x->loop, exec_release_memory, x);
}

static void acknowledge(const struct exec *x)
{
	struct box *b = exec_box(x);
	struct wire_out *o;

	if (!b || !b->init)
		return;
	o = chan_begin(b->init, WIRE_ACK, false);
	wire_put_str(o, WIRE_T_RUN_ID, x->id);
	/* Without init there is nothing left to forget. */
	chan_tell(b->init, o);
}

static void exec_over(struct exec *x, const struct engine_exec_result *res, const struct err *err)
{
	struct box *b = exec_box(x);

	loop_timer_stop(&x->again);
	x->state = EXEC_DONE;
	b->local->counts.execs--;
	b->local->counts.outcomes[res ? res->outcome : ENGINE_INFRA]++;
	b->main_over = b->main_over || x->main;
	list_remove(&x->node);
	list_push_back(&b->execs_over, &x->node);
	if (x->released) {
		acknowledge(x);
		exec_free(x);
	} else if (x->left) {
		if (res)
			x->res = *res;
		else
			err_copy(&x->err, err);
	} else {
		x->done(x->arg, &x->base, res, err);
	}
}

void local_exec_release(struct engine_exec *base)
{
	struct exec *x = (struct exec *)base;

	if (x->released)
		return;
	x->released = true;
	if (x->state != EXEC_DONE)
		return;
	acknowledge(x);
	exec_free(x);
}

void execs_fail(struct box *b, const struct err *err)
{
	struct list all;
	struct exec *x;

	list_take(&all, &b->execs);
	while ((x = list_first(&all, struct exec, node)))
		exec_over(x, NULL, err);
}

static void orphan(struct list *l)
{
	list_foreach(l, struct exec, node, x) {
		x->base.box = NULL;
		loop_timer_stop(&x->again);
		list_remove(&x->node);
		/* Only when the engine is freed with runs under way, or nobody has asked what is left in the box. */
		if (x->released || x->left)
			loop_release(x->loop, exec_release_memory, x);
	}
}

void execs_orphan(struct box *b)
{
	orphan(&b->execs);
	orphan(&b->execs_over);
}

/* -- results --------------------------------------------------------------------------------------------------------------- */

static void take_output(struct exec *x, const struct wire_in *in, int *fds, size_t n_fds)
{
	size_t len = 0;
	const void *p = wire_get(in, WIRE_T_OUTPUT, 0, &len);

	if (n_fds > 0) {
		x->spool = fd_steal(&fds[0]);
	} else if (p && len > 0) {
		x->output = xmemdup(p, len);
		x->n_output = len;
	}
}

static void read_result(const struct wire_in *in, struct engine_exec_result *ret)
{
	struct outcome_evidence e = {
		.wait_status = (int)wire_get_u64(in, WIRE_T_STATUS, 0),
		.timed_out = wire_get_u64(in, WIRE_T_TIMED_OUT, 0),
		.killed = wire_get_u64(in, WIRE_T_KILLED, 0),
		.oom_kills = wire_get_u64(in, WIRE_T_OOM_KILLS, 0),
		.pids_hits = wire_get_u64(in, WIRE_T_PIDS_HITS, 0),
		.limit_hits = wire_get_u64(in, WIRE_T_LIMIT_HITS, UINT64_MAX),
		.disk_free_bytes = wire_get_u64(in, WIRE_T_DISK_FREE, UINT64_MAX),
	};

	*ret = (struct engine_exec_result){
		.return_code = outcome_return_code(&e),
		.timed_out = e.timed_out,
		.outcome = outcome_of(&e),
		.bytes = wire_get_u64(in, WIRE_T_BYTES, 0),
		.dropped = wire_get_u64(in, WIRE_T_DROPPED, 0),
		.stored = wire_get_u64(in, WIRE_T_STORED, 0),
		.separate = wire_get_u64(in, WIRE_T_FLAGS, 0) & WIRE_RUN_SEPARATE,
		.duration_us = wire_get_u64(in, WIRE_T_DURATION_US, 0),
		.cpu_us = wire_get_u64(in, WIRE_T_CPU_US, 0),
		.peak_bytes = wire_get_u64(in, WIRE_T_PEAK_BYTES, 0),
	};
}

/* There was no descriptor for it. The result is with init still, and those that were here first may be about to go. */
static void ask_later(struct exec *x, const struct err *why)
{
	if (x->released || x->n_again++ == AGAIN_MAX) {
		exec_over(x, NULL, why);
		return;
	}
	x->state = EXEC_RUNNING;
	err_copy(&x->err, why);
	loop_timer_start(&x->again, AGAIN_MS);
}

/* One side had no descriptor left for it. */
static bool is_without_output(const struct wire_in *in, size_t n_fds)
{
	size_t len = 0;

	return n_fds == 0 && wire_get_u64(in, WIRE_T_STORED, 0) > 0 && !(wire_get_u64(in, WIRE_T_FLAGS, 0) & WIRE_RUN_FETCH) &&
	       !wire_get(in, WIRE_T_OUTPUT, 0, &len);
}

static void exec_done(struct exec *x, const struct wire_in *in, int *fds, size_t n_fds)
{
	uint64_t lost = wire_get_u64(in, WIRE_T_ERRNO, 0);
	struct engine_exec_result res;
	struct err err;

	if (lost) {
		err_set(&err, -EIO, "the command has ended, but the host could not keep all of its output: %s (outcome infra)",
			strerror((int)MIN(lost, (uint64_t)INT_MAX)));
		exec_over(x, NULL, &err);
		return;
	}
	if (is_without_output(in, n_fds)) {
		err_set(&err, -EMFILE, "the command has ended, but there were too many open files for its output (outcome infra)");
		ask_later(x, &err);
		return;
	}
	if (ask_check_file(fds, n_fds, &err) < 0) {
		exec_over(x, NULL, &err);
		return;
	}
	x->err.code = 0;
	take_output(x, in, fds, n_fds);
	read_result(in, &res);
	exec_over(x, &res, NULL);
}

/* Of a RUN that was refused for want of descriptors init knows nothing. */
static void on_result(void *arg, const struct wire_in *in, int *fds, size_t n_fds, const struct err *err)
{
	struct exec *x = arg;

	if (err && err->code == -EMFILE)
		ask_later(x, err);
	else if (err || in->type != WIRE_DONE)
		exec_over(x, NULL, err && err->code != -ENOENT ? err : &x->err);
	else
		exec_done(x, in, fds, n_fds);
}

static void on_again(struct loop_timer *t UNUSED, void *arg)
{
	struct exec *x = arg;
	struct box *b = exec_box(x);
	struct wire_out *o;
	struct err err;

	if (!b->init)
		return; /* the end of the box is told to all its commands */
	o = chan_begin(b->init, WIRE_RESULT, true);
	wire_put_str(o, WIRE_T_RUN_ID, x->id);
	if (chan_send(b->init, o, NULL, 0, on_result, x, &err) < 0)
		ask_later(x, &err);
}

struct exec *execs_find(struct box *b, const struct wire_in *in)
{
	const char *id = wire_get_str(in, WIRE_T_RUN_ID, 0);

	list_foreach(&b->execs, struct exec, node, x)
		if (str_eq(x->id, id))
			return x;
	return NULL;
}

void execs_event(struct box *b, const struct wire_in *in, int *fds, size_t n_fds)
{
	struct exec *x = execs_find(b, in);

	if (!x)
		return;
	/* The RUN's answer may still come, by an init that lost or forged it, when the run is gone. */
	if (x->state == EXEC_STARTING || x->n_again)
		chan_forget(b->init, x);
	exec_done(x, in, fds, n_fds);
}

ssize_t local_exec_read(struct engine_exec *base, uint64_t offset, void *p, size_t cap)
{
	struct exec *x = (struct exec *)base;
	ssize_t n;

	if (x->spool < 0) {
		size_t len = offset < x->n_output ? MIN(cap, x->n_output - (size_t)offset) : 0;

		if (len > 0)
			memcpy(p, x->output + offset, len);
		return (ssize_t)len;
	}
	/* Just written by init: it comes from memory, mostly. */
	do {
		n = pread(x->spool, p, cap, (off_t)offset);
	} while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

/* -- of a former daemon ------------------------------------------------------------------------------------------------------- */

int exec_left(struct box *b, const struct wire_in *in, struct err *err)
{
	const char *id = wire_get_str(in, WIRE_T_RUN_ID, 0);
	uint64_t now = loop_now_ms(b->local->loop), age = wire_get_u64(in, WIRE_T_AGE_MS, 0);
	struct exec *x;
	size_t len = 0;
	const void *label = wire_get(in, WIRE_T_LABEL, 0, &len);

	if (!id || strlen(id) >= WIRE_RUN_ID_MAX)
		return err_set(err, -EPROTO, "it tells of a command %s", id ? "whose id is too long" : "without an id");
	x = NEW(struct exec);
	*x = (struct exec){ .loop = b->local->loop, .id = xstrdup(id), .state = EXEC_RUNNING, .spool = -1, .left = true };
	x->base = (struct engine_exec){ .box = &b->base, .id = x->id };
	loop_timer_init(&x->again, x->loop, on_again, x);
	x->started_ms = now - MIN(age, now);
	if (label && len <= sizeof(x->label)) {
		memcpy(x->label, label, len);
		x->label_len = len;
	}
	list_push_back(&b->execs, &x->node);
	b->local->counts.execs++;
	return 0;
}

static void tell_left(struct list *execs, uint64_t now, engine_left_fn *fn, void *arg)
{
	list_foreach(execs, struct exec, node, x) {
		struct engine_left l = { .label = x->label, .label_len = x->label_len, .age_ms = now - x->started_ms };

		if (x->left)
			fn(arg, &x->base, &l);
	}
}

void execs_left(struct box *b, engine_left_fn *fn, void *arg)
{
	const uint64_t now = loop_now_ms(b->local->loop);

	tell_left(&b->execs, now, fn, arg);
	tell_left(&b->execs_over, now, fn, arg);
}

static void deliver_left(void *arg)
{
	struct exec *x = arg;

	x->delivering = false;
	if (x->released)
		exec_release_memory(x);
	else if (x->err.code)
		x->done(x->arg, &x->base, NULL, &x->err);
	else
		x->done(x->arg, &x->base, &x->res, NULL);
}

void local_claim(struct engine_exec *base, engine_exec_fn *done, void *arg)
{
	struct exec *x = (struct exec *)base;

	x->done = done;
	x->arg = arg;
	x->left = false;
	if (x->state != EXEC_DONE)
		return;
	x->delivering = true;
	loop_defer(x->loop, deliver_left, x);
}

/* -- starting ---------------------------------------------------------------------------------------------------------------- */

/* A run that was over at once: its DONE comes in place of STARTED. */
static void on_started(void *arg, const struct wire_in *in, int *fds, size_t n_fds, const struct err *err)
{
	struct exec *x = arg;

	if (x->state != EXEC_STARTING)
		return; /* its end came first: the box is going */
	if (err && err->code == -EMFILE)
		ask_later(x, err); /* a DONE in its place, perhaps */
	else if (err)
		exec_over(x, NULL, err);
	else if (in->type == WIRE_DONE)
		exec_done(x, in, fds, n_fds);
	else
		x->state = EXEC_RUNNING;
}

static void put_env(struct wire_out *o, const struct box *b, const char *const *extra)
{
	const char *const *const lists[] = { (const char *const *)b->env, extra };
	size_t bytes;
	char **env;

	if (!extra) {
		for (size_t i = 0; b->env[i]; i++)
			wire_put_str(o, WIRE_T_ENV, b->env[i]);
		return;
	}
	env = env_merge(lists, ARRAY_LEN(lists), &bytes);
	for (size_t i = 0; env[i]; i++)
		wire_put_str(o, WIRE_T_ENV, env[i]);
	strv_free(env);
}

static void put_command(struct wire_out *o, const struct engine_exec_spec *spec, bool by_file)
{
	if (!spec->cmd) {
		for (size_t i = 0; spec->argv[i]; i++)
			wire_put_str(o, WIRE_T_ARG, spec->argv[i]);
		return;
	}
	wire_put_str(o, WIRE_T_ARG, str_empty(spec->shell) ? SHELL_DEFAULT : spec->shell);
	if (!by_file)
		wire_put_str(o, WIRE_T_ARG, "-c");
	wire_put_str(o, WIRE_T_ARG, by_file ? SCRIPT_PATH : spec->cmd);
}

static struct wire_out *encode(struct box *b, struct chan *c, const struct engine_exec_spec *spec, bool by_file)
{
	struct wire_out *o = chan_begin(c, WIRE_RUN, true);

	wire_put_str(o, WIRE_T_RUN_ID, spec->id);
	put_command(o, spec, by_file);
	put_env(o, b, spec->env);
	wire_put_str(o, WIRE_T_CWD, str_empty(b->image->workdir) ? "/" : b->image->workdir);
	wire_put_str(o, WIRE_T_USER, b->image->user ? b->image->user : "");
	wire_put_u64(o, WIRE_T_TIMEOUT_MS, spec->timeout_ms);
	wire_put_u64(o, WIRE_T_MAX_BYTES, spec->max_bytes);
	wire_put_u64(o, WIRE_T_FLAGS, (by_file ? WIRE_RUN_SCRIPT : 0u) |
					(spec->log_fd >= 0 ? WIRE_RUN_OUTPUT_FD | WIRE_RUN_LOG : 0u) |
				      (spec->main ? WIRE_RUN_MAIN : WIRE_RUN_QUIET) | stream_flags(spec));
	wire_put_u64(o, WIRE_T_ROWS, spec->rows);
	wire_put_u64(o, WIRE_T_COLS, spec->cols);
	if (spec->label && spec->label_len <= WIRE_LABEL_MAX)
		wire_put(o, WIRE_T_LABEL, spec->label, spec->label_len);
	return o;
}

static int check(const struct engine_exec_spec *spec, struct err *err)
{
	if (spec->cmd && spec->cmd_len > CMD_MAX_BYTES)
		return err_set(err, -EMSGSIZE, "cmd: %zu bytes, expected at most %u", spec->cmd_len, CMD_MAX_BYTES);
	if (spec->cmd && memchr(spec->cmd, 0, spec->cmd_len))
		return err_set(err, -EINVAL, "cmd: holds a NUL byte");
	if (!spec->cmd && (!spec->argv || !spec->argv[0]))
		return err_set(err, -EINVAL, "neither a command nor its arguments were given");
	return 0;
}

static int send_run(struct box *b, struct exec *x, const struct engine_exec_spec *spec, struct err *err)
{
	bool by_file = spec->cmd && spec->cmd_len + b->env_bytes > INLINE_MAX_BYTES;
	struct chan *c = box_chan(b, err);
	auto_fd script = -1;
	int fds[2], r;
	size_t n = 0;

	if (!c)
		return err && err->code ? err->code : -EIDRM;
	if (by_file) {
		r = fd_memfd(&script, "command", spec->cmd, spec->cmd_len, err);
		if (r < 0)
			return r;
		fds[n++] = script;
	}
	if (spec->log_fd >= 0)
		fds[n++] = spec->log_fd;
	return chan_send(c, encode(b, c, spec, by_file), fds, n, on_started, x, err);
}

int local_exec(struct engine_box *base, const struct engine_exec_spec *spec, engine_exec_fn *done, void *arg,
	       struct engine_exec **ret, struct err *err)
{
	struct box *b = (struct box *)base;
	int r = check(spec, err);
	struct exec *x;

	if (r < 0)
		return r;
	x = NEW(struct exec);
	*x = (struct exec){ .loop = b->local->loop, .id = xstrdup(spec->id), .done = done, .arg = arg, .main = spec->main,
			    .more = spec->more, .spool = -1 };
	x->base = (struct engine_exec){ .box = base, .id = x->id };
	loop_timer_init(&x->again, x->loop, on_again, x);
	r = send_run(b, x, spec, err);
	if (r < 0) {
		free(x->id);
		free(x);
		return r;
	}
	list_push_back(&b->execs, &x->node);
	b->local->counts.execs++;
	b->local->counts.execs_total++;
	*ret = &x->base;
	return 0;
}

void local_exec_kill(struct engine_exec *base, int signo)
{
	struct exec *x = (struct exec *)base;
	struct box *b = exec_box(x);
	struct wire_out *o;

	if (!b || !b->init || x->state == EXEC_DONE)
		return;
	o = chan_begin(b->init, WIRE_KILL, true);
	wire_put_str(o, WIRE_T_RUN_ID, x->id);
	wire_put_u64(o, WIRE_T_SIGNAL, (uint64_t)signo);
	/* A box that can't be told is ending, and the run with it. */
	chan_tell(b->init, o);
}
