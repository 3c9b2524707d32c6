/* gateway/proxy.c: one request of a session, passed through to its instance: headers and bodies stream both ways with
 * back-pressure, and no body is looked into.
 *
 *   waiting for its turn, and for a place in an instance (/create only)
 *     -> waiting for a connection -> exchanging -> over
 *                                                  |                       |
 *                                                  +-----------------------+-> broken (LATE_MS at most) -> over
 *
 * Two ends may close in any order. The client's: on_req_closed() frees everything, and breaks the connection to the
 * instance if the exchange was not over, which is how the server there learns of it. The instance's: an answer that has
 * begun is broken off; one that has not becomes 410 where the instance died, else 502. Which of the two it is shows a
 * moment later: the connections of a dying server break before its end is known, so a broken one waits for that.
 * A /create that comes again after the connection of the one before had broken, or the daemon had died, is answered here when
 * the server has the session: it refuses the second.
 * Nothing is sent twice, but for a GET without a body whose kept connection turned out closed before a byte of an
 * answer came. */
#include <errno.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "gateway/private.h"

#define LATE_MS 500
#define REFUSAL_MAX 65536
#define RESENT_MS 30000 /* see resent_calls_total */

enum proxy_kind { PROXY_PLAIN, PROXY_CREATE, PROXY_DELETE, PROXY_CALL };

struct proxy {
	struct session *s;
	struct http_req *req;
	const struct auth_caller *caller;
	enum proxy_kind kind;
	int64_t body_length;          /* of the request; -1 = chunked */
	bool kept, repeated;          /* over a kept connection; this is the repeat */
	bool sent_all;                /* the request's body is passed on whole */
	bool turn;                    /* holds session.creating */
	bool begun;                   /* a /create: the server has it */
	struct own *asks;             /* a /create: whether the one before came through; NULL = not now */
	bool doubted;                 /* it did not, by what was said */
	char *refusal_type;           /* of what the server then said, */
	struct buf refusal;           /* which waits while it is asked once more; max 0 = it did not refuse */
	struct env_wait *place;       /* of the session's first /create: waits for a place in an instance */
	struct instance *instance;    /* a use of the one that it goes to; the session may move on to another */
	struct upstream_wait *wait;
	struct http_client *up;
	char *broken;                 /* why the exchange broke, while it waits for the instance's end */
	struct loop_timer late;
	char *secrets;                /* X-Secrets as passed on; NULL = as it came */
	struct list session_node;     /* in session.proxies until it is over */
	struct list queue_node;       /* in session.create_queue */
};

static void proxy_connect(struct proxy *p, bool never_kept);
static void on_place(void *arg, struct instance *i, const struct err *err);
static void on_exists(void *arg, bool exists);

/* -- turns of /create ---------------------------------------------------------------------------------------------- */

/* The SDK's server may accept several /create at once on one session; one after another, the second is refused. */
static void take_turn(struct proxy *p)
{
	if (p->s->creating) {
		list_push_back(&p->s->create_queue, &p->queue_node);
		return;
	}
	p->s->creating = p->turn = true;
	if (!p->s->placed)
		p->place = place_take(p->s, on_place, p);
	else if (p->s->create_unsure && p->s->create_length == p->body_length && p->s->instance)
		p->asks = own_exists(p->s, on_exists, p);
	else
		proxy_connect(p, false);
}

static void pass_turn(struct proxy *p)
{
	if (!p->turn)
		return;
	p->turn = false;
	p->s->creating = false;
	if (p->s->state >= SESSION_ENDING) {
		own_create_over(p->s);
		return;
	}
	struct proxy *next = list_first(&p->s->create_queue, struct proxy, queue_node);
	if (!next)
		return;
	list_remove(&next->queue_node);
	take_turn(next);
}

/* -- ends ---------------------------------------------------------------------------------------------------------- */

static void drop_upstream(struct proxy *p)
{
	if (p->asks)
		own_forget(STEAL(p->asks));
	if (STEAL(p->place))
		place_cancel(p->s);
	if (p->wait)
		upstream_cancel(STEAL(p->wait));
	if (p->up)
		p->up = http_client_free(p->up);
}

