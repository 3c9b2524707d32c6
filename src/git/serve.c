/* git/serve.c: one request of git's protocol through `git http-backend`, a CGI program.
 *
 *   request body -> pending -> its standard input          waits: the request is paused above PENDING_BYTES
 *   its standard output -> head, then the answer           waits: not read while the client is slower
 *
 * It ends when the child has ended and its output is read. When the client goes first, a fetch is ended; a push loses its
 * input, so an incomplete one fails by itself, and a complete one is not left half done. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/str.h"
#include "git/private.h"
#include "http/client.h"

#define PENDING_BYTES (256u * 1024)
#define PENDING_MAX (16u * 1024 * 1024)
#define HEAD_MAX (16u * 1024)
#define SAID_MAX (4u * 1024)
#define READ_BYTES 65536

struct serve {
	struct git *git;
	struct list node;
	struct http_req *req;    /* NULL = the client is gone */
	char *namespace, *name;
	struct git_child *child; /* NULL = ended */
	struct git_push *push;   /* NULL = no push */
	int in, out, err;        /* our ends; -1 = closed */
	struct loop_io in_io, out_io, err_io;
	struct buf pending, head, said;
	uint64_t thrown_away;    /* bytes of the body that nobody reads any more */
	bool body_done, headed, exited;
	int status;
};

static void close_in(struct serve *s)
{
	loop_io_close(&s->in_io);
	s->in = fd_close(s->in);
	buf_clear(&s->pending);
}

static void close_out(struct serve *s)
{
	loop_io_close(&s->out_io);
	s->out = fd_close(s->out);
}

static void close_err(struct serve *s)
{
	loop_io_close(&s->err_io);
	s->err = fd_close(s->err);
}

static void serve_free(void *arg)
{
	struct serve *s = arg;

	buf_done(&s->pending);
	buf_done(&s->head);
	buf_done(&s->said);
	free(s->namespace);
	free(s->name);
	free(s);
}

/* Nothing calls it any more. */
static void serve_end(struct serve *s)
{
	close_in(s);
	close_out(s);
	close_err(s);
	git_child_forget(STEAL(s->child));
	s->push = push_free(s->push);
	list_remove(&s->node);
	s->git->n_serving--;
	loop_release(s->git->loop, serve_free, s);
}

/* The answer is whole, or there will be none. */
static void finish(struct serve *s)
{
	struct http_req *req = s->req;

	if (req) {
		http_req_on_close(req, NULL, NULL);
		http_reply_on_drain(req, NULL, NULL);
		if (s->headed)
			http_reply_end(req);
		else
			http_reply_error(req, 500, "git http-backend ended with status %d before it answered", s->status);
	}
	serve_end(s);
}

/* Not before the whole body came: a client that is still sending may take an early answer for a broken connection. */
static void finish_if_over(struct serve *s)
{
	bool waits_for_body = s->req && !s->body_done && s->thrown_away <= s->git->settings.push_max_bytes;

	if (s->exited && s->out < 0 && !waits_for_body)
		finish(s);
}

static void on_client_gone(struct http_req *req, bool complete, void *arg)
{
	struct serve *s = arg;

	(void)req;
	(void)complete;
	s->req = NULL;
	close_in(s);
	if (!s->push || push_changed(s->push)) {
		serve_end(s);
		return;
	}
	if (s->out >= 0)
		loop_io_set(&s->out_io, EPOLLIN); /* to be thrown away */
	finish_if_over(s); /* nothing else comes where it waited for the body alone */
}

/* -- its output -> the answer -------------------------------------------------------------------------------------- */

/* "404 Not Found" -> 404; 500 for what is none. */
static int status_of(const char *text)
{
	auto_free char *digits = xstrndup(text, strspn(text, "0123456789"));
	int64_t v;

	return str_to_i64(digits, &v) == 0 && v >= 200 && v < 600 ? (int)v : 500;
}

