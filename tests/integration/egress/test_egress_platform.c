/* What egress hands or tells to the daemon; see world.h. */
#include "world.h"

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