static void note_lost_call(struct proxy *p, bool complete)
{
	if (p->kind != PROXY_CALL || complete || http_reply_acked(p->req, 1))
		return;
	p->s->lost_call_length = p->body_length;
	p->s->lost_call_ms = loop_now_ms(p->s->g->loop);
}

static void count_resent_call(struct proxy *p)
{
	struct session *s = p->s;
	if (p->kind != PROXY_CALL || !s->lost_call_ms || s->lost_call_length != p->body_length)
		return;
	if (loop_now_ms(s->g->loop) - s->lost_call_ms <= RESENT_MS)
		s->g->counts.resent_calls_total++;
	s->lost_call_ms = 0;
}

/* Also what was answered in vain: until here the record says that it is not sure. */
static void note_lost_create(struct proxy *p, bool complete)
{
	struct session *s = p->s;
	if (!p->begun || p->kind != PROXY_CREATE)
		return;
	if (p->turn)
		s->create_open = false;
	if (!complete) {
		s->create_unsure = true;
		s->create_length = p->body_length;
	}
	table_save(s);
}

static void on_req_closed(struct http_req *req UNUSED, bool complete, void *arg)
{
	struct proxy *p = arg;
	drop_upstream(p);
	loop_timer_stop(&p->late);
	list_remove(&p->session_node);
	list_remove(&p->queue_node);
	note_lost_call(p, complete);
	if (p->kind == PROXY_CALL)
		table_call(p->s, p->body_length, false);
	note_lost_create(p, complete);
	pass_turn(p);
	if (p->instance)
		instance_release(p->instance);
	session_unhold(p->s);
	free(p->broken);
	free(p->secrets);
	free(p->refusal_type);
	buf_done(&p->refusal);
	free(p);
}

/* Why no answer can come from the session's instance any more; NULL = it lives. */
static const char *gone_reason(const struct session *s)
{
	if (s->end_reason)
		return s->end_reason;
	return s->instance ? instance_end_reason(s->instance) : NULL;
}

/* From here on nothing but the request's close touches it. */
static void fail_now(struct proxy *p, const char *why)
{
	const char *gone = gone_reason(p->s);
	/* An instance's end that the session was not told of yet: session_crashed() says the same. */
	const char *outcome = gone && !strstr(gone, "outcome infra") && !p->s->end_reason ? " (outcome infra)" : "";
	drop_upstream(p);
	loop_timer_stop(&p->late);
	list_remove(&p->session_node);
	list_remove(&p->queue_node);
	p->s->g->counts.upstream_errors_total += !gone;
	if (http_reply_started(p->req))
		http_req_abort(p->req);
	else if (gone)
		http_reply_error(p->req, 410, "session %s has ended: %s%s", p->s->id, gone, outcome);
	else
		http_reply_error(p->req, 502, "the environment's server broke off: %s", why);
}

static void on_late(struct loop_timer *t UNUSED, void *arg)
{
	struct proxy *p = arg;
	if (p->broken)
		fail_now(p, p->broken);
	else
		http_req_watch_peer(p->req); /* a /delete that nobody may wait for had the time of a teardown */
}

static void fail(struct proxy *p, const char *why)
{
	if (http_reply_started(p->req) || gone_reason(p->s)) {
		fail_now(p, why);
		return;
	}
	drop_upstream(p);
	p->broken = xstrdup(why);
	loop_timer_start(&p->late, LATE_MS);
}

void proxies_abort(struct session *s)
{
	for (struct proxy *it; (it = list_first(&s->proxies, struct proxy, session_node));)
		fail_now(it, "the instance ended");
}

/* Also the one that waits for a place, or a connection: it would begin what nobody tears down. */
void proxies_refuse_queued(struct session *s)
{
	for (struct proxy *it; (it = list_first(&s->create_queue, struct proxy, queue_node));)
		fail_now(it, "the session is ending");
	list_foreach(&s->proxies, struct proxy, session_node, it)
		if (it->kind == PROXY_CREATE && !it->begun) {
			fail_now(it, "the session is ending");
			return;
		}
}

/* -- the answer ---------------------------------------------------------------------------------------------------- */

