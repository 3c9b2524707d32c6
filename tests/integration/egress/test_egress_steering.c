/* Where connections and datagrams of a sandbox go, and what is refused; see world.h. */
#include "world.h"

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
	for (int i = 0; i < 100 && echoes(w, "8.8.8.9", PORT_ECHO); i++)
		usleep(10000);
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
		bad |= (set_sysctl(AT_FDCWD, "/proc/sys/net/ipv4/ip_unprivileged_port_start", "1024", NULL) == 0) << 6;
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
