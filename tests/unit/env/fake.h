/* A loop, a store in a folder of its own, a stand-in for the engine whose boxes are an HTTP server on the same loop, and
 * a stand-in for the build jobs. One of each per test process. */
#pragma once

#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "auth/auth.h"
#include "base/fd.h"
#include "base/mem.h"
#include "base/str.h"
#include "base/strv.h"
#include "build/build.h"
#include "env/env.h"
#include "http/server.h"
#include "image/record.h"
#include "unit/image/tmpdir.h"

static struct loop *loop;
static struct store *store;
static struct auth *auth;
static struct envs *envs;
static struct images *images;
static struct builds *builds;
static struct store_namespace *ns;
static struct store_environment *environment;
static char dir[] = "/tmp/orw-env-XXXXXX";
static char key[AUTH_KEY_LEN];

/* -- time -------------------------------------------------------------------------------------------------------- */

static void fake_stop(struct loop_timer *t UNUSED, void *arg UNUSED)
{
	loop_stop(loop, 0);
}

static inline void run_for(uint64_t ms)
{
	struct loop_timer t;

	loop_timer_init(&t, loop, fake_stop, NULL);
	loop_timer_start(&t, ms);
	cr_assert_eq(loop_run(loop), 0);
	loop_timer_stop(&t);
}

#define FAKE_PATIENCE_MS 5000

