/* gateway/place.c: which instance a session is with. Most sessions are listings: they visit any healthy instance and count
 * against nothing. One that sends /create takes a place, in the fullest instance that has one free, and stays there. */
#include "base/mem.h"
#include "gateway/private.h"

/* The server had nothing yet of a visitor whose /create still waits: it loses nothing, goes on waiting, and visits another one. */
static void on_instance_gone(void *arg, struct instance *i)
{
	struct session *s = arg;
	if (!s->place_wait || s->state != SESSION_READY) {
		session_crashed(s, instance_end_reason(i));
		return;
	}
	env_acquire_unvisit(s->place_wait);
	owns_abort(s);
	place_leave(s);
	s->state = SESSION_OPENING;
	session_open(s);
	table_save(s);
}

void place_enter(struct session *s, struct instance *i)
{
	s->instance = i;
	instance_on_end(i, s, on_instance_gone, s);
}

void place_leave(struct session *s)
{
	struct instance *i = STEAL(s->instance);
	if (!i)
		return;
	instance_off_end(i, s);
	if (s->placed)
		instance_leave(i);
	s->placed = false;
	instance_release(i);
}

struct env_wait *place_take(struct session *s, env_instance_fn *done, void *arg)
{
	struct env_request rq = { .want = ENV_PLACE, .key = s->key_id, .visited = s->instance, .done = done, .arg = arg };
	s->place_wait = env_acquire(s->g->envs, s->env, &rq);
	return s->place_wait;
}

void place_cancel(struct session *s)
{
	env_acquire_cancel(STEAL(s->place_wait));
}

void place_taken(struct session *s, struct instance *i)
{
	s->place_wait = NULL;
	if (s->state == SESSION_OPENING) { /* the visited one is gone, and this came before another visit */
		if (s->wait)
			env_acquire_cancel(STEAL(s->wait));
		session_ready(s, i, true);
		return;
	}
	if (i == s->instance) {
		instance_release(i); /* the visit's use is enough */
	} else {
		owns_abort(s); /* they are with the one it leaves */
		place_leave(s);
		place_enter(s, i);
		own_list(s);
	}
	s->placed = true;
	table_save(s);
}

bool queue_is_full(struct gateway *g, struct http_req *req, const char *key, struct store_environment *env, enum env_want want)
{
	if (!env_would_wait(g->envs, env, want))
		return false;
	struct err err;
	if (share_check(&g->settings.queue, envs_waiting(g->envs), envs_waiting_of(g->envs, key), "sessions wait for an instance",
			&err) == 0)
		return false;
	http_reply_header(req, "Retry-After", "5");
	http_reply_error(req, 429, "%s", err.msg);
	g->counts.refused_total++;
	return true;
}
