/* api/sandbox/sandbox.h: the sandboxes of this server as clients see them: made, used, ended by their id. One table per daemon.
 * Owned by the daemon; loop thread only.
 *
 *   CREATING -> READY -> ENDING -> (remembered) -> (forgotten)
 *       |                  ^
 *       +------------------+
 *
 *   CREATING    POST /create_sandbox is answered by a stream; the image is fetched, the engine makes a box, as soon as there
 *               is room for it. The stream may break: creation goes on, and the same body with task_id = sid takes it up
 *               again. But nobody waits for room for a client that is gone: such a one is forgotten at once, and the same
 *               body begins anew under its id, at the queue's end.                 create_handler(), leave_queue()
 *   READY       commands run, files are read and written. Every request and ping renews the lease; an open request keeps
 *               it. Silence ends it, enforced by the engine.                                       on_created()
 *   ENDING      deleted, or its session is ending. Requests get 410.                               sandbox_end()
 *   remembered  the last process is dead. For remember_ms its id is answered with 410 and the reason, a delete with 200.
 *
 * All of it outlives the daemon: the engine's box carries a note of whose it is, init has the commands, and DATA/run/sandbox
 * has a record of each id, by which one that ended while no daemon lived, or with the spawner, is answered with 410.
 *
 * A sandbox is seen by callers of the namespace whose key made it; for all others it does not exist (404). One that was
 * made with a session's own key ends with the session. */
#pragma once

#include "auth/auth.h"
#include "base/tally.h"
#include "engine/engine.h"
#include "http/router.h"

struct bucket_access;
struct sandboxes;

struct sandboxes_settings { /* 0 = the default in brackets, where there is one */
	struct engine_size size;     /* when a request names no machine_size [1 CPU, 1 GiB] */
	uint64_t idle_ms;            /* silence that ends one [120,000] */
	uint64_t hard_ms;            /* longest life [86,400,000] */
	uint64_t remember_ms;        /* an ended one's id [3,600,000] */
	size_t remember_max;         /* so many of them, the newest; at least the 65,536 that the file of ids holds [200,000] */
	uint64_t result_ms;          /* a result that was read is kept this long [60,000] */
	uint64_t repeat_ms;          /* how long a broken /run may be joined by its repetition [30,000] */
	uint64_t result_bytes;       /* most output of one run when max_bytes is null; 0 = no limit */
	size_t runs_max;             /* background runs of one that are kept [10,000] */
	struct share queue;          /* creates that wait for room; beyond it 429 [1,000; 4] */
	uint64_t claim_ms;           /* see tasks.h [2,000] */
	size_t sidecars_max;         /* of one sandbox [8] */
	struct engine_size sidecar_size; /* of one that names no machine_size [as size] */
	uint64_t sidecar_log_bytes;  /* of what one's command wrote, the last are kept [1 MiB] */
	const char *state_dir;       /* for the files of what outlives the daemon; NULL = nothing does */
	const char *life;            /* of the engine's boxes: records of another are of boxes that are lost */
};

MUST_CHECK int sandboxes_new(struct sandboxes **ret, struct loop *l, struct engine *engine, struct auth *auth,
			     const struct sandboxes_settings *settings, struct err *err);
/* Forgets all: their boxes are the engine's. NULL is allowed; returns NULL. After the HTTP server is gone. */
struct sandboxes *sandboxes_free(struct sandboxes *s);

/* Boxes of a former daemon, in struct local_heirs' form: one with a note of ours becomes a READY sandbox, its commands become
 * tasks again (tasks.h). What the files tell of and is not adopted has ended meanwhile. */
bool sandboxes_adopt(void *sandboxes, struct engine_box *box, const void *note, size_t len);
/* Every box has been offered. */
void sandboxes_taken_over(struct sandboxes *s);
/* Whose buckets bucket_config may name; borrowed. Without it bucket_config is a 400. */
void sandboxes_set_buckets(struct sandboxes *s, const struct bucket_access *access);

/* POST /create_sandbox, /run, /set_network, /stat_file, /read_file, /write_file; /v1/sandboxes... */
void sandboxes_routes(struct sandboxes *s, struct http_router *r);

/* -- for the gateway, which owns /ping and /delete_session (struct gateway_sandboxes: arg is the struct sandboxes) --- */
/* Ends every sandbox that the session owns; done, never from inside the call, once the last process is dead. */
void sandboxes_end_owned(void *sandboxes, const char *session_id, void (*done)(void *done_arg), void *done_arg);
/* Both answer the request when sid is or was a sandbox that its caller may see, or when it has no valid key (401); false =
 * not one of mine, nothing was answered. remove answers {"sid"} once the last process is dead; repeats get it at once. */
bool sandboxes_ping(void *sandboxes, struct http_req *req, const char *sid);
bool sandboxes_remove(void *sandboxes, struct http_req *req, const char *sid);

/* Ends all of them and makes no new ones; done once, never from inside the call. */
void sandboxes_end_all(struct sandboxes *s, const char *reason, void (*done)(void *done_arg), void *done_arg);

struct sandboxes_counts {
	size_t open, creating;                     /* gauges */
	uint64_t created_total, failed_total, expired_total;
	uint64_t refused_total; /* with 429: the queue */
	uint64_t runs_total, twins_total, resumed_total; /* commands; repetitions that joined; by task_id */
	uint64_t adopted_total;
	uint64_t upload_bytes_total, download_bytes_total;
};
void sandboxes_counts(const struct sandboxes *s, struct sandboxes_counts *ret);