/* One header line of CGI. */
static void put_header(struct serve *s, char *line, int *status, const char **type)
{
	char *value = strchr(line, ':');

	if (!value)
		return;
	*value++ = '\0';
	value += strspn(value, " ");
	if (str_ieq(line, "Status"))
		*status = status_of(value);
	else if (str_ieq(line, "Content-Type"))
		*type = value;
	else if (!str_ieq(line, "Content-Length") && !http_is_hop_by_hop(line))
		http_reply_header(s->req, line, value);
}

static void start_answer(struct serve *s, char *head)
{
	const char *type = NULL;
	int status = 200;

	s->headed = true;
	if (!s->req)
		return;
	for (char *line; (line = strsep(&head, "\n"));) {
		line[strcspn(line, "\r")] = '\0';
		put_header(s, line, &status, &type);
	}
	http_reply_start(s->req, status, type, -1);
}

static void pass_on(struct serve *s, const char *p, size_t len)
{
	if (s->req && len && !http_reply_write(s->req, p, len))
		loop_io_set(&s->out_io, 0);
}

/* The header section, however many pieces it comes in; then what follows it. */
static void take_head(struct serve *s, const char *p, size_t len)
{
	if (buf_append(&s->head, p, len) < 0) {
		close_out(s);
		return;
	}
	char *end = memmem(s->head.data, s->head.len, "\r\n\r\n", 4);
	if (!end)
		return;
	*end = '\0';
	start_answer(s, s->head.data);
	pass_on(s, end + 4, s->head.len - (size_t)(end + 4 - s->head.data));
}

static void on_output(struct loop_io *io, uint32_t events, void *arg)
{
	struct serve *s = arg;
	char piece[READ_BYTES];
	bool ended = events & EPOLLHUP; /* is said again until it is read to its end: at most what one pipe holds */
	ssize_t n;

	(void)io;
	if (s->out < 0 || (!ended && s->req && s->headed && http_reply_queued(s->req) > 4 * READ_BYTES))
		return;
	n = read(s->out, piece, s->headed ? sizeof(piece) : HEAD_MAX / 2);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0)
		close_out(s);
	else if (s->headed)
		pass_on(s, piece, (size_t)n);
	else
		take_head(s, piece, (size_t)n);
	finish_if_over(s);
}

static void on_drained(struct http_req *req, void *arg)
{
	struct serve *s = arg;

	(void)req;
	if (s->out >= 0)
		loop_io_set(&s->out_io, EPOLLIN);
}

static void on_said(struct loop_io *io, uint32_t events, void *arg)
{
	struct serve *s = arg;
	char piece[1024];
	ssize_t n = read(s->err, piece, sizeof(piece));

	(void)io;
	(void)events;
	if (n > 0)
		(void)!buf_append(&s->said, piece, (size_t)n);
	else if (n == 0 || (errno != EAGAIN && errno != EINTR))
		close_err(s);
}

static void on_child_exit(void *arg, int status, bool timed_out)
{
	struct serve *s = arg;

	s->child = NULL;
	s->exited = true;
	s->status = status;
	if (status && s->req) {
		s->said.data[strcspn(s->said.data, "\r\n")] = '\0';
		log_event(LOG_INFO, "git", LOG_KV("repository", s->name, "said", s->said.data),
			  "http-backend ended with status %d%s",
			  status, timed_out ? ": it took longer than git.time_limit" : "");
	}
	close_in(s);
	if (s->req && !s->body_done)
		http_req_resume(s->req); /* what the client still sends is thrown away, so that it reads the answer */
	finish_if_over(s);
}

/* -- the body -> its input ----------------------------------------------------------------------------------------- */

