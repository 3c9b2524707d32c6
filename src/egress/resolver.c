#include "egress/resolver.h"

#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/random.h"
#include "base/str.h"

#define CHECK_MS 2000            /* resolv.conf is looked at no more often */
#define CONF_MAX_BYTES (64 * 1024)

struct egress_lookup {
	struct egress_resolver *resolver;
	struct loop_io io;
	struct loop_timer timer;  /* of this attempt */
	int fd;
	unsigned attempt;         /* from 0 */
	bool by_tcp;              /* this attempt */
	bool tcp_wanted;          /* the asker can take large answers */
	bool ended;
	uint16_t id;              /* of this attempt, random */
	struct egress_dns_query query;
	struct buf out, in;       /* by TCP: framed bytes to send, and what has come */
	egress_lookup_fn *fn;
	void *arg;
	size_t len;
	uint8_t msg[];
};

/* -- servers ----------------------------------------------------------------------------------------------------- */
void egress_resolver_init(struct egress_resolver *r, struct loop *loop, const char *path)
{
	*r = (struct egress_resolver){ .loop = loop, .path = path };
}

/* "address" or "address%interface". */
static int parse_server(char *text, uint16_t port, struct egress_server *ret)
{
	struct egress_server s = { .port = port };
	char *zone = strchr(text, '%');

	if (zone) {
		*zone++ = '\0';
		s.scope = if_nametoindex(zone);
	}
	if (egress_addr_parse(text, &s.addr) < 0)
		return -EINVAL;
	*ret = s;
	return 0;
}

int egress_resolver_add(struct egress_resolver *r, const char *text, struct err *err)
{
	auto_free char *copy = xstrdup(text);
	char *host = copy, *colon = strrchr(copy, ':'), *close = strchr(copy, ']');
	uint64_t port = 53;

	if (!r->fixed)
		r->n_servers = 0;
	if (r->n_servers == EGRESS_SERVERS_MAX)
		return err_set(err, -E2BIG, "resolver '%s': at most %d are taken", text, EGRESS_SERVERS_MAX);
	if (colon && (close ? colon == close + 1 : strchr(copy, ':') == colon)) {
		*colon = '\0';
		if (str_to_u64(colon + 1, &port) < 0 || port < 1 || port > 65535)
			return err_set(err, -EINVAL, "resolver '%s': the port must be 1 to 65535", text);
	}
	if (*host == '[' && close) {
		*close = '\0';
		host++;
	}
	if (parse_server(host, (uint16_t)port, &r->servers[r->n_servers]) < 0)
		return err_set(err, -EINVAL, "resolver '%s': expected ADDRESS, ADDRESS:PORT or [ADDRESS]:PORT", text);
	r->n_servers++;
	r->fixed = true;
	return 0;
}

/* One line; what it is not about is passed over, as the C library does. */
static void parse_line(struct egress_resolver *r, char *line)
{
	static const char blank[] = " \t\r";
	char *value = line + strspn(line, blank);
	size_t key_len = strcspn(value, blank);

	if (key_len != strlen("nameserver") || strncmp(value, "nameserver", key_len) != 0)
		return;
	value += key_len + strspn(value + key_len, blank);
	value[strcspn(value, blank)] = '\0';
	if (r->n_servers == EGRESS_SERVERS_MAX)
		return;
	if (parse_server(value, 53, &r->servers[r->n_servers]) == 0)
		r->n_servers++;
}

size_t egress_resolver_parse(struct egress_resolver *r, const char *text)
{
	auto_free char *copy = xstrdup(text);
	char *rest = copy, *line;

	r->n_servers = 0;
	while ((line = strsep(&rest, "\n")))
		parse_line(r, line);
	if (r->n_servers == 0) {
		r->servers[0] =
			(struct egress_server){ .addr = { .family = 4, .bytes = { 127, 0, 0, 1 } }, .port = 53 };
		r->n_servers = 1;
	}
	return r->n_servers;
}

