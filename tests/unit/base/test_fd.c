#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/str.h"
#include "base/time.h"

static char dir[] = "/tmp/openreward-test-fd-XXXXXX";

static void make_dir(void)
{
	cr_assert_not_null(mkdtemp(dir));
}

static void remove_dir(void)
{
	static const char *const names[] = { "file", "a/b/c", "a/b", "a", "" };
	char path[PATH_MAX];

	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
		remove(path);
	}
}

static const char *in_dir(const char *name)
{
	static char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	return path;
}

TestSuite(fd, .init = make_dir, .fini = remove_dir);

static bool is_cloexec(int fd)
{
	return fcntl(fd, F_GETFD) & FD_CLOEXEC;
}

Test(fd, close_keeps_errno_and_returns_minus_one)
{
	errno = E2BIG;
	cr_assert_eq(fd_close(-1), -1);
	cr_assert_eq(fd_close(dup(0)), -1);
	cr_assert_eq(errno, E2BIG);
}

Test(fd, files_are_written_whole_with_their_mode)
{
	auto_buf struct buf b;
	struct err err = ERR_INIT;
	struct stat st;

	umask(0077);
	cr_assert_eq(fd_write_file(in_dir("file"), "one", 3, 0644, &err), 0, "%s", err.msg);
	cr_assert_eq(fd_write_file(in_dir("file"), "second", 6, 0640, &err), 0, "%s", err.msg);
	cr_assert_eq(stat(in_dir("file"), &st), 0);
	cr_assert_eq(st.st_mode & 07777, 0640);
	buf_init(&b, 100);
	cr_assert_eq(fd_read_file(in_dir("file"), &b, &err), 0);
	cr_assert_str_eq(b.data, "second");
	cr_assert_eq(rmdir(dir), -1);
	cr_assert_eq(unlink(in_dir("file")), 0);
	cr_assert_eq(rmdir(dir), 0, "nothing is left aside");
}

Test(fd, write_file_leaves_nothing_on_failure)
{
	struct err err = ERR_INIT;

	cr_assert_eq(mkdir(in_dir("file"), 0700), 0);
	cr_assert_eq(fd_write_file(in_dir("file"), "x", 1, 0600, &err), -EISDIR);
	cr_assert(strstr(err.msg, "rename"));
	cr_assert_eq(rmdir(in_dir("file")), 0);
	cr_assert_eq(rmdir(dir), 0);
	cr_assert_eq(fd_write_file(in_dir("file"), "x", 1, 0600, &err), -ENOENT);
}

Test(fd, read_file_stops_at_the_maximum)
{
	auto_buf struct buf exact, small;
	struct err err = ERR_INIT;

	cr_assert_eq(fd_write_file(in_dir("file"), "0123456789", 10, 0600, &err), 0);
	buf_init(&exact, 10);
	buf_init(&small, 9);
	cr_assert_eq(fd_read_file(in_dir("file"), &exact, &err), 0, "%s", err.msg);
	cr_assert_str_eq(exact.data, "0123456789");
	cr_assert_eq(fd_read_file(in_dir("file"), &small, &err), -ENOBUFS);
	cr_assert(str_ends(err.msg, "larger than 9 bytes"));
	cr_assert_eq(fd_read_file("/nowhere", &exact, &err), -ENOENT);
	cr_assert(strstr(err.msg, "/nowhere"));
}

Test(fd, a_number_of_the_kernels)
{
	uint64_t v = 7;

	cr_assert_eq(fd_read_u64(AT_FDCWD, "/proc/sys/kernel/pid_max", &v), 0);
	cr_assert_gt(v, 100);
	cr_assert_eq(fd_read_u64(AT_FDCWD, "/proc/version", &v), -EPROTO);
	cr_assert_eq(fd_read_u64(AT_FDCWD, "/dev/null", &v), -EPROTO);
	cr_assert_eq(fd_read_u64(-1, "pid_max", &v), -EBADF);
	cr_assert_eq(fd_put_text(-1, "pid_max", "1"), -EBADF);
	cr_assert_eq(fd_put_text(AT_FDCWD, "/nowhere/at/all", "1"), -ENOENT);
	cr_assert_eq(fd_put_text(AT_FDCWD, "/dev/null", "1"), 0);
}

