/* api/sandbox/sandbox.c: the table of sandboxes: who may see which, how they end, what is remembered of them. */
#include "api/sandbox/sandbox.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "api/sandbox/sidecars.h"
#include "base/mem.h"
#include "base/str.h"
#include "base/time.h"

#define TICK_MAX_MS 10000 /* leases of used sandboxes are renewed, old memories dropped, records settled */

struct removal { /* a request that is answered when the sandbox is gone; in the request's memory */
	struct list node;
	struct http_req *req;
	char id[SID_LEN];
};

struct ender { /* waits for the end of every sandbox of an owner; owner NULL = of all */
	struct list node;
	struct sandboxes *s;
	char *owner;
	void (*done)(void *arg);
	void *arg;
	bool over;
};

/* -- answers about one ------------------------------------------------------------------------------------------------------ */

void sandbox_explain(const struct sandboxes *s, const char *reason, struct err *ret)
{
	uint64_t idle_s = s->settings.idle_ms / 1000;

	if (str_eq(reason, "lease"))
		err_set(ret, -EIDRM, "the sandbox has ended: no request and no ping came for %llu s", (unsigned long long)idle_s);
	else if (str_eq(reason, "deadline"))
		err_set(ret, -EIDRM, "the sandbox has ended: it reached its longest life");
	else if (str_eq(reason, "deleted"))
		err_set(ret, -EIDRM, "the sandbox has ended: it was deleted");
	else if (str_eq(reason, "host"))
		err_set(ret, -EIDRM, "the sandbox was lost by a fault of the host (outcome infra)");
	else if (str_eq(reason, "killed") || str_eq(reason, "exited")) /* process 1, which nothing inside can end */
		err_set(ret, -EIDRM, "the sandbox has ended: its first process %s (outcome infra)",
			str_eq(reason, "killed") ? "was killed from outside" : "exited");
	else if (str_eq(reason, "netlink"))
		err_set(ret, -EIDRM, "the sandbox has ended: it left netlink messages unread that took the host's memory");
	else if (str_eq(reason, "away"))
		err_set(ret, -EIDRM, "the sandbox has ended while the server was away: of its lease or by itself");
	else
		err_set(ret, -EIDRM, "the sandbox has ended: %s", reason);
}

static bool may_see(const struct auth_caller *c, const char *namespace_id)
{
	return str_eq(c->namespace_id, namespace_id);
}

struct sandbox *sandbox_find(struct sandboxes *s, const struct auth_caller *caller, const char *id, struct err *err)
{
	struct sandbox *b = map_get(s->live, id);
	struct ended_sandbox *e = b ? NULL : map_get(s->ended, id);

	if (b && may_see(caller, b->namespace_id) && b->state != SANDBOX_ENDING)
		return b;
	if (b && may_see(caller, b->namespace_id))
		sandbox_explain(s, b->end_reason, err);
	else if (e && may_see(caller, e->namespace_id))
		sandbox_explain(s, e->reason, err);
	else
		err_set(err, -ENOENT, "sandbox %.64s is not known here", id);
	return NULL;
}

static struct sandbox *find_ready(struct sandboxes *s, struct http_req *req, const char *id, struct err *err)
{
	const struct auth_caller *caller;
	struct sandbox *b;

	if (auth_request(s->auth, req, &caller, err) < 0)
		return NULL;
	if (str_empty(id)) {
		err_set(err, -EINVAL, "X-Session-ID: missing: expected a sandbox's id");
		return NULL;
	}
	b = sandbox_find(s, caller, id, err);
	if (b && b->state == SANDBOX_CREATING) {
		err_set(err, -EBUSY, "sandbox %s is still being made", id);
		return NULL;
	}
	return b;
}

struct sandbox *sandbox_ready(struct sandboxes *s, struct http_req *req, const char *id, http_handler_fn *handler)
{
	struct err err;
	struct sandbox *b = find_ready(s, req, id, &err);

	if (!b)
		api_reply_err(req, &err);
	return b && sandbox_park(b, req, handler) ? NULL : b;
}

struct sandbox *sandbox_of_request(struct sandboxes *s, struct http_req *req, http_handler_fn *handler)
{
	return sandbox_ready(s, req, http_req_header(req, "X-Session-ID"), handler);
}

/* -- uses -------------------------------------------------------------------------------------------------------------------- */

void sandbox_renew(struct sandbox *b)
{
	b->used_ms = loop_now_ms(b->s->loop);
	if (b->box)
		b->s->engine->ops->renew(b->box);
}

static void on_use_closed(struct http_req *req UNUSED, bool complete, void *arg)
{
	struct use *u = arg;

	u->complete = complete;
	if (u->closed)
		u->closed(u);
	if (u->back)
		*u->back = NULL;
	if (!u->b)
		return;
	list_remove(&u->node);
	sandbox_renew(u->b);
}

