/* gateway/gateway.c: the routes of sessions, and the gateway's beginning and end. */
#include <errno.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "gateway/private.h"

#define OPEN_MS (30 * 60 * 1000)
#define QUEUE_MAX 1000

/* -- ping ---------------------------------------------------------------------------------------------------------- */

static void reply_ok(struct http_req *req)
{
	static const char body[] = "{\"status\":\"ok\"}";
	http_reply(req, 200, "application/json", body, sizeof(body) - 1);
}

/* Answered here, at once: a busy server's event loop may block for longer than clients are patient. */
static void ping_handler(struct http_req *req, void *arg)
{
	struct gateway *g = arg;
	const struct auth_caller *caller = NULL;
	const char *id = http_req_header(req, "X-Session-ID");
	if (id && !session_find(g, id) && g->sandboxes.ping(g->sandboxes.arg, req, id))
		return;
	struct session *s = session_of_request(g, req, &caller);
	if (!s)
		return;
	session_touch(s);
	own_ping(s);
	reply_ok(req);
}

/* -- delete -------------------------------------------------------------------------------------------------------- */

static void on_removal_closed(struct http_req *req UNUSED, bool complete UNUSED, void *arg)
{
	struct removal **slot = arg;
	if (*slot)
		(*slot)->req = NULL;
}

/* Answers when the session is CLOSED. The request's memory holds the way back to the removal, and the removal to it. */
static void answer_when_closed(struct session *s, struct http_req *req)
{
	struct removal *r = NEW(struct removal);
	r->req = req;
	r->back = http_req_alloc(req, sizeof(*r->back));
	*r->back = r;
	http_req_on_close(req, on_removal_closed, r->back);
	list_push_back(&s->removals, &r->node);
}

/* The caller's session even when it is ending; else the request is answered: repeats of a delete are harmless. */
static struct session *session_to_remove(struct gateway *g, struct http_req *req, const char *id)
{
	const struct auth_caller *caller = NULL;
	struct err err = ERR_INIT;
	if (auth_request(g->auth, req, &caller, &err) < 0) {
		auth_refuse(req, &err);
		return NULL;
	}
	struct session *s = session_find(g, id);
	if (s && session_is_of(s, caller))
		return s;
	if (ended_find(g, id, caller))
		reply_sid(req, id);
	else
		http_reply_error(req, 404, "X-Session-ID: %.64s: no session of this key has this id", id);
	return NULL;
}

static void delete_session_handler(struct http_req *req, void *arg)
{
	struct gateway *g = arg;
	const char *id = http_req_header(req, "X-Session-ID");
	if (str_empty(id)) {
		http_reply_error(req, 400, "X-Session-ID: missing: expected the id that POST /create_session gave");
		return;
	}
	if (!session_find(g, id) && g->sandboxes.remove(g->sandboxes.arg, req, id))
		return;
	struct session *s = session_to_remove(g, req, id);
	if (!s)
		return;
	answer_when_closed(s, req);
	session_end(s, "deleted by its client");
}

/* The environment's own /delete goes to its instance; of a session that is over, or has none yet, nothing is left to do. */
static void delete_handler(struct http_req *req, void *arg)
{
	struct gateway *g = arg;
	const struct auth_caller *caller = NULL;
	const char *id = http_req_header(req, "X-Session-ID");
	struct session *s = id ? session_find(g, id) : NULL;
	if (!str_empty(id) && (!s || s->state != SESSION_READY)) {
		if (!s && g->sandboxes.remove(g->sandboxes.arg, req, id))
			return;
		if (session_to_remove(g, req, id))
			reply_sid(req, id);
		return;
	}
	s = session_of_request(g, req, &caller);
	if (s)
		proxy_start(s, req, caller);
}

/* -- everything else ------------------------------------------------------------------------------------------------ */

void gateway_pass(struct http_req *req, void *arg)
{
	const struct auth_caller *caller = NULL;
	if (!http_req_header(req, "X-Session-ID")) {
		http_reply_error(req, 404, "%s %.200s: no such call here; calls of a session need X-Session-ID",
				 http_req_method(req),
				 http_req_path(req));
		return;
	}
	struct session *s = session_of_request(arg, req, &caller);
	if (!s)
		return;
	if (s->state == SESSION_READY) {
		proxy_start(s, req, caller);
		return;
	}
	http_reply_header(req, "X-Backend-State", "starting");
	http_reply_header(req, "Retry-After", "1");
	http_reply_error(req, 503, "session %s is being opened", s->id);
}

void gateway_routes(struct gateway *g, struct http_router *r)
{
	http_router_add(r, "POST", "/create_session", create_session_handler, g);
	http_router_add(r, "POST", "/ping", ping_handler, g);
	http_router_add(r, "POST", "/delete", delete_handler, g);
	http_router_add(r, "POST", "/delete_session", delete_session_handler, g);
	http_router_fallback(r, gateway_pass, g);
}

/* -- beginning and end ---------------------------------------------------------------------------------------------- */

int gateway_new(struct gateway **ret, struct loop *l, struct auth *auth, struct store *store, struct envs *envs,
		const struct gateway_sandboxes *sandboxes, const struct gateway_settings *settings, struct err *err)
{
	struct gateway *g = NEW(struct gateway);
	g->loop = l;
	g->auth = auth;
	g->store = store;
	g->envs = envs;
	g->sandboxes = *sandboxes;
	g->settings = *settings;
	if (!g->settings.open_ms)
		g->settings.open_ms = OPEN_MS;
	if (!g->settings.queue.max)
		g->settings.queue.max = QUEUE_MAX;
	g->sessions = map_new();
	list_init(&g->by_use);
	list_init(&g->by_age);
	ended_init(g);
	loop_timer_init(&g->sweep, l, on_sweep, g);
	loop_timer_start(&g->sweep, 1000);
	int r = table_open(g, err);
	if (r < 0) {
		gateway_free(g);
		return r;
	}
	*ret = g;
	return 0;
}

struct gateway *gateway_free(struct gateway *g)
{
	if (!g)
		return NULL;
	loop_timer_stop(&g->sweep);
	slots_seal(g->records); /* as they are, for the next daemon */
	while (!list_empty(&g->by_age))
		session_discard(list_first(&g->by_age, struct session, age_node));
	map_free(g->sessions);
	ended_done(g);
	slots_close(g->records);
	free(g);
	return NULL;
}

void gateway_shutdown(struct gateway *g, const char *reason, void (*done)(void *arg), void *arg)
{
	g->shutting_down = true;
	g->shutdown_done = done;
	g->shutdown_arg = arg;
	if (!map_len(g->sessions)) {
		g->shutdown_done = NULL;
		loop_defer(g->loop, done, arg);
		return;
	}
	list_foreach(&g->by_age, struct session, age_node, s)
		session_end(s, reason);
}

struct store_environment *gateway_session_environment(void *arg, const char *sid)
{
	const struct session *s = map_get(((struct gateway *)arg)->sessions, sid);

	return s ? s->env : NULL;
}

void gateway_counts(const struct gateway *g, struct gateway_counts *ret)
{
	*ret = g->counts;
	ret->open = map_len(g->sessions);
	list_foreach(&g->by_age, struct session, age_node, s)
		ret->opening += s->state == SESSION_OPENING;
}