/* A file that cannot be read leaves the servers as they were. */
static void refresh(struct egress_resolver *r)
{
	uint64_t now_ms = loop_now_ms(r->loop);
	struct stat st;
	struct buf text;

	if (r->fixed || (r->n_servers > 0 && now_ms - r->check_ms < CHECK_MS))
		return;
	r->check_ms = now_ms;
	if (stat(r->path, &st) == 0) {
		uint64_t stamp[3] = { st.st_dev ^ (uint64_t)st.st_ino << 16, (uint64_t)st.st_size,
				      (uint64_t)st.st_mtim.tv_sec * 1000000000 + (uint64_t)st.st_mtim.tv_nsec };
		if (r->n_servers > 0 && memcmp(stamp, r->stamp, sizeof(stamp)) == 0)
			return;
		memcpy(r->stamp, stamp, sizeof(stamp));
	}
	buf_init(&text, CONF_MAX_BYTES);
	if (fd_read_file(r->path, &text, NULL) == 0 || r->n_servers == 0)
		egress_resolver_parse(r, text.data);
	buf_done(&text);
}

/* -- one lookup -------------------------------------------------------------------------------------------------- */
static void lookup_release(void *arg)
{
	struct egress_lookup *l = arg;

	buf_done(&l->out);
	buf_done(&l->in);
	free(l);
}

static void disconnect(struct egress_lookup *l)
{
	loop_io_close(&l->io);
	l->fd = fd_close(l->fd);
}

void egress_lookup_cancel(struct egress_lookup *l)
{
	if (!l || l->ended)
		return;
	l->ended = true;
	disconnect(l);
	loop_timer_stop(&l->timer);
	loop_release(l->resolver->loop, lookup_release, l);
}

static void finish(struct egress_lookup *l, const uint8_t *reply, size_t len)
{
	egress_lookup_fn *fn = l->fn;
	void *arg = l->arg;

	egress_lookup_cancel(l);
	fn(reply, len, arg);
}

static void on_event(struct loop_io *io, uint32_t events, void *arg);

