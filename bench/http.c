/* bench/http HOST PORT KEY IMAGE: the HTTP interface as a client that costs nothing uses it: one kept connection, answers
 * read as they come. See worker.h. Cases:
 *   create COMMAND     POST /create_sandbox of IMAGE, /run of the command, /delete_session. Parts: these three
 *   run COMMAND        POST /run in a sandbox that lives on
 *   ping               POST /ping of the same
 *   cold               POST /create_session with an instance of its own, /delete_session. Parts: these two
 *   do write MB, do read MB   a file of so many MB into the same, in pieces of 4 MiB with the commit; out of it, with its hash
 *   call, call-new     POST /call through the gateway in the session of `do session`; -new: a connection for each
 *   do session NAME    opens a session of the environment OWNER/NAME
 *   do probe           a sandbox that runs /probe: its sid, its result, and it goes when a line comes
 *   do repeat COUNT    one command so many times, the same body each time; prints the result of counting them */
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/fd.h"
#include "worker.h"

#define BODY_MAX (5u << 20)
#define TIMEOUT_S 60

struct client {
	const char *host, *port, *key, *image;
	struct addrinfo *address;
	int fd; /* -1 = not connected */
	char in[65536];
	size_t in_at, in_len;
	int status;
	char body[BODY_MAX + 1]; /* of the last answer */
	size_t body_len;
	char json[BODY_MAX + 1]; /* of the last event stream: data of chunk and end, joined */
	char task_id[64];        /* of the same */
	char living[64];         /* sid of the sandbox of `run` */
	unsigned int runs;       /* makes each request another one */
	char session[64], environment[128]; /* of `call` */
};

/* -- a connection ------------------------------------------------------------------------------------------------------- */
static int client_connect(struct client *c, struct err *err)
{
	const struct timeval t = { .tv_sec = TIMEOUT_S };
	int on = 1;

	if (!c->address)
		return err_set(err, -EINVAL, "%s has no address", c->host);
	c->in_at = c->in_len = 0;
	c->fd = socket(c->address->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (c->fd < 0 || connect(c->fd, c->address->ai_addr, c->address->ai_addrlen) < 0)
		return err_sys(err, "connect to %s:%s", c->host, c->port);
	setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof(t));
	return 0;
}

static void client_disconnect(struct client *c)
{
	c->fd = fd_close(c->fd);
}

static int fill(struct client *c, struct err *err)
{
	ssize_t n = read(c->fd, c->in, sizeof(c->in));

	if (n < 0)
		return err_sys(err, "read the answer");
	if (n == 0)
		return err_set(err, -ECONNRESET, "the server closed the connection within an answer");
	c->in_at = 0;
	c->in_len = (size_t)n;
	return 0;
}

static int read_line(struct client *c, char *ret, size_t cap, struct err *err)
{
	size_t n = 0;

	for (;;) {
		int r = c->in_at == c->in_len ? fill(c, err) : 0;

		if (r < 0)
			return r;
		ret[n] = c->in[c->in_at++];
		if (ret[n] == '\n')
			break;
		if (++n == cap)
			return err_set(err, -EMSGSIZE, "a line of the answer is too long");
	}
	ret[n > 0 && ret[n - 1] == '\r' ? n - 1 : n] = 0;
	return 0;
}

static int read_bytes(struct client *c, size_t n, struct err *err)
{
	if (c->body_len + n > BODY_MAX)
		return err_set(err, -EMSGSIZE, "the answer is too long");
	while (n > 0) {
		int r = c->in_at == c->in_len ? fill(c, err) : 0;
		size_t part = MIN(n, c->in_len - c->in_at);

		if (r < 0)
			return r;
		memcpy(c->body + c->body_len, c->in + c->in_at, part);
		c->body_len += part;
		c->in_at += part;
		n -= part;
	}
	return 0;
}

static int read_chunks(struct client *c, struct err *err)
{
	char line[256];
	size_t n = 1;
	int r = 0;

	while (r == 0 && n > 0) {
		r = read_line(c, line, sizeof(line), err);
		n = r == 0 ? strtoul(line, NULL, 16) : 0;
		if (r == 0)
			r = read_bytes(c, n, err);
		if (r == 0)
			r = read_line(c, line, sizeof(line), err);
	}
	return r;
}

static int read_answer(struct client *c, struct err *err)
{
	char line[4096];
	size_t length = 0;
	bool chunked = false;
	int r = read_line(c, line, sizeof(line), err);

	c->status = r == 0 && strlen(line) > 9 ? (int)strtol(line + 9, NULL, 10) : 0;
	c->body_len = 0;
	while (r == 0 && (r = read_line(c, line, sizeof(line), err)) == 0 && line[0]) {
		if (strncasecmp(line, "content-length:", 15) == 0)
			length = strtoul(line + 15, NULL, 10);
		else if (strncasecmp(line, "transfer-encoding:", 18) == 0)
			chunked = true;
	}
	if (r == 0)
		r = chunked ? read_chunks(c, err) : read_bytes(c, length, err);
	c->body[c->body_len] = 0;
	return r;
}

