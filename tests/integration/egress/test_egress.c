/* What leaves a sandbox, with the real openreward-egress and real net namespaces; see world.h. */
#include "world.h"

#include <sys/resource.h>

static char *no_arguments[] = { NULL };

static void world(char *const arguments[])
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

/* -- steering ---------------------------------------------------------------------------------------------------- */
Test(egress, public_addresses_are_reached_v4_and_v6)
{
	world(no_arguments);
	struct sandbox_world *w = make_sandbox("open", PLAN_NET_OPEN);
	cr_assert(echoes(w, WORLD_V4, PORT_ECHO));
	cr_assert(echoes(w, WORLD_V6, PORT_ECHO));
	cr_assert_eq(w->n_conns, 2);
	end_sandbox(w);
	stop_egress();
}

Test(egress, host_private_and_loopback_are_refused)
{
	const char *const refused[] = { HOST_V4,      PRIVATE_V4,         "169.254.169.254", "192.168.1.1",
					"172.17.0.1", "198.18.0.99",      "100.64.0.1",      "fd00::1",
					"fe80::1",    "64:ff9b::a01:203", "2002:a01:203::1" };

	world(no_arguments);
	struct sandbox_world *w = make_sandbox("open", PLAN_NET_OPEN);
	for (size_t i = 0; i < ARRAY_LEN(refused); i++) {
		if (strcmp(refused[i], "fe80::1") == 0)
			continue; /* needs an interface: judged in the unit test */
		cr_assert(is_refused(w, refused[i], PORT_ECHO), "%s", refused[i]);
	}
	cr_assert_eq(w->n_conns, ARRAY_LEN(refused) - 1, "all of them came to egress");
	end_sandbox(w);
	stop_egress();
}

Test(egress, rules_let_through_what_they_name_only)
{
	char *arguments[] = { "--allow", HOST_V4 ":7007", "--build-allow", PRIVATE_V4, NULL };

	world(arguments);
	struct sandbox_world *w = make_sandbox("open", PLAN_NET_OPEN), *b = make_sandbox("build", PLAN_NET_BUILD);
	cr_assert(echoes(w, HOST_V4, PORT_ECHO));
	cr_assert(is_refused(w, HOST_V4, PORT_SINK));
	cr_assert(is_refused(w, PRIVATE_V4, PORT_ECHO));
	cr_assert(echoes(b, HOST_V4, PORT_ECHO));
	cr_assert(echoes(b, PRIVATE_V4, PORT_ECHO));
	cr_assert(is_refused(b, "10.1.2.4", PORT_ECHO));
	end_sandbox(w);
	end_sandbox(b);
	stop_egress();
}

Test(egress, a_new_address_of_the_host_is_refused_at_once)
{
	struct netlink_batch b;

	world(no_arguments);
	struct sandbox_world *w = make_sandbox("open", PLAN_NET_OPEN);
	cr_assert(echoes(w, "8.8.8.9", PORT_ECHO));
	netlink_init(&b);
	put_address(&b, AF_INET, "8.8.8.9");
	cr_assert_eq(netlink_commit(&b, NETLINK_ROUTE, NULL), 0);
	usleep(50000);
	cr_assert(is_refused(w, "8.8.8.9", PORT_ECHO));
	end_sandbox(w);
	stop_egress();
}

Test(egress, own_addresses_are_not_steered)
{
	const char *const own[] = { "127.0.0.1", "127.9.9.9", NETNS_OWN_V4, "::1", NETNS_OWN_V6 };

	world(no_arguments);
	struct sandbox_world *w = make_sandbox("open", PLAN_NET_OPEN);
	enter(w->netns);
	int v4 = listen_on(AF_INET, "0.0.0.0", 80, SOCK_STREAM), v6 = listen_on(AF_INET6, "::", 80, SOCK_STREAM);
	enter(host_ns);
	for (size_t i = 0; i < ARRAY_LEN(own); i++) {
		int fd = connect_in(w, own[i], 80);
		cr_assert(fd >= 0, "%s: %s", own[i], strerror(-fd));
		int peer = accept(strchr(own[i], ':') ? v6 : v4, NULL, NULL);
		cr_assert(peer >= 0);
		close(peer);
		close(fd);
	}
	cr_assert_eq(connect_in(w, "127.0.0.1", 81), -ECONNREFUSED);
	cr_assert_eq(w->n_conns, 0);
	close(v4);
	close(v6);
	end_sandbox(w);
	stop_egress();
}

