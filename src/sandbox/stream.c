/* sandbox/stream.c: what can be asked about a command while it lives, and about a box: output from an offset, its input,
 * its terminal, signals, usage. Every call answers its callback exactly once, from the loop. */
#include <errno.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/str.h"
#include "sandbox/private.h"

struct question {
	struct loop *loop;
	engine_fetch_fn *fetch;
	engine_fd_fn *fd;
	engine_done_fn *done;
	engine_usage_fn *usage;
	void *arg;
	struct err err; /* it could not be asked */
};

static void tell_fetched(struct question *q, const struct wire_in *in, int *fds, size_t n_fds)
{
	struct engine_fetched f = {
		.stored = wire_get_u64(in, WIRE_T_STORED, 0), .first = wire_get_u64(in, WIRE_T_FIRST, 0), .fd = -1,
	};

	f.data = wire_get(in, WIRE_T_OUTPUT, 0, &f.len);
	if (!f.data)
		f.len = 0;
	if (n_fds > 0)
		f.fd = fd_steal(&fds[0]);
	q->fetch(q->arg, &f, NULL);
}

static void tell_usage(struct question *q, const struct wire_in *in)
{
	const struct engine_usage u = {
		.memory_bytes = wire_get_u64(in, WIRE_T_MEMORY, 0), .memory_peak_bytes = wire_get_u64(in, WIRE_T_MEMORY_PEAK, 0),
		.cpu_us = wire_get_u64(in, WIRE_T_CPU_US, 0), .pids = wire_get_u64(in, WIRE_T_N_PROCS, 0),
		.runs = wire_get_u64(in, WIRE_T_N_RUNS, 0), .disk_free_bytes = wire_get_u64(in, WIRE_T_DISK_FREE, 0),
	};

	q->usage(q->arg, &u, NULL);
}

static void answer(struct question *q, const struct wire_in *in, int *fds, size_t n_fds, const struct err *err)
{
	struct err e;

	if (!err && q->fd && n_fds < 1) {
		err_set(&e, -EPROTO, "init answered without a descriptor");
		err = &e;
	}
	if (q->fd)
		q->fd(q->arg, err ? -1 : fd_steal(&fds[0]), err);
	else if (q->done)
		q->done(q->arg, err);
	else if (q->fetch && err)
		q->fetch(q->arg, NULL, err);
	else if (q->fetch)
		tell_fetched(q, in, fds, n_fds);
	else if (q->usage && err)
		q->usage(q->arg, NULL, err);
	else if (q->usage)
		tell_usage(q, in);
	free(q);
}

static void on_answer(void *arg, const struct wire_in *in, int *fds, size_t n_fds, const struct err *err)
{
	answer(arg, in, fds, n_fds, err);
}

static void fail(void *arg)
{
	struct question *q = arg;
	struct err e = q->err;

	answer(q, NULL, NULL, 0, &e);
}

/* A question about an exec, which may have outlived its box. *ret_chan NULL = there is nobody to ask: finish with send(). */
static struct question *begin(struct exec *x, enum wire_type type, struct chan **ret_chan, struct wire_out **ret_out)
{
	struct question *q = NEW(struct question);
	struct box *b = (struct box *)x->base.box;

	*q = (struct question){ .loop = x->loop };
	*ret_chan = NULL;
	if (b)
		*ret_chan = box_chan(b, &q->err);
	else
		err_set(&q->err, -EIDRM, "the sandbox has ended");
	if (!*ret_chan)
		return q;
	*ret_out = chan_begin(*ret_chan, type, true);
	wire_put_str(*ret_out, WIRE_T_RUN_ID, x->id);
	return q;
}

static void send(struct question *q, struct chan *c, struct wire_out *o)
{
	if (!c || chan_send(c, o, NULL, 0, on_answer, q, &q->err) < 0)
		loop_defer(q->loop, fail, q);
}

void local_exec_fetch(struct engine_exec *base, const struct engine_fetch *f, engine_fetch_fn *done, void *arg)
{
	struct wire_out *o = NULL;
	struct chan *c;
	struct question *q = begin((struct exec *)base, WIRE_READ, &c, &o);

	q->fetch = done;
	q->arg = arg;
	if (c) {
		wire_put_u64(o, WIRE_T_OFFSET, f->offset);
		wire_put_u64(o, WIRE_T_WATCH, f->watch);
		wire_put_u64(o, WIRE_T_FLOW, f->flow);
		wire_put_u64(o, WIRE_T_HAVE, f->have);
	}
	send(q, c, o);
}

void local_exec_input(struct engine_exec *base, engine_fd_fn *done, void *arg)
{
	struct wire_out *o = NULL;
	struct chan *c;
	struct question *q = begin((struct exec *)base, WIRE_INPUT, &c, &o);

	q->fd = done;
	q->arg = arg;
	send(q, c, o);
}

void local_exec_input_end(struct engine_exec *base, engine_done_fn *done, void *arg)
{
	struct wire_out *o = NULL;
	struct chan *c;
	struct question *q = begin((struct exec *)base, WIRE_INPUT_END, &c, &o);

	q->done = done;
	q->arg = arg;
	send(q, c, o);
}

void local_exec_resize(struct engine_exec *base, uint16_t rows, uint16_t cols, engine_done_fn *done, void *arg)
{
	struct wire_out *o = NULL;
	struct chan *c;
	struct question *q = begin((struct exec *)base, WIRE_RESIZE, &c, &o);

	q->done = done;
	q->arg = arg;
	if (c) {
		wire_put_u64(o, WIRE_T_ROWS, rows);
		wire_put_u64(o, WIRE_T_COLS, cols);
	}
	send(q, c, o);
}

void local_exec_signal(struct engine_exec *base, int signo, bool foreground, engine_done_fn *done, void *arg)
{
	struct wire_out *o = NULL;
	struct chan *c;
	struct question *q = begin((struct exec *)base, WIRE_KILL, &c, &o);

	q->done = done;
	q->arg = arg;
	if (c) {
		wire_put_u64(o, WIRE_T_SIGNAL, (uint64_t)signo);
		wire_put_u64(o, WIRE_T_FOREGROUND, foreground);
	}
	send(q, c, o);
}

void local_exec_on_more(struct engine_exec *base, void (*more)(void *arg))
{
	((struct exec *)base)->more = more;
}

void local_usage(struct engine_box *base, engine_usage_fn *done, void *arg)
{
	struct box *b = (struct box *)base;
	struct question *q = NEW(struct question);
	struct chan *c;

	*q = (struct question){ .loop = b->local->loop, .usage = done, .arg = arg };
	c = box_chan(b, &q->err);
	send(q, c, c ? chan_begin(c, WIRE_STATUS, true) : NULL);
}

/* -- from exec.c and init ---------------------------------------------------------------------------------------------- */

uint64_t stream_flags(const struct engine_exec_spec *spec)
{
	return (spec->separate ? WIRE_RUN_SEPARATE : 0u) | (spec->keep_last ? WIRE_RUN_TAIL : 0u) |
	       (spec->input ? WIRE_RUN_INPUT : 0u) | (spec->terminal ? WIRE_RUN_TTY : 0u) | (spec->fetch ? WIRE_RUN_FETCH : 0u);
}

void stream_more(struct box *b, const struct wire_in *in)
{
	const char *id = wire_get_str(in, WIRE_T_RUN_ID, 0);

	list_foreach(&b->execs, struct exec, node, x)
		if (str_eq(x->id, id)) {
			if (x->more && !x->released && x->state != EXEC_DONE)
				x->more(x->arg);
			return;
		}
}
