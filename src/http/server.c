/* http/server.c: listening sockets, limits, and the list of connections that have something to do. */
#include "http/server.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/un.h>
#include <time.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/time.h"
#include "http/private.h"

#define DEFER_ACCEPT_S 1 /* who says nothing for so long becomes a connection all the same */
#define OF_ONE_TAG 16 /* parts of max_connections: the most that one sandbox has */
#define OF_TAGS 2     /* and that all have */
#define ACCEPT_SHARE 4 /* of what a turn does, the part that is new connections: neither they nor those already here starve */

void http_limits_default(struct http_limits *ret)
{
	*ret = (struct http_limits){
		.header_bytes = 64 << 10,
		.header_count = 100,
		.body_bytes = 64 << 20,
		.high_water_bytes = 256 << 10,
		.max_connections = 16000,
		.header_deadline_ms = 15000,
		.idle_ms = 75000,
		.body_stall_ms = 60000,
		.write_stall_ms = 120000,
		.handshake_ms = 10000,
		.handshakes = 1000,
		.h2 = true,
		.h2_streams = 128,
		.h2_resets = 20,
		.h2_resets_burst = 200,
		.h2_controls = 250,
		.h2_controls_burst = 1000,
	};
}

/* -- dirty connections ----------------------------------------------------------------------------------------- */

static void server_destroy(void *arg)
{
	struct http_server *s = arg;

	free(s->scratch);
	free(s->trusted);
	free(s);
}

void server_destroy_later(struct http_server *s)
{
	if (!s->deferred && !s->looking)
		loop_release(s->loop, server_destroy, s);
}

static void run_dirty(void *arg)
{
	struct http_server *s = arg;
	struct list now;

	s->deferred = false;
	if (s->dead) {
		server_destroy_later(s);
		return;
	}
	/* Those that become dirty meanwhile wait for the next turn, so that no connection can hold the others up. */
	list_take(&now, &s->dirty);
	while (!list_empty(&now)) {
		struct http_conn *c = list_first(&now, struct http_conn, dirty);
		list_remove(&c->dirty);
		conn_turn(c);
	}
}

void server_mark_dirty(struct http_server *s, struct http_conn *c)
{
	if (!list_empty(&c->dirty))
		return;
	list_push_back(&s->dirty, &c->dirty);
	if (!s->deferred)
		loop_defer(s->loop, run_dirty, s);
	s->deferred = true;
}

/* -- accepting ------------------------------------------------------------------------------------------------- */

/* More greetings wait in the kernel's backlog, where they are nobody's oldest. */
static bool is_shaking(const struct http_listener *l)
{
	return l->tls && l->server->greetings >= HTTP_GREETINGS;
}

/* Above the limit nothing is accepted: the kernel's backlog holds who comes, and they are served when others leave. */
static void update_listeners(struct http_server *s)
{
	bool open = !s->accept_paused && s->stats.open_connections < s->limits.max_connections;

	list_foreach(&s->listeners, struct http_listener, link, l)
		loop_io_set(&l->io, open && !is_shaking(l) ? EPOLLIN : 0);
}

void server_greetings(struct http_server *s, int change)
{
	s->greetings += (unsigned)change;
	update_listeners(s);
}

static void on_accept_timer(struct loop_timer *t UNUSED, void *arg)
{
	struct http_server *s = arg;

	s->accept_paused = false;
	update_listeners(s);
}

/* Without descriptors the listening socket stays readable: asking again at once would only burn the processor. */
static void pause_accepting(struct http_server *s)
{
	s->accept_paused = true;
	update_listeners(s);
	loop_timer_start(&s->accept_timer, HTTP_ACCEPT_PAUSE_MS);
}

static bool is_shortage(int e)
{
	return e == EMFILE || e == ENFILE || e == ENOBUFS || e == ENOMEM;
}

static bool begin_tls(struct http_listener *l, struct http_conn *c)
{
	conn_tls_begin(c, l->tls);
	if (conn_begin(c, NULL) == 0)
		return true;
	pause_accepting(l->server);
	return false;
}

/* False when there is none, or none can be taken now. */
static bool accept_one(struct http_listener *l)
{
	struct sockaddr_storage peer = { 0 };
	socklen_t len = sizeof(peer);
	int fd = accept4(l->fd, (struct sockaddr *)&peer, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
	struct http_conn *c;

	if (fd < 0) {
		if (is_shortage(errno))
			pause_accepting(l->server);
		return errno == ECONNABORTED || errno == EINTR;
	}
	c = conn_new(l->server, fd, 0, (struct sockaddr *)&peer, 0);
	c->spared = !l->tls && watch_may_spare(l->server);
	if (l->tls && !begin_tls(l, c))
		return true;
	conn_read(c); /* the request is there already: see http_server_listen() */
	watch_accepted(c);
	return true;
}

/* To ask until the kernel has no more costs as much as to accept one, each time: it makes a socket before it looks. So an idle
 * loop takes one in a turn, and is told in the next one, at once, where more wait. */
static void on_accept(struct loop_io *io UNUSED, uint32_t events UNUSED, void *arg)
{
	struct http_listener *l = arg;
	struct http_server *s = l->server;
	unsigned batch = 1 + loop_turn_events(s->loop) / ACCEPT_SHARE;

	/* A handler may have closed the listeners. */
	for (unsigned i = 0; i < batch && !s->stopping && !is_shaking(l); i++)
		if (s->accept_paused || s->stats.open_connections >= s->limits.max_connections || !accept_one(l))
			break;
	update_listeners(s);
}

int http_server_listen(struct http_server *s, int listen_fd, struct http_tls *tls, struct err *err)
{
	auto_fd fd = listen_fd;
	struct http_listener *l;
	int r, on = 1, defer_s = DEFER_ACCEPT_S;

	/* Accepted sockets inherit the first, which saves a system call for each; the second wakes us with the request and not
	 * before it. A unix socket refuses both; that is fine. */
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT, &defer_s, sizeof(defer_s));
	r = fd_set_nonblock(fd, true);
	if (r < 0)
		return err_sys_code(err, r, "make the listening socket non-blocking");
	l = NEW(struct http_listener);
	l->server = s;
	l->fd = fd;
	l->tls = tls;
	r = loop_io_open(&l->io, s->loop, fd, EPOLLIN, on_accept, l, err);
	if (r < 0) {
		free(l);
		return r;
	}
	fd_steal(&fd);
	list_push_back(&s->listeners, &l->link);
	update_listeners(s);
	return 0;
}

