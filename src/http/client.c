/* http/client.c: one client connection.
 *
 * An exchange has two halves that end on their own: the request (finish() was called and the queue is empty) and the
 * answer. on_end comes with the end of the answer; the connection may be used again when the request was over too.
 * When writing fails, reading goes on until it fails as well: a server that refuses a body answers first and closes
 * then. There is no deadline for the first byte of an answer, and none between its bytes: how long somebody else's
 * handler may think is the caller's to say (http_client_free). */
#include "http/client.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/str.h"
#include "http/parse.h"

#define READ_BYTES 65536
#define SHORT_HEAD_BYTES 1024 /* a header section up to here needs no memory of its own */
#define SHORT_HEAD_LINES 32
#define SHORT_BODY_BYTES 4096 /* of a body, for which memory is made with that of the header section */

enum client_state {
	CLIENT_IDLE,
	CLIENT_HEAD, /* waiting for the header section of the answer */
	CLIENT_BODY,
	CLIENT_BROKEN, /* no exchange can be started any more */
	CLIENT_FREED,
};

struct http_client {
	struct loop *loop;
	struct http_limits limits;
	struct loop_io io;
	struct loop_timer timer; /* the header section's deadline and the write stall */
	int fd;
	enum client_state state;
	const struct http_client_events *ev;
	void *arg;

	struct buf out, in;
	const char *rd; /* unread input, in `in` or in the stack of on_io() */
	size_t rd_len;
	bool chunked, finished; /* of the request's body */
	bool write_failed, blocked, want_drain;
	bool paused, got_bytes, eof;
	bool unwatched; /* the peer is gone and reading is paused: EPOLLHUP cannot be masked and would fire for ever */
	bool is_head;    /* the answer has no body whatever it says */
	bool keep_alive; /* of the answer */
	bool kick;       /* use_input() is on its way */
	uint64_t write_ms;
	uint64_t head_ms; /* since when a header section is under way; 0 = none of it came yet */
	struct http_head_scan scan;
	struct http_body body;
};

static void on_io(struct loop_io *io, uint32_t events, void *arg);
static void on_timer(struct loop_timer *t, void *arg);
static void update(struct http_client *c);
static void read_some(struct http_client *c);
static void kick(struct http_client *c);

/* By the first letter: nearly every header is told apart by it, and each passes here for each request. */
bool http_is_hop_by_hop(const char *name)
{
	switch (*name | 0x20) {
	case 'c':
		return !strcasecmp(name, "Connection");
	case 'k':
		return !strcasecmp(name, "Keep-Alive");
	case 'p':
		return !strncasecmp(name, "Proxy-", 6);
	case 't':
		return !strcasecmp(name, "TE") || !strcasecmp(name, "Trailer") || !strcasecmp(name, "Transfer-Encoding");
	case 'u':
		return !strcasecmp(name, "Upgrade");
	default:
		return false;
	}
}

/* -- life ------------------------------------------------------------------------------------------------------ */

int http_client_new(struct http_client **ret, struct loop *l, int conn_fd, const struct http_limits *limits,
		    struct err *err)
{
	auto_fd fd = conn_fd;
	struct http_client *c;
	int r, on = 1;

	r = fd_set_nonblock(fd, true);
	if (r < 0)
		return err_sys_code(err, r, "make a connection non-blocking");
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)); /* a unix socket refuses */
	c = NEW(struct http_client);
	c->loop = l;
	http_limits_default(&c->limits);
	if (limits)
		c->limits = *limits;
	buf_init(&c->in, c->limits.header_bytes + 2 * READ_BYTES);
	buf_init(&c->out, BUF_UNLIMITED); /* bounded by who heeds http_client_write() */
	loop_timer_init(&c->timer, l, on_timer, c);
	r = loop_io_open(&c->io, l, fd, EPOLLIN | EPOLLRDHUP, on_io, c, err);
	if (r < 0) {
		free(c);
		return r;
	}
	c->fd = fd_steal(&fd);
	*ret = c;
	return 0;
}

static void destroy(void *arg)
{
	struct http_client *c = arg;

	buf_done(&c->in);
	buf_done(&c->out);
	free(c);
}

