/* A small world for the tests of egress, in namespaces of their own:
 *
 *   "host"     the test process's net namespace, made new: loopback only, with one address of its own (HOST_V4), and
 *              routes that make 8.8.8.0/24, 10.1.0.0/16 and 2606:4700::/32 answer here without being addresses of the
 *              host: the world and a private range. Servers listen there: PORT_ECHO, PORT_SINK, PORT_SOURCE, and a
 *              name server.
 *   sandboxes  made by netns_create(); a thread holds the steering listeners and passes on what arrives, as init does.
 *   egress     the real program, as an ordinary user, in the "host" namespace. */
#pragma once

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <criterion/criterion.h>

#include "base/fd.h"
#include "base/random.h"
#include "base/time.h"
#include "egress/addr.h"
#include "init/boot.h"
#include "sandbox/plan.h"
#include "sandbox/wire.h"
/* The static spawner's sources; no library that integration tests link has them. */
#include "spawner/netlink.c"
#include "spawner/netns.c"

#define HOST_V4 "203.0.113.5"
#define WORLD_V4 "8.8.8.8"
#define WORLD_V6 "2606:4700::1"
#define PRIVATE_V4 "10.1.2.3"
enum { PORT_ECHO = 7007, PORT_SINK = 7009, PORT_SOURCE = 7019, PORT_NAMES = 5353 };

struct sandbox_world {
	int netns, listeners[2], names[2]; /* v4, v6 */
	int channel;                       /* init's end */
	pthread_t holder;
	atomic_bool stop;
	_Atomic unsigned n_conns;
};

static int host_ns = -1, spawner_end = -1, daemon_end = -1;
static pid_t egress_pid;

/* -- the host ---------------------------------------------------------------------------------------------------- */
static void add_local_route(struct netlink_batch *b, int family, const char *net, unsigned bits)
{
	uint8_t addr[16];
	struct rtmsg m = { .rtm_family = (uint8_t)family, .rtm_dst_len = (uint8_t)bits, .rtm_table = RT_TABLE_LOCAL,
			   .rtm_protocol = RTPROT_STATIC, .rtm_scope = RT_SCOPE_HOST, .rtm_type = RTN_LOCAL };

	inet_pton(family, net, addr);
	netlink_msg(b, RTM_NEWROUTE, NLM_F_ACK | NLM_F_CREATE, &m, sizeof(m), net);
	netlink_put(b, RTA_DST, addr, family == AF_INET ? 4 : 16);
	netlink_put_u32(b, RTA_OIF, LOOPBACK_INDEX);
}

static void make_host(void)
{
	struct netlink_batch b;
	struct err err = ERR_INIT;

	cr_assert_eq(geteuid(), 0, "these tests need root");
	cr_assert_eq(unshare(CLONE_NEWNET), 0);
	host_ns = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	netlink_init(&b);
	put_link_up(&b);
	put_address(&b, AF_INET, HOST_V4);
	add_local_route(&b, AF_INET, "8.8.8.0", 24);
	add_local_route(&b, AF_INET, "10.1.0.0", 16);
	add_local_route(&b, AF_INET6, "2606:4700::", 32);
	/* So that there seems to be a way out by IPv6. */
	add_local_route(&b, AF_INET6, "2001:4860::", 32);
	cr_assert_eq(netlink_commit(&b, NETLINK_ROUTE, &err), 0, "%s", err.msg);
}

/* Runs in the calling thread's current namespace. */
static int listen_on(int family, const char *addr, uint16_t port, int type)
{
	struct egress_addr a;
	struct sockaddr_storage sa;
	int on = 1, fd = socket(family, type | SOCK_CLOEXEC, 0);

	cr_assert_eq(egress_addr_parse(addr, &a), 0);
	socklen_t len = egress_addr_to_sockaddr(&a, port, &sa);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
	cr_assert_eq(bind(fd, (void *)&sa, len), 0, "bind %s %u: %s", addr, port, strerror(errno));
	if (type == SOCK_STREAM)
		cr_assert_eq(listen(fd, 1024), 0);
	return fd;
}

