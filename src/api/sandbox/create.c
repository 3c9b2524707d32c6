/* api/sandbox/create.c: POST /create_sandbox: from a body to a sandbox that is READY, told over an event stream. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "api/bucket/bucket.h"
#include "api/images/access.h"
#include "api/sandbox/sidecars.h"
#include "base/mem.h"
#include "base/str.h"

#define BODY_MAX_BYTES (4u << 20)

/* Outlives its sandbox when that goes while others still work on it. */
struct creation {
	struct sandbox *b;  /* NULL = nobody waits any more */
	struct sandbox_spec spec;
	char bucket[STORE_ID_LEN]; /* the environment whose files it gets; "" = none */
	char *key;          /* the caller's, or its session's: whose turn it is while it waits for room */
	bool preparing;     /* images are being looked for, and it counts as one that waits */
	struct image *image; /* while its sidecars' are brought */
	bool making;        /* the engine has it */
};

struct creator { /* a stream that waits for READY; in the request's memory */
	struct list node; /* in sandbox.creators; alone once it is answered */
	struct sse *sse;
	struct sandbox *b; /* while it is in the list */
};

static void prepared(struct creation *c)
{
	c->b->s->preparing -= c->preparing;
	c->preparing = false;
}

/* It is the sandbox's no more, and waits for nothing. Harmless to repeat. */
static void part(struct creation *c)
{
	if (!c->b)
		return;
	prepared(c);
	tally_sub(&c->b->s->creating, c->key);
	c->b->creation = NULL;
	c->b = NULL;
}

static void creation_free(struct creation *c)
{
	part(c);
	spec_done(&c->spec);
	free(c->key);
	image_unref(c->image);
	free(c);
}

/* It still waits for room, and does not any more. */
static bool uncreate(const struct sandbox *b)
{
	return b->creation && b->creation->making && b->s->engine->ops->uncreate(b->s->engine, b->id);
}

bool creation_cancel(struct sandbox *b)
{
	if (!b->creation || !b->creation->making)
		return true;
	if (!uncreate(b))
		return false;
	creation_free(b->creation);
	return true;
}

/* Its last stream broke, or was broken before it came to wait. */
static void leave_queue(struct sandbox *b)
{
	if (b->state != SANDBOX_CREATING || !list_empty(&b->creators) || !uncreate(b))
		return;
	creation_free(b->creation);
	sandbox_forget(b);
}

void creation_detach(struct sandbox *b)
{
	struct creation *c = b->creation;

	if (!c)
		return;
	part(c);
	if (c->image && !c->making) /* it waited for sidecars' images, of which nobody tells it any more */
		creation_free(c);
}

/* -- streams ------------------------------------------------------------------------------------------------------------------ */

static void send_end(struct sse *s, const char *id)
{
	auto_free char *json = xasprintf("{\"sid\": \"%s\"}", id);

	sse_result(s, json, strlen(json));
}

void creators_tell(struct sandbox *b, const char *error)
{
	while (!list_empty(&b->creators)) {
		struct creator *c = list_first(&b->creators, struct creator, node);

		list_remove(&c->node);
		if (error)
			sse_error(c->sse, error);
		else
			send_end(c->sse, b->id);
	}
}

static void on_stream_closed(struct http_req *req UNUSED, bool complete UNUSED, void *arg)
{
	struct creator *c = arg;

	if (list_empty(&c->node))
		return;
	list_remove(&c->node);
	leave_queue(c->b);
}

static void attach(struct sandbox *b, struct http_req *req)
{
	struct creator *c = http_req_alloc(req, sizeof(*c));

	c->sse = sse_start(req);
	c->b = b;
	list_init(&c->node);
	http_req_on_close(req, on_stream_closed, c);
	sse_event(c->sse, "task_id", b->id, strlen(b->id));
	if (b->state == SANDBOX_READY && !b->unknown)
		send_end(c->sse, b->id);
	else
		list_push_back(&b->creators, &c->node);
}

static void on_room(void *arg, const char *line)
{
	struct sandbox *b = arg;

	list_foreach(&b->creators, struct creator, node, one)
		sse_comment(one->sse, line);
}

static void on_sidecar_progress(struct sandbox *b, const char *line)
{
	on_room(b, line);
}

static void on_image_progress(void *arg, const char *line)
{
	struct creation *c = arg;

	if (c->b)
		on_room(c->b, line);
}

/* -- the engine ---------------------------------------------------------------------------------------------------- */

