/* Spares: whole sandboxes that are ready before anybody asks. A shape is all of a plan but id, host names and times, and with
 * it how many of that were wanted of late; a MAKE of a known shape gets a spare at once if there is one.
 *
 * How many: as many as were asked for in the busiest second of late (it fades by an eighth a second), at least one until
 * nobody has asked for `keep`, at most what the settings allow. When: a few at a time, at once when less than a quarter is there,
 * else when nobody has asked for a moment, since making one would take the processor from those who just got theirs.
 * When memory gets short all are ended, and none is made until that is over. */
#include <string.h>

#include "base/random.h"
#include "base/time.h"
#include "spawner/box.h"

#define SHAPES_MAX 64
#define STARTING_MAX 2    /* spares in the making */
#define QUIET_MS 5        /* since the last take, for what is not urgent */
#define SECOND_MS 1000
#define BACKOFF_MS 10000  /* after a spare that could not be made */
#define SPARE_BYTES (1u << 20) /* what an idle sandbox takes of the machine, kernel memory included */
#define FADE 8
#define ANY_ID "00000000-0000-4000-8000-000000000000"

struct shape {
	struct list link;
	struct list ready;      /* struct box by spare_link, the oldest first */
	size_t n_ready, n_starting;
	size_t taken;           /* in this second, spares or not */
	size_t peak;            /* FADE times the number wanted */
	uint64_t taken_at_ms, not_before_ms;
	size_t len;
	_Alignas(8) char make[]; /* len bytes: a MAKE with ANY_ID */
};

void pool_init(struct spawner *sp)
{
	list_init(&sp->pool.shapes);
}

/* -- shapes ------------------------------------------------------------------------------------------------------ */
/* Into a buffer of its own, as sp->out_buf is every answer's. */
static size_t encode(const struct plan *p, const char **ret)
{
	static uint64_t buf[WIRE_MAX / 8];
	struct plan any = *p;
	struct wire_out o;
	size_t len = 0;

	any.id = ANY_ID;
	any.hostname = "sandbox";
	any.hosts = NULL;
	any.lease_ms = any.hard_ms = 0;
	wire_begin(&o, buf, sizeof(buf), WIRE_MAKE, 0);
	plan_encode(&any, &o);
	*ret = (const char *)buf;
	return wire_end(&o, &len) < 0 ? 0 : len;
}

static struct shape *find(const struct pool *pool, const char *make, size_t len)
{
	list_foreach((struct list *)&pool->shapes, struct shape, link, s)
		if (s->len == len && memcmp(s->make, make, len) == 0)
			return s;
	return NULL;
}

static void drop_ready(struct pool *pool, struct box *b)
{
	b->shape->n_ready--;
	pool->n_ready--;
	list_remove(&b->spare_link);
	box_drop(b);
}

static void drop_starting(struct spawner *sp, struct shape *s)
{
	list_foreach(&sp->boxes, struct box, link, b) {
		if (b->shape != s)
			continue;
		s->n_starting--;
		sp->pool.n_starting--;
		box_drop(b);
	}
}

static void shape_free(struct spawner *sp, struct shape *s)
{
	list_foreach(&s->ready, struct box, spare_link, b)
		drop_ready(&sp->pool, b);
	drop_starting(sp, s);
	list_remove(&s->link);
	sp->pool.n_shapes--;
	free(s);
}

static struct shape *shape_new(struct spawner *sp, const char *make, size_t len)
{
	struct pool *pool = &sp->pool;
	struct shape *s = calloc(1, sizeof(*s) + len);

	if (!s)
		return NULL;
	if (pool->n_shapes == SHAPES_MAX)
		shape_free(sp, list_first(&pool->shapes, struct shape, link)); /* the one that was asked for longest ago */
	list_init(&s->ready);
	memcpy(s->make, make, len);
	s->len = len;
	list_push_back(&pool->shapes, &s->link);
	pool->n_shapes++;
	return s;
}

