/* spawner/spawner.h: the program's parts and what they share. One object of each, one thread, for the program's life;
 * every part is a file. Parts call each other directly; none of these functions may free the object it was called for,
 * except where said. */
#pragma once

#include <sched.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/fd.h"
#include "base/list.h"
#include "sandbox/plan.h"
#include "sandbox/wire.h"
#include "spawner/events.h"
#include "spawner/growth.h"
#include "spawner/host.h"
#include "spawner/ids.h"
#include "spawner/start.h"

#define SPAWNER_LISTEN_MAX 7 /* they and the egress channel travel in one message */
#define SPAWNER_ARGS_MAX 128
/* What has ended holds namespaces that are taken down when none has ended for a moment, however many ends there are not much later,
 * and by descriptors: one in so many of those that a process may have, at most, for each kind. */
#define SPAWNER_QUIET_MS 100
#define SPAWNER_PUT_OFF_MS 3000
#define SPAWNER_PUT_OFF_SHARE 5
#define JOB_ID_MAX 65

/* -- options.c: the command line --------------------------------------------------------------------------------- */
struct options {
	const char *data, *libexec;
	const char *init, *program; /* openreward-init and openreward; default: in libexec */
	uid_t uid;
	gid_t gid;
	uint64_t disk_total, disk_reserve; /* of a file system for what sandboxes write: see disk_open() */
	int ready_fd;               /* -1 = none; gets the line "ready" */
	bool keep;                  /* a service of its own: outlives the orderly end of daemons too */
	const char *listen[SPAWNER_LISTEN_MAX + 1]; /* all lists end with NULL */
	const char *mounts[SPAWNER_ARGS_MAX + 1];
	const char *egress_args[SPAWNER_ARGS_MAX + 1];
	const char *job_env[SPAWNER_ARGS_MAX + 1];
};
MUST_CHECK int options_parse(struct options *ret, int argc, char **argv, struct err *err);

/* -- what each part keeps ---------------------------------------------------------------------------------------- */
/* Whom to answer. Connections are named by number, as one may be gone by then; conn 0 = nobody. */
struct waiter {
	uint64_t conn, request;
};

/* Sandboxes and jobs that have ended, on their way to nothing (clean.c). */
struct cleaner {
	struct list queue;  /* waiting, n_queued of them */
	size_t n_queued;
	uint64_t first_ms, last_ms; /* when the first of them came, and the last */
	size_t n_mounts, most_mounts; /* mount namespaces that are kept for a child */
	int end_fd;         /* their descriptors are below that */
	struct list batch;  /* in the hands of the child */
	bool *gone;         /* of each of them, in their order: all of it is removed. The child's and ours */
	uint64_t not_before_ms; /* the next child */
	struct list failed; /* given up on; their ids are not used again, unless a later try removes them: */
	uint64_t later_ms;  /* when */
	struct child child;
	uint64_t began_ms;  /* the later of its beginning and the last relief's */
	uint64_t rush_ms;   /* when the child gets its full share of the processors (again) */
	bool hurried;       /* it has it */
	struct child relief; /* takes down what is mounted while that one takes long */
};

/* The program openreward-egress, which this one keeps running (egress.c). */
struct egress {
	struct child child;
	struct source channel;     /* only end-of-file is expected from it */
	int to_daemon[2];          /* egress' end, the daemon's end: both kept, for whoever comes next */
	uint64_t restart_at_ms;    /* 0 = not planned */
	uint64_t backoff_ms, started_ms;
	bool behind;               /* the channel was full: some boxes are not registered yet */
};

/* Spares: sandboxes made before anybody asks (pool.c). */
struct pool {
	struct list shapes;       /* of sandboxes that were asked for of late */
	size_t n_shapes, n_ready, n_starting;
	uint64_t max, keep_ms, bytes; /* as POOL says; max 0 = no spares */
	uint64_t second_at_ms;    /* when the second ends in which takes are counted; 0 = nothing to watch */
	uint64_t taken_at_ms;     /* the last take */
};

/* Sandboxes made as far as that needs no plan (blanks.c). */
struct blanks {
	struct list waiting;      /* struct box by spare_link, the oldest first */
	size_t n;
	uint64_t max;             /* 0 = none */
	struct cgroup_limits limits; /* of the last MAKE that could have one; 0, all of it = some are missing */
	uint64_t taken_at_ms;     /* the last MAKE that could have one; 0 = none of late */
	uint64_t busy_at_ms;      /* the later of that and the last one's beginning */
	uint64_t not_before_ms;   /* after a failure */
};

