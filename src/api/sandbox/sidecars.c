/* api/sandbox/sidecars.c: see sidecars.h. */
#include "api/sandbox/sidecars.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/random.h"
#include "base/str.h"
#include "base/time.h"

#define PORT_RETRY_MS 50

/* What the sandbox waits for with all of its sidecars. */
struct sidecars_wait {
	void (*progress)(struct sandbox *b, const char *line); /* may be NULL */
	void (*done)(struct sandbox *b, const struct err *err);
};

/* -- its runs -------------------------------------------------------------------------------------------------------------- */

struct brun *sidecar_run_new(struct sidecar *c)
{
	struct brun *run = NEW(struct brun);
	char uuid[UUID_LEN];
	size_t n = 0;

	run->b = c->b;
	run->keep_last = true;
	run->cmd = xstrdup(c->spec.name);
	run->started_ms = time_wall_ms();
	random_uuid(uuid);
	for (const char *p = uuid; *p; p++)
		if (*p != '-')
			run->id[n++] = *p;
	list_init(&run->node);
	list_init(&run->readers);
	list_init(&run->waiters);
	return run;
}

struct brun *sidecar_run_free(struct sidecar *c, struct brun *run)
{
	if (!run)
		return NULL;
	readers_end(run);
	if (run->exec)
		c->s->engine->ops->exec_release(run->exec);
	free(run->cmd);
	free(run->error);
	free(run);
	return NULL;
}

/* -- one goes -------------------------------------------------------------------------------------------------------------- */

static void free_if_over(struct sidecar *c)
{
	if (c->b || c->box || c->asking || c->making || c->looking)
		return;
	loop_timer_stop(&c->again);
	loop_timer_stop(&c->probe);
	list_remove(&c->node);
	image_unref(c->image);
	spec_sidecar_done(&c->spec);
	free(c->error);
	free(c);
}

static void become_stray(struct sidecar *c)
{
	loop_timer_stop(&c->again);
	loop_timer_stop(&c->probe);
	c->run = sidecar_run_free(c, c->run);
	c->previous = sidecar_run_free(c, c->previous);
	c->b = NULL;
	c->unknown = false;
	list_remove(&c->node);
	list_push_back(&c->s->strays, &c->node);
	free_if_over(c);
}

void sidecars_free(struct sandbox *b)
{
	struct sidecar *c;

	while ((c = list_first(&b->sidecars, struct sidecar, node)))
		become_stray(c);
	free(b->sidecars_wait);
	b->sidecars_wait = NULL;
	json_decref(b->sidecars_json);
	b->sidecars_json = NULL;
}

void sidecars_forget_strays(struct sandboxes *s)
{
	struct sidecar *c;

	while ((c = list_first(&s->strays, struct sidecar, node))) {
		c->box = NULL;
		c->asking = c->making = c->looking = false;
		free_if_over(c);
	}
}

/* -- what the sandbox waits for -------------------------------------------------------------------------------------------- */

static void tell(struct sandbox *b, const struct err *err)
{
	struct sidecars_wait *w = b->sidecars_wait;

	if (!w)
		return;
	b->sidecars_wait = NULL;
	w->done(b, err);
	free(w);
}

static void tell_error(struct sidecar *c, const struct err *err)
{
	struct err e;

	err_copy(&e, err);
	err_wrap(&e, err->code, "sidecar %s", c->spec.name);
	tell(c->b, &e);
}

static struct sidecars_wait *wait_new(void (*progress)(struct sandbox *b, const char *line),
				      void (*done)(struct sandbox *b, const struct err *err))
{
	struct sidecars_wait *w = NEW(struct sidecars_wait);

	*w = (struct sidecars_wait){ progress, done };
	return w;
}

static void tell_if_up(struct sandbox *b)
{
	list_foreach(&b->sidecars, struct sidecar, node, c)
		if (!c->up)
			return;
	tell(b, NULL);
}

/* -- starting again -------------------------------------------------------------------------------------------------------- */