static int send_to(struct sandbox_world *w, int family, int type, int protocol, const char *addr, uint16_t port)
{
	struct egress_addr a;
	struct sockaddr_storage sa;
	const uint8_t echo[8] = { family == AF_INET ? 8 : 128 };
	char text[64];
	int on = 1;

	cr_assert_eq(egress_addr_parse(addr, &a), 0);
	socklen_t len = egress_addr_to_sockaddr(&a, port, &sa);
	enter(w->netns);
	int fd = socket(family, type | SOCK_CLOEXEC, protocol);
	enter(host_ns);
	cr_assert(fd >= 0, "%s", strerror(errno));
	setsockopt(fd, IPPROTO_IPV6, IPV6_RECVERR, &on, sizeof(on));
	ssize_t n = sendto(fd, echo, sizeof(echo), 0, (void *)&sa, len);
	int r = n < 0 ? -errno : 0;
	/* The kernel tells the senders of ICMPv6 by an error on the socket, as ping expects it. */
	if (r == 0 && protocol == IPPROTO_ICMPV6 && recv(fd, text, sizeof(text), MSG_DONTWAIT) < 0)
		r = -errno;
	close(fd);
	return r;
}

Test(egress, other_datagrams_fail_at_once)
{
	world(no_arguments);
	struct sandbox_world *w = make_sandbox("open", PLAN_NET_OPEN);
	uint64_t start_ms = time_now_ms();
	cr_assert_eq(send_to(w, AF_INET, SOCK_DGRAM, 0, WORLD_V4, 1234), -EPERM);
	cr_assert_eq(send_to(w, AF_INET6, SOCK_DGRAM, 0, WORLD_V6, 443), -EPERM);
	cr_assert_eq(send_to(w, AF_INET, SOCK_DGRAM, IPPROTO_ICMP, WORLD_V4, 0), -EPERM);
	cr_assert_eq(send_to(w, AF_INET6, SOCK_DGRAM, IPPROTO_ICMPV6, WORLD_V6, 0), -EACCES);
	cr_assert_eq(send_to(w, AF_INET, SOCK_DGRAM, 0, "224.0.0.251", 5353), -EPERM);
	cr_assert_eq(send_to(w, AF_INET, SOCK_DGRAM, IPPROTO_ICMP, "127.0.0.1", 0), 0, "a ping of itself goes out");
	cr_assert_lt(time_now_ms() - start_ms, 500);
	end_sandbox(w);
	stop_egress();
}

/* The namespace belongs to the initial user namespace, so all capabilities of another are nothing here. */
Test(egress, root_of_another_user_namespace_cannot_go_round)
{
	world(no_arguments);
	struct sandbox_world *w = make_sandbox("open", PLAN_NET_OPEN);
	fflush(NULL);
	pid_t pid = fork();
	if (pid == 0) {
		struct netlink_batch b;
		int bad = 0;
		enter(w->netns);
		/* As the spawner does it: the user namespace is created by the range's first id. */
		if (setresgid(100000, 100000, 100000) < 0 || setresuid(100000, 100000, 100000) < 0 ||
		    unshare(CLONE_NEWUSER) < 0)
			_exit(100);
		bad |= socket(AF_INET, SOCK_RAW, IPPROTO_ICMP) >= 0;
		bad |= (socket(AF_INET, SOCK_RAW, IPPROTO_RAW) >= 0) << 1;
		bad |= (socket(AF_PACKET, SOCK_RAW, 0) >= 0) << 2;
		bad |= (socket(AF_PACKET, SOCK_DGRAM, 0) >= 0) << 3;
		netlink_init(&b);
		put_address(&b, AF_INET, "8.8.8.8");
		bad |= (netlink_commit(&b, NETLINK_ROUTE, NULL) == 0) << 4;
		bad |= (set_rules(NULL) == 0) << 5;
		bad |= (set_sysctl("/proc/sys/net/ipv4/ip_unprivileged_port_start", "1024", NULL) == 0) << 6;
		_exit(bad);
	}
	int status = -1;
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "what succeeded: %#x", WEXITSTATUS(status));
	end_sandbox(w);
	stop_egress();
}

/* -- blocked ----------------------------------------------------------------------------------------------------- */
Test(egress, a_blocked_sandbox_reaches_nothing)
{
	char *arguments[] = { "--allow", HOST_V4, NULL };
	struct egress_addr a;

	world(arguments);
	struct sandbox_world *w = make_sandbox("blocked", PLAN_NET_BLOCKED);
	cr_assert(is_refused(w, WORLD_V4, PORT_ECHO));
	cr_assert(is_refused(w, WORLD_V6, PORT_ECHO));
	cr_assert(is_refused(w, HOST_V4, PORT_ECHO));
	cr_assert(is_refused(w, STEER_PLATFORM_V4, 80));
	cr_assert(is_refused(w, STEER_NAMESERVER, 53));
	cr_assert_eq(resolve(w, "world.test", 1, &a), 5, "REFUSED");
	cr_assert_eq(resolve(w, "openreward.internal", 1, &a), 5, "REFUSED");
	cr_assert_eq(n_udp_questions, 0);
	end_sandbox(w);
	stop_egress();
}