void use_start(struct use *u, struct http_req *req, struct sandbox *b, void (*closed)(struct use *u))
{
	u->req = req;
	u->b = b;
	u->back = NULL;
	u->closed = closed;
	list_push_back(&b->uses, &u->node);
	http_req_on_close(req, on_use_closed, u);
	sandbox_renew(b);
}

bool use_alive(struct use *u)
{
	struct err err;

	if (u->b)
		return true;
	err_set(&err, -EIDRM, "the sandbox has ended");
	api_reply_err(u->req, &err);
	return false;
}

/* -- life -------------------------------------------------------------------------------------------------------------------- */

static void make_id(struct sandbox *b, const char *id)
{
	struct sid_route route = { .kind = SID_SANDBOX, .slot = b->slot == SLOTS_NONE ? 0 : b->slot };

	if (id)
		snprintf(b->id, sizeof(b->id), "%s", id);
	else
		sid_make(b->id, &route);
}

struct sandbox *sandbox_new(struct sandboxes *s, const char *id, const char *namespace_id, const char *owner, struct store_key *key)
{
	struct sandbox *b = NEW(struct sandbox);

	b->s = s;
	b->slot = slots_take(s->records);
	make_id(b, id);
	b->namespace_id = xstrdup(namespace_id);
	b->owner = xstrdup(owner);
	b->key = key;
	auth_count(key, STORE_USE_SANDBOXES, 1);
	b->tasks = tasks_new(s->loop, s->settings.result_ms, s->settings.repeat_ms, s->task_records);
	b->uploads = map_new();
	b->created_ms = time_wall_ms();
	b->used_ms = loop_now_ms(s->loop);
	list_init(&b->uses);
	list_init(&b->parked);
	list_init(&b->sidecars);
	list_init(&b->creators);
	list_init(&b->removals);
	list_push_back(&s->all, &b->node);
	map_put(s->live, b->id, b);
	return b;
}

static void sandbox_free(void *arg)
{
	struct sandbox *b = arg;

	map_free(b->uploads);
	free(b->namespace_id);
	free(b->owner);
	free(b->end_reason);
	free(b->image);
	free(b);
}

void sandbox_end(struct sandbox *b, const char *reason)
{
	if (b->state == SANDBOX_ENDING)
		return;
	b->state = SANDBOX_ENDING;
	b->end_reason = xstrdup(reason);
	creators_tell(b, "the sandbox was deleted while it was being made");
	if (b->box)
		b->s->engine->ops->destroy(b->box, reason, NULL, NULL);
	else if (creation_cancel(b))
		sandbox_gone(b, reason);
}

struct ended_sandbox *sandbox_ended_add(struct sandboxes *s, const char *id, const char *namespace_id, const char *reason)
{
	struct ended_sandbox *e = NEW(struct ended_sandbox);

	snprintf(e->id, sizeof(e->id), "%s", id);
	e->slot = SLOTS_NONE;
	e->namespace_id = xstrdup(namespace_id);
	e->reason = xstrdup(reason);
	e->until_ms = loop_now_ms(s->loop) + s->settings.remember_ms;
	list_push_back(&s->ended_list, &e->node);
	map_put(s->ended, e->id, e);
	return e;
}

void sandbox_ended_forget(struct sandboxes *s, struct ended_sandbox *e)
{
	map_del(s->ended, e->id);
	list_remove(&e->node);
	slots_give(s->records, e->slot);
	free(e->namespace_id);
	free(e->reason);
	free(e);
}

static void reply_sid(struct http_req *req, const char *id)
{
	auto_buf struct buf b = { 0 };

	buf_init(&b, 128);
	if (buf_printf(&b, "{\"sid\": \"%s\"}", id) == 0)
		http_reply_json(req, 200, &b);
}

static void answer_removals(struct sandbox *b)
{
	while (!list_empty(&b->removals)) {
		struct removal *r = list_first(&b->removals, struct removal, node);

		list_remove(&r->node);
		reply_sid(r->req, r->id);
	}
}

static bool has_sandboxes(const struct sandboxes *s, const char *owner)
{
	const struct list *all = &s->all;

	for (const struct list *l = all->next; l != all; l = l->next)
		if (!owner || str_eq(container_of(l, const struct sandbox, node)->owner, owner))
			return true;
	return false;
}

static void finish_ender(void *arg)
{
	struct ender *e = arg;

	list_remove(&e->node);
	e->done(e->arg);
	free(e->owner);
	free(e);
}

static void check_enders(struct sandboxes *s)
{
	list_foreach(&s->enders, struct ender, node, e)
		if (!e->over && !has_sandboxes(s, e->owner)) {
			e->over = true;
			loop_defer(s->loop, finish_ender, e);
		}
}

