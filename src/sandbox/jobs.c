/* sandbox/jobs.c: root jobs through the spawner: images are pulled, built, imported and removed by them. A job is over when
 * the spawner said how it ended and its output was read to the end. */
#include <errno.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/random.h"
#include "base/str.h"
#include "sandbox/link_private.h"

#define LINE_MAX_BYTES 8192
#define READ_BUDGET 65536   /* bytes of one job's output before others get a turn */
#define GRACE_MS 2000       /* for output that a left-behind process holds open after the job's end */

struct job {
	struct list node;
	struct link *link;
	uint64_t number;
	char id[UUID_LEN];
	engine_progress_fn *line;
	void (*done)(void *arg, int status, const struct err *err);
	void *arg;
	struct loop_io io;
	int pipe;
	struct buf text;      /* an unfinished line */
	char *last;           /* the last line that was not empty */
	struct loop_timer grace;
	bool exited, started, cancelled;
	int wait_status;
	char *reason;         /* "timeout", "cancelled" or NULL */
	struct err err;       /* it could not be started */
};

static struct job *job_by_id(struct link *k, const char *id)
{
	list_foreach(&k->running, struct job, node, j)
		if (str_eq(j->id, id))
			return j;
	return NULL;
}

static void job_release(void *arg)
{
	struct job *j = arg;

	buf_done(&j->text);
	free(j->last);
	free(j->reason);
	free(j);
}

static void job_close(struct job *j)
{
	list_remove(&j->node);
	loop_timer_stop(&j->grace);
	loop_io_close(&j->io);
	j->pipe = fd_close(j->pipe);
	loop_release(j->link->loop, job_release, j);
}

/* -- the end ---------------------------------------------------------------------------------------------------------- */

static int exit_status(const struct job *j)
{
	if (WIFEXITED(j->wait_status))
		return WEXITSTATUS(j->wait_status);
	return WIFSIGNALED(j->wait_status) ? 128 + WTERMSIG(j->wait_status) : 255;
}

static int code_of(int status)
{
	return status == IMAGE_JOB_BUSY ? -EBUSY : status == IMAGE_JOB_GONE ? -ENOENT : -EIO;
}

static void explain(const struct job *j, int status, struct err *ret)
{
	if (j->cancelled || str_eq(j->reason, "cancelled"))
		err_set(ret, -ECANCELED, "cancelled");
	else if (str_eq(j->reason, "timeout"))
		err_set(ret, -ETIME, "it took too long%s%s", j->last ? "; last: " : "", j->last ? j->last : "");
	else if (j->last)
		err_set(ret, code_of(status), "%s", j->last);
	else if (status > 128)
		err_set(ret, -EIO, "the job was killed by signal %d and said nothing", status - 128);
	else
		err_set(ret, -EIO, "the job ended with status %d and said nothing", status);
}

static void job_over(struct job *j)
{
	int status = exit_status(j);
	struct err err = ERR_INIT;

	if (status || j->reason)
		explain(j, status, &err);
	job_close(j);
	if (j->done)
		j->done(j->arg, status ? status : err.code ? 255 : 0, err.code ? &err : NULL);
}

static void job_failed(struct job *j, const struct err *err)
{
	struct err copy = *err;

	job_close(j);
	if (j->done)
		j->done(j->arg, 255, &copy);
}

/* -- output ----------------------------------------------------------------------------------------------------------- */

static void tell_line(struct job *j, const char *text)
{
	if (!*text)
		return;
	free(j->last);
	j->last = xstrdup(text);
	if (j->line)
		j->line(j->arg, text);
}

static void split_lines(struct job *j, bool end)
{
	char *nl;

	while (j->text.len && (nl = memchr(j->text.data, '\n', j->text.len))) {
		size_t len = (size_t)(nl - j->text.data);

		*nl = 0;
		if (len > 0 && nl[-1] == '\r')
			nl[-1] = 0;
		tell_line(j, j->text.data);
		buf_consume(&j->text, len + 1);
	}
	if (j->text.len && (end || j->text.len >= LINE_MAX_BYTES)) {
		tell_line(j, j->text.data);
		buf_clear(&j->text);
	}
}

static void output_over(struct job *j)
{
	split_lines(j, true);
	loop_io_close(&j->io);
	j->pipe = fd_close(j->pipe);
	if (j->exited)
		job_over(j);
}

static void on_output(struct loop_io *io UNUSED, uint32_t events UNUSED, void *arg)
{
	struct job *j = arg;

	for (size_t got = 0; got < READ_BUDGET;) {
		char *p;
		ssize_t n;

		if (buf_reserve(&j->text, LINE_MAX_BYTES, &p) < 0)
			return;
		n = read(j->pipe, p, LINE_MAX_BYTES);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n <= 0) {
			output_over(j);
			return;
		}
		buf_commit(&j->text, (size_t)n);
		got += (size_t)n;
		split_lines(j, false);
	}
}

