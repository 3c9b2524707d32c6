/* sandbox/files.c: what init hands out of a box: connections to its ports, descriptors of its files. */
#include "base/fd.h"
#include "base/mem.h"
#include "sandbox/private.h"

static void put_path(struct wire_out *o, const struct box *b, const char *path, const char *tmp)
{
	wire_put_str(o, WIRE_T_PATH, path);
	wire_put_str(o, WIRE_T_TMP, tmp);
	wire_put_str(o, WIRE_T_USER, b->image->user ? b->image->user : "");
	wire_put_str(o, WIRE_T_CWD, b->image->workdir);
}

void local_connect(struct engine_box *base, uint16_t port, engine_fd_fn *done, void *arg)
{
	struct box *b = (struct box *)base;
	struct ask *q = ask_fd(b->local->loop, done, arg);
	struct wire_out *o = ask_begin(q, b, WIRE_CONNECT);

	if (o)
		wire_put_u64(o, WIRE_T_PORT, port);
	ask_send(q, o);
}

static void answer_open(void *arg, const struct wire_in *in, int *fds, size_t n_fds, const struct err *err)
{
	struct ask *q = arg;
	struct err e;

	err = ask_need_fd(n_fds, err, &e);
	if (!err && ask_check_file(fds, n_fds, &e) < 0)
		err = &e;
	if (err)
		q->fn.open(q->arg, -1, 0, NULL, err);
	else
		q->fn.open(q->arg, fd_steal(&fds[0]), wire_get_u64(in, WIRE_T_SIZE, 0), wire_get_str(in, WIRE_T_TMP, 0), NULL);
	free(q);
}

void local_open(struct engine_box *base, const char *path, enum engine_open mode, const char *tmp, engine_open_fn *done, void *arg)
{
	static const enum wire_open_mode modes[] = {
		[ENGINE_OPEN_READ] = WIRE_OPEN_READ,
		[ENGINE_OPEN_STAGE] = WIRE_OPEN_STAGE,
		[ENGINE_OPEN_STAGE_MKDIRS] = WIRE_OPEN_STAGE_MKDIRS,
	};
	struct box *b = (struct box *)base;
	struct ask *q = ask_new(b->local->loop, answer_open, arg);
	struct wire_out *o = ask_begin(q, b, WIRE_OPEN);

	q->fn.open = done;
	if (o) {
		put_path(o, b, path, tmp);
		wire_put_u64(o, WIRE_T_OPEN_MODE, modes[mode]);
	}
	ask_send(q, o);
}

void local_commit(struct engine_box *base, const char *path, const char *tmp, engine_done_fn *done, void *arg)
{
	struct box *b = (struct box *)base;
	struct ask *q = ask_done(b->local->loop, done, arg);
	struct wire_out *o = ask_begin(q, b, WIRE_COMMIT);

	if (o)
		put_path(o, b, path, tmp);
	ask_send(q, o);
}

/* What can't be removed goes with the box. */
void local_discard(struct engine_box *base, const char *path, const char *tmp)
{
	struct box *b = (struct box *)base;
	struct chan *c = box_chan(b, NULL);
	struct wire_out *o;

	if (!c)
		return;
	o = chan_begin(c, WIRE_DISCARD, true);
	put_path(o, b, path, tmp);
	chan_tell(c, o);
}