/* Runs the loop until cond holds. */
#define run_until(cond)                                                                                       \
	do {                                                                                                  \
		for (int turn_ = 0; turn_ < FAKE_PATIENCE_MS && !(cond); turn_++)                             \
			run_for(1);                                                                           \
		cr_assert(cond, "it never became true: " #cond);                                              \
	} while (0)

/* -- the server inside --------------------------------------------------------------------------------------------- */

#define UP_MAX 256

struct up_seen { /* a request that reached an instance */
	char line[256], sid[64], secrets[2048], user[64], org[64], deployment[64], api_key[64];
	size_t n_sids; /* lines of X-Session-ID */
	uint64_t box;
};
static struct up_seen up_seen[UP_MAX];
static size_t n_up;
static http_handler_fn *up_script; /* answers true requests; /health is answered here */
static const char *up_listing;     /* the answer to /list_environments; NULL = 404 */
static unsigned up_listed;         /* how often it was asked for; not among up_seen */
static bool up_unhealthy, up_deaf; /* /health says 503; or nothing at all */
static unsigned up_probes;
static struct http_server *up_server;

static inline size_t up_count(const char *line)
{
	size_t n = 0;

	for (size_t i = 0; i < n_up; i++)
		n += !strcmp(up_seen[i].line, line);
	return n;
}

static inline struct up_seen *up_last(void)
{
	cr_assert_gt(n_up, 0);
	return &up_seen[n_up - 1];
}

static void up_copy(char *to, size_t size, struct http_req *req, const char *name)
{
	const char *value = http_req_header(req, name);

	snprintf(to, size, "%s", value ? value : "");
}

static void up_note(struct http_req *req)
{
	struct up_seen *s = &up_seen[n_up++];

	cr_assert_lt(n_up, (size_t)UP_MAX);
	snprintf(s->line, sizeof(s->line), "%s %.200s", http_req_method(req), http_req_target(req));
	up_copy(s->sid, sizeof(s->sid), req, "X-Session-ID");
	up_copy(s->secrets, sizeof(s->secrets), req, "X-Secrets");
	up_copy(s->user, sizeof(s->user), req, "X-User-Id");
	up_copy(s->org, sizeof(s->org), req, "X-Organisation-Id");
	up_copy(s->deployment, sizeof(s->deployment), req, "X-Deployment");
	up_copy(s->api_key, sizeof(s->api_key), req, "X-API-Key");
	for (size_t i = 0; i < http_req_n_headers(req); i++)
		s->n_sids += !strcasecmp(http_req_header_at(req, i)->name, "X-Session-ID");
	s->box = http_req_tag(req);
}

static void up_handler(struct http_req *req, void *arg UNUSED)
{
	if (!strcmp(http_req_path(req), "/health")) {
		up_probes++;
		if (!up_deaf)
			http_reply(req, up_unhealthy ? 503 : 200, NULL, NULL, 0);
		return;
	}
	if (!strcmp(http_req_path(req), "/list_environments")) {
		up_listed++;
		http_reply(req, up_listing ? 200 : 404, NULL, up_listing ? up_listing : "", up_listing ? strlen(up_listing) : 0);
		return;
	}
	up_note(req);
	if (up_script)
		up_script(req, NULL);
	else
		http_reply(req, 200, "application/json", "{}", 2);
}

/* -- the engine ---------------------------------------------------------------------------------------------------- */

#define FAKE_BOXES_MAX 64

struct fake_box {
	struct engine_box base;
	char id[64];
	struct image *image;
	engine_create_fn *created;
	engine_end_fn *on_end;
	void *arg;
	struct engine_exec exec;
	engine_exec_fn *exec_done;
	void *exec_arg;
	uint64_t number;
	unsigned renewed;
	bool destroyed, ended, waits;
	engine_progress_fn *progress;
	char reason[64];
};
static struct fake_box boxes[FAKE_BOXES_MAX];
static size_t n_boxes;
static unsigned n_prepares, n_connects;
static bool fake_no_image, fake_hold_image, fake_create_fails, fake_hold_create, fake_hold_destroy, fake_refuse;
static struct engine fake_engine;

static inline size_t boxes_running(void)
{
	size_t n = 0;

	for (size_t i = 0; i < n_boxes; i++)
		n += !boxes[i].ended;
	return n;
}

static inline struct image *fake_image(const char *name)
{
	struct image *i = image_new();
	const char *const command[] = { "python", "server.py", NULL }, *const none[] = { NULL };

	i->name = xstrdup(name);
	i->digest = xstrdup("sha256:1");
	i->layers = xcalloc(1, sizeof(char *));
	i->layers[i->n_layers++] = xstrdup("x");
	strv_free(i->cmd);
	strv_free(i->entrypoint);
	strv_free(i->env);
	i->cmd = strv_dup(command);
	i->entrypoint = strv_dup(none);
	i->env = strv_dup(none);
	i->workdir = xstrdup("/");
	i->user = xstrdup("");
	return i;
}

struct fake_prepare {
	engine_progress_fn *progress;
	engine_image_fn *done;
	void *arg;
	char ref[128];
};
static struct fake_prepare fake_held_prepares[16];
static size_t n_held_prepares;

static void fake_prepared(void *p)
{
	struct fake_prepare *c = p;
	struct err err = ERR_INIT;

	err_set(&err, -ENOENT, "image %s is not here", c->ref);
	if (c->progress)
		c->progress(c->arg, "looking for an image");
	c->done(c->arg, fake_no_image ? NULL : fake_image(c->ref), fake_no_image ? &err : NULL);
	free(c);
}

static void fake_prepare_image(struct engine *e UNUSED, const char *ref, engine_progress_fn *progress,
			       engine_image_fn *done, void *arg)
{
	struct fake_prepare *c = NEW(struct fake_prepare);

	n_prepares++;
	*c = (struct fake_prepare){ .progress = progress, .done = done, .arg = arg };
	snprintf(c->ref, sizeof(c->ref), "%s", ref);
	if (fake_hold_image) {
		fake_held_prepares[n_held_prepares++] = *c;
		free(c);
	} else {
		loop_defer(loop, fake_prepared, c);
	}
}

static inline void fake_release_images(void)
{
	for (size_t i = 0; i < n_held_prepares; i++)
		fake_prepared(xmemdup(&fake_held_prepares[i], sizeof(fake_held_prepares[i])));
	n_held_prepares = 0;
}

static void fake_created(void *p)
{
	struct fake_box *b = p;
	struct err err = ERR_INIT;

	err_set(&err, -ENOSPC, "no room for another box");
	b->ended = fake_create_fails;
	b->created(b->arg, fake_create_fails ? NULL : &b->base, fake_create_fails ? &err : NULL);
	if (b->ended)
		b->image = image_unref(b->image);
}

static bool fake_no_room; /* creates wait, until fake_room_for() */

static void fake_waits(void *arg)
{
	struct fake_box *b = arg;

	b->waits = true;
	if (b->progress)
		b->progress(b->arg, "waiting for room: 1 of 1");
}

static void fake_create(struct engine *e, const struct engine_spec *spec, engine_create_fn *done, engine_end_fn *on_end,
			void *arg)
{
	struct fake_box *b = &boxes[n_boxes++];

	cr_assert_lt(n_boxes, (size_t)FAKE_BOXES_MAX);
	*b = (struct fake_box){ .created = done, .on_end = on_end, .arg = arg, .number = n_boxes };
	snprintf(b->id, sizeof(b->id), "%s", spec->id);
	b->base = (struct engine_box){ .engine = e, .id = b->id };
	b->image = image_ref(spec->image);
	b->progress = spec->progress;
	if (fake_no_room)
		loop_defer(loop, fake_waits, b);
	else if (!fake_hold_create)
		loop_defer(loop, fake_created, b);
}

static bool fake_uncreate(struct engine *e UNUSED, const char *id)
{
	for (size_t i = 0; i < n_boxes; i++)
		if (str_eq(boxes[i].id, id) && boxes[i].waits) {
			boxes[i].waits = false;
			boxes[i].ended = true;
			image_unref(STEAL(boxes[i].image));
			return true;
		}
	return false;
}

static inline void fake_room_for(struct fake_box *b)
{
	b->waits = false;
	loop_defer(loop, fake_created, b);
}

static void fake_main_over(struct fake_box *b, int code)
{
	struct engine_exec_result res = { .return_code = code, .outcome = ENGINE_EXITED };
	engine_exec_fn *done = b->exec_done;

	b->exec_done = NULL;
	if (done)
		done(b->exec_arg, &b->exec, &res, NULL);
}

static void fake_box_over(void *p)
{
	struct fake_box *b = p;

	if (b->ended)
		return;
	fake_main_over(b, 137);
	b->ended = true;
	b->image = image_unref(b->image);
	b->on_end(b->arg, &b->base, b->destroyed ? "deleted" : "exited");
}

static void fake_destroy(struct engine_box *base, const char *reason, engine_done_fn *done, void *arg UNUSED)
{
	struct fake_box *b = container_of(base, struct fake_box, base);

	cr_assert(!b->ended, "a box was used after its end");
	cr_assert_null(done);
	snprintf(b->reason, sizeof(b->reason), "%s", reason);
	if (!b->destroyed && !fake_hold_destroy)
		loop_defer(loop, fake_box_over, b);
	b->destroyed = true;
}

static void fake_renew(struct engine_box *base)
{
	container_of(base, struct fake_box, base)->renewed++;
}

static int fake_exec(struct engine_box *base, const struct engine_exec_spec *spec, engine_exec_fn *done, void *arg,
		     struct engine_exec **ret, struct err *err UNUSED)
{
	struct fake_box *b = container_of(base, struct fake_box, base);

	cr_assert(spec->main);
	cr_assert_str_eq(spec->argv[0], "python");
	b->exec = (struct engine_exec){ .box = base, .id = b->id };
	b->exec_done = done;
	b->exec_arg = arg;
	*ret = &b->exec;
	return 0;
}

static void fake_exec_release(struct engine_exec *x UNUSED)
{
}

struct fake_connect {
	struct fake_box *b;
	engine_fd_fn *done;
	void *arg;
};

static int fake_served_fd; /* the server's end of the last connection */

static void fake_connected(void *p)
{
	struct fake_connect *c = p;
	struct err err = ERR_INIT;
	int fds[2];

	if (c->b->ended || fake_refuse) {
		err_set(&err, -ECONNREFUSED, "connect to port 8080: Connection refused");
		c->done(c->arg, -1, &err);
	} else {
		cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds), 0);
		cr_assert_eq(http_server_adopt(up_server, fds[0], c->b->number, &err), 0);
		fake_served_fd = fds[0];
		c->done(c->arg, fds[1], NULL);
	}
	free(c);
}

