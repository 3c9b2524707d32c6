/* image/private.h: what images.c and fetch.c share. Nobody else includes it. */
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
	struct list removals; /* struct removal: running jobs that end one */
};

/* Loads the record of a normalised name, no aliases. -ENOENT: not here. *ret is counted. */
MUST_CHECK int images_load(struct images *s, const char *name, struct image **ret, struct err *err);
/* Normalises and follows aliases (at most 8). The caller frees *ret. */
MUST_CHECK int images_resolve(struct images *s, const char *ref, char **ret, struct err *err);
void images_forget(struct images *s, const char *name);
void images_cancel_fetches(struct images *s); /* waiters are forgotten without a call */