static void fail(struct creation *c, const struct err *err)
{
	struct sandbox *b = c->b;

	if (b) {
		b->s->counts.failed_total++;
		creators_tell(b, err->msg);
		part(c);
		sandbox_gone(b, err->msg);
	}
	creation_free(c);
}

static void on_box_end(void *arg, struct engine_box *box UNUSED, const char *reason)
{
	sandbox_gone(arg, reason);
}

/* Before anybody can ask for a command in it. */
static void on_sidecars_up(struct sandbox *b, const struct err *err)
{
	if (b->state == SANDBOX_ENDING)
		return;
	if (err) {
		b->s->counts.failed_total++;
		creators_tell(b, err->msg);
		sandbox_end(b, err->msg);
		return;
	}
	b->state = SANDBOX_READY;
	b->used_ms = loop_now_ms(b->s->loop);
	record_live(b);
	b->s->counts.created_total++;
	creators_tell(b, NULL);
}

static void on_created(void *arg, struct engine_box *box, const struct err *err)
{
	struct sandbox *b = arg;
	struct creation *c = b->creation;

	if (err) {
		fail(c, err);
		return;
	}
	creation_free(c);
	b->box = box;
	if (b->state == SANDBOX_ENDING) {
		b->s->engine->ops->destroy(box, b->end_reason, NULL, NULL);
		return;
	}
	sidecars_start(b, on_sidecars_up);
}

static void make(struct sandbox *b, const struct err *err)
{
	struct creation *c = b->creation;
	auto_buf struct buf note = { 0 };

	prepared(c);
	if (err) {
		fail(c, err);
		return;
	}
	sandbox_note(b, &note);
	struct engine_spec spec = {
		.note = note.data, .note_len = note.len, .id = b->id, .image = c->image, .size = c->spec.size,
		.env = (const char *const *)c->spec.env,
		.block_network = c->spec.block_network, .lease_ms = b->s->settings.idle_ms, .hard_ms = b->s->settings.hard_ms,
		.hosts_extra = c->spec.hosts, .key = c->key, .progress = on_room, .beside_size = sidecars_size(b),
	};
	if (*c->bucket)
		spec.bucket = (struct engine_bucket){
			.id = c->bucket, .dir = c->spec.bucket.dir, .target = c->spec.bucket.target, .read_only = true,
		};
	c->making = true;
	b->s->engine->ops->create(b->s->engine, &spec, on_created, on_box_end, b);
	leave_queue(b);
}

static void on_image(void *arg, struct image *img, const struct err *err)
{
	struct creation *c = arg;

	c->image = img;
	if (err)
		fail(c, err);
	else if (!c->b)
		creation_free(c);
	else
		sidecars_prepare(c->b, on_sidecar_progress, make);
}

/* -- the request --------------------------------------------------------------------------------------------------- */

static int check_room(struct sandboxes *s, const struct auth_caller *caller, struct err *err)
{
	size_t waiting = s->preparing + s->engine->ops->waiting(s->engine);

	if (s->closed)
		return err_set(err, -EAGAIN, "the server is going down");
	int r = share_check(&s->settings.queue, waiting, tally_of(&s->creating, caller->key_id), "creates wait for room", err);
	s->counts.refused_total += r < 0;
	return r;
}

/* Both kinds of keys, so that neither lands where an agent's commands run. */
static bool is_platform_key(void *arg, const char *value)
{
	struct auth_caller caller;

	return auth_key(arg, value, &caller, NULL) == 0;
}

/* Before the stream begins, so that what is wrong is a 400. The spawner looks again, beneath the bucket, when it mounts. */
static int find_bucket(struct sandboxes *s, const struct auth_caller *caller, struct sandbox_spec *spec, char *ret_id,
		       struct err *err)
{
	const struct bucket_access *a = s->buckets;
	struct store_environment *e;
	auto_free char *dir = NULL;
	bool change;
	int r;

	if (!spec->bucket.target)
		return 0;
	if (!a)
		return err_set(err, -EINVAL, "bucket_config: this server keeps no files of environments");
	r = bucket_of_sandbox(a, caller, spec->environment, &e, &change, err);
	r = r < 0 ? r : bucket_make(buckets_fd(a->buckets), e->id, err);
	r = r < 0 ? r : bucket_check_folder(buckets_fd(a->buckets), e->id, spec->bucket.dir, change && spec->bucket.make_dir, &dir,
					    err);
	if (r == -ENOENT || r == -ENOTDIR || r == -ELOOP)
		return err_wrap(err, -EINVAL, "bucket_config.only_dir");
	if (r < 0)
		return r;
	snprintf(ret_id, STORE_ID_LEN, "%s", e->id);
	store_set_str(&spec->bucket.dir, dir);
	return 0;
}