static void fake_connect(struct engine_box *base, uint16_t port, engine_fd_fn *done, void *arg)
{
	struct fake_connect *c = NEW(struct fake_connect);

	cr_assert_eq(port, 8080);
	n_connects++;
	*c = (struct fake_connect){ .b = container_of(base, struct fake_box, base), .done = done, .arg = arg };
	loop_defer(loop, fake_connected, c);
}

static void fake_note(struct engine_box *b UNUSED, const void *note UNUSED, size_t len UNUSED)
{
}

static const struct engine_ops fake_ops = {
	.prepare_image = fake_prepare_image, .create = fake_create, .destroy = fake_destroy, .renew = fake_renew,
	.note = fake_note, .uncreate = fake_uncreate,
	.exec = fake_exec, .exec_release = fake_exec_release, .connect = fake_connect,
};

/* The server of a box exits, and the box with it: what the engine tells in two steps. */
static inline void fake_crash(struct fake_box *b, int code)
{
	fake_main_over(b, code);
	fake_box_over(b);
}

/* -- builds -------------------------------------------------------------------------------------------------------- */

struct fake_job {
	char kind[16], deployment[128];
	engine_progress_fn *line;
	void (*done)(void *arg, int status, const struct err *err);
	void *arg;
	bool cancelled, over;
};
static struct fake_job jobs[32];
static unsigned n_jobs;

