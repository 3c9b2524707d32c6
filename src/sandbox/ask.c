/* sandbox/ask.c: a question to the init of a box: its callback is called exactly once, from the loop, also where nobody could be
 * asked. */
#include <errno.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "base/mem.h"
#include "sandbox/private.h"

struct ask *ask_new(struct loop *l, chan_answer_fn *answer, void *arg)
{
	struct ask *q = NEW(struct ask);

	*q = (struct ask){ .loop = l, .answer = answer, .arg = arg };
	return q;
}

struct wire_out *ask_begin(struct ask *q, struct box *b, enum wire_type type)
{
	if (b)
		q->chan = box_chan(b, &q->err);
	else
		err_set(&q->err, -EIDRM, "the sandbox has ended");
	return q->chan ? chan_begin(q->chan, type, true) : NULL;
}

static void fail(void *arg)
{
	struct ask *q = arg;
	struct err e = q->err; /* the answer frees q */

	q->answer(q, NULL, NULL, 0, &e);
}

void ask_send(struct ask *q, struct wire_out *o)
{
	if (!o || chan_send(q->chan, o, NULL, 0, q->answer, q, &q->err) < 0)
		loop_defer(q->loop, fail, q);
}

const struct err *ask_need_fd(size_t n_fds, const struct err *err, struct err *e)
{
	if (err || n_fds > 0)
		return err;
	err_set(e, -EPROTO, "init answered without a descriptor");
	return e;
}

int ask_check_file(const int *fds, size_t n_fds, struct err *err)
{
	struct stat st;

	if (n_fds == 0)
		return 0;
	if (fstat(fds[0], &st) < 0)
		return err_sys(err, "look at a file of the sandbox");
	return S_ISREG(st.st_mode) ? 0 : err_set(err, -EPROTO, "init answered with something that is not a file");
}

static void answer_fd(void *arg, const struct wire_in *in UNUSED, int *fds, size_t n_fds, const struct err *err)
{
	struct ask *q = arg;
	struct err e;

	err = ask_need_fd(n_fds, err, &e);
	q->fn.fd(q->arg, err ? -1 : fd_steal(&fds[0]), err);
	free(q);
}

struct ask *ask_fd(struct loop *l, engine_fd_fn *done, void *arg)
{
	struct ask *q = ask_new(l, answer_fd, arg);

	q->fn.fd = done;
	return q;
}

static void answer_done(void *arg, const struct wire_in *in UNUSED, int *fds UNUSED, size_t n_fds UNUSED, const struct err *err)
{
	struct ask *q = arg;

	q->fn.done(q->arg, err);
	free(q);
}

struct ask *ask_done(struct loop *l, engine_done_fn *done, void *arg)
{
	struct ask *q = ask_new(l, answer_done, arg);

	q->fn.done = done;
	return q;
}