/* -- servers of the world ---------------------------------------------------------------------------------------- */
/* Bytes whose every position tells: what is lost, doubled or moved shows. */
static void fill_pattern(uint8_t *p, size_t len, uint64_t at)
{
	for (size_t i = 0; i < len; i++, at++)
		p[i] = (uint8_t)(at * 2654435761u >> 13);
}

static void serve_echo(int fd)
{
	char buf[65536];
	ssize_t n;

	while ((n = read(fd, buf, sizeof(buf))) > 0)
		if (fd_write_all(fd, buf, (size_t)n) < 0)
			return;
}

/* Counts to the end of the stream, then says "COUNT BAD\n", where BAD are bytes that differ from the pattern. */
static void serve_sink(int fd)
{
	static __thread uint8_t buf[65536], want[65536];
	uint64_t at = 0, bad = 0;
	char text[64];
	ssize_t n;

	while ((n = read(fd, buf, sizeof(buf))) > 0) {
		fill_pattern(want, (size_t)n, at);
		bad += memcmp(buf, want, (size_t)n) != 0;
		at += (uint64_t)n;
	}
	int len = snprintf(text, sizeof(text), "%llu %llu\n", (unsigned long long)at, (unsigned long long)bad);
	if (fd_write_all(fd, text, (size_t)len) < 0)
		return;
}

/* Reads "COUNT\n", sends that many bytes of the pattern and ends. */
static void serve_source(int fd)
{
	static __thread uint8_t buf[65536];
	char text[32] = "";
	uint64_t left, at = 0;

	if (read(fd, text, sizeof(text) - 1) <= 0)
		return;
	left = strtoull(text, NULL, 10);
	while (left > 0) {
		size_t n = left < sizeof(buf) ? (size_t)left : sizeof(buf);
		fill_pattern(buf, n, at);
		if (fd_write_all(fd, buf, n) < 0)
			return;
		at += n;
		left -= n;
	}
}

static void *serve_one(void *arg)
{
	int fd = (int)(intptr_t)arg;
	struct sockaddr_storage sa = { 0 };
	socklen_t len = sizeof(sa);

	getsockname(fd, (void *)&sa, &len);
	switch (ntohs(((struct sockaddr_in *)(void *)&sa)->sin_port)) {
	case PORT_ECHO: serve_echo(fd); break;
	case PORT_SINK: serve_sink(fd); break;
	default: serve_source(fd); break;
	}
	close(fd);
	return NULL;
}

