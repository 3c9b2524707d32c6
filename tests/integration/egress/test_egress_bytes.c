/* What flows through a connection, and how it ends; see world.h. */
#include "world.h"

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

/* What came before a reset is the peer's, as without egress: an early answer to a long body, say. egress finds both at once. */
Test(egress, what_came_before_a_reset_passes)
{
	static uint8_t buf[65536], got[65536];
	char c;

	world(no_arguments);
	struct sandbox_world *w = make_sandbox("open", PLAN_NET_OPEN);
	int listener = listen_on(AF_INET, "0.0.0.0", 7100, SOCK_STREAM);
	fill_pattern(buf, sizeof(buf), 0);
	for (int round = 0; round < 4; round++) {
		int fd = connect_in(w, WORLD_V4, 7100), server = accepted(listener);
		int first = round % 2 ? server : fd, second = round % 2 ? fd : server;
		cr_assert(write(fd, "x", 1) == 1 && read(server, &c, 1) == 1);
		cr_assert_eq(write(second, "unread", 6), 6);
		while (recv(first, got, 6, MSG_PEEK | MSG_DONTWAIT) != 6)
			usleep(1000);
		cr_assert_eq(kill(egress_pid, SIGSTOP), 0);
		cr_assert_eq(fd_write_all(first, buf, sizeof(buf)), 0);
		if (round >= 2)
			cr_assert_eq(write(second, "more", 4), 4);
		close(first);
		usleep(50000);
		cr_assert_eq(kill(egress_pid, SIGCONT), 0);
		cr_assert_eq(fd_read_all(second, got, sizeof(got)), 0, "round %d", round);
		cr_assert_eq(memcmp(got, buf, sizeof(got)), 0);
		cr_assert_eq(read(second, &c, 1), -1, "a connection that was broken off looks whole");
		cr_assert_eq(errno, ECONNRESET);
		close(second);
	}
	close(listener);
	end_sandbox(w);
	stop_egress();
}

/* The answer is whole, with its end, when the server refuses what still comes. */
Test(egress, a_slow_reader_has_the_whole_answer_of_who_hears_no_more)
{
	static uint8_t buf[200000], got[200000];
	int small = 4096;
	char c;

	world(no_arguments);
	struct sandbox_world *w = make_sandbox("open", PLAN_NET_OPEN);
	int listener = listen_on(AF_INET, "0.0.0.0", 7100, SOCK_STREAM);
	int fd = connect_in(w, WORLD_V4, 7100), server = accepted(listener);
	cr_assert_eq(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small)), 0);
	fill_pattern(buf, sizeof(buf), 0);
	cr_assert_eq(fd_write_all(server, buf, sizeof(buf)), 0);
	close(server);
	usleep(200000);
	for (int i = 0; i < 5; i++) {
		cr_assert_eq(write(fd, "still sending", 13), 13);
		usleep(50000);
	}
	cr_assert_eq(fd_read_all(fd, got, sizeof(got)), 0);
	cr_assert_eq(memcmp(got, buf, sizeof(got)), 0);
	cr_assert_eq(read(fd, &c, 1), 0);
	close(fd);
	cr_assert(echoes(w, WORLD_V4, PORT_ECHO));
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