/* A kept connection that nothing was asked on for long is closed by the server. */
static void drop_if_closed(struct client *c)
{
	char byte;

	if (c->fd >= 0 && recv(c->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0)
		client_disconnect(c);
}

static int ask_bytes(struct client *c, const char *path, const char *more, const char *type, const void *body, size_t len,
		     struct err *err)
{
	char head[4096];
	int n = snprintf(head, sizeof(head),
			 "POST %s HTTP/1.1\r\nHost: %s:%s\r\nX-API-Key: %s\r\n%sContent-Type: %s\r\nContent-Length: %zu\r\n\r\n", path, c->host,
			 c->port, c->key, more, type, len);
	struct iovec parts[] = { { head, (size_t)n }, { (void *)(uintptr_t)body, len } };
	ssize_t sent;
	int r;

	drop_if_closed(c);
	r = c->fd < 0 ? client_connect(c, err) : 0;
	if (r < 0)
		return r;
	if ((size_t)n >= sizeof(head))
		return err_set(err, -EMSGSIZE, "%s: the request is too long", path);
	sent = writev(c->fd, parts, ARRAY_LEN(parts));
	if (sent >= 0 && (size_t)sent < (size_t)n + len)
		r = fd_write_all(c->fd, (const char *)body + ((size_t)sent - (size_t)n), len - ((size_t)sent - (size_t)n));
	if (sent < n || r < 0)
		r = err_sys(err, "%s: send", path);
	else
		r = read_answer(c, err);
	if (r == 0 && c->status != 200)
		r = err_set(err, -EIO, "%s: %d %.300s", path, c->status, c->body);
	if (r < 0)
		client_disconnect(c);
	return r;
}

static int ask(struct client *c, const char *path, const char *more, const char *body, struct err *err)
{
	return ask_bytes(c, path, more, "application/json", body, strlen(body), err);
}

/* -- event streams ---------------------------------------------------------------------------------------------------- */
static void take_event(struct client *c, const char *event, const char *data, size_t len, size_t *json_len)
{
	if (strcmp(event, "task_id") == 0) {
		snprintf(c->task_id, sizeof(c->task_id), "%.*s", (int)len, data);
	} else if (strcmp(event, "chunk") == 0 || strcmp(event, "end") == 0) {
		memcpy(c->json + *json_len, data, len);
		*json_len += len;
	}
}

/* Of the last answer, which must have an end and no error. */
static int read_events(struct client *c, const char *path, struct err *err)
{
	char event[32] = "";
	size_t json_len = 0;

	c->task_id[0] = 0;
	for (char *p = c->body, *end; (end = strchr(p, '\n')); p = end + 1) {
		if (strncmp(p, "event: ", 7) == 0)
			snprintf(event, sizeof(event), "%.*s", (int)(end - p - 7), p + 7);
		else if (strncmp(p, "data: ", 6) == 0)
			take_event(c, event, p + 6, (size_t)(end - p - 6), &json_len);
		if (strcmp(event, "error") == 0 && strncmp(p, "data: ", 6) == 0)
			return err_set(err, -EIO, "%s: %.*s", path, (int)(end - p - 6), p + 6);
	}
	c->json[json_len] = 0;
	return strcmp(event, "end") == 0 ? 0 : err_set(err, -EIO, "%s: no end in %.300s", path, c->body);
}

static int ask_events(struct client *c, const char *path, const char *more, const char *body, struct err *err)
{
	int r = ask(c, path, more, body, err);

	return r < 0 ? r : read_events(c, path, err);
}

/* -- sandboxes ----------------------------------------------------------------------------------------------------------- */
static int box_make(struct client *c, char *ret_sid, size_t cap, struct err *err)
{
	char body[512];
	int r;

	snprintf(body, sizeof(body), "{\"image\": \"%s\", \"machine_size\": \"1:1\"}", c->image);
	r = ask_events(c, "/create_sandbox", "", body, err);
	if (r == 0)
		snprintf(ret_sid, cap, "%s", c->task_id);
	return r;
}

/* unique: no two bodies are the same, so that nothing could take one for the repetition of another. */
static int box_run(struct client *c, const char *sid, const char *command, bool unique, struct err *err)
{
	char body[1024], session[128];
	int r;

	snprintf(session, sizeof(session), "X-Session-ID: %s\r\n", sid);
	snprintf(body, sizeof(body), "{\"cmd\": \"%s\", \"timeout_s\": 60, \"max_bytes\": %u}", command,
		 unique ? 50000 + c->runs++ % 50000 : 50000);
	r = ask_events(c, "/run", session, body, err);
	if (r == 0 && !strstr(c->json, "\"return_code\":0") && !strstr(c->json, "\"return_code\": 0"))
		return err_set(err, -EIO, "/run of %s: %.300s", command, c->json);
	return r;
}

static int box_end(struct client *c, const char *sid, struct err *err)
{
	char session[128];

	snprintf(session, sizeof(session), "X-Session-ID: %s\r\n", sid);
	return ask(c, "/delete_session", session, "{}", err);
}

static int create(struct client *c, const char *command, struct sample *s, struct err *err)
{
	char sid[64];
	struct err second;
	int r;

	sample_begin(s);
	r = box_make(c, sid, sizeof(sid), err);
	if (r < 0)
		return r;
	sample_part(s);
	r = box_run(c, sid, command, true, err);
	sample_part(s);
	if (box_end(c, sid, r < 0 ? &second : err) < 0 && r == 0)
		r = -EIO;
	sample_part(s);
	return r;
}

static int run(struct client *c, const char *command, struct sample *s, struct err *err)
{
	int r = c->living[0] ? 0 : box_make(c, c->living, sizeof(c->living), err);

	sample_begin(s);
	if (r == 0)
		r = box_run(c, c->living, command, true, err);
	sample_part(s);
	return r;
}

static int living(struct client *c, char *ret_header, size_t cap, struct err *err)
{
	int r = c->living[0] ? 0 : box_make(c, c->living, sizeof(c->living), err);

	snprintf(ret_header, cap, "X-Session-ID: %s\r\n", c->living);
	return r;
}

static int ping(struct client *c, struct sample *s, struct err *err)
{
	char session[128];
	int r = living(c, session, sizeof(session), err);

	sample_begin(s);
	if (r == 0)
		r = ask(c, "/ping", session, "{}", err);
	sample_part(s);
	return r;
}

/* -- files ---------------------------------------------------------------------------------------------------------------- */
#define FILE_PATH "/tmp/bench"

static int write_file(struct client *c, unsigned long mb, struct err *err)
{
	char session[128], path[128];
	size_t piece = (size_t)4 << 20;
	auto_free char *data = malloc(piece);
	int r = living(c, session, sizeof(session), err);

	if (!data)
		return err_set(err, -ENOMEM, "no memory for a piece");
	memset(data, 'x', piece);
	for (unsigned long at = 0; r == 0 && at < mb; at += 4) {
		snprintf(path, sizeof(path), "/write_file?path=" FILE_PATH "&offset=%lu", at << 20);
		r = ask_bytes(c, path, session, "application/octet-stream", data, piece, err);
	}
	snprintf(path, sizeof(path), "/write_file?path=" FILE_PATH "&commit=1&size=%lu", mb << 20);
	return r == 0 ? ask(c, path, session, "", err) : r;
}

static int read_file(struct client *c, unsigned long mb, struct err *err)
{
	char session[128], path[128];
	int r = living(c, session, sizeof(session), err);

	for (unsigned long at = 0; r == 0 && at < mb; at += 4) {
		snprintf(path, sizeof(path), "/read_file?path=" FILE_PATH "&offset=%lu&length=%u", at << 20, 4u << 20);
		r = ask(c, path, session, "", err);
		if (r == 0 && c->body_len != (size_t)4 << 20)
			r = err_set(err, -EIO, "/read_file gave %zu bytes", c->body_len);
	}
	snprintf(path, sizeof(path), "/stat_file?path=" FILE_PATH "&sha256=1");
	return r == 0 ? ask(c, path, session, "", err) : r;
}

/* -- the gateway ---------------------------------------------------------------------------------------------------------- */
static void session_headers(const struct client *c, char *ret, size_t cap)
{
	snprintf(ret, cap, "X-Deployment: %s\r\nX-Session-ID: %s\r\n", c->environment, c->session);
}

static int open_session(struct client *c, const char *environment, struct err *err)
{
	char headers[256];
	int r;

	snprintf(c->environment, sizeof(c->environment), "%s", environment);
	snprintf(headers, sizeof(headers), "X-Deployment: %s\r\n", environment);
	r = ask_events(c, "/create_session", headers, "{}", err);
	if (r < 0)
		return r;
	snprintf(c->session, sizeof(c->session), "%s", c->task_id);
	session_headers(c, headers, sizeof(headers));
	return ask(c, "/create", headers, "{\"split\": \"train\", \"index\": 0}", err);
}

/* One with variables gets an instance of its own, which is started for it: what a sleeping environment's first session waits for. */
static int cold(struct client *c, struct sample *s, struct err *err)
{
	char headers[256];
	int r;

	snprintf(headers, sizeof(headers), "X-Deployment: %s\r\n", c->environment);
	sample_begin(s);
	r = ask_events(c, "/create_session", headers, "{\"env\": {\"BENCH\": \"1\"}}", err);
	sample_part(s);
	if (r < 0)
		return r;
	snprintf(headers, sizeof(headers), "X-Session-ID: %s\r\n", c->task_id);
	r = ask(c, "/delete_session", headers, "{}", err);
	sample_part(s);
	return r;
}

static int call(struct client *c, bool fresh, struct sample *s, struct err *err)
{
	char headers[256];
	int r;

	session_headers(c, headers, sizeof(headers));
	if (fresh)
		client_disconnect(c);
	sample_begin(s);
	r = ask_events(c, "/call", headers, "{\"name\": \"bash\", \"input\": {\"command\": \"true\"}}", err);
	sample_part(s);
	return r;
}

/* -- the cases ------------------------------------------------------------------------------------------------------------ */
static int once(void *arg, char **args, struct sample *s, struct err *err)
{
	if (strcmp(args[0], "create") == 0 && args[1])
		return create(arg, args[1], s, err);
	if (strcmp(args[0], "run") == 0 && args[1])
		return run(arg, args[1], s, err);
	if (strcmp(args[0], "ping") == 0)
		return ping(arg, s, err);
	if (strcmp(args[0], "cold") == 0)
		return cold(arg, s, err);
	if (strncmp(args[0], "call", 4) == 0)
		return call(arg, strcmp(args[0], "call-new") == 0, s, err);
	return err_set(err, -EINVAL, "http: unknown case \"%s\"", args[0]);
}

static int forked(void *arg, int number, struct err *err)
{
	struct client *c = arg;

	(void)number;
	client_disconnect(c);
	c->living[0] = 0;
	return client_connect(c, err);
}

static int probe(struct client *c, struct err *err)
{
	char sid[64];
	int r = box_make(c, sid, sizeof(sid), err);

	if (r < 0)
		return r;
	r = box_run(c, sid, "exec /probe", true, err);
	if (r == 0) {
		printf("sid %s\njson %s\n== end\n", sid, c->json);
		worker_wait_line();
	}
	return box_end(c, sid, err) < 0 ? -EIO : r;
}

/* How often a command that is sent again and again is run: as often as it is sent, or the figures are worth nothing. */
static int repeat(struct client *c, int times, struct err *err)
{
	char sid[64];
	int r = box_make(c, sid, sizeof(sid), err);

	if (r < 0)
		return r;
	for (int i = 0; r == 0 && i < times; i++)
		r = box_run(c, sid, "echo x >> /tmp/runs", false, err);
	if (r == 0)
		r = box_run(c, sid, "mapfile -t lines < /tmp/runs; echo -n ${#lines[@]}", true, err);
	if (r == 0)
		printf("json %s\n", c->json);
	return box_end(c, sid, err) < 0 ? -EIO : r;
}

static int other(void *arg, char **args, struct err *err)
{
	if (strcmp(args[0], "session") == 0 && args[1])
		return open_session(arg, args[1], err);
	if (strcmp(args[0], "probe") == 0)
		return probe(arg, err);
	if (strcmp(args[0], "write") == 0 && args[1])
		return write_file(arg, strtoul(args[1], NULL, 10), err);
	if (strcmp(args[0], "read") == 0 && args[1])
		return read_file(arg, strtoul(args[1], NULL, 10), err);
	if (strcmp(args[0], "repeat") == 0 && args[1])
		return repeat(arg, (int)strtol(args[1], NULL, 10), err);
	return err_set(err, -EINVAL, "http: do what?");
}

static void end_living(struct client *c)
{
	struct err err = ERR_INIT;
	int r = c->living[0] ? box_end(c, c->living, &err) : 0;

	if (r == 0 && c->session[0])
		r = box_end(c, c->session, &err);
	if (r < 0)
		fprintf(stderr, "http: %s\n", err.msg);
}

int main(int argc, char **argv)
{
	static struct client c = { .fd = -1 };
	const struct worker w = { .arg = &c, .once = once, .forked = forked, .other = other };
	int r;

	if (argc != 5) {
		fprintf(stderr, "usage: http HOST PORT KEY IMAGE\n");
		return 2;
	}
	c.host = argv[1];
	c.port = argv[2];
	c.key = argv[3];
	c.image = argv[4];
	r = getaddrinfo(c.host, c.port, &(struct addrinfo){ .ai_socktype = SOCK_STREAM }, &c.address);
	if (r != 0 || !c.address) {
		printf("error %s: %s\n", c.host, gai_strerror(r));
		return 1;
	}
	r = worker_loop(&w);
	end_living(&c);
	client_disconnect(&c);
	freeaddrinfo(c.address);
	return r;
}