void pool_empty(struct spawner *sp)
{
	struct shape *s;

	while ((s = list_first(&sp->pool.shapes, struct shape, link)))
		shape_free(sp, s);
}

void pool_give_way(struct spawner *sp)
{
	list_foreach(&sp->pool.shapes, struct shape, link, s) {
		struct box *b = list_first(&s->ready, struct box, spare_link);

		if (b) {
			drop_ready(&sp->pool, b);
			return;
		}
	}
}

/* -- how many ---------------------------------------------------------------------------------------------------- */
static size_t wanted(const struct shape *s)
{
	return MAX(s->taken, (s->peak + FADE - 1) / FADE);
}

static size_t most(const struct pool *pool)
{
	return MIN(pool->max, pool->bytes / SPARE_BYTES);
}

static size_t room(const struct spawner *sp)
{
	size_t all = sp->pool.n_ready + sp->pool.n_starting;

	return sp->pressed || all >= most(&sp->pool) ? 0 : most(&sp->pool) - all;
}

/* To what the settings allow, which may have become less; those in the making are looked at again when they are ready. */
static void shrink(struct spawner *sp)
{
	const struct pool *pool = &sp->pool;

	while (pool->n_ready && pool->n_ready + pool->n_starting > most(pool))
		pool_give_way(sp);
}

static int begin_spare(struct spawner *sp, struct shape *s)
{
	struct err err = ERR_INIT;
	char id[PLAN_ID_LEN], hostname[PLAN_HOSTNAME_LEN];
	struct wire_in in;
	struct plan p;
	int r = wire_parse(&in, s->make, s->len);

	if (r == 0)
		r = plan_decode(&p, &in, &err);
	if (r < 0)
		return r;
	random_uuid(id);
	plan_hostname(hostname, PLAN_SANDBOX, id); /* what has spares is one */
	p.id = id;
	p.hostname = hostname;
	s->n_starting++;
	sp->pool.n_starting++;
	r = box_begin(sp, &p, s, NULL, (struct waiter){ 0, 0 });
	if (r < 0) {
		s->n_starting--;
		sp->pool.n_starting--;
	}
	return r;
}

static void fill(struct spawner *sp, struct shape *s, uint64_t now_ms)
{
	struct pool *pool = &sp->pool;
	bool quiet = now_ms - pool->taken_at_ms >= QUIET_MS;

	while (room(sp) > 0 && pool->n_starting < STARTING_MAX && s->not_before_ms <= now_ms) {
		size_t have = s->n_ready + s->n_starting, want = wanted(s);

		if (have >= want)
			return;
		if (!quiet && (want == 1 || have * 4 >= want)) {
			spawner_wake(sp, pool->taken_at_ms + QUIET_MS);
			return;
		}
		if (begin_spare(sp, s) < 0)
			s->not_before_ms = now_ms + BACKOFF_MS;
	}
}

static void fill_all(struct spawner *sp, uint64_t now_ms)
{
	if (sp->closing_ms)
		return;
	list_foreach(&sp->pool.shapes, struct shape, link, s)
		fill(sp, s, now_ms);
}

/* -- what boxes tell --------------------------------------------------------------------------------------------- */
void pool_ready(struct box *b)
{
	struct spawner *sp = b->sp;

	if (!b->shape)
		return;
	b->shape->n_starting--;
	sp->pool.n_starting--;
	list_push_back(&b->shape->ready, &b->spare_link);
	b->shape->n_ready++;
	sp->pool.n_ready++;
	fill_all(sp, time_now_ms());
}

void pool_lost(struct box *b)
{
	struct shape *s = b->shape;

	if (!s)
		return;
	if (!list_empty(&b->spare_link)) {
		list_remove(&b->spare_link);
		s->n_ready--;
		b->sp->pool.n_ready--;
	} else {
		s->n_starting--;
		b->sp->pool.n_starting--;
	}
	s->not_before_ms = time_now_ms() + BACKOFF_MS;
	spawner_wake(b->sp, s->not_before_ms);
	if (b->failure.error)
		spawner_log("cannot prepare a sandbox: could not %s%s%s: %s", b->failure.stage, b->failure.path[0] ? ": " : "",
			    b->failure.path, strerror(-b->failure.error));
}

