/* sandbox/stream.c: what can be asked about a command while it lives, and about a box: output from an offset, its input,
 * its terminal, signals, usage. */
#include "base/fd.h"
#include "base/mem.h"
#include "base/str.h"
#include "sandbox/private.h"

/* Of a command, which may have outlived its box. */
static struct wire_out *begin(struct ask *q, const struct exec *x, enum wire_type type)
{
	struct wire_out *o = ask_begin(q, (struct box *)x->base.box, type);

	if (o)
		wire_put_str(o, WIRE_T_RUN_ID, x->id);
	return o;
}

static void answer_fetched(void *arg, const struct wire_in *in, int *fds, size_t n_fds, const struct err *err)
{
	struct ask *q = arg;
	struct engine_fetched f = { .fd = -1 };
	struct err e;

	if (!err && ask_check_file(fds, n_fds, &e) < 0)
		err = &e;
	if (!err) {
		f.stored = wire_get_u64(in, WIRE_T_STORED, 0);
		f.first = wire_get_u64(in, WIRE_T_FIRST, 0);
		f.data = wire_get(in, WIRE_T_OUTPUT, 0, &f.len);
		f.len = f.data ? f.len : 0;
		f.fd = n_fds > 0 ? fd_steal(&fds[0]) : -1;
	}
	q->fn.fetch(q->arg, err ? NULL : &f, err);
	free(q);
}

void local_exec_fetch(struct engine_exec *base, const struct engine_fetch *f, engine_fetch_fn *done, void *arg)
{
	struct exec *x = (struct exec *)base;
	struct ask *q = ask_new(x->loop, answer_fetched, arg);
	struct wire_out *o = begin(q, x, WIRE_READ);

	q->fn.fetch = done;
	if (o) {
		wire_put_u64(o, WIRE_T_OFFSET, f->offset);
		wire_put_u64(o, WIRE_T_WATCH, f->watch);
		wire_put_u64(o, WIRE_T_FLOW, f->flow);
		wire_put_u64(o, WIRE_T_NEED, f->need);
		wire_put_u64(o, WIRE_T_HAVE, f->have);
	}
	ask_send(q, o);
}

void local_exec_input(struct engine_exec *base, engine_fd_fn *done, void *arg)
{
	struct exec *x = (struct exec *)base;
	struct ask *q = ask_fd(x->loop, done, arg);

	ask_send(q, begin(q, x, WIRE_INPUT));
}

void local_exec_input_end(struct engine_exec *base, engine_done_fn *done, void *arg)
{
	struct exec *x = (struct exec *)base;
	struct ask *q = ask_done(x->loop, done, arg);

	ask_send(q, begin(q, x, WIRE_INPUT_END));
}

void local_exec_resize(struct engine_exec *base, uint16_t rows, uint16_t cols, engine_done_fn *done, void *arg)
{
	struct exec *x = (struct exec *)base;
	struct ask *q = ask_done(x->loop, done, arg);
	struct wire_out *o = begin(q, x, WIRE_RESIZE);

	if (o) {
		wire_put_u64(o, WIRE_T_ROWS, rows);
		wire_put_u64(o, WIRE_T_COLS, cols);
	}
	ask_send(q, o);
}

void local_exec_signal(struct engine_exec *base, int signo, bool foreground, engine_done_fn *done, void *arg)
{
	struct exec *x = (struct exec *)base;
	struct ask *q = ask_done(x->loop, done, arg);
	struct wire_out *o = begin(q, x, WIRE_KILL);

	if (o) {
		wire_put_u64(o, WIRE_T_SIGNAL, (uint64_t)signo);
		wire_put_u64(o, WIRE_T_FOREGROUND, foreground);
	}
	ask_send(q, o);
}

void local_exec_on_more(struct engine_exec *base, void (*more)(void *arg))
{
	((struct exec *)base)->more = more;
}

static void answer_usage(void *arg, const struct wire_in *in, int *fds UNUSED, size_t n_fds UNUSED, const struct err *err)
{
	struct ask *q = arg;
	struct engine_usage u = { 0 };

	if (!err)
		u = (struct engine_usage){
			.memory_bytes = wire_get_u64(in, WIRE_T_MEMORY, 0),
			.memory_peak_bytes = wire_get_u64(in, WIRE_T_MEMORY_PEAK, 0),
			.cpu_us = wire_get_u64(in, WIRE_T_CPU_US, 0), .pids = wire_get_u64(in, WIRE_T_N_PROCS, 0),
			.runs = wire_get_u64(in, WIRE_T_N_RUNS, 0), .disk_free_bytes = wire_get_u64(in, WIRE_T_DISK_FREE, 0),
		};
	q->fn.usage(q->arg, err ? NULL : &u, err);
	free(q);
}

void local_usage(struct engine_box *base, engine_usage_fn *done, void *arg)
{
	struct box *b = (struct box *)base;
	struct ask *q = ask_new(b->local->loop, answer_usage, arg);

	q->fn.usage = done;
	ask_send(q, ask_begin(q, b, WIRE_STATUS));
}

/* -- from exec.c and init ---------------------------------------------------------------------------------------------- */

uint64_t stream_flags(const struct engine_exec_spec *spec)
{
	return (spec->separate ? WIRE_RUN_SEPARATE : 0u) | (spec->keep_last ? WIRE_RUN_TAIL : 0u) |
	       (spec->input ? WIRE_RUN_INPUT : 0u) | (spec->terminal ? WIRE_RUN_TTY : 0u) | (spec->fetch ? WIRE_RUN_FETCH : 0u);
}

void stream_more(struct box *b, const struct wire_in *in)
{
	struct exec *x = execs_find(b, in);

	if (x && x->more && !x->released)
		x->more(x->arg);
}