static void *accept_all(void *arg)
{
	int fd, listener = (int)(intptr_t)arg;
	pthread_t t;

	while ((fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
		pthread_create(&t, NULL, serve_one, (void *)(intptr_t)fd);
		pthread_detach(t);
	}
	return NULL;
}

static void start_servers(void)
{
	const uint16_t ports[] = { PORT_ECHO, PORT_SINK, PORT_SOURCE };
	pthread_t t;

	for (size_t i = 0; i < 3; i++) {
		pthread_create(&t, NULL, accept_all,
			       (void *)(intptr_t)listen_on(AF_INET, "0.0.0.0", ports[i], SOCK_STREAM));
		pthread_detach(t);
		pthread_create(&t, NULL, accept_all,
			       (void *)(intptr_t)listen_on(AF_INET6, "::", ports[i], SOCK_STREAM));
		pthread_detach(t);
	}
}

/* -- the name server --------------------------------------------------------------------------------------------- */
static _Atomic unsigned n_udp_questions, n_tcp_questions;

/* Names are told by their first label: "world", "private", "large" (does not fit a datagram), "mute" (the first
 * question is lost), "silent" (all are), "liar" (a wrong identifier comes first), "loud" (upper case). */
static size_t make_answer(const uint8_t *q, size_t len, uint8_t *out, bool tcp)
{
	bool v6 = q[len - 3] == 28;
	unsigned n = 1;
	struct egress_addr a;

	/* An OPT record would lie behind the question: these clients send none. */
	memcpy(out, q, len);
	out[2] = 0x81, out[3] = 0x80;
	if (memcmp(q + 13, "large", 5) == 0) {
		if (!tcp) {
			out[2] |= 0x02;
			return len;
		}
		n = 200;
	}
	cr_assert_eq(egress_addr_parse(v6 ? WORLD_V6 : memcmp(q + 13, "private", 7) ? WORLD_V4 : PRIVATE_V4, &a), 0);
	out[7] = (uint8_t)n;
	for (unsigned i = 0; i < n; i++) {
		const uint8_t head[] = { 0xc0, 12, 0, v6 ? 28 : 1, 0, 1, 0, 0, 0, 30, 0, v6 ? 16 : 4 };
		memcpy(out + len, head, 12);
		memcpy(out + len + 12, a.bytes, v6 ? 16 : 4);
		len += 12 + (v6 ? 16 : 4);
	}
	return len;
}

static void *name_server_udp(void *arg)
{
	int fd = (int)(intptr_t)arg;
	uint8_t q[1500], out[8192];
	struct sockaddr_storage from;
	unsigned n_mute = 0;

	for (;;) {
		socklen_t from_len = sizeof(from);
		ssize_t n = recvfrom(fd, q, sizeof(q), 0, (void *)&from, &from_len);
		if (n < 17)
			return NULL;
		n_udp_questions++;
		if (memcmp(q + 13, "silent", 6) == 0 || (memcmp(q + 13, "mute", 4) == 0 && n_mute++ == 0))
			continue;
		size_t len = make_answer(q, (size_t)n, out, false);
		if (memcmp(q + 13, "liar", 4) == 0) {
			uint8_t lie[8192];
			memcpy(lie, out, len);
			lie[0] ^= 0xff;
			lie[len - 1] = 66;
			sendto(fd, lie, len, 0, (void *)&from, from_len);
		}
		if (memcmp(q + 13, "loud", 4) == 0)
			memcpy(out + 13, "LOUD", 4);
		sendto(fd, out, len, 0, (void *)&from, from_len);
	}
}

static void *name_server_tcp(void *arg)
{
	int fd, listener = (int)(intptr_t)arg;
	uint8_t q[1500], out[8192];

	while ((fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
		if (fd_read_all(fd, q, 2) == 0 && fd_read_all(fd, q + 2, (size_t)q[0] << 8 | q[1]) == 0) {
			n_tcp_questions++;
			size_t len = make_answer(q + 2, (size_t)q[0] << 8 | q[1], out + 2, true);
			out[0] = (uint8_t)(len >> 8), out[1] = (uint8_t)len;
			/* In pieces, as a network may. */
			cr_assert_eq(fd_write_all(fd, out, 1), 0);
			usleep(1000);
			cr_assert_eq(fd_write_all(fd, out + 1, len + 1), 0);
		}
		close(fd);
	}
	return NULL;
}

static void start_name_server(void)
{
	pthread_t t;

	pthread_create(&t, NULL, name_server_udp,
		       (void *)(intptr_t)listen_on(AF_INET, HOST_V4, PORT_NAMES, SOCK_DGRAM));
	pthread_detach(t);
	pthread_create(&t, NULL, name_server_tcp,
		       (void *)(intptr_t)listen_on(AF_INET, HOST_V4, PORT_NAMES, SOCK_STREAM));
	pthread_detach(t);
}

/* -- egress ------------------------------------------------------------------------------------------------------ */
static void exec_egress(int spawner, int daemon, char *const extra[])
{
	char *argv[24] = { "openreward-egress", "--resolver", HOST_V4 ":5353" };
	size_t n = 3;

	while (*extra && n < 23)
		argv[n++] = *extra++;
	/* Above both targets first, so that neither is overwritten before it is used. */
	int a = fcntl(spawner, F_DUPFD, 10), b = fcntl(daemon, F_DUPFD, 10);
	if (dup2(a, 3) < 0 || dup2(b, 4) < 0)
		_exit(125);
	close_range(5, ~0u, 0);
	/* By descriptor: that user may be unable to pass the folders above the build. */
	int program = open(TEST_BUILD_ROOT "/openreward-egress", O_RDONLY | O_CLOEXEC);
	if (setgid(65534) < 0 || setuid(65534) < 0)
		_exit(124);
	fexecve(program, argv, environ);
	perror("execute openreward-egress");
	_exit(123);
}

static void start_egress(char *const extra[])
{
	int s[2], d[2];

	cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, s), 0);
	cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, d), 0);
	fflush(NULL);
	egress_pid = fork();
	cr_assert(egress_pid >= 0);
	if (egress_pid == 0)
		exec_egress(s[1], d[1], extra);
	close(s[1]);
	close(d[1]);
	spawner_end = s[0];
	daemon_end = d[0];
}

