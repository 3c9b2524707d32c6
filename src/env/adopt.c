/* env/adopt.c: instances that outlived a former daemon. Their boxes carry a note: which deployment, and whether the server
 * had answered /health: one that had is HEALTHY at once, since a busy server's event loop may not answer for seconds, and a
 * dead one's box ends by itself. */
#include <errno.h>
#include <stdio.h>

#include "base/mem.h"
#include "base/str.h"
#include "env/private.h"
#include "json/json.h"

#define NOTE_MAX_BYTES 4096

void instance_note(const struct instance *i, struct buf *ret)
{
	struct json_writer w;

	buf_init(ret, NOTE_MAX_BYTES);
	json_write_begin(&w, ret);
	json_open_object(&w);
	json_kv_str(&w, "deployment", i->d->id);
	json_kv_bool(&w, "healthy", i->served);
	json_kv_bool(&w, "own", i->own);
	json_close(&w);
	if (json_write_end(&w) < 0)
		buf_clear(ret); /* then nobody takes it over */
}

struct note {
	struct store_deployment *d;
	bool healthy, own;
};

/* What serves new sessions, what drains, and one session's own. One of a deployment on its way has nobody who goes on with it. */
static bool is_wanted(const struct env *v, const struct note *n)
{
	if (n->own || n->d->state == STORE_DEPLOYMENT_DRAINING)
		return n->healthy;
	return n->d == v->serving;
}

static bool read_note(struct envs *e, const void *note, size_t len, struct note *ret)
{
	auto_json object = NULL;
	const char *id = NULL;

	if (!note || json_read_object(&object, note, len, NULL) < 0 || json_get_str(object, "deployment", &id, NULL) < 0 || !id)
		return false;
	ret->healthy = json_is_true(json_object_get(object, "healthy"));
	ret->own = json_is_true(json_object_get(object, "own"));
	ret->d = store_deployment_by_id(e->store, id);
	return ret->d;
}

bool envs_adopt(void *envs, struct engine_box *box, const void *note, size_t len)
{
	struct envs *e = envs;
	struct note n = { .d = NULL };
	struct instance *i = NULL;
	struct env *v;

	if (!read_note(e, note, len, &n))
		return false;
	v = env_of(e, n.d->environment);
	if (!is_wanted(v, &n) || instance_adopt(&i, v, n.d, box, n.healthy) < 0)
		return false;
	if (n.own) {
		i->own = true;
		e->counts.own++;
	} else if (n.d == v->serving) {
		list_push_back(&v->instances, &i->node);
	} else {
		e->counts.draining++;
		i->draining = true; /* ends with its last session, or at envs_taken_over() */
	}
	return true;
}

static bool settle(void *arg, struct store_environment *record)
{
	struct envs *e = arg;
	struct map_iter it;

	list_foreach(&record->deployments, struct store_deployment, of_environment, d) {
		bool lives = false;

		if (d->state != STORE_DEPLOYMENT_DRAINING)
			continue;
		it = (struct map_iter){ 0 };
		while (map_next(e->instances, &it))
			lives |= ((struct instance *)it.value)->d == d;
		if (lives)
			continue;
		deployment_move(e, d, STORE_DEPLOYMENT_STOPPED, NULL);
	}
	return true;
}

static bool keep(void *arg UNUSED, struct store_environment *record)
{
	env_keep(record->user);
	return true;
}

void envs_resume(struct envs *e)
{
	store_environments(e->store, deploys_resume, e);
}

void envs_taken_over(struct envs *e)
{
	struct map_iter it = { 0 };

	while (map_next(e->instances, &it)) {
		struct instance *i = it.value;

		if (i->draining && !i->uses)
			instance_end(i, "replaced by a newer deployment");
		else if (i->own && !i->uses)
			instance_end(i, "its session has ended");
	}
	store_environments(e->store, settle, e);
	store_environments(e->store, keep, NULL);
	e->taken_over = true;
	envs_tick(&e->tick, e);
}
