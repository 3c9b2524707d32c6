/* What the daemon is told of runs: that they began, how they ended, and which there are. Ends are events that wait for room in
 * the socket; a result stays until it is acknowledged, and can be asked for again. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/fd.h"
#include "base/time.h"
#include "init/init.h"

#define TELL_AGAIN_US 20000

/* Without memory for the answer it is given later, by STARTED or by DONE: the run lives, and is not to be told to have failed. Of
 * several who asked the last is the one who lives. */
void run_tell_started(struct init *in, struct run *run, uint64_t request)
{
	struct wire_out *o = control_begin(WIRE_STARTED, request);

	wire_put(o, WIRE_T_RUN_ID, run->id, run->id_len);
	wire_put_u64(o, WIRE_T_PID, (uint64_t)run->pid);
	if (control_try(in, o, NULL, 0) == 0) {
		run->starting = 0;
		return;
	}
	run->starting = request;
	run->tell_us = time_now_us() + TELL_AGAIN_US;
	if (run->state == RUN_ENDED && list_empty(&run->owed_link)) /* else it keeps its place */
		run_set_unsent(in, run, true);
}

/* -- results ---------------------------------------------------------------------------------------------------- */

static void put_result(struct wire_out *o, const struct run *run)
{
	wire_put(o, WIRE_T_RUN_ID, run->id, run->id_len);
	wire_put_u64(o, WIRE_T_STATUS, (uint64_t)(unsigned)run->status);
	wire_put_u64(o, WIRE_T_TIMED_OUT, run->timed_out);
	wire_put_u64(o, WIRE_T_KILLED, run->killed);
	wire_put_u64(o, WIRE_T_BYTES, run->out.kept);
	wire_put_u64(o, WIRE_T_STORED, run->out.stored);
	wire_put_u64(o, WIRE_T_FLAGS, run->flags);
	wire_put_u64(o, WIRE_T_DROPPED, run->out.dropped);
	wire_put_u64(o, WIRE_T_DURATION_US, run->end_us - run->start_us);
	wire_put_u64(o, WIRE_T_CPU_US, run->cpu_us);
	wire_put_u64(o, WIRE_T_PEAK_BYTES, (uint64_t)run->usage.ru_maxrss * 1024);
	wire_put_u64(o, WIRE_T_OOM_KILLS, run->base.oom_kills);
	wire_put_u64(o, WIRE_T_PIDS_HITS, run->base.pids_hits);
	wire_put_u64(o, WIRE_T_LIMIT_HITS, run->base.limit_hits);
	wire_put_u64(o, WIRE_T_DISK_FREE, run->disk_free);
	if (run->out.lost)
		wire_put_u64(o, WIRE_T_ERRNO, (uint64_t)run->out.lost);
	if (run->out.spool < 0 && !(run->flags & WIRE_RUN_FETCH))
		wire_put(o, WIRE_T_OUTPUT, run->out.mem ? run->out.mem : "", run->out.stored);
}

void run_set_unsent(struct init *in, struct run *run, bool unsent)
{
	list_remove(&run->owed_link);
	if (unsent)
		list_push_back(&in->runs.owed, &run->owed_link);
}

/* What goes beside a DONE. The caller's; -1 = nothing. False when there is no descriptor for it at present: without it the result
 * would be none. */
static bool result_fd(const struct run *run, int *ret)
{
	bool beside = run->out.spool >= 0 && !(run->flags & WIRE_RUN_FETCH);

	*ret = beside ? output_reopen(&run->out) : -1;
	return *ret >= 0 || !beside || (errno != EMFILE && errno != ENFILE && errno != ENOMEM);
}

/* False when the socket takes no more. *ret_later: it was not sent for want of a descriptor, which others may not need. */
static bool send_done(struct init *in, struct run *run, bool *ret_later)
{
	auto_fd spool = -1;
	struct wire_out *o;

	if (!result_fd(run, &spool)) {
		*ret_later = true;
		return true;
	}
	o = control_begin(WIRE_DONE, run->starting);
	put_result(o, run);
	if (control_event(in, o, &spool, spool >= 0) == -EAGAIN)
		return false;
	run->starting = 0;
	run_set_unsent(in, run, false);
	return true;
}

/* -- for a daemon that takes over ------------------------------------------------------------------------------ */

