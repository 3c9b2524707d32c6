/* A small world for the tests of egress, in namespaces of their own:
 *
 *   "host"     the test process's net namespace, made new: loopback only, with one address of its own (HOST_V4), and
 *              routes that make 8.8.8.0/24, 10.1.0.0/16 and 2606:4700::/32 answer here without being addresses of the
 *              host: the world and a private range. Servers listen there: PORT_ECHO, PORT_SINK, PORT_SOURCE, and a
 *              name server.
 *   sandboxes  made by netns_create(); a thread holds the steering listeners and passes on what arrives, as init does.
 *   egress     the real program, as an ordinary user, in the "host" namespace. */
#pragma once

#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "base/random.h"
#include "base/time.h"
#include "init/boot.h"
#include "sandbox/plan.h"
#include "sandbox/wire.h"

#include "host.h"

struct sandbox_world {
	int netns, listeners[2], names[2]; /* v4, v6 */
	int channel;                       /* init's end */
	pthread_t holder;
	atomic_bool stop;
	_Atomic unsigned n_conns;
	atomic_bool keeps; /* a copy of the next connection that is passed on, in kept */
	_Atomic int kept;
};

static int spawner_end = -1, daemon_end = -1;
static pid_t egress_pid;

/* -- egress ------------------------------------------------------------------------------------------------------ */
static inline void exec_egress(int spawner, int daemon, char *const extra[])
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

static inline void start_egress(char *const extra[])
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
static inline void stop_egress(void)
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

/* Its memory. 0 with AddressSanitizer, which keeps freed memory for a while: its figure says nothing. */
static inline unsigned long egress_kib(void)
{
#ifdef __SANITIZE_ADDRESS__
	return 0;
#endif
	char path[64];
	struct buf b;
	unsigned long kib = 0;

	snprintf(path, sizeof(path), "/proc/%d/status", egress_pid);
	buf_init(&b, 65536);
	cr_assert_eq(fd_read_file(path, &b, NULL), 0);
	const char *p = strstr(b.data, "VmRSS:");
	if (p)
		kib = strtoul(p + 6, NULL, 10);
	buf_done(&b);
	return kib;
}

/* -- sandboxes --------------------------------------------------------------------------------------------------- */
static inline void pass_connection(struct sandbox_world *w, int listener, bool v6)
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
		if (w->keeps)
			w->kept = fcntl(fd, F_DUPFD_CLOEXEC, 0);
		w->keeps = false;
	}
	close(fd);
}

/* The token: which listener, and the client's address. */
static inline void pass_question(struct sandbox_world *w, int i)
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

static inline void pass_answer(struct sandbox_world *w)
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

static inline void *hold(void *arg)
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
static inline int register_sandbox(const char *id, uint64_t number, enum plan_net net)
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

static inline void enter(int ns)
{
	cr_assert_eq(setns(ns, CLONE_NEWNET), 0);
}

static inline struct sandbox_world *make_sandbox(const char *id, enum plan_net net)
{
	struct sandbox_world *w = calloc(1, sizeof(*w));
	struct err err = ERR_INIT;

	cr_assert_eq(netns_create(-1, &w->netns, &err), 0, "%s", err.msg);
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
static inline void end_sandbox(struct sandbox_world *w)
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
static inline int socket_in(struct sandbox_world *w, int family, int type)
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
static inline int connect_in(struct sandbox_world *w, const char *addr, uint16_t port)
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
static inline bool is_refused(struct sandbox_world *w, const char *addr, uint16_t port)
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

static inline bool echoes(struct sandbox_world *w, const char *addr, uint16_t port)
{
	int fd = connect_in(w, addr, port);
	char buf[6] = "";

	if (fd < 0)
		return false;
	bool ok = write(fd, "hello", 5) == 5 && fd_read_all(fd, buf, 5) == 0 && memcmp(buf, "hello", 5) == 0;
	close(fd);
	return ok;
}

/* What was closed or ended a moment ago makes room when egress comes to it. */
static inline bool echoes_soon(struct sandbox_world *w, const char *addr, uint16_t port)
{
	for (int i = 0; i < 200; i++) {
		if (echoes(w, addr, port))
			return true;
		usleep(50000);
	}
	return false;
}

/* -- DNS clients ------------------------------------------------------------------------------------------------- */
static inline size_t make_question(uint8_t *q, const char *name, uint16_t type)
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
static inline ssize_t ask_udp(struct sandbox_world *w, const char *addr, const void *q, size_t q_len, uint8_t *ret, size_t cap)
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
static inline int resolve(struct sandbox_world *w, const char *name, uint16_t type, struct egress_addr *ret)
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

/* -- all of it --------------------------------------------------------------------------------------------------- */
static char *no_arguments[] = { NULL };

static inline void world(char *const arguments[])
{
	struct rlimit l;

	signal(SIGPIPE, SIG_IGN);
	if (getrlimit(RLIMIT_NOFILE, &l) == 0) {
		l.rlim_cur = l.rlim_max;
		setrlimit(RLIMIT_NOFILE, &l);
	}
	make_host();
	start_servers();
	start_name_server();
	start_egress(arguments);
}
