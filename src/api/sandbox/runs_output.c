/* api/sandbox/runs_output.c: GET .../runs/{run}/output?offset&follow&flow: what a run wrote, from any place, while it writes and
 * afterwards. The bytes lie with init, in its memory or in a file of which a reader holds a descriptor; a reader here has
 * at most one piece in hand, whatever the run writes and however slow its peer is.
 *
 * A reader with flow holds the command up: while there is one, the command may be FLOW_BYTES ahead of the slowest, and what that
 * one has not got is kept, whatever the run keeps.
 *
 * Of a run that keeps its last bytes init may forget what is being read: a hole reads as zeros. So a piece of it is sent only
 * when init has said, after it was read, that it was still there. Where it comes in frames a piece ends with one of them: who is
 * overtaken goes on at the beginning of another. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "api/sandbox/files.h"
#include "api/sandbox/runs.h"
#include "base/fd.h"
#include "base/mem.h"
#include "sandbox/wire.h"

#define PIECE_BYTES (WIRE_FRAME_HEAD + 64u * 1024) /* init's longest frame */
#define FLOW_BYTES (1u << 20)

struct reader {
	struct list node;  /* in brun.readers */
	struct use *u;     /* NULL = the request is gone */
	struct loop *loop;
	struct brun *run;  /* NULL = the run is gone */
	int fd;            /* of the spool; -1 = not needed yet */
	uint64_t offset;   /* what the peer gets next */
	uint64_t stored;   /* known to be there */
	uint64_t asked;    /* offset when init was asked last: from there it counts how far the command may go */
	bool follow, flow;
	bool framed;       /* what it has not got may be forgotten, by frames */
	bool asking;       /* init has a question */
	bool working;      /* a worker has it */
	bool parked;       /* it waits for the peer to take what was sent */
	bool idle;         /* it has all there is, and is to be told of more */
	bool news;         /* there was more, or the end, since the question was asked */
	bool last;         /* the answer to the question is all there will be */
	bool kept;         /* nothing of what it told of can be forgotten any more */
	ssize_t got;       /* of the worker */
	size_t held;       /* bytes in block that are sent once init has said that they are right */
	char block[PIECE_BYTES];
};

struct reader_use { /* in the request's memory */
	struct use use;
	struct reader *reader;
};

static void next(struct reader *r);

static void reader_free_if_over(struct reader *r)
{
	if (r->u || r->asking || r->working)
		return;
	list_remove(&r->node);
	fd_close(r->fd);
	free(r);
}

/* -- flow ------------------------------------------------------------------------------------------------------------------ */

/* Where the slowest of those is who hold the command up; UINT64_MAX = nobody does. */
static uint64_t slowest(const struct brun *run)
{
	uint64_t ret = UINT64_MAX;
	const struct list *all = &run->readers;

	for (const struct list *l = all->next; l != all; l = l->next) {
		const struct reader *r = container_of(l, const struct reader, node);

		if (r->flow && r->u)
			ret = MIN(ret, r->offset);
	}
	return ret;
}

/* How far beyond offset, which is that or less, the command may go, for init; 0 = nobody holds it up. */
static uint64_t flow_from(const struct brun *run, uint64_t offset)
{
	uint64_t from = slowest(run);

	return from == UINT64_MAX ? 0 : from + FLOW_BYTES - offset;
}

/* From where init is asked for a reader: one that is further than the command may go finds nothing there, and to ask from his own
 * place would let it go on to that. */
static uint64_t asked_from(const struct reader *r)
{
	uint64_t from = slowest(r->run);

	return from == UINT64_MAX ? r->offset : MIN(r->offset, from + FLOW_BYTES - 1);
}

static bool is_followed(const struct brun *run)
{
	const struct list *all = &run->readers;

	for (const struct list *l = all->next; l != all; l = l->next)
		if (container_of(l, const struct reader, node)->follow)
			return true;
	return false;
}

static void forget_answer(void *arg UNUSED, const struct engine_fetched *f, const struct err *err UNUSED)
{
	if (f)
		fd_close(f->fd);
}

