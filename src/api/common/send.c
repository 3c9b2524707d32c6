/* api/common/send.c: see send.h. */
#include "api/common/send.h"

#include <errno.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/str.h"

#define STEP_BYTES (256u * 1024)

struct send {
	struct http_req *req; /* NULL = the request is gone */
	struct loop *loop;
	int fd;
	uint64_t offset, left;
	uint64_t *counter;
	bool busy;            /* a worker has it */
	bool parked;          /* it waits for the peer to take what was sent */
	ssize_t got;          /* of the worker's last step; negative errno */
	char block[STEP_BYTES];
};

static void send_free(struct send *s)
{
	fd_close(s->fd);
	free(s);
}

static void send_next(struct send *s);

static void on_work(void *arg)
{
	struct send *s = arg;
	size_t want = (size_t)MIN((uint64_t)STEP_BYTES, s->left);

	do {
		s->got = pread(s->fd, s->block, want, (off_t)s->offset);
	} while (s->got < 0 && errno == EINTR);
	if (s->got < 0)
		s->got = -errno;
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
	s->parked = !http_reply_write(s->req, s->block, (size_t)s->got);
	if (!s->parked || !s->left)
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

	if (!s->parked || !s->left)
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

struct send *send_start(struct http_req *req, int fd, const char *content_type, const struct send_range *range,
			uint64_t *counter)
{
	struct send *s = xmalloc(sizeof(*s));

	s->req = req;
	s->loop = http_req_loop(req);
	s->fd = fd;
	s->offset = range->offset;
	s->left = str_eq(http_req_method(req), "HEAD") ? 0 : range->length;
	s->counter = counter;
	s->busy = s->parked = false;
	http_reply_on_drain(req, on_drained, s);
	http_reply_start(req, range->status, content_type, (int64_t)range->length);
	send_next(s);
	return s;
}
