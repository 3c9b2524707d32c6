/* The "host" of world.h, which includes this and says what it is: its net namespace and the servers of the world. */
#pragma once

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <criterion/criterion.h>

#include "base/fd.h"
#include "egress/addr.h"
/* The static spawner's sources; no library that integration tests link has them. */
#include "spawner/netlink.c"
#include "spawner/netns.c"

#define HOST_V4 "203.0.113.5"
#define WORLD_V4 "8.8.8.8"
#define WORLD_V6 "2606:4700::1"
#define PRIVATE_V4 "10.1.2.3"
enum { PORT_ECHO = 7007, PORT_SINK = 7009, PORT_SOURCE = 7019, PORT_NAMES = 5353 };

static int host_ns = -1;

/* -- the host ---------------------------------------------------------------------------------------------------- */
static inline void add_local_route(struct netlink_batch *b, int family, const char *net, unsigned bits)
{
	uint8_t addr[16];
	struct rtmsg m = { .rtm_family = (uint8_t)family, .rtm_dst_len = (uint8_t)bits, .rtm_table = RT_TABLE_LOCAL,
			   .rtm_protocol = RTPROT_STATIC, .rtm_scope = RT_SCOPE_HOST, .rtm_type = RTN_LOCAL };

	inet_pton(family, net, addr);
	netlink_msg(b, RTM_NEWROUTE, NLM_F_ACK | NLM_F_CREATE, &m, sizeof(m), net);
	netlink_put(b, RTA_DST, addr, family == AF_INET ? 4 : 16);
	netlink_put_u32(b, RTA_OIF, LOOPBACK_INDEX);
}

static inline void make_host(void)
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
static inline int listen_on(int family, const char *addr, uint16_t port, int type)
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
static inline void fill_pattern(uint8_t *p, size_t len, uint64_t at)
{
	for (size_t i = 0; i < len; i++, at++)
		p[i] = (uint8_t)(at * 2654435761u >> 13);
}

static inline void serve_echo(int fd)
{
	char buf[65536];
	ssize_t n;

	while ((n = read(fd, buf, sizeof(buf))) > 0)
		if (fd_write_all(fd, buf, (size_t)n) < 0)
			return;
}

/* Counts to the end of the stream, then says "COUNT BAD\n", where BAD are bytes that differ from the pattern. */
static inline void serve_sink(int fd)
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
static inline void serve_source(int fd)
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

static inline void *serve_one(void *arg)
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

static inline void *accept_all(void *arg)
{
	int fd, listener = (int)(intptr_t)arg;
	pthread_t t;

	while ((fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
		pthread_create(&t, NULL, serve_one, (void *)(intptr_t)fd);
		pthread_detach(t);
	}
	return NULL;
}

static inline void start_servers(void)
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
 * question is lost), "silent" (all are), "shy" (the first is refused), "never" (all are), "liar" (a wrong identifier comes first), "loud" (upper case). */
static inline size_t make_answer(const uint8_t *q, size_t len, uint8_t *out, bool tcp)
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

static inline void *name_server_udp(void *arg)
{
	int fd = (int)(intptr_t)arg;
	uint8_t q[1500], out[8192];
	struct sockaddr_storage from;
	unsigned n_mute = 0, n_shy = 0;

	for (;;) {
		socklen_t from_len = sizeof(from);
		ssize_t n = recvfrom(fd, q, sizeof(q), 0, (void *)&from, &from_len);
		if (n < 17)
			return NULL;
		n_udp_questions++;
		if (memcmp(q + 13, "silent", 6) == 0 || (memcmp(q + 13, "mute", 4) == 0 && n_mute++ == 0))
			continue;
		size_t len = make_answer(q, (size_t)n, out, false);
		if (memcmp(q + 13, "never", 5) == 0 || (memcmp(q + 13, "shy", 3) == 0 && n_shy++ == 0)) {
			out[3] |= 5, out[7] = 0; /* REFUSED, no records */
			len = (size_t)n;
		}
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

static inline void *name_server_tcp(void *arg)
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

static inline void start_name_server(void)
{
	pthread_t t;

	pthread_create(&t, NULL, name_server_udp,
		       (void *)(intptr_t)listen_on(AF_INET, HOST_V4, PORT_NAMES, SOCK_DGRAM));
	pthread_detach(t);
	pthread_create(&t, NULL, name_server_tcp,
		       (void *)(intptr_t)listen_on(AF_INET, HOST_V4, PORT_NAMES, SOCK_STREAM));
	pthread_detach(t);
}