static void shut(struct http_client *c)
{
	loop_io_close(&c->io);
	loop_timer_stop(&c->timer);
	c->fd = fd_close_foreign(c->fd); /* init may have made it */
}

/* With a kick on its way, that call destroys. */
struct http_client *http_client_free(struct http_client *c)
{
	if (!c || c->state == CLIENT_FREED)
		return NULL;
	shut(c);
	c->state = CLIENT_FREED;
	if (!c->kick)
		loop_release(c->loop, destroy, c);
	return NULL;
}

bool http_client_idle(const struct http_client *c)
{
	return c->state == CLIENT_IDLE && !c->eof;
}

bool http_client_alive(const struct http_client *c)
{
	return http_client_idle(c) && recv(c->fd, &(char){ 0 }, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && errno == EAGAIN;
}

static bool in_exchange(const struct http_client *c)
{
	return c->state == CLIENT_HEAD || c->state == CLIENT_BODY;
}

static void fail(struct http_client *c, const struct err *err)
{
	const struct http_client_events *ev = c->ev;
	bool tell = in_exchange(c);

	if (c->state == CLIENT_FREED)
		return;
	c->state = CLIENT_BROKEN;
	shut(c);
	if (tell)
		ev->on_error(c, c->got_bytes, err, c->arg);
}

static void fail_with(struct http_client *c, int code, const char *why)
{
	struct err err = ERR_INIT;

	err_set(&err, code, "%s", why);
	fail(c, &err);
}

/* -- writing --------------------------------------------------------------------------------------------------- */

static void queue(struct http_client *c, const void *p, size_t len)
{
	if (c->write_failed)
		return;
	if (c->out.len == 0)
		c->write_ms = loop_now_ms(c->loop);
	if (buf_append(&c->out, p, len) < 0)
		c->write_failed = true; /* cannot be: out has no maximum */
}

static void flush(struct http_client *c)
{
	ssize_t n;

	while (c->out.len && !c->blocked && !c->write_failed) {
		n = send(c->fd, c->out.data, c->out.len, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n > 0) {
			buf_consume(&c->out, (size_t)n);
			c->write_ms = loop_now_ms(c->loop);
		} else if (errno == EAGAIN) {
			c->blocked = true;
		} else if (errno != EINTR) {
			c->write_failed = true;
		}
	}
	if (c->write_failed || c->out.len == 0)
		buf_done(&c->out);
}

/* Runs use_input() or a flush from the loop. */
static void on_kick(void *arg)
{
	struct http_client *c = arg;

	c->kick = false;
	if (c->state == CLIENT_FREED) {
		loop_release(c->loop, destroy, c);
		return;
	}
	if (c->fd < 0)
		return;
	flush(c);
	if (c->unwatched && !c->paused && in_exchange(c))
		read_some(c);
	if (c->fd < 0)
		return;
	update(c);
	if (c->unwatched && !c->paused && in_exchange(c))
		kick(c);
}

static void kick(struct http_client *c)
{
	if (!c->kick && c->fd >= 0)
		loop_defer(c->loop, on_kick, c);
	c->kick = c->kick || c->fd >= 0;
}

static size_t head_size(const char *method, const char *target, const struct http_header *headers, size_t n)
{
	size_t size = strlen(method) + strlen(target) + 64; /* the version, blanks, line ends, and the framing's line */

	for (size_t i = 0; i < n; i++)
		size += strlen(headers[i].name) + strlen(headers[i].value) + 4;
	return size;
}

/* Into memory that is reserved once: growing step by step would copy the whole section several times. */
static int put_head(struct http_client *c, const char *method, const char *target, const struct http_header *headers,
		    size_t n, int64_t content_length)
{
	bool has_body = !strcmp(method, "POST") || !strcmp(method, "PUT") || !strcmp(method, "PATCH");
	size_t body = content_length > 0 ? (size_t)MIN(content_length, SHORT_BODY_BYTES) : 0;
	char *begin, *p;
	int r = buf_reserve(&c->out, head_size(method, target, headers, n) + body, &begin);

	if (r < 0)
		return r;
	p = str_put(str_put(str_put(str_put(begin, method), " "), target), " HTTP/1.1\r\n");
	for (size_t i = 0; i < n; i++)
		p = str_put(str_put(str_put(str_put(p, headers[i].name), ": "), headers[i].value), "\r\n");
	if (content_length < 0)
		p = str_put(p, "Transfer-Encoding: chunked\r\n");
	else if (content_length > 0 || has_body)
		p = str_put(str_put_u64(str_put(p, "Content-Length: "), (uint64_t)content_length), "\r\n");
	p = str_put(p, "\r\n");
	buf_commit(&c->out, (size_t)(p - begin));
	return 0;
}

/* What would make two requests of one. */
static int check_text(const char *what, const char *s, const bool bad[256], struct err *err)
{
	for (const char *p = s; *p; p++)
		if (bad[(unsigned char)*p])
			return err_set(err, -EINVAL, "%s: \"%s\": holds a character that ends it", what, s);
	return 0;
}

static int check_start(const char *method, const char *target, const struct http_header *h, size_t n, struct err *err)
{
	static const bool ends_value[256] = { ['\r'] = true, ['\n'] = true };
	static const bool ends_word[256] = { [' '] = true, ['\t'] = true, ['\r'] = true, ['\n'] = true };
	static const bool ends_name[256] = { [':'] = true, [' '] = true, ['\t'] = true, ['\r'] = true, ['\n'] = true };
	int r = check_text("method", method, ends_word, err);

	if (r == 0)
		r = check_text("target", target, ends_word, err);
	for (size_t i = 0; i < n && r == 0; i++) {
		r = check_text("header name", h[i].name, ends_name, err);
		if (r == 0)
			r = check_text("header value", h[i].value, ends_value, err);
	}
	return r;
}

int http_client_start(struct http_client *c, const char *method, const char *target, const struct http_header *headers,
		      size_t n, int64_t content_length, const struct http_client_events *ev, void *arg, struct err *err)
{
	int r = check_start(method, target, headers, n, err);

	if (r < 0)
		return r;
	if (!http_client_idle(c))
		return err_set(err, -EBUSY, "the connection is not free for another request");
	c->write_ms = loop_now_ms(c->loop);
	r = put_head(c, method, target, headers, n, content_length);
	if (r < 0)
		return err_sys_code(err, r, "queue a request");
	c->state = CLIENT_HEAD;
	c->ev = ev;
	c->arg = arg;
	c->chunked = content_length < 0;
	c->finished = content_length == 0;
	c->is_head = !strcmp(method, "HEAD");
	c->got_bytes = c->paused = c->want_drain = false;
	c->head_ms = 0;
	c->scan = (struct http_head_scan){ 0 };
	kick(c);
	return 0;
}

bool http_client_write(struct http_client *c, const void *p, size_t len)
{
	char size[20];

	if (!in_exchange(c) || c->finished || len == 0)
		return c->out.len < c->limits.high_water_bytes;
	if (c->chunked)
		queue(c, size, (size_t)(str_put(str_put_hex(size, len), "\r\n") - size));
	queue(c, p, len);
	if (c->chunked)
		queue(c, "\r\n", 2);
	kick(c);
	/* After a failed write there is always room: the pieces are dropped until the answer or the error comes. */
	c->want_drain = c->out.len >= c->limits.high_water_bytes;
	return !c->want_drain;
}

void http_client_finish(struct http_client *c)
{
	if (!in_exchange(c) || c->finished)
		return;
	c->finished = true;
	if (c->chunked)
		queue(c, "0\r\n\r\n", 5);
	kick(c);
}

static void tell_drained(struct http_client *c)
{
	if (!c->want_drain || !in_exchange(c))
		return;
	if (c->out.len > c->limits.high_water_bytes / 2 && !c->write_failed)
		return;
	c->want_drain = false;
	if (c->ev->on_drain)
		c->ev->on_drain(c, c->arg);
}

/* -- reading --------------------------------------------------------------------------------------------------- */

void http_client_pause(struct http_client *c)
{
	c->paused = true;
	kick(c);
}

void http_client_resume(struct http_client *c)
{
	if (!c->paused)
		return;
	c->paused = false;
	kick(c);
}

static void end_exchange(struct http_client *c)
{
	const struct http_client_events *ev = c->ev;
	bool reusable = c->keep_alive && c->finished && c->out.len == 0 && !c->write_failed && c->rd_len == 0 && !c->eof;

	if (reusable)
		c->state = CLIENT_IDLE;
	else
		c->state = CLIENT_BROKEN;
	ev->on_end(c, reusable, c->arg);
}

/* Tells the caller about the header section; strings live in the block for the time of the call. */
static void take_head(struct http_client *c, struct http_head *h)
{
	if (h->status < 200) { /* the true one may take its time */
		c->head_ms = c->rd_len ? loop_now_ms(c->loop) : 0;
		if (h->status == 101)
			fail_with(c, -EPROTO, "the answer switches protocols, which nobody asked for");
		return;
	}
	if (c->is_head)
		h->body_length = 0;
	c->keep_alive = h->keep_alive && h->body_length != HTTP_LENGTH_UNTIL_CLOSE;
	http_body_init(&c->body, h->body_length);
	c->state = CLIENT_BODY;
	c->ev->on_head(c, h->status, h->headers, h->n_headers, h->body_length < 0 ? -1 : h->body_length, c->arg);
}

/* True = progress. */
static bool use_head(struct http_client *c)
{
	struct http_header few[SHORT_HEAD_LINES];
	char small[SHORT_HEAD_BYTES];
	struct http_refusal why;
	struct http_head head;
	size_t end, len;
	int r = http_head_find(&c->scan, HTTP_SIDE_RESPONSE, c->rd, c->rd_len, &c->limits, &end, &why);

	if (r == 0)
		return false;
	if (r < 0) {
		fail_with(c, -EBADMSG, why.why);
		return false;
	}
	len = end - c->scan.start;
	bool fits = len < sizeof(small) && c->scan.n_lines <= ARRAY_LEN(few);
	auto_free char *big = fits ? NULL : xmalloc(len + 1);
	auto_free struct http_header *many = fits ? NULL : xcalloc(c->scan.n_lines, sizeof(*many));
	char *block = fits ? small : big;
	struct http_header *slots = fits ? few : many;
	memcpy(block, c->rd + c->scan.start, len);
	c->scan = (struct http_head_scan){ 0 };
	c->rd += end;
	c->rd_len -= end;
	if (http_head_parse(&head, HTTP_SIDE_RESPONSE, block, len, slots, &why) < 0) {
		fail_with(c, -EBADMSG, why.why);
		return false;
	}
	take_head(c, &head);
	return true;
}

static bool use_body(struct http_client *c)
{
	struct http_body_piece piece;
	struct http_refusal why;

	if (c->paused)
		return false;
	if (http_body_next(&c->body, c->rd, c->rd_len, &piece, &why) < 0) {
		fail_with(c, -EBADMSG, why.why);
		return false;
	}
	c->rd += piece.used;
	c->rd_len -= piece.used;
	if (piece.len)
		c->ev->on_data(c, piece.data, piece.len, c->arg);
	if (piece.end && c->state == CLIENT_BODY && !c->paused) {
		end_exchange(c);
		return false;
	}
	return piece.used > 0;
}

/* Input is over: a body that lasts until then is complete, everything else is broken. */
static void use_eof(struct http_client *c)
{
	if (c->paused)
		return;
	if (c->state == CLIENT_BODY && http_body_may_end(&c->body))
		end_exchange(c);
	else if (in_exchange(c))
		fail_with(c, -EPIPE, "the connection was closed before the end of the answer");
	else if (c->state == CLIENT_IDLE)
		c->state = CLIENT_BROKEN;
}

/* p is either what `in` holds or new bytes while `in` is empty. */
static void use_input(struct http_client *c, const char *p, size_t len)
{
	bool from_in = p == c->in.data;

	c->rd = p;
	c->rd_len = len;
	while (in_exchange(c) && (c->state == CLIENT_HEAD ? c->rd_len && use_head(c) : use_body(c)))
		continue;
	if (c->state == CLIENT_FREED)
		return;
	if (from_in)
		buf_consume(&c->in, c->in.len - c->rd_len);
	else if (c->rd_len && buf_append(&c->in, c->rd, c->rd_len) < 0)
		fail_with(c, -ENOBUFS, "the answer came faster than it was read");
	if (c->in.len == 0)
		buf_done(&c->in);
	c->rd_len = 0;
}

static void read_some(struct http_client *c)
{
	char p[READ_BYTES];
	struct err err = ERR_INIT;
	ssize_t n = recv(c->fd, p, sizeof(p), MSG_DONTWAIT);

	if (n < 0) {
		if (errno == EAGAIN || errno == EINTR)
			return;
		err_sys(&err, "read the answer");
		fail(c, &err);
		return;
	}
	c->eof = n == 0;
	if (n == 0 || c->state == CLIENT_IDLE) { /* bytes that nobody asked for */
		if (c->state == CLIENT_IDLE)
			c->state = CLIENT_BROKEN;
		return;
	}
	if (!c->head_ms)
		c->head_ms = loop_now_ms(c->loop);
	c->got_bytes = true;
	if (c->in.len == 0)
		use_input(c, p, (size_t)n);
	else if (buf_append(&c->in, p, (size_t)n) < 0)
		fail_with(c, -ENOBUFS, "the answer came faster than it was read");
}

/* -- events ---------------------------------------------------------------------------------------------------- */

static void update_timer(struct http_client *c)
{
	uint64_t due = UINT64_MAX, now = loop_now_ms(c->loop);

	if (c->out.len)
		due = c->write_ms + c->limits.write_stall_ms;
	if (c->state == CLIENT_HEAD && c->head_ms)
		due = MIN(due, c->head_ms + c->limits.header_deadline_ms);
	if (due == UINT64_MAX || (loop_timer_armed(&c->timer) && c->timer.due_ms <= due))
		return;
	loop_timer_start(&c->timer, due > now ? due - now : 0);
}

static void on_timer(struct loop_timer *t UNUSED, void *arg)
{
	struct http_client *c = arg;
	uint64_t now = loop_now_ms(c->loop);

	if (c->out.len && now >= c->write_ms + c->limits.write_stall_ms)
		fail_with(c, -ETIMEDOUT, "the server takes no bytes of the request");
	else if (c->state == CLIENT_HEAD && c->head_ms && now >= c->head_ms + c->limits.header_deadline_ms)
		fail_with(c, -ETIMEDOUT, "the header section of the answer did not arrive in time");
	else
		update_timer(c);
}

/* After anything happened: uses what is left, tells who waits, and asks the loop for what is needed now. */
static void update(struct http_client *c)
{
	uint32_t events = c->eof ? 0 : EPOLLRDHUP;

	if (c->in.len || c->state == CLIENT_BODY)
		use_input(c, c->in.data, c->in.len);
	if (c->eof && c->state != CLIENT_FREED)
		use_eof(c);
	if (c->fd >= 0)
		tell_drained(c);
	if (c->fd < 0)
		return;
	if (!c->eof && !c->paused)
		events |= EPOLLIN;
	if (c->paused || c->state == CLIENT_BROKEN)
		events &= ~(uint32_t)(EPOLLRDHUP); /* would fire for ever while nothing is read */
	if (c->state == CLIENT_BROKEN)
		events = 0;
	if (c->out.len && c->blocked)
		events |= EPOLLOUT;
	if (!c->unwatched)
		loop_io_set(&c->io, events);
	update_timer(c);
}

static void on_io(struct loop_io *io UNUSED, uint32_t events, void *arg)
{
	struct http_client *c = arg;

	if (events & EPOLLOUT) {
		c->blocked = false;
		flush(c);
	}
	if (!c->paused && (events & ~(uint32_t)EPOLLOUT)) {
		read_some(c);
	} else if (events & (EPOLLHUP | EPOLLERR)) {
		loop_io_close(&c->io);
		c->unwatched = true;
	}
	if (c->fd >= 0 && c->state == CLIENT_BROKEN && (events & (EPOLLHUP | EPOLLERR))) {
		shut(c); /* these cannot be masked: nothing more comes from here */
		return;
	}
	if (c->fd >= 0)
		update(c);
}