/* -- names ------------------------------------------------------------------------------------------------------- */
static bool is(const struct egress_addr *a, const char *text)
{
	struct egress_addr want;

	return egress_addr_parse(text, &want) == 0 && egress_addr_eq(a, &want);
}

Test(egress, names_are_forwarded)
{
	struct egress_addr a;

	world(no_arguments);
	struct sandbox_world *w = make_sandbox("open", PLAN_NET_OPEN);
	cr_assert_eq(resolve(w, "world.test", 1, &a), 0);
	cr_assert(is(&a, WORLD_V4));
	cr_assert_eq(resolve(w, "world.test", 28, &a), 0);
	cr_assert(is(&a, WORLD_V6));
	cr_assert_eq(resolve(w, "loud.test", 1, &a), 0, "letters' case does not matter");
	cr_assert_eq(resolve(w, "liar.test", 1, &a), 0);
	cr_assert(is(&a, WORLD_V4), "the answer with a wrong identifier was passed over");
	end_sandbox(w);
	stop_egress();
}

Test(egress, any_server_by_v4_and_v6_answers)
{
	uint8_t q[300], reply[4096];

	world(no_arguments);
	struct sandbox_world *w = make_sandbox("open", PLAN_NET_OPEN);
	size_t len = make_question(q, "world.test", 1);
	cr_assert_gt(ask_udp(w, "1.1.1.1", q, len, reply, sizeof(reply)), (ssize_t)len);
	cr_assert_gt(ask_udp(w, "2001:4860:4860::8888", q, len, reply, sizeof(reply)), (ssize_t)len);
	end_sandbox(w);
	stop_egress();
}

Test(egress, the_platforms_names_are_answered_here)
{
	const char *const names[] = { "openreward.internal", "api.openreward.internal",
				      "SESSIONS.OpenReward.internal" };
	struct egress_addr a;

	world(no_arguments);
	struct sandbox_world *w = make_sandbox("open", PLAN_NET_OPEN);
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		cr_assert_eq(resolve(w, names[i], 1, &a), 0, "%s", names[i]);
		cr_assert(is(&a, STEER_PLATFORM_V4));
		cr_assert_eq(resolve(w, names[i], 28, &a), -ENODATA);
	}
	cr_assert_eq(resolve(w, "other.openreward.internal", 1, &a), 3, "NXDOMAIN");
	cr_assert_eq(n_udp_questions, 0, "none of it was forwarded");
	end_sandbox(w);
	stop_egress();
}

Test(egress, a_lost_question_is_asked_again)
{
	struct egress_addr a;

	world(no_arguments);
	struct sandbox_world *w = make_sandbox("open", PLAN_NET_OPEN);
	cr_assert_eq(resolve(w, "mute.test", 1, &a), 0);
	cr_assert_eq(n_udp_questions, 2);
	end_sandbox(w);
	stop_egress();
}

Test(egress, no_name_server_gives_servfail_at_once)
{
	char *arguments[] = { "--resolver=" HOST_V4 ":9", NULL };
	struct egress_addr a;

	make_host();
	egress_pid = 0;
	start_egress(arguments);
	struct sandbox_world *w = make_sandbox("open", PLAN_NET_OPEN);
	uint64_t start_ms = time_now_ms();
	cr_assert_eq(resolve(w, "world.test", 1, &a), 2, "SERVFAIL");
	cr_assert_lt(time_now_ms() - start_ms, 1000, "nobody listens there, and that is seen at once");
	end_sandbox(w);
	stop_egress();
}

Test(egress, questions_of_one_sandbox_are_limited)
{
	char *arguments[] = { "--max-dns", "3", NULL };
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(53), .sin_addr.s_addr = htonl(0x01010101) };
	struct egress_addr a;
	uint8_t q[300];

	world(arguments);
	struct sandbox_world *w = make_sandbox("one", PLAN_NET_OPEN), *other = make_sandbox("two", PLAN_NET_OPEN);
	int fd = socket_in(w, AF_INET, SOCK_DGRAM);
	size_t len = make_question(q, "silent.test", 1);
	for (int i = 0; i < 3; i++)
		cr_assert_eq(sendto(fd, q, len, 0, (void *)&to, sizeof(to)), (ssize_t)len);
	uint64_t start_ms = time_now_ms();
	cr_assert_eq(resolve(w, "world.test", 1, &a), 2, "SERVFAIL");
	cr_assert_lt(time_now_ms() - start_ms, 2500);
	cr_assert_eq(resolve(other, "world.test", 1, &a), 0);
	usleep(6500000);
	cr_assert_eq(resolve(w, "world.test", 1, &a), 0, "those are over");
	close(fd);
	end_sandbox(w);
	end_sandbox(other);
	stop_egress();
}

