/* git/run.c: one command of git, its output and the last line of what it said. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "git/private.h"

#define OUT_MAX (64u * 1024)
#define WORDS_MAX 40

struct stream {
	struct loop_io io;
	int fd;
	struct buf text;
	bool tail; /* keep the end instead of the beginning */
};

struct git_run {
	struct git *git;
	struct git_child *child; /* NULL = never started, or over */
	struct stream out, err;
	git_done_fn *done;
	void *arg;
	struct err failure;
};

static void stream_close(struct stream *s)
{
	loop_io_close(&s->io);
	s->fd = fd_close(s->fd);
}

/* Reads what is there; false at the end. */
static bool stream_read(struct stream *s)
{
	char p[8192];
	ssize_t n = read(s->fd, p, sizeof(p));

	if (n <= 0)
		return n < 0 && (errno == EAGAIN || errno == EINTR);
	if (s->tail && s->text.len + (size_t)n > s->text.max)
		buf_clear(&s->text);
	(void)!buf_append(&s->text, p, (size_t)n); /* more than fits: cut */
	return true;
}

static void on_readable(struct loop_io *io, uint32_t events, void *arg)
{
	(void)io;
	(void)events;
	if (!stream_read(arg))
		stream_close(arg);
}

static int stream_open(struct stream *s, struct loop *l, int *ret_child_end, struct err *err)
{
	int p[2];

	if (pipe2(p, O_CLOEXEC) < 0)
		return err_sys(err, "pipe");
	*ret_child_end = p[1];
	s->fd = p[0];
	if (fd_set_nonblock(s->fd, true) < 0)
		return err_sys(err, "pipe");
	return loop_io_open(&s->io, l, s->fd, EPOLLIN, on_readable, s, err);
}

/* The last line that says something; cut from the text in place. */
static const char *last_line(struct buf *b)
{
	while (b->len && strchr("\r\n ", b->data[b->len - 1]))
		b->data[--b->len] = '\0';
	const char *newline = memrchr(b->data, '\n', b->len);
	return newline ? newline + 1 : b->data;
}

static void run_free(void *arg)
{
	struct git_run *r = arg;

	stream_close(&r->out);
	stream_close(&r->err);
	buf_done(&r->out.text);
	buf_done(&r->err.text);
	free(r);
}

static void tell(struct git_run *r, int status)
{
	const char *said = last_line(&r->err.text);

	r->done(r->arg, status, r->out.text.data, said, r->failure.code ? &r->failure : NULL);
	loop_release(r->git->loop, run_free, r);
}

static void on_exit_status(void *arg, int status, bool timed_out)
{
	struct git_run *r = arg;

	r->child = NULL;
	while (r->out.fd >= 0 && stream_read(&r->out) && errno != EAGAIN)
		errno = 0;
	while (r->err.fd >= 0 && stream_read(&r->err) && errno != EAGAIN)
		errno = 0;
	if (timed_out)
		err_set(&r->failure, -ETIME, "git took longer than git.time_limit, %llu s",
			(unsigned long long)r->git->settings.time_limit_ms / 1000);
	tell(r, status);
}

static void on_not_started(void *arg)
{
	tell(arg, 127);
}

/* No configuration of a repository may matter but what git itself keeps there. */
static const char *const run_config[] = { "-c", "core.hooksPath=/dev/null", "-c", "gc.autoDetach=false",
					  "-c", "http.followRedirects=false", "-c", "http.lowSpeedLimit=1000",
					  "-c", "http.lowSpeedTime=60", "-c", "fetch.fsckObjects=true",
					  "-c", ("core.fsync=" GIT_FSYNC) };

static int start(struct git_run *r, const struct git_command *c, struct err *err)
{
	const char *argv[WORDS_MAX] = { "git" }, *env[16] = { NULL };
	auto_free char *dir = c->repository ? xasprintf("GIT_DIR=%s", c->repository) : NULL;
	auto_fd out = -1, err_fd = -1;
	size_t n = 1, m = 0;

	for (size_t i = 0; i < ARRAY_LEN(run_config); i++)
		argv[n++] = run_config[i];
	for (size_t i = 0; c->argv[i] && n < WORDS_MAX - 1; i++)
		argv[n++] = c->argv[i];
	if (dir)
		env[m++] = dir;
	for (size_t i = 0; c->env && c->env[i] && m < ARRAY_LEN(env) - 1; i++)
		env[m++] = c->env[i];
	int result = stream_open(&r->err, r->git->loop, &err_fd, err);
	if (result == 0 && c->stdout_fd < 0)
		result = stream_open(&r->out, r->git->loop, &out, err);
	if (result < 0)
		return result;
	struct git_spawn s = { .argv = argv, .env = env, .in = -1, .out = c->stdout_fd < 0 ? out : c->stdout_fd, .err = err_fd,
			       .hook = -1, .time_limit_ms = r->git->settings.time_limit_ms };
	return git_child_start(&r->child, r->git, &s, on_exit_status, r, err);
}

void git_start(struct git *g, const struct git_command *c, git_done_fn *done, void *arg)
{
	struct git_run *r = NEW(struct git_run);

	*r = (struct git_run){ .git = g, .done = done, .arg = arg, .out.fd = -1, .err = { .fd = -1, .tail = true } };
	buf_init(&r->out.text, OUT_MAX);
	buf_init(&r->err.text, OUT_MAX);
	if (start(r, c, &r->failure) < 0)
		loop_defer(g->loop, on_not_started, r);
}
