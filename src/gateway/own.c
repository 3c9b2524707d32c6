/* gateway/own.c: the gateway's own requests to an instance: a ping passed on, and the /delete that a client owed. */
#include <errno.h>

#include "base/mem.h"
#include "gateway/private.h"

#define BODY_MAX 16384
#define EXISTS_MS 60000 /* a server that is busy for longer is asked by the /create itself, and refuses what it has already */
#define LIST_MS 10000 /* a server that takes longer for its list is asked again by another session */

struct own { /* one request without a body */
	struct session *s;
	const char *method, *path;
	struct buf body;                    /* of the answer, as far as it is of use */
	struct list node;                   /* in session.owns */
	bool too_long;                      /* more than body may hold */
	bool kept, repeated;                /* over a kept connection; this is the repeat */
	unsigned creation;                  /* of a ping: which one it asks for */
	struct upstream_wait *wait;         /* NULL with client: a /delete that waits for a /create to end */
	struct http_client *client;
	struct loop_timer limit;
	int status;                         /* of the answer; 0 = none came */
	void (*done)(struct own *o);
	own_exists_fn *exists; /* of own_exists(); NULL = forgotten */
	void *arg;
};

static void on_upstream(void *arg, struct http_client *c, const struct err *err);

static void own_free(void *arg)
{
	buf_done(&((struct own *)arg)->body);
	free(arg);
}

/* Ends the exchange, however it went. The session is held until here. */
static void own_over(struct own *o)
{
	struct session *s = o->s;
	if (o->wait)
		upstream_cancel(STEAL(o->wait));
	if (o->client)
		o->client = http_client_free(o->client);
	loop_timer_stop(&o->limit);
	if (s->own_delete == o)
		s->own_delete = NULL;
	list_remove(&o->node);
	o->done(o);
	session_release(s);
	loop_release(s->g->loop, own_free, o);
}

static void on_head(struct http_client *c UNUSED, int status, const struct http_header *h UNUSED, size_t n UNUSED,
		    int64_t body_length UNUSED, void *arg)
{
	struct own *o = arg;
	o->status = status;
}

static void on_data(struct http_client *c UNUSED, const char *p, size_t len, void *arg)
{
	struct own *o = arg;
	if (buf_append(&o->body, p, len) < 0)
		o->too_long = true;
}

static void on_end(struct http_client *c, bool reusable, void *arg)
{
	struct own *o = arg;
	o->client = NULL;
	if (reusable && o->s->instance)
		upstream_put(o->s->g, o->s->instance, c);
	else
		http_client_free(c);
	own_over(o);
}

/* Both calls may be repeated without harm, so a kept connection that was dead already costs nothing but another try. */
static void on_error(struct http_client *c UNUSED, bool got_bytes, const struct err *err UNUSED, void *arg)
{
	struct own *o = arg;
	if (got_bytes || !o->kept || o->repeated || !o->s->instance) {
		own_over(o);
		return;
	}
	o->client = http_client_free(o->client);
	o->repeated = true;
	o->wait = upstream_connect(o->s->g, o->s->instance, on_upstream, o);
}

static void on_limit(struct loop_timer *t UNUSED, void *arg)
{
	own_over(arg);
}

/* False where it could not even begin. */
static bool own_start(struct own *o, struct http_client *c)
{
	static const struct http_client_events events = {
		.on_head = on_head, .on_data = on_data, .on_end = on_end, .on_error = on_error,
	};
	struct http_header headers[] = { { "Host", "localhost" }, { "X-Session-ID", o->s->id } };
	o->client = c;
	return http_client_start(c, o->method, o->path, headers, ARRAY_LEN(headers), 0, &events, o, NULL) == 0;
}

static void on_upstream(void *arg, struct http_client *c, const struct err *err)
{
	struct own *o = arg;
	o->wait = NULL;
	o->kept = false;
	if (err || !own_start(o, c))
		own_over(o);
}

static void own_connect(struct own *o)
{
	struct http_client *c = upstream_take(o->s->g, o->s->instance);
	o->kept = c && own_start(o, c);
	if (o->kept)
		return;
	if (o->client)
		o->client = http_client_free(o->client);
	o->wait = upstream_connect(o->s->g, o->s->instance, on_upstream, o);
}

static struct own *own_new(struct session *s, const char *method, const char *path, uint64_t limit_ms, void (*done)(struct own *o))
{
	struct own *o = NEW(struct own);
	*o = (struct own){ .s = s, .method = method, .path = path, .done = done, .creation = s->creations };
	buf_init(&o->body, BODY_MAX);
	list_init(&o->node);
	list_push_back(&s->owns, &o->node);
	session_retain(s);
	loop_timer_init(&o->limit, s->g->loop, on_limit, o);
	loop_timer_start(&o->limit, limit_ms);
	return o;
}

void owns_abort(struct session *s)
{
	for (struct own *it; (it = list_first(&s->owns, struct own, node));)
		own_over(it);
}

/* The server forgot the session: a client that goes on would only meet 404s. But a ping may also have been overtaken by a
 * /delete of the client's. */
static void on_ping_done(struct own *o)
{
	struct session *s = o->s;
	s->pinging = false;
	if (o->status == 404 && s->state == SESSION_READY && s->created && s->creations == o->creation)
		session_crashed(s, "the environment's server lost the session");
}

void own_ping(struct session *s)
{
	uint64_t now = loop_now_ms(s->g->loop);
	if (!s->created || s->pinging || !s->instance || now - s->last_forwarded_ping_ms < s->g->settings.ping_forward_ms)
		return;
	s->last_forwarded_ping_ms = now;
	s->pinging = true;
	own_connect(own_new(s, "POST", "/ping", s->g->settings.ping_forward_ms, on_ping_done));
}

static void on_exists_done(struct own *o)
{
	if (o->exists)
		o->exists(o->arg, o->status == 200);
}

struct own *own_exists(struct session *s, own_exists_fn *done, void *arg)
{
	struct own *o = own_new(s, "POST", "/ping", EXISTS_MS, on_exists_done);
	o->exists = done;
	o->arg = arg;
	own_connect(o);
	return o;
}

void own_forget(struct own *o)
{
	o->exists = NULL;
}

static void on_list_done(struct own *o)
{
	struct session *s = o->s;
	if (!s->instance)
		return;
	if (!o->status) { /* the connection broke, or the session ended first: another session asks */
		upstream_set_environment(s->g, s->instance, UPSTREAM_UNKNOWN, NULL);
		return;
	}
	char *name = o->status == 200 && !o->too_long ? bare_first_environment(o->body.data, o->body.len) : NULL;
	upstream_set_environment(s->g, s->instance, UPSTREAM_LISTED, name);
}

void own_list(struct session *s)
{
	if (upstream_must_ask(s->g, s->instance))
		own_connect(own_new(s, "GET", "/list_environments", LIST_MS, on_list_done));
}

static void on_delete_done(struct own *o)
{
	struct session *s = o->s;
	s->created = s->may_exist = false;
	table_save(s);
	if (s->state == SESSION_ENDING) /* else the gateway itself ends */
		s->after_delete(s);
}

void own_delete(struct session *s, void (*done)(struct session *s))
{
	s->after_delete = done;
	s->own_delete = own_new(s, "POST", "/delete", s->g->settings.teardown_ms, on_delete_done);
	if (!s->creating)
		own_connect(s->own_delete);
}

void own_create_over(struct session *s)
{
	struct own *o = s->own_delete;
	if (o && !o->wait && !o->client)
		own_connect(o);
}

void own_delete_cancel(struct session *s)
{
	if (s->own_delete)
		own_over(s->own_delete);
}
