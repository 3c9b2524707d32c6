/* One end of a conversation whose other end is the test. */
#include <criterion/criterion.h>
#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "sandbox/chan.h"

static struct loop *loop;
static struct chan *chan;
static int peer;
static struct err err;

static void on_lost(void *arg UNUSED, const struct err *why UNUSED)
{
	cr_assert_fail("it is there");
}

static void begin(void)
{
	static const struct chan_events events = { .lost = on_lost };
	int p[2];

	cr_assert_eq(loop_new(&loop, &err), 0, "%s", err.msg);
	cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, p), 0);
	peer = p[1];
	cr_assert_eq(chan_new(&chan, loop, p[0], 0, &events, NULL, &err), 0, "%s", err.msg);
}

static void end(void)
{
	chan_free(chan);
	loop_free(loop);
	close(peer);
}

TestSuite(chan, .init = begin, .fini = end, .timeout = 60);

static void halt(struct loop_timer *t UNUSED, void *arg UNUSED)
{
	loop_stop(loop, 1);
}

static void turn(void)
{
	struct loop_timer t;

	loop_timer_init(&t, loop, halt, NULL);
	loop_timer_start(&t, 1);
	(void)!loop_run(loop);
}

static struct wire_out *message(bool answered, uint64_t number)
{
	struct wire_out *o = chan_begin(chan, answered ? WIRE_STATUS : WIRE_ACK, answered);

	wire_put_u64(o, WIRE_T_NUMBER, number);
	return o;
}

/* Reads what is there of a type; its numbers must follow each other. */
static void read_all(enum wire_type type, uint64_t *next)
{
	static _Alignas(8) char buf[WIRE_MAX];
	size_t len = 0, n_fds = 0;
	struct wire_in in;
	int fds[1];

	while (fd_recv(peer, buf, sizeof(buf), &len, fds, 1, &n_fds) == 0) {
		cr_assert_eq(wire_parse(&in, buf, len), 0);
		if (in.type == type)
			cr_assert_eq(wire_get_u64(&in, WIRE_T_NUMBER, UINT64_MAX), (*next)++);
	}
}

Test(chan, as_many_acknowledgements_as_an_init_has_runs_may_wait_behind_requests)
{
	uint64_t asked = 0, got = 0;

	while (chan_send(chan, message(true, asked), NULL, 0, NULL, NULL, &err) == 0)
		asked++;
	cr_assert_eq(err.code, -ENOBUFS, "%s", err.msg);
	for (uint64_t i = 0; i < WIRE_ITEMS_MAX; i++)
		chan_tell(chan, message(false, i));
	for (int i = 0; i < 20000 && got < WIRE_ITEMS_MAX; i++) {
		read_all(WIRE_ACK, &got);
		turn();
	}
	cr_assert_eq(got, WIRE_ITEMS_MAX);
	cr_assert_eq(chan_send(chan, message(true, 0), NULL, 0, NULL, NULL, &err), 0, "%s", err.msg);
}

Test(chan, a_peer_that_never_reads_costs_only_so_much)
{
	uint64_t told = 0;

	while (told < 1000000 && chan_send(chan, message(false, told), NULL, 0, NULL, NULL, &err) == 0)
		told++;
	cr_assert_eq(err.code, -ENOBUFS, "%s", err.msg);
	cr_assert_geq(told, 2 * WIRE_ITEMS_MAX);
	cr_assert_lt(told, 3 * WIRE_ITEMS_MAX);
}
