/* sandbox/files.c: what init hands out of a box: connections to its ports, descriptors of its files. Every call answers its
 * callback exactly once, from the loop. */
#include <errno.h>

#include "base/fd.h"
#include "base/mem.h"
#include "sandbox/private.h"

struct call {
	engine_fd_fn *fd;
	engine_open_fn *open;
	engine_done_fn *done;
	void *arg;
	struct err err; /* it could not be asked */
};

/* Gives a call its one answer. */
static void answer(struct call *c, const struct wire_in *in, int *fds, size_t n_fds, const struct err *err)
{
	bool wants_fd = c->fd || c->open;
	struct err e;

	if (!err && wants_fd && n_fds < 1) {
		err_set(&e, -EPROTO, "init answered without a descriptor");
		err = &e;
	}
	if (c->fd)
		c->fd(c->arg, err ? -1 : fd_steal(&fds[0]), err);
	else if (c->open && err)
		c->open(c->arg, -1, 0, NULL, err);
	else if (c->open)
		c->open(c->arg, fd_steal(&fds[0]), wire_get_u64(in, WIRE_T_SIZE, 0), wire_get_str(in, WIRE_T_TMP, 0), NULL);
	else if (c->done)
		c->done(c->arg, err);
	free(c);
}

static void on_answer(void *arg, const struct wire_in *in, int *fds, size_t n_fds, const struct err *err)
{
	answer(arg, in, fds, n_fds, err);
}

static void fail(void *arg)
{
	struct call *c = arg;
	struct err e = c->err;

	answer(c, NULL, NULL, 0, &e);
}

static struct call *call_new(engine_fd_fn *fd, engine_open_fn *open, engine_done_fn *done, void *arg)
{
	struct call *c = NEW(struct call);

	*c = (struct call){ .fd = fd, .open = open, .done = done, .arg = arg };
	return c;
}

static struct wire_out *begin_path(const struct box *b, struct chan *ch, enum wire_type type, const char *path, const char *tmp)
{
	struct wire_out *o = chan_begin(ch, type, true);

	wire_put_str(o, WIRE_T_PATH, path);
	wire_put_str(o, WIRE_T_TMP, tmp);
	wire_put_str(o, WIRE_T_USER, b->image->user ? b->image->user : "");
	wire_put_str(o, WIRE_T_CWD, b->image->workdir);
	return o;
}

void local_connect(struct engine_box *base, uint16_t port, engine_fd_fn *done, void *arg)
{
	struct box *b = (struct box *)base;
	struct call *c = call_new(done, NULL, NULL, arg);
	struct chan *ch = box_chan(b, &c->err);
	struct wire_out *o;

	if (ch) {
		o = chan_begin(ch, WIRE_CONNECT, true);
		wire_put_u64(o, WIRE_T_PORT, port);
	}
	if (!ch || chan_send(ch, o, NULL, 0, on_answer, c, &c->err) < 0)
		loop_defer(b->local->loop, fail, c);
}

void local_open(struct engine_box *base, const char *path, enum engine_open mode, const char *tmp, engine_open_fn *done, void *arg)
{
	static const enum wire_open_mode modes[] = {
		[ENGINE_OPEN_READ] = WIRE_OPEN_READ,
		[ENGINE_OPEN_STAGE] = WIRE_OPEN_STAGE,
		[ENGINE_OPEN_STAGE_MKDIRS] = WIRE_OPEN_STAGE_MKDIRS,
	};
	struct box *b = (struct box *)base;
	struct call *c = call_new(NULL, done, NULL, arg);
	struct chan *ch = box_chan(b, &c->err);
	struct wire_out *o;

	if (ch) {
		o = begin_path(b, ch, WIRE_OPEN, path, tmp);
		wire_put_u64(o, WIRE_T_OPEN_MODE, modes[mode]);
	}
	if (!ch || chan_send(ch, o, NULL, 0, on_answer, c, &c->err) < 0)
		loop_defer(b->local->loop, fail, c);
}

void local_commit(struct engine_box *base, const char *path, const char *tmp, engine_done_fn *done, void *arg)
{
	struct box *b = (struct box *)base;
	struct call *c = call_new(NULL, NULL, done, arg);
	struct chan *ch = box_chan(b, &c->err);

	if (!ch || chan_send(ch, begin_path(b, ch, WIRE_COMMIT, path, tmp), NULL, 0, on_answer, c, &c->err) < 0)
		loop_defer(b->local->loop, fail, c);
}

void local_discard(struct engine_box *base, const char *path, const char *tmp)
{
	struct box *b = (struct box *)base;
	struct chan *ch = box_chan(b, NULL);

	/* What can't be removed goes with the box. */
	if (ch && chan_send(ch, begin_path(b, ch, WIRE_DISCARD, path, tmp), NULL, 0, NULL, NULL, NULL) < 0)
		return;
}
