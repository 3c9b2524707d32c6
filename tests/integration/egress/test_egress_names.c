/* DNS of a sandbox: what egress forwards, answers itself, and pins; see world.h. */
#include "world.h"

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

/* As when the first of resolv.conf knows the names of a company only. */
Test(egress, what_one_server_refuses_the_next_is_asked)
{
	char *arguments[] = { "--resolver", HOST_V4 ":5353", NULL };
	struct egress_addr a;

	world(arguments);
	struct sandbox_world *w = make_sandbox("open", PLAN_NET_OPEN);
	cr_assert_eq(resolve(w, "shy.test", 1, &a), 0);
	cr_assert_eq(n_udp_questions, 2);
	cr_assert_eq(resolve(w, "never.test", 1, &a), 5, "REFUSED, as the last one said");
	cr_assert_eq(n_udp_questions, 4);
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
	usleep(6000000);
	int r = resolve(w, "world.test", 1, &a);
	for (int i = 0; i < 100 && r != 0; i++) {
		usleep(50000);
		r = resolve(w, "world.test", 1, &a);
	}
	cr_assert_eq(r, 0, "those are over");
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
