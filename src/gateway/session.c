/* gateway/session.c: the table of sessions: leases, endings, memory of what has ended. States: gateway/session.h. */
#include "gateway/session.h"

#include <errno.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "base/strv.h"
#include "gateway/private.h"
#include "json/json.h"

#define SWEEP_MS 1000

/* -- leases ------------------------------------------------------------------------------------------------------ */

/* Keeps by_use in order: the end of the list is the most recent. One with an open request is in no list. */
void session_touch(struct session *s)
{
	s->last_use_ms = loop_now_ms(s->g->loop);
	list_remove(&s->use_node);
	if (!s->open_requests && s->state <= SESSION_READY)
		list_push_back(&s->g->by_use, &s->use_node);
}

void session_hold(struct session *s)
{
	session_retain(s);
	s->open_requests++;
	session_touch(s);
}

static void session_free(void *arg)
{
	struct session *s = arg;
	free(s->end_reason);
	strv_erase(s->vars);
	explicit_bzero(s->key, sizeof(s->key));
	free(s);
}

/* Requests may outlive the session by the time that their last bytes take. */
void session_retain(struct session *s)
{
	s->refs++;
}

void session_release(struct session *s)
{
	s->refs--;
	if (s->state == SESSION_CLOSED && !s->refs)
		loop_release(s->g->loop, session_free, s);
}

void session_unhold(struct session *s)
{
	s->open_requests--;
	session_touch(s);
	session_release(s);
}

static void sweep_idle(struct gateway *g, uint64_t now)
{
	list_foreach(&g->by_use, struct session, use_node, s) {
		if (now - s->last_use_ms < g->settings.lease_ms)
			return;
		auto_free char *reason = xasprintf("no ping and no request for %llu s",
						   (unsigned long long)g->settings.lease_ms / 1000);
		g->counts.expired_total++;
		session_end(s, reason);
	}
}

static void sweep_old(struct gateway *g, uint64_t now)
{
	list_foreach(&g->by_age, struct session, age_node, s) {
		if (!g->settings.hard_ms || now - s->opened_ms < g->settings.hard_ms)
			return;
		if (s->state >= SESSION_ENDING)
			continue;
		g->counts.expired_total++;
		session_end(s, "the session reached its longest life");
	}
}

void on_sweep(struct loop_timer *t, void *arg)
{
	struct gateway *g = arg;
	uint64_t now = loop_now_ms(g->loop);
	sweep_idle(g, now);
	sweep_old(g, now);
	ended_sweep(g, now);
	loop_timer_start(t, SWEEP_MS);
}

/* -- life -------------------------------------------------------------------------------------------------------- */

struct session *session_restore(struct gateway *g, const char *id, uint32_t slot, const char *namespace_id,
				struct store_key *opener,
				struct store_environment *env)
{
	struct session *s = NEW(struct session);
	s->g = g;
	s->slot = slot;
	s->env = env;
	s->namespace_id = namespace_id;
	s->key_id = opener ? opener->id : "";
	s->opener = opener;
	auth_count(opener, STORE_USE_SESSIONS, 1);
	s->opened_ms = loop_now_ms(g->loop);
	s->refs = 1;
	list_init(&s->create_queue);
	list_init(&s->proxies);
	list_init(&s->removals);
	list_init(&s->owns);
	list_init(&s->use_node);
	list_init(&s->age_node);
	memcpy(s->id, id, SID_LEN);
	map_put(g->sessions, s->id, s);
	list_push_back(&g->by_age, &s->age_node);
	session_touch(s);
	return s;
}

struct session *session_new(struct gateway *g, const struct auth_caller *caller, struct store_environment *env)
{
	uint32_t slot = table_take(g);
	char id[SID_LEN];
	struct session *s;
	sid_make(id, &(struct sid_route){ .kind = SID_SESSION, .slot = slot == SLOTS_NONE ? 0 : slot });
	s = session_restore(g, id, slot, caller->ns->id, caller->key, env);
	table_add(s);
	g->counts.sessions_total++;
	return s;
}

struct session *session_find(struct gateway *g, const char *id)
{
	return map_get(g->sessions, id);
}

static void answer_removals(struct session *s)
{
	while (!list_empty(&s->removals)) {
		struct removal *r = list_first(&s->removals, struct removal, node);
		list_remove(&r->node);
		if (r->req) {
			*r->back = NULL;
			reply_sid(r->req, s->id);
		}
		free(r);
	}
}

static void maybe_shut_down(struct gateway *g)
{
	if (!g->shutting_down || map_len(g->sessions) || !g->shutdown_done)
		return;
	void (*done)(void *) = STEAL(g->shutdown_done);
	loop_defer(g->loop, done, g->shutdown_arg);
}

static void leave_instance(struct session *s)
{
	if (!s->instance)
		return;
	owns_abort(s); /* they connect to it */
	place_leave(s);
}