/* -- taking ------------------------------------------------------------------------------------------------------ */
static struct shape *note_take(struct spawner *sp, const struct plan *p, uint64_t now_ms)
{
	struct pool *pool = &sp->pool;
	const char *make;
	size_t len = encode(p, &make);
	struct shape *s = len ? find(pool, make, len) : NULL;

	if (!s && len)
		s = shape_new(sp, make, len);
	if (!s)
		return NULL;
	list_remove(&s->link);
	list_push_back(&pool->shapes, &s->link);
	s->taken++;
	s->taken_at_ms = pool->taken_at_ms = now_ms;
	if (!pool->second_at_ms)
		pool->second_at_ms = now_ms + SECOND_MS;
	spawner_wake(sp, MIN(pool->second_at_ms, now_ms + QUIET_MS));
	return s;
}

/* Instances are few and live long. A bucket may be changed, or gone, by the time it is wanted. */
static bool may_wait(const struct plan *p)
{
	return p->kind == PLAN_SANDBOX && !p->bucket.id && !p->beside;
}

/* One that has just died may be among them still. */
static struct box *first_alive(const struct shape *s)
{
	list_foreach((struct list *)&s->ready, struct box, spare_link, b)
		if (b->state == BOX_READY)
			return b;
	return NULL;
}

bool pool_take(struct spawner *sp, const struct plan *p, const struct wire_in *in, struct waiter to)
{
	uint64_t now = time_now_ms();
	struct shape *s = sp->pool.max && may_wait(p) ? note_take(sp, p, now) : NULL;
	struct box *b = s ? first_alive(s) : NULL;

	if (b) {
		list_remove(&b->spare_link);
		s->n_ready--;
		sp->pool.n_ready--;
		box_claim(b, p, in, to);
	}
	if (s)
		fill(sp, s, now);
	return b;
}

/* -- time -------------------------------------------------------------------------------------------------------- */
static void end_second(struct spawner *sp, struct shape *s, uint64_t now_ms)
{
	struct pool *pool = &sp->pool;

	s->peak = MAX(s->taken * FADE, s->peak - (s->peak > FADE ? (s->peak + FADE - 1) / FADE : 0));
	s->taken = 0;
	if (now_ms - s->taken_at_ms >= pool->keep_ms) {
		shape_free(sp, s);
		return;
	}
	for (struct box *b; s->n_ready > (sp->pressed ? 0 : wanted(s));) {
		b = list_first(&s->ready, struct box, spare_link);
		if (!b)
			return;
		drop_ready(pool, b);
	}
}

void pool_tick(struct spawner *sp, uint64_t now_ms)
{
	struct pool *pool = &sp->pool;

	if (!pool->second_at_ms)
		return;
	if (now_ms >= pool->second_at_ms) {
		spawner_look_at_memory(sp, now_ms);
		list_foreach(&pool->shapes, struct shape, link, s)
			end_second(sp, s, now_ms);
		shrink(sp);
		pool->second_at_ms = list_empty(&pool->shapes) ? 0 : now_ms + SECOND_MS;
	}
	if (pool->second_at_ms)
		spawner_wake(sp, pool->second_at_ms);
	fill_all(sp, now_ms);
}

void pool_set(struct spawner *sp, const struct wire_in *in)
{
	struct pool *pool = &sp->pool;

	pool->max = wire_get_u64(in, WIRE_T_POOL_MAX, pool->max);
	pool->keep_ms = wire_get_u64(in, WIRE_T_POOL_KEEP_MS, pool->keep_ms);
	pool->bytes = wire_get_u64(in, WIRE_T_POOL_BYTES, pool->bytes);
	if (pool->max == 0 || pool->bytes < SPARE_BYTES)
		pool_empty(sp);
	shrink(sp);
	blanks_set(sp, wire_get_u64(in, WIRE_T_POOL_BLANKS, sp->blanks.max));
}
