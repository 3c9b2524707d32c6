/* The table of sandboxes over an engine that does what the test says, when it says. */
#pragma once

#include "api/sandbox/private.h"

#include "unit/http/harness.h"
#include "base/str.h"
#include "image/record.h"

/* -- the engine ------------------------------------------------------------------------------------------------------------- */

static struct {
	engine_image_fn *image_done; /* asked for and not answered */
	engine_progress_fn *image_progress;
	void *image_arg;
	engine_create_fn *create_done;
	engine_end_fn *on_end;
	void *create_arg;
	struct engine_box box;
	char id[64], destroyed[32];  /* reason */
	int renewed;
	char env[200], hosts[200];
	engine_exec_fn *exec_done;
	void *exec_arg;
	struct engine_exec exec;
	char cmd[100];
	uint64_t timeout_ms, max_bytes;
	bool released;
	size_t waiting;              /* what the engine says */
	bool waits;                  /* the last create waits for room */
	engine_progress_fn *progress;
	char spec_key[64];
	engine_end_fn *old_end;      /* of a former daemon's box */
	engine_left_fn *left;
	engine_known_fn *known;
	void *heir;
	int runs;                    /* exec's calls */
	engine_fd_fn *input_done;    /* asked for and not answered */
	void *input_arg;
	int inputs;                  /* exec_input's calls */
	engine_fetch_fn *fetch_done;
	void *fetch_arg;
	int fetches;                 /* exec_fetch's calls */
	engine_open_fn *open_done;
	void *open_arg;
	bool open_staged;            /* the last open named a file that is there */
} fake;

static void fake_prepare(struct engine *e UNUSED, const char *ref UNUSED, engine_progress_fn *progress, engine_image_fn *done, void *arg)
{
	fake.image_progress = progress;
	fake.image_done = done;
	fake.image_arg = arg;
}

static void fake_create(struct engine *e, const struct engine_spec *spec, engine_create_fn *done, engine_end_fn *on_end, void *arg)
{
	fake.create_done = done;
	fake.on_end = on_end;
	fake.create_arg = arg;
	snprintf(fake.id, sizeof(fake.id), "%s", spec->id);
	fake.box = (struct engine_box){ .engine = e, .id = fake.id };
	for (size_t i = 0; spec->env[i]; i++)
		snprintf(fake.env + strlen(fake.env), sizeof(fake.env) - strlen(fake.env), "%s|", spec->env[i]);
	snprintf(fake.hosts, sizeof(fake.hosts), "%s", spec->hosts_extra ? spec->hosts_extra : "");
	snprintf(fake.spec_key, sizeof(fake.spec_key), "%s", spec->key);
	fake.progress = spec->progress;
	fake.waiting += fake.waits;
}

static bool fake_uncreate(struct engine *e UNUSED, const char *id)
{
	if (!fake.waits || !str_eq(id, fake.id))
		return false;
	fake.waits = false;
	fake.waiting--;
	return true;
}

static size_t fake_waiting(struct engine *e UNUSED)
{
	return fake.waiting;
}

static void fake_destroy(struct engine_box *b UNUSED, const char *reason, engine_done_fn *done UNUSED, void *arg UNUSED)
{
	snprintf(fake.destroyed, sizeof(fake.destroyed), "%s", reason);
}

static void fake_usage(struct engine_box *b UNUSED, engine_usage_fn *done, void *arg)
{
	done(arg, &(struct engine_usage){ .runs = 0 }, NULL);
}

static void fake_renew(struct engine_box *b UNUSED)
{
	fake.renewed++;
}

static int fake_exec(struct engine_box *b, const struct engine_exec_spec *spec, engine_exec_fn *done, void *arg,
		     struct engine_exec **ret, struct err *err)
{
	if (str_eq(spec->cmd, "gone"))
		return err_set(err, -EIDRM, "the sandbox has ended");
	fake.runs++;
	fake.exec_done = done;
	fake.exec_arg = arg;
	fake.exec = (struct engine_exec){ .box = b };
	snprintf(fake.cmd, sizeof(fake.cmd), "%s", spec->cmd);
	fake.timeout_ms = spec->timeout_ms;
	fake.max_bytes = spec->max_bytes;
	*ret = &fake.exec;
	return 0;
}

static ssize_t fake_read(struct engine_exec *x UNUSED, uint64_t offset, void *p, size_t cap)
{
	static const char text[] = "hello";
	size_t n = offset < 5 ? MIN(cap, 5 - (size_t)offset) : 0;

	memcpy(p, text + offset, n);
	return (ssize_t)n;
}

static void fake_release(struct engine_exec *x UNUSED)
{
	fake.released = true;
}

static void fake_adopt(struct engine_box *b UNUSED, engine_end_fn *on_end, void *arg UNUSED)
{
	fake.old_end = on_end;
}

static void fake_left(struct engine_box *b UNUSED, engine_left_fn *fn, engine_known_fn *known, void *arg)
{
	fake.left = fn;
	fake.known = known;
	fake.heir = arg;
}

static void fake_claim(struct engine_exec *x UNUSED, engine_exec_fn *done, void *arg)
{
	fake.exec_done = done;
	fake.exec_arg = arg;
}

static void fake_on_more(struct engine_exec *x UNUSED, void (*more)(void *arg) UNUSED)
{
}

static void fake_input(struct engine_exec *x UNUSED, engine_fd_fn *done, void *arg)
{
	fake.inputs++;
	fake.input_done = done;
	fake.input_arg = arg;
}

