#include "bucket/bucket.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "base/list.h"
#include "base/map.h"
#include "base/mem.h"
#include "base/str.h"
#include "base/time.h"
#include "bucket/tree.h"

#define TIDY_MS (10 * 60 * 1000)
#define ID_LEN 37
#define COUNTS_MAX 2 /* at a time: large trees take minutes, and workers have other things to do */

struct buckets {
	struct loop *loop;
	char *path;
	int fd;
	struct map *usage; /* struct usage by environment */
	struct map *parts; /* claimed: uint64_t *, the bytes that each had then */
	struct loop_timer tidy;
	struct list uncounted; /* struct usage: waiting for their turn */
	unsigned counts;       /* under way */
};

struct usage {
	struct buckets *b;
	char env_id[ID_LEN];
	uint64_t bytes, reserved;
	uint64_t counted_ms; /* 0 = never */
	int64_t meanwhile;   /* settled while a count is under way: it may or may not have seen that */
	uint64_t found;      /* the worker's */
	struct map *parts;   /* the worker's: uint64_t * by the name of a part */
	int error;           /* the worker's: of the count under way */
	int failed;          /* -errno of the last count; 0 = it could be done */
	bool counting;       /* or waiting for it */
	struct list in_uncounted;
	struct list waits;   /* struct wait: until the count is there */
};

struct wait {
	struct list node;
	struct usage *u;
	uint64_t quota, bytes;
	bucket_reserve_fn *done;
	void *arg;
};

static struct map *numbers_free(struct map *m)
{
	struct map_iter it = { 0 };

	while (m && map_next(m, &it))
		free(it.value);
	map_free(m);
	return NULL;
}

static void number_put(void *map, const char *name, uint64_t n)
{
	uint64_t *value = NEW(uint64_t);

	*value = n;
	free(map_put(map, name, value));
}

/* -- what broken uploads left ------------------------------------------------------------------------------------- */

static void on_tidy_work(void *arg)
{
	bucket_tidy(((struct buckets *)arg)->fd, time_wall_ms());
}

static void on_tidied(void *arg)
{
	struct buckets *b = arg;

	loop_timer_start(&b->tidy, TIDY_MS);
}

static void on_tidy(struct loop_timer *t UNUSED, void *arg)
{
	struct buckets *b = arg;

	loop_work(b->loop, LOOP_LANE_ANY, on_tidy_work, on_tidied, b);
}

/* -- life -------------------------------------------------------------------------------------------------------- */

