/* api/common/send.c: see send.h. */
#include "api/common/send.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/str.h"

#define STEP_BYTES (256u * 1024)  /* read and copied */
#define PIPE_BYTES (1024u * 1024) /* what the kernel lets a user's pipe hold, if he has not too many */

/* On a plain connection pages of the file go into a pipe, by a worker, which may wait for the disk, and out of it to the peer: no
 * byte of them is copied here. Elsewhere bytes are read into a block. */
struct send {
	struct http_req *req; /* NULL = the request is gone */
	struct loop *loop;
	int fd;
	int pipe[2];          /* -1 = bytes are read */
	size_t room;          /* bytes of a step */
	size_t held;          /* bytes in the pipe */
	uint64_t offset, left;
	uint64_t *counter;
	bool busy;            /* a worker has it */
	bool parked;          /* it waits for the peer to take what was sent */
	ssize_t got;          /* of the worker's last step; negative errno */
	char *block;          /* NULL = not needed so far */
};

static void close_pipe(struct send *s)
{
	s->pipe[0] = fd_close(s->pipe[0]);
	s->pipe[1] = fd_close(s->pipe[1]);
}

static void send_free(struct send *s)
{
	close_pipe(s);
	fd_close(s->fd);
	free(s->block);
	free(s);
}

static void send_next(struct send *s);

static ssize_t fill_pipe(struct send *s)
{
	off_t at = (off_t)s->offset;

	return splice(s->fd, &at, s->pipe[1], NULL, (size_t)MIN((uint64_t)s->room, s->left), 0);
}

static ssize_t read_block(struct send *s)
{
	if (!s->block)
		s->block = xmalloc(STEP_BYTES);
	return pread(s->fd, s->block, (size_t)MIN((uint64_t)STEP_BYTES, s->left), (off_t)s->offset);
}

static ssize_t get(struct send *s)
{
	ssize_t n = s->pipe[1] < 0 ? read_block(s) : fill_pipe(s);

	if (n >= 0 || errno != EINVAL || s->pipe[1] < 0)
		return n;
	close_pipe(s); /* a file system that has no pages to give */
	return read_block(s);
}

static void on_work(void *arg)
{
	struct send *s = arg;

	do {
		s->got = get(s);
	} while (s->got < 0 && errno == EINTR);
	if (s->got < 0)
		s->got = -errno;
}

static bool empty_pipe(struct send *s)
{
	s->held -= http_reply_splice(s->req, s->pipe[0], s->held);
	return s->held == 0;
}

/* False = wait until the peer has taken some. */
static bool give(struct send *s)
{
	if (s->pipe[1] < 0)
		return http_reply_write(s->req, s->block, (size_t)s->got) || !s->left;
	s->held = (size_t)s->got;
	return empty_pipe(s);
}

static void on_read(void *arg)
{
	struct send *s = arg;

	s->busy = false;
	if (!s->req) {
		send_free(s);
		return;
	}
	if (s->got <= 0) {
		/* It shrank, or can't be read: the length is told already, so the answer must look broken. */
		http_req_abort(s->req);
		return;
	}
	s->offset += (uint64_t)s->got;
	s->left -= (uint64_t)s->got;
	if (s->counter)
		*s->counter += (uint64_t)s->got;
	s->parked = !give(s);
	if (!s->parked)
		send_next(s);
}

static void send_next(struct send *s)
{
	if (s->left) {
		s->busy = true;
		loop_work(s->loop, LOOP_LANE_ANY, on_work, on_read, s);
	} else {
		http_reply_end(s->req);
	}
}

static void on_drained(struct http_req *req UNUSED, void *arg)
{
	struct send *s = arg;

	if (!s->parked || (s->held && !empty_pipe(s)))
		return;
	s->parked = false;
	send_next(s);
}

void send_gone(struct send *s)
{
	s->req = NULL;
	if (!s->busy)
		send_free(s);
}

/* For less than a block it is not worth its system calls. Without descriptors, or where this user has so many pipes that a new
 * one holds next to nothing, bytes are read. */
static void open_pipe(struct send *s)
{
	int room;

	if (s->left <= STEP_BYTES || !http_reply_splices(s->req) || pipe2(s->pipe, O_CLOEXEC) < 0)
		return;
	room = fcntl(s->pipe[1], F_SETPIPE_SZ, PIPE_BYTES);
	s->room = (size_t)MAX(room, 0);
	if (room < (int)STEP_BYTES)
		close_pipe(s);
}

struct send *send_start(struct http_req *req, int fd, const char *content_type, const struct send_range *range,
			uint64_t *counter)
{
	struct send *s = NEW(struct send);

	s->req = req;
	s->loop = http_req_loop(req);
	s->fd = fd;
	s->pipe[0] = s->pipe[1] = -1;
	s->offset = range->offset;
	s->left = str_eq(http_req_method(req), "HEAD") ? 0 : range->length;
	s->counter = counter;
	http_reply_on_drain(req, on_drained, s);
	http_reply_start(req, range->status, content_type, (int64_t)range->length);
	open_pipe(s);
	send_next(s);
	return s;
}
