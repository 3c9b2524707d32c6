/* image/image.h: images: names, records, and bringing them here. Loop thread only.
 *
 * A record (DATA/images/records/NAME.json) is what a pull, import, bootstrap or build leaves behind: the config and the
 * layers' folders. The layers themselves belong to root (buildah's and skopeo's stores); the daemon only reads
 * records. The store of an image is never changed under a living box: whoever mounts it holds a count. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "engine/engine.h"
#include "loop/loop.h"

struct image { /* one loaded record; immutable */
	unsigned refs;
	char *name;       /* normalised: "docker.io/library/python:3.11-slim" */
	char *digest;     /* of the config: "sha256:..." */
	char **layers;    /* relative to DATA/images, top first */
	uint64_t *layer_bytes; /* of each, unpacked; NULL = not known (a record of before): all of it counts to the top one */
	size_t n_layers;
	char **env;       /* "K=V", NULL-terminated; never NULL */
	char **entrypoint, **cmd; /* NULL-terminated; may be empty, never NULL */
	char *workdir;    /* "/" when the image names none */
	char *user;       /* "" = root */
	uint64_t size_bytes;
	int64_t created_ms;
};
struct image *image_ref(struct image *i);
struct image *image_unref(struct image *i); /* returns NULL */

/* "python:3.11-slim" -> "docker.io/library/python:3.11-slim"; "x" -> ":latest"; digests and hosts kept. -EINVAL names
 * what is wrong. The caller frees *ret. */
MUST_CHECK int image_normalise(char **ret, const char *ref, struct err *err);

/* Runs a root job for the image module: the daemon wires this to the spawner's JOB. argv after the kind; input: a file that
 * becomes its standard input, borrowed, -1 = none; lines of output go to progress; done gets the exit status (0 = success)
 * and, on failure, the last line of output as err, whose code is -EBUSY where the status is IMAGE_JOB_BUSY,
 * -ENOENT where it is IMAGE_JOB_GONE. */
#define IMAGE_JOB_BUSY 4
#define IMAGE_JOB_GONE 5
#define IMAGE_SWEEP_MAX 60 /* arguments of the job that removes what was replaced */
struct image_jobs {
	int (*start)(struct image_jobs *j, const char *kind, const char *const *argv, int input, engine_progress_fn *line,
		     void (*done)(void *arg, int status, const struct err *err), void *arg, uint64_t *ret_job, struct err *err);
	void (*cancel)(struct image_jobs *j, uint64_t job);
};

struct images;

struct image_alias { const char *from, *to; };

/* data_dir: DATA. aliases: NULL-terminated by a NULL from; both borrowed for the life of the object. */
MUST_CHECK int images_new(struct images **ret, struct loop *l, const char *data_dir, const struct image_alias *aliases,
			  struct image_jobs *jobs, struct err *err);
struct images *images_free(struct images *s);
/* Of one pull, bootstrap or import from now on: beyond it its job is ended, and who waits is told so. 0 = never (at first). */
void images_time_limit(struct images *s, uint64_t ms);

/* A local image, counted; -ENOENT when it is not here. Applies aliases. */
MUST_CHECK int images_find(struct images *s, const char *ref, struct image **ret, struct err *err);
bool images_has(struct images *s, const char *ref); /* whether images_find() finds it; counts as a use, too */
/* An image of which a living box is known to run, and which is not the one of its name any more: while somebody holds a count,
 * nothing of it goes. Takes the caller's count of it; returns the one to hold, counted. */
struct image *images_adopt(struct images *s, struct image *i);
/* Local, else one pull for any number of waiting callers. done as engine_image_fn says. */
void images_prepare(struct images *s, const char *ref, engine_progress_fn *progress, engine_image_fn *done, void *arg);
/* Makes a base image from Debian packages under the name ref (cached: at once when it is here). */
void images_bootstrap(struct images *s, const char *ref, engine_progress_fn *progress, engine_image_fn *done, void *arg);
/* From an archive (docker save or OCI layout in a tar) at an absolute host path that the job reads as root. */
void images_import(struct images *s, const char *path, const char *ref, engine_progress_fn *progress, engine_image_fn *done,
		   void *arg);
/* -EBUSY while a box uses it. */
void images_remove(struct images *s, const char *ref, engine_done_fn *done, void *arg);
/* Every record, counted; the caller unrefs each and frees the array. */
MUST_CHECK int images_list(struct images *s, struct image ***ret, size_t *ret_n, struct err *err);
/* When it was last wanted (a sandbox, an instance, a build's result), wall clock ms; now, while something runs from it. One
 * that nobody has wanted yet counts from when it came. *ret_busy: whether something runs from it; may be NULL. */
int64_t images_used_ms(struct images *s, const char *name, bool *ret_busy);

/* -- garbage collection ------------------------------------------------------------------------------------------
 * Above the budget, what was last used the longest ago is removed until the rest fits. What stays in any case: what a box is
 * made from, what is being brought or removed, what an alias leads to, what `needed` names, and what another image that
 * stays lies on. Looked at a few seconds after an image came, after images_gc_soon(), and every few minutes. */
struct images_budget {
	uint64_t bytes;                            /* of the layers of all images, each counted once; 0 = no limit */
	bool (*needed)(void *arg, const char *name); /* asked just before; NULL = nothing else is needed */
	/* One image went, with the bytes that only it had, or could not (err). NULL = nobody cares. */
	void (*told)(void *arg, const char *name, uint64_t bytes, const struct err *err);
	void *arg;
};
/* From now on; not before living boxes are known. Copied. */
void images_budget(struct images *s, const struct images_budget *budget);
uint64_t images_budget_bytes(const struct images *s); /* 0 = no limit */
void images_gc_soon(struct images *s);
/* Bytes of the layers of all in the list, each counted once. */
uint64_t images_total_bytes(struct image *const *list, size_t n);

struct images_gc { /* how one went */
	uint64_t freed_bytes, left_bytes;
	size_t removed;
};
typedef void images_gc_fn(void *arg, const struct images_gc *how, const struct err *err); /* how is whole with an err too */
/* Now, to this many bytes, whatever the budget is. progress: a line for each image. One follows another. done is called
 * once, from the loop, not after images_free(), which it may not call. */
void images_gc(struct images *s, uint64_t bytes, engine_progress_fn *progress, images_gc_fn *done, void *arg);
