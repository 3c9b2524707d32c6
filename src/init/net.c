#include "init/net.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/time.h"
#include "init/init.h"

#define ACCEPT_BURST 64 /* connections before others get a turn */
#define DNS_BURST 64
#define PAUSE_US 20000  /* after a shortage that no readiness announces */
#define BACKLOG 4096    /* the kernel cuts it to net.core.somaxconn */
/* SO_ORIGINAL_DST and IP6T_SO_ORIGINAL_DST; their headers can't be included beside netinet/in.h. */
#define ORIGINAL_DST 80

static _Alignas(8) char message[NET_DNS_REPLY_MAX + 1025];
static char packet[NET_DNS_MAX];

/* -- steering: TCP --------------------------------------------------------------------------------------------- */

int net_original_dst(int fd, struct sockaddr_storage *ret)
{
	struct sockaddr_storage own = { 0 };
	socklen_t len = sizeof(*ret), own_len = sizeof(own);
	bool v6;

	if (getsockname(fd, (struct sockaddr *)&own, &own_len) < 0)
		return -errno;
	v6 = own.ss_family == AF_INET6;
	memset(ret, 0, sizeof(*ret));
	if (getsockopt(fd, v6 ? IPPROTO_IPV6 : IPPROTO_IP, ORIGINAL_DST, ret, &len) < 0)
		return -errno;
	/* Connection tracking answers for connections that no rule touched too: with the listener's own address. */
	return !memcmp(ret, &own, v6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in)) ? -ENOENT : 0;
}

static int send_conn(int egress, int conn, const struct sockaddr_storage *to)
{
	const struct sockaddr_in *v4 = (const void *)to;
	const struct sockaddr_in6 *v6 = (const void *)to;
	struct wire_out o;

	wire_begin(&o, message, sizeof(message), WIRE_CONN, 0);
	if (to->ss_family == AF_INET6) {
		wire_put_u64(&o, WIRE_T_FAMILY, 6);
		wire_put(&o, WIRE_T_ADDR, &v6->sin6_addr, 16);
		wire_put_u64(&o, WIRE_T_PORT, ntohs(v6->sin6_port));
	} else {
		wire_put_u64(&o, WIRE_T_FAMILY, 4);
		wire_put(&o, WIRE_T_ADDR, &v4->sin_addr, 4);
		wire_put_u64(&o, WIRE_T_PORT, ntohs(v4->sin_port));
	}
	return wire_send(egress, &o, &conn, 1);
}

static void set_accepting(struct init *in, bool on)
{
	watch_set(in, &in->net.listeners[NET_TCP4], on ? EPOLLIN : 0);
	watch_set(in, &in->net.listeners[NET_TCP6], on ? EPOLLIN : 0);
}

/* Accepts nothing until egress reads, or for a moment after another shortage. */
static void hold(struct init *in, int conn, int r)
{
	in->net.waiting = conn;
	set_accepting(in, false);
	if (r == -EAGAIN && in->net.egress.fd >= 0)
		watch_set(in, &in->net.egress, EPOLLIN | EPOLLOUT);
	else
		in->net.resume_us = time_now_us() + PAUSE_US;
}

/* Takes ownership of conn. False: stop accepting for now. */
static bool pass_on(struct init *in, int conn)
{
	struct sockaddr_storage to = { 0 };
	int r = net_original_dst(conn, &to);

	if (r == 0)
		r = in->net.egress.fd < 0 ? -EPIPE : send_conn(in->net.egress.fd, conn, &to);
	if (fd_send_later(r)) {
		hold(in, conn, r);
		return false;
	}
	fd_close(conn); /* egress has it; or nobody does, and the peer sees the end */
	return true;
}

static void on_tcp(struct init *in, struct watch *w, uint32_t events)
{
	(void)events;
	for (int i = 0; i < ACCEPT_BURST; i++) {
		int conn = accept4(w->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

		if (conn < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM))
			hold(in, -1, -errno);
		if (conn < 0 || !pass_on(in, conn))
			return;
	}
}

static void resume(struct init *in)
{
	int conn = in->net.waiting;

	in->net.waiting = -1;
	in->net.resume_us = 0;
	if (in->net.egress.fd >= 0)
		watch_set(in, &in->net.egress, EPOLLIN);
	if (conn < 0 || pass_on(in, conn))
		set_accepting(in, true);
}

/* -- steering: DNS --------------------------------------------------------------------------------------------- */