/* A reader that held the command up has gone: whoever is left sets the pace. */
static void release_flow(struct brun *run)
{
	uint64_t from = slowest(run);
	const struct engine_fetch f = {
		.offset = MIN(from, (uint64_t)INT64_MAX), .flow = flow_from(run, from), .need = from, .watch = is_followed(run),
		.have = true,
	};

	run->b->s->engine->ops->exec_fetch(run->exec, &f, forget_answer, NULL);
}

/* -- sending --------------------------------------------------------------------------------------------------------------- */

static void give_up(struct reader *r)
{
	if (r->u)
		http_req_abort(r->u->req);
}

/* Takes a piece that the peer is to get. False = wait for it. */
static bool pass_on(struct reader *r, const void *p, size_t len)
{
	r->offset += len;
	r->parked = !http_reply_write(r->u->req, p, len);
	return !r->parked;
}

static void ask(struct reader *r);

/* What was read from the spool. False = wait: for the peer, or for init. */
static bool take(struct reader *r, size_t len)
{
	if (r->kept)
		return pass_on(r, r->block, len);
	r->held = len;
	if (r->run)
		ask(r);
	else
		give_up(r);
	return false;
}

/* How much of the len bytes in block are whole frames; 0 = the first one goes on behind them. What is no frame is passed on as it
 * is: a hole, of which init will say so, or the rest of one for a peer that asked from its middle. */
static size_t whole(const struct reader *r, size_t len)
{
	size_t end = 0;

	while (r->framed && len - end >= WIRE_FRAME_HEAD) {
		const unsigned char *h = (const unsigned char *)r->block + end;
		uint64_t n = WIRE_FRAME_HEAD + (uint64_t)wire_frame_len(h);

		if ((h[0] != WIRE_STREAM_OUT && h[0] != WIRE_STREAM_ERR) || n > PIECE_BYTES)
			return end ? end : len;
		if (n > len - end)
			break;
		end += (size_t)n;
	}
	return r->framed ? end : len;
}

static void read_work(void *arg)
{
	struct reader *r = arg;

	do {
		r->got = pread(r->fd, r->block, (size_t)MIN((uint64_t)PIECE_BYTES, r->stored - r->offset), (off_t)r->offset);
	} while (r->got < 0 && errno == EINTR);
}

static void read_done(void *arg)
{
	struct reader *r = arg;
	size_t len;

	r->working = false;
	if (!r->u) {
		reader_free_if_over(r);
		return;
	}
	if (r->got <= 0) {
		give_up(r); /* its disk failed: the answer must look broken */
		return;
	}
	len = whole(r, (size_t)r->got);
	if (take(r, len ? len : (size_t)r->got))
		next(r);
}

static void continue_later(void *arg)
{
	struct reader *r = arg;

	r->working = false;
	if (r->u)
		next(r);
	else
		reader_free_if_over(r);
}

/* What is in the page cache, which is nearly always, comes at once; the rest by a worker. */
static void read_spool(struct reader *r)
{
	struct iovec v = { r->block, (size_t)MIN((uint64_t)PIECE_BYTES, r->stored - r->offset) };
	ssize_t n = preadv2(r->fd, &v, 1, (off_t)r->offset, RWF_NOWAIT);
	size_t len = n > 0 ? whole(r, (size_t)n) : 0;

	if (len && !take(r, len))
		return;
	r->working = true;
	if (len)
		loop_defer(r->loop, continue_later, r); /* others want a turn, too */
	else
		loop_work(r->loop, LOOP_LANE_ANY, read_work, read_done, r);
}

/* -- asking ---------------------------------------------------------------------------------------------------------------- */

/* True = it was right, and the peer takes more. */
static bool send_held(struct reader *r, const struct engine_fetched *f)
{
	size_t len = r->held;

	r->held = 0;
	return f->first > r->offset || pass_on(r, r->block, len);
}

static void on_fetched(void *arg, const struct engine_fetched *f, const struct err *err)
{
	struct reader *r = arg;

	r->asking = false;
	if (f && f->fd >= 0) {
		fd_close(r->fd);
		r->fd = f->fd;
	}
	if (!r->u) {
		reader_free_if_over(r);
		return;
	}
	if (err || !f) {
		give_up(r);
		return;
	}
	/* A reader that does not follow gets what there was when it came. */
	if (r->follow || !r->held)
		r->stored = f->stored;
	if (r->held && !send_held(r, f))
		return;
	r->offset = MAX(r->offset, f->first);
	if (f->len == 0 && r->fd < 0 && r->offset < r->stored)
		give_up(r); /* init had no descriptor left for it */
	else if (f->len == 0 || r->offset >= r->stored || pass_on(r, f->data, f->len))
		next(r);
}