static int check_images(struct sandboxes *s, const struct auth_caller *caller, const struct sandbox_spec *spec, struct err *err)
{
	int r = image_check_access(s->buckets, caller, spec->image, err);

	for (size_t i = 0; r == 0 && i < spec->n_sidecars; i++)
		r = image_check_access(s->buckets, caller, spec->sidecars[i].image, err);
	return r;
}

/* id: NULL = a new one. */
static int begin(struct sandboxes *s, struct http_req *req, json_t *body, const struct auth_caller *caller, const char *id,
		 struct err *err)
{
	const struct spec_defaults defaults = {
		.size = s->settings.size, .sidecar_size = s->settings.sidecar_size, .sidecars_max = s->settings.sidecars_max,
	};
	struct machine machine;
	struct sandbox_spec spec;
	char bucket[STORE_ID_LEN] = "";
	struct creation *c;
	int r;

	machine_here(&machine);
	r = spec_read(&spec, body, http_req_header(req, "X-Secrets"), &machine, &defaults, is_platform_key, s->auth, err);
	if (r < 0)
		return r;
	r = check_images(s, caller, &spec, err);
	r = r < 0 ? r : find_bucket(s, caller, &spec, bucket, err);
	r = r < 0 ? r : check_room(s, caller, err);
	r = r < 0 ? r : auth_may_open(s->auth, caller, STORE_USE_SANDBOXES, err);
	if (r < 0) {
		spec_done(&spec);
		return r;
	}
	c = NEW(struct creation);
	c->b = sandbox_new(s, id, caller->namespace_id, caller->session_id, caller->key);
	sidecars_add(c->b, &spec);
	c->spec = spec;
	c->key = xstrdup(caller->key_id);
	memcpy(c->bucket, bucket, sizeof(bucket));
	c->b->creation = c;
	c->b->image = xstrdup(spec.image);
	c->b->size = spec.size;
	c->b->block_network = spec.block_network;
	c->preparing = true;
	s->preparing++;
	tally_add(&s->creating, c->key);
	/* Before the stream: at the end of this turn an image that is there leads on before the stream's beginning is written. */
	s->engine->ops->prepare_image(s->engine, c->spec.image, on_image_progress, on_image, c);
	attach(c->b, req);
	return 0;
}

/* An id that a former daemon gave, which was killed before there was a box: the body is there again, so it is made now. */
static bool is_lost(const struct sandboxes *s, const char *id, json_t *body)
{
	struct sid_route route;

	return sid_parse(id, &route) == 0 && route.kind == SID_SANDBOX && json_object_get(body, "image") &&
	       !map_get(s->live, id) && !map_get(s->ended, id);
}

/* What failed for good is told in the stream: a status would be taken for another reason. */
static int resume(struct sandboxes *s, struct http_req *req, json_t *body, const struct auth_caller *caller, const char *id,
		  struct err *err)
{
	struct err why;
	struct sandbox *b = sandbox_find(s, caller, id, &why);

	if (!b && is_lost(s, id, body))
		return begin(s, req, body, caller, id, err);
	if (b)
		attach(b, req);
	else
		sse_error(sse_start(req), why.code == -ENOENT ? "unknown task_id" : why.msg);
	return 0;
}

static int handle(struct sandboxes *s, struct http_req *req, const char *data, size_t len, struct err *err)
{
	const struct auth_caller *caller;
	const char *id = NULL;
	auto_json body = NULL;
	int r = auth_request(s->auth, req, &caller, err);

	r = r < 0 ? r : auth_need_role(caller, STORE_ROLE_MEMBER, err);
	r = r < 0 ? r : json_read_object(&body, data, len, err);
	r = r < 0 ? r : json_get_str(body, "task_id", &id, err);
	if (r < 0)
		return r;
	return id ? resume(s, req, body, caller, id, err) : begin(s, req, body, caller, NULL, err);
}

static void on_body(struct http_req *req, const char *data, size_t len, void *arg)
{
	struct err err;

	if (handle(arg, req, data, len, &err) < 0)
		api_reply_err(req, &err);
}

void create_handler(struct http_req *req, void *sandboxes)
{
	struct sandboxes *s = sandboxes;
	const struct auth_caller *caller;
	struct err err;

	/* Before a body is taken from just anybody. */
	if (auth_request(s->auth, req, &caller, &err) < 0)
		api_reply_err(req, &err);
	else
		http_req_body(req, BODY_MAX_BYTES, on_body, s);
}
