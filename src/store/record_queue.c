/* Events on their way to the writer, retention's pieces, and the connections that read. */
#include "store/internal.h"

#include <errno.h>

#include "base/mem.h"

#define READERS_KEPT 4          /* as many as there are workers */
#define GROUP_BYTES (64u << 20) /* a transaction takes no further batch beyond this */

/* Batches that become one transaction. With the writer between loop_work and done. */
struct record_group {
	struct store *store; /* NULL = the store is gone */
	struct list batches; /* struct record_batch */
	struct err err;
};

struct record_trim {         /* lent to the writer likewise */
	struct store *store; /* NULL = the store is gone */
	struct record_limits limits;
	record_trim_fn *done;
	void *arg;
	bool more;
	struct err err;
	struct list all; /* of records.in_flight */
};

struct store_reader {
	struct store_db db;
	const char *path;
	struct err err; /* why it could not be opened; code 0 = it is */
	struct list all;
};

struct read_job {
	struct store *store; /* alive while the work runs */
	store_read_fn *work;
	loop_fn *done;
	void *arg;
};

void store_record_init(struct store *s)
{
	list_init(&s->records.pending);
	list_init(&s->records.in_flight);
	list_init(&s->records.readers);
	s->records.statements = map_new();
}

/* -- the writer ---------------------------------------------------------------------------------------------------- */

static void writing(struct store *s, int by)
{
	pthread_mutex_lock(&s->lock);
	s->n_writing += (unsigned)by;
	pthread_cond_broadcast(&s->idle);
	pthread_mutex_unlock(&s->lock);
}

static void free_owned(struct list *batches)
{
	list_foreach(batches, struct record_batch, all, b)
		if (b->free_owned)
			b->free_owned(b);
}

static void on_write(void *arg)
{
	struct record_group *g = arg;
	struct store *s = g->store; /* alive: store_free waits for n_writing */
	int code = store_db_begin(s);

	if (code == SQLITE_OK)
		code = store_record_apply(s, &g->batches);
	store_db_end(s, code, &g->err);
	free_owned(&g->batches);
	writing(s, -1);
}

static void tell(struct list *batches, const struct err *err)
{
	struct record_batch *b;

	while ((b = list_first(batches, struct record_batch, all))) {
		list_remove(&b->all);
		b->done(b->arg, err);
	}
}

static void submit(struct store *s);

static void on_written(void *arg)
{
	struct record_group *g = arg;

	if (g->store) {
		g->store->records.writing = NULL;
		submit(g->store);
	}
	tell(&g->batches, g->err.code ? &g->err : NULL);
	free(g);
}

/* One group at a time: what comes meanwhile shares the next one, and so one wait for the disk. */
static void submit(struct store *s)
{
	size_t bytes = 0;
	struct record_batch *b;

	if (s->records.writing || list_empty(&s->records.pending))
		return;
	struct record_group *g = NEW(struct record_group);
	g->store = s;
	list_init(&g->batches);
	while ((b = list_first(&s->records.pending, struct record_batch, all)) && bytes < GROUP_BYTES) {
		list_remove(&b->all);
		list_push_back(&g->batches, &b->all);
		bytes += b->bytes;
	}
	s->records.writing = g;
	writing(s, 1);
	loop_work(s->loop, LOOP_LANE_STORE, on_write, on_written, g);
}

void store_record(struct store *s, struct record_batch *b)
{
	list_init(&b->all);
	list_push_back(&s->records.pending, &b->all);
	submit(s);
}

static void on_trim(void *arg)
{
	struct record_trim *t = arg;
	struct store *s = t->store;
	int code = store_db_begin(s);

	if (code == SQLITE_OK)
		code = store_record_trim_piece(s, &t->limits, &t->more);
	store_db_end(s, code, &t->err);
	writing(s, -1);
}

static void on_trimmed(void *arg)
{
	struct record_trim *t = arg;

	list_remove(&t->all);
	if (t->store)
		t->done(t->arg, t->more, t->err.code ? &t->err : NULL);
	free(t);
}