static int fake_job_start(struct image_jobs *j UNUSED, const char *kind, const char *const *argv, int input UNUSED, engine_progress_fn *line,
			  void (*done)(void *arg, int status, const struct err *err), void *arg, uint64_t *ret_job,
			  struct err *err UNUSED)
{
	struct fake_job *f = &jobs[n_jobs];

	*f = (struct fake_job){ .line = line, .done = done, .arg = arg };
	snprintf(f->kind, sizeof(f->kind), "%s", kind);
	snprintf(f->deployment, sizeof(f->deployment), "%s", argv[0]);
	*ret_job = n_jobs++;
	return 0;
}

static void fake_job_cancel(struct image_jobs *j UNUSED, uint64_t job)
{
	jobs[job].cancelled = true;
}

static struct image_jobs fake_jobs = { fake_job_start, fake_job_cancel };

static inline void job_ends(struct fake_job *f, int status, const char *why)
{
	struct err err = ERR_INIT;

	cr_assert(!f->over);
	f->over = true;
	if (why)
		err_set(&err, -EIO, "%s", why);
	f->done(f->arg, status, why ? &err : NULL);
}

/* The job leaves an image and ends well. */
static inline void job_succeeds(struct fake_job *f)
{
	auto_free char *name = xasprintf("localhost/env/%s/%s:%s", ns->name, environment->name, f->deployment);
	struct image *i = fake_image(name);

	cr_assert_eq(image_record_write(dir, i, NULL), 0);
	image_unref(i);
	job_ends(f, 0, NULL);
}

/* A deployment whose source is whole. */
static inline struct store_deployment *new_deployment(void)
{
	struct store_deployment *d = store_deployment_add(store, environment, NULL, "folder");
	auto_free char *folder = xasprintf("%s/builds/%s", dir, d->id), *tar = xasprintf("%s/source.tar", folder);

	cr_assert_eq(fd_mkdirs(folder, 0755, NULL), 0);
	cr_assert_eq(fd_write_file(tar, "x", 1, 0644, NULL), 0);
	return d;
}

/* -- beginning and end --------------------------------------------------------------------------------------------- */