/* Which sandboxes weigh less for what they take (weights.c). */
struct weights {
	uint64_t next_ms;         /* when to look again */
	uint64_t used_us, at_us;  /* what all had used of the processors at the last look, and when that was */
	uint64_t busy_ms;         /* the last look at which they used much */
	unsigned looks;           /* at which they are looked at one by one, whatever they use */
	uint64_t n_boxes;         /* when they were last looked at one by one */
	bool any_light;
};

/* Processors that are set aside for sandboxes that take one (confine.c). */
struct confines {
	cpu_set_t all;            /* that the spawner may use, and so whatever it starts */
	cpu_set_t free;           /* that nobody has */
	unsigned n_left;          /* as many of them may be given: half of all, less those that are */
};

/* Net namespaces that were used by nobody, or by sandboxes that never sent a packet (see netns_is_unused), and those that are
 * to go. */
#define NETS_MAX 64
#define NETS_GOING_MAX 4096
struct nets {
	int fd[NETS_MAX];
	size_t n;
	int going[NETS_GOING_MAX];
	size_t n_going, most_going;
	int sysctls;              /* what those that are made anew go through (netns.h); -1 = the host's */
	size_t n_made;            /* through that */
	uint64_t close_at_ms;     /* the next ones of going */
	uint64_t hold_until_ms;   /* however many ends there are: those are closed from then on */
};

/* What sandboxes can write (space.c). */
struct space {
	bool on;                  /* there is a file system of ours */
	bool backed, hollow;      /* struct growth */
	unsigned cpus;
	struct child child;       /* changes it */
	struct growth_plan changing_to;
	bool trimmed;             /* since the last look */
	uint64_t kept;            /* struct growth */
	int error;                /* errno of the last change; 0 = it went well */
	uint64_t next_ms;         /* when to look again */
	uint64_t idle_since_ms;   /* when somebody was last seen to have a sandbox */
	struct space_told {
		uint64_t size, free, more, broken; /* of SPACE; size 0 = nothing was told yet */
	} told;
};

/* Who leaves too much unread (unread.c). */
struct unread {
	struct child child;       /* looks */
	int out;                  /* it says the numbers of sandboxes; -1 = there is none */
	uint64_t next_ms;         /* when to look at the machine's memory again */
	uint64_t looked_ms;       /* when a child was last begun */
	uint64_t most;            /* bytes: the machine's free memory was so much since */
	uint64_t step;            /* bytes: when it is so much less than that, a child looks */
};

/* The whole program. Zeroed at the start; main() makes its parts in the order of their need and ends them in reverse. */
struct spawner {
	struct options opt;
	struct events ev;
	struct host host;
	struct ids ids;
	struct cleaner cleaner;
	struct egress egress;
	struct pool pool;
	struct blanks blanks;
	struct weights weights;
	struct confines confines;
	bool pressed;             /* the machine is short of memory: nothing is prepared */
	uint64_t look_at_ms;      /* when to look at that again */
	struct nets nets;
	struct space space;
	struct unread unread;
	struct list conns, boxes, jobs;
	struct source accept;
	uint64_t accept_at_ms;    /* not before, for lack of descriptors; 0 = at once */
	int listen_fd[SPAWNER_LISTEN_MAX];
	size_t n_listen;
	int lock_fd;
	char boot[37];            /* UUID of this life */
	uint64_t last_number;     /* of connections and sandboxes: never used twice in one life */
	uint64_t wake_ms;         /* when the clock has to be looked at; UINT64_MAX = never. See spawner_wake */
	uint64_t closing_ms;      /* > 0: shutting down, and when to stop being patient */
	struct waiter closer;     /* who asked for it */
	uint64_t *out_buf;        /* WIRE_MAX bytes in which every message is made */
};

/* Calls every part's tick at this time or before. */
static inline void spawner_wake(struct spawner *sp, uint64_t at_ms)
{
	sp->wake_ms = MIN(sp->wake_ms, at_ms);
}

/* Sets `pressed`, once a second at the most. What cannot be read is no shortage. */
void spawner_look_at_memory(struct spawner *sp, uint64_t now_ms);
/* One line to stderr. */
void spawner_log(const char *fmt, ...) PRINTF_LIKE(1, 2);
/* Begins to end everything; the loop leaves when nothing is left. Idempotent. */
void spawner_close(struct spawner *sp, struct waiter closer);

