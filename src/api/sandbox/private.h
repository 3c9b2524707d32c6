/* api/sandbox/private.h: the objects behind sandbox.h, for this folder alone. */
#pragma once

#include "api/common/errors.h"
#include "api/sandbox/sandbox.h"
#include "api/sandbox/spec.h"
#include "api/sandbox/tasks.h"
#include "auth/sid.h"
#include "base/list.h"
#include "base/map.h"
#include "image/image.h"
#include "json/json.h"

struct sandboxes {
	struct loop *loop;
	struct engine *engine;
	struct auth *auth;
	const struct bucket_access *buckets; /* NULL = there are none */
	struct sandboxes_settings settings;
	struct map *live;       /* by id: struct sandbox */
	struct list all;        /* struct sandbox.node, oldest first */
	struct map *ended;      /* by id: struct ended_sandbox */
	struct list ended_list; /* oldest first */
	struct list enders;     /* struct ender: who waits for the end of several */
	struct list strays;     /* struct sidecar: of no sandbox, or none yet (sidecars.h) */
	struct loop_timer tick;
	struct slots *records;  /* struct sandbox_record; NULL = none */
	struct slots *task_records;
	bool unsettled;         /* some may be of tasks that have gone with their sandbox while no daemon lived */
	bool closed;            /* no new ones */
	size_t preparing;       /* CREATING ones that the engine does not have yet */
	struct tally creating;  /* all CREATING ones, by the key's id */
	struct sandboxes_counts counts;
};

enum sandbox_state { SANDBOX_CREATING, SANDBOX_READY, SANDBOX_ENDING };

struct creation; /* create.c */
struct runs;     /* runs.c */
struct sidecars_wait; /* sidecars.c */

struct sandbox {
	struct sandboxes *s;
	struct list node;
	char id[SID_LEN];
	enum sandbox_state state;
	uint32_t slot;             /* of its record; SLOTS_NONE = none */
	bool adopted;              /* from a former daemon: uploads may be open that we do not know of */
	size_t unknown;            /* boxes, its own and sidecars', of a former daemon that have not told yet what runs in them */
	struct list parked;        /* struct parked: requests that wait for that (adopt.c) */
	char *namespace_id;
	char *owner;               /* session that it ends with, NULL = none */
	struct store_key *key;     /* whose limit it counts for; NULL = not known */
	struct creation *creation; /* until it is READY or gone */
	struct engine_box *box;    /* NULL while CREATING */
	char *image;               /* as it was asked for; NULL = not known */
	struct engine_size size;
	bool block_network;
	int64_t created_ms;        /* since 1970 */
	uint64_t used_ms;          /* on the loop's clock, when the lease was last renewed */
	struct runs *runs;         /* in the background; NULL = there were none */
	struct list uses;          /* struct use: open requests, which keep the lease */
	struct tasks *tasks;
	struct map *uploads;       /* by path: struct upload (files_write.c) */
	struct list sidecars;      /* struct sidecar (sidecars.h) */
	struct sidecars_wait *sidecars_wait; /* NULL = nobody waits for them */
	json_t *sidecars_json;     /* what they are to be, for the note; NULL = there are none */
	struct list creators;      /* struct creator: streams that wait for READY */
	struct list removals;      /* struct removal: requests that wait for the end */
	char *end_reason;          /* from ENDING on */
};

struct ended_sandbox {
	struct list node;
	char id[SID_LEN];
	uint32_t slot;
	char *namespace_id, *reason;
	uint64_t until_ms;
};

/* In DATA/run/sandbox. */
struct sandbox_record {
	uint32_t state;          /* 0 = free */
	uint32_t until_s;        /* ENDED: CLOCK_MONOTONIC, when it is forgotten */
	char id[40], namespace_id[40], reason[128];
};
enum { SANDBOX_RECORD_LIVE = 1, SANDBOX_RECORD_ENDED = 2 };
#define SANDBOX_RECORDS_MAX 65536
/* Commands that are alive or whose results are kept, of all kinds: a little below WIRE_ITEMS_MAX, beyond which init begins none. */
#define SANDBOX_COMMANDS_MAX 16000

/* sandbox.c */
/* id: NULL = a new one. */
struct sandbox *sandbox_new(struct sandboxes *s, const char *id, const char *namespace_id, const char *owner,
			    struct store_key *key);