static inline void fake_begin_store(void)
{
	struct err err = ERR_INIT;

	tmpdir_make(dir);
	auto_free char *db = xasprintf("%s/db", dir), *logs = xasprintf("%s/logs", dir);
	cr_assert_eq(fd_mkdirs(logs, 0755, &err), 0);
	cr_assert_eq(loop_new(&loop, &err), 0, "%s", err.msg);
	cr_assert_eq(store_open(&store, loop, db, &err), 0, "%s", err.msg);
	cr_assert_eq(auth_new(&auth, store, &err), 0);
	cr_assert_eq(store_namespace_add(store, "alice", "org", &ns, &err), 0);
	cr_assert_eq(auth_key_make(auth, ns, STORE_ROLE_MEMBER, "test", key, &err), 0);
	cr_assert_eq(store_environment_add(store, ns, "counter", &environment, &err), 0);
	fake_engine.ops = &fake_ops;
}

static uint64_t fake_idle_ms; /* 0 = the default */
static uint64_t fake_keep_images; /* 0 = all */

/* Places of an instance, and how many of them there may be. */
static inline void fake_scale(uint64_t concurrency, uint64_t max)
{
	environment->max_concurrency = concurrency;
	environment->max_scale = max;
}

static inline void fake_open_envs(uint64_t health_timeout_ms)
{
	struct err err = ERR_INIT;
	struct builds_settings bs = { .concurrency = 2 };
	struct env_settings es = {
		.data_dir = dir, .size = { 1000, 1 << 30 }, .health_timeout_ms = health_timeout_ms, .health_interval_ms = 5,
		.instance_log_bytes = 1 << 20, .idle_ms = fake_idle_ms, .keep_images = fake_keep_images,
	};

	cr_assert_eq(http_server_new(&up_server, loop, NULL, up_handler, NULL, &err), 0);
	cr_assert_eq(images_new(&images, loop, dir, NULL, &fake_jobs, &err), 0);
	cr_assert_eq(builds_new(&builds, loop, dir, images, &fake_jobs, &bs, &err), 0);
	es.images = images;
	cr_assert_eq(envs_new(&envs, loop, &fake_engine, store, builds, &es, &err), 0);
}

/* As the daemon does, when it has what lives of a former one. */
static inline void fake_take_over(void)
{
	envs_resume(envs);
	envs_taken_over(envs);
}

static inline void fake_begin_envs(uint64_t health_timeout_ms)
{
	fake_open_envs(health_timeout_ms);
	fake_take_over();
}

static inline void fake_close_envs(void)
{
	envs_free(envs);
	builds_free(builds);
	images_free(images);
	http_server_free(up_server);
}

/* A deployment that was READY when the daemon started: its instance sleeps. */
static inline struct store_deployment *fake_ready_deployment(void)
{
	struct store_deployment *d = store_deployment_add(store, environment, NULL, "folder");

	d->state = STORE_DEPLOYMENT_READY;
	store_set_str(&d->image, "localhost/env/alice/counter:1");
	return d;
}

static inline void fake_end_boxes(void)
{
	fake_hold_destroy = false;
	for (size_t i = 0; i < n_boxes; i++)
		fake_box_over(&boxes[i]);
	run_for(5);
}

/* Leaks are looked for at the end: the process of a test ends without the sanitizer's own look. */
#ifdef __SANITIZE_ADDRESS__
int __lsan_do_recoverable_leak_check(void);
#define fake_leaks() __lsan_do_recoverable_leak_check()
#else
#define fake_leaks() 0
#endif

/* Criterion lets a test pass whose teardown fails; here the end belongs to the test. */
#define FAKE_TEST(suite, name)                                                                                \
	static void suite##_##name(void);                                                                     \
	Test(suite, name, .timeout = 60)                                                                      \
	{                                                                                                     \
		begin();                                                                                      \
		suite##_##name();                                                                             \
		end();                                                                                        \
	}                                                                                                     \
	static void suite##_##name(void)

static inline void fake_end(void)
{
	fake_close_envs();
	auth_free(auth);
	store_free(store);
	loop = loop_free(loop);
	tmpdir_remove(dir);
	cr_assert_eq(fake_leaks(), 0, "memory was lost");
}
