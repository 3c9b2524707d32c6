/* init/control.h: the socket to the daemon: requests in, answers and events out.
 *
 * The socket may be full. An answer that does not fit waits in `pending` and no further request is read until it is gone; behind
 * it wait those that come later, of connects and of runs. Events need no queue, since "this run's end has not been sent" is a flag
 * of the run. The daemon may die and another one come: the spawner holds the other end for it, and RUNS tells what it has to know.
 * End-of-file says that the spawner is gone, too: the end. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/fd.h"
#include "base/list.h"
#include "init/loop.h"
#include "sandbox/wire.h"

struct control {
	struct watch watch;
	struct list pending;      /* struct answer, in their order */
	uint64_t retry_us;        /* 0 = none; set when the kernel refuses for another reason than a full socket */
	uint64_t again_us;        /* when the request that waits is tried again; 0 = none waits */
	bool in_vain;             /* one was put off until it was too late: no other is, until a RUN succeeds or a run is killed */
};

/* A request being handled. Its strings point into the receive buffer and die with the call. */
struct request {
	const struct wire_in *msg;
	int fds[FD_PASS_MAX]; /* closed after the handler; -1 = stolen */
	size_t n_fds;
	const char *stage;    /* what a failure is called in the answer; the handler moves it on */
	uint64_t give_up_us;  /* until when it is put off; 0 = it was not yet */
	bool again;           /* set by a handler that fails: to be tried again soon, unless it is too late. Nothing else is
				 read meanwhile: the order of requests stays */
};

/* Starts watching BOOT_FD_CONTROL. */
MUST_CHECK int control_open(struct init *in);

/* Before anybody is told that init is ready: the CONFIG that the spawner may have sent. *ret_stage names what failed. */
MUST_CHECK int control_first(struct init *in, const char **ret_stage, struct err *err);

/* Starts an answer in the one output buffer: valid until the next begin. */
struct wire_out *control_begin(enum wire_type type, uint64_t request);

/* Sends the answer begun last, or keeps it as pending. fds stay the caller's. Where it can do neither, for lack of memory or
 * descriptors, the request is answered FAILED as soon as the socket has room. */
void control_reply(struct init *in, struct wire_out *o, const int *fds, size_t n_fds);

/* The same, but then the caller has to answer later: -ENOMEM, -EMFILE. */
MUST_CHECK int control_try(struct init *in, struct wire_out *o, const int *fds, size_t n_fds);

/* OK without fields. */
void control_ok(struct init *in, uint64_t request);
/* code is a negative errno; err may be NULL. */
void control_failed(struct init *in, uint64_t request, const char *stage, int code, const struct err *err);

/* Sends an event; -EAGAIN when it must be tried again later (control_tick or the socket's readiness will ask for it). */
MUST_CHECK int control_event(struct init *in, struct wire_out *o, const int *fds, size_t n_fds);

uint64_t control_next_us(const struct init *in); /* UINT64_MAX = nothing to wait for */
void control_tick(struct init *in, uint64_t now_us);
