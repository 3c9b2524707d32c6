/* base/fd.h: descriptors: ownership, whole reads and writes, passing over unix sockets. Everything opened here is
 * close-on-exec. Used by every program; no allocation unless said. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/buf.h"
#include "base/err.h"

int fd_close(int fd); /* ignores -1, keeps errno; always returns -1: fd = fd_close(fd) */

static inline void auto_fd_impl(int *fd)
{
	*fd = fd_close(*fd);
}
#define auto_fd AUTO(auto_fd_impl) int

static inline int fd_steal(int *fd)
{
	int f = *fd;
	*fd = -1;
	return f;
}

/* The same for what came from a program that is not trusted and may hold it too. A socket with a time to linger would make close(2)
 * wait for its peer, O_NONBLOCK or not (socket(7)): it is taken away before. Whoever sets it again in between still wins. */
int fd_close_foreign(int fd);
/* A TCP connection is broken off with an RST, and what was not sent is dropped. As above. */
int fd_reset(int fd);
/* Any that such a program sent. In a unix socket others can lie that were not received, and in those again: a process that
 * closes the last of it closes all, and lingers. One that ends does not wait (inet_release() looks at PF_EXITING), so where there
 * is such a one a child has them last. */
void fd_close_sent(const int *fds, size_t n);
/* A unix socket at whose other end such a program is: the descriptors in what was not read are closed as above, where close(2)
 * would close them plainly. Nothing more can be sent to it from here on. */
int fd_close_channel(int sock);

/* -errno of fcntl(2), as -EBADF. */
MUST_CHECK int fd_set_nonblock(int fd, bool on);
MUST_CHECK int fd_set_cloexec(int fd, bool on);

/* All of len or a negative errno; EINTR is retried; -EPIPE/-EIO for a short end. For blocking descriptors. */
MUST_CHECK int fd_write_all(int fd, const void *p, size_t len);
MUST_CHECK int fd_read_all(int fd, void *p, size_t len);
/* Appends the rest of a file, up to the buffer's maximum; -ENOBUFS when there is more, with what fitted in the buffer. */
MUST_CHECK int fd_read_to_end(int fd, struct buf *ret);
/* The same by name; errors name the path. */
MUST_CHECK int fd_read_file(const char *path, struct buf *ret, struct err *err);
/* The number that a file of the kernel's holds, at most 30 bytes of it; a path, or a name in dir. -EPROTO: it is none. */
MUST_CHECK int fd_read_u64(int dir, const char *path, uint64_t *ret);
/* What a file of the kernel's takes as its value, in one write; a path, or a name in dir. */
MUST_CHECK int fd_put_text(int dir, const char *path, const char *text);
/* Written aside (in the same folder), synced and renamed, the folder synced: after a power cut there is the old content
 * or the new, never a part. The file gets exactly this mode whatever the umask. Nothing is left behind on failure. */
MUST_CHECK int fd_write_file(const char *path, const void *p, size_t len, mode_t mode, struct err *err);
/* The names that lead to path are on the disk: its own in its folder, and that folder's in the one above. */
MUST_CHECK int fd_sync_names(const char *path, struct err *err);

#define FD_PASS_MAX 8 /* descriptors in one message */

/* One message on a SEQPACKET or DGRAM socket with up to FD_PASS_MAX descriptors (which stay the caller's).
 * Returns 0, or a negative errno; -EAGAIN on a full non-blocking socket. MSG_NOSIGNAL is set. */
MUST_CHECK int fd_send(int sock, const void *p, size_t len, const int *fds, size_t n_fds);
/* Of what it returned: a socket without room, or a shortage that passes. */
bool fd_send_later(int r);

/* Receives one message: *ret_len bytes (0 = the peer closed) and its descriptors, close-on-exec, now the caller's.
 * -EMSGSIZE when it did not fit (descriptors are closed), -EAGAIN, or another negative errno. -EMFILE: this process has no room for
 * its descriptors, which are closed; the message is there without them, and *ret_len is set. */
MUST_CHECK int fd_recv(int sock, void *p, size_t cap, size_t *ret_len, int *ret_fds, size_t max_fds, size_t *ret_n_fds);
/* From a program that is not trusted, which has no reason to send a unix socket: -EPROTO, and nothing of the message is there. */
MUST_CHECK int fd_recv_foreign(int sock, void *p, size_t cap, size_t *ret_len, int *ret_fds, size_t max_fds, size_t *ret_n_fds);

/* A memory file (memfd) that holds p; read position 0. name shows in /proc. */
MUST_CHECK int fd_memfd(int *ret, const char *name, const void *p, size_t len, struct err *err);

/* mkdir -p with a mode (less the umask) for what is made; what is there already keeps its own. -ENOTDIR when something
 * else is in the way. Symbolic links are followed: not for paths that others may write to. */
MUST_CHECK int fd_mkdirs(const char *path, mode_t mode, struct err *err);
