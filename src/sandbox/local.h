/* sandbox/local.h: the engine of this machine: boxes made by the spawner, commands run by their init. Implements
 * engine/engine.h; owned by the daemon, loop thread only. It takes the link's events for itself.
 *
 *   WAITING -> MAKING -> CONFIGURING -> READY -> ENDING -> (gone)
 *                              TAKEN ---^
 *
 *   WAITING      there is no room for it: see room.h. Most are made at once.            local_create(), box_admitted()
 *   MAKING       MAKE is with the spawner.                                             local_create()
 *   CONFIGURING  init has its socket and writes /etc, where the spawner has not had that
 *                done before; nobody else knows the box yet.                           on_made()
 *   TAKEN        it was a former daemon's. Its holder has it, but init has not told yet what runs in it: what is asked
 *                of init waits behind that.                                            takeover.c
 *   READY        its holder has it.                                                    on_made(), on_configured()
 *   ENDING       END is with the spawner; every call fails with -EIDRM.                local_destroy()
 *   gone         the last process is dead: ENDED came, or GONE by itself, or the
 *                spawner was lost. Runs that were not over fail, then on_end.          box_end()
 *
 * The spawner enforces leases. renew() may be called at every request: one message is sent per LOCAL_RENEW_MS, for a lease
 * that is longer by as much. */
#pragma once

#include "engine/engine.h"
#include "image/image.h"
#include "sandbox/admit.h"
#include "sandbox/link.h"

#define LOCAL_RENEW_MS 10000
#define LOCAL_ENV_MAX (96u * 1024) /* bytes of all variables of a box together */

struct local_settings {
	uint64_t pids_max;         /* processes and threads in a box; 0 = 4096 */
	bool no_new_privs;
	uint64_t disk_bytes;       /* of what a box writes; 0 = no limit: struct plan */
	uint64_t disk_files;       /* that it makes; likewise */
	bool memory_upper;
	uint64_t pool_max;         /* sandboxes that may be prepared before they are asked for; 0 = none */
	uint64_t pool_keep_ms;     /* how long after the last that was asked for */
	uint64_t pool_bytes;       /* memory for them together */
	uint64_t pool_blanks;      /* that may be begun before it is known what they are to be; 0 = none */
	struct admit_limits room;  /* sums: as factors of what the machine has, boxes as their number; 0 = no limit */
	const char *data_dir;      /* whose disk they fill; borrowed */
	const char *const *env;    /* "K=V" for every box, over the image's and under its own; may be NULL */
	const struct engine_mount *mounts; /* in every box, ended by a NULL source; may be NULL. The spawner was started with
					      --mount for each */
};

/* Everything is borrowed for the life of the engine. */
MUST_CHECK int local_engine_new(struct engine **ret, struct loop *l, struct link *k, struct images *images,
				const struct local_settings *settings, struct err *err);
/* Whose a former daemon's boxes are now. Each looks at the note that its predecessor left with box->id, takes the box with
 * engine_ops.adopt and left, and returns true; false = it is not wanted, and ended. Members may be NULL. */
struct local_heirs {
	bool (*instance)(void *arg, struct engine_box *box, const void *note, size_t len);
	bool (*sandbox)(void *arg, struct engine_box *box, const void *note, size_t len);
	void *instances, *sandboxes; /* their args */
};
typedef void local_taken_fn(void *arg, size_t n_taken);
/* Takes over what the spawner has of a former daemon; done, once, when each box has its heir or is being ended: after 30 s at
 * the latest. What runs in a box may be known later: engine_ops.left tells. Once, before anybody is served. */
void local_engine_take_over(struct engine *e, const struct local_heirs *heirs, local_taken_fn *done, void *arg);
/* The daemon ends and its boxes are to live: nothing is told to any of them from now on. Before what holds them is freed. */
void local_engine_leave(struct engine *e);
/* Forgets its boxes without a callback: whoever wants them dead ends the spawner, or waits for their leases. */
struct engine *local_engine_free(struct engine *e); /* NULL is allowed; returns NULL */

struct local_counts {
	size_t boxes;            /* gauge: alive, being made or ending; instances too */
	size_t waiting, waiting_instances; /* gauges: for room; not among them */
	uint64_t waited_total;   /* that had to */
	size_t execs;            /* gauge: commands that run */
	uint64_t created_total, failed_total, execs_total;
	uint64_t warm_total;      /* of those created, the ones that had been prepared */
	uint64_t begun_total;     /* those that had been begun before it was known what they are to be */
	size_t spares, blanks;    /* gauges: prepared, and begun, as of the last that was created */
	uint64_t create_us_total; /* from asking the spawner to a box that is ready */
	struct link_space space;  /* gauges; size 0 = there is no such file system */
	uint64_t outcomes[ENGINE_EXITED + 1]; /* of ended commands, by enum engine_outcome */
};
void local_engine_counts(const struct engine *e, struct local_counts *ret);
