/* tests/integration/init/bench_run FD N COMMAND...: N runs through the init behind the SEQPACKET socket FD, one after the
 * other; prints p50, p90, p99 in microseconds, from the request to the end of the run as an event. Built by bench.py. */
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "base/fd.h"
#include "sandbox/wire.h"

static _Alignas(8) char buf[WIRE_MAX];

static double now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static void wait_done(int fd)
{
	struct wire_in in;
	size_t len, n_fds;
	int fds[FD_PASS_MAX];

	do {
		if (fd_recv(fd, buf, sizeof(buf), &len, fds, FD_PASS_MAX, &n_fds) < 0 || wire_parse(&in, buf, len) < 0)
			exit(1);
		if (in.type == WIRE_FAILED)
			exit(2);
	} while (in.type != WIRE_DONE);
	if (wire_get_u64(&in, WIRE_T_STATUS, 1) != 0)
		exit(3);
}

static double one(int fd, uint64_t id, char **argv)
{
	struct wire_out o;
	double start = now_us();

	wire_begin(&o, buf, sizeof(buf), WIRE_RUN, id);
	wire_put_u64(&o, WIRE_T_RUN_ID, id);
	for (; *argv; argv++)
		wire_put_str(&o, WIRE_T_ARG, *argv);
	if (wire_send(fd, &o, NULL, 0) < 0)
		exit(1);
	wait_done(fd);
	start = now_us() - start;
	wire_begin(&o, buf, sizeof(buf), WIRE_ACK, 0);
	wire_put_u64(&o, WIRE_T_RUN_ID, id);
	if (wire_send(fd, &o, NULL, 0) < 0)
		exit(1);
	return start;
}

int main(int argc, char **argv)
{
	int n = argc > 3 ? (int)strtol(argv[2], NULL, 10) : 0;
	double *t = calloc((size_t)n + 1, sizeof(*t));

	for (int i = 0; i < n; i++)
		t[i] = one((int)strtol(argv[1], NULL, 10), (uint64_t)i + 1000, argv + 3);
	qsort(t, (size_t)n, sizeof(*t), compare);
	printf("p50 %.0f p90 %.0f p99 %.0f\n", t[n / 2], t[n * 9 / 10], t[n * 99 / 100]);
	return 0;
}