Test(fd, mkdirs)
{
	struct err err = ERR_INIT;
	struct stat st;

	cr_assert_eq(fd_mkdirs(in_dir("a//b/c/"), 0750, &err), 0, "%s", err.msg);
	cr_assert_eq(fd_mkdirs(in_dir("a/b/c"), 0700, &err), 0);
	cr_assert_eq(stat(in_dir("a/b"), &st), 0);
	cr_assert_eq(st.st_mode & 07777, 0750);
	cr_assert_eq(fd_write_file(in_dir("file"), "", 0, 0600, &err), 0);
	cr_assert_eq(fd_mkdirs(in_dir("file"), 0700, &err), -ENOTDIR);
	cr_assert_eq(fd_mkdirs(in_dir("file/x"), 0700, &err), -ENOTDIR);
	cr_assert_eq(fd_mkdirs("", 0700, &err), -EINVAL);
}

Test(fd, read_all_wants_all)
{
	char four[4];
	int p[2];

	cr_assert_eq(pipe2(p, O_CLOEXEC), 0);
	cr_assert_eq(fd_write_all(p[1], "abcdef", 6), 0);
	fd_close(p[1]);
	cr_assert_eq(fd_read_all(p[0], four, 4), 0);
	cr_assert_eq(memcmp(four, "abcd", 4), 0);
	cr_assert_eq(fd_read_all(p[0], four, 4), -EPIPE);
	fd_close(p[0]);
	signal(SIGPIPE, SIG_IGN);
	cr_assert_eq(pipe2(p, O_CLOEXEC), 0);
	fd_close(p[0]);
	cr_assert_eq(fd_write_all(p[1], "x", 1), -EPIPE);
	fd_close(p[1]);
}

Test(fd, flags)
{
	int p[2];

	cr_assert_eq(pipe2(p, 0), 0);
	cr_assert_eq(fd_set_nonblock(p[0], true), 0);
	cr_assert_eq(read(p[0], &(char){ 0 }, 1), -1);
	cr_assert_eq(errno, EAGAIN);
	cr_assert_eq(fd_set_nonblock(p[0], false), 0);
	cr_assert_not(fcntl(p[0], F_GETFL) & O_NONBLOCK);
	cr_assert_eq(fd_set_cloexec(p[0], true), 0);
	cr_assert(is_cloexec(p[0]));
	cr_assert_eq(fd_set_cloexec(p[0], false), 0);
	cr_assert_not(is_cloexec(p[0]));
	fd_close(p[0]);
	fd_close(p[1]);
	cr_assert_eq(fd_set_nonblock(p[0], true), -EBADF);
}

struct pair {
	int s[2];
};

static struct pair seqpacket(void)
{
	struct pair p;

	cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, p.s), 0);
	return p;
}

Test(fd, descriptors_travel)
{
	struct pair p = seqpacket();
	int pipes[2], got[2] = { -1, -1 };
	size_t len, n_fds;
	char text[16];

	cr_assert_eq(pipe2(pipes, 0), 0);
	cr_assert_eq(fd_send(p.s[0], "hello", 5, pipes, 2), 0);
	cr_assert_eq(fd_recv(p.s[1], text, sizeof(text), &len, got, 2, &n_fds), 0);
	cr_assert_eq(len, 5);
	cr_assert_eq(n_fds, 2);
	cr_assert(is_cloexec(got[0]) && is_cloexec(got[1]));
	cr_assert_eq(fd_write_all(got[1], "x", 1), 0);
	cr_assert_eq(fd_read_all(pipes[0], text, 1), 0);
	cr_assert_eq(fd_send(p.s[0], "plain", 5, NULL, 0), 0);
	cr_assert_eq(fd_recv(p.s[1], text, sizeof(text), &len, NULL, 0, NULL), 0);
	cr_assert_eq(fd_send(p.s[0], "x", 1, got, FD_PASS_MAX + 1), -EINVAL);
	fd_close(p.s[0]);
	cr_assert_eq(fd_recv(p.s[1], text, sizeof(text), &len, got, 2, &n_fds), 0);
	cr_assert_eq(len, 0, "end of file");
	cr_assert_eq(fd_send(p.s[1], "x", 1, NULL, 0), -EPIPE, "and no signal");
}