static void ask(struct reader *r)
{
	const uint64_t offset = asked_from(r);
	const struct engine_fetch f = {
		.offset = offset, .flow = flow_from(r->run, offset), .need = slowest(r->run), .watch = is_followed(r->run),
		.have = r->fd >= 0,
	};

	r->asking = true;
	r->asked = r->offset;
	r->news = false;
	r->last = r->run->over || !r->follow;
	r->kept = r->run->over || !r->run->keep_last;
	r->run->b->s->engine->ops->exec_fetch(r->run->exec, &f, on_fetched, r);
}

static void next(struct reader *r)
{
	r->idle = false;
	if (r->asking || r->working || r->parked)
		return;
	if (r->fd >= 0 && r->offset < r->stored) {
		read_spool(r);
	} else if (r->last) {
		http_reply_end(r->u->req);
	} else if (!r->run) {
		give_up(r);
	} else if (r->stored > r->offset || r->news || r->run->over || (r->flow && r->offset > r->asked)) {
		ask(r);
	} else {
		r->idle = true;
	}
}

void readers_more(struct brun *run)
{
	list_foreach(&run->readers, struct reader, node, r) {
		r->news = true;
		if (!r->idle)
			continue;
		r->idle = false;
		r->working = true; /* from the loop: an answer that is passed on may end other readers */
		loop_defer(r->loop, continue_later, r);
	}
}

void readers_end(struct brun *run)
{
	while (!list_empty(&run->readers)) {
		struct reader *r = list_first(&run->readers, struct reader, node);

		list_remove(&r->node);
		r->run = NULL;
		give_up(r);
	}
}

/* -- the request ------------------------------------------------------------------------------------------------------------- */

static void on_drained(struct http_req *req UNUSED, void *arg)
{
	struct reader *r = arg;

	if (!r->parked)
		return;
	r->parked = false;
	next(r);
}

static void on_closed(struct use *u)
{
	struct reader *r = container_of(u, struct reader_use, use)->reader;
	struct brun *run;

	if (!r)
		return;
	run = r->run;
	r->u = NULL;
	list_remove(&r->node);
	if (run && r->flow && !run->over)
		release_flow(run);
	reader_free_if_over(r);
}

static int read_query(struct http_req *req, struct reader *r, struct err *err)
{
	r->follow = file_flag(req, "follow");
	r->flow = file_flag(req, "flow");
	if (r->flow && !r->follow)
		return err_set(err, -EINVAL, "flow: only with follow=1");
	return file_number(req, "offset", &r->offset, err);
}

static struct reader *reader_new(struct reader_use *u, struct loop *l)
{
	struct reader *r = xmalloc(sizeof(*r));

	memset(r, 0, offsetof(struct reader, block));
	list_init(&r->node);
	r->u = &u->use;
	r->loop = l;
	r->fd = -1;
	return r;
}

void run_output_handler(struct http_req *req, void *sandboxes)
{
	struct reader_use *u = http_req_alloc(req, sizeof(*u));
	struct brun *run;
	struct reader *r;
	struct err err;

	u->reader = NULL;
	run = brun_of_request(sandboxes, req, run_output_handler, &u->use, on_closed);
	if (!run)
		return;
	r = reader_new(u, run->b->s->loop);
	if (read_query(req, r, &err) < 0) {
		free(r);
		api_reply_err(req, &err);
		return;
	}
	u->reader = r;
	r->run = run;
	r->framed = run->separate && run->keep_last;
	list_push_back(&run->readers, &r->node);
	http_req_watch_peer(req);
	http_reply_header(req, "X-Accel-Buffering", "no");
	http_reply_on_drain(req, on_drained, r);
	http_reply_start(req, 200, run->separate ? "application/vnd.openreward.frames" : "application/octet-stream", -1);
	ask(r);
}
