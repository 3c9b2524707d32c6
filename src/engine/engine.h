/* engine/engine.h: whatever runs images. Everything above uses a box (a running sandbox or instance) through this table
 * and assumes nothing about where it runs; sandbox/local.c is the first implementation. Loop thread only.
 *
 * A box is owned by the engine; the holder of its pointer may use it until on_end has run (exactly once, last). Calls on
 * a box that is ending fail with -EIDRM. Every callback runs from the loop, never inside the call that asked. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "loop/loop.h"

struct engine;
struct engine_box;
struct engine_exec;
struct image; /* image/image.h; counted */

/* -- images ---------------------------------------------------------------------------------------------------- */
typedef void engine_progress_fn(void *arg, const char *line); /* "pulling docker.io/library/alpine:3: 40 %" */
/* img is counted for the callee (image_unref when done with it), NULL on failure with *err. */
typedef void engine_image_fn(void *arg, struct image *img, const struct err *err);

/* -- boxes ------------------------------------------------------------------------------------------------------ */
struct engine_size {
	uint64_t cpu_milli;    /* 500 = half a CPU */
	uint64_t memory_bytes;
};

struct engine_mount {
	const char *source, *target; /* see struct plan_mount */
	bool read_only;
};

/* Files of an environment inside a box, as the image's user's own; see struct plan_bucket. */
struct engine_bucket {
	const char *id;     /* the environment's; NULL = no bucket */
	const char *dir;    /* the folder of it that is mounted; NULL = all of it */
	const char *target; /* where; made if missing */
	bool read_only;
};

struct engine_spec { /* strings are copied */
	const char *id;           /* UUID text */
	bool instance;            /* an environment server: longer lease, its own log */
	struct image *image;      /* counted by the engine itself */
	struct engine_size size;
	const char *const *env;   /* NULL-terminated "K=V", over the image's own */
	bool block_network;
	uint64_t lease_ms, hard_ms; /* 0 = never */
	const char *hosts_extra;  /* lines for /etc/hosts, or NULL */
	const void *note;         /* note_len bytes of the holder's own, for its successor in another daemon; may be NULL */
	size_t note_len;
	struct engine_bucket bucket;
	const char *key;            /* while there is no room it waits in a queue that is fair over these; NULL = "" */
	engine_progress_fn *progress; /* lines that tell what it waits for, with create's arg; may be NULL */
	/* A READY box, or NULL. The new one shares its network, host name and hosts; whatever block_network and hosts_extra say
	 * here. It ends when that one does, and before that one's end is told. */
	struct engine_box *beside;
	struct engine_size beside_size; /* of all that is to be made beside it: room for them is had with its own */
};

typedef void engine_create_fn(void *arg, struct engine_box *box, const struct err *err);
/* reason: "deleted", "lease", "deadline", "killed", "exited", "host": what the API tells in a 410. */
typedef void engine_end_fn(void *arg, struct engine_box *box, const char *reason);
typedef void engine_done_fn(void *arg, const struct err *err); /* err NULL = success */
typedef void engine_fd_fn(void *arg, int fd, const struct err *err); /* fd is the callee's; -1 on failure */

/* -- exec ------------------------------------------------------------------------------------------------------- */
#define ENGINE_OUTCOMES(X)                                                                                 \
	X(INFRA, "infra") X(KILLED, "killed") X(TIMEOUT, "timeout") X(OOM, "oom") X(DISK, "disk")          \
	X(PIDS, "pids") X(SIGNALLED, "signalled") X(EXITED, "exited")
enum engine_outcome {
#define X(name, text) ENGINE_##name,
	ENGINE_OUTCOMES(X)
#undef X
};
const char *engine_outcome_name(enum engine_outcome o);