/* Closing the spawner's end is how the program is told to go. */
static void stop_egress(void)
{
	int status = -1;

	if (egress_pid <= 0)
		return;
	close(spawner_end);
	for (int i = 0; i < 500 && waitpid(egress_pid, &status, WNOHANG) == 0; i++)
		usleep(10000);
	if (status == -1) {
		kill(egress_pid, SIGKILL);
		waitpid(egress_pid, &status, 0);
	}
	cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "egress ended with status %d", status);
	egress_pid = 0;
}

/* -- sandboxes --------------------------------------------------------------------------------------------------- */
static void pass_connection(struct sandbox_world *w, int listener, bool v6)
{
	int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	struct sockaddr_storage to = { 0 };
	socklen_t len = sizeof(to);
	struct egress_addr a = { 0 };
	struct wire_out o;
	char buf[512] __attribute__((aligned(8)));

	if (fd < 0)
		return;
	/* SO_ORIGINAL_DST and IP6T_SO_ORIGINAL_DST */
	if (getsockopt(fd, v6 ? IPPROTO_IPV6 : IPPROTO_IP, 80, &to, &len) == 0 &&
	    egress_addr_from_sockaddr((void *)&to, &a) == 0) {
		wire_begin(&o, buf, sizeof(buf), WIRE_CONN, 0);
		wire_put_u64(&o, WIRE_T_FAMILY, a.family);
		wire_put(&o, WIRE_T_ADDR, a.bytes, a.family == 4 ? 4 : 16);
		wire_put_u64(&o, WIRE_T_PORT, ntohs(((struct sockaddr_in *)(void *)&to)->sin_port));
		w->n_conns++;
		if (wire_send(w->channel, &o, &fd, 1) < 0)
			w->stop = true;
	}
	close(fd);
}

/* The token: which listener, and the client's address. */
static void pass_question(struct sandbox_world *w, int i)
{
	static __thread char buf[WIRE_MAX] __attribute__((aligned(8)));
	struct sockaddr_in6 from = { 0 };
	uint8_t q[4096], token[1 + sizeof(from)];
	socklen_t from_len = sizeof(from);
	struct wire_out o;
	ssize_t n = recvfrom(w->names[i], q, sizeof(q), 0, (void *)&from, &from_len);

	if (n < 0)
		return;
	token[0] = (uint8_t)i;
	memcpy(token + 1, &from, sizeof(from));
	wire_begin(&o, buf, sizeof(buf), WIRE_DNS, 0);
	wire_put(&o, WIRE_T_CLIENT, token, sizeof(token));
	wire_put(&o, WIRE_T_OUTPUT, q, (size_t)n);
	if (wire_send(w->channel, &o, NULL, 0) < 0)
		w->stop = true;
}

static void pass_answer(struct sandbox_world *w)
{
	static __thread char buf[WIRE_MAX] __attribute__((aligned(8)));
	size_t len = 0, token_len = 0, reply_len = 0;
	struct wire_in in;

	if (fd_recv(w->channel, buf, sizeof(buf), &len, NULL, 0, NULL) < 0 || len == 0 ||
	    wire_parse(&in, buf, len) < 0) {
		w->stop = true;
		return;
	}
	const uint8_t *token = wire_get(&in, WIRE_T_CLIENT, 0, &token_len);
	const void *reply = wire_get(&in, WIRE_T_OUTPUT, 0, &reply_len);
	socklen_t to_len = token[0] ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
	sendto(w->names[token[0]], reply, reply_len, 0, (const void *)(token + 1), to_len);
}