static void write_input(struct serve *s)
{
	while (s->in >= 0 && s->pending.len) {
		ssize_t n = write(s->in, s->pending.data, s->pending.len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			break;
		if (n < 0) {
			close_in(s); /* it wants no more: its answer says why */
			http_req_resume(s->req);
			return;
		}
		buf_consume(&s->pending, (size_t)n);
	}
	if (s->in < 0)
		return;
	if (s->body_done && !s->pending.len)
		close_in(s);
	else
		loop_io_set(&s->in_io, s->pending.len ? EPOLLOUT : 0);
	if (!s->body_done && s->pending.len < PENDING_BYTES)
		http_req_resume(s->req);
}

static void on_input_room(struct loop_io *io, uint32_t events, void *arg)
{
	struct serve *s = arg;

	(void)io;
	(void)events;
	if (s->req)
		write_input(s);
}

static void on_body(struct http_req *req, const char *data, size_t len, void *arg)
{
	struct serve *s = arg;

	s->body_done = !data;
	if (s->in < 0) {
		s->thrown_away += len;
		finish_if_over(s);
		return;
	}
	if (data && buf_append(&s->pending, data, len) < 0) {
		http_req_abort(req);
		return;
	}
	if (s->pending.len >= PENDING_BYTES)
		http_req_pause(req);
	write_input(s);
}

/* -- the start ----------------------------------------------------------------------------------------------------- */

struct variables {
	char *list[40];
	size_t n;
};

static void put(struct variables *v, const char *name, const char *value)
{
	if (value && v->n < ARRAY_LEN(v->list) - 1)
		v->list[v->n++] = xasprintf("%s=%s", name, value);
}

static void variables_done(struct variables *v)
{
	for (size_t i = 0; i < v->n; i++)
		free(v->list[i]);
}

/* As if each were in a configuration file that no repository overrides. */
static void put_config(struct variables *v, const struct git *g)
{
	auto_free char *max = xasprintf("%llu", (unsigned long long)g->settings.push_max_bytes);
	auto_free char *hooks = xasprintf("%s/.hooks", g->root);
	const char *const rows[][2] = {
		{ "http.receivepack", "true" }, { "receive.maxInputSize", max }, { "transfer.fsckObjects", "true" },
		{ "core.hooksPath", hooks }, { "gc.autoDetach", "false" }, { "receive.keepAlive", "5" },
		{ "core.fsync", GIT_FSYNC },
	};
	char name[32], count[8];

	snprintf(count, sizeof(count), "%zu", ARRAY_LEN(rows));
	put(v, "GIT_CONFIG_COUNT", count);
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		snprintf(name, sizeof(name), "GIT_CONFIG_KEY_%zu", i);
		put(v, name, rows[i][0]);
		snprintf(name, sizeof(name), "GIT_CONFIG_VALUE_%zu", i);
		put(v, name, rows[i][1]);
	}
}

static void put_request(struct variables *v, const struct serve *s, const char *service_path, const char *user)
{
	auto_free char *path = xasprintf("/%s/%s.git%s", s->namespace, s->name, service_path);
	int64_t len = http_req_content_length(s->req);
	char number[32];

	snprintf(number, sizeof(number), "%lld", (long long)len);
	put(v, "GIT_PROJECT_ROOT", s->git->root);
	put(v, "PATH_INFO", path);
	put(v, "REMOTE_USER", user);
	put(v, "REMOTE_ADDR", "");
	put(v, "REQUEST_METHOD", http_req_method(s->req));
	put(v, "QUERY_STRING", http_req_raw_query(s->req));
	put(v, "CONTENT_TYPE", http_req_header(s->req, "Content-Type"));
	put(v, "CONTENT_LENGTH", len > 0 ? number : NULL);
	put(v, "HTTP_CONTENT_ENCODING", http_req_header(s->req, "Content-Encoding"));
	put(v, "GIT_PROTOCOL", http_req_header(s->req, "Git-Protocol"));
}

static int make_pipe(int *ret_ours, int *ret_its, bool ours_reads, struct err *err)
{
	int p[2];

	if (pipe2(p, O_CLOEXEC) < 0)
		return err_sys(err, "pipe");
	*ret_ours = p[ours_reads ? 0 : 1];
	*ret_its = p[ours_reads ? 1 : 0];
	int r = fd_set_nonblock(*ret_ours, true);
	return r < 0 ? err_sys_code(err, r, "pipe") : 0;
}