struct ended_sandbox *sandbox_ended_add(struct sandboxes *s, const char *id, const char *namespace_id, const char *reason);
void sandbox_ended_forget(struct sandboxes *s, struct ended_sandbox *e);
void sandbox_end(struct sandbox *b, const char *reason); /* harmless to repeat */
void sandbox_gone(struct sandbox *b, const char *reason); /* nothing of it is left: tells all who wait, frees it */
void sandbox_forget(struct sandbox *b); /* one that never was and nobody waits for: without memory of its id */
/* The READY sandbox of this id, or NULL: the request was answered (400, 401, 404, 409, 410), or waits (sandbox_park()). */
struct sandbox *sandbox_ready(struct sandboxes *s, struct http_req *req, const char *id, http_handler_fn *handler);
/* That of X-Session-ID. */
struct sandbox *sandbox_of_request(struct sandboxes *s, struct http_req *req, http_handler_fn *handler);
/* A sandbox that this caller may see, or NULL with err: -ENOENT, -EIDRM. */
struct sandbox *sandbox_find(struct sandboxes *s, const struct auth_caller *caller, const char *id, struct err *err);
void sandbox_renew(struct sandbox *b); /* its lease */
/* Why it ended, for a 410: "it was deleted", from a reason of the engine's. */
void sandbox_explain(const struct sandboxes *s, const char *reason, struct err *ret);

/* A request on a sandbox, which keeps the sandbox's lease until it closes. Lies in the request's memory; so what finishes
 * elsewhere (a worker, init) holds a pointer to it that `back` names and that becomes NULL when the request closes. */
struct use {
	struct list node;    /* in sandbox.uses */
	struct http_req *req;
	struct sandbox *b;   /* NULL once the sandbox is gone */
	struct use **back;   /* NULL = nobody */
	void (*closed)(struct use *u); /* the request closes; may be NULL */
	bool complete;       /* in closed: the kernel has the whole answer */
};
void use_start(struct use *u, struct http_req *req, struct sandbox *b, void (*closed)(struct use *u));
/* Answers 410 and returns false when the sandbox has gone meanwhile. */
bool use_alive(struct use *u);

/* adopt.c */
MUST_CHECK int records_open(struct sandboxes *s, struct err *err);
void records_settle(struct sandboxes *s); /* now and then: gives back what nobody came for, once all have told */
void records_leave(struct sandboxes *s); /* as they are, for the next daemon */
void records_close(struct sandboxes *s);
void record_live(struct sandbox *b);
/* The sandbox's record becomes e's. */
void record_ended(struct sandbox *b, struct ended_sandbox *e);
void sandbox_note(const struct sandbox *b, struct buf *ret); /* what a successor is to know */
/* False: it is known what runs in b. True: the request waits; handler gets it anew when that is known, or b is gone. */
bool sandbox_park(struct sandbox *b, struct http_req *req, http_handler_fn *handler);
void sandbox_known(struct sandbox *b);  /* one of b->unknown has told */
void sandbox_unpark(struct sandbox *b); /* all who wait */

/* create.c */
void create_handler(struct http_req *req, void *sandboxes);
/* Of an ENDING sandbox without a box: true = nothing of it exists or will, false = its box is being made and is ended as
 * soon as it is there. */
bool creation_cancel(struct sandbox *b);
void creation_detach(struct sandbox *b);  /* the sandbox is gone: late answers find nobody */
void creators_tell(struct sandbox *b, const char *error); /* NULL = it is READY */

/* run.c */
void run_handler(struct http_req *req, void *sandboxes);
void run_adopt(struct sandbox *b, struct engine_exec *x, const struct engine_left *left);
void set_network_handler(struct http_req *req, void *sandboxes);
/* What /run and a background run have in common; strings point into body. -EINVAL names the field. */
MUST_CHECK int run_spec_read(const struct sandboxes *s, json_t *body, struct engine_exec_spec *ret, struct err *err);

/* frames.c */
struct frames { /* the output of an exec that was started with separate */
	struct engine *engine;
	struct engine_exec *exec;
	uint64_t stored; /* bytes, heads included */
};
/* A task_read_fn's work from behind `"output":"` on: the rest of the object, with members stdout and stderr. pos[0] is 1 and the
 * others 0 at first. -EAGAIN: it has come on, and found nothing to tell yet. -EPROTO: they are no frames of init's. */
ssize_t frames_read(const struct frames *f, uint64_t *pos, char *p, size_t cap);

/* runs.c, list.c */
void runs_routes(struct sandboxes *s, struct http_router *r);
void runs_free(struct sandbox *b); /* all of them */
size_t runs_count(const struct sandbox *b);
void commands_make_room(struct sandbox *b); /* for one more, of either kind */
/* A command of a former daemon; false = it is none of these. */
bool runs_adopt(struct sandbox *b, struct engine_exec *x, const struct engine_left *left);
void sandbox_list_routes(struct sandboxes *s, struct http_router *r);

/* files.c, files_write.c */
void stat_handler(struct http_req *req, void *sandboxes);
void read_handler(struct http_req *req, void *sandboxes);
void write_handler(struct http_req *req, void *sandboxes);
void uploads_free(struct sandbox *b);