void sidecar_start_later(struct sidecar *c)
{
	uint64_t now = loop_now_ms(c->s->loop);
	bool steady = c->state == SIDECAR_RUNNING && now - c->started_ms >= SIDECAR_STEADY_MS;

	/* What is asked for leads on, or back to here, by itself. */
	if (!c->b || c->b->state == SANDBOX_ENDING || c->state == SIDECAR_WAITING || c->asking || c->making)
		return;
	c->pause_ms = steady || !c->pause_ms ? SIDECAR_PAUSE_MS : MIN(2 * c->pause_ms, (uint64_t)SIDECAR_PAUSE_MAX_MS);
	c->state = SIDECAR_WAITING;
	c->due_ms = now + c->pause_ms;
	loop_timer_start(&c->again, c->pause_ms);
}

static void failed(struct sidecar *c, const struct err *err)
{
	free(c->error);
	c->error = xstrdup(err->msg);
	log_event(LOG_WARN, "sandbox", LOG_KV("sandbox", c->b ? c->b->id : ""), "sidecar %s: %s", c->spec.name, err->msg);
	if (c->b && c->b->sidecars_wait)
		tell_error(c, err);
	else
		sidecar_start_later(c);
}

/* -- ports ----------------------------------------------------------------------------------------------------------------- */

static void come_up(struct sidecar *c)
{
	if (c->up)
		return;
	c->up = true;
	tell_if_up(c->b);
}

static void on_connected(void *arg, int fd, const struct err *err)
{
	struct sidecar *c = arg;

	fd_close(fd);
	c->looking = false;
	if (!c->b) {
		free_if_over(c);
		return;
	}
	c->port += !err;
	if (c->port == c->spec.n_ports || loop_now_ms(c->s->loop) >= c->ports_until_ms)
		come_up(c);
	else
		loop_timer_start(&c->probe, err ? PORT_RETRY_MS : 0);
}

static void on_probe(struct loop_timer *t, void *arg)
{
	struct sidecar *c = arg;

	if (loop_now_ms(c->s->loop) >= c->ports_until_ms) {
		come_up(c);
	} else if (!c->box || c->state != SIDECAR_RUNNING) {
		loop_timer_start(t, PORT_RETRY_MS);
	} else {
		c->looking = true;
		c->s->engine->ops->connect(c->box, c->spec.ports[c->port], on_connected, c);
	}
}

/* init takes its messages in order: what it says now is said after the command began. */
static void on_begun(void *arg, const struct engine_usage *u UNUSED, const struct err *err UNUSED)
{
	struct sidecar *c = arg;

	c->looking = false;
	if (!c->b) {
		free_if_over(c);
		return;
	}
	c->begun = true;
	c->ports_until_ms = loop_now_ms(c->s->loop) + SIDECAR_PORTS_MS;
	if (c->spec.n_ports)
		loop_timer_start(&c->probe, 0);
	else
		come_up(c);
}

/* -- the command ----------------------------------------------------------------------------------------------------------- */

/* Of the command now, or, when it was taken over, of the one before. */
void sidecar_on_done(void *arg, struct engine_exec *x, const struct engine_exec_result *res, const struct err *err)
{
	struct sidecar *c = arg;
	struct brun *run = c->run && c->run->exec == x ? c->run : c->previous;

	brun_over(run, res, err);
	readers_more(run);
	if (run == c->run)
		sidecar_start_later(c);
}

void sidecar_on_more(void *arg)
{
	readers_more(((struct sidecar *)arg)->run);
}

static void append(const char ***argv, size_t *n, char *const *words)
{
	for (; words && *words; words++) {
		*argv = xrealloc(*argv, (*n + 2) * sizeof(**argv));
		(*argv)[(*n)++] = *words;
		(*argv)[*n] = NULL;
	}
}