static size_t ask_tcp(int fd, const uint8_t *q, size_t len, uint8_t *ret)
{
	uint8_t frame[2] = { 0, (uint8_t)len };

	cr_assert_eq(fd_write_all(fd, frame, 2), 0);
	cr_assert_eq(fd_write_all(fd, q, len), 0);
	cr_assert_eq(fd_read_all(fd, frame, 2), 0);
	size_t n = (size_t)frame[0] << 8 | frame[1];
	cr_assert_eq(fd_read_all(fd, ret, n), 0);
	return n;
}

Test(egress, large_answers_come_by_tcp)
{
	uint8_t q[300], reply[8192];

	world(no_arguments);
	struct sandbox_world *w = make_sandbox("open", PLAN_NET_OPEN);
	size_t len = make_question(q, "large.test", 1);
	cr_assert_eq(ask_udp(w, STEER_NAMESERVER, q, len, reply, sizeof(reply)), (ssize_t)len);
	cr_assert(reply[2] & 2, "truncated");
	int fd = connect_in(w, STEER_NAMESERVER, 53);
	cr_assert(fd >= 0);
	cr_assert_eq(ask_tcp(fd, q, len, reply), len + 200 * 16);
	cr_assert_eq(n_tcp_questions, 1);
	/* The same connection again, and two questions at once. */
	len = make_question(q, "world.test", 1);
	cr_assert_eq(ask_tcp(fd, q, len, reply), len + 16);
	uint8_t two[600];
	for (int i = 0; i < 2; i++) {
		two[i * (len + 2)] = 0;
		two[i * (len + 2) + 1] = (uint8_t)len;
		memcpy(two + i * (len + 2) + 2, q, len);
	}
	cr_assert_eq(fd_write_all(fd, two, 2 * (len + 2)), 0);
	cr_assert_eq(fd_read_all(fd, reply, 2 * (2 + len + 16)), 0);
	cr_assert_eq(shutdown(fd, SHUT_WR), 0);
	cr_assert_eq(read(fd, reply, 1), 0, "closed in order");
	close(fd);
	end_sandbox(w);
	stop_egress();
}

Test(egress, an_allowed_name_pins_its_addresses_for_its_sandbox)
{
	char *arguments[] = { "--allow", "private.test:7007", NULL };
	struct egress_addr a;

	world(arguments);
	struct sandbox_world *w = make_sandbox("one", PLAN_NET_OPEN), *other = make_sandbox("two", PLAN_NET_OPEN);
	cr_assert(is_refused(w, PRIVATE_V4, PORT_ECHO), "not before the name was resolved");
	cr_assert_eq(resolve(w, "private.test", 1, &a), 0);
	cr_assert(is(&a, PRIVATE_V4));
	cr_assert(echoes(w, PRIVATE_V4, PORT_ECHO));
	cr_assert(is_refused(w, PRIVATE_V4, PORT_SINK), "the rule has a port");
	cr_assert(is_refused(other, PRIVATE_V4, PORT_ECHO), "the other sandbox has not asked");
	cr_assert_eq(resolve(other, "private.other.test", 1, &a), 0);
	cr_assert(is_refused(other, PRIVATE_V4, PORT_ECHO), "no rule has that name");
	end_sandbox(w);
	end_sandbox(other);
	stop_egress();
}

Test(egress, malformed_questions_get_formerr_or_nothing)
{
	uint8_t q[300], reply[4096];

	world(no_arguments);
	struct sandbox_world *w = make_sandbox("open", PLAN_NET_OPEN);
	size_t len = make_question(q, "world.test", 1);
	cr_assert_eq(ask_udp(w, STEER_NAMESERVER, q, len - 3, reply, sizeof(reply)), 12);
	cr_assert_eq(reply[3] & 15, 1, "FORMERR");
	q[2] = 0x28; /* another operation */
	cr_assert_eq(ask_udp(w, STEER_NAMESERVER, q, len, reply, sizeof(reply)), 12);
	cr_assert_eq(reply[3] & 15, 4, "NOTIMP");
	/* Noise, then a right one: still there. */
	int fd = socket_in(w, AF_INET, SOCK_DGRAM);
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(53), .sin_addr.s_addr = htonl(0x01010101) };
	for (int i = 0; i < 2000; i++) {
		uint8_t noise[64];
		random_bytes(noise, sizeof(noise));
		sendto(fd, noise, (size_t)i % sizeof(noise), 0, (void *)&to, sizeof(to));
	}
	close(fd);
	struct egress_addr a;
	cr_assert_eq(resolve(w, "world.test", 1, &a), 0);
	end_sandbox(w);
	stop_egress();
}

