/* spawner/box.h: the object behind a sandbox. Included by box.c, which has its states, boxes.c, box_channels.c, box_requests.c,
 * pool.c, blanks.c and weights.c only. */
#pragma once

#include "spawner/spawner.h"

#define ENDERS_MAX 4
#define READY_MAX 128

#define BOX_STATES(X) X(STARTING, "starting") X(READY, "ready") X(ENDING, "ending")
enum box_state {
#define X(name, text) BOX_##name,
	BOX_STATES(X)
#undef X
};

struct box {
	struct list link;
	struct spawner *sp;
	enum box_state state;
	char name[PLAN_ID_LEN]; /* of its cgroups and its folder: the id, or a spare's own */
	char id[PLAN_ID_LEN];   /* a spare's is its name until somebody gets it */
	bool spare;             /* prepared, and nobody's yet */
	bool blank;             /* a spare that is STARTING until it gets a plan */
	struct shape *shape;    /* of a spare; NULL when nobody is to get it any more, and of a blank */
	struct list spare_link; /* in shape->ready, when READY and a spare; in blanks.waiting */
	int plan_fd;            /* of a blank: to its builder; else -1 */
	enum plan_kind kind;
	enum plan_net net;
	uid_t first;
	uint64_t cpu_milli; /* of its plan; 0 = no limit */
	struct cgroup_limits ahead; /* of a blank: what its cgroups have before it gets a plan; 0, all of it = nothing */
	uint64_t number;
	struct child builder, init;
	int init_pid, init_pidfd;
	struct source report, ready;
	int control_fd; /* the daemon's end */
	int egress_fd;  /* egress' end */
	int net_fd;     /* ENDING: its net namespace, which may be used again; -1 = it goes */
	int mounts_fd;  /* ENDING: its mount namespace, which the cleaner takes down; -1 = it goes with init */
	struct box *owner;       /* whose network it shares; NULL = it has its own */
	struct list beside;      /* of an owner: those that share its network, by beside_link */
	struct list beside_link;
	uint64_t started_us, lease_ms;
	uint64_t lease_at_ms, hard_at_ms; /* 0 = never; STARTING: lease_at is the time-out of the start */
	uint64_t hard_ms;
	struct start_report failure; /* error < 0: why a start failed */
	char text[READY_MAX];        /* of a failure: init's words */
	char hostname[PLAN_HOSTNAME_LEN]; /* as init was told; "" = it was not */
	struct waiter maker, enders[ENDERS_MAX];
	size_t n_enders;
	char reason[16];
	void *note; /* of whoever takes it over; NULL = none */
	size_t note_len;
	bool registered;
	bool warm;  /* it was a spare */
	bool begun; /* it was a blank */
	bool light; /* it weighs less for what it takes, until light_until_ms at least (weights.c) */
	cpu_set_t *cpus; /* those that alone run it (confine.c); NULL = any */
	struct child mover; /* tells its threads so */
	uint64_t freed_ms, spared_until_ms; /* when that ended last; not again before; 0 = neither */
	uint64_t light_until_ms;
	uint64_t used_us; /* of the processors, when that was last looked at: */
	uint64_t looked_us; /* 0 = never */
	bool taken; /* the maker is one who takes over: it gets the note, too */
};

/* init's ends; closed here after the fork. */
struct box_inner {
	int control, egress, ready, report;
	int plan; /* of a blank, else -1 */
};

/* The pairs of sockets and pipes between the box's init, its builder and the rest; what was made before a failure is in b
 * and in. */
MUST_CHECK int box_channels(struct box *b, struct box_inner *in, struct err *err);
/* CONFIG, which nobody has to wait for: in the socket before init is there, or before the daemon has its end, it is read before
 * anything that the daemon sends. 0, or -errno: it is not told. */
MUST_CHECK int box_send_config(const struct box *b, const struct plan *p, const char *hostname);
/* To a blank's builder. 0, or -errno: it has not got it. */
MUST_CHECK int box_send_plan(const struct box *b, const struct plan *p);

/* Begins to make a box of this plan: a spare of shape, or what a MAKE (in) asks for when shape is NULL. */
MUST_CHECK int box_begin(struct spawner *sp, const struct plan *p, struct shape *shape, const struct wire_in *in,
			 struct waiter to);
/* Begins to make a blank; its cgroups are of this name, and have these limits until its plan asks for others. NULL where that fails
 * at once. */
MUST_CHECK struct box *box_begin_blank(struct spawner *sp, const char *name, const struct cgroup_limits *ahead);
/* A blank gets its plan, and is from then on like one that a MAKE has begun. False: nobody is there to take it. */
MUST_CHECK bool box_fill(struct box *b, const struct plan *p, const struct wire_in *in, struct waiter to);
/* A READY spare becomes the sandbox that a MAKE asks for, whose plan differs from the spare's in nothing but id, host name
 * (MADE says which it is), names of other hosts and times. Answers. */
void box_claim(struct box *b, const struct plan *p, const struct wire_in *in, struct waiter to);
/* Ends a spare, of which its shape knows no more. It may be freed when this returns. */
void box_drop(struct box *b);

/* Steps of its life: SIGKILL to all of it, and to what is beside it. Whoever calls one of these two calls box_over_if_dead()
 * last, which may free it, or waits for the children's ends. */
void box_kill(struct box *b, const char *reason);
void box_fail(struct box *b, const char *stage, int error, const char *path);
void box_over_if_dead(struct box *b);
void box_register(struct box *b);
void box_watch_clock(struct box *b);
/* From now on; 0 = without an end. */
void box_prolong(struct box *b, uint64_t lease_ms);
/* MADE, with the ends of its sockets, to whoever made it or takes it over. */
void box_tell_made(struct box *b, struct waiter to);
/* Keeps the note that came with a request, if one did. Without memory for a new one there is none: the sandbox then ends with the
 * daemon that made it. */
void box_take_note(struct box *b, const struct wire_in *in);
/* Of those that somebody has, or is about to; id may be NULL. NULL = there is none. */
struct box *box_find(const struct spawner *sp, const char *id);

/* -- pool.c, told by box.c ---------------------------------------------------------------------------------------- */
void pool_ready(struct box *b); /* a spare can be given away */
void pool_lost(struct box *b);  /* one is over, and about to be freed */
/* -- blanks.c, told by box.c -------------------------------------------------------------------------------------- */
void blanks_made(struct spawner *sp); /* somebody has just got a sandbox */
void blanks_lost(struct box *b);      /* one is over without a plan, and about to be freed */
