/* sandbox/link.c: see link.h. */
#include "sandbox/link.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/str.h"
#include "sandbox/link_private.h"

#define RETRY_MS 1000
#define HELLO_TIMEOUT_MS 60000 /* a machine that a sandbox floods with processes lets it wait for its turn */
#define REQUEST_TIMEOUT_MS (WIRE_START_MS + 10000)
#define SHUTDOWN_TIMEOUT_MS 60000

struct welcome { /* the answer to HELLO: descriptors are owned */
	int fds[FD_PASS_MAX];
	size_t n_fds;
	char boot[40];
	uint64_t flags;
};

struct shutdown {
	struct link *link;
	struct loop_timer limit;
	engine_done_fn *done;
	void *arg;
};

/* -- egress ----------------------------------------------------------------------------------------------------------- */

static void on_egress(void *arg, const struct wire_in *in, int *fds, size_t n_fds)
{
	struct link *k = arg;
	const char *id = wire_get_str(in, WIRE_T_ID, 0), *text = wire_get_str(in, WIRE_T_TEXT, 0);

	if (in->type == WIRE_PLATFORM && n_fds > 0 && k->platform.connection)
		k->platform.connection(k->platform.arg, id ? id : "", wire_get_u64(in, WIRE_T_NUMBER, 0),
				       (uint16_t)wire_get_u64(in, WIRE_T_PORT, 0), fd_steal(&fds[0]));
	else if (in->type == WIRE_DENIED && k->platform.denied)
		k->platform.denied(k->platform.arg, id ? id : "", text ? text : "");
}

static void on_egress_lost(void *arg, const struct err *err UNUSED)
{
	struct link *k = arg;

	k->egress = chan_free(k->egress);
}

static int take_egress(struct link *k, int fd, struct err *err)
{
	static const struct chan_events events = { .event = on_egress, .lost = on_egress_lost };

	k->egress = chan_free(k->egress);
	return chan_new(&k->egress, k->loop, fd, 0, &events, k, err);
}

/* -- connecting ------------------------------------------------------------------------------------------------------- */

static int dial(const char *path, int *ret, struct err *err)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	auto_fd fd = -1;

	if (strlen(path) >= sizeof(a.sun_path))
		return err_set(err, -ENAMETOOLONG, "%s: a socket's path has at most %zu bytes", path, sizeof(a.sun_path) - 1);
	memcpy(a.sun_path, path, strlen(path) + 1);
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return err_sys(err, "make a socket");
	if (connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0)
		return err_sys(err, "connect to the spawner at %s", path);
	*ret = fd_steal(&fd);
	return 0;
}

static void welcome_done(struct welcome *w)
{
	for (size_t i = 0; i < w->n_fds; i++)
		fd_close(w->fds[i]);
	w->n_fds = 0;
}

static int send_hello(int fd, struct err *err)
{
	static _Alignas(8) char buf[1024];
	struct wire_out o;
	int r;

	wire_begin(&o, buf, sizeof(buf), WIRE_HELLO, 1);
	wire_put_str(&o, WIRE_T_PROGRAM_VERSION, OPENREWARD_VERSION);
	r = wire_send(fd, &o, NULL, 0);
	return r < 0 ? err_sys_code(err, r, "greet the spawner") : 0;
}

static int check_welcome(const struct wire_in *in, struct welcome *w, struct err *err)
{
	const char *text = wire_get_str(in, WIRE_T_TEXT, 0), *boot = wire_get_str(in, WIRE_T_BOOT, 0);

	if (in->type == WIRE_FAILED)
		return err_set(err, -EPROTO, "the spawner refused: %s", text ? text : "it gives no reason");
	if (in->type != WIRE_WELCOME || w->n_fds < 1)
		return err_set(err, -EPROTO, "the spawner answered %s with %zu descriptors, expected WELCOME with the channel to egress",
			       wire_type_name(in->type), w->n_fds);
	snprintf(w->boot, sizeof(w->boot), "%s", boot ? boot : "");
	w->flags = wire_get_u64(in, WIRE_T_FLAGS, 0);
	return 0;
}

/* Blocks: one small message each way, between processes of this machine. */
static int hello(int fd, struct welcome *ret, struct err *err)
{
	static _Alignas(8) char buf[WIRE_MAX];
	struct pollfd p = { .fd = fd, .events = POLLIN };
	struct wire_in in = { 0 };
	size_t len = 0;
	int r = send_hello(fd, err);

	if (r < 0)
		return r;
	r = poll(&p, 1, HELLO_TIMEOUT_MS);
	if (r <= 0)
		return err_set(err, -ETIMEDOUT, "the spawner did not answer within %d seconds", HELLO_TIMEOUT_MS / 1000);
	r = fd_recv(fd, buf, sizeof(buf), &len, ret->fds, FD_PASS_MAX, &ret->n_fds);
	if (r == 0 && len == 0)
		return err_set(err, -ECONNRESET, "the spawner closed the connection: is its user this process' user?");
	if (r == 0)
		r = wire_parse(&in, buf, len);
	if (r < 0)
		return err_sys_code(err, r, "the spawner's answer");
	return check_welcome(&in, ret, err);
}