static void close_listener(struct http_listener *l)
{
	loop_io_close(&l->io);
	fd_close(l->fd);
	list_remove(&l->link);
	loop_release(l->server->loop, free, l);
}

static int check_share(const struct http_server *s, uint64_t tag, struct err *err)
{
	size_t own = s->adopted[tag % HTTP_TAGS], most = s->limits.max_connections / OF_ONE_TAG,
		all = s->limits.max_connections / OF_TAGS;

	if (own >= MAX(most, (size_t)1))
		return err_set(err, -EMFILE, "it has %zu connections to the platform already", own);
	if (s->n_adopted >= MAX(all, (size_t)1))
		return err_set(err, -EMFILE, "sandboxes have %zu connections to the platform already", s->n_adopted);
	return 0;
}

int http_server_adopt(struct http_server *s, int fd, uint64_t tag, struct err *err)
{
	struct sockaddr_storage peer = { 0 };
	socklen_t len = sizeof(peer);
	struct http_conn *c;
	int r, on = 1;

	r = check_share(s, tag, err);
	if (r == 0 && (r = fd_set_nonblock(fd, true)) < 0)
		err_sys_code(err, r, "make a connection non-blocking");
	if (r < 0) {
		fd_close_foreign(fd);
		return r;
	}
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	if (getpeername(fd, (struct sockaddr *)&peer, &len) < 0)
		peer.ss_family = AF_UNSPEC; /* gone already: the first read says so */
	c = conn_new(s, fd, tag, (struct sockaddr *)&peer, conn_kernel_acked(fd));
	c->adopted = true;
	s->n_adopted++;
	s->adopted[tag % HTTP_TAGS]++;
	return conn_begin(c, err);
}

int http_server_trust(struct http_server *s, const char *const *proxies, struct err *err)
{
	size_t n = 0;

	while (proxies[n])
		n++;
	free(s->trusted);
	s->trusted = xcalloc(n + 1, sizeof(*s->trusted));
	for (s->n_trusted = 0; s->n_trusted < n; s->n_trusted++) {
		int r = http_range_parse(&s->trusted[s->n_trusted], proxies[s->n_trusted], err);
		if (r < 0)
			return r;
	}
	return 0;
}

void server_conn_closed(struct http_server *s, const struct http_conn *c)
{
	if (c->adopted) {
		s->n_adopted--;
		s->adopted[c->tag % HTTP_TAGS]--;
	}
	if (s->stats.open_connections-- >= s->limits.max_connections)
		update_listeners(s);
}

/* -- life ------------------------------------------------------------------------------------------------------ */

int http_server_new(struct http_server **ret, struct loop *l, const struct http_limits *limits,
		    http_handler_fn *handler, void *arg, struct err *err)
{
	struct http_server *s;

	if (!handler)
		return err_set(err, -EINVAL, "handler: missing: a server needs one");
	s = NEW(struct http_server);
	s->loop = l;
	s->handler = handler;
	s->handler_arg = arg;
	http_limits_default(&s->limits);
	if (limits)
		s->limits = *limits;
	s->scratch = xmalloc(HTTP_READ_BYTES);
	list_init(&s->listeners);
	list_init(&s->conns);
	list_init(&s->dirty);
	list_init(&s->handshaking);
	list_init(&s->answered);
	list_init(&s->answered_before);
	list_init(&s->working);
	s->busy_ms = HTTP_BUSY_MS;
	loop_timer_init(&s->accept_timer, l, on_accept_timer, s);
	*ret = s;
	return 0;
}

void http_server_stop_accepting(struct http_server *s)
{
	s->stopping = true;
	loop_timer_stop(&s->accept_timer);
	list_foreach(&s->listeners, struct http_listener, link, l)
		close_listener(l);
	list_foreach(&s->conns, struct http_conn, link, c)
		conn_stop(c);
}

struct http_server *http_server_free(struct http_server *s)
{
	if (!s)
		return NULL;
	http_server_stop_accepting(s);
	while (!list_empty(&s->conns))
		conn_break(list_first(&s->conns, struct http_conn, link));
	s->dead = true;
	server_destroy_later(s);
	return NULL;
}

const struct http_stats *http_server_stats(const struct http_server *s)
{
	return &s->stats;
}

const char *server_date(struct http_server *s)
{
	uint64_t now_s = (uint64_t)time_wall_ms() / 1000;
	time_t t = (time_t)now_s;
	struct tm tm;

	if (now_s != s->date_s) {
		s->date_s = now_s;
		strftime(s->date, sizeof(s->date), "%a, %d %b %Y %H:%M:%S GMT", gmtime_r(&t, &tm));
	}
	return s->date;
}
