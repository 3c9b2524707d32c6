/* Files as answers, to peers that take their time, leave, or never read. */
#include "api/common/send.h"

#include <dirent.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "base/str.h"
#include "http/private.h"
#include "unit/http/harness.h"

#define SIZE (3u << 20)
#define PIECE 100000 /* what a peer reads at a time */
#define GET "GET / HTTP/1.1\r\nHost: h\r\n\r\n"

static char content[SIZE], got[SIZE + 4096];
static struct send_range range;
static int file; /* the tests' own: an answer has a duplicate */
static uint64_t counter;
static int closes;
static bool complete;

static void on_close(struct http_req *r UNUSED, bool whole, void *arg)
{
	struct send **s = arg;

	closes++;
	complete = whole;
	send_gone(*s);
}

static void handle(struct http_req *r, void *arg UNUSED)
{
	struct send **s = http_req_alloc(r, sizeof(struct send *));

	http_req_on_close(r, on_close, s);
	*s = send_start(r, dup(file), "application/octet-stream", &range, &counter);
}

static void begin(void)
{
	struct err err = ERR_INIT;

	for (size_t i = 0; i < SIZE; i++)
		content[i] = (char)(i * 2654435761u >> 13);
	cr_assert_eq(fd_memfd(&file, "send", content, SIZE, &err), 0, "%s", err.msg);
	range = (struct send_range){ .status = 200, .length = SIZE };
	http_limits_default(&limits);
	limits.write_stall_ms = 300;
	cr_assert_eq(loop_new(&loop, &err), 0, "%s", err.msg);
	cr_assert_eq(http_server_new(&server, loop, &limits, handle, NULL, &err), 0, "%s", err.msg);
}

TestSuite(send, .init = begin, .fini = harness_end, .timeout = 30);

/* As a listening socket accepts it: into one that was handed over nothing is spliced. */
static int connect_accepted(void)
{
	const struct sockaddr peer = { .sa_family = AF_UNIX };
	struct err err = ERR_INIT;
	int p[2];

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, p), 0);
	cr_assert_eq(conn_begin(conn_new(server, p[0], 0, &peer, 0), &err), 0, "%s", err.msg);
	return p[1];
}

static int ask_over(int fd)
{
	cr_assert_eq(write(fd, GET, strlen(GET)), (ssize_t)strlen(GET));
	run_for(30);
	return fd;
}

static int ask(void)
{
	return ask_over(connect_accepted());
}

static int open_pipes(void)
{
	DIR *d = opendir("/proc/self/fd");
	char text[64], path[320];
	int n = 0;

	for (struct dirent *e; (e = readdir(d));) {
		snprintf(path, sizeof(path), "/proc/self/fd/%s", e->d_name);
		ssize_t len = readlink(path, text, sizeof(text) - 1);
		n += len > 5 && !memcmp(text, "pipe:", 5);
	}
	closedir(d);
	return n;
}

/* Reads in pieces until nothing comes for a while. Returns the length of the body, which is in got. */
static size_t take(int fd)
{
	size_t len = 0;
	char *body;

	for (int idle = 0; idle < 40;) {
		ssize_t n = read(fd, got + len, MIN((size_t)PIECE, sizeof(got) - 1 - len));
		len += n > 0 ? (size_t)n : 0;
		idle = n > 0 ? 0 : idle + 1;
		run_for(1);
	}
	got[len] = '\0';
	body = strstr(got, "\r\n\r\n");
	cr_assert_not_null(body);
	len -= (size_t)(body + 4 - got);
	memmove(got, body + 4, len);
	return len;
}

Test(send, pages_to_a_peer_that_takes_its_time)
{
	int before = open_pipes(), fd = ask();

	cr_expect_eq(open_pipes(), before + 2, "it is copied");
	cr_assert_eq(take(fd), SIZE);
	cr_expect_eq(memcmp(got, content, SIZE), 0);
	cr_expect(closes == 1 && complete);
	cr_expect_eq(counter, SIZE);
	cr_expect_eq(open_pipes(), before);

	cr_assert_eq(write(fd, GET, strlen(GET)), (ssize_t)strlen(GET));
	cr_assert_eq(take(fd), SIZE, "the next answer over the same connection");
	cr_expect_eq(memcmp(got, content, SIZE), 0);
	close(fd);
}

Test(send, a_range_that_begins_and_ends_inside_a_page)
{
	range = (struct send_range){ .status = 206, .offset = 4097, .length = SIZE - 9001 };
	cr_assert_eq(take(ask()), SIZE - 9001);
	cr_expect_eq(memcmp(got, content + 4097, SIZE - 9001), 0);
}

Test(send, a_short_one_needs_no_pipe)
{
	int before = open_pipes(), fd;

	range.length = 200000;
	fd = ask();
	cr_expect_eq(open_pipes(), before);
	cr_assert_eq(take(fd), 200000);
	cr_expect_eq(memcmp(got, content, 200000), 0);
}

Test(send, bytes_over_a_connection_that_somebody_may_hold)
{
	int before = open_pipes(), fd = ask_over(connect_pair());

	cr_expect_eq(open_pipes(), before);
	cr_assert_eq(take(fd), SIZE);
	cr_expect_eq(memcmp(got, content, SIZE), 0);
}

Test(send, bytes_where_there_are_no_descriptors_for_a_pipe)
{
	struct rlimit limit;
	int fd = connect_accepted(), next = dup(fd);

	close(next);
	cr_assert_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
	limit.rlim_cur = (rlim_t)next + 1; /* the answer's own duplicate */
	cr_assert_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
	cr_assert_eq(write(fd, GET, strlen(GET)), (ssize_t)strlen(GET));
	cr_assert_eq(take(fd), SIZE);
	cr_expect_eq(memcmp(got, content, SIZE), 0);
	cr_expect(closes == 1 && complete);
}

Test(send, a_file_that_shrinks_breaks_the_answer_off)
{
	int fd = ask();

	cr_assert_eq(ftruncate(file, 1000), 0);
	cr_expect_lt(take(fd), SIZE);
	cr_expect(closes == 1 && !complete);
	cr_expect_eq(read(fd, got, 1), 0, "the connection goes on");
}

Test(send, a_peer_that_leaves_takes_the_pipe_along)
{
	int before = open_pipes(), fd = ask();

	cr_assert_eq(open_pipes(), before + 2);
	close(fd);
	run_for(30);
	cr_expect(closes == 1 && !complete);
	cr_expect_eq(open_pipes(), before);
}

Test(send, a_peer_that_never_reads_has_a_deadline)
{
	ask();
	cr_expect_eq(closes, 0);
	run_for(500);
	cr_expect(closes == 1 && !complete);
}