/* -- telling ---------------------------------------------------------------------------------------------------------- */

static void tell_gone(struct link *k, const char *id, const char *reason)
{
	for (size_t i = LINK_WATCHERS_MAX; i-- > 0;)
		if (k->watchers[i].ev && k->watchers[i].ev->gone)
			k->watchers[i].ev->gone(k->watchers[i].arg, id, reason);
}

static void tell_lost(struct link *k, const struct err *why)
{
	for (size_t i = LINK_WATCHERS_MAX; i-- > 0;)
		if (k->watchers[i].ev && k->watchers[i].ev->lost)
			k->watchers[i].ev->lost(k->watchers[i].arg, why);
}

static void tell_up(struct link *k)
{
	for (size_t i = LINK_WATCHERS_MAX; i-- > 0;)
		if (k->watchers[i].ev && k->watchers[i].ev->up)
			k->watchers[i].ev->up(k->watchers[i].arg);
}

static void tell_space(struct link *k, const struct wire_in *in)
{
	const struct link_space is = {
		.size = wire_get_u64(in, WIRE_T_DISK_SIZE, 0), .free = wire_get_u64(in, WIRE_T_DISK_FREE, 0),
		.more = wire_get_u64(in, WIRE_T_DISK_MORE, 0), .broken = wire_get_u64(in, WIRE_T_STATE, 0),
	};

	for (size_t i = LINK_WATCHERS_MAX; i-- > 0;)
		if (k->watchers[i].ev && k->watchers[i].ev->space)
			k->watchers[i].ev->space(k->watchers[i].arg, &is);
}

static void on_event(void *arg, const struct wire_in *in, int *fds UNUSED, size_t n_fds UNUSED)
{
	struct link *k = arg;
	const char *id = wire_get_str(in, WIRE_T_ID, 0), *reason = wire_get_str(in, WIRE_T_REASON, 0);

	if (in->type == WIRE_JOB_DONE)
		jobs_event(k, in);
	else if (in->type == WIRE_GONE && id)
		tell_gone(k, id, reason ? reason : "killed");
	else if (in->type == WIRE_SPACE)
		tell_space(k, in);
}

static void shutdown_over(struct link *k, const struct err *err)
{
	struct shutdown *s = k->shutdown;

	if (!s)
		return;
	k->shutdown = NULL;
	loop_timer_stop(&s->limit);
	s->done(s->arg, err);
	free(s);
}

static void on_lost(void *arg, const struct err *err)
{
	struct link *k = arg;

	k->chan = chan_free(k->chan);
	jobs_lost(k, err);
	tell_lost(k, err);
	if (k->ending)
		shutdown_over(k, NULL);
	else
		loop_timer_start(&k->retry, RETRY_MS);
}

static int keep_listeners(struct link *k, struct welcome *w)
{
	for (size_t i = 0; i + 1 < w->n_fds; i++)
		k->listeners[k->n_listeners++] = fd_steal(&w->fds[i]);
	return fd_steal(&w->fds[w->n_fds - 1]);
}

static int connect_now(struct link *k, bool first, struct err *err)
{
	static const struct chan_events events = { .event = on_event, .lost = on_lost };
	AUTO(welcome_done) struct welcome w = { .n_fds = 0 };
	auto_fd fd = -1;
	int r = dial(k->path, &fd, err);

	if (r == 0)
		r = hello(fd, &w, err);
	if (r == 0)
		r = chan_new(&k->chan, k->loop, fd_steal(&fd), REQUEST_TIMEOUT_MS, &events, k, err);
	if (r < 0)
		return r;
	memcpy(k->boot, w.boot, sizeof(k->boot));
	k->flags = w.flags;
	/* Later ones are the same sockets, or new ones that nobody was told of. */
	return take_egress(k, first ? keep_listeners(k, &w) : fd_steal(&w.fds[w.n_fds - 1]), err);
}

static void on_retry(struct loop_timer *t, void *arg)
{
	struct link *k = arg;

	if (connect_now(k, false, NULL) < 0)
		loop_timer_start(t, RETRY_MS);
	else
		tell_up(k);
}

/* -- life ------------------------------------------------------------------------------------------------------------- */

int link_new(struct link **ret, struct loop *l, const char *socket_path, struct err *err)
{
	struct link *k = NEW(struct link);
	int r;

	k->loop = l;
	k->path = xstrdup(socket_path);
	loop_timer_init(&k->retry, l, on_retry, k);
	jobs_init(k);
	r = connect_now(k, true, err);
	if (r < 0) {
		link_free(k);
		return r;
	}
	*ret = k;
	return 0;
}