static void on_changed(void *arg)
{
	struct serve *s = arg;

	if (s->child)
		git_child_unlimit(s->child); /* from here on it waits for the deployment */
}

static int start(struct serve *s, const char *service_path, const char *user, const struct git_push_events *ev, void *arg,
		 struct err *err)
{
	static const char *const argv[] = { "git", "http-backend", NULL };
	struct variables v = { .n = 0 };
	auto_fd in = -1, out = -1, said = -1, hook = -1;
	struct loop *l = s->git->loop;
	int r = make_pipe(&s->in, &in, false, err);

	r = r < 0 ? r : make_pipe(&s->out, &out, true, err);
	r = r < 0 ? r : make_pipe(&s->err, &said, true, err);
	r = r < 0 ? r : loop_io_open(&s->in_io, l, s->in, 0, on_input_room, s, err);
	r = r < 0 ? r : loop_io_open(&s->out_io, l, s->out, EPOLLIN, on_output, s, err);
	r = r < 0 ? r : loop_io_open(&s->err_io, l, s->err, EPOLLIN, on_said, s, err);
	if (r == 0 && ev)
		r = push_new(&s->push, s->git, ev, arg, &hook, err);
	if (r < 0)
		return r;
	if (s->push)
		push_on_changed(s->push, on_changed, s);
	put_config(&v, s->git);
	put_request(&v, s, service_path, user);
	struct git_spawn spawn = { .argv = argv, .env = (const char *const *)v.list, .in = in, .out = out, .err = said,
				   .hook = hook, .time_limit_ms = s->git->settings.time_limit_ms };
	r = git_child_start(&s->child, s->git, &spawn, on_child_exit, s, err);
	variables_done(&v);
	return r;
}

void git_serve(struct git *g, struct http_req *req, const char *namespace, const char *name, const char *service_path,
	       const char *remote_user, const struct git_push_events *ev, void *arg)
{
	struct serve *s = NEW(struct serve);
	struct err err;

	*s = (struct serve){ .git = g, .req = req, .namespace = xstrdup(namespace), .name = xstrdup(name), .in = -1, .out = -1,
			     .err = -1 };
	buf_init(&s->pending, PENDING_MAX);
	buf_init(&s->head, HEAD_MAX);
	buf_init(&s->said, SAID_MAX);
	list_push_back(&g->serving, &s->node);
	int r = g->n_serving++ >= g->settings.max_processes ?
			err_set(&err, -EUSERS, "git.max_processes: %u pushes and fetches run already", g->settings.max_processes) :
			start(s, service_path, remote_user, ev, arg, &err);
	if (r < 0) {
		if (r == -EUSERS)
			http_reply_header(req, "Retry-After", "5");
		http_reply_error(req, r == -EUSERS ? 429 : 500, "%s", err.msg);
		if (ev && !s->push)
			ev->gone(arg, NULL);
		serve_end(s);
		return;
	}
	http_req_on_close(req, on_client_gone, s);
	http_req_watch_peer(req);
	http_reply_on_drain(req, on_drained, s);
	s->body_done = http_req_content_length(req) == 0;
	if (s->body_done)
		close_in(s);
	else
		http_req_stream(req, on_body, s);
}

int serve_check_rename(const struct git *g, const char *namespace, const char *old_name, const char *new_name, struct err *err)
{
	list_foreach((struct list *)&g->serving, struct serve, node, s)
		if (str_eq(s->namespace, namespace) && (str_eq(s->name, old_name) || str_eq(s->name, new_name)))
			return err_set(err, -EBUSY, "the repository \"%s/%s\" is being pushed to or fetched from: try again",
				       namespace,
				       s->name);
	return 0;
}