/* As Kubernetes has it: a command stands for ENTRYPOINT and drops CMD, args stand for CMD. The strings stay theirs. */
static const char **command_of(const struct sidecar *c)
{
	const struct spec_sidecar *s = &c->spec;
	const char **argv = xcalloc(1, sizeof(*argv));
	size_t n = 0;

	append(&argv, &n, s->command ? s->command : c->image->entrypoint);
	if (s->args || !s->command)
		append(&argv, &n, s->args ? s->args : c->image->cmd);
	return argv;
}

static int exec(struct sidecar *c, struct brun *run, struct err *err)
{
	struct sidecar_label label = { .restarts = (uint32_t)c->restarts };
	auto_free const char **argv = command_of(c);
	struct engine_exec_spec spec = {
		.id = run->id, .argv = argv, .max_bytes = c->s->settings.sidecar_log_bytes, .log_fd = -1, .keep_last = true,
		.fetch = true, .more = sidecar_on_more, .label = &label, .label_len = sizeof(label),
	};

	memcpy(label.magic, SIDECAR_LABEL, sizeof(label.magic));
	if (!argv[0])
		return err_set(err, -EINVAL, "image %s names neither ENTRYPOINT nor CMD: give a command", c->spec.image);
	return c->s->engine->ops->exec(c->box, &spec, sidecar_on_done, c, &run->exec, err);
}

static void start(struct sidecar *c)
{
	struct brun *run = sidecar_run_new(c);
	struct err err = ERR_INIT;

	if (exec(c, run, &err) < 0) {
		sidecar_run_free(c, run);
		failed(c, &err);
		return;
	}
	sidecar_run_free(c, c->previous);
	c->previous = c->run;
	c->run = run;
	c->state = SIDECAR_RUNNING;
	c->started_ms = loop_now_ms(c->s->loop);
	free(c->error);
	c->error = NULL;
	if (c->up || c->looking || c->begun)
		return;
	c->looking = true;
	c->s->engine->ops->usage(c->box, on_begun, c);
}

void sidecar_known(struct sidecar *c)
{
	if (!c->unknown)
		return;
	c->unknown = false;
	sandbox_known(c->b);
}

/* -- the box --------------------------------------------------------------------------------------------------------------- */

void sidecar_on_box_end(void *arg, struct engine_box *box UNUSED, const char *reason)
{
	struct sidecar *c = arg;

	c->box = NULL;
	if (!c->b) {
		free_if_over(c);
		return;
	}
	free(c->error);
	c->error = xasprintf("its container has ended: %s", reason);
	sidecar_start_later(c);
	sidecar_known(c);
}

static void on_made(void *arg, struct engine_box *box, const struct err *err)
{
	struct sidecar *c = arg;

	c->making = false;
	c->box = box;
	if (c->b && !err)
		start(c);
	else if (c->b)
		failed(c, err);
	else if (box)
		c->s->engine->ops->destroy(box, "deleted", NULL, NULL);
	else
		free_if_over(c);
}

static void note_of(const struct sidecar *c, struct buf *ret)
{
	struct json_writer w;

	buf_init(ret, 4096);
	json_write_begin(&w, ret);
	json_open_object(&w);
	json_kv_str(&w, "sidecar_of", c->b->id);
	json_kv_str(&w, "name", c->spec.name);
	json_close(&w);
	if (json_write_end(&w) < 0)
		buf_clear(ret); /* then nobody takes it over */
}

static void make(struct sidecar *c)
{
	auto_buf struct buf note = { 0 };
	char id[UUID_LEN];

	note_of(c, &note);
	const struct engine_spec spec = {
		.id = random_uuid(id), .image = c->image, .size = c->spec.size, .env = (const char *const *)c->spec.env,
		.block_network = c->b->block_network, .note = note.data, .note_len = note.len, .beside = c->b->box,
	};

	c->state = SIDECAR_MAKING;
	c->making = true;
	c->s->engine->ops->create(c->s->engine, &spec, on_made, sidecar_on_box_end, c);
}

/* -- images ---------------------------------------------------------------------------------------------------------------- */