struct link *link_free(struct link *k)
{
	if (!k)
		return NULL;
	jobs_done(k);
	chan_free(k->chan);
	chan_free(k->egress);
	loop_timer_stop(&k->retry);
	for (size_t i = 0; i < k->n_listeners; i++)
		fd_close(k->listeners[i]);
	if (k->shutdown)
		loop_timer_stop(&k->shutdown->limit);
	free(k->shutdown);
	free(k->path);
	free(k);
	return NULL;
}

void link_set_events(struct link *k, const struct link_events *ev, void *arg)
{
	size_t free_at = LINK_WATCHERS_MAX;

	for (size_t i = LINK_WATCHERS_MAX; i-- > 0;) {
		if (k->watchers[i].ev && k->watchers[i].arg == arg) {
			k->watchers[i].ev = ev;
			return;
		}
		if (!k->watchers[i].ev)
			free_at = i;
	}
	if (free_at < LINK_WATCHERS_MAX) {
		k->watchers[free_at].ev = ev;
		k->watchers[free_at].arg = arg;
	}
}

void link_set_platform(struct link *k, const struct link_platform *p)
{
	k->platform = *p;
}

size_t link_take_listeners(struct link *k, int *ret, size_t max)
{
	size_t n = MIN(max, k->n_listeners);

	for (size_t i = 0; i < n; i++)
		ret[i] = fd_steal(&k->listeners[i]);
	for (size_t i = n; i < k->n_listeners; i++)
		fd_close(k->listeners[i]);
	k->n_listeners = 0;
	return n;
}

const char *link_boot(const struct link *k)
{
	return k->boot;
}

bool link_is_kept(const struct link *k)
{
	return k->flags & WIRE_WELCOME_KEPT;
}

struct chan *link_chan(struct link *k)
{
	return k->chan;
}

struct image_jobs *link_jobs(struct link *k)
{
	return &k->jobs;
}

/* -- requests of the whole -------------------------------------------------------------------------------------------- */

static void on_shutdown_answer(void *arg, const struct wire_in *in UNUSED, int *fds UNUSED, size_t n_fds UNUSED,
			       const struct err *err)
{
	struct link *k = arg;

	/* It closes the connection just after its OK; a connection that broke first means the same. */
	shutdown_over(k, err && err->code != -ECONNRESET ? err : NULL);
}

static void on_shutdown_limit(struct loop_timer *t UNUSED, void *arg)
{
	struct shutdown *s = arg;
	struct err err;

	err_set(&err, -ETIMEDOUT, "the spawner did not end within %d seconds", SHUTDOWN_TIMEOUT_MS / 1000);
	shutdown_over(s->link, &err);
}

static void shutdown_without_spawner(void *arg)
{
	shutdown_over(arg, NULL);
}

void link_shutdown(struct link *k, engine_done_fn *done, void *arg)
{
	struct shutdown *s;

	if (k->shutdown)
		return;
	s = NEW(struct shutdown);
	*s = (struct shutdown){ .link = k, .done = done, .arg = arg };
	loop_timer_init(&s->limit, k->loop, on_shutdown_limit, s);
	loop_timer_start(&s->limit, SHUTDOWN_TIMEOUT_MS);
	loop_timer_stop(&k->retry);
	k->shutdown = s;
	k->ending = true;
	if (!k->chan || chan_send(k->chan, chan_begin(k->chan, WIRE_SHUTDOWN, true), NULL, 0, on_shutdown_answer, k, NULL) < 0)
		loop_defer(k->loop, shutdown_without_spawner, k);
}

struct leaks {
	void (*done)(void *arg, const char *lines, const struct err *err);
	void *arg;
	struct err err;
};

static void on_leaks(void *arg, const struct wire_in *in, int *fds UNUSED, size_t n_fds UNUSED, const struct err *err)
{
	struct leaks *q = arg;
	const char *text = in ? wire_get_str(in, WIRE_T_TEXT, 0) : NULL;

	q->done(q->arg, err ? NULL : text ? text : "", err);
	free(q);
}

static void fail_leaks(void *arg)
{
	struct leaks *q = arg;

	q->done(q->arg, NULL, &q->err);
	free(q);
}

void link_leaks(void *link_arg, void (*done)(void *arg, const char *lines, const struct err *err), void *arg)
{
	struct link *k = link_arg;
	struct leaks *q = NEW(struct leaks);

	*q = (struct leaks){ .done = done, .arg = arg };
	if (!k->chan)
		err_set(&q->err, -EAGAIN, "the spawner is away");
	else if (chan_send(k->chan, chan_begin(k->chan, WIRE_LEAKS, true), NULL, 0, on_leaks, q, &q->err) == 0)
		return;
	loop_defer(k->loop, fail_leaks, q);
}