Test(fd, what_does_not_fit_is_refused_and_leaks_nothing)
{
	struct pair p = seqpacket();
	int pipes[2], got[1] = { -1 };
	size_t len = 77, n_fds;
	char text[4];

	cr_assert_eq(pipe2(pipes, 0), 0);
	/* Too many descriptors, then too many bytes with one. */
	cr_assert_eq(fd_send(p.s[0], "a", 1, pipes, 2), 0);
	cr_assert_eq(fd_send(p.s[0], "hello", 5, pipes + 1, 1), 0);
	fd_close(pipes[1]);
	cr_assert_eq(fd_recv(p.s[1], text, sizeof(text), &len, got, 1, &n_fds), -EMSGSIZE);
	cr_assert_eq(fd_recv(p.s[1], text, sizeof(text), &len, got, 1, &n_fds), -EMSGSIZE);
	cr_assert_eq(len, 77);
	cr_assert_eq(got[0], -1);
	/* No copy of the write end is open any more. */
	cr_assert_eq(read(pipes[0], text, 1), 0);
}

Test(fd, without_room_for_descriptors_the_message_is_there)
{
	struct pair p = seqpacket();
	int pipes[2], got[2] = { -1, -1 }, lowest;
	struct rlimit few;
	size_t len = 77, n_fds;
	char text[16];

	cr_assert_eq(pipe2(pipes, 0), 0);
	cr_assert_eq(fd_send(p.s[0], "hello", 5, pipes + 1, 1), 0);
	cr_assert_eq(fd_send(p.s[0], "again", 5, pipes, 2), 0);
	fd_close(pipes[1]); /* room for one */
	lowest = dup(0);
	close(lowest);
	cr_assert_eq(getrlimit(RLIMIT_NOFILE, &few), 0);
	few.rlim_cur = (rlim_t)lowest;
	cr_assert_eq(setrlimit(RLIMIT_NOFILE, &few), 0);
	cr_assert_eq(fd_recv(p.s[1], text, sizeof(text), &len, got, 2, &n_fds), -EMFILE);
	cr_assert(len == 5 && !memcmp(text, "hello", 5));
	few.rlim_cur++;
	cr_assert_eq(setrlimit(RLIMIT_NOFILE, &few), 0);
	cr_assert_eq(fd_recv(p.s[1], text, sizeof(text), &len, got, 2, &n_fds), -EMFILE);
	cr_assert(len == 5 && !memcmp(text, "again", 5));
	cr_assert_eq(got[0], -1);
	/* No copy of the write end is open any more. */
	cr_assert_eq(read(pipes[0], text, 1), 0);
}

#define LINGER_S 2

/* A connection that would linger: its peer, which is returned, reads nothing of what was sent. */
static int lingering(int *ret)
{
	const struct linger on = { .l_onoff = 1, .l_linger = LINGER_S };
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(a);
	char block[65536] = { 0 };
	int l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), peer;

	*ret = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	cr_assert_eq(bind(l, (void *)&a, len), 0);
	cr_assert_eq(listen(l, 1), 0);
	cr_assert_eq(getsockname(l, (void *)&a, &len), 0);
	(void)!connect(*ret, (void *)&a, len);
	peer = accept(l, NULL, NULL);
	cr_assert(peer >= 0);
	close(l);
	for (int quiet = 0; quiet < 3; quiet++) { /* what is on its way makes room again */
		while (send(*ret, block, sizeof(block), MSG_NOSIGNAL) > 0)
			quiet = 0;
		usleep(20000);
	}
	cr_assert_eq(setsockopt(*ret, SOL_SOCKET, SO_LINGER, &on, sizeof(on)), 0);
	return peer;
}

