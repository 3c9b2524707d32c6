/* bench/upstream [PORT]: the least environment server that the gateway can be measured with: /call is answered with an event
 * stream of three pieces, about 1 KiB together, /big?MB with so many MB, everything else with a short JSON object once its
 * body is read. One thread, static: a long body holds all others up, and nothing else is measured beside one. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define CONNS_MAX 1024
#define REQUEST_MAX 16384

static char *buffers[CONNS_MAX]; /* by descriptor */
static size_t lengths[CONNS_MAX];
static char piece[3][800];
static size_t piece_len[3];

/* One event as one chunk of the body. */
static void make_piece(int n, const char *event, const char *data, const char *tail)
{
	char text[700];
	int len = snprintf(text, sizeof(text), "event: %s\ndata: %s\n\n", event, data);

	piece_len[n] = (size_t)snprintf(piece[n], sizeof(piece[n]), "%x\r\n%s\r\n%s", (unsigned)len, text, tail);
}

static void make_pieces(void)
{
	char half[401];

	memset(half, 'x', sizeof(half) - 1);
	half[sizeof(half) - 1] = 0;
	char data[600];

	make_piece(0, "task_id", "00000000-0000-4000-8000-000000000001", "");
	snprintf(data, sizeof(data), "{\"ok\": true, \"output\": {\"blocks\": [{\"type\": \"text\", \"text\": \"%s", half);
	make_piece(1, "chunk", data, "");
	snprintf(data, sizeof(data), "%s\"}], \"metadata\": {}, \"reward\": 0.5, \"finished\": false}}", half);
	make_piece(2, "end", data, "0\r\n\r\n");
}

static void send_all(int fd, const char *p, size_t n)
{
	while (n > 0) {
		ssize_t w = send(fd, p, n, MSG_NOSIGNAL);

		if (w < 0)
			return; /* the reader finds out */
		p += w;
		n -= (size_t)w;
	}
}

static void answer_big(int fd, unsigned long mb)
{
	static char zeros[1 << 16];
	char head[128];
	int n = snprintf(head, sizeof(head), "HTTP/1.1 200 OK\r\nContent-Length: %lu\r\n\r\n", mb << 20);

	send_all(fd, head, (size_t)n);
	for (mb <<= 4; mb > 0; mb--)
		send_all(fd, zeros, sizeof(zeros));
}

static void answer(int fd, const char *request)
{
	static const char stream[] =
		"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
	static const char other[] =
		"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 16\r\n\r\n{\"status\": \"ok\"}";
	const char *end = strstr(request, " HTTP/"), *big = strstr(request, "/big?");
	char first[sizeof(stream) + sizeof(piece[0])];

	if (big && big < end) {
		answer_big(fd, strtoul(big + 5, NULL, 10));
		return;
	}
	if (!end || end - request < 5 || memcmp(end - 5, "/call", 5) != 0) {
		send_all(fd, other, sizeof(other) - 1);
		return;
	}
	memcpy(first, stream, sizeof(stream) - 1);
	memcpy(first + sizeof(stream) - 1, piece[0], piece_len[0]);
	send_all(fd, first, sizeof(stream) - 1 + piece_len[0]);
	send_all(fd, piece[1], piece_len[1]);
	send_all(fd, piece[2], piece_len[2]);
}

/* Bytes of the first whole request, 0 = there is none yet. */
static size_t whole(const char *p)
{
	const char *end = strstr(p, "\r\n\r\n"), *h = strcasestr(p, "\r\ncontent-length:");
	const char *chunked = strcasestr(p, "\r\ntransfer-encoding:"), *last;

	if (!end)
		return 0;
	end += 4;
	if (h && h < end)
		end += strtoul(h + 17, NULL, 10);
	else if (chunked && chunked < end) {
		last = strstr(end, "0\r\n\r\n");
		return last ? (size_t)(last + 5 - p) : 0;
	}
	return strlen(p) >= (size_t)(end - p) ? (size_t)(end - p) : 0;
}

/* A body that is longer than the buffer is read and forgotten here; its end stays for whole(). */
static void skip_long_body(int fd)
{
	static char sink[1 << 16];
	char *p = buffers[fd], *end = strstr(p, "\r\n\r\n"), *h = strcasestr(p, "\r\ncontent-length:");
	unsigned long length = end && h && h < end ? strtoul(h + 17, NULL, 10) : 0, have;
	ssize_t n = 1;

	if (length < REQUEST_MAX / 2)
		return;
	have = lengths[fd] - (size_t)(end + 4 - p);
	while (have < length && n > 0) {
		n = read(fd, sink, length - have < sizeof(sink) ? length - have : sizeof(sink));
		have += n > 0 ? (unsigned long)n : 0;
	}
	lengths[fd] = (size_t)snprintf(p, REQUEST_MAX, "POST /upload HTTP/1.1\r\n\r\n");
}

static void drop(int fd)
{
	free(buffers[fd]);
	buffers[fd] = NULL;
	close(fd);
}

static void on_readable(int fd)
{
	ssize_t n = read(fd, buffers[fd] + lengths[fd], REQUEST_MAX - lengths[fd] - 1);
	size_t used;

	if (n <= 0) {
		drop(fd);
		return;
	}
	lengths[fd] += (size_t)n;
	buffers[fd][lengths[fd]] = 0;
	skip_long_body(fd);
	while ((used = whole(buffers[fd])) > 0) {
		answer(fd, buffers[fd]);
		lengths[fd] -= used;
		memmove(buffers[fd], buffers[fd] + used, lengths[fd] + 1);
	}
}

static void on_connection(int listener, int epoll_fd)
{
	int fd = accept(listener, NULL, NULL), on = 1;
	struct epoll_event e = { .events = EPOLLIN, .data.fd = fd };

	if (fd < 0)
		return;
	if (fd >= CONNS_MAX || !(buffers[fd] = malloc(REQUEST_MAX))) {
		close(fd);
		return;
	}
	lengths[fd] = 0;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &e);
}

int main(int argc, char **argv)
{
	const char *port = argc > 1 ? argv[1] : getenv("PORT");
	struct sockaddr_in a = {
		.sin_family = AF_INET, .sin_port = htons((uint16_t)(port ? strtol(port, NULL, 10) : 8080)),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	int listener = socket(AF_INET, SOCK_STREAM, 0), epoll_fd = epoll_create1(0), on = 1;
	struct epoll_event e = { .events = EPOLLIN, .data.fd = listener };

	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(listener, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(listener, 128) < 0 ||
	    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &e) < 0) {
		perror("upstream");
		return 1;
	}
	make_pieces();
	while (epoll_wait(epoll_fd, &e, 1, -1) > 0 || errno == EINTR) {
		if (e.data.fd == listener)
			on_connection(listener, epoll_fd);
		else
			on_readable(e.data.fd);
	}
	return 1;
}
