/* api/sandbox/sidecars_look.c: what is told of sidecars, and how they come to a daemon that takes over: see sidecars.h. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "api/sandbox/sidecars.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/str.h"
#include "base/time.h"

/* -- as JSON --------------------------------------------------------------------------------------------------------------- */

static const struct brun *last_over(const struct sidecar *c)
{
	return c->run && c->run->over ? c->run : c->previous;
}

static void put_last(struct json_writer *w, const struct brun *run)
{
	char at[TIME_ISO_LEN];

	json_key(w, "last");
	if (!run) {
		json_write_null(w);
		return;
	}
	json_open_object(w);
	if (run->error) {
		json_kv_str(w, "error", run->error);
	} else {
		json_kv_i64(w, "return_code", run->res.return_code);
		json_kv_str(w, "outcome", engine_outcome_name(run->res.outcome));
	}
	json_kv_str(w, "ended_at", time_iso(run->ended_ms, at));
	json_close(w);
}

static void put_one(struct json_writer *w, const struct sidecar *c)
{
	static const char *const states[] = {
#define X(name, text) [SIDECAR_##name] = text,
		SIDECAR_STATES(X)
#undef X
	};
	uint64_t now = loop_now_ms(c->s->loop);
	char at[TIME_ISO_LEN];

	json_open_object(w);
	json_kv_str(w, "name", c->spec.name);
	json_kv_str(w, "image", c->spec.image);
	json_kv_str(w, "state", states[c->state]);
	json_kv_double(w, "cpus", (double)c->spec.size.cpu_milli / 1000);
	json_kv_i64(w, "memory_bytes", (int64_t)c->spec.size.memory_bytes);
	json_kv_i64(w, "restarts", (int64_t)c->restarts);
	if (c->state == SIDECAR_RUNNING && c->run)
		json_kv_str(w, "started_at", time_iso(c->run->started_ms, at));
	if (c->state == SIDECAR_WAITING)
		json_kv_double(w, "starts_in_s", c->due_ms > now ? (double)(c->due_ms - now) / 1000 : 0);
	if (c->error)
		json_kv_str(w, "error", c->error);
	put_last(w, last_over(c));
	json_close(w);
}

void sidecars_put(struct json_writer *w, const struct sandbox *b)
{
	struct list *all = (struct list *)&b->sidecars;

	if (list_empty(all))
		return;
	json_key(w, "sidecars");
	json_open_array(w);
	list_foreach(all, struct sidecar, node, c)
		put_one(w, c);
	json_close(w);
}

/* -- for a daemon that takes over ------------------------------------------------------------------------------------------ */

/* Init tells of the command that runs and of the one before in any order: the label says which is which. */
static void take_run(struct sidecar *c, struct brun *run, uint32_t restarts, uint64_t age_ms)
{
	bool older = c->run && restarts < c->restarts;

	sidecar_run_free(c, c->previous);
	c->previous = older ? run : c->run;
	if (older)
		return;
	c->run = run;
	c->started_ms = loop_now_ms(c->s->loop) - age_ms;
	c->restarts = restarts;
	c->state = SIDECAR_RUNNING;
}

static void on_left(void *arg, struct engine_exec *x, const struct engine_left *left)
{
	struct sidecar *c = arg;
	struct sidecar_label label;
	struct brun *run;

	if (!c->b || left->label_len != sizeof(label) || memcmp(left->label, SIDECAR_LABEL, sizeof(label.magic)) != 0) {
		c->s->engine->ops->exec_release(x);
		return;
	}
	memcpy(&label, left->label, sizeof(label));
	run = sidecar_run_new(c);
	snprintf(run->id, sizeof(run->id), "%s", x->id);
	run->exec = x;
	run->started_ms -= (int64_t)left->age_ms;
	take_run(c, run, label.restarts, left->age_ms);
	c->s->engine->ops->exec_on_more(x, sidecar_on_more);
	c->s->engine->ops->claim(x, sidecar_on_done, c);
}

static void on_known(void *arg)
{
	struct sidecar *c = arg;

	if (c->b && !c->run)
		sidecar_start_later(c);
	sidecar_known(c);
}

bool sidecars_adopt(struct sandboxes *s, struct engine_box *box, json_t *note)
{
	const char *owner = json_string_value(json_object_get(note, "sidecar_of"));
	const char *name = json_string_value(json_object_get(note, "name"));
	struct sidecar *c;

	if (!owner || !name)
		return false;
	c = sidecar_new(s, &s->strays);
	snprintf(c->owner, sizeof(c->owner), "%s", owner);
	c->spec.name = xstrdup(name);
	c->box = box;
	s->engine->ops->adopt(box, sidecar_on_box_end, c);
	return true;
}

static struct sidecar *find_stray(struct sandboxes *s, const char *owner, const char *name)
{
	list_foreach(&s->strays, struct sidecar, node, c)
		if (str_eq(c->owner, owner) && str_eq(c->spec.name, name))
			return c;
	return NULL;
}

static void take_back(struct sandbox *b, struct spec_sidecar *spec)
{
	struct sidecar *c = find_stray(b->s, b->id, spec->name);

	if (!c)
		c = sidecar_new(b->s, &b->s->strays);
	spec_sidecar_done(&c->spec);
	c->spec = *spec;
	*spec = (struct spec_sidecar){ .name = NULL };
	c->b = b;
	c->up = true; /* nobody waits */
	list_remove(&c->node);
	list_push_back(&b->sidecars, &c->node);
	if (!c->box) {
		sidecar_ask_image(c);
		return;
	}
	c->unknown = true;
	b->unknown++;
	c->s->engine->ops->left(c->box, on_left, on_known, c);
}

static void take_over(struct sandbox *b)
{
	struct machine machine = { UINT64_MAX, UINT64_MAX }; /* it was checked when it was made */
	struct spec_defaults defaults = { .sidecar_size = b->s->settings.sidecar_size, .sidecars_max = SIZE_MAX };
	struct sandbox_spec spec = { .image = NULL };
	struct err err = ERR_INIT;

	if (spec_read_sidecars(&spec, b->sidecars_json, &machine, &defaults, &err) < 0)
		log_event(LOG_WARN, "sandbox", LOG_KV("sandbox", b->id), "its sidecars are not taken over: %s", err.msg);
	for (size_t i = 0; !err.code && i < spec.n_sidecars; i++)
		take_back(b, &spec.sidecars[i]);
	spec_done(&spec);
}

void sidecars_taken_over(struct sandboxes *s)
{
	list_foreach(&s->all, struct sandbox, node, b)
		take_over(b);
	list_foreach(&s->strays, struct sidecar, node, c)
		if (c->box)
			s->engine->ops->destroy(c->box, "host", NULL, NULL);
}
