/* build/build.h: the queue of image builds. Loop thread only.
 *
 * One build turns DATA/builds/<deployment>/source.tar into the image localhost/env/<owner>/<name>:<deployment>. It is a
 * root job of the spawner (kind "build"), whose code is in build/job_build.c; this side queues, streams and stores the
 * log, watches the time and reads the record that the job leaves. Settings that the job must be able to trust (mounts,
 * environment, aliases) do not pass through here: see build/conf.h.
 *
 * Life of a build: queued -> running -> done. done runs exactly once, whatever happens, and the pointer is dead after
 * it. The log is DATA/builds/<deployment>/log: one line each, "2026-01-02T03:04:05.678Z TEXT". */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "image/image.h"
#include "loop/loop.h"

struct builds; /* owned by the daemon */
struct build;  /* owned by struct builds until done has run */

struct builds_settings {
	unsigned concurrency;   /* builds at once; 0 = 1 */
	uint64_t time_limit_ms; /* of one build once it runs; 0 = 30 minutes */
	size_t log_max_bytes;   /* of one log, the last line says that it was cut; 0 = 16 MiB */
};

struct build_spec {               /* strings are copied */
	const char *deployment;   /* id: a str_is_name; source.tar lies in DATA/builds/<id>/ before the start */
	const char *owner, *name; /* of the environment: str_is_name each */
	const char *dockerfile;   /* relative to subdir; NULL or "" = "Dockerfile" */
	const char *subdir;       /* of the source, the build's context; NULL or "" = all of it */
	const char *input;        /* JSON: build arguments and secrets (build/jobinput.c); NULL = none */
};

/* line: one line of the log without newline, valid during the call; also says when the build leaves the queue. */
typedef void build_line_fn(void *arg, const char *line);
/* img: the result, counted for the callee (image_unref), or NULL with *err: the failing step and what it last said
 * (-EINVAL: the build itself failed; -ETIME: time limit; -ECANCELED: build_cancel; others: not the source's fault). */
typedef void build_done_fn(void *arg, struct image *img, const struct err *err);

/* data_dir, images and jobs are borrowed for the life of the object. */
MUST_CHECK int builds_new(struct builds **ret, struct loop *l, const char *data_dir, struct images *images,
			  struct image_jobs *jobs, const struct builds_settings *settings, struct err *err);
/* Forgets every build without a call to done; running jobs are cancelled. Returns NULL. */
struct builds *builds_free(struct builds *b);

/* Queues a build. on_line may be NULL. -EINVAL names a bad field, -ENOENT: no source.tar, -EEXIST: this deployment
 * is queued or running already. on_line and done run from the loop only. */
MUST_CHECK int builds_start(struct builds *b, const struct build_spec *spec, build_line_fn *on_line,
			    build_done_fn *done, void *arg, struct build **ret, struct err *err);
/* Takes it out of the queue or kills its job; done follows with -ECANCELED when nothing of it runs any more.
 * Harmless to repeat before done. */
void build_cancel(struct build *x);
/* 0 = running, n = builds before it in the queue plus one. */
unsigned build_place(const struct build *x);
/* Whether one of this environment is queued or running, or what it left is being cleared. */
bool builds_has(const struct builds *b, const char *owner, const char *name);
/* Builds queued and running, for metrics. */
void builds_count(const struct builds *b, unsigned *ret_queued, unsigned *ret_running);

/* Appends the stored log of a deployment from offset, at most max bytes and as much as ret may hold. -ENOENT: no log. */
MUST_CHECK int builds_read_log(const struct builds *b, const char *deployment, uint64_t offset, size_t max,
			       struct buf *ret, struct err *err);