/* -- bytes ------------------------------------------------------------------------------------------------------- */
#define BULK_BYTES (200u << 20)

static double download(int fd)
{
	static uint8_t buf[1 << 18], want[1 << 18];
	char text[32];
	uint64_t at = 0, start_us = time_now_us();
	ssize_t n;

	snprintf(text, sizeof(text), "%u\n", BULK_BYTES);
	cr_assert_eq(fd_write_all(fd, text, strlen(text)), 0);
	while ((n = read(fd, buf, sizeof(buf))) > 0) {
		fill_pattern(want, (size_t)n, at);
		cr_assert_eq(memcmp(buf, want, (size_t)n), 0, "near byte %llu", (unsigned long long)at);
		at += (uint64_t)n;
	}
	cr_assert_eq(at, BULK_BYTES);
	close(fd);
	return (double)BULK_BYTES / (double)(time_now_us() - start_us);
}

static double upload(int fd)
{
	static uint8_t buf[1 << 18];
	char text[64] = "", want[64];
	uint64_t start_us = time_now_us();

	for (uint64_t at = 0; at < BULK_BYTES; at += sizeof(buf)) {
		fill_pattern(buf, sizeof(buf), at);
		cr_assert_eq(fd_write_all(fd, buf, sizeof(buf)), 0);
	}
	/* The half-close goes through, and the answer comes back after it. */
	cr_assert_eq(shutdown(fd, SHUT_WR), 0);
	ssize_t n = read(fd, text, sizeof(text) - 1);
	snprintf(want, sizeof(want), "%u 0\n", BULK_BYTES);
	cr_assert(n > 0 && strcmp(text, want) == 0, "'%s'", text);
	cr_assert_eq(read(fd, text, 1), 0);
	close(fd);
	return (double)BULK_BYTES / (double)(time_now_us() - start_us);
}

static int connect_direct(const char *addr, uint16_t port)
{
	struct sandbox_world here = { .netns = host_ns };

	return connect_in(&here, addr, port);
}

Test(egress, bulk_arrives_whole_both_ways, .timeout = 120)
{
	world(no_arguments);
	struct sandbox_world *w = make_sandbox("open", PLAN_NET_OPEN);
	double direct = download(connect_direct(WORLD_V4, PORT_SOURCE)),
	       down = download(connect_in(w, WORLD_V4, PORT_SOURCE));
	double up_direct = upload(connect_direct(WORLD_V4, PORT_SINK)), up = upload(connect_in(w, WORLD_V6, PORT_SINK));
	fprintf(stderr,
		"egress: 200 MiB down %.0f MB/s (direct %.0f), up %.0f MB/s (direct %.0f), both checked byte by byte\n",
		down, direct, up, up_direct);
	end_sandbox(w);
	stop_egress();
}

/* A receiver that does not read must stop the sender, not fill egress. */
/* 0 with AddressSanitizer, which keeps freed memory for a while: its figure says nothing. */
static unsigned long egress_kib(void)
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

Test(egress, a_slow_receiver_holds_the_sender)
{
	static uint8_t buf[1 << 18];
	uint64_t at = 0;

	world(no_arguments);
	struct sandbox_world *w = make_sandbox("open", PLAN_NET_OPEN);
	int fd = connect_in(w, WORLD_V4, PORT_ECHO);
	cr_assert(fd >= 0);
	unsigned long before = egress_kib();
	/* The echo is not read, so all buffers on the way fill and the writer stops. */
	for (;;) {
		fill_pattern(buf, sizeof(buf), at);
		ssize_t n = send(fd, buf, sizeof(buf), MSG_DONTWAIT);
		if (n < 0) {
			struct pollfd p = { fd, POLLOUT, 0 };
			if (poll(&p, 1, 500) == 0)
				break;
			continue;
		}
		at += (uint64_t)n;
		cr_assert_lt(at, 512u << 20, "nobody stopped the sender");
	}
	cr_assert_lt(egress_kib(), before + 4096, "egress keeps %lu KiB more", egress_kib() - before);
	cr_assert_eq(shutdown(fd, SHUT_WR), 0);
	static uint8_t want[1 << 18];
	uint64_t got = 0;
	ssize_t n;
	while ((n = read(fd, buf, sizeof(buf))) > 0) {
		fill_pattern(want, (size_t)n, got);
		cr_assert_eq(memcmp(buf, want, (size_t)n), 0);
		got += (uint64_t)n;
	}
	cr_assert_eq(got, at);
	close(fd);
	end_sandbox(w);
	stop_egress();
}

