#include "base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/macros.h"
#include "base/random.h"
#include "base/str.h"

int fd_close(int fd)
{
	int saved = errno;

	/* Not repeated on EINTR: Linux has closed it by then, and the number may belong to someone else. */
	if (fd >= 0)
		close(fd);
	errno = saved;
	return -1;
}

static int close_with_linger(int fd, bool on)
{
	const struct linger l = { .l_onoff = on };
	int saved = errno;

	if (fd >= 0)
		(void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof(l)); /* refused where it is no socket */
	errno = saved;
	return fd_close(fd);
}

int fd_close_foreign(int fd)
{
	return close_with_linger(fd, false);
}

int fd_reset(int fd)
{
	return close_with_linger(fd, true);
}

static int set_flag(int fd, int get, int set, int flag, bool on)
{
	int old = fcntl(fd, get), new;

	if (old < 0)
		return -errno;
	new = on ? old | flag : old & ~flag;
	if (new != old && fcntl(fd, set, new) < 0)
		return -errno;
	return 0;
}

int fd_set_nonblock(int fd, bool on)
{
	return set_flag(fd, F_GETFL, F_SETFL, O_NONBLOCK, on);
}

int fd_set_cloexec(int fd, bool on)
{
	return set_flag(fd, F_GETFD, F_SETFD, FD_CLOEXEC, on);
}

