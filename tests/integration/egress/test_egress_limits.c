/* What one sandbox, and egress as a whole, may take; see world.h. */
#include "world.h"

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
	cr_assert(echoes_soon(w, WORLD_V4, PORT_ECHO), "one ended, so one more may come");
	for (int i = 1; i < 20; i++)
		close(fds[i]);
	end_sandbox(w);
	end_sandbox(other);
	stop_egress();
}

/* O_NONBLOCK is of the open file, which whoever passed it on may hold still. */
Test(egress, who_keeps_a_connection_holds_up_nobody_with_it)
{
	char text[32];

	world(no_arguments);
	struct sandbox_world *w = make_sandbox("one", PLAN_NET_OPEN), *other = make_sandbox("two", PLAN_NET_OPEN);
	w->keeps = true;
	int fd = connect_in(w, WORLD_V4, PORT_SOURCE);
	cr_assert(fd >= 0);
	for (int i = 0; i < 500 && (!w->kept || !(fcntl(w->kept, F_GETFL) & O_NONBLOCK)); i++)
		usleep(10000);
	cr_assert(fcntl(w->kept, F_GETFL) & O_NONBLOCK, "egress did not take it");
	cr_assert_eq(fcntl(w->kept, F_SETFL, fcntl(w->kept, F_GETFL) & ~O_NONBLOCK), 0);
	/* Far more than any buffer, and nobody reads it. */
	snprintf(text, sizeof(text), "%u\n", 200u << 20);
	cr_assert_eq(fd_write_all(fd, text, strlen(text)), 0);
	usleep(300000);
	cr_assert(echoes(other, WORLD_V4, PORT_ECHO));
	close(w->kept);
	close(fd);
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

/* The budget is read at the start. */
static void start_with_few_descriptors(void)
{
	struct rlimit few = { 200, 200 };
	int s[2], d[2];

	signal(SIGPIPE, SIG_IGN);
	make_host();
	start_servers();
	fflush(NULL);
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
}

/* As many connections as it is given, and one that is not; returns how many are. */
static int take_all(struct sandbox_world *w, int fds[200])
{
	int n = 0;
	char c;

	do {
		fds[n] = connect_in(w, WORLD_V4, PORT_ECHO);
		cr_assert(fds[n] >= 0);
	} while (write(fds[n], "x", 1) == 1 && read(fds[n], &c, 1) == 1 && ++n < 200);
	return n;
}

static void close_these(const int *fds, int n)
{
	for (int i = 0; i < n; i++)
		close(fds[i]);
}

Test(egress, without_descriptors_new_connections_are_reset)
{
	int fds[200], n;

	start_with_few_descriptors();
	struct sandbox_world *w = make_sandbox("one", PLAN_NET_OPEN);
	n = take_all(w, fds);
	cr_assert(n > 25 && n < 60, "%d connections", n);
	unsigned long before = egress_cpu_ticks();
	for (int i = 0; i < 5; i++)
		cr_assert(is_refused(w, WORLD_V4, PORT_ECHO));
	usleep(300000);
	cr_assert_leq(egress_cpu_ticks() - before, 5, "it spins");
	close_these(fds, n + 1);
	cr_assert(echoes_soon(w, WORLD_V4, PORT_ECHO), "it recovers");
	end_sandbox(w);
	stop_egress();
}

Test(egress, who_takes_all_it_can_leaves_the_others_some, .timeout = 60)
{
	struct sandbox_world *greedy[3], *late[8];
	int fds[3][200], n[3];

	start_with_few_descriptors();
	for (int i = 0; i < 3; i++) {
		greedy[i] = make_sandbox("greedy", PLAN_NET_OPEN);
		n[i] = take_all(greedy[i], fds[i]);
	}
	for (int i = 0; i < 8; i++)
		late[i] = make_sandbox("late", PLAN_NET_OPEN);
	cr_assert(echoes(late[7], WORLD_V4, PORT_ECHO), "%d, %d and %d connections of others", n[0], n[1],
		  n[2]);
	for (int i = 0; i < 3; i++) {
		close_these(fds[i], n[i] + 1);
		end_sandbox(greedy[i]);
	}
	for (int i = 0; i < 8; i++) {
		cr_assert(echoes_soon(late[i], WORLD_V4, PORT_ECHO), "it was taken in");
		end_sandbox(late[i]);
	}
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
		cr_assert_eq(netns_create(-1, &fd, &err), 0, "%s", err.msg);
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