struct engine_exec_spec {
	const char *id;          /* the run's task_id, unique in its box */
	const char *cmd;         /* a script for shell, cmd_len bytes, up to 16 MiB; or NULL with argv */
	size_t cmd_len;
	const char *shell;       /* NULL or "" = /bin/bash; /bin/sh where that is missing */
	const char *const *argv; /* used when cmd is NULL */
	const char *const *env;  /* over the box's; may be NULL */
	uint64_t timeout_ms;     /* 0 = none */
	uint64_t max_bytes;      /* UINT64_MAX = everything */
	int log_fd;              /* >= 0: a log, opened to append: output goes there in lines of base/logline.h; borrowed, dup'ed */
	bool separate;           /* stdout and stderr by two pipes, the output in frames (sandbox/wire.h, WIRE_FRAME_HEAD) */
	bool keep_last;          /* the last max_bytes are kept, not the first; max_bytes is then 64 KiB at least */
	bool input;              /* stdin is a pipe, for exec_input; else it is /dev/null */
	bool terminal;           /* stdin, stdout and stderr are a terminal of rows and cols; not with separate */
	uint16_t rows, cols;
	bool fetch;              /* the output is for exec_fetch, from the start on; exec_read has none of it */
	void (*more)(void *arg); /* with fetch: there is more than the last one saw that watched; may be NULL */
	bool main;               /* the box ends when this exec does */
	const void *label;       /* label_len bytes, at most ENGINE_LABEL_MAX, as spec.note; may be NULL */
	size_t label_len;
};
#define ENGINE_LABEL_MAX 64

/* A command that a former daemon began, or had begun, and did not release. */
struct engine_left {
	const void *label;       /* valid during the call */
	size_t label_len;
	uint64_t age_ms;         /* since its start */
};
typedef void engine_left_fn(void *arg, struct engine_exec *x, const struct engine_left *left);
typedef void engine_known_fn(void *arg);

struct engine_exec_result {
	int return_code;         /* 0..255; 128 + n for a signal; 124 = timed out; 127 = no shell */
	bool timed_out;
	enum engine_outcome outcome;
	uint64_t bytes, dropped; /* of output: kept; counted and thrown away */
	uint64_t stored;         /* what exec_read has: bytes and, when separate, the heads of frames */
	bool separate;
	uint64_t duration_us, cpu_us, peak_bytes;
};
/* err != NULL: ours, not the command's, fault; res is then NULL. The exec stays readable until engine_exec_release. */
typedef void engine_exec_fn(void *arg, struct engine_exec *x, const struct engine_exec_result *res, const struct err *err);

/* Output of an exec that was started with fetch, under way or over. */
struct engine_fetch {
	uint64_t offset;
	uint64_t flow;  /* the command waits when it is this many bytes ahead of offset; 0 = it never waits. Until the next fetch */
	uint64_t need;  /* with flow and keep_last: nothing from this offset on is forgotten. Until the next fetch */
	bool watch;     /* `more` is called, once, when there is more than this one's `stored` */
	bool have;      /* no descriptor is wanted: the asker has one from before */
};
struct engine_fetched {
	uint64_t stored;   /* offset of the end */
	uint64_t first;    /* the oldest offset that is still there */
	const void *data;  /* while it is little: the bytes from offset on, during the call. NULL = none, or by fd */
	size_t len;
	int fd;            /* else: a file in which offsets are positions; the callee's; -1 = none */
};
typedef void engine_fetch_fn(void *arg, const struct engine_fetched *f, const struct err *err);

struct engine_usage { /* of a box */
	uint64_t memory_bytes, memory_peak_bytes, cpu_us; /* cpu: of commands */
	uint64_t pids, runs;      /* runs: alive and not released */
	uint64_t disk_free_bytes;
};
typedef void engine_usage_fn(void *arg, const struct engine_usage *u, const struct err *err);

/* -- files ------------------------------------------------------------------------------------------------------ */
enum engine_open { ENGINE_OPEN_READ, ENGINE_OPEN_STAGE, ENGINE_OPEN_STAGE_MKDIRS };
/* tmp: name of the staged file, to be given to commit; valid during the call. */
typedef void engine_open_fn(void *arg, int fd, uint64_t size, const char *tmp, const struct err *err);

