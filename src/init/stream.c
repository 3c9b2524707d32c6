#include "init/stream.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/fd.h"
#include "init/init.h"

#define PTMX "/dev/pts/ptmx" /* the spawner's own mount: nobody inside can put something else there */
#define ROWS_DEFAULT 24
#define COLS_DEFAULT 80

#ifndef TIOCGPTPEER
#define TIOCGPTPEER 0x5441 /* _IO('T', 0x41) */
#endif

/* -- making ---------------------------------------------------------------------------------------------------- */

static struct winsize size_of(const struct wire_in *msg)
{
	uint64_t rows = wire_get_u64(msg, WIRE_T_ROWS, ROWS_DEFAULT), cols = wire_get_u64(msg, WIRE_T_COLS, COLS_DEFAULT);

	return (struct winsize){
		.ws_row = (unsigned short)MIN(rows, (uint64_t)UINT16_MAX),
		.ws_col = (unsigned short)MIN(cols, (uint64_t)UINT16_MAX),
	};
}

/* The slave comes from the master itself, not by a name. */
static int open_terminal(struct stream_ends *e, const struct command *c, const struct wire_in *msg, struct err *err)
{
	const struct winsize size = size_of(msg);
	const int unlock = 0;

	e->read_end = open(PTMX, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	if (e->read_end < 0)
		return err_sys(err, "open %s", PTMX);
	if (ioctl(e->read_end, TIOCSPTLCK, &unlock) < 0)
		return err_sys(err, "unlock the terminal");
	e->slave = ioctl(e->read_end, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (e->slave < 0)
		return err_sys(err, "open the terminal");
	if (fchown(e->slave, c->user.uid, (gid_t)-1) < 0)
		return err_sys(err, "give the terminal to uid %u", (unsigned)c->user.uid);
	return ioctl(e->read_end, TIOCSWINSZ, &size) < 0 ? err_sys(err, "set the terminal's size") : 0;
}

static int open_pipe(int *ret_read, int *ret_write, struct err *err)
{
	int p[2];

	if (pipe2(p, O_CLOEXEC) < 0)
		return err_sys(err, "make a pipe");
	*ret_read = p[0];
	*ret_write = p[1];
	return 0;
}

static int open_output(int *ret_read, int *ret_write, struct err *err)
{
	int r = open_pipe(ret_read, ret_write, err);

	/* One call: nothing else is set on a pipe that was just made. */
	return r == 0 && fcntl(*ret_read, F_SETFL, O_NONBLOCK) < 0 ? err_sys(err, "make a pipe non-blocking") : r;
}

static int open_pipes(struct stream_ends *e, struct command *c, uint64_t flags, struct err *err)
{
	int r = open_output(&e->read_end, &e->child_out, err);

	c->output = c->error = e->child_out;
	if (r == 0 && (flags & WIRE_RUN_SEPARATE)) {
		r = open_output(&e->read_err, &e->child_err, err);
		c->error = e->child_err;
	}
	if (r == 0 && (flags & WIRE_RUN_INPUT)) {
		r = open_pipe(&e->child_in, &e->input, err);
		c->input = e->child_in;
	}
	return r < 0 ? r : 0;
}

int stream_ends_open(struct stream_ends *e, struct command *c, const struct wire_in *msg, struct err *err)
{
	uint64_t flags = wire_get_u64(msg, WIRE_T_FLAGS, 0);
	int r;

	if (!(flags & WIRE_RUN_TTY))
		return open_pipes(e, c, flags, err);
	if (flags & WIRE_RUN_SEPARATE)
		return err_set(err, -EINVAL, "RUN_TTY with RUN_SEPARATE: a terminal has one output");
	r = open_terminal(e, c, msg, err);
	c->input = c->output = c->error = e->slave;
	c->terminal = true;
	return r;
}

void stream_ends_done(struct stream_ends *e)
{
	int *const all[] = { &e->read_end, &e->read_err, &e->input, &e->slave, &e->child_in, &e->child_out, &e->child_err };

	for (size_t i = 0; i < ARRAY_LEN(all); i++)
		*all[i] = fd_close(*all[i]);
}

/* -- requests -------------------------------------------------------------------------------------------------- */

static int find(struct init *in, struct request *q, struct run **ret, struct err *err)
{
	q->stage = "run";
	*ret = run_find(in, q->msg);
	return *ret ? 0 : err_set(err, -ENOENT, "no such run: never started here, or acknowledged");
}

static void put_bytes(struct wire_out *o, const struct output *out, uint64_t offset)
{
	if (out->spool < 0 && offset < out->stored)
		wire_put(o, WIRE_T_OUTPUT, out->mem + offset, out->stored - offset);
}

/* One who reads from far behind the end is no reason to run on to there: others may be waited for. */
static void set_flow(struct output *out, const struct wire_in *msg, uint64_t offset)
{
	uint64_t flow = wire_get_u64(msg, WIRE_T_FLOW, 0), at = MIN(offset, out->stored);

	out->flow_at = flow && at < UINT64_MAX - flow ? at + flow : UINT64_MAX;
	out->need = flow ? wire_get_u64(msg, WIRE_T_NEED, at) : UINT64_MAX;
}

int stream_read(struct init *in, struct request *q, struct err *err)
{
	uint64_t offset = wire_get_u64(q->msg, WIRE_T_OFFSET, 0);
	struct wire_out *o;
	struct run *run;
	auto_fd spool = -1;
	int r = find(in, q, &run, err);

	if (r < 0)
		return r;
	if (run->state != RUN_ENDED) {
		set_flow(&run->out, q->msg, offset);
		run->watched = wire_get_u64(q->msg, WIRE_T_WATCH, 0);
		run_watch(in, run);
	}
	if (!wire_get_u64(q->msg, WIRE_T_HAVE, 0))
		spool = output_reopen(&run->out);
	o = control_begin(WIRE_OK, q->msg->request);
	wire_put_u64(o, WIRE_T_STORED, run->out.stored);
	wire_put_u64(o, WIRE_T_FIRST, run->out.first);
	put_bytes(o, &run->out, offset);
	control_reply(in, o, &spool, spool >= 0);
	return 0;
}

int stream_input(struct init *in, struct request *q, struct err *err)
{
	struct run *run;
	int fd, r = find(in, q, &run, err);

	if (r < 0)
		return r;
	fd = run->slave >= 0 ? run->out.pipe.fd : run->input;
	if (fd < 0)
		return err_set(err, -EPIPE, "the command's input is closed");
	control_reply(in, control_begin(WIRE_OK, q->msg->request), &fd, 1);
	return 0;
}

int stream_input_end(struct init *in, struct request *q, struct err *err)
{
	struct run *run;
	int r = find(in, q, &run, err);

	if (r < 0)
		return r;
	run->input = fd_close(run->input);
	control_ok(in, q->msg->request);
	return 0;
}

static int no_terminal(struct err *err)
{
	return err_set(err, -ENOTTY, "the command has no terminal, or has ended");
}

int stream_resize(struct init *in, struct request *q, struct err *err)
{
	const struct winsize size = size_of(q->msg);
	struct run *run;
	int r = find(in, q, &run, err);

	if (r < 0)
		return r;
	if (run->slave < 0)
		return no_terminal(err);
	if (ioctl(run->out.pipe.fd, TIOCSWINSZ, &size) < 0)
		return err_sys(err, "set the terminal's size");
	control_ok(in, q->msg->request);
	return 0;
}

int stream_signal(const struct run *run, int sig)
{
	pid_t group = 0;

	if (ioctl(run->out.pipe.fd, TIOCGPGRP, &group) < 0)
		return -errno;
	/* 0 or 1 would be everybody here: a terminal whose foreground lives elsewhere, or nowhere. */
	if (group <= 1)
		return -ESRCH;
	return kill(-group, sig) < 0 ? -errno : 0;
}
