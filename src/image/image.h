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
 * and, on failure, the last line of output as err. */
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

/* A local image, counted; -ENOENT when it is not here. Applies aliases. */
MUST_CHECK int images_find(struct images *s, const char *ref, struct image **ret, struct err *err);
/* Local, else one pull for any number of waiting callers. done as engine_image_fn says. */
void images_prepare(struct images *s, const char *ref, engine_progress_fn *progress, engine_image_fn *done, void *arg);
/* Makes a base image from Debian packages under the name ref (cached: at once when it is here). */
void images_bootstrap(struct images *s, const char *ref, engine_progress_fn *progress, engine_image_fn *done, void *arg);
/* From an archive (docker save or OCI layout in a tar) at an absolute host path that the job reads as root. */
void images_import(struct images *s, const char *path, const char *ref, engine_progress_fn *progress, engine_image_fn *done, void *arg);
/* -EBUSY while a box uses it. */
void images_remove(struct images *s, const char *ref, engine_done_fn *done, void *arg);
/* Every record, counted; the caller unrefs each and frees the array. */
MUST_CHECK int images_list(struct images *s, struct image ***ret, size_t *ret_n, struct err *err);