static void fake_fetch(struct engine_exec *x UNUSED, const struct engine_fetch *f UNUSED, engine_fetch_fn *done, void *arg)
{
	fake.fetches++;
	fake.fetch_done = done;
	fake.fetch_arg = arg;
}

static void fake_input_end(struct engine_exec *x UNUSED, engine_done_fn *done, void *arg)
{
	done(arg, NULL);
}

static void fake_open(struct engine_box *b UNUSED, const char *path UNUSED, enum engine_open mode UNUSED, const char *tmp,
		      engine_open_fn *done, void *arg)
{
	fake.open_done = done;
	fake.open_arg = arg;
	fake.open_staged = tmp != NULL;
}

static void fake_commit(struct engine_box *b UNUSED, const char *path UNUSED, const char *tmp UNUSED, engine_done_fn *done, void *arg)
{
	done(arg, NULL);
}

static const struct engine_ops ops = {
	.exec_fetch = fake_fetch, .exec_input = fake_input, .exec_input_end = fake_input_end, .open = fake_open,
	.commit = fake_commit, .usage = fake_usage,
	.adopt = fake_adopt, .left = fake_left, .claim = fake_claim, .exec_on_more = fake_on_more,
	.prepare_image = fake_prepare, .create = fake_create, .destroy = fake_destroy, .renew = fake_renew, .exec = fake_exec,
	.exec_read = fake_read, .exec_release = fake_release, .uncreate = fake_uncreate, .waiting = fake_waiting,
};
static struct engine engine = { .ops = &ops };

static inline void image_comes(void)
{
	struct image *i = image_new();
	engine_image_fn *done = fake.image_done;

	i->name = xstrdup("x");
	fake.image_done = NULL; /* a sidecar's may be asked for from inside */
	done(fake.image_arg, i, NULL);
}

static inline void box_comes(void)
{
	fake.create_done(fake.create_arg, &fake.box, NULL);
}

/* -- the server ----------------------------------------------------------------------------------------------------------------- */

static struct sandboxes *sandboxes;
static struct store *store;
static struct auth *auth;
static struct http_router *router;
static char dir[64], key[AUTH_KEY_LEN];

static void on_ping(struct http_req *req, void *arg UNUSED)
{
	if (!sandboxes_ping(sandboxes, req, http_req_header(req, "X-Session-ID")))
		http_reply_error(req, 404, "nobody's");
}

static void on_delete(struct http_req *req, void *arg UNUSED)
{
	if (!sandboxes_remove(sandboxes, req, http_req_header(req, "X-Session-ID")))
		http_reply_error(req, 404, "nobody's");
}

static inline void begin(void)
{
	struct sandboxes_settings s = { .queue.max = 2, .idle_ms = 400, .remember_max = 3 };
	struct err err = ERR_INIT;
	char path[128];

	router = http_router_new();
	harness_begin(http_router_dispatch, router);
	snprintf(dir, sizeof(dir), "/tmp/test-sandbox-XXXXXX");
	cr_assert_not_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/db", dir);
	cr_assert_eq(store_open(&store, loop, path, &err), 0, "%s", err.msg);
	cr_assert_eq(auth_new(&auth, store, &err), 0);
	snprintf(path, sizeof(path), "%s/key", dir);
	cr_assert_eq(auth_first_start(auth, path, key, &err), 0, "%s", err.msg);
	cr_assert_eq(sandboxes_new(&sandboxes, loop, &engine, auth, &s, &err), 0);
	sandboxes_routes(sandboxes, router);
	http_router_add(router, "POST", "/ping", on_ping, NULL);
	http_router_add(router, "POST", "/delete_session", on_delete, NULL);
}

static inline void end(void)
{
	auto_free char *clean = xasprintf("%s/key", dir);

	server = http_server_free(server);
	sandboxes_free(sandboxes);
	auth_free(auth);
	store_free(store);
	http_router_free(router);
	unlink(clean);
	for (const char *const *s = (const char *const[]){ "db", "db-wal", "db-shm", NULL }; *s; s++) {
		auto_free char *path = xasprintf("%s/%s", dir, *s);

		unlink(path);
	}
	rmdir(dir);
}

static inline const char *post(int fd, const char *path, const char *sid, const char *with_key, const char *body)
{
	auto_free char *text = xasprintf("POST %s HTTP/1.1\r\nHost: x\r\nX-API-Key: %s\r\n%s%s%sContent-Length: %zu\r\n\r\n%s", path,
					 with_key ? with_key : key, sid ? "X-Session-ID: " : "", sid ? sid : "", sid ? "\r\n" : "",
					 strlen(body), body);

	return talk(fd, text);
}

/* A sandbox that is READY; its id. */
static inline const char *ready(int fd)
{
	post(fd, "/create_sandbox", NULL, NULL, "{\"image\": \"x\"}");
	image_comes();
	box_comes();
	run_for(5);
	cr_assert_not_null(strstr(read_now(fd), "event: end"));
	return fake.id;
}

static int fd;

static inline const char *get(int c, const char *path)
{
	auto_free char *text = xasprintf("GET %s HTTP/1.1\r\nHost: x\r\nX-API-Key: %s\r\n\r\n", path, key);

	return talk(c, text);
}

/* A box of a former daemon. */
#define OLD "00000000-0000-8000-8000-0123456789ab"

static struct engine_box old = { .engine = &engine, .id = OLD };