Test(egress, a_refused_dial_resets)
{
	world(no_arguments);
	struct sandbox_world *w = make_sandbox("open", PLAN_NET_OPEN);
	cr_assert(is_refused(w, WORLD_V4, 1), "nobody listens on port 1");
	cr_assert(is_refused(w, "9.9.9.9", 80), "no route");
	end_sandbox(w);
	stop_egress();
}

static int accepted(int listener)
{
	struct pollfd p = { listener, POLLIN, 0 };

	cr_assert_eq(poll(&p, 1, 5000), 1);
	return accept4(listener, NULL, NULL, SOCK_CLOEXEC);
}

Test(egress, resets_pass_both_ways)
{
	char c;

	world(no_arguments);
	struct sandbox_world *w = make_sandbox("open", PLAN_NET_OPEN);
	int listener = listen_on(AF_INET, "0.0.0.0", 7100, SOCK_STREAM);
	for (int server_resets = 0; server_resets < 2; server_resets++) {
		int fd = connect_in(w, WORLD_V4, 7100), server = accepted(listener);
		cr_assert(write(fd, "x", 1) == 1 && read(server, &c, 1) == 1);
		int *first = server_resets ? &server : &fd, *second = server_resets ? &fd : &server;
		struct linger now = { 1, 0 };
		setsockopt(*first, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
		close(*first);
		cr_assert_eq(read(*second, &c, 1), -1);
		cr_assert_eq(errno, ECONNRESET);
		close(*second);
	}
	close(listener);
	end_sandbox(w);
	stop_egress();
}

/* The server ends first and the client goes on sending: the other half of the half-close. */
Test(egress, the_servers_half_close_passes)
{
	char text[16];

	world(no_arguments);
	struct sandbox_world *w = make_sandbox("open", PLAN_NET_OPEN);
	int listener = listen_on(AF_INET, "0.0.0.0", 7100, SOCK_STREAM);
	int fd = connect_in(w, WORLD_V4, 7100), server = accepted(listener);
	cr_assert(write(server, "bye", 3) == 3 && shutdown(server, SHUT_WR) == 0);
	cr_assert_eq(fd_read_all(fd, text, 3), 0);
	cr_assert_eq(read(fd, text, 1), 0);
	cr_assert_eq(fd_write_all(fd, "after", 5), 0);
	cr_assert_eq(fd_read_all(server, text, 5), 0);
	cr_assert_eq(memcmp(text, "after", 5), 0);
	close(fd);
	cr_assert_eq(read(server, text, 1), 0);
	close(server);
	close(listener);
	end_sandbox(w);
	stop_egress();
}

Test(egress, a_dial_that_nobody_answers_ends)
{
	char *arguments[] = { "--dial-timeout-ms", "400", NULL };
	int fds[4];
	char c;

	world(arguments);
	struct sandbox_world *w = make_sandbox("open", PLAN_NET_OPEN);
	int listener = listen_on(AF_INET, "0.0.0.0", 7100, SOCK_STREAM);
	cr_assert_eq(listen(listener, 0), 0);
	/* The queue of one is full with the first; the kernel drops the SYNs of the others. */
	for (int i = 0; i < 4; i++)
		fds[i] = connect_in(w, WORLD_V4, 7100);
	uint64_t start_ms = time_now_ms();
	cr_assert_eq(read(fds[3], &c, 1), -1);
	cr_assert_eq(errno, ECONNRESET);
	cr_assert_lt(time_now_ms() - start_ms, 3000);
	for (int i = 0; i < 4; i++)
		close(fds[i]);
	close(listener);
	end_sandbox(w);
	stop_egress();
}

/* Accepted sockets would keep the net namespace. */
Test(egress, the_end_of_init_resets_its_connections)
{
	char c;

	world(no_arguments);
	struct sandbox_world *w = make_sandbox("open", PLAN_NET_OPEN);
	int fd = connect_in(w, WORLD_V4, PORT_ECHO);
	cr_assert(fd >= 0 && write(fd, "x", 1) == 1 && read(fd, &c, 1) == 1);
	end_sandbox(w);
	cr_assert_eq(read(fd, &c, 1), -1);
	cr_assert_eq(errno, ECONNRESET);
	close(fd);
	stop_egress();
}

/* -- platform and audit ------------------------------------------------------------------------------------------ */
static enum wire_type receive(struct wire_in *in, char *buf, int *fd)
{
	size_t len = 0, n_fds = 0;
	struct timeval limit = { .tv_sec = 5 };

	setsockopt(daemon_end, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	*fd = -1;
	int r = fd_recv(daemon_end, buf, 4096, &len, fd, 1, &n_fds);
	cr_assert(r == 0 && len > 0, "nothing came to the daemon: %s", strerror(-r));
	cr_assert_eq(wire_parse(in, buf, len), 0);
	return in->type;
}

Test(egress, platform_connections_and_denials_go_to_the_daemon)
{
	char buf[4096] __attribute__((aligned(8))), text[8] = "";
	struct wire_in in;
	int server;

	world(no_arguments);
	struct sandbox_world *w = make_sandbox("the-id", PLAN_NET_OPEN);
	int fd = connect_in(w, STEER_PLATFORM_V4, 8443);
	cr_assert(fd >= 0);
	cr_assert_eq(receive(&in, buf, &server), WIRE_PLATFORM);
	cr_assert_str_eq(wire_get_str(&in, WIRE_T_ID, 0), "the-id");
	cr_assert_eq(wire_get_u64(&in, WIRE_T_NUMBER, 0), 42);
	cr_assert_eq(wire_get_u64(&in, WIRE_T_PORT, 0), 8443);
	cr_assert(write(fd, "ping", 4) == 4 && read(server, text, sizeof(text)) == 4);
	cr_assert(write(server, "pong", 4) == 4 && read(fd, text, sizeof(text)) == 4 && memcmp(text, "pong", 4) == 0);
	close(server);
	cr_assert_eq(read(fd, text, 1), 0, "egress holds no copy of it");
	close(fd);

	cr_assert(is_refused(w, PRIVATE_V4, 80));
	cr_assert_eq(receive(&in, buf, &server), WIRE_DENIED);
	cr_assert_str_eq(wire_get_str(&in, WIRE_T_ID, 0), "the-id");
	cr_assert_str_eq(wire_get_str(&in, WIRE_T_TEXT, 0), "10.1.2.3:80 private range 10.0.0.0/8");
	end_sandbox(w);
	stop_egress();
}

Test(egress, a_daemon_that_takes_nothing_blocks_nothing)
{
	world(no_arguments);
	struct sandbox_world *w = make_sandbox("open", PLAN_NET_OPEN);
	int fds[600], n = 0;
	/* Its socket fills, and then connections are reset. */
	while (n < 600 && (n == 0 || !(poll(&(struct pollfd){ fds[n - 1], POLLIN, 0 }, 1, 20) > 0)))
		fds[n] = connect_in(w, STEER_PLATFORM_V4, 80), n++;
	cr_assert_lt(n, 600);
	cr_assert(echoes(w, WORLD_V4, PORT_ECHO), "the world is still there");
	while (n > 0)
		close(fds[--n]);
	end_sandbox(w);
	stop_egress();
}

/* -- limits ------------------------------------------------------------------------------------------------------ */
Test(egress, connections_of_one_sandbox_are_limited)
{
	char *arguments[] = { "--max-connections", "20", NULL };
	int fds[20];
	char c;

	world(arguments);
	struct sandbox_world *w = make_sandbox("one", PLAN_NET_OPEN), *other = make_sandbox("two", PLAN_NET_OPEN);
	for (int i = 0; i < 20; i++) {
		fds[i] = connect_in(w, WORLD_V4, PORT_ECHO);
		cr_assert(write(fds[i], "x", 1) == 1 && read(fds[i], &c, 1) == 1);
	}
	cr_assert(is_refused(w, WORLD_V4, PORT_ECHO));
	cr_assert(echoes(other, WORLD_V4, PORT_ECHO));
	close(fds[0]);
	usleep(50000);
	cr_assert(echoes(w, WORLD_V4, PORT_ECHO), "one ended, so one more may come");
	for (int i = 1; i < 20; i++)
		close(fds[i]);
	end_sandbox(w);
	end_sandbox(other);
	stop_egress();
}

static unsigned long egress_cpu_ticks(void)
{
	char path[64];
	struct buf b;
	unsigned long user = 0, sys = 0;

	snprintf(path, sizeof(path), "/proc/%d/stat", egress_pid);
	buf_init(&b, 65536);
	cr_assert_eq(fd_read_file(path, &b, NULL), 0);
	cr_assert_eq(sscanf(strrchr(b.data, ')'), ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &sys),
		     2);
	buf_done(&b);
	return user + sys;
}

Test(egress, without_descriptors_new_connections_are_reset)
{
	struct rlimit few = { 200, 200 };
	int fds[200], n = 0;
	char c;

	signal(SIGPIPE, SIG_IGN);
	make_host();
	start_servers();
	/* The budget is read at the start. */
	fflush(NULL);
	int s[2], d[2];
	cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, s), 0);
	cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, d), 0);
	egress_pid = fork();
	if (egress_pid == 0) {
		setrlimit(RLIMIT_NOFILE, &few);
		exec_egress(s[1], d[1], no_arguments);
	}
	close(s[1]);
	close(d[1]);
	spawner_end = s[0];
	struct sandbox_world *w = make_sandbox("one", PLAN_NET_OPEN);
	do {
		fds[n] = connect_in(w, WORLD_V4, PORT_ECHO);
		cr_assert(fds[n] >= 0);
	} while (write(fds[n], "x", 1) == 1 && read(fds[n], &c, 1) == 1 && ++n < 200);
	cr_assert(n > 50 && n < 100, "%d connections", n);
	unsigned long before = egress_cpu_ticks();
	for (int i = 0; i < 5; i++)
		cr_assert(is_refused(w, WORLD_V4, PORT_ECHO));
	usleep(300000);
	cr_assert_leq(egress_cpu_ticks() - before, 5, "it spins");
	for (int i = 0; i <= n; i++)
		close(fds[i]);
	usleep(100000);
	cr_assert(echoes(w, WORLD_V4, PORT_ECHO), "it recovers");
	end_sandbox(w);
	stop_egress();
}

