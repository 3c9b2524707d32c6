/* sandbox/private.h: the objects behind local.h. Included by src/sandbox only. */
#pragma once

#include "base/list.h"
#include "base/map.h"
#include "sandbox/chan.h"
#include "sandbox/local.h"
#include "sandbox/plan.h"
#include "sandbox/room.h"

struct local {
	struct engine base; /* first: engine.h */
	struct loop *loop;
	struct link *link;
	struct images *images;
	struct local_settings settings;
	struct plan_mount mounts[PLAN_MOUNTS_MAX];
	size_t n_mounts;
	struct map *boxes; /* by id */
	struct takeover *takeover; /* under way; NULL = none */
	struct local_counts counts;
	struct room room;
	uint64_t told_full_ms; /* when the log was told that somebody waits; 0 = never */
};

enum box_state { BOX_WAITING, BOX_MAKING, BOX_CONFIGURING, BOX_TAKEN, BOX_READY, BOX_ENDING, BOX_GONE };

struct box {
	struct engine_box base; /* first: engine.h */
	struct local *local;
	char id[PLAN_ID_LEN];
	enum box_state state;
	struct image *image;
	char **env;          /* of every command: "K=V", NULL-terminated, names unique */
	size_t env_bytes;
	char hostname[PLAN_HOSTNAME_LEN];
	char *hosts_extra;
	uint64_t lease_ms, renewed_ms;
	uint64_t asked_us;   /* CLOCK_MONOTONIC, when MAKE was sent */
	struct room_item place;
	char *key;           /* whose turn it is while it waits */
	struct plan *plan;   /* until MAKE is answered; it points into this object, the image and the engine's settings */
	char *bucket[3];     /* the plan's: id, dir, target */
	char beside[PLAN_ID_LEN]; /* the plan's; "" = it stands alone */
	engine_progress_fn *progress; /* while WAITING; may be NULL */
	struct chan *init;   /* NULL before MADE, and when init is lost */
	engine_create_fn *created; /* until it was called */
	engine_end_fn *on_end;
	void *arg;
	struct list execs;   /* struct exec, until their end */
	struct list execs_over; /* then here, until somebody has read what they came to: there may be thousands */
	struct list waiters; /* struct waiter: destroy's callers */
	char *end_reason;    /* of the first who asked */
	bool deferred;       /* end_deferred() will run */
	bool main_over;      /* a main run ended: the box ends by itself */
	bool instance;       /* for the note, as what follows */
	uint64_t hard_ms;
	void *note;          /* the holder's; NULL = none */
	size_t note_len;
	engine_left_fn *left; /* while TAKEN: the heir's, who asked for its commands; NULL = not asked */
	engine_known_fn *known;
	void *heir;          /* their arg */
	struct loop_timer orphan; /* init is lost and the spawner says nothing */
	struct err err;      /* why it could not be made */
};

/* Its holder has it, and nobody has asked for its end. */
static inline bool box_lives(const struct box *b) { return b->state == BOX_TAKEN || b->state == BOX_READY; }

struct waiter {
	struct list node;
	engine_done_fn *done;
	void *arg;
};

enum exec_state { EXEC_STARTING, EXEC_RUNNING, EXEC_DONE };

struct exec {
	struct engine_exec base; /* first: engine.h; base.box is NULL once the box is gone */
	struct list node;        /* in box.execs or .execs_over until released or the box is gone */
	struct loop *loop;
	char *id;
	enum exec_state state;
	engine_exec_fn *done;    /* NULL = released before its end */
	void *arg;
	bool released, main;
	void (*more)(void *arg); /* NULL = it does not fetch */
	bool delivering;         /* deliver_left() will run */
	bool left;               /* of a former daemon: res or err hold its end until it is claimed */
	unsigned char label[WIRE_LABEL_MAX];
	size_t label_len;
	uint64_t started_ms;     /* CLOCK_MONOTONIC */
	struct engine_exec_result res;
	char *output;            /* n_output bytes, or NULL and spool */
	size_t n_output;
	int spool;
	struct err err;          /* how it failed: while it is asked for again; or, with left, until it is claimed */
	struct loop_timer again; /* to ask for a result whose descriptor found no room here */
	int n_again;             /* how often it was */
};

/* box.c */
void local_create(struct engine *e, const struct engine_spec *spec, engine_create_fn *done, engine_end_fn *on_end, void *arg);
bool local_uncreate(struct engine *e, const char *id);
size_t local_waiting(struct engine *e);
void box_admitted(void *local, struct room_item *it); /* struct room_user's, as the next one */
void box_told(void *local, struct room_item *it, const char *line);
void local_destroy(struct engine_box *b, const char *reason, engine_done_fn *done, void *arg);
void local_renew(struct engine_box *b);
void box_end(struct box *b, const char *reason); /* it is gone: from the loop only */
void box_leave(struct box *b);                   /* it lives on, without us */
void box_forget(struct box *b);                  /* no callback */
/* The channel of a READY or TAKEN box, or NULL with -EIDRM. */
struct chan *box_chan(struct box *b, struct err *err);
void local_reconcile(struct local *e); /* ends boxes that the spawner has and we do not know */
struct box *box_new(struct local *e, const char *id, struct image *img);
void ask_end(struct box *b, const char *reason);
/* One of which we may have no box; nobody hears of it. */
void box_end_by_id(struct local *e, const char *id);
/* MADE says what its host name is. */
void box_named(struct box *b, const char *hostname);
/* Makes a READY one of a CONFIGURING or TAKEN one: done is the answer to CONFIG. */
MUST_CHECK int box_configure(struct box *b, chan_answer_fn *done, struct err *err);
/* Takes ownership of fd: init's socket. */
MUST_CHECK int box_connect(struct box *b, int fd, struct err *err);

