/* http/watch.c: what the loop is asked for on behalf of a connection, and since when.
 *
 * To watch a connection costs two system calls and an event: a twentieth of what a short request costs. One that is used once
 * needs none of them: its request is there when it is accepted, the answer leaves at once, and then its peer closes. So while
 * connections come by the thousand a second, a new one in plain is spared that:
 *   "working": it has a whole request in flight. It is watched when that has taken HTTP_UNWATCHED_MS; its peer's end is noticed
 *              that much later than it would be.
 *   "answered": it has none since its answer. It is read once more when a newer connection comes, as those who open one for each
 *              request do when they have closed the one before, and twice LOOP_SOON_MS after the answer at the latest. Its
 *              peer may have closed; else it is watched. If it has asked for more, which was not heard at once, nothing is
 *              spared for HTTP_UNSPARING_MS: clients that keep their connections wait so once a second, all together.
 * Whenever anything else is waited for (the rest of a request, room for an answer, whatever HTTP/2 wants), and in a server that
 * is less busy always, it is watched from then on until it is closed. No timer of an unwatched one runs: all of the above comes
 * before any of them would be due. */
#include "base/mem.h"
#include "http/private.h"

/* -- watching -------------------------------------------------------------------------------------------------- */

static uint32_t wanted_events(const struct http_conn *c)
{
	uint32_t events = c->eof || c->rdhup ? 0 : EPOLLRDHUP;

	if (conn_wants_input(c))
		events |= c->tls && c->tls->want_write ? EPOLLIN | EPOLLOUT : EPOLLIN;
	if (c->blocked)
		events |= EPOLLOUT;
	return events;
}

int conn_watch(struct http_conn *c, struct err *err)
{
	list_remove(&c->unwatched);
	return loop_io_open(&c->io, c->server->loop, c->fd, wanted_events(c), conn_on_io, c, err);
}

static bool may_stay_unwatched(const struct http_conn *c)
{
	if (!c->spared || c->state != CONN_OPEN || c->tls || c->h2 || c->eof || c->blocked)
		return false;
	if (c->req)
		return c->req->body_done || c->req->head.body_length == 0;
	return c->sent && !c->in.len;
}

static void look(void *arg);

static void look_soon(struct http_server *s)
{
	if (!s->looking)
		loop_soon(s->loop, look, s);
	s->looking = true;
}

static void stay_unwatched(struct http_conn *c)
{
	struct http_server *s = c->server;

	if (!c->req) {
		list_remove(&c->unwatched);
		list_push_back(&s->answered, &c->unwatched);
	} else if (list_empty(&c->unwatched)) {
		c->working_ms = loop_now_ms(s->loop);
		list_push_back(&s->working, &c->unwatched);
	}
	look_soon(s);
}

void conn_update_watch(struct http_conn *c)
{
	if (c->wire)
		return;
	if (c->io.loop) {
		loop_io_set(&c->io, wanted_events(c));
	} else if (may_stay_unwatched(c)) {
		stay_unwatched(c);
	} else if (conn_watch(c, NULL) < 0) {
		c->failed = true;
		conn_mark_dirty(c);
	}
}

/* -- looking --------------------------------------------------------------------------------------------------- */

/* At the one that was answered first; false when there is none. */
static bool look_at_one(struct list *answered)
{
	struct http_conn *c = list_first(answered, struct http_conn, unwatched);

	if (!c)
		return false;
	list_remove(&c->unwatched);
	conn_look(c);
	return true;
}

static void watch_slow(struct http_server *s)
{
	struct http_conn *c;

	while ((c = list_first(&s->working, struct http_conn, unwatched))) {
		if (loop_now_ms(s->loop) < c->working_ms + HTTP_UNWATCHED_MS)
			return;
		c->spared = false;
		conn_advance(c);
	}
}

static void look(void *arg)
{
	struct http_server *s = arg;

	s->looking = false;
	if (s->dead) {
		server_destroy_later(s);
		return;
	}
	while (look_at_one(&s->answered_before))
		continue;
	list_take(&s->answered_before, &s->answered); /* too new: their peers are still reading */
	watch_slow(s);
	if (!list_empty(&s->working) || !list_empty(&s->answered_before))
		look_soon(s);
}

/* -- new connections ------------------------------------------------------------------------------------------- */

bool watch_may_spare(struct http_server *s)
{
	uint64_t now_ms = loop_now_ms(s->loop), *oldest = &s->accepted_ms[s->n_accepted++ % HTTP_BUSY_ACCEPTS];
	bool busy = now_ms - *oldest < s->busy_ms;

	*oldest = now_ms;
	return busy && now_ms >= s->sparing_from_ms;
}

void watch_was_late(struct http_server *s)
{
	s->sparing_from_ms = loop_now_ms(s->loop) + HTTP_UNSPARING_MS;
}

void watch_accepted(struct http_conn *c)
{
	struct http_server *s = c->server;

	if (!look_at_one(&s->answered_before) && s->answered.next != &c->unwatched)
		look_at_one(&s->answered);
}
