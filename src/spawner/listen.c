#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/fd.h"
#include "spawner/spawner.h"

#define BACKLOG 4096 /* clients wait here while the daemon is being replaced */

/* "[::1]:80" -> "::1", "80". */
static int split(const char *address, char *host, size_t cap, const char **port, struct err *err)
{
	const char *colon = strrchr(address, ':');
	const char *begin = address, *end = colon;

	if (colon && *begin == '[' && colon > begin + 1 && colon[-1] == ']') {
		begin++;
		end--;
	}
	if (!colon || !colon[1] || (size_t)(end - begin) >= cap)
		return err_set(err, -EINVAL, "listen \"%s\": expected HOST:PORT", address);
	memcpy(host, begin, (size_t)(end - begin));
	host[end - begin] = 0;
	*port = colon + 1;
	return 0;
}

static int open_address(const struct addrinfo *ai, const char *address, int *ret, struct err *err)
{
	auto_fd fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	const int one = 1;

	if (fd < 0)
		return err_sys(err, "listen %s: socket", address);
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0)
		return err_sys(err, "listen %s: SO_REUSEADDR", address);
	if (bind(fd, ai->ai_addr, ai->ai_addrlen) < 0)
		return errno == EADDRINUSE ? err_set(err, -EADDRINUSE, "listen %s: address already in use", address)
					   : err_sys(err, "listen %s", address);
	if (listen(fd, BACKLOG) < 0)
		return err_sys(err, "listen %s", address);
	*ret = fd_steal(&fd);
	return 0;
}

int listen_open(const char *address, int *ret, struct err *err)
{
	struct addrinfo hints = { .ai_flags = AI_PASSIVE | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM }, *ai = NULL;
	const char *port = NULL;
	char host[256];
	int r = split(address, host, sizeof(host), &port, err);

	if (r < 0)
		return r;
	r = getaddrinfo(host[0] ? host : NULL, port, &hints, &ai);
	if (r != 0)
		return err_set(err, -EINVAL, "listen %s: %s", address, gai_strerror(r));
	r = open_address(ai, address, ret, err);
	freeaddrinfo(ai);
	return r;
}

int listen_control(const char *path, gid_t gid, int *ret, struct err *err)
{
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	auto_fd fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return err_sys(err, "control socket");
	if ((size_t)snprintf(un.sun_path, sizeof(un.sun_path), "%s", path) >= sizeof(un.sun_path))
		return err_set(err, -ENAMETOOLONG, "%s: a socket's path has at most %zu bytes", path,
			       sizeof(un.sun_path) - 1);
	/* The lock says that whoever made an old one is gone. */
	if (unlink(path) < 0 && errno != ENOENT)
		return err_sys(err, "remove %s", path);
	if (bind(fd, (struct sockaddr *)&un, sizeof(un)) < 0)
		return err_sys(err, "bind %s", path);
	/* lchown, lchmod in effect: a socket is not followed, and who may connect is checked again by credentials. */
	if (lchown(path, 0, gid) < 0 || fchmodat(AT_FDCWD, path, 0660, 0) < 0)
		return err_sys(err, "set owner and mode of %s", path);
	if (listen(fd, 16) < 0)
		return err_sys(err, "listen on %s", path);
	*ret = fd_steal(&fd);
	return 0;
}