static void on_udp(struct init *in, struct watch *w, uint32_t events)
{
	(void)events;
	for (int i = 0; i < DNS_BURST; i++) {
		struct sockaddr_storage from = { 0 };
		socklen_t from_len = sizeof(from);
		ssize_t n = recvfrom(w->fd, packet, sizeof(packet), MSG_DONTWAIT, (struct sockaddr *)&from, &from_len);
		struct wire_out o;

		if (n < 0)
			return;
		if (n == 0 || in->net.egress.fd < 0)
			continue;
		wire_begin(&o, message, sizeof(message), WIRE_DNS, 0);
		wire_put(&o, WIRE_T_CLIENT, &from, from_len);
		wire_put(&o, WIRE_T_OUTPUT, packet, (size_t)n);
		if (wire_send(in->net.egress.fd, &o, NULL, 0) < 0)
			continue; /* no room: a lost datagram, the resolver asks again */
	}
}

static void dns_reply(struct init *in, const struct wire_in *msg)
{
	struct sockaddr_storage to = { 0 };
	size_t to_len = 0, len = 0;
	const void *client = wire_get(msg, WIRE_T_CLIENT, 0, &to_len), *reply = wire_get(msg, WIRE_T_OUTPUT, 0, &len);
	int fd;

	if (!client || !reply || to_len < sizeof(sa_family_t) || to_len > sizeof(to))
		return;
	memcpy(&to, client, to_len);
	fd = in->net.listeners[to.ss_family == AF_INET6 ? NET_UDP6 : NET_UDP4].fd;
	if (fd >= 0 && sendto(fd, reply, len, MSG_DONTWAIT | MSG_NOSIGNAL, (struct sockaddr *)&to, (socklen_t)to_len) < 0)
		return; /* as any lost datagram */
}