/* -- listen.c ---------------------------------------------------------------------------------------------------- */
/* "HOST:PORT", "[V6]:PORT", ":PORT". The message for a taken port says so. */
MUST_CHECK int listen_open(const char *address, int *ret, struct err *err);
/* DATA/run/spawner.sock */
MUST_CHECK int listen_control(const char *path, gid_t gid, int *ret, struct err *err);

/* -- conn.c: the daemon's connections ---------------------------------------------------------------------------- */
MUST_CHECK int conns_init(struct spawner *sp, struct err *err);
void conns_done(struct spawner *sp);
void conns_tick(struct spawner *sp, uint64_t now_ms);
/* Sends, or queues a copy, which needs no descriptors: there may be none left. A peer that is not there, or does not read, is
 * dropped. */
void conn_answer(struct spawner *sp, struct waiter to, struct wire_out *o);
/* With a descriptor beside it, which is taken. */
void conn_give(struct spawner *sp, struct waiter to, struct wire_out *o, int fd);
/* With the descriptors that lend() has when it is sent; they stay whose they are. 0 = there are none any more: the request is then
 * answered -ENOENT. */
typedef size_t conn_lend_fn(struct spawner *sp, uint64_t number, int fds[FD_PASS_MAX]);
void conn_lend(struct spawner *sp, struct waiter to, struct wire_out *o, conn_lend_fn *lend, uint64_t number);
void conn_fail(struct spawner *sp, struct waiter to, const char *stage, int error, const char *path, const char *text);
void conn_ok(struct spawner *sp, struct waiter to);
/* To all who said HELLO. */
void conns_tell(struct spawner *sp, struct wire_out *o);
/* Begins a message in sp->out_buf. */
void conn_begin(struct spawner *sp, struct wire_out *o, enum wire_type type, struct waiter to);

/* -- box.c: sandboxes -------------------------------------------------------------------------------------------- */
/* Each answers `to` by itself, now or later, exactly once; a message that makes no sense is answered with FAILED. */
void box_make(struct spawner *sp, const struct wire_in *in, struct waiter to);
void box_end(struct spawner *sp, const struct wire_in *in, struct waiter to);
void box_take(struct spawner *sp, const struct wire_in *in, struct waiter to);
void box_renew(struct spawner *sp, const struct wire_in *in);
void box_note(struct spawner *sp, const struct wire_in *in);
void boxes_list(struct spawner *sp, struct waiter to);
void boxes_tick(struct spawner *sp, uint64_t now_ms);
void boxes_close(struct spawner *sp); /* kills all; they end in the loop */
void boxes_register(struct spawner *sp, bool again); /* with egress: those that are not yet, or all */
bool boxes_taken(const struct spawner *sp); /* somebody has one, or is about to */
/* events.unknown_child; arg is the spawner. */
void boxes_read_reports(void *arg);
/* Whether cgroups and a folder of this name belong to one. */
bool box_owns(const struct spawner *sp, const char *name);

/* -- nets.c ------------------------------------------------------------------------------------------------------ */
/* After settle() in main.c, which sets how many descriptors there may be. */
void nets_init(struct spawner *sp);
/* The namespace of a sandbox in which nothing lives any more: kept for the next one if it was never used, else closed when
 * nobody waits for the processor that this takes. The descriptor is taken; -1 is harmless. */
void nets_give(struct spawner *sp, int fd);
void nets_tick(struct spawner *sp, uint64_t now_ms);
/* One that is as good as new, for the caller to close; or -1. */
MUST_CHECK int nets_take(struct spawner *sp);
int nets_sysctls(struct spawner *sp); /* for the next one that is made (netns.h); borrowed */

/* -- pool.c ------------------------------------------------------------------------------------------------------ */
void pool_init(struct spawner *sp);
void pool_set(struct spawner *sp, const struct wire_in *in); /* POOL */
/* Notes that such a sandbox is wanted. If one is ready, it becomes the one asked for, `to` is answered, and true returned. */
bool pool_take(struct spawner *sp, const struct plan *p, const struct wire_in *in, struct waiter to);
/* Ends all spares and forgets what was wanted: images are about to go, or the spawner ends. */
void pool_empty(struct spawner *sp);
/* Somebody finds no ids while a spare has some: one ends, if there is one. */
void pool_give_way(struct spawner *sp);
void pool_tick(struct spawner *sp, uint64_t now_ms);

/* -- blanks.c ----------------------------------------------------------------------------------------------------- */
void blanks_init(struct spawner *sp);
void blanks_set(struct spawner *sp, uint64_t max); /* how many there may be */
/* Notes that a sandbox is wanted. If there is a blank, it becomes the one asked for, whose maker is answered later, and true is
 * returned. */
