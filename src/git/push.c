/* git/push.c: the hook's other end: changes come in, lines go out. */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/str.h"
#include "git/private.h"

#define REPORT_MAX (1024u * 1024)
#define LINES_MAX (256u * 1024)
#define CHANGES_MAX 4096

struct git_push {
	struct git *git;
	int fd; /* -1 = closed */
	struct loop_io io;
	struct buf in, out;
	bool changed, ended;
	const struct git_push_events *ev;
	void *arg;
	loop_fn *on_changed;
	void *on_changed_arg;
};

static void close_fd(struct git_push *p)
{
	loop_io_close(&p->io);
	p->fd = fd_close(p->fd);
}

static bool is_id(const char *s)
{
	size_t n = strspn(s, "0123456789abcdef");

	return !s[n] && (n == 40 || n == 64);
}

/* "OLD NEW REF" each; cut in place. */
static size_t parse(char *text, struct git_ref_change *ret, size_t max)
{
	size_t n = 0;

	for (char *line; n < max && (line = strsep(&text, "\n"));) {
		const char *old = strsep(&line, " "), *new = line ? strsep(&line, " ") : NULL;
		if (new && line && is_id(old) && is_id(new) && str_starts(line, "refs/"))
			ret[n++] = (struct git_ref_change){ .ref = line, .old_id = old, .new_id = new };
	}
	return n;
}

static void report(struct git_push *p)
{
	struct git_ref_change *changes = xcalloc(CHANGES_MAX, sizeof(*changes));
	size_t n = parse(p->in.data, changes, CHANGES_MAX);

	p->changed = true;
	if (p->on_changed)
		p->on_changed(p->on_changed_arg);
	p->ev->changed(p->arg, p, changes, n);
	free(changes);
}

static bool is_whole(const struct buf *b)
{
	return b->len >= 2 && memcmp(b->data + b->len - 2, "\n\n", 2) == 0;
}

static void read_report(struct git_push *p)
{
	char piece[8192];
	ssize_t n = recv(p->fd, piece, sizeof(piece), 0);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		close_fd(p);
		return;
	}
	if (p->changed)
		return; /* nothing more is expected */
	if (buf_append(&p->in, piece, (size_t)n) < 0)
		close_fd(p);
	else if (is_whole(&p->in))
		report(p);
}

static void write_lines(struct git_push *p)
{
	while (p->fd >= 0 && p->out.len) {
		ssize_t n = send(p->fd, p->out.data, p->out.len, MSG_NOSIGNAL);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			break;
		if (n <= 0) {
			close_fd(p);
			return;
		}
		buf_consume(&p->out, (size_t)n);
	}
	if (p->fd < 0)
		return;
	if (p->ended && !p->out.len)
		close_fd(p); /* the hook's end of file */
	else
		loop_io_set(&p->io, EPOLLIN | (p->out.len ? EPOLLOUT : 0u));
}

static void on_socket(struct loop_io *io, uint32_t events, void *arg)
{
	struct git_push *p = arg;

	(void)io;
	if (events & EPOLLOUT)
		write_lines(p);
	if (p->fd >= 0 && events & (EPOLLIN | EPOLLHUP | EPOLLERR))
		read_report(p);
}

void git_push_say(struct git_push *p, const char *line)
{
	auto_free char *text = xstrdup(line);

	for (char *c = text; *c; c++)
		if (((unsigned char)*c < 0x20 && *c != '\t') || *c == 0x7f)
			*c = '?';
	if (p->fd < 0 || buf_printf(&p->out, "%s\n", text) < 0)
		return;
	write_lines(p);
}

void git_push_end(struct git_push *p)
{
	p->ended = true;
	write_lines(p);
}

int push_new(struct git_push **ret, struct git *g, const struct git_push_events *ev, void *arg, int *ret_child_fd,
	     struct err *err)
{
	int ends[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
		return err_sys(err, "socketpair");
	struct git_push *p = NEW(struct git_push);
	*p = (struct git_push){ .git = g, .fd = ends[0], .ev = ev, .arg = arg };
	buf_init(&p->in, REPORT_MAX);
	buf_init(&p->out, LINES_MAX);
	int r = fd_set_nonblock(ends[0], true);
	r = r < 0 ? err_sys_code(err, r, "socketpair") : loop_io_open(&p->io, g->loop, ends[0], EPOLLIN, on_socket, p, err);
	if (r < 0) {
		fd_close(ends[1]);
		p->ended = true;
		push_free(p);
		return r;
	}
	*ret_child_fd = ends[1];
	*ret = p;
	return 0;
}

bool push_changed(const struct git_push *p)
{
	return p->changed;
}

void push_on_changed(struct git_push *p, loop_fn *fn, void *arg)
{
	p->on_changed = fn;
	p->on_changed_arg = arg;
}

static void destroy(void *arg)
{
	struct git_push *p = arg;

	buf_done(&p->in);
	buf_done(&p->out);
	free(p);
}

struct git_push *push_free(struct git_push *p)
{
	if (!p)
		return NULL;
	close_fd(p);
	if (!p->ended)
		p->ev->gone(p->arg, p);
	loop_release(p->git->loop, destroy, p); /* a callback of it may be running */
	return NULL;
}