static bool is_reset(int fd)
{
	char block[65536];
	ssize_t n;

	while ((n = recv(fd, block, sizeof(block), 0)) > 0)
		;
	return n < 0 && errno == ECONNRESET;
}

Test(fd, what_is_foreign_is_closed_without_lingering)
{
	int fd, peer[3];
	uint64_t start_ms, took_ms;

	peer[0] = lingering(&fd);
	start_ms = time_now_ms();
	cr_assert_eq(fd_close(fd), -1);
	took_ms = time_now_ms() - start_ms;
	cr_assert_geq(took_ms, 900 * LINGER_S, "the control: a plain close took %llu ms only", (unsigned long long)took_ms);
	peer[1] = lingering(&fd);
	errno = E2BIG;
	start_ms = time_now_ms();
	cr_assert_eq(fd_close_foreign(fd), -1);
	peer[2] = lingering(&fd);
	cr_assert_eq(fd_reset(fd), -1);
	cr_assert_lt(time_now_ms() - start_ms, 1000);
	/* The one goes on to send what it had. */
	cr_assert_not(is_reset(peer[1]));
	cr_assert(is_reset(peer[2]));
	errno = E2BIG;
	cr_assert_eq(fd_close_foreign(dup(0)), -1);
	cr_assert_eq(fd_close_foreign(-1), -1);
	cr_assert_eq(errno, E2BIG);
}

Test(fd, what_lies_in_a_channel_is_closed_without_lingering)
{
	struct pair p = seqpacket();
	int fd, peer[2];
	uint64_t start_ms;

	for (int i = 0; i < 2; i++) {
		peer[i] = lingering(&fd);
		/* An empty message looks like the end of the stream, and is none. */
		cr_assert_eq(fd_send(p.s[0], "", 0, NULL, 0), 0);
		cr_assert_eq(fd_send(p.s[0], "", (size_t)i, &fd, 1), 0);
		close(fd);
	}
	start_ms = time_now_ms();
	cr_assert_eq(fd_close_channel(p.s[1]), -1);
	cr_assert_lt(time_now_ms() - start_ms, 500);
	for (int i = 0; i < 2; i++)
		cr_assert_not(is_reset(peer[i])); /* nor is it kept open */
	cr_assert_eq(fd_send(p.s[0], "x", 1, NULL, 0), -EPIPE);
	cr_assert_eq(fd_close_channel(-1), -1);
}

/* A unix socket in whose queue lies one in whose queue lies one that lingers; or a listening one, with an end that nobody accepted. */
static int nested(int fd, bool listening)
{
	struct pair inner = seqpacket(), outer = seqpacket();
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	socklen_t len = sizeof(a);
	int l = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0), c = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	if (listening) {
		cr_assert_eq(bind(l, (void *)&a, sizeof(a.sun_family)), 0);
		cr_assert_eq(listen(l, 1), 0);
		cr_assert_eq(getsockname(l, (void *)&a, &len), 0);
		cr_assert_eq(connect(c, (void *)&a, len), 0);
		cr_assert_eq(fd_send(c, "x", 1, &fd, 1), 0);
	} else {
		cr_assert_eq(fd_send(inner.s[0], "x", 1, &fd, 1), 0);
		cr_assert_eq(fd_send(outer.s[0], "x", 1, &inner.s[1], 1), 0);
	}
	close(fd);
	close(c);
	for (int i = 0; i < 2; i++)
		close(inner.s[i]);
	close(outer.s[0]);
	close(listening ? outer.s[1] : l);
	return listening ? l : outer.s[1];
}

static uint64_t send_nested(struct pair *p)
{
	for (int i = 0; i < 4; i++) {
		int fd, outer;

		(void)lingering(&fd);
		outer = nested(fd, i % 2);
		cr_assert_eq(fd_send(p->s[0], "x", 1, &outer, 1), 0);
		close(outer);
	}
	return time_now_ms();
}