/* note.c */
void local_note(struct engine_box *b, const void *note, size_t len);
/* -EINVAL: it does not fit, and its box would not outlive the daemon. */
MUST_CHECK int note_check(const struct box *b, struct err *err);
/* Into o, as field NOTE; where it is too large for that, false: note_send() after MAKE. */
bool note_put(const struct box *b, struct wire_out *o);
void note_send(const struct box *b);
/* The box that a note tells of, MAKING still. -EINVAL: not a note of ours. */
MUST_CHECK int note_read(struct local *e, const char *id, const void *note, size_t len, struct box **ret, struct err *err);

/* takeover.c */
void local_adopt(struct engine_box *b, engine_end_fn *on_end, void *arg);
void local_left(struct engine_box *b, engine_left_fn *fn, engine_known_fn *known, void *arg);
void takeover_free(struct takeover *t);

/* env.c */
/* Merges lists of "K=V" (each may be NULL), later ones over earlier ones. The caller frees with strv_free. */
char **env_merge(const char *const *const *lists, size_t n, size_t *ret_bytes);

/* ask.c */
struct ask {
	struct loop *loop;
	chan_answer_fn *answer; /* calls fn, frees the question */
	struct chan *chan;
	struct err err;         /* it could not be asked */
	union {
		engine_fd_fn *fd;
		engine_done_fn *done;
		engine_open_fn *open;
		engine_fetch_fn *fetch;
		engine_usage_fn *usage;
	} fn;
	void *arg;
};
struct ask *ask_new(struct loop *l, chan_answer_fn *answer, void *arg);
struct ask *ask_fd(struct loop *l, engine_fd_fn *done, void *arg);
struct ask *ask_done(struct loop *l, engine_done_fn *done, void *arg);
/* The message, to be filled and given to ask_send(); NULL, which is given to it as well: nobody is there to be asked. b NULL: it
 * has ended. */
struct wire_out *ask_begin(struct ask *q, struct box *b, enum wire_type type);
void ask_send(struct ask *q, struct wire_out *o);
/* err; or, in e, that there is none of the descriptors which the answer owes; or NULL. */
const struct err *ask_need_fd(size_t n_fds, const struct err *err, struct err *e);
/* The first of fds is what it should be: a file. Of anything else a read could take for ever. */
MUST_CHECK int ask_check_file(const int *fds, size_t n_fds, struct err *err);

/* exec.c */
int local_exec(struct engine_box *b, const struct engine_exec_spec *spec, engine_exec_fn *done, void *arg,
	       struct engine_exec **ret, struct err *err);
ssize_t local_exec_read(struct engine_exec *x, uint64_t offset, void *p, size_t cap);
void local_exec_kill(struct engine_exec *x, int signo);
void local_exec_release(struct engine_exec *x);
/* An ITEM of RUNS. -EPROTO: no init of ours says such a thing. */
MUST_CHECK int exec_left(struct box *b, const struct wire_in *in, struct err *err);
void execs_left(struct box *b, engine_left_fn *fn, void *arg); /* each that nobody has claimed yet */
void local_claim(struct engine_exec *x, engine_exec_fn *done, void *arg);
struct exec *execs_find(struct box *b, const struct wire_in *in); /* by its RUN_ID, of those that are not over; NULL = none */
void execs_event(struct box *b, const struct wire_in *in, int *fds, size_t n_fds); /* DONE */
void execs_fail(struct box *b, const struct err *err); /* all that are not over */
void execs_orphan(struct box *b);                      /* the box is gone; results stay readable */

/* stream.c */
void local_exec_fetch(struct engine_exec *x, const struct engine_fetch *f, engine_fetch_fn *done, void *arg);
void local_exec_input(struct engine_exec *x, engine_fd_fn *done, void *arg);
void local_exec_input_end(struct engine_exec *x, engine_done_fn *done, void *arg);
void local_exec_resize(struct engine_exec *x, uint16_t rows, uint16_t cols, engine_done_fn *done, void *arg);
void local_exec_signal(struct engine_exec *x, int signo, bool foreground, engine_done_fn *done, void *arg);
void local_usage(struct engine_box *b, engine_usage_fn *done, void *arg);
void local_exec_on_more(struct engine_exec *x, void (*more)(void *arg));
uint64_t stream_flags(const struct engine_exec_spec *spec); /* enum wire_run_flag */
void stream_more(struct box *b, const struct wire_in *in);  /* MORE */

/* files.c */
void local_connect(struct engine_box *b, uint16_t port, engine_fd_fn *done, void *arg);
void local_open(struct engine_box *b, const char *path, enum engine_open mode, const char *tmp, engine_open_fn *done, void *arg);
void local_commit(struct engine_box *b, const char *path, const char *tmp, engine_done_fn *done, void *arg);
void local_discard(struct engine_box *b, const char *path, const char *tmp);
