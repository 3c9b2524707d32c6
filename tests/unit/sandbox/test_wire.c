#include <criterion/criterion.h>
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "sandbox/wire.h"

static _Alignas(8) char buf[WIRE_MAX];

static struct wire_in parse(const struct wire_out *o)
{
	struct wire_in in;
	size_t len = 0;

	cr_assert_eq(wire_end((struct wire_out *)o, &len), 0);
	cr_assert_eq(wire_parse(&in, o->buf, len), 0);
	return in;
}

static struct wire_out begin(void)
{
	struct wire_out o;

	memset(buf, 0xee, sizeof(buf));
	wire_begin(&o, buf, sizeof(buf), WIRE_MAKE, 42);
	return o;
}

Test(wire, what_is_put_is_got)
{
	struct wire_out o = begin();
	struct wire_in in;
	size_t len = 0;

	wire_put_str(&o, WIRE_T_ID, "a-name");
	wire_put_u64(&o, WIRE_T_PID, UINT64_MAX);
	wire_put(&o, WIRE_T_OUTPUT, "a\0b", 3);
	wire_put(&o, WIRE_T_CLIENT, NULL, 0);
	in = parse(&o);
	cr_assert_eq(in.type, WIRE_MAKE);
	cr_assert_eq(in.request, 42);
	cr_assert_eq(in.version, WIRE_VERSION);
	cr_assert_str_eq(wire_get_str(&in, WIRE_T_ID, 0), "a-name");
	cr_assert_eq(wire_get_u64(&in, WIRE_T_PID, 0), UINT64_MAX);
	cr_assert_eq(memcmp(wire_get(&in, WIRE_T_OUTPUT, 0, &len), "a\0b", 3), 0);
	cr_assert_eq(len, 3);
	cr_assert_not_null(wire_get(&in, WIRE_T_CLIENT, 0, &len));
	cr_assert_eq(len, 0);
}

Test(wire, repeated_tags_keep_their_order)
{
	struct wire_out o = begin();
	struct wire_in in;

	wire_put_str(&o, WIRE_T_ARG, "one");
	wire_put_str(&o, WIRE_T_ENV, "between");
	wire_put_str(&o, WIRE_T_ARG, "two");
	in = parse(&o);
	cr_assert_eq(wire_count(&in, WIRE_T_ARG), 2);
	cr_assert_str_eq(wire_get_str(&in, WIRE_T_ARG, 1), "two");
	cr_assert_null(wire_get_str(&in, WIRE_T_ARG, 2));
	cr_assert_eq(wire_count(&in, WIRE_T_DIR), 0);
}

Test(wire, absent_or_odd_fields_fall_back)
{
	struct wire_out o = begin();
	struct wire_in in;

	wire_put(&o, WIRE_T_PID, "1234", 4);
	wire_put_str(&o, WIRE_T_ID, NULL);
	in = parse(&o);
	cr_assert_eq(wire_get_u64(&in, WIRE_T_PID, 7), 7);
	cr_assert_eq(wire_get_u64(&in, WIRE_T_PORT, 8), 8);
	cr_assert_null(wire_get_str(&in, WIRE_T_ID, 0));
}

Test(wire, text_has_its_nul_at_the_end_only)
{
	struct wire_out o = begin();
	struct wire_in in;

	wire_put(&o, WIRE_T_ID, "abc", 3);
	wire_put(&o, WIRE_T_ID, "a\0c", 4);
	wire_put(&o, WIRE_T_ID, "", 0);
	wire_put(&o, WIRE_T_ID, "", 1);
	in = parse(&o);
	cr_assert_null(wire_get_str(&in, WIRE_T_ID, 0));
	cr_assert_null(wire_get_str(&in, WIRE_T_ID, 1));
	cr_assert_null(wire_get_str(&in, WIRE_T_ID, 2));
	cr_assert_str_eq(wire_get_str(&in, WIRE_T_ID, 3), "");
}

Test(wire, padding_carries_nothing)
{
	struct wire_out o = begin();
	size_t len = 0;

	wire_put(&o, WIRE_T_ID, "x", 1);
	cr_assert_eq(wire_end(&o, &len), 0);
	cr_assert_eq(len, sizeof(struct wire_head) + 16);
	cr_assert_eq(memcmp(buf + len - 7, "\0\0\0\0\0\0\0", 7), 0);
}