struct engine_ops {
	/* Finds an image here or brings it ("image X is not here and could not be pulled: REASON"). progress may be NULL. */
	void (*prepare_image)(struct engine *e, const char *ref, engine_progress_fn *progress, engine_image_fn *done, void *arg);
	/* While there is no room for it, it waits, without a deadline. */
	void (*create)(struct engine *e, const struct engine_spec *spec, engine_create_fn *done, engine_end_fn *on_end, void *arg);
	/* A create that still waits for room is taken back: no callback comes. False = it waits for none (any more). */
	bool (*uncreate)(struct engine *e, const char *id);
	size_t (*waiting)(struct engine *e); /* creates of sandboxes that wait for room */
	/* done when the last process is dead; harmless to repeat; on_end follows. */
	void (*destroy)(struct engine_box *b, const char *reason, engine_done_fn *done, void *arg);
	void (*renew)(struct engine_box *b);
	/* started: the run exists in the box and will not be lost. *ret is valid at once. */
	int (*exec)(struct engine_box *b, const struct engine_exec_spec *spec, engine_exec_fn *done, void *arg,
		    struct engine_exec **ret, struct err *err);
	/* Kept output from offset into p; bytes read, 0 at the end. Only after done. */
	ssize_t (*exec_read)(struct engine_exec *x, uint64_t offset, void *p, size_t cap);
	void (*exec_kill)(struct engine_exec *x, int signo);
	void (*exec_release)(struct engine_exec *x); /* its result is no longer needed, or its callback no longer wanted */
	/* Of one that was not released; -EIDRM when its box has ended. */
	void (*exec_fetch)(struct engine_exec *x, const struct engine_fetch *f, engine_fetch_fn *done, void *arg);
	/* The write end of its stdin, or its terminal; -EPIPE when it was ended. The box holds one, too, until input_end. */
	void (*exec_input)(struct engine_exec *x, engine_fd_fn *done, void *arg);
	void (*exec_input_end)(struct engine_exec *x, engine_done_fn *done, void *arg);
	void (*exec_resize)(struct engine_exec *x, uint16_t rows, uint16_t cols, engine_done_fn *done, void *arg);
	/* foreground: to the foreground of its terminal only, as a key would; that is no end by request. */
	void (*exec_signal)(struct engine_exec *x, int signo, bool foreground, engine_done_fn *done, void *arg);
	void (*usage)(struct engine_box *b, engine_usage_fn *done, void *arg);
	/* For boxes that a former daemon made: the caller holds it now. Then, once, its commands: fn for each, in the order of
	 * their starts where that is known, inside which it is to be claimed or released, whose done may be due at once; then
	 * known. They are called later, since the box has to be asked, or from inside left() where that was done; never when
	 * the box ends before. What is asked of a box in between waits in it, and it is not known whether it has a command. */
	void (*adopt)(struct engine_box *b, engine_end_fn *on_end, void *arg);
	void (*left)(struct engine_box *b, engine_left_fn *fn, engine_known_fn *known, void *arg);
	void (*claim)(struct engine_exec *x, engine_exec_fn *done, void *arg);
	void (*exec_on_more)(struct engine_exec *x, void (*more)(void *arg)); /* of one that was claimed: as spec.more */
	/* Replaces spec.note. */
	void (*note)(struct engine_box *b, const void *note, size_t len);
	/* A stream connection to a port of the box's loopback. */
	void (*connect)(struct engine_box *b, uint16_t port, engine_fd_fn *done, void *arg);
	/* As the image's USER. Errors: -ENOENT, -ELOOP (a symlink), -EISDIR, -EINVAL (FIFO, device), -EACCES, -ENOSPC. */
	void (*open)(struct engine_box *b, const char *path, enum engine_open mode, const char *tmp, engine_open_fn *done,
		     void *arg);
	void (*commit)(struct engine_box *b, const char *path, const char *tmp, engine_done_fn *done, void *arg);
	void (*discard)(struct engine_box *b, const char *path, const char *tmp);
};

struct engine {
	const struct engine_ops *ops;
	/* Called now and then while somebody waits for room, from the loop: boxes that nobody uses may be given up. NULL = nobody
	 * listens. */
	void (*full)(void *arg);
	void *full_arg;
};
struct engine_box { /* first member of the implementation's object */
	struct engine *engine;
	const char *id;
	void *user; /* free for the holder */
};
struct engine_exec {
	struct engine_box *box;
	const char *id;
};