/* why: for those who wait. */
static void dispose(struct sandbox *b, const char *why)
{
	struct sandboxes *s = b->s;

	map_del(s->live, b->id);
	auth_count(b->key, STORE_USE_SANDBOXES, -1);
	list_remove(&b->node);
	b->state = SANDBOX_ENDING;
	b->box = NULL;
	creators_tell(b, why);
	creation_detach(b);
	b->tasks = tasks_free(b->tasks, why);
	uploads_free(b);
	runs_free(b);
	sidecars_free(b);
	list_foreach(&b->uses, struct use, node, u) {
		list_remove(&u->node);
		u->b = NULL;
	}
	sandbox_unpark(b);
	answer_removals(b);
	check_enders(s);
	loop_release(s->loop, sandbox_free, b);
}

void sandbox_gone(struct sandbox *b, const char *reason)
{
	const char *why = b->end_reason ? b->end_reason : reason;
	struct sandboxes *s = b->s;
	struct err err;

	sandbox_explain(s, why, &err);
	s->counts.expired_total += str_eq(why, "lease");
	record_ended(b, sandbox_ended_add(s, b->id, b->namespace_id, why));
	dispose(b, err.msg);
}

void sandbox_forget(struct sandbox *b)
{
	slots_give(b->s->records, b->slot);
	b->slot = SLOTS_NONE;
	dispose(b, "nobody waits for it");
}

/* -- for the gateway ----------------------------------------------------------------------------------------------------------- */

void sandboxes_end_owned(void *sandboxes, const char *session_id, void (*done)(void *done_arg), void *done_arg)
{
	struct sandboxes *s = sandboxes;
	struct ender *e = NEW(struct ender);

	*e = (struct ender){ .s = s, .owner = xstrdup(session_id), .done = done, .arg = done_arg };
	list_push_back(&s->enders, &e->node);
	list_foreach(&s->all, struct sandbox, node, b)
		if (!session_id || str_eq(b->owner, session_id))
			sandbox_end(b, "deleted");
	check_enders(s);
}

void sandboxes_end_all(struct sandboxes *s, const char *reason UNUSED, void (*done)(void *done_arg), void *done_arg)
{
	s->closed = true;
	sandboxes_end_owned(s, NULL, done, done_arg);
}

/* The caller, when id is one of ours: NULL and *mine false = not ours; NULL and *mine true = answered. */
static const struct auth_caller *caller_of_mine(struct sandboxes *s, struct http_req *req, const char *id, bool *mine)
{
	const struct auth_caller *caller;
	struct err err;

	*mine = map_get(s->live, id) || map_get(s->ended, id);
	if (!*mine)
		return NULL;
	if (auth_request(s->auth, req, &caller, &err) == 0)
		return caller;
	api_reply_err(req, &err);
	return NULL;
}

bool sandboxes_ping(void *sandboxes, struct http_req *req, const char *sid)
{
	static const char ok[] = "{\"status\": \"ok\"}";
	struct sandboxes *s = sandboxes;
	const struct auth_caller *caller;
	struct sandbox *b;
	struct err err;
	bool mine;

	caller = caller_of_mine(s, req, sid, &mine);
	if (!caller)
		return mine;
	b = sandbox_find(s, caller, sid, &err);
	if (!b) {
		api_reply_err(req, &err);
		return true;
	}
	sandbox_renew(b);
	http_reply(req, 200, "application/json", ok, sizeof(ok) - 1);
	return true;
}

static void on_removal_closed(struct http_req *req UNUSED, bool complete UNUSED, void *arg)
{
	list_remove(&((struct removal *)arg)->node);
}

bool sandboxes_remove(void *sandboxes, struct http_req *req, const char *sid)
{
	struct sandboxes *s = sandboxes;
	const struct auth_caller *caller;
	struct removal *r;
	struct sandbox *b;
	struct err err;
	bool mine;

	caller = caller_of_mine(s, req, sid, &mine);
	if (!caller)
		return mine;
	if (auth_need_role(caller, STORE_ROLE_MEMBER, &err) < 0) {
		api_reply_err(req, &err);
		return true;
	}
	b = map_get(s->live, sid);
	if (!b || !may_see(caller, b->namespace_id)) {
		if (sandbox_find(s, caller, sid, &err) || err.code == -EIDRM)
			reply_sid(req, sid);
		else
			api_reply_err(req, &err);
		return true;
	}
	r = http_req_alloc(req, sizeof(*r));
	r->req = req;
	snprintf(r->id, sizeof(r->id), "%s", sid);
	list_push_back(&b->removals, &r->node);
	http_req_on_close(req, on_removal_closed, r);
	sandbox_end(b, "deleted");
	return true;
}

/* -- the table ----------------------------------------------------------------------------------------------------- */

