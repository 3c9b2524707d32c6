/* api/sandbox/adopt.c: what of the table of sandboxes outlives the daemon: a note with every box, a record of every id. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "api/sandbox/sidecars.h"
#include "base/mem.h"
#include "base/str.h"
#include "http/server.h"

#define NOTE_MAX_BYTES (16u * 1024 + SPEC_SIDECARS_BYTES)

/* -- records ---------------------------------------------------------------------------------------------------------------- */

static int open_records(struct sandboxes *s, const char *name, uint32_t bytes, uint32_t max, struct slots **ret, bool *ret_same,
			struct err *err)
{
	auto_free char *path = xasprintf("%s/%s", s->settings.state_dir, name);
	struct slots_spec spec = { .path = path, .kind = name, .life = s->settings.life, .record_bytes = bytes, .max = max };

	return slots_open(ret, &spec, ret_same, err);
}

/* Until it is adopted one that lived has ended: with its spawner, or by itself meanwhile. */
static void recall(struct sandboxes *s, uint32_t slot, struct sandbox_record *r, bool same)
{
	uint64_t now = loop_now_ms(s->loop);
	struct ended_sandbox *e;

	r->id[sizeof(r->id) - 1] = r->namespace_id[sizeof(r->namespace_id) - 1] = r->reason[sizeof(r->reason) - 1] = '\0';
	e = sandbox_ended_add(s, r->id, r->namespace_id, r->state == SANDBOX_RECORD_ENDED ? r->reason : same ? "away" : "host");
	e->slot = slot;
	if (r->state == SANDBOX_RECORD_ENDED && r->until_s * 1000ull > now)
		e->until_ms = MIN(e->until_ms, r->until_s * 1000ull);
}

static void unhold_tasks(struct slots *records)
{
	for (uint32_t i = 0; i < slots_count(records); i++) {
		struct task_record *r = slots_at(records, i);

		slots_publish(&r->state, r->state & ~(uint32_t)TASK_HELD);
	}
}

/* Those that nobody has, and nobody comes for. */
static void forget_tasks(struct slots *records)
{
	for (uint32_t i = 0; i < slots_count(records); i++) {
		const struct task_record *r = slots_at(records, i);

		if (r->state && !(r->state & TASK_HELD))
			slots_give(records, i);
	}
}

int records_open(struct sandboxes *s, struct err *err)
{
	bool same = false, tasks_same = false;
	int r;

	if (!s->settings.state_dir)
		return 0;
	r = open_records(s, "tasks", sizeof(struct task_record), TASK_RECORDS_MAX, &s->task_records, &tasks_same, err);
	if (r == 0)
		unhold_tasks(s->task_records);
	if (r == 0 && !tasks_same)
		forget_tasks(s->task_records); /* the spawner's death took all commands along */
	if (r == 0)
		r = open_records(s, "sandbox", sizeof(struct sandbox_record), SANDBOX_RECORDS_MAX, &s->records, &same, err);
	for (uint32_t i = 0; r == 0 && i < slots_count(s->records); i++) {
		struct sandbox_record *record = slots_at(s->records, i);

		if (record->state)
			recall(s, i, record, same);
	}
	return r;
}

void records_settle(struct sandboxes *s)
{
	if (!s->unsettled)
		return;
	list_foreach(&s->all, struct sandbox, node, b)
		if (b->unknown)
			return;
	s->unsettled = false;
	forget_tasks(s->task_records);
}

void records_leave(struct sandboxes *s)
{
	slots_seal(s->records);
	slots_seal(s->task_records);
}

void records_close(struct sandboxes *s)
{
	s->records = slots_close(s->records);
	s->task_records = slots_close(s->task_records);
}

void record_live(struct sandbox *b)
{
	struct sandbox_record *r = slots_at(b->s->records, b->slot);

	if (!r)
		return;
	snprintf(r->id, sizeof(r->id), "%s", b->id);
	snprintf(r->namespace_id, sizeof(r->namespace_id), "%s", b->namespace_id);
	slots_publish(&r->state, SANDBOX_RECORD_LIVE);
}

void record_ended(struct sandbox *b, struct ended_sandbox *e)
{
	struct sandbox_record *r = slots_at(b->s->records, b->slot);

	e->slot = b->slot;
	b->slot = SLOTS_NONE;
	if (!r)
		return;
	snprintf(r->reason, sizeof(r->reason), "%s", e->reason);
	r->until_s = (uint32_t)(e->until_ms / 1000);
	slots_publish(&r->state, SANDBOX_RECORD_ENDED);
}

/* -- notes ------------------------------------------------------------------------------------------------------------------- */