static void *hold(void *arg)
{
	struct sandbox_world *w = arg;

	while (!w->stop) {
		struct pollfd p[] = { { w->listeners[0], POLLIN, 0 },
				      { w->listeners[1], POLLIN, 0 },
				      { w->names[0], POLLIN, 0 },
				      { w->names[1], POLLIN, 0 },
				      { w->channel, POLLIN, 0 } };
		if (poll(p, 5, 50) < 0)
			continue;
		for (int i = 0; i < 2; i++) {
			if (p[i].revents)
				pass_connection(w, w->listeners[i], i);
			if (p[2 + i].revents)
				pass_question(w, i);
		}
		if (p[4].revents)
			pass_answer(w);
	}
	return NULL;
}

/* A channel for a sandbox, registered; init's end. */
static int register_sandbox(const char *id, uint64_t number, enum plan_net net)
{
	char buf[512] __attribute__((aligned(8)));
	struct wire_out o;
	int s[2];

	cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, s), 0);
	wire_begin(&o, buf, sizeof(buf), WIRE_REGISTER, 0);
	wire_put_str(&o, WIRE_T_ID, id);
	wire_put_u64(&o, WIRE_T_NUMBER, number);
	wire_put_u64(&o, WIRE_T_NET, net);
	cr_assert_eq(wire_send(spawner_end, &o, &s[1], 1), 0);
	close(s[1]);
	return s[0];
}

static void enter(int ns)
{
	cr_assert_eq(setns(ns, CLONE_NEWNET), 0);
}

static struct sandbox_world *make_sandbox(const char *id, enum plan_net net)
{
	struct sandbox_world *w = calloc(1, sizeof(*w));
	struct err err = ERR_INIT;

	cr_assert_eq(netns_create(&w->netns, &err), 0, "%s", err.msg);
	enter(w->netns);
	w->listeners[0] = listen_on(AF_INET, "127.0.0.1", STEER_TCP_PORT, SOCK_STREAM);
	w->listeners[1] = listen_on(AF_INET6, "::1", STEER_TCP_PORT, SOCK_STREAM);
	w->names[0] = listen_on(AF_INET, "127.0.0.1", STEER_DNS_PORT, SOCK_DGRAM);
	w->names[1] = listen_on(AF_INET6, "::1", STEER_DNS_PORT, SOCK_DGRAM);
	enter(host_ns);
	w->channel = register_sandbox(id, 42, net);
	cr_assert_eq(pthread_create(&w->holder, NULL, hold, w), 0);
	return w;
}

/* As when init dies. */
static void end_sandbox(struct sandbox_world *w)
{
	w->stop = true;
	pthread_join(w->holder, NULL);
	close(w->channel);
	for (int i = 0; i < 2; i++) {
		close(w->listeners[i]);
		close(w->names[i]);
	}
	close(w->netns);
	free(w);
}