/* What a HEAD's answer says about the length of a body that it does not have. */
static int64_t length_of_head(const struct http_header *h, size_t n)
{
	uint64_t length;
	for (size_t k = 0; k < n; k++)
		if (str_ieq(h[k].name, "Content-Length") && str_to_u64(h[k].value, &length) == 0 && length <= INT64_MAX)
			return (int64_t)length;
	return -1;
}

static void note_status(struct proxy *p, int status)
{
	struct session *s = p->s;
	if (status < 200 || status >= 300 || p->kind == PROXY_PLAIN || p->kind == PROXY_CALL)
		return;
	if (p->kind == PROXY_CREATE) {
		s->created = true;
		s->creations++;
	} else if (p->kind == PROXY_DELETE && !s->creating) {
		s->may_exist = false;
	}
	table_save(s);
}

/* "Session already exists": the /create before may have lain unread at the server when it was asked, and come through since. */
static bool keep_refusal(struct proxy *p, int status, const struct http_header *h, size_t n)
{
	if (!p->doubted || status != 400)
		return false;
	for (size_t k = 0; k < n && !p->refusal_type; k++)
		if (str_ieq(h[k].name, "Content-Type"))
			p->refusal_type = xstrdup(h[k].value);
	buf_init(&p->refusal, REFUSAL_MAX);
	return true;
}

static bool is_refused(const struct proxy *p)
{
	return p->refusal.max > 0;
}

static void on_head(struct http_client *c UNUSED, int status, const struct http_header *h, size_t n, int64_t body_length, void *arg)
{
	struct proxy *p = arg;
	if (keep_refusal(p, status, h, n))
		return;
	note_status(p, status);
	for (size_t k = 0; k < n; k++)
		if (!http_is_hop_by_hop(h[k].name) && !str_ieq(h[k].name, "Content-Length"))
			http_reply_header(p->req, h[k].name, h[k].value);
	if (str_eq(http_req_method(p->req), "HEAD"))
		body_length = length_of_head(h, n);
	http_reply_start(p->req, status, NULL, body_length);
}

static void on_data(struct http_client *c, const char *data, size_t len, void *arg)
{
	struct proxy *p = arg;
	if (is_refused(p))
		(void)!buf_append(&p->refusal, data, len); /* what is longer is cut */
	else if (!http_reply_write(p->req, data, len))
		http_client_pause(c);
}

static void on_reply_drain(struct http_req *req UNUSED, void *arg)
{
	struct proxy *p = arg;
	if (p->up)
		http_client_resume(p->up);
}

static void on_end(struct http_client *c, bool reusable, void *arg)
{
	struct proxy *p = arg;
	p->up = NULL;
	if (reusable && p->sent_all)
		upstream_put(p->s->g, p->instance, c);
	else
		http_client_free(c);
	if (is_refused(p)) {
		if (p->s->instance)
			p->asks = own_exists(p->s, on_exists, p);
		else
			on_exists(p, false);
		return;
	}
	loop_timer_stop(&p->late);
	list_remove(&p->session_node); /* answered whole, and on its way to the client */
	if (p->turn)
		p->s->create_open = false;
	pass_turn(p);
	http_reply_end(p->req);
}

static void on_error(struct http_client *c UNUSED, bool got_bytes, const struct err *err, void *arg)
{
	struct proxy *p = arg;
	bool safe = p->kept && !p->repeated && !got_bytes && p->body_length == 0 && str_eq(http_req_method(p->req), "GET");
	if (!safe) {
		fail(p, err->msg);
		return;
	}
	drop_upstream(p);
	p->repeated = true;
	proxy_connect(p, true);
}

static void on_up_drain(struct http_client *c UNUSED, void *arg)
{
	struct proxy *p = arg;
	http_req_resume(p->req);
}

/* -- the request --------------------------------------------------------------------------------------------------- */

static void on_body(struct http_req *req, const char *data, size_t len, void *arg)
{
	struct proxy *p = arg;
	if (!p->up)
		return; /* the answer came before the body's end: the rest is of no use */
	if (!data) {
		p->sent_all = true;
		http_client_finish(p->up);
	} else if (!http_client_write(p->up, data, len)) {
		http_req_pause(req);
	}
}

/* What is between the client and us stays here: lengths and framing are made anew, and the key is the platform's. Of the
 * session's id only the one that was looked at goes on: a second one might be another's. */