static void drop_key(struct session *s)
{
	auth_session_key_drop(s->g->auth, s->id); /* also one of a former daemon, whose text is not known here */
	explicit_bzero(s->key, sizeof(s->key));
}

/* The sandboxes are dead: the session is over. */
static void session_close(void *arg)
{
	struct session *s = arg;
	struct gateway *g = s->g;
	if (s->state == SESSION_CLOSED) { /* session_discard() left it to this call */
		session_free(s);
		return;
	}
	proxies_abort(s);
	leave_instance(s);
	s->state = SESSION_CLOSED;
	table_ended(s, ended_add(g, s->id, s->namespace_id, s->end_reason));
	map_del(g->sessions, s->id);
	auth_count(s->opener, STORE_USE_SESSIONS, -1);
	list_remove(&s->age_node);
	list_remove(&s->use_node);
	answer_removals(s);
	session_release(s); /* what session_new() took */
	maybe_shut_down(g);
}

static void end_sandboxes(struct session *s)
{
	drop_key(s);
	s->closing = true;
	s->g->sandboxes.end_owned(s->g->sandboxes.arg, s->id, session_close, s);
}

static void stop_opening(struct session *s, const char *reason)
{
	loop_timer_stop(&s->opening);
	if (s->wait)
		env_acquire_cancel(STEAL(s->wait));
	if (s->stream)
		sse_error(STEAL(s->stream), reason);
}

static void enter_ending(struct session *s, const char *reason)
{
	s->end_reason = xstrdup(reason);
	stop_opening(s, reason);
	s->state = SESSION_ENDING;
	table_save(s);
	list_remove(&s->use_node);
	proxies_refuse_queued(s);
}

void session_end(struct session *s, const char *reason)
{
	if (s->state >= SESSION_ENDING)
		return;
	bool teardown = s->may_exist && s->instance && !instance_end_reason(s->instance);
	enter_ending(s, reason);
	if (teardown)
		own_delete(s, end_sandboxes);
	else
		end_sandboxes(s);
}

/* Nothing that the agent did, whatever it was: what trains on it is told so. */
#define OUTCOME "(outcome infra)"

void session_crashed(struct session *s, const char *reason)
{
	if (s->state >= SESSION_ENDING) { /* its teardown will not be answered any more */
		own_delete_cancel(s);
		return;
	}
	auto_free char *text = xasprintf("%s%s", reason, strstr(reason, OUTCOME) ? "" : " " OUTCOME);
	enter_ending(s, text);
	proxies_abort(s);
	end_sandboxes(s);
}

void session_discard(struct session *s)
{
	s->state = SESSION_CLOSED; /* what ends below finds nothing left to do */
	loop_timer_stop(&s->opening);
	if (s->wait)
		env_acquire_cancel(STEAL(s->wait));
	leave_instance(s);
	drop_key(s);
	list_remove(&s->age_node);
	list_remove(&s->use_node);
	while (!list_empty(&s->removals)) {
		struct removal *r = list_first(&s->removals, struct removal, node);
		list_remove(&r->node);
		free(r);
	}
	if (!s->closing) /* else session_close() is still to come, or the sandboxes' own end swallows it */
		session_release(s);
}

/* -- requests ------------------------------------------------------------------------------------------------------ */

void reply_sid(struct http_req *req, const char *sid)
{
	auto_buf struct buf b = { 0 };
	buf_init(&b, 256);
	if (buf_printf(&b, "{\"sid\":\"%s\"}", sid) == 0)
		http_reply_json(req, 200, &b);
}

bool session_is_of(const struct session *s, const struct auth_caller *c)
{
	return str_eq(s->namespace_id, c->ns->id) && (c->role > STORE_ROLE_READER || str_eq(s->key_id, c->key_id));
}

/* One that is over: 410 with why, to its own namespace only. */
static void reply_not_here(struct gateway *g, struct http_req *req, const char *id, const struct auth_caller *c)
{
	const struct ended *e = ended_find(g, id, c);
	if (e)
		http_reply_error(req, 410, "session %s has ended: %s", id, ended_reason(e));
	else
		http_reply_error(req, 404, "X-Session-ID: %.64s: no session of this key has this id", id);
}

struct session *session_of_request(struct gateway *g, struct http_req *req, const struct auth_caller **ret_caller)
{
	struct err err = ERR_INIT;
	const char *id = http_req_header(req, "X-Session-ID");
	if (auth_request(g->auth, req, ret_caller, &err) < 0) {
		auth_refuse(req, &err);
		return NULL;
	}
	if (str_empty(id)) {
		http_reply_error(req, 400, "X-Session-ID: missing: expected the id that POST /create_session gave");
		return NULL;
	}
	struct session *s = session_find(g, id);
	if (!s || !session_is_of(s, *ret_caller)) {
		reply_not_here(g, req, id, *ret_caller);
		return NULL;
	}
	if (s->state >= SESSION_ENDING) {
		http_reply_error(req, 410, "session %s is ending: %s", id, s->end_reason);
		return NULL;
	}
	return s;
}