int buckets_new(struct buckets **ret, struct loop *l, const char *data_dir, struct err *err)
{
	auto_free char *path = xasprintf("%s/buckets", data_dir);
	auto_fd fd = open(path, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	struct buckets *b;

	if (fd < 0)
		return err_sys(err, "opening %s", path);
	if (mkdirat(fd, BUCKET_ASIDE, 0700) < 0 && errno != EEXIST)
		return err_sys(err, "making %s/" BUCKET_ASIDE, path);
	b = NEW(struct buckets);
	b->loop = l;
	b->path = xstrdup(path);
	b->fd = fd_steal(&fd);
	b->usage = map_new();
	b->parts = map_new();
	list_init(&b->uncounted);
	loop_timer_init(&b->tidy, l, on_tidy, b);
	loop_timer_start(&b->tidy, 1);
	*ret = b;
	return 0;
}

struct buckets *buckets_free(struct buckets *b)
{
	struct map_iter it = { 0 };

	if (!b)
		return NULL;
	loop_timer_stop(&b->tidy);
	while (map_next(b->usage, &it)) {
		struct usage *u = it.value;

		list_foreach(&u->waits, struct wait, node, w)
			free(w);
		numbers_free(u->parts);
		free(u);
	}
	map_free(b->usage);
	numbers_free(b->parts);
	fd_close(b->fd);
	free(b->path);
	free(b);
	return NULL;
}

int buckets_fd(const struct buckets *b)
{
	return b->fd;
}

const char *buckets_path(const struct buckets *b)
{
	return b->path;
}

/* -- counting ---------------------------------------------------------------------------------------------------- */

static struct usage *usage_of(struct buckets *b, const char *env_id)
{
	struct usage *u = map_get(b->usage, env_id);

	if (u)
		return u;
	u = NEW(struct usage);
	u->b = b;
	snprintf(u->env_id, sizeof(u->env_id), "%s", env_id);
	list_init(&u->in_uncounted);
	list_init(&u->waits);
	map_put(b->usage, env_id, u);
	return u;
}

static void on_count(void *arg)
{
	struct usage *u = arg;
	uint64_t files;

	u->error = bucket_count(u->b->fd, u->env_id, "", &files, &u->found, NULL);
	if (u->error < 0)
		u->found = 0;
	bucket_each_part(u->b->fd, u->env_id, number_put, u->parts);
}

static bool fits(const struct wait *w)
{
	const struct usage *u = w->u;

	return !w->quota || (u->bytes + u->reserved <= w->quota && w->bytes <= w->quota - u->bytes - u->reserved);
}

static void decide(struct wait *w)
{
	struct usage *u = w->u;
	struct err err;

	if (w->quota && u->failed < 0) {
		err_sys_code(&err, u->failed, "counting the environment's files, which have a quota");
		w->done(w->arg, &err);
	} else if (fits(w)) {
		u->reserved += w->bytes;
		w->done(w->arg, NULL);
	} else {
		err_set(&err, -EDQUOT, "the environment's files have %" PRIu64 " bytes, uploads under way %" PRIu64
			", this one %" PRIu64 ": together above its quota of %" PRIu64, u->bytes, u->reserved, w->bytes, w->quota);
		w->done(w->arg, &err);
	}
	free(w);
}

/* Of one that is written to, what is new is in a reservation. */
static uint64_t count_parts(const struct usage *u)
{
	struct map_iter it = { 0 };
	uint64_t bytes = 0;

	while (map_next(u->parts, &it)) {
		const uint64_t *claimed = map_get(u->b->parts, it.key);

		bytes += claimed ? *claimed : *(const uint64_t *)it.value;
	}
	return bytes;
}

static void take_count(struct usage *u)
{
	u->counting = false;
	u->failed = u->error;
	u->counted_ms = u->failed < 0 ? 0 : loop_now_ms(u->b->loop);
	/* Counted twice at worst, which the next count puts right; never too little. */
	if (u->failed == 0)
		u->bytes = u->found + count_parts(u) + (uint64_t)MAX(u->meanwhile, 0);
	u->parts = numbers_free(u->parts);
	u->meanwhile = 0;
}

static void count_next(struct buckets *b);

static void on_counted(void *arg)
{
	struct usage *u = arg;
	struct list waits = LIST_INIT(waits);

	take_count(u);
	u->b->counts--;
	count_next(u->b);
	while (!list_empty(&u->waits)) {
		struct wait *w = list_first(&u->waits, struct wait, node);

		list_remove(&w->node);
		list_push_back(&waits, &w->node);
	}
	while (!list_empty(&waits)) {
		struct wait *w = list_first(&waits, struct wait, node);

		list_remove(&w->node);
		decide(w);
	}
}

static void count_next(struct buckets *b)
{
	struct usage *u = list_first(&b->uncounted, struct usage, in_uncounted);

	if (!u || b->counts == COUNTS_MAX)
		return;
	list_remove(&u->in_uncounted);
	b->counts++;
	u->parts = map_new();
	loop_work(b->loop, LOOP_LANE_ANY, on_count, on_counted, u);
}

/* -- reservations ------------------------------------------------------------------------------------------------- */

/* From the loop, as promised, when no count is needed. */
static void on_decide(void *arg)
{
	decide(arg);
}

void buckets_reserve(struct buckets *b, const char *env_id, uint64_t quota, uint64_t bytes, bucket_reserve_fn *done, void *arg)
{
	struct usage *u = usage_of(b, env_id);
	struct wait *w = NEW(struct wait);
	uint64_t age_ms = u->counted_ms ? loop_now_ms(b->loop) - u->counted_ms : UINT64_MAX;

	*w = (struct wait){ .u = u, .quota = quota, .bytes = bytes, .done = done, .arg = arg };
	if (!u->counting && (!quota || age_ms < BUCKET_RECHECK_MS || (age_ms < BUCKET_RECOUNT_MS && fits(w)))) {
		loop_defer(b->loop, on_decide, w);
		return;
	}
	list_push_back(&u->waits, &w->node);
	if (u->counting)
		return;
	u->counting = true;
	list_push_back(&b->uncounted, &u->in_uncounted);
	count_next(b);
}

void buckets_settle(struct buckets *b, const char *env_id, uint64_t reserved, int64_t added)
{
	struct usage *u = usage_of(b, env_id);

	u->reserved -= MIN(reserved, u->reserved);
	if (added < 0)
		u->bytes -= MIN((uint64_t)-added, u->bytes);
	else
		u->bytes += (uint64_t)added;
	u->meanwhile += u->counting ? added : 0;
}

/* -- parts -------------------------------------------------------------------------------------------------------- */

bool buckets_claim(struct buckets *b, const char *part, uint64_t bytes)
{
	if (map_get(b->parts, part))
		return false;
	number_put(b->parts, part, bytes);
	return true;
}

void buckets_release(struct buckets *b, const char *part)
{
	free(map_del(b->parts, part));
}
