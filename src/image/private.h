/* image/private.h: what the files of this module share. Nobody else includes it. */
#pragma once

#include <sys/stat.h>

#include "base/list.h"
#include "base/map.h"
#include "image/image.h"

/* One record as last read. The file's identity tells when a job has replaced it. Images that were replaced while a box
 * still holds them stay in old, so that remove can refuse. */
struct cached {
	struct image *image; /* one count */
	struct stat seen;
	struct image **old; /* one count each */
	size_t n_old;
};

struct images {
	struct loop *loop;
	const char *data_dir;
	const struct image_alias *aliases;
	struct image_jobs *jobs;
	struct map *cache;    /* normalised name -> struct cached */
	struct list fetches;  /* struct fetch: running jobs that end in an image */
	uint64_t limit_ms;    /* of one of those; 0 = none */
	struct list removals; /* struct removal: running jobs that end one */
	struct uses *uses;
	struct images_budget budget; /* needed and told are not asked before images_budget() */
	struct loop_timer look;      /* at the budget; armed from images_budget() on */
	struct gc *gc;               /* the collection under way, NULL = none */
	struct list collections;     /* struct gc: those that wait for it */
	bool boxes_known;            /* images_budget() was called: what is used is known */
	bool to_sweep;               /* there may be images that were replaced and that nobody uses */
	size_t old_at_sweep;         /* of those that were used when the last sweep began */
	struct loop_timer sweep_timer;
	struct sweep *sweeping;      /* its job, NULL = none runs */
};

/* Loads the record of a normalised name, no aliases. -ENOENT: not here. *ret is counted. */
MUST_CHECK int images_load(struct images *s, const char *name, struct image **ret, struct err *err);
/* Normalises and follows aliases (at most 8). The caller frees *ret. */
MUST_CHECK int images_resolve(struct images *s, const char *ref, char **ret, struct err *err);
bool images_is_busy(struct images *s, const char *name);   /* something runs from it, or from an older one of this name */
bool images_is_moving(struct images *s, const char *name); /* it is being brought or removed */
bool images_is_going(const struct images *s, const char *name); /* it is being removed */
/* A removal of name is over, or for NULL a sweep: who waited for it to bring an image begins. */
void images_go_on(struct images *s, const char *name);
bool images_is_importing(const struct images *s);
void cached_drop_unused(struct cached *c); /* of old */
void images_cancel_fetches(struct images *s); /* waiters are forgotten without a call */
bool images_is_fetched(struct images *s, const char *name);
void images_on_look(struct loop_timer *t, void *arg);
void images_sweep_soon(struct images *s); /* not before images_budget() */
void images_on_sweep(struct loop_timer *t, void *arg);
void images_cancel_sweep(struct images *s);
void images_cancel_gc(struct images *s); /* its caller is forgotten without a call */

/* When each image was last used: DATA/image-uses.json, {NAME: ms since 1970}, written now and then and at the end. What
 * cannot be read or written is forgotten: it decides only what goes first. */
struct uses *uses_open(struct loop *l, const char *data_dir);
struct uses *uses_close(struct uses *u); /* returns NULL */
void uses_set(struct uses *u, const char *name, int64_t at_ms);
int64_t uses_get(const struct uses *u, const char *name); /* 0 = never */
void uses_forget(struct uses *u, const char *name);
