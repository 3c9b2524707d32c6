/* gateway/table.c: the sessions in DATA/run/sessions (base/slots.h), so that they outlive the daemon: a record for each, its
 * place is in the id. Every change of what a successor must know is a store into that memory: nothing is written, synced
 * or sent. What a successor finds:
 *
 *   OPENING          waits for an instance again; its client comes with the id as task_id. One that is to have an instance of
 *                    its own waits for its client first: the variables are in no file, and come again with the id.
 *   READY            goes on with its instance, if that was taken over (env/adopt.c); else it has crashed.
 *   ENDING           ends once more, for the same reason: a second /delete does no harm.
 *   ENDED            410 and the reason until its hour is over.
 * Records of another life of the spawner: all that had not ended were lost with it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "gateway/private.h"

#define RECORDS_MIN 65536

enum { FLAG_CREATED = 1, FLAG_MAY_EXIST = 2, FLAG_KEY = 4, FLAG_CALL = 8, FLAG_PLACED = 16, FLAG_OWN = 32,
       FLAG_UNSURE = 64 };

struct session_record {
	uint32_t state;    /* 0 = free, else enum session_state + 1; CLOSED = ended */
	uint32_t flags;
	uint64_t opened_ms, until_ms; /* CLOCK_MONOTONIC; until: of an ended one */
	int64_t call_length;          /* FLAG_CALL: of the /call that was under way last */
	int64_t create_length;        /* FLAG_UNSURE: of the /create whose answer may not have arrived */
	uint32_t creations, role;
	char id[40], namespace_id[40], key_id[40], environment_id[40], instance_id[40];
	unsigned char key_hash[AUTH_HASH_LEN];
	char reason[128];
};

static struct session_record *record(const struct session *s)
{
	return slots_at(s->g->records, s->slot);
}

static void set_slot(struct gateway *g, struct ended *e, uint32_t slot)
{
	list_remove(&e->recorded);
	e->slot = slot;
	if (slot != SLOTS_NONE)
		list_push_back(&g->recorded, &e->recorded);
}

uint32_t table_take(struct gateway *g)
{
	uint32_t slot = slots_take(g->records);

	/* Full of ended ones, mostly: the oldest is remembered here only. */
	if (slot == SLOTS_NONE && g->records && !list_empty(&g->recorded)) {
		struct ended *e = container_of(g->recorded.next, struct ended, recorded);

		slots_give(g->records, e->slot);
		set_slot(g, e, SLOTS_NONE);
		slot = slots_take(g->records);
	}
	return slot;
}

void table_add(const struct session *s)
{
	struct session_record *r = record(s);

	if (!r)
		return;
	snprintf(r->id, sizeof(r->id), "%s", s->id);
	snprintf(r->namespace_id, sizeof(r->namespace_id), "%s", s->namespace_id);
	snprintf(r->key_id, sizeof(r->key_id), "%s", s->key_id);
	snprintf(r->environment_id, sizeof(r->environment_id), "%s", s->env->id);
	r->opened_ms = s->opened_ms;
	slots_publish(&r->state, s->state + 1u);
}

void table_save(const struct session *s)
{
	struct session_record *r = record(s);
	uint32_t flags;

	if (!r)
		return;
	flags = r->flags & (FLAG_CALL | FLAG_KEY);
	r->flags = flags | (s->created ? FLAG_CREATED : 0u) | (s->may_exist ? FLAG_MAY_EXIST : 0u) |
		   (s->placed ? FLAG_PLACED : 0u) | (s->vars || s->awaits_vars ? FLAG_OWN : 0u) |
		   (s->create_open || s->create_unsure ? FLAG_UNSURE : 0u);
	r->create_length = s->create_length;
	r->creations = s->creations;
	snprintf(r->instance_id, sizeof(r->instance_id), "%s", s->instance ? instance_id(s->instance) : "");
	if (s->end_reason)
		snprintf(r->reason, sizeof(r->reason), "%s", s->end_reason);
	slots_publish(&r->state, s->state + 1u);
}

void table_key(const struct session *s, const unsigned char hash[AUTH_HASH_LEN], enum store_role role)
{
	struct session_record *r = record(s);

	if (!r)
		return;
	memcpy(r->key_hash, hash, AUTH_HASH_LEN);
	r->role = role;
	slots_publish(&r->flags, r->flags | FLAG_KEY);
}

void table_call(const struct session *s, int64_t length, bool open)
{
	struct session_record *r = record(s);

	if (!r)
		return;
	r->call_length = length;
	slots_publish(&r->flags, open ? r->flags | FLAG_CALL : r->flags & ~(uint32_t)FLAG_CALL);
}

void table_ended(struct session *s, struct ended *e)
{
	struct session_record *r = record(s);

	set_slot(s->g, e, s->slot);
	s->slot = SLOTS_NONE;
	if (!r)
		return;
	snprintf(r->reason, sizeof(r->reason), "%s", ended_reason(e));
	explicit_bzero(r->key_hash, sizeof(r->key_hash));
	r->until_ms = e->until_ms;
	slots_publish(&r->state, SESSION_CLOSED + 1u);
}

/* -- of a former daemon ------------------------------------------------------------------------------------------------------ */

static void terminate(struct session_record *r)
{
	char *texts[] = { r->id, r->namespace_id, r->key_id, r->environment_id, r->instance_id };

	for (size_t i = 0; i < ARRAY_LEN(texts); i++)
		texts[i][sizeof(r->id) - 1] = '\0';
	r->reason[sizeof(r->reason) - 1] = '\0';
}