bool blanks_take(struct spawner *sp, const struct plan *p, const struct wire_in *in, struct waiter to);
void blanks_close(struct spawner *sp); /* ends all */
void blanks_tick(struct spawner *sp, uint64_t now_ms);

/* -- confine.c ---------------------------------------------------------------------------------------------------- */
struct box;
void confines_init(struct spawner *sp);
void confine(struct box *b, uint64_t now_ms);   /* if it can be now, and is not yet */
void unconfine(struct box *b, uint64_t now_ms); /* likewise; harmless on one that is not */
void confine_forget(struct box *b);             /* it is over, or about to be */
/* -- weights.c ---------------------------------------------------------------------------------------------------- */
/* Somebody has a sandbox. */
void weights_watch(struct spawner *sp);
void weights_tick(struct spawner *sp, uint64_t now_ms);

/* -- unread.c ----------------------------------------------------------------------------------------------------- */
void unread_init(struct spawner *sp);
void unread_watch(struct spawner *sp);
void unread_tick(struct spawner *sp, uint64_t now_ms);

/* -- space.c ----------------------------------------------------------------------------------------------------- */
void space_init(struct spawner *sp);
void space_greet(struct spawner *sp, struct waiter to); /* who has just said HELLO */
void space_expect(struct spawner *sp);                  /* a sandbox was asked for */
void space_tick(struct spawner *sp, uint64_t now_ms);

/* -- job.c ------------------------------------------------------------------------------------------------------- */
/* Work as root with a fixed form: pull, build, bootstrap, import, remove. It ends with the connection that asked. */
void job_start(struct spawner *sp, const struct wire_in *in, int input, struct waiter to); /* input: borrowed, -1 = none */
void job_cancel(struct spawner *sp, const struct wire_in *in, struct waiter to);
void jobs_tick(struct spawner *sp, uint64_t now_ms);
void jobs_close(struct spawner *sp, uint64_t conn); /* of one connection; 0 = all */
bool job_exists(const struct spawner *sp, const char *cgroup);

/* -- builds.c ---------------------------------------------------------------------------------------------------- */
/* Kills and removes what builds of an earlier life left in the machine's cgroup hierarchies. Before any job. */
void builds_sweep(struct spawner *sp);

/* -- egress.c ---------------------------------------------------------------------------------------------------- */
MUST_CHECK int egress_init(struct spawner *sp, struct err *err);
void egress_done(struct spawner *sp);
void egress_tick(struct spawner *sp, uint64_t now_ms);
/* fd stays the caller's. -EAGAIN: not now, egress_tick() will call boxes_register(). */
MUST_CHECK int egress_register(struct spawner *sp, const char *id, uint64_t number, enum plan_net net, int fd);

/* -- clean.c ----------------------------------------------------------------------------------------------------- */
/* After settle() in main.c, which sets how many descriptors there may be. */
MUST_CHECK int clean_init(struct spawner *sp, struct err *err);
void clean_done(struct spawner *sp);
/* A descriptor of the mount namespace of a sandbox that is about to be killed, which goes to clean_bury() when nothing in it lives;
 * -1 = it is to go with the last process. */
MUST_CHECK int clean_keep_mounts(struct spawner *sp, int init_pidfd, int init_pid);
/* What is left when the last process is dead. */
struct remains {
	const char *name; /* the cgroup's and, if tree, the folder's */
	uid_t first;      /* the range to give back, 0 = none */
	bool tree;
	int mounts_fd;    /* of clean_keep_mounts(), taken; -1 = none */
};
void clean_bury(struct spawner *sp, const struct remains *r);
/* Whether something of that name is still there, and whether it is still being removed. */
bool clean_has(const struct spawner *sp, const char *name);
bool clean_will(const struct spawner *sp, const char *name);
bool clean_idle(const struct spawner *sp); /* nothing is being removed, nor waits for that */
bool clean_is_done(const struct spawner *sp); /* and nothing is left */
void clean_tick(struct spawner *sp);
/* Kills and removes what an earlier life left. Before anything is started. */
MUST_CHECK int clean_reconcile(struct spawner *sp, struct err *err);

/* -- leaks.c ----------------------------------------------------------------------------------------------------- */
/* One line per thing of ours that nothing living owns; cut at cap. */
void leaks_find(struct spawner *sp, char *ret, size_t cap);