static uint64_t tick_ms(const struct sandboxes *s)
{
	return MIN((uint64_t)TICK_MAX_MS, s->settings.idle_ms / 4);
}

static void on_tick(struct loop_timer *t, void *arg)
{
	struct sandboxes *s = arg;
	struct ended_sandbox *e;

	list_foreach(&s->all, struct sandbox, node, b)
		if (!list_empty(&b->uses) || !list_empty(&b->parked))
			sandbox_renew(b);
	while ((e = list_first(&s->ended_list, struct ended_sandbox, node)) &&
	       (e->until_ms <= loop_now_ms(s->loop) || map_len(s->ended) > s->settings.remember_max))
		sandbox_ended_forget(s, e);
	records_settle(s);
	loop_timer_start(t, tick_ms(s));
}

static uint64_t or_default(uint64_t value, uint64_t fallback)
{
	return value ? value : fallback;
}

int sandboxes_new(struct sandboxes **ret, struct loop *l, struct engine *engine, struct auth *auth,
		  const struct sandboxes_settings *settings, struct err *err)
{
	struct sandboxes *s = NEW(struct sandboxes);
	struct sandboxes_settings *c = &s->settings;
	int r;

	*s = (struct sandboxes){ .loop = l, .engine = engine, .auth = auth, .settings = *settings };
	c->size.cpu_milli = or_default(c->size.cpu_milli, 1000);
	c->size.memory_bytes = or_default(c->size.memory_bytes, 1ull << 30);
	c->idle_ms = or_default(c->idle_ms, 120000);
	c->hard_ms = or_default(c->hard_ms, 86400000);
	c->remember_ms = or_default(c->remember_ms, 3600000);
	/* All of a former daemon's count as ended until they are adopted: there is room for these in any case. */
	c->remember_max = MAX(or_default(c->remember_max, 200000), (size_t)SANDBOX_RECORDS_MAX);
	c->result_ms = or_default(c->result_ms, 60000);
	c->repeat_ms = or_default(c->repeat_ms, 30000);
	c->runs_max = or_default(c->runs_max, 10000);
	c->queue.max = or_default(c->queue.max, 1000);
	c->claim_ms = or_default(c->claim_ms, 2000);
	c->sidecars_max = or_default(c->sidecars_max, 8);
	c->sidecar_size = c->sidecar_size.cpu_milli ? c->sidecar_size : c->size;
	c->sidecar_log_bytes = or_default(c->sidecar_log_bytes, 1u << 20);
	s->live = map_new();
	s->ended = map_new();
	tally_init(&s->creating);
	list_init(&s->all);
	list_init(&s->ended_list);
	list_init(&s->enders);
	list_init(&s->strays);
	loop_timer_init(&s->tick, l, on_tick, s);
	loop_timer_start(&s->tick, tick_ms(s));
	r = records_open(s, err);
	if (r < 0) {
		sandboxes_free(s);
		return r;
	}
	*ret = s;
	return 0;
}

void sandboxes_set_buckets(struct sandboxes *s, const struct bucket_access *access)
{
	s->buckets = access;
}

struct sandboxes *sandboxes_free(struct sandboxes *s)
{
	if (!s)
		return NULL;
	loop_timer_stop(&s->tick);
	s->closed = true;
	records_leave(s);
	while (!list_empty(&s->all)) {
		struct sandbox *b = list_first(&s->all, struct sandbox, node);

		sandbox_gone(b, "host");
	}
	sidecars_forget_strays(s);
	for (struct ended_sandbox *it; (it = list_first(&s->ended_list, struct ended_sandbox, node));)
		sandbox_ended_forget(s, it);
	list_foreach(&s->enders, struct ender, node, e) {
		free(e->owner);
		free(e);
	}
	map_free(s->live);
	map_free(s->ended);
	tally_done(&s->creating);
	records_close(s);
	free(s);
	return NULL;
}

void sandboxes_routes(struct sandboxes *s, struct http_router *r)
{
	http_router_add(r, "POST", "/create_sandbox", create_handler, s);
	http_router_add(r, "POST", "/run", run_handler, s);
	http_router_add(r, "POST", "/set_network", set_network_handler, s);
	http_router_add(r, "POST", "/stat_file", stat_handler, s);
	http_router_add(r, "POST", "/read_file", read_handler, s);
	http_router_add(r, "POST", "/write_file", write_handler, s);
	runs_routes(s, r);
	sandbox_list_routes(s, r);
}

void sandboxes_counts(const struct sandboxes *s, struct sandboxes_counts *ret)
{
	const struct list *all = &s->all;

	*ret = s->counts;
	for (const struct list *l = all->next; l != all; l = l->next) {
		ret->open++;
		ret->creating += container_of(l, const struct sandbox, node)->state == SANDBOX_CREATING;
	}
}