static void on_progress(void *arg, const char *line)
{
	struct sidecar *c = arg;

	if (c->b && c->b->sidecars_wait && c->b->sidecars_wait->progress)
		c->b->sidecars_wait->progress(c->b, line);
}

static void prepare_next(struct sandbox *b);

/* Whatever is missing until its command runs. */
static void go(struct sidecar *c)
{
	if (!c->image)
		sidecar_ask_image(c);
	else if (c->box)
		start(c);
	else
		make(c);
}

static void on_image(void *arg, struct image *img, const struct err *err)
{
	struct sidecar *c = arg;
	struct sandbox *b = c->b;

	c->asking = false;
	c->image = img;
	if (!b)
		free_if_over(c);
	else if (err)
		failed(c, err);
	else if (b->box)
		go(c); /* of one that was taken over */
	else
		prepare_next(b);
}

void sidecar_ask_image(struct sidecar *c)
{
	c->asking = true;
	c->s->engine->ops->prepare_image(c->s->engine, c->spec.image, on_progress, on_image, c);
}

static void prepare_next(struct sandbox *b)
{
	list_foreach(&b->sidecars, struct sidecar, node, c)
		if (!c->image) {
			sidecar_ask_image(c);
			return;
		}
	tell(b, NULL);
}

static void on_again(struct loop_timer *t UNUSED, void *arg)
{
	struct sidecar *c = arg;

	if (c->b->state == SANDBOX_ENDING || !c->b->box)
		return;
	c->restarts++;
	c->state = c->image ? SIDECAR_MAKING : SIDECAR_IMAGE; /* it waits no more, so that it can again */
	go(c);
}

/* -- for the sandbox ------------------------------------------------------------------------------------------------------- */

struct sidecar *sidecar_new(struct sandboxes *s, struct list *where)
{
	struct sidecar *c = NEW(struct sidecar);

	c->s = s;
	loop_timer_init(&c->again, s->loop, on_again, c);
	loop_timer_init(&c->probe, s->loop, on_probe, c);
	list_push_back(where, &c->node);
	return c;
}

void sidecars_add(struct sandbox *b, struct sandbox_spec *spec)
{
	for (size_t i = 0; i < spec->n_sidecars; i++) {
		struct sidecar *c = sidecar_new(b->s, &b->sidecars);

		c->b = b;
		c->spec = spec->sidecars[i];
		spec->sidecars[i] = (struct spec_sidecar){ .name = NULL };
	}
	b->sidecars_json = json_incref(spec->sidecars_json);
}

void sidecars_prepare(struct sandbox *b, void (*progress)(struct sandbox *b, const char *line),
		      void (*done)(struct sandbox *b, const struct err *err))
{
	b->sidecars_wait = wait_new(progress, done);
	prepare_next(b);
}

void sidecars_start(struct sandbox *b, void (*done)(struct sandbox *b, const struct err *err))
{
	b->sidecars_wait = wait_new(NULL, done);
	list_foreach(&b->sidecars, struct sidecar, node, c)
		make(c);
	tell_if_up(b);
}

struct engine_size sidecars_size(const struct sandbox *b)
{
	struct engine_size sum = { 0, 0 };

	list_foreach((struct list *)&b->sidecars, struct sidecar, node, c) {
		sum.cpu_milli += c->spec.size.cpu_milli;
		sum.memory_bytes += c->spec.size.memory_bytes;
	}
	return sum;
}

static struct sidecar *find(struct list *all, const char *name)
{
	list_foreach(all, struct sidecar, node, c)
		if (str_eq(c->spec.name, name))
			return c;
	return NULL;
}

struct brun *sidecar_run(struct sandbox *b, const char *name, bool previous, struct err *err)
{
	struct sidecar *c = find(&b->sidecars, name);
	struct brun *run = !c ? NULL : previous ? c->previous : c->run;

	if (!c)
		err_set(err, -ENOENT, "sidecar %.64s is not known in this sandbox", name);
	else if (!run)
		err_set(err, -ENOENT, "sidecar %s has not run %s", name, previous ? "before" : "yet");
	return run;
}
