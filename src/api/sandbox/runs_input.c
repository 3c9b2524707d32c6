/* api/sandbox/runs_input.c: POST .../runs/{run}/stdin?offset&close: the body goes into the pipe or terminal that init holds, as
 * fast as the command reads it: while the pipe is full nothing is read from the client. One such request at a time.
 *
 * offset is the client's count of what it sent before: what is in the pipe already is skipped, so a request whose connection
 * broke can be sent again. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "api/sandbox/files.h"
#include "api/sandbox/runs.h"
#include "base/fd.h"
#include "base/mem.h"

struct feed {
	struct brun *run;    /* NULL = over: freed with the question to init, or with its writer */
	int fd;              /* -1 = not asked for yet */
	struct loop_io io;
	uint64_t offset;     /* bytes written so far */
	bool closed;         /* there is no input any more */
	bool counted;        /* offset is known: a request was taken */
	bool asking;
	struct feed_use *writer; /* the request under way, or NULL */
};

struct feed_use { /* in the request's memory */
	struct use use;
	struct feed *feed;   /* NULL = answered, or the run is over */
	uint64_t skip;       /* bytes of the body that are in the pipe already */
	bool close, whole;   /* whole: the body has been read */
	struct buf rest;     /* read from the client and not yet written: at most one piece */
};

static void push(struct feed *f);

/* -- answers --------------------------------------------------------------------------------------------------------------- */

/* Frees what its run has left, once nobody else needs it. */
static void drop(struct feed *f)
{
	if (!f->run && !f->asking && !f->writer)
		free(f);
}

static void leave(struct feed_use *u)
{
	struct feed *f = u->feed;

	u->feed = NULL;
	buf_done(&u->rest);
	if (!f)
		return;
	if (f->writer == u)
		f->writer = NULL;
	drop(f);
}

static void reply_offset(struct feed_use *u)
{
	auto_buf struct buf b = { 0 };

	buf_init(&b, 64);
	if (buf_printf(&b, "{\"offset\": %llu}", (unsigned long long)u->feed->offset) == 0)
		http_reply_json(u->use.req, 200, &b);
	leave(u);
}

static void refuse(struct feed_use *u, const struct err *err)
{
	struct http_req *req = u->use.req;

	leave(u);
	api_reply_err(req, err);
}

static void shut(struct feed *f)
{
	loop_io_close(&f->io);
	f->fd = fd_close(f->fd);
	f->closed = true;
}

static void refuse_closed(struct feed_use *u)
{
	struct err err;

	err_set(&err, -EEXIST, "the command takes no input: it has ended, or has closed its standard input");
	refuse(u, &err);
}

/* -- the end ----------------------------------------------------------------------------------------------------------------- */

void feed_end(struct brun *run)
{
	struct feed *f = run->feed;

	if (!f)
		return;
	run->feed = NULL;
	f->run = NULL;
	shut(f);
	/* A writer all of whose bytes went in is answered so when its body ends, also if the command ended upon them. */
	if (f->writer && (f->asking || f->writer->rest.len > 0))
		refuse_closed(f->writer);
	else
		drop(f);
}

static void on_input_ended(void *arg UNUSED, const struct err *err UNUSED)
{
}

static void close_input(struct feed *f)
{
	shut(f);
	f->run->b->s->engine->ops->exec_input_end(f->run->exec, on_input_ended, NULL);
}

/* -- writing --------------------------------------------------------------------------------------------------------------- */

/* Nobody reads any more: that is told again and again, whatever is asked for. */
static void lost_reader(struct feed *f)
{
	shut(f);
	/* A writer all of whose bytes went in goes on: more of its body is refused, its end is answered. */
	if (f->writer && f->writer->rest.len > 0)
		refuse_closed(f->writer);
}

static void on_room(struct loop_io *io UNUSED, uint32_t events, void *arg)
{
	struct feed *f = arg;

	if (events & (EPOLLERR | EPOLLHUP)) {
		lost_reader(f);
		return;
	}
	loop_io_set(&f->io, 0);
	push(f);
}

static void on_asked(void *arg, int fd, const struct err *err)
{
	struct feed *f = arg;
	struct err e;
	int r;

	f->asking = false;
	if (!f->run) {
		fd_close(fd);
		drop(f);
		return;
	}
	if (!err) {
		r = fd_set_nonblock(fd, true);
		r = r < 0 ? r : loop_io_open(&f->io, f->run->b->s->loop, fd, 0, on_room, f, &e);
		f->fd = fd;
		if (r < 0)
			shut(f);
	} else if (err->code == -EPIPE) {
		f->closed = true;
	} else if (f->writer) {
		refuse(f->writer, err);
	}
	push(f);
}