static void on_grace(struct loop_timer *t UNUSED, void *arg)
{
	output_over(arg);
}

/* -- the spawner's answers ---------------------------------------------------------------------------------------------- */

static void send_cancel(struct job *j)
{
	struct chan *c = j->link->chan;
	struct wire_out *o;

	if (!c)
		return;
	o = chan_begin(c, WIRE_JOB_CANCEL, true);
	wire_put_str(o, WIRE_T_ID, j->id);
	/* A link that fails now is lost, which ends the job too. */
	chan_tell(c, o);
}

static void on_started(void *arg, const struct wire_in *in UNUSED, int *fds, size_t n_fds, const struct err *err)
{
	struct job *j = arg;
	struct err e;
	int r;

	if (err) {
		if (err->code == -EMFILE || err->code == -ETIMEDOUT)
			send_cancel(j); /* what came with the answer found no room here, or the answer comes late */
		job_failed(j, err);
		return;
	}
	j->started = true;
	j->pipe = n_fds ? fd_steal(&fds[0]) : -1;
	r = j->pipe < 0 ? err_set(&e, -EPROTO, "the job came without its output") : fd_set_nonblock(j->pipe, true);
	if (r == 0)
		r = loop_io_open(&j->io, j->link->loop, j->pipe, EPOLLIN, on_output, j, &e);
	if (r < 0 || j->cancelled)
		send_cancel(j);
	if (r < 0)
		job_failed(j, &e);
}

void jobs_event(struct link *k, const struct wire_in *in)
{
	const char *id = wire_get_str(in, WIRE_T_ID, 0);
	struct job *j = id ? job_by_id(k, id) : NULL;

	if (!j)
		return;
	j->exited = true;
	j->wait_status = (int)wire_get_u64(in, WIRE_T_STATUS, 255 << 8);
	j->reason = xstrdup(wire_get_str(in, WIRE_T_REASON, 0));
	if (str_empty(j->reason)) {
		free(j->reason);
		j->reason = NULL;
	}
	if (j->pipe < 0)
		job_over(j);
	else
		loop_timer_start(&j->grace, GRACE_MS);
}

/* -- struct image_jobs -------------------------------------------------------------------------------------------------- */

static void defer_failure(void *arg)
{
	struct job *j = arg;

	job_failed(j, &j->err);
}

static int job_start(struct image_jobs *js, const char *kind, const char *const *argv, int input, engine_progress_fn *line,
		     void (*done)(void *arg, int status, const struct err *err), void *arg, uint64_t *ret_job, struct err *err)
{
	struct link *k = container_of(js, struct link, jobs);
	struct wire_out *o;
	struct job *j;

	if (!k->chan)
		return err_set(err, -EAGAIN, "the spawner is away");
	if (input >= 0 && !(k->flags & WIRE_WELCOME_INPUT))
		return err_set(err, -EOPNOTSUPP, "the spawner that runs is of an older version: build arguments and secrets need its restart");
	j = NEW(struct job);
	*j = (struct job){ .link = k, .number = ++k->next_job, .line = line, .done = done, .arg = arg, .pipe = -1 };
	random_uuid(j->id);
	buf_init(&j->text, 4 * LINE_MAX_BYTES);
	loop_timer_init(&j->grace, k->loop, on_grace, j);
	list_init(&j->node);
	o = chan_begin(k->chan, WIRE_JOB, true);
	wire_put_str(o, WIRE_T_ID, j->id);
	wire_put_str(o, WIRE_T_JOB_KIND, kind);
	for (size_t i = 0; argv && argv[i]; i++)
		wire_put_str(o, WIRE_T_ARG, argv[i]);
	if (chan_send(k->chan, o, &input, input >= 0, on_started, j, &j->err) < 0)
		loop_defer(k->loop, defer_failure, j);
	else
		list_push_back(&k->running, &j->node);
	if (ret_job)
		*ret_job = j->number;
	return 0;
}

static void job_cancel(struct image_jobs *js, uint64_t number)
{
	struct link *k = container_of(js, struct link, jobs);

	list_foreach(&k->running, struct job, node, j)
		if (j->number == number && !j->cancelled) {
			j->cancelled = true;
			if (j->started)
				send_cancel(j);
		}
}

void jobs_init(struct link *k)
{
	list_init(&k->running);
	k->jobs = (struct image_jobs){ .start = job_start, .cancel = job_cancel };
}

void jobs_done(struct link *k)
{
	list_foreach(&k->running, struct job, node, j)
		job_close(j);
}

void jobs_lost(struct link *k, const struct err *why)
{
	struct err err = *why;

	err_wrap(&err, err.code, "the spawner is gone");
	for (struct job *it; (it = list_first(&k->running, struct job, node));)
		job_failed(it, &err);
}