static bool list_one(struct init *in, struct run *run)
{
	struct wire_out *o = control_begin(WIRE_ITEM, in->runs.list_request);

	wire_put(o, WIRE_T_RUN_ID, run->id, run->id_len);
	wire_put_u64(o, WIRE_T_STATE, run->state == RUN_ENDED);
	wire_put_u64(o, WIRE_T_AGE_MS, (time_now_us() - run->start_us) / 1000);
	if (run->label_len)
		wire_put(o, WIRE_T_LABEL, run->label, run->label_len);
	if (control_event(in, o, NULL, 0) == -EAGAIN)
		return false;
	run->unlisted = false;
	return true;
}

static bool list_some(struct init *in, struct list *l)
{
	list_foreach(l, struct run, link, run)
		if (run->unlisted && !list_one(in, run))
			return false;
	return true;
}

/* False when the socket is full. */
static bool list_all(struct init *in)
{
	struct wire_out *o;

	if (!in->runs.list_request)
		return true;
	if (!list_some(in, &in->runs.alive) || !list_some(in, &in->runs.ended))
		return false;
	o = control_begin(WIRE_OK, in->runs.list_request);
	wire_put_u64(o, WIRE_T_CONFIGURED, in->configured);
	if (control_event(in, o, NULL, 0) == -EAGAIN)
		return false;
	in->runs.list_request = 0;
	return true;
}

/* Readers that are waited for have gone with their daemon; those who come back ask again. */
static void forget_readers(struct init *in, struct run *run)
{
	run->out.flow_at = run->out.need = UINT64_MAX;
	run->watched = false;
	run_watch(in, run);
}

int runs_request(struct init *in, struct request *q, struct err *err)
{
	(void)err;
	/* Whoever still waited for a STARTED is dead: the ends of its runs are nobody's answer any more. */
	in->runs.list_request = q->msg->request;
	list_foreach(&in->runs.alive, struct run, link, run) {
		run->unlisted = !run->acked;
		run->starting = 0;
		forget_readers(in, run);
	}
	list_foreach(&in->runs.ended, struct run, link, run) {
		run->unlisted = true;
		run->starting = 0;
		run_set_unsent(in, run, true); /* the one who had it may be dead */
	}
	runs_flush(in);
	return 0;
}

bool runs_waiting(const struct init *in)
{
	return in->runs.n_more > 0 || !list_empty(&in->runs.owed) || in->runs.list_request;
}

void run_set_more(struct init *in, struct run *run, bool more)
{
	in->runs.n_more += (size_t)more - (size_t)run->more;
	run->more = more;
}

static bool send_more(struct init *in, struct run *run)
{
	struct wire_out *o = control_begin(WIRE_MORE, 0);

	wire_put(o, WIRE_T_RUN_ID, run->id, run->id_len);
	wire_put_u64(o, WIRE_T_STORED, run->out.stored);
	if (control_event(in, o, NULL, 0) == -EAGAIN)
		return false;
	run_set_more(in, run, false);
	return true;
}

void runs_flush(struct init *in)
{
	bool later = false;

	if (!list_all(in))
		return;
	if (in->runs.n_more)
		list_foreach(&in->runs.alive, struct run, link, run)
			if (run->more && !send_more(in, run))
				return;
	list_foreach(&in->runs.owed, struct run, owed_link, run)
		if (!send_done(in, run, &later))
			return;
	if (later)
		in->control.retry_us = time_now_us() + TELL_AGAIN_US;
}

int run_result(struct init *in, struct request *q, struct err *err)
{
	struct run *run = run_find(in, q->msg);
	struct wire_out *o;
	auto_fd spool = -1;
	int r;

	q->stage = "run";
	if (!run)
		return err_set(err, -ENOENT, "no such run: never started here, or acknowledged");
	if (run->state != RUN_ENDED) {
		control_ok(in, q->msg->request);
		return 0;
	}
	q->stage = "output";
	if (!result_fd(run, &spool))
		return err_set(err, -EMFILE, "no descriptor for the output: %s", strerror(errno));
	o = control_begin(WIRE_DONE, q->msg->request);
	put_result(o, run);
	r = control_try(in, o, &spool, spool >= 0);
	if (r < 0)
		return err_sys_code(err, r, "keep the answer");
	if (!run->starting) /* else the RUN is still to be answered */
		run_set_unsent(in, run, false);
	return 0;
}