Test(fd, what_lies_in_what_was_sent_lingers_nowhere)
{
	struct pair p = seqpacket();
	uint64_t start_ms = send_nested(&p);
	int got[FD_PASS_MAX];
	size_t len, n_fds = 7;
	char text[16];

	for (int i = 0; i < 4; i++)
		cr_assert_eq(fd_recv_foreign(p.s[1], text, sizeof(text), &len, got, FD_PASS_MAX, &n_fds), -EPROTO);
	cr_assert_lt(time_now_ms() - start_ms, 500);
	cr_assert_eq(n_fds, 0);
	start_ms = send_nested(&p);
	cr_assert_eq(fd_close_channel(p.s[1]), -1);
	cr_assert_lt(time_now_ms() - start_ms, 500);
	cr_assert_eq(waitpid(-1, NULL, __WALL | WNOHANG), -1, "no child is left");
}

Test(fd, what_is_not_a_unix_socket_is_received_as_ever)
{
	struct pair p = seqpacket();
	int got[FD_PASS_MAX], null = open("/dev/null", O_RDWR | O_CLOEXEC), tcp = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int fds[] = { null, tcp };
	size_t len, n_fds;
	char text[16];

	cr_assert_eq(fd_send(p.s[0], "x", 1, fds, 2), 0);
	cr_assert_eq(fd_recv_foreign(p.s[1], text, sizeof(text), &len, got, FD_PASS_MAX, &n_fds), 0);
	cr_assert(len == 1 && n_fds == 2);
	cr_assert_eq(fd_send(p.s[0], "xy", 2, NULL, 0), 0);
	cr_assert_eq(fd_recv_foreign(p.s[1], text, sizeof(text), &len, got, FD_PASS_MAX, &n_fds), 0);
	cr_assert(len == 2 && n_fds == 0);
}

/* As many as the kernel lets anybody send, of which nobody expects more than eight. */
Test(fd, a_crowd_of_descriptors_is_closed_here)
{
	struct pair p = seqpacket();
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(253 * sizeof(int))];
	} control = { .bytes = { 0 } };
	struct iovec iov = { .iov_base = "many", .iov_len = 4 };
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof(control.bytes),
	};
	int got[FD_PASS_MAX], peer, fd, all[253];
	size_t len, n_fds;
	uint64_t start_ms;
	char text[16];

	peer = lingering(&fd);
	for (size_t i = 0; i < ARRAY_LEN(all); i++)
		all[i] = fd;
	control.align = (struct cmsghdr){ .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(all)) };
	memcpy(CMSG_DATA(&control.align), all, sizeof(all));
	cr_assert_eq(sendmsg(p.s[0], &msg, 0), 4);
	close(fd);
	start_ms = time_now_ms();
	cr_assert_eq(fd_recv(p.s[1], text, sizeof(text), &len, got, FD_PASS_MAX, &n_fds), -EMSGSIZE);
	cr_assert_lt(time_now_ms() - start_ms, 500);
	cr_assert_not(is_reset(peer));
}

Test(fd, a_full_socket_says_so)
{
	struct pair p = seqpacket();
	char block[4096] = { 0 };
	int r = 0;

	cr_assert_eq(fd_set_nonblock(p.s[0], true), 0);
	for (int i = 0; i < 10000 && r == 0; i++)
		r = fd_send(p.s[0], block, sizeof(block), NULL, 0);
	cr_assert_eq(r, -EAGAIN);
}

Test(fd, memfd)
{
	struct err err = ERR_INIT;
	auto_buf struct buf b;
	int fd;

	cr_assert_eq(fd_memfd(&fd, "plan", "content", 7, &err), 0, "%s", err.msg);
	cr_assert(is_cloexec(fd));
	buf_init(&b, 100);
	cr_assert_eq(fd_read_to_end(fd, &b), 0);
	cr_assert_str_eq(b.data, "content");
	fd_close(fd);
}