/* Writes what is there; false = the pipe is full, or closed. */
static bool write_rest(struct feed *f, struct feed_use *u)
{
	while (u->rest.len > 0) {
		ssize_t n = write(f->fd, u->rest.data, u->rest.len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN) {
			loop_io_set(&f->io, EPOLLOUT);
			return false;
		}
		if (n < 0) {
			shut(f);
			return false;
		}
		buf_consume(&u->rest, (size_t)n);
		f->offset += (uint64_t)n;
	}
	return true;
}

static void push(struct feed *f)
{
	struct feed_use *u = f->writer;

	if (!u || f->asking)
		return;
	if (f->closed && !(u->whole && u->rest.len == 0)) {
		refuse_closed(u);
		return;
	}
	if (f->fd >= 0 && !write_rest(f, u)) {
		if (f->closed)
			refuse_closed(u);
		return;
	}
	if (!u->whole) {
		http_req_resume(u->use.req);
		return;
	}
	if (u->close && !f->closed)
		close_input(f);
	reply_offset(u);
}

static void on_piece(struct http_req *req, const char *data, size_t len, void *arg)
{
	struct feed_use *u = arg;
	size_t skip = (size_t)MIN((uint64_t)len, u->skip);

	if (!u->feed)
		return;
	u->skip -= skip;
	if (len == 0)
		u->whole = true;
	else if (buf_append(&u->rest, data + skip, len - skip) < 0)
		http_req_abort(req); /* cannot be: what is not written pauses the body */
	if (len > 0)
		http_req_pause(req);
	push(u->feed);
}

/* -- the request ------------------------------------------------------------------------------------------------------------- */

static struct feed *feed_of(struct brun *run)
{
	struct feed *f = run->feed;

	if (f)
		return f;
	f = NEW(struct feed);
	f->run = run;
	f->fd = -1;
	run->feed = f;
	return f;
}

static int check(const struct brun *run, const struct feed *f, const struct feed_use *u, uint64_t offset, struct err *err)
{
	if (!run->input && !run->terminal)
		return err_set(err, -EINVAL, "the run has no input: start it with \"stdin\": true");
	if (u->close && run->terminal)
		return err_set(err, -EINVAL, "close: a terminal is not closed; send the byte 4, as Ctrl-D does");
	if (run->over)
		return err_set(err, -EEXIST, "run %s is over", run->id);
	if (f->writer)
		return err_set(err, -EEXIST, "another request is writing to this run");
	if (offset > f->offset)
		return err_set(err, -EEXIST, "offset: %llu, but %llu bytes were written so far", (unsigned long long)offset,
			       (unsigned long long)f->offset);
	return 0;
}

static void on_closed(struct use *u)
{
	leave(container_of(u, struct feed_use, use));
}

static int begin(struct feed_use *u, struct brun *run, struct err *err)
{
	struct feed *f = feed_of(run);
	uint64_t offset = f->offset;
	int r = file_number(u->use.req, "offset", &offset, err);

	u->close = file_flag(u->use.req, "close");
	/* How much a former daemon wrote nobody knows but the client. */
	if (r == 0 && run->adopted && !f->counted && !f->writer)
		f->offset = offset;
	r = r < 0 ? r : check(run, f, u, offset, err);
	if (r < 0)
		return r;
	u->skip = f->offset - offset;
	f->counted = true;
	u->feed = f;
	f->writer = u;
	/* A request that has gone may have asked already: its answer is for whoever writes now. */
	if (f->fd < 0 && !f->closed && !f->asking) {
		f->asking = true;
		run->b->s->engine->ops->exec_input(run->exec, on_asked, f);
	}
	http_req_watch_peer(u->use.req);
	http_req_stream(u->use.req, on_piece, u);
	return 0;
}

void run_input_handler(struct http_req *req, void *sandboxes)
{
	struct feed_use *u = http_req_alloc(req, sizeof(*u));
	struct brun *run;
	struct err err;

	*u = (struct feed_use){ .feed = NULL };
	buf_init(&u->rest, 1u << 20);
	run = brun_of_request(sandboxes, req, run_input_handler, &u->use, on_closed);
	if (run && begin(u, run, &err) < 0)
		api_reply_err(req, &err);
}