static void on_egress(struct init *in, struct watch *w, uint32_t events)
{
	size_t len = 0, n_fds = 0;
	struct wire_in msg;
	int fds[FD_PASS_MAX], r;

	if (events & EPOLLOUT)
		resume(in);
	if (!(events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
		return;
	r = fd_recv(w->fd, message, sizeof(message), &len, fds, FD_PASS_MAX, &n_fds);
	if (r == -EAGAIN || r == -EINTR || r == -EMSGSIZE || r == -EMFILE)
		return;
	for (size_t i = 0; r == 0 && i < n_fds; i++)
		fd_close(fds[i]);
	if (r < 0 || len == 0) {
		watch_close(in, w);
		resume(in);
		return;
	}
	if (wire_parse(&msg, message, len) == 0 && msg.type == WIRE_DNS_REPLY)
		dns_reply(in, &msg);
}

/* -- listeners ------------------------------------------------------------------------------------------------- */

static socklen_t loopback(struct sockaddr_storage *ret, int family, unsigned port)
{
	struct sockaddr_in *v4 = (void *)ret;
	struct sockaddr_in6 *v6 = (void *)ret;

	memset(ret, 0, sizeof(*ret));
	ret->ss_family = (sa_family_t)family;
	if (family == AF_INET6) {
		v6->sin6_port = htons((uint16_t)port);
		v6->sin6_addr = in6addr_loopback;
		return sizeof(*v6);
	}
	v4->sin_port = htons((uint16_t)port);
	v4->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	return sizeof(*v4);
}

static int listen_at(int family, int type, unsigned port, int *ret)
{
	auto_fd fd = socket(family, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct sockaddr_storage at;
	socklen_t len = loopback(&at, family, port);
	int one = 1;

	if (fd < 0)
		return -errno;
	/* For a namespace that is used again while an old connection is in TIME_WAIT. */
	if (type == SOCK_STREAM && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0)
		return -errno;
	if (family == AF_INET6 && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one)) < 0)
		return -errno;
	if (bind(fd, (struct sockaddr *)&at, len) < 0)
		return -errno;
	if (type == SOCK_STREAM && listen(fd, BACKLOG) < 0)
		return -errno;
	*ret = fd_steal(&fd);
	return 0;
}

static int open_listener(struct init *in, enum net_listener which, struct err *err)
{
	bool v6 = which == NET_TCP6 || which == NET_UDP6, tcp = which == NET_TCP4 || which == NET_TCP6;
	unsigned port = tcp ? STEER_TCP_PORT : STEER_DNS_PORT;
	int fd = -1, r = listen_at(v6 ? AF_INET6 : AF_INET, tcp ? SOCK_STREAM : SOCK_DGRAM, port, &fd);

	if (v6 && (r == -EAFNOSUPPORT || r == -EADDRNOTAVAIL))
		return 0; /* a machine without IPv6 */
	if (r < 0)
		return err_sys_code(err, r, "listen on %s port %u", v6 ? "[::1]" : "127.0.0.1", port);
	r = watch_open(in, &in->net.listeners[which], fd, EPOLLIN, tcp ? on_tcp : on_udp);
	return r < 0 ? err_sys_code(err, r, "watch port %u", port) : 0;
}

void net_init(struct net *n)
{
	*n = (struct net){ .egress = WATCH_INIT, .waiting = -1 };
	for (size_t i = 0; i < NET_LISTENERS; i++)
		n->listeners[i].fd = -1;
	list_init(&n->connects);
}

int net_open(struct init *in, struct err *err)
{
	int r = 0;

	for (int i = 0; i < NET_LISTENERS && r == 0; i++)
		r = open_listener(in, (enum net_listener)i, err);
	if (r < 0)
		return r;
	r = fd_set_nonblock(BOOT_FD_EGRESS, true);
	if (r == 0)
		r = watch_open(in, &in->net.egress, BOOT_FD_EGRESS, EPOLLIN, on_egress);
	return r < 0 ? err_sys_code(err, r, "watch the egress socket") : 0;
}

/* -- connections to the inside --------------------------------------------------------------------------------- */

struct net_connect {
	struct list link;
	struct watch watch;
	uint64_t request, deadline_us;
	unsigned port;
	bool v6; /* the second try */
};

static void connect_free(struct init *in, struct net_connect *c)
{
	watch_close(in, &c->watch);
	list_remove(&c->link);
	in->net.n_connects--;
	free(c);
}

static void on_connect(struct init *in, struct watch *w, uint32_t events);

/* Returns 0 when connected or under way. */
static int connect_try(struct init *in, struct net_connect *c, int family)
{
	struct sockaddr_storage to;
	socklen_t len = loopback(&to, family, c->port);
	auto_fd fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return -errno;
	if (connect(fd, (struct sockaddr *)&to, len) < 0 && errno != EINPROGRESS)
		return -errno;
	return watch_open(in, &c->watch, fd_steal(&fd), EPOLLOUT, on_connect);
}

/* The IPv4 try failed with r: IPv6, or the end. */
static void connect_failed(struct init *in, struct net_connect *c, int r)
{
	struct err err = ERR_INIT;

	watch_close(in, &c->watch);
	if (!c->v6) {
		c->v6 = true;
		if (connect_try(in, c, AF_INET6) == 0)
			return;
	}
	err_sys_code(&err, r, "connect to port %u inside", c->port);
	control_failed(in, c->request, "connect", r, &err);
	connect_free(in, c);
}

static void on_connect(struct init *in, struct watch *w, uint32_t events)
{
	struct net_connect *c = container_of(w, struct net_connect, watch);
	socklen_t len = sizeof(int);
	int error = 0;

	(void)events;
	if (getsockopt(w->fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
		error = errno;
	if (error) {
		connect_failed(in, c, -error);
		return;
	}
	control_reply(in, control_begin(WIRE_OK, c->request), &w->fd, 1);
	connect_free(in, c);
}

int net_connect_request(struct init *in, struct request *q, struct err *err)
{
	uint64_t port = wire_get_u64(q->msg, WIRE_T_PORT, 0);
	struct net_connect *c;
	int r;

	q->stage = "connect";
	if (port < 1 || port > 65535)
		return err_set(err, -EINVAL, "PORT is %llu, expected 1 to 65535", (unsigned long long)port);
	if (in->net.n_connects >= NET_CONNECTS_MAX)
		return err_set(err, -EAGAIN, "%d connections are being made", NET_CONNECTS_MAX);
	c = calloc(1, sizeof(*c));
	if (!c)
		return err_set(err, -ENOMEM, "no memory for a connection");
	*c = (struct net_connect){ .watch = WATCH_INIT, .request = q->msg->request, .port = (unsigned)port };
	c->deadline_us = time_now_us() + NET_CONNECT_TIMEOUT_MS * 1000;
	list_push_back(&in->net.connects, &c->link);
	in->net.n_connects++;
	r = connect_try(in, c, AF_INET);
	if (r < 0)
		connect_failed(in, c, r);
	return 0;
}

uint64_t net_next_us(const struct init *in)
{
	const struct net *n = &in->net;
	uint64_t next = n->resume_us ? n->resume_us : UINT64_MAX;

	/* In the order of their deadlines. */
	if (!list_empty(&n->connects))
		next = MIN(next, container_of(n->connects.next, const struct net_connect, link)->deadline_us);
	return next;
}

void net_tick(struct init *in, uint64_t now_us)
{
	if (in->net.resume_us && now_us >= in->net.resume_us)
		resume(in);
	list_foreach(&in->net.connects, struct net_connect, link, c) {
		if (now_us < c->deadline_us)
			break;
		c->v6 = true; /* no second try: the port has a listener, it does not accept */
		connect_failed(in, c, -ETIMEDOUT);
	}
}