/* -- clients inside ---------------------------------------------------------------------------------------------- */
static int socket_in(struct sandbox_world *w, int family, int type)
{
	struct timeval limit = { .tv_sec = 20 };

	enter(w->netns);
	int fd = socket(family, type | SOCK_CLOEXEC, 0);
	enter(host_ns);
	cr_assert(fd >= 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	return fd;
}

/* A connected socket or -errno. */
static int connect_in(struct sandbox_world *w, const char *addr, uint16_t port)
{
	struct egress_addr a;
	struct sockaddr_storage sa;

	cr_assert_eq(egress_addr_parse(addr, &a), 0);
	socklen_t len = egress_addr_to_sockaddr(&a, port, &sa);
	int fd = socket_in(w, sa.ss_family, SOCK_STREAM);
	if (connect(fd, (void *)&sa, len) == 0)
		return fd;
	int e = errno;
	close(fd);
	return -e;
}

/* True when a connection is reset (or refused) within a second. */
static bool is_refused(struct sandbox_world *w, const char *addr, uint16_t port)
{
	uint64_t start_ms = time_now_ms();
	int fd = connect_in(w, addr, port);
	char c;

	if (fd == -ECONNREFUSED || fd == -ECONNRESET)
		return time_now_ms() - start_ms < 1000;
	cr_assert(fd >= 0, "connect %s: %s", addr, strerror(-fd));
	ssize_t n = read(fd, &c, 1);
	bool reset = n < 0 && (errno == ECONNRESET || errno == ECONNREFUSED);
	close(fd);
	return reset && time_now_ms() - start_ms < 1000;
}

static bool echoes(struct sandbox_world *w, const char *addr, uint16_t port)
{
	int fd = connect_in(w, addr, port);
	char buf[6] = "";

	if (fd < 0)
		return false;
	bool ok = write(fd, "hello", 5) == 5 && fd_read_all(fd, buf, 5) == 0 && memcmp(buf, "hello", 5) == 0;
	close(fd);
	return ok;
}

/* -- DNS clients ------------------------------------------------------------------------------------------------- */
static size_t make_question(uint8_t *q, const char *name, uint16_t type)
{
	size_t pos = 12;

	memset(q, 0, 12);
	q[0] = 0x12, q[1] = 0x34, q[2] = 0x01, q[5] = 1;
	while (*name) {
		size_t n = strcspn(name, ".");
		q[pos++] = (uint8_t)n;
		memcpy(q + pos, name, n);
		pos += n;
		name += n + (name[n] == '.');
	}
	q[pos++] = 0;
	q[pos++] = (uint8_t)(type >> 8), q[pos++] = (uint8_t)type, q[pos++] = 0, q[pos++] = 1;
	return pos;
}

/* By UDP to addr; the answer's length, or -errno. The source of the answer must be the one that was asked. */
static ssize_t ask_udp(struct sandbox_world *w, const char *addr, const void *q, size_t q_len, uint8_t *ret, size_t cap)
{
	struct egress_addr a, from;
	struct sockaddr_storage sa, source;
	socklen_t source_len = sizeof(source);

	cr_assert_eq(egress_addr_parse(addr, &a), 0);
	socklen_t len = egress_addr_to_sockaddr(&a, 53, &sa);
	int fd = socket_in(w, sa.ss_family, SOCK_DGRAM);
	struct timeval limit = { .tv_sec = 7 };
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	ssize_t n = sendto(fd, q, q_len, 0, (void *)&sa, len);
	if (n >= 0)
		n = recvfrom(fd, ret, cap, 0, (void *)&source, &source_len);
	n = n < 0 ? -errno : n;
	close(fd);
	if (n >= 0) {
		cr_assert_eq(egress_addr_from_sockaddr((void *)&source, &from), 0);
		cr_assert(egress_addr_eq(&a, &from), "the answer came from elsewhere");
	}
	return n;
}

/* 0 with the first address of the answer, or a positive rcode, or -ENODATA for none. */
static int resolve(struct sandbox_world *w, const char *name, uint16_t type, struct egress_addr *ret)
{
	uint8_t q[300], reply[4096];
	size_t q_len = make_question(q, name, type);
	ssize_t n = -EAGAIN;

	/* As any resolver: a datagram may be lost where the machine is busy. */
	for (int i = 0; i < 3 && n == -EAGAIN; i++)
		n = ask_udp(w, STEER_NAMESERVER, q, q_len, reply, sizeof(reply));
	cr_assert(n >= (ssize_t)q_len, "no answer for %s: %zd", name, n);
	cr_assert(reply[0] == 0x12 && reply[1] == 0x34, "the identifier is not the asker's");
	if (reply[3] & 15)
		return reply[3] & 15;
	if (reply[7] == 0)
		return -ENODATA;
	return egress_addr_from_bytes(type == 1 ? 4 : 6, reply + q_len + 12, type == 1 ? 4 : 16, ret);
}