Test(wire, the_first_overflow_sticks)
{
	char small[sizeof(struct wire_head) + 24];
	struct wire_out o;
	size_t len;

	wire_begin(&o, small, sizeof(small), WIRE_OK, 1);
	wire_put(&o, WIRE_T_TEXT, buf, 17); /* padded: 8 too many */
	cr_assert_eq(wire_end(&o, &len), -EMSGSIZE);
	wire_put_u64(&o, WIRE_T_PID, 1); /* would fit */
	cr_assert_eq(wire_end(&o, &len), -EMSGSIZE);
	wire_begin(&o, small, sizeof(small), WIRE_OK, 1);
	wire_put(&o, WIRE_T_TEXT, buf, SIZE_MAX - 3); /* must not wrap */
	cr_assert_eq(wire_end(&o, &len), -EMSGSIZE);
	wire_begin(&o, small, 4, WIRE_OK, 1);
	cr_assert_eq(wire_end(&o, &len), -EMSGSIZE);
}

Test(wire, nothing_larger_than_the_maximum)
{
	static _Alignas(8) char big[WIRE_MAX + 4096];
	struct wire_out o;
	size_t len;

	wire_begin(&o, big, sizeof(big), WIRE_OK, 1);
	wire_put(&o, WIRE_T_TEXT, buf, WIRE_MAX - sizeof(struct wire_head) - 8);
	cr_assert_eq(wire_end(&o, &len), 0);
	cr_assert_eq(len, WIRE_MAX);
	wire_put(&o, WIRE_T_TEXT, buf, 0);
	cr_assert_eq(wire_end(&o, &len), -EMSGSIZE);
}

Test(wire, every_cut_is_refused_or_whole)
{
	struct wire_out o = begin();
	struct wire_in in;
	size_t len = 0;

	wire_put_str(&o, WIRE_T_ID, "twelve-bytes");
	wire_put_u64(&o, WIRE_T_PID, 1);
	cr_assert_eq(wire_end(&o, &len), 0);
	for (size_t n = 0; n < len; n++) {
		int r = wire_parse(&in, buf, n);

		/* Whole at a field's border only: the head alone, and the head with the first field. */
		cr_assert_eq(r, n == 16 || n == 40 ? 0 : -EPROTO, "cut at %zu: %d", n, r);
	}
}

Test(wire, heads_are_checked)
{
	struct wire_out o = begin();
	struct wire_head *h = (void *)buf;
	struct wire_in in;
	size_t len = 0;

	cr_assert_eq(wire_end(&o, &len), 0);
	h->version = WIRE_VERSION + 1;
	cr_assert_eq(wire_parse(&in, buf, len), -EPROTONOSUPPORT);
	h->version = WIRE_VERSION_MIN - 1;
	cr_assert_eq(wire_parse(&in, buf, len), -EPROTONOSUPPORT);
	h->version = WIRE_VERSION;
	h->magic++;
	cr_assert_eq(wire_parse(&in, buf, len), -EPROTO);
}

Test(wire, a_length_cannot_reach_out)
{
	struct wire_out o = begin();
	static const uint32_t bad[] = { 9, 16, 0x7fffffff, 0xfffffff8, 0xffffffff };
	struct wire_in in;
	size_t len = 0;

	wire_put_u64(&o, WIRE_T_PID, 1);
	cr_assert_eq(wire_end(&o, &len), 0);
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		memcpy(buf + sizeof(struct wire_head) + 4, &bad[i], 4);
		cr_assert_eq(wire_parse(&in, buf, len), -EPROTO, "length %u", bad[i]);
	}
}

Test(wire, unknown_tags_and_types_are_carried)
{
	struct wire_out o;
	struct wire_in in;

	wire_begin(&o, buf, sizeof(buf), (enum wire_type)999, 0);
	wire_put_str(&o, (enum wire_tag)9999, "of a newer program");
	wire_put_u64(&o, WIRE_T_PID, 5);
	in = parse(&o);
	cr_assert_eq(wire_get_u64(&in, WIRE_T_PID, 0), 5);
	cr_assert_str_eq(wire_type_name(in.type), "unknown");
	cr_assert_str_eq(wire_type_name(WIRE_JOB_DONE), "JOB_DONE");
}

Test(wire, sends_with_descriptors)
{
	struct wire_out o = begin();
	int sock[2], fd, got[FD_PASS_MAX];
	size_t len = 0, n = 0;
	struct wire_in in;

	cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, sock), 0);
	fd = dup(0);
	wire_put_str(&o, WIRE_T_ID, "x");
	cr_assert_eq(wire_send(sock[0], &o, &fd, 1), 0);
	cr_assert_eq(fd_recv(sock[1], buf, sizeof(buf), &len, got, FD_PASS_MAX, &n), 0);
	cr_assert_eq(n, 1);
	cr_assert_eq(wire_parse(&in, buf, len), 0);
	cr_assert_str_eq(wire_get_str(&in, WIRE_T_ID, 0), "x");
	close(got[0]);
	close(fd);
	o.error = -EMSGSIZE;
	cr_assert_eq(wire_send(sock[0], &o, NULL, 0), -EMSGSIZE);
	close(sock[0]);
	close(sock[1]);
}