int fd_write_all(int fd, const void *p, size_t len)
{
	const char *c = p;

	while (len > 0) {
		ssize_t n = write(fd, c, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return -EIO;
		c += n;
		len -= (size_t)n;
	}
	return 0;
}

int fd_read_all(int fd, void *p, size_t len)
{
	char *c = p;

	while (len > 0) {
		ssize_t n = read(fd, c, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return -EPIPE;
		c += n;
		len -= (size_t)n;
	}
	return 0;
}

/* How much to ask for: big steps, but never beyond the maximum plus the one byte that shows there was more. */
static size_t read_step(const struct buf *b)
{
	return MIN((size_t)64 * 1024, b->max - b->len);
}

int fd_read_to_end(int fd, struct buf *ret)
{
	for (;;) {
		size_t step = read_step(ret);
		char probe, *to = &probe;
		ssize_t n;

		if (step > 0) {
			int r = buf_reserve(ret, step, &to);

			if (r < 0)
				return r;
		}
		n = read(fd, to, step > 0 ? step : 1);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return 0;
		if (step == 0)
			return -ENOBUFS;
		buf_commit(ret, (size_t)n);
	}
}

int fd_read_file(const char *path, struct buf *ret, struct err *err)
{
	auto_fd fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	int r;

	if (fd < 0)
		return err_sys(err, "open %s", path);
	r = fd_read_to_end(fd, ret);
	if (r == -ENOBUFS)
		return err_set(err, r, "read %s: larger than %zu bytes", path, ret->max);
	return r < 0 ? err_sys_code(err, r, "read %s", path) : 0;
}

int fd_read_u64(int dir, const char *path, uint64_t *ret)
{
	auto_fd fd = openat(dir, path, O_RDONLY | O_CLOEXEC);
	char text[32];
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

	if (n < 0)
		return -errno;
	text[n] = '\0';
	text[strcspn(text, "\n")] = '\0';
	return str_to_u64(text, ret) < 0 ? -EPROTO : 0;
}

int fd_put_text(int dir, const char *path, const char *text)
{
	auto_fd fd = openat(dir, path, O_WRONLY | O_CLOEXEC);

	return fd < 0 || write(fd, text, strlen(text)) < 0 ? -errno : 0;
}

static int sync_parent(const char *path, struct err *err)
{
	const char *slash = strrchr(path, '/');
	char dir[PATH_MAX];
	auto_fd fd = -1;

	/* The caller has made a longer name of it, so it fits. */
	snprintf(dir, sizeof(dir), "%.*s", slash ? (int)(slash - path) + 1 : 1, slash ? path : ".");
	fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return err_sys(err, "open %s", dir);
	/* Some file systems cannot sync a folder and say EINVAL. */
	return fsync(fd) < 0 && errno != EINVAL ? err_sys(err, "sync %s", dir) : 0;
}

int fd_sync_names(const char *path, struct err *err)
{
	const char *slash = strrchr(path, '/');
	auto_free char *folder = slash ? strndup(path, (size_t)(slash - path)) : NULL;
	int r = sync_parent(path, err);

	return r < 0 || !folder || !*folder ? r : sync_parent(folder, err);
}

static int write_aside(const char *tmp, const void *p, size_t len, mode_t mode, struct err *err)
{
	auto_fd fd = open(tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
	int r;

	if (fd < 0)
		return err_sys(err, "create %s", tmp);
	if (fchmod(fd, mode) < 0) /* the umask does not decide */
		return err_sys(err, "chmod %s", tmp);
	r = fd_write_all(fd, p, len);
	if (r < 0)
		return err_sys_code(err, r, "write %s", tmp);
	return fsync(fd) < 0 ? err_sys(err, "sync %s", tmp) : 0;
}

int fd_write_file(const char *path, const void *p, size_t len, mode_t mode, struct err *err)
{
	char tmp[PATH_MAX];
	int r = snprintf(tmp, sizeof(tmp), "%s.%016llx", path, (unsigned long long)random_u64());

	if ((size_t)r >= sizeof(tmp))
		return err_set(err, -ENAMETOOLONG, "write %.64s...: path too long", path);
	r = write_aside(tmp, p, len, mode, err);
	if (r == 0 && rename(tmp, path) < 0)
		r = err_sys(err, "rename %s to %s", tmp, path);
	if (r < 0) {
		unlink(tmp);
		return r;
	}
	return sync_parent(path, err);
}

/* -- passing descriptors -------------------------------------------------------------------------------------- */

#define HOLD_S 10 /* longer than anybody takes who is not stopped */
#define HOLD_STACK 16384
#define FD_SENT_MAX 253 /* SCM_MAX_FD of the kernel: descriptors that anybody can put in one message; unix(7) */

union control {
	struct cmsghdr align;
	char bytes[CMSG_SPACE(FD_PASS_MAX * sizeof(int))];
};

int fd_send(int sock, const void *p, size_t len, const int *fds, size_t n_fds)
{
	union control control = { .bytes = { 0 } };
	struct iovec iov = { .iov_base = (void *)(uintptr_t)p, .iov_len = len };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	ssize_t n;

	if (n_fds > FD_PASS_MAX)
		return -EINVAL;
	if (n_fds > 0) {
		msg.msg_control = control.bytes;
		msg.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
		control.align = (struct cmsghdr){
			.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(n_fds * sizeof(int)),
		};
		memcpy(CMSG_DATA(&control.align), fds, n_fds * sizeof(int));
	}
	do {
		n = sendmsg(sock, &msg, MSG_NOSIGNAL);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	return (size_t)n == len ? 0 : -EIO;
}

bool fd_send_later(int r)
{
	return r == -EAGAIN || r == -ENOBUFS || r == -ENOMEM || r == -ETOOMANYREFS;
}

static bool is_unix(int fd)
{
	int domain;
	socklen_t len = sizeof(domain);

	return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) == 0 && domain == AF_UNIX;
}

static bool any_unix(const int *fds, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (is_unix(fds[i]))
			return true;
	return false;
}

/* In memory that it shares with its maker, which waits for it. Should that one end before, it does not stay. */
static int hold(void *arg UNUSED)
{
	const struct timespec t = { .tv_sec = HOLD_S };

	syscall(SYS_ppoll, NULL, 0, &t, NULL, 0);
	return 0;
}

void fd_close_sent(const int *fds, size_t n)
{
	_Alignas(16) char stack[HOLD_STACK];
	int saved = errno;
	pid_t child = any_unix(fds, n) ? clone(hold, stack + sizeof(stack), CLONE_VM | CLONE_UNTRACED, NULL) : 0;

	for (size_t i = 0; i < n; i++)
		fd_close_foreign(fds[i]);
	if (child > 0) {
		kill(child, SIGKILL);
		while (waitpid(child, NULL, __WCLONE) < 0 && errno == EINTR)
			;
	}
	errno = saved;
}

/* Room for all that can come: what has none is closed by the kernel, plainly. */
union full_control {
	struct cmsghdr align;
	char bytes[CMSG_SPACE(FD_SENT_MAX * sizeof(int)) + CMSG_SPACE(sizeof(struct ucred))];
};

/* The descriptors of a received message. */
static size_t take_fds(struct msghdr *msg, int ret[static FD_SENT_MAX])
{
	size_t n = 0;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		size_t k = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS || n + k > FD_SENT_MAX)
			continue;
		memcpy(ret + n, CMSG_DATA(c), k * sizeof(int));
		n += k;
	}
	return n;
}

int fd_recv(int sock, void *p, size_t cap, size_t *ret_len, int *ret_fds, size_t max_fds, size_t *ret_n_fds)
{
	union full_control control;
	struct iovec iov = { .iov_base = p, .iov_len = cap };
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof(control),
	};
	int fds[FD_SENT_MAX];
	size_t n_fds;
	ssize_t n;

	do {
		n = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	n_fds = take_fds(&msg, fds);
	if (msg.msg_flags & MSG_TRUNC || n_fds > max_fds) {
		fd_close_sent(fds, n_fds);
		return -EMSGSIZE;
	}
	if (msg.msg_flags & MSG_CTRUNC) {
		fd_close_sent(fds, n_fds);
		*ret_len = (size_t)n;
		return -EMFILE;
	}
	if (n_fds > 0)
		memcpy(ret_fds, fds, n_fds * sizeof(int));
	if (ret_n_fds)
		*ret_n_fds = n_fds;
	*ret_len = (size_t)n;
	return 0;
}

int fd_recv_foreign(int sock, void *p, size_t cap, size_t *ret_len, int *ret_fds, size_t max_fds, size_t *ret_n_fds)
{
	int r = fd_recv(sock, p, cap, ret_len, ret_fds, max_fds, ret_n_fds);

	if (r < 0 || !any_unix(ret_fds, *ret_n_fds))
		return r;
	fd_close_sent(ret_fds, *ret_n_fds);
	*ret_n_fds = 0;
	return -EPROTO;
}

/* The descriptors of one unread message. False = there is none: at the end of the stream recvmsg(2) says 0 as it does of an empty
 * message, but without the sender's credentials. */
static bool drop_message(int sock, int ret[static FD_SENT_MAX], size_t *ret_n)
{
	union full_control control;
	struct msghdr msg = { .msg_control = control.bytes, .msg_controllen = sizeof(control) };

	*ret_n = 0;
	if (recvmsg(sock, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT) < 0)
		return errno == EINTR;
	*ret_n = take_fds(&msg, ret);
	return msg.msg_controllen > 0;
}

/* Many at a time: each time may take a child. */
static void drop_messages(int sock)
{
	int fds[4 * FD_SENT_MAX];
	size_t n = 0, more = 0;

	while (drop_message(sock, fds + n, &more)) {
		n += more;
		if (n <= 3 * FD_SENT_MAX)
			continue;
		fd_close_sent(fds, n);
		n = 0;
	}
	fd_close_sent(fds, n + more);
}

int fd_close_channel(int sock)
{
	const int on = 1;
	int saved = errno;

	if (sock >= 0 && shutdown(sock, SHUT_RDWR) == 0 && setsockopt(sock, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) == 0)
		drop_messages(sock);
	errno = saved;
	return fd_close(sock);
}

/* -- files ---------------------------------------------------------------------------------------------------- */

int fd_memfd(int *ret, const char *name, const void *p, size_t len, struct err *err)
{
	auto_fd fd = memfd_create(name, MFD_CLOEXEC);
	int r;

	if (fd < 0)
		return err_sys(err, "memfd_create %s", name);
	r = fd_write_all(fd, p, len);
	if (r < 0)
		return err_sys_code(err, r, "write memfd %s", name);
	if (lseek(fd, 0, SEEK_SET) < 0)
		return err_sys(err, "seek memfd %s", name);
	*ret = fd_steal(&fd);
	return 0;
}

static int make_dir(const char *path, mode_t mode, struct err *err)
{
	struct stat st;

	if (mkdir(path, mode) == 0)
		return 0;
	if (errno != EEXIST)
		return err_sys(err, "mkdir %s", path);
	if (stat(path, &st) < 0)
		return err_sys(err, "stat %s", path);
	return S_ISDIR(st.st_mode) ? 0 : err_set(err, -ENOTDIR, "mkdir %s: something that is not a folder is there", path);
}

int fd_mkdirs(const char *path, mode_t mode, struct err *err)
{
	char part[PATH_MAX];
	size_t len = strlen(path);

	if (len == 0 || len >= sizeof(part))
		return err_set(err, len ? -ENAMETOOLONG : -EINVAL, "mkdir: path of %zu bytes: expected 1 to %zu", len,
			       sizeof(part) - 1);
	memcpy(part, path, len + 1);
	for (char *p = part + 1; *p; p++) {
		int r;

		if (*p != '/' || p[-1] == '/')
			continue;
		*p = '\0';
		r = make_dir(part, mode, err);
		if (r < 0)
			return r;
		*p = '/';
	}
	return make_dir(part, mode, err);
}