static bool stays_here(const char *name)
{
	switch (*name | 0x20) { /* nearly every header is told apart by its first letter */
	case 'a':
		return str_ieq(name, "Authorization");
	case 'c':
		return str_ieq(name, "Content-Length") || http_is_hop_by_hop(name);
	case 'e':
		return str_ieq(name, "Expect");
	case 'x':
		return str_ieq(name, "X-API-Key") || str_ieq(name, "X-Secrets") || str_ieq(name, "X-User-Id") ||
		       str_ieq(name, "X-Organisation-Id") || str_ieq(name, "X-Session-ID");
	default:
		return http_is_hop_by_hop(name);
	}
}

/* "NAMESPACE/NAME" of the session's environment, in the request's memory. */
static const char *deployment_name(struct proxy *p)
{
	const struct store_environment *env = p->s->env;
	char *made = http_req_alloc(p->req, strlen(env->ns->name) + strlen(env->name) + 2);
	char *end = str_put(str_put(str_put(made, env->ns->name), "/"), env->name);
	*end = '\0';
	return made;
}

#define MADE_HEADERS 5 /* at most so many more than came */

static size_t headers_for_instance(struct proxy *p, struct http_header *ret)
{
	size_t n = 0;
	for (size_t k = 0; k < http_req_n_headers(p->req); k++) {
		const struct http_header *h = http_req_header_at(p->req, k);
		if (!stays_here(h->name))
			ret[n++] = *h;
	}
	const char *secrets = p->secrets ? p->secrets : http_req_header(p->req, "X-Secrets");
	if (secrets)
		ret[n++] = (struct http_header){ "X-Secrets", secrets };
	if (!http_req_header(p->req, "X-Deployment"))
		ret[n++] = (struct http_header){ "X-Deployment", deployment_name(p) };
	if (!http_req_header(p->req, "Host"))
		ret[n++] = (struct http_header){ "Host", "localhost" };
	ret[n++] = (struct http_header){ "X-Session-ID", p->s->id };
	ret[n++] = (struct http_header){ "X-User-Id", p->caller->namespace_id };
	ret[n++] = (struct http_header){ "X-Organisation-Id", p->caller->namespace_id };
	return n;
}

/* As it came, but for what only the way here has put in front ("http://HOST", and a base address's final slash), and for a
 * path that lacks the name of the environment. */
static const char *target_for_instance(struct proxy *p)
{
	struct http_req *req = p->req;
	const char *target = http_req_target(req), *path = http_req_path(req), *query = http_req_raw_query(req);
	const char *full = bare_target(req, upstream_environment(p->s->g, p->instance));
	if (full)
		return full;
	if (target[0] == '/' && target[1] != '/')
		return target;
	char *made = http_req_alloc(req, strlen(path) + strlen(query) + 2);
	char *end = str_put(str_put(str_put(made, path), *query ? "?" : ""), query);
	*end = '\0';
	return made;
}

static int start_exchange(struct proxy *p, struct err *err)
{
	static const struct http_client_events events = {
		.on_head = on_head, .on_data = on_data, .on_end = on_end, .on_error = on_error, .on_drain = on_up_drain,
	};
	struct http_header *headers =
		http_req_alloc(p->req, (http_req_n_headers(p->req) + MADE_HEADERS) * sizeof(*headers));
	const char *target = target_for_instance(p);
	size_t n = headers_for_instance(p, headers);
	if (p->kind == PROXY_CREATE) {
		p->s->may_exist = p->s->create_open = p->begun = true;
		p->s->create_unsure = false;
		p->s->create_length = p->body_length;
	}
	if (p->kind == PROXY_DELETE)
		p->s->created = false;
	if (p->kind == PROXY_CREATE || p->kind == PROXY_DELETE)
		table_save(p->s);
	if (p->kind == PROXY_CALL)
		table_call(p->s, p->body_length, true);
	return http_client_start(p->up, http_req_method(p->req), target, headers, n, p->body_length, &events, p, err);
}

/* Called from the request's handler where a connection is kept: head and body then leave in one piece. */
static void proxy_exchange(struct proxy *p, struct http_client *c, bool kept)
{
	struct err err = ERR_INIT;
	p->up = c;
	p->kept = kept;
	p->sent_all = p->body_length == 0;
	if (start_exchange(p, &err) < 0)
		fail(p, err.msg);
	else if (!p->sent_all)
		http_req_stream(p->req, on_body, p);
}