static void recall(struct gateway *g, uint32_t slot, struct session_record *r)
{
	bool ended = r->state == SESSION_CLOSED + 1;
	uint64_t now = loop_now_ms(g->loop), until = now + g->settings.remember_ms;
	const struct store_namespace *ns = store_namespace_by_id(g->store, r->namespace_id);
	const char *reason = ended ? r->reason : "it was lost by a fault of the host (outcome infra)";
	struct ended *e = !ns || (ended && r->until_ms <= now) ? NULL : ended_add(g, r->id, ns->id, reason);

	if (!e) { /* nobody can ask for it any more */
		slots_give(g->records, slot);
		return;
	}
	set_slot(g, e, slot);
	e->until_ms = ended ? MIN(r->until_ms, until) : until;
	r->until_ms = e->until_ms;
	snprintf(r->reason, sizeof(r->reason), "%s", ended_reason(e));
	slots_publish(&r->state, SESSION_CLOSED + 1u);
}

static void restore_key(struct session *s, struct store_namespace *ns, const struct session_record *r)
{
	struct auth_caller caller = {
		.namespace_id = ns->id, .namespace_name = ns->name, .key_id = s->key_id, .role = (enum store_role)r->role, .ns = ns,
		.key = s->opener,
	};

	/* An opener that is known no more was a removed user's key, and ended with him. */
	if (s->opener && r->flags & FLAG_KEY && r->role <= STORE_ROLE_MEMBER)
		auth_session_key_restore(s->g->auth, &caller, s->id, r->key_hash);
}

static void restore_fields(struct session *s, const struct session_record *r)
{
	s->opened_ms = MIN(r->opened_ms, s->opened_ms);
	s->created = r->flags & FLAG_CREATED;
	s->may_exist = r->flags & FLAG_MAY_EXIST;
	s->creations = r->creations;
	s->create_unsure = r->flags & FLAG_UNSURE;
	s->create_length = r->create_length;
	if (r->flags & FLAG_CALL) {
		s->lost_call_length = r->call_length;
		s->lost_call_ms = loop_now_ms(s->g->loop);
	}
}

static void resume_session(struct session *s, uint32_t state, uint32_t flags, const char *instance, const char *reason)
{
	struct instance *i = envs_instance_by_box(s->g->envs, instance);

	if (state == SESSION_OPENING + 1 && flags & FLAG_OWN) {
		s->awaits_vars = true;
		table_save(s);
		return;
	}
	if (state == SESSION_OPENING + 1) {
		session_open(s);
		return;
	}
	if (state == SESSION_ENDING + 1 && (!i || instance_end_reason(i))) {
		session_end(s, reason);
		return;
	}
	if (!i || instance_end_reason(i)) {
		session_crashed(s, i ? instance_end_reason(i) : "its instance has ended while the server was away (outcome infra)");
		return;
	}
	instance_hold(i);
	if (flags & FLAG_PLACED)
		instance_enter(i);
	session_ready(s, i, flags & FLAG_PLACED);
	if (state == SESSION_ENDING + 1)
		session_end(s, reason);
}

static void adopt(struct gateway *g, uint32_t slot, const struct session_record *r)
{
	struct store_namespace *ns = store_namespace_by_id(g->store, r->namespace_id);
	struct store_environment *env = store_environment_by_id(g->store, r->environment_id);
	const struct session_record copy = *r; /* what follows writes to it */
	struct session *s;

	if (!ns || !env) {
		slots_give(g->records, slot);
		return;
	}
	s = session_restore(g, copy.id, slot, ns->id, store_key_by_id(g->store, copy.key_id), env);
	restore_fields(s, &copy);
	restore_key(s, ns, &copy);
	g->counts.adopted_total++;
	resume_session(s, copy.state, copy.flags, copy.instance_id, copy.reason);
}

struct aged {
	uint64_t opened_ms;
	uint32_t slot;
};

static int by_age(const void *a, const void *b)
{
	const struct aged *x = a, *y = b;

	return x->opened_ms < y->opened_ms ? -1 : x->opened_ms > y->opened_ms;
}

/* The oldest first, as gateway.by_age has them. */
void gateway_take_over(struct gateway *g)
{
	uint32_t count = slots_count(g->records);
	auto_free struct aged *live = xcalloc((size_t)count + 1, sizeof(*live));
	size_t n = 0;

	for (uint32_t i = 0; i < count; i++) {
		struct session_record *r = slots_at(g->records, i);

		if (!r->state)
			continue;
		terminate(r);
		if (g->same_life && r->state <= SESSION_ENDING + 1)
			live[n++] = (struct aged){ r->opened_ms, i };
		else
			recall(g, i, r);
	}
	qsort(live, n, sizeof(*live), by_age);
	for (size_t k = 0; k < n; k++)
		adopt(g, live[k].slot, slots_at(g->records, live[k].slot));
}

int table_open(struct gateway *g, struct err *err)
{
	auto_free char *path = NULL;
	struct slots_spec spec = {
		.kind = "session", .life = g->settings.life, .record_bytes = sizeof(struct session_record),
		.max = (uint32_t)MIN(MAX(2 * g->settings.sessions_max, (size_t)RECORDS_MIN), (size_t)UINT32_MAX / 2),
	};

	if (!g->settings.state_dir)
		return 0;
	path = xasprintf("%s/sessions", g->settings.state_dir);
	spec.path = path;
	return slots_open(&g->records, &spec, &g->same_life, err);
}
