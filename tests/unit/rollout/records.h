/* A store of its own for each test of records, and what they all do with it. Included once by a test. */
#pragma once

#include <criterion/criterion.h>
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/mem.h"
#include "base/time.h"
#include "rollout/events.h"

#define NS "11111111-2222-4333-8444-555555555555"
#define NT "99999999-2222-4333-8444-555555555555"
#define ENV "eeeeeeee-2222-4333-8444-555555555555"

static char dir[64], path[96];
static struct loop *loop;
static struct store *store;

static void open_it(void)
{
	struct err err = ERR_INIT;

	cr_assert_eq(loop_new(&loop, &err), 0);
	cr_assert_eq(store_open(&store, loop, path, &err), 0, "%s", err.msg);
}

static void close_it(void)
{
	store = store_free(store);
	loop = loop_free(loop);
}

static void set_up(void)
{
	snprintf(dir, sizeof(dir), "/tmp/test-record-XXXXXX");
	cr_assert_not_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/x.db", dir);
	open_it();
}

static void tear_down(void)
{
	static const char *const suffixes[] = { "", "-wal", "-shm" };
	char p[128];

	close_it();
	for (size_t i = 0; i < ARRAY_LEN(suffixes); i++) {
		snprintf(p, sizeof(p), "%s%s", path, suffixes[i]);
		unlink(p);
	}
	rmdir(dir);
}

/* -- writing ------------------------------------------------------------------------------------------------------- */

struct posted {
	struct record_batch batch;
	struct err err;
	bool done;
};

static void on_posted(void *arg, const struct err *err)
{
	struct posted *p = arg;

	err_copy(&p->err, err);
	p->done = true;
	loop_stop(loop, 0);
}

/* Takes a list of events without its brackets. Finds the environment as the recorder does. */
static void start(struct posted *p, const char *ns, const char *events)
{
	auto_free char *text = xasprintf("{\"events\": [%s]}", events);
	struct err err = ERR_INIT;

	*p = (struct posted){ 0 };
	cr_assert_eq(events_read(&p->batch, text, strlen(text), 100000, &err), 0, "%s: %.200s", err.msg, text);
	snprintf(p->batch.namespace_id, sizeof(p->batch.namespace_id), "%s", ns);
	for (size_t i = 0; i < p->batch.n; i++)
		if (p->batch.events[i].kind == RECORD_ROLLOUT)
			p->batch.events[i].environment_id = ENV;
	p->batch.done = on_posted;
	p->batch.arg = p;
	store_record(store, &p->batch);
}

static struct posted post(const char *ns, const char *events)
{
	struct posted p;

	start(&p, ns, events);
	while (!p.done)
		cr_assert_eq(loop_run(loop), 0);
	cr_assert_eq(p.err.code, 0, "%s", p.err.msg);
	return p;
}

static char *message(const char *rollout_id, const char *id, int position, double reward)
{
	return xasprintf("{\"eventType\": \"message\", \"eventId\": \"%s\", \"timestamp\": 100, \"rolloutEventId\": \"%s\", \"index\": %d,"
			 " \"type\": \"assistant_message\", \"content\": \"text of %s\", \"reward\": %g}", id, rollout_id, position, id, reward);
}

/* -- reading ------------------------------------------------------------------------------------------------------- */

struct seen {
	const char *ns;
	struct buf text;
	int64_t run, rollout;
	void (*look)(struct seen *s, struct store_reader *r);
	struct err err;
};

static void put(struct seen *s, const char *fmt, ...) PRINTF_LIKE(2, 3);
static void put(struct seen *s, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	cr_assert_eq(buf_vprintf(&s->text, fmt, ap), 0);
	va_end(ap);
}

static void on_look(void *arg, struct store_reader *r)
{
	struct seen *s = arg;

	s->look(s, r);
}

static void on_looked(void *arg)
{
	(void)arg;
	loop_stop(loop, 0);
}

/* What look() writes; NULL-terminated, malloc'ed. */
static char *see(const char *ns, void (*look)(struct seen *s, struct store_reader *r))
{
	struct seen s = { .ns = ns, .look = look };

	buf_init(&s.text, BUF_UNLIMITED);
	store_read(store, on_look, on_looked, &s);
	cr_assert_eq(loop_run(loop), 0);
	put(&s, "%s", s.err.code ? s.err.msg : "");
	return buf_steal(&s.text, NULL);
}

/* -- retention ----------------------------------------------------------------------------------------------------- */

struct trimmed {
	bool more;
	int pieces;
};

static void on_trimmed(void *arg, bool more, const struct err *err)
{
	struct trimmed *t = arg;

	cr_assert_null(err);
	t->more = more;
	t->pieces++;
	loop_stop(loop, 0);
}

static int trim(struct record_limits limits)
{
	struct trimmed t = { .more = true };

	while (t.more) {
		store_record_trim(store, &limits, on_trimmed, &t);
		cr_assert_eq(loop_run(loop), 0);
	}
	return t.pieces;
}
