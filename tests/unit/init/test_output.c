#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/fd.h"
#include "init/output.h"
#include "sandbox/wire.h"

static char block[256 * 1024];

static int spool_dir(void)
{
	int fd = open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	cr_assert_geq(fd, 0);
	for (size_t i = 0; i < sizeof(block); i++)
		block[i] = (char)(i * 31 + i / 251);
	return fd;
}

/* As what a command writes. */
static void feed(struct output *o, const void *p, size_t len)
{
	int ends[2];

	cr_assert_eq(pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
	o->pipe.fd = ends[0];
	for (size_t done = 0; done < len;) {
		ssize_t n = write(ends[1], (const char *)p + done, len - done);
		cr_assert_gt(n, 0);
		cr_assert_not(output_read(o, &o->pipe, (size_t)n));
		done += (size_t)n;
	}
	o->pipe.fd = -1;
	close(ends[0]);
	close(ends[1]);
}

static void check_spool(const struct output *o, size_t len)
{
	auto_fd fd = output_reopen(o);
	static char got[sizeof(block)];

	cr_assert_geq(fd, 0);
	cr_assert_eq(read(fd, got, sizeof(got)), (ssize_t)len);
	cr_assert_eq(memcmp(got, block, len), 0);
	cr_assert_eq(write(fd, "x", 1), -1, "the receiver can't change it");
}

Test(output, stays_in_memory_up_to_the_limit_of_a_message)
{
	auto_fd dir = spool_dir();
	struct output o;

	output_init(&o, UINT64_MAX, dir);
	for (size_t i = 0; i < WIRE_INLINE_MAX; i += 1000)
		feed(&o, block + i, MIN((size_t)1000, WIRE_INLINE_MAX - i));
	cr_assert_eq(o.kept, WIRE_INLINE_MAX);
	cr_assert_eq(o.spool, -1);
	cr_assert_eq(output_reopen(&o), -1);
	cr_assert_eq(memcmp(o.mem, block, WIRE_INLINE_MAX), 0);
	feed(&o, block + WIRE_INLINE_MAX, 1);
	cr_assert_geq(o.spool, 0);
	cr_assert_null(o.mem);
	feed(&o, block + WIRE_INLINE_MAX + 1, 100000);
	check_spool(&o, WIRE_INLINE_MAX + 100001);
	check_spool(&o, WIRE_INLINE_MAX + 100001);
	cr_assert_eq(o.dropped, 0);
	output_done(&o);
}

Test(output, keeps_the_first_bytes_and_counts_the_rest)
{
	auto_fd dir = spool_dir();
	struct output o;

	output_init(&o, 10, dir);
	feed(&o, "0123456", 7);
	feed(&o, "789abc", 6);
	feed(&o, "def", 3);
	cr_assert_eq(o.kept, 10);
	cr_assert_eq(o.dropped, 6);
	cr_assert_eq(o.lost, 0);
	cr_assert_eq(memcmp(o.mem, "0123456789", 10), 0);
	output_done(&o);
}

Test(output, without_a_spool_the_prefix_that_fits_is_kept)
{
	struct output o;

	(void)close(spool_dir());
	output_init(&o, UINT64_MAX, -1);
	feed(&o, block, 50000);
	feed(&o, block + 50000, 50000);
	feed(&o, "later", 5);
	cr_assert_eq(o.kept, WIRE_INLINE_MAX);
	cr_assert_eq(o.dropped, 100005 - WIRE_INLINE_MAX);
	cr_assert_eq(memcmp(o.mem, block, WIRE_INLINE_MAX), 0);
	cr_assert_eq(o.lost, EBADF);
	output_done(&o);
}

Test(output, a_spool_without_room_for_the_first_piece_leaves_it_to_the_memory)
{
	auto_fd dir = spool_dir();
	struct rlimit none = { .rlim_cur = 0, .rlim_max = RLIM_INFINITY };
	struct output o;

	signal(SIGXFSZ, SIG_IGN);
	cr_assert_eq(setrlimit(RLIMIT_FSIZE, &none), 0);
	output_init(&o, UINT64_MAX, dir);
	o.inline_max = 4096;
	o.flags = OUTPUT_FRAMED;
	feed(&o, block, 65536);
	cr_assert_eq(o.stored, 4096);
	cr_assert_eq(o.kept, 4096 - WIRE_FRAME_HEAD);
	cr_assert_eq(o.dropped, 65536 - o.kept);
	cr_assert_eq(memcmp(o.mem + WIRE_FRAME_HEAD, block, o.kept), 0);
	cr_assert_eq(o.lost, EFBIG);
	output_done(&o);
}

Test(output, a_full_disk_ends_the_kept_part)
{
	auto_fd dir = spool_dir();
	struct rlimit small = { .rlim_cur = 100000, .rlim_max = RLIM_INFINITY };
	struct output o;

	signal(SIGXFSZ, SIG_IGN);
	cr_assert_eq(getrlimit(RLIMIT_FSIZE, &small), 0);
	small.rlim_cur = 100000;
	cr_assert_eq(setrlimit(RLIMIT_FSIZE, &small), 0);
	output_init(&o, UINT64_MAX, dir);
	feed(&o, block, 150000);
	feed(&o, "later", 5);
	cr_assert_eq(o.kept, 100000);
	cr_assert_eq(o.dropped, 50005);
	check_spool(&o, 100000);
	output_done(&o);
}

Test(output, the_end_takes_what_is_in_the_pipe_and_no_more)
{
	auto_fd dir = spool_dir();
	struct output o;
	int p[2];

	cr_assert_eq(pipe2(p, O_CLOEXEC | O_NONBLOCK), 0);
	output_init(&o, UINT64_MAX, dir);
	o.pipe.fd = p[0];
	cr_assert_eq(write(p[1], block, 1000), 1000);
	output_end(&o);
	cr_assert_eq(o.kept, 1000);
	cr_assert_eq(write(p[1], block, 500), 500);
	cr_assert_not(output_read(&o, &o.pipe, 1 << 20), "the writer lives");
	cr_assert_eq(o.kept + o.dropped, 1000, "what comes after the end is not counted");
	close(p[1]);
	cr_assert(output_read(&o, &o.pipe, 1 << 20));
	close(p[0]);
	output_done(&o);
}