void sandbox_note(const struct sandbox *b, struct buf *ret)
{
	struct json_writer w;

	buf_init(ret, NOTE_MAX_BYTES);
	json_write_begin(&w, ret);
	json_open_object(&w);
	json_kv_str(&w, "namespace", b->namespace_id);
	if (b->owner)
		json_kv_str(&w, "owner", b->owner);
	if (b->key)
		json_kv_str(&w, "key", b->key->id);
	if (b->image)
		json_kv_str(&w, "image", b->image);
	json_kv_i64(&w, "cpu_milli", (int64_t)b->size.cpu_milli);
	json_kv_i64(&w, "memory_bytes", (int64_t)b->size.memory_bytes);
	json_kv_bool(&w, "block_network", b->block_network);
	json_kv_i64(&w, "created_ms", b->created_ms);
	if (b->sidecars_json) {
		json_key(&w, "sidecars");
		json_value(&w, b->sidecars_json);
	}
	json_close(&w);
	if (json_write_end(&w) < 0)
		buf_clear(ret); /* then nobody takes it over */
}

/* The record of an id that was thought to have ended. */
static uint32_t take_back(struct sandboxes *s, const char *id)
{
	struct ended_sandbox *e = map_get(s->ended, id);
	uint32_t slot = e ? e->slot : SLOTS_NONE;

	if (!e)
		return SLOTS_NONE;
	e->slot = SLOTS_NONE;
	sandbox_ended_forget(s, e);
	return slot;
}

/* -- before it is known what runs in one ------------------------------------------------------------------------------------ */

struct parked { /* a request; in its memory */
	struct list node;
	struct http_req *req;
	http_handler_fn *handler;
};

static void on_parked_closed(struct http_req *req UNUSED, bool complete UNUSED, void *arg)
{
	list_remove(&((struct parked *)arg)->node);
}

bool sandbox_park(struct sandbox *b, struct http_req *req, http_handler_fn *handler)
{
	struct parked *p;

	if (!b->unknown)
		return false;
	p = http_req_alloc(req, sizeof(*p));
	*p = (struct parked){ .req = req, .handler = handler };
	list_push_back(&b->parked, &p->node);
	http_req_on_close(req, on_parked_closed, p);
	/* Its client may come again without the id of a task: the two must not be taken for two who want the same. */
	http_req_watch_peer(req);
	sandbox_renew(b);
	return true;
}

void sandbox_unpark(struct sandbox *b)
{
	struct parked *p;

	while ((p = list_first(&b->parked, struct parked, node))) {
		list_remove(&p->node);
		http_req_on_close(p->req, NULL, NULL);
		p->handler(p->req, b->s);
	}
}

void sandbox_known(struct sandbox *b)
{
	b->unknown--;
	if (b->unknown)
		return;
	creators_tell(b, NULL);
	sandbox_unpark(b);
}

/* -- taking over ------------------------------------------------------------------------------------------------------------- */

static void on_box_end(void *arg, struct engine_box *box UNUSED, const char *reason)
{
	sandbox_gone(arg, reason);
}

static void on_left(void *arg, struct engine_exec *x, const struct engine_left *left)
{
	if (!runs_adopt(arg, x, left))
		run_adopt(arg, x, left);
}

static void on_known(void *arg)
{
	sandbox_known(arg);
}

/* What lists tell. A note of an older program has none of it. */
static void read_looks(struct sandbox *b, json_t *note)
{
	const char *image = json_string_value(json_object_get(note, "image"));
	json_t *created = json_object_get(note, "created_ms");

	b->image = xstrdup(image);
	b->size.cpu_milli = (uint64_t)json_integer_value(json_object_get(note, "cpu_milli"));
	b->size.memory_bytes = (uint64_t)json_integer_value(json_object_get(note, "memory_bytes"));
	b->block_network = json_is_true(json_object_get(note, "block_network"));
	if (json_is_integer(created))
		b->created_ms = json_integer_value(created);
	b->sidecars_json = json_incref(json_object_get(note, "sidecars"));
}

static struct sandbox *adopt(struct sandboxes *s, struct engine_box *box, json_t *note)
{
	const char *namespace_id = NULL, *owner = NULL, *key = json_string_value(json_object_get(note, "key"));
	struct sandbox *b;
	uint32_t slot;

	if (json_get_str(note, "namespace", &namespace_id, NULL) < 0 || json_get_str(note, "owner", &owner, NULL) < 0 ||
	    !namespace_id)
		return NULL;
	slot = take_back(s, box->id);
	b = sandbox_new(s, box->id, namespace_id, owner, auth_key_by_id(s->auth, key));
	read_looks(b, note);
	if (slot != SLOTS_NONE) {
		slots_give(s->records, b->slot);
		b->slot = slot;
	}
	record_live(b);
	b->state = SANDBOX_READY;
	b->adopted = true;
	b->unknown = 1;
	b->box = box;
	return b;
}

bool sandboxes_adopt(void *sandboxes, struct engine_box *box, const void *note, size_t len)
{
	struct sandboxes *s = sandboxes;
	auto_json object = NULL;
	struct sandbox *b = NULL;

	if (!note || json_read_object(&object, note, len, NULL) < 0)
		return false;
	if (sidecars_adopt(s, box, object))
		return true;
	b = adopt(s, box, object);
	if (!b)
		return false;
	s->engine->ops->adopt(box, on_box_end, b);
	s->engine->ops->left(box, on_left, on_known, b);
	s->counts.adopted_total++;
	return true;
}

void sandboxes_taken_over(struct sandboxes *s)
{
	sidecars_taken_over(s);
	s->unsettled = true;
}