void store_record_trim(struct store *s, const struct record_limits *limits, record_trim_fn *done, void *arg)
{
	struct record_trim *t = NEW(struct record_trim);

	t->store = s;
	t->limits = *limits;
	t->done = done;
	t->arg = arg;
	list_push_back(&s->records.in_flight, &t->all);
	writing(s, 1);
	loop_work(s->loop, LOOP_LANE_STORE, on_trim, on_trimmed, t);
}

/* -- readers ------------------------------------------------------------------------------------------------------- */

static int reader_open(struct store_reader *r, struct err *err)
{
	int flags = SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX;

	if (sqlite3_open_v2(r->path, &r->db.db, flags, NULL) != SQLITE_OK)
		return store_db_error(r->db.db, r->path, "opening", err);
	sqlite3_busy_timeout(r->db.db, 2000);
	return 0;
}

static void reader_free(struct store_reader *r)
{
	r->db.statements = store_db_statements_free(r->db.statements);
	sqlite3_close(r->db.db);
	free(r);
}

static struct store_reader *reader_take(struct store *s)
{
	pthread_mutex_lock(&s->lock);
	struct store_reader *r = list_first(&s->records.readers, struct store_reader, all);
	if (r)
		list_remove(&r->all);
	pthread_mutex_unlock(&s->lock);
	if (r)
		return r;
	r = NEW(struct store_reader);
	list_init(&r->all);
	r->path = s->path;
	r->db.statements = map_new();
	r->err.code = reader_open(r, &r->err);
	return r;
}

/* One that has failed is not lent again. */
static void reader_put(struct store *s, struct store_reader *r)
{
	bool good = !r->err.code && r->db.code == SQLITE_OK;

	if (!good)
		reader_free(r);
	pthread_mutex_lock(&s->lock);
	if (good)
		list_push_front(&s->records.readers, &r->all);
	s->records.n_reading--;
	pthread_cond_broadcast(&s->idle);
	pthread_mutex_unlock(&s->lock);
}

struct store_db *store_reader_db(struct store_reader *r)
{
	return &r->db;
}

int store_reader_error(struct store_reader *r, struct err *err)
{
	if (r->err.code)
		return err_set(err, r->err.code, "%s", r->err.msg);
	return r->db.code == SQLITE_OK ? 0 : store_db_error(r->db.db, r->path, "reading", err);
}

static void on_read(void *arg)
{
	struct read_job *j = arg;
	struct store_reader *r = reader_take(j->store);

	/* One view for all queries, so that a page and its total fit together. */
	if (!r->err.code)
		(void)sqlite3_exec(r->db.db, "BEGIN", NULL, NULL, NULL);
	j->work(j->arg, r);
	if (!r->err.code)
		(void)sqlite3_exec(r->db.db, "COMMIT", NULL, NULL, NULL);
	reader_put(j->store, r);
}

static void on_have_read(void *arg)
{
	auto_free struct read_job *j = arg;

	j->done(j->arg);
}

void store_read(struct store *s, store_read_fn *work, loop_fn *done, void *arg)
{
	struct read_job *j = NEW(struct read_job);

	*j = (struct read_job){ .store = s, .work = work, .done = done, .arg = arg };
	pthread_mutex_lock(&s->lock);
	s->records.n_reading++;
	pthread_mutex_unlock(&s->lock);
	loop_work(s->loop, LOOP_LANE_ANY, on_read, on_have_read, j);
}

/* -- the end ------------------------------------------------------------------------------------------------------- */

/* After the last write: nothing is with a worker. */
static void readers_finish(struct store *s)
{
	struct store_reader *r;

	pthread_mutex_lock(&s->lock);
	while (s->records.n_reading)
		pthread_cond_wait(&s->idle, &s->lock);
	pthread_mutex_unlock(&s->lock);
	while ((r = list_first(&s->records.readers, struct store_reader, all))) {
		list_remove(&r->all);
		reader_free(r);
	}
}

void store_record_finish(struct store *s)
{
	struct err err;

	err_set(&err, -ECANCELED, "the server is stopping");
	if (s->records.writing)
		s->records.writing->store = NULL; /* its on_written tells */
	list_foreach(&s->records.in_flight, struct record_trim, all, t) {
		list_remove(&t->all);
		t->store = NULL;
	}
	free_owned(&s->records.pending);
	tell(&s->records.pending, &err);
	readers_finish(s);
	s->records.statements = store_db_statements_free(s->records.statements);
}