static void on_upstream(void *arg, struct http_client *c, const struct err *err)
{
	struct proxy *p = arg;
	p->wait = NULL;
	if (err)
		fail(p, err->msg);
	else
		proxy_exchange(p, c, false);
}

static void proxy_connect(struct proxy *p, bool never_kept)
{
	if (!p->s->instance) {
		fail(p, "the instance is gone");
		return;
	}
	if (!p->instance)
		instance_hold(p->instance = p->s->instance);
	struct http_client *c = never_kept ? NULL : upstream_take(p->s->g, p->instance);
	if (c)
		proxy_exchange(p, c, true);
	else
		p->wait = upstream_connect(p->s->g, p->instance, on_upstream, p);
}

/* A session becomes one that counts with its /create: until then it was a visitor, as all listings are. */
static void on_place(void *arg, struct instance *i, const struct err *err)
{
	struct proxy *p = arg;
	p->place = NULL;
	if (err) {
		p->s->place_wait = NULL;
		fail(p, err->msg);
		return;
	}
	place_taken(p->s, i);
	proxy_connect(p, false);
}

/* The request's body is spent, so it is not sent once more. */
static void pass_refusal(struct proxy *p)
{
	if (gone_reason(p->s)) {
		fail_now(p, gone_reason(p->s));
		return;
	}
	list_remove(&p->session_node);
	http_reply(p->req, 400, p->refusal_type, p->refusal.data, p->refusal.len);
}

static void on_exists(void *arg, bool exists)
{
	struct proxy *p = arg;
	p->asks = NULL;
	if (!exists || gone_reason(p->s)) {
		if (is_refused(p)) {
			pass_refusal(p);
			return;
		}
		p->doubted = true;
		proxy_connect(p, false); /* which finds out, too */
		return;
	}
	p->begun = true; /* this answer may be lost as well */
	p->s->create_unsure = false;
	note_status(p, 200);
	list_remove(&p->session_node);
	reply_sid(p->req, p->s->id);
}

/* As the server reads it, which takes "%63" for "c". */
static enum proxy_kind kind_of(const struct http_req *req)
{
	auto_buf struct buf b = { 0 };
	const char *path = http_req_path(req);
	if (!str_eq(http_req_method(req), "POST"))
		return PROXY_PLAIN;
	buf_init(&b, BUF_UNLIMITED); /* no longer than what came */
	if (strchr(path, '%') && str_percent_decode(&b, path, strlen(path), false) == 0)
		path = b.data;
	if (str_eq(path, "/create"))
		return PROXY_CREATE;
	if (str_eq(path, "/delete"))
		return PROXY_DELETE;
	return str_ends(path, "/call") ? PROXY_CALL : PROXY_PLAIN;
}

void proxy_start(struct session *s, struct http_req *req, const struct auth_caller *caller)
{
	if (kind_of(req) == PROXY_CREATE && !s->placed && queue_is_full(s->g, req, s->key_id, s->env, ENV_PLACE))
		return;
	struct proxy *p = NEW(struct proxy);
	*p = (struct proxy){ .s = s, .req = req, .caller = caller, .kind = kind_of(req) };
	p->body_length = http_req_content_length(req);
	list_init(&p->queue_node);
	list_init(&p->session_node);
	list_push_back(&s->proxies, &p->session_node);
	s->g->counts.proxied_total++;
	session_hold(s);
	http_req_on_close(req, on_req_closed, p);
	http_reply_on_drain(req, on_reply_drain, p);
	loop_timer_init(&p->late, s->g->loop, on_late, p);
	if (p->kind != PROXY_DELETE)
		http_req_watch_peer(req);
	else /* that one is worth its while without anybody who waits for it, as long as a teardown of ours would be */
		loop_timer_start(&p->late, s->g->settings.teardown_ms);
	count_resent_call(p);
	if (http_req_header(req, "X-Secrets"))
		p->secrets = secrets_for_instance(s, caller, http_req_header(req, "X-Secrets"));
	if (p->kind == PROXY_CREATE)
		take_turn(p);
	else
		proxy_connect(p, false);
}