/* A connected socket of type to this attempt's server. */
static int connect_server(struct egress_lookup *l, int type)
{
	const struct egress_resolver *r = l->resolver;
	const struct egress_server *s = &r->servers[l->attempt % r->n_servers];
	struct sockaddr_storage sa;
	socklen_t sa_len = egress_addr_to_sockaddr(&s->addr, s->port, &sa);
	auto_fd fd = socket(sa.ss_family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	if (s->scope)
		((struct sockaddr_in6 *)(void *)&sa)->sin6_scope_id = s->scope;
	if (connect(fd, (struct sockaddr *)&sa, sa_len) < 0 && errno != EINPROGRESS)
		return -errno;
	int e = loop_io_open(&l->io, r->loop, fd, type == SOCK_STREAM ? EPOLLOUT : EPOLLIN, on_event, l, NULL);
	if (e < 0)
		return e;
	l->fd = fd_steal(&fd);
	return 0;
}

static int attempt_udp(struct egress_lookup *l)
{
	int r = connect_server(l, SOCK_DGRAM);

	if (r < 0)
		return r;
	return send(l->fd, l->msg, l->len, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

static int attempt_tcp(struct egress_lookup *l)
{
	uint8_t frame[2] = { (uint8_t)(l->len >> 8), (uint8_t)l->len };

	buf_clear(&l->in);
	buf_clear(&l->out);
	if (buf_append(&l->out, frame, sizeof(frame)) < 0 || buf_append(&l->out, l->msg, l->len) < 0)
		return -ENOBUFS;
	return connect_server(l, SOCK_STREAM);
}

static int attempt(struct egress_lookup *l)
{
	disconnect(l);
	random_bytes(&l->id, sizeof(l->id));
	egress_dns_set_id(l->msg, l->id);
	loop_timer_start(&l->timer, EGRESS_TRY_MS);
	return l->by_tcp ? attempt_tcp(l) : attempt_udp(l);
}

/* After an attempt that failed. One that fails at once (no route) moves on, so this ends. */
static void next_attempt(struct egress_lookup *l)
{
	unsigned most = MAX((unsigned)l->resolver->n_servers, EGRESS_TRIES);

	while (++l->attempt < most)
		if (attempt(l) == 0)
			return;
	finish(l, NULL, 0);
}

static void deliver(struct egress_lookup *l, uint8_t *reply, size_t len)
{
	if (!l->by_tcp && l->tcp_wanted && egress_dns_is_truncated(reply, len)) {
		l->by_tcp = true;
		if (attempt(l) < 0)
			next_attempt(l);
		return;
	}
	/* As resolvers do: one that can't or won't say leaves it to the next. */
	if (egress_dns_is_refusal(reply, len) && l->attempt + 1 < l->resolver->n_servers) {
		next_attempt(l);
		return;
	}
	egress_dns_set_id(reply, l->query.id);
	finish(l, reply, len);
}

static void read_udp(struct egress_lookup *l)
{
	static uint8_t reply[EGRESS_DNS_MAX]; /* one thread, and not kept beyond the callback */

	for (int i = 0; i < 16; i++) {
		ssize_t n = recv(l->fd, reply, sizeof(reply), 0);
		if (n < 0 && errno == EAGAIN)
			return;
		if (n < 0) {
			next_attempt(l); /* refused: nobody listens there */
			return;
		}
		/* What does not fit is somebody else's guess: the right answer may still come. */
		if (egress_dns_is_answer(reply, (size_t)n, l->id, l->msg, &l->query)) {
			deliver(l, reply, (size_t)n);
			return;
		}
	}
}

static int write_tcp(struct egress_lookup *l)
{
	while (l->out.len > 0) {
		ssize_t n = send(l->fd, l->out.data, l->out.len, MSG_NOSIGNAL);
		if (n < 0)
			return errno == EAGAIN ? 0 : -errno;
		buf_consume(&l->out, (size_t)n);
	}
	loop_io_set(&l->io, EPOLLIN);
	return 0;
}

/* 1 = the answer was delivered. */
static int read_tcp(struct egress_lookup *l)
{
	char *room;

	if (buf_reserve(&l->in, 4096, &room) < 0)
		return -EPROTO;
	ssize_t n = recv(l->fd, room, 4096, 0);
	if (n <= 0)
		return n == 0 ? -EPIPE : errno == EAGAIN ? 0 : -errno;
	buf_commit(&l->in, (size_t)n);

	uint8_t *p = (uint8_t *)l->in.data;
	if (l->in.len < 2)
		return 0;
	size_t want = (size_t)p[0] << 8 | p[1];
	if (l->in.len < want + 2)
		return 0;
	if (!egress_dns_is_answer(p + 2, want, l->id, l->msg, &l->query))
		return -EPROTO;
	deliver(l, p + 2, want);
	return 1;
}

static void on_event(struct loop_io *io, uint32_t events, void *arg)
{
	struct egress_lookup *l = arg;
	int r = 0;

	(void)io;
	if (!l->by_tcp) {
		read_udp(l);
		return;
	}
	if (events & EPOLLOUT)
		r = write_tcp(l);
	if (r == 0 && events & (EPOLLIN | EPOLLERR | EPOLLHUP))
		r = read_tcp(l);
	if (r < 0)
		next_attempt(l);
}

static void on_timeout(struct loop_timer *t, void *arg)
{
	(void)t;
	next_attempt(arg);
}

int egress_lookup_start(struct egress_lookup **ret, struct egress_resolver *r, const void *msg, size_t len,
			const struct egress_dns_query *q, bool tcp, egress_lookup_fn *fn, void *arg)
{
	refresh(r);
	struct egress_lookup *l = xcalloc(1, sizeof(*l) + len);

	*l = (struct egress_lookup){
		.resolver = r, .fd = -1, .query = *q, .tcp_wanted = tcp, .fn = fn, .arg = arg, .len = len
	};
	memcpy(l->msg, msg, len);
	buf_init(&l->in, EGRESS_DNS_MAX + 2 + 4096);
	buf_init(&l->out, EGRESS_DNS_MAX + 2);
	loop_timer_init(&l->timer, r->loop, on_timeout, l);

	int e = attempt(l);
	while (e < 0 && e != -EMFILE && e != -ENFILE && ++l->attempt < MAX((unsigned)r->n_servers, EGRESS_TRIES))
		e = attempt(l);
	if (e < 0) {
		egress_lookup_cancel(l);
		return e;
	}
	*ret = l;
	return 0;
}