Test(egress, a_thousand_idle_sandboxes_cost_a_descriptor_each, .timeout = 60)
{
	int channels[1000];

	world(no_arguments);
	struct sandbox_world *w = make_sandbox("busy", PLAN_NET_OPEN);
	cr_assert(echoes(w, WORLD_V4, PORT_ECHO));
	unsigned long before = egress_kib();
	for (int i = 0; i < 1000; i++)
		channels[i] = register_sandbox("idle", (uint64_t)i, PLAN_NET_OPEN);
	cr_assert(echoes(w, WORLD_V4, PORT_ECHO), "all were taken in before this");
	unsigned long kib = egress_kib() - before;
	fprintf(stderr, "egress: 1000 idle sandboxes: %lu KiB more\n", kib);
	cr_assert_lt(kib, 1500);
	unsigned long ticks = egress_cpu_ticks();
	usleep(300000);
	cr_assert_leq(egress_cpu_ticks() - ticks, 2);
	for (int i = 0; i < 1000; i++)
		close(channels[i]);
	end_sandbox(w);
	stop_egress();
}

static int by_size(const void *a, const void *b)
{
	return *(const uint32_t *)a < *(const uint32_t *)b ? -1 : *(const uint32_t *)a > *(const uint32_t *)b;
}

/* Connect and one byte there and back. */
static uint32_t round_trip_us(struct sandbox_world *w, uint32_t *samples, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		uint64_t start_us = time_now_us();
		char c;
		int fd = connect_in(w, WORLD_V4, PORT_ECHO);
		cr_assert(fd >= 0 && write(fd, "x", 1) == 1 && read(fd, &c, 1) == 1);
		samples[i] = (uint32_t)(time_now_us() - start_us);
		close(fd);
	}
	qsort(samples, n, sizeof(*samples), by_size);
	return samples[n / 2];
}

Test(egress, latency_of_a_connection, .timeout = 60)
{
	uint32_t samples[500];
	struct err err = ERR_INIT;

	world(no_arguments);
	struct sandbox_world *w = make_sandbox("open", PLAN_NET_OPEN), here = { .netns = host_ns };
	uint32_t direct = round_trip_us(&here, samples, 500), steered = round_trip_us(w, samples, 500);
	uint32_t p99 = samples[495];
	for (int i = 0; i < 200; i++) {
		int fd;
		uint64_t start_us = time_now_us();
		cr_assert_eq(netns_create(&fd, &err), 0, "%s", err.msg);
		samples[i] = (uint32_t)(time_now_us() - start_us);
		close(fd);
	}
	qsort(samples, 200, sizeof(*samples), by_size);
	fprintf(stderr,
		"egress: connect and one byte there and back p50 %u us (p99 %u), direct %u us; netns_create p50 %u us, "
		"p99 %u us\n",
		steered, p99, direct, samples[100], samples[198]);
	cr_assert_lt(steered, 20000);
	end_sandbox(w);
	stop_egress();
}
