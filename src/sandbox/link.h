/* sandbox/link.h: the daemon's connection to the spawner, and through it to egress. Owned by the daemon, one per process,
 * loop thread only.
 *
 * link_new() connects and says HELLO, waiting for the answer: nothing can be served before. The link's other end normally
 * lives longer than the daemon. Should it die all the same, everything that ran is lost: the user is told, the link tries
 * to connect again every second, and tells when it is up. The listening sockets are the daemon's from the first WELCOME on. */
#pragma once

#include "base/err.h"
#include "image/image.h"
#include "loop/loop.h"
#include "sandbox/chan.h"

struct link;

#define LINK_LISTENERS_MAX 7
#define LINK_WATCHERS_MAX 4

/* What sandboxes can write, together, where they have a file system of their own; bytes. */
struct link_space {
	uint64_t size, free, more; /* its size, what of it is free, and by how much it may still grow */
	bool broken;               /* it has failed: nobody can write until the spawner is started again */
};

/* What happens on its own. Members may be NULL. Callbacks run from the loop. */
struct link_events {
	void (*gone)(void *arg, const char *id, const char *reason); /* a sandbox ended by itself: wire.h, GONE */
	void (*lost)(void *arg, const struct err *why);              /* the spawner is gone, and all sandboxes with it */
	void (*space)(void *arg, const struct link_space *is);       /* told soon after up, and when it changes; perhaps never */
	void (*up)(void *arg);                                       /* connected again: perhaps to one with old sandboxes */
};

/* What egress tells. fd: a connection from inside sandbox id that wants the platform; the callee's. */
struct link_platform {
	void (*connection)(void *arg, const char *id, uint64_t number, uint16_t port, int fd);
	void (*denied)(void *arg, const char *id, const char *text); /* for the audit log; may be NULL */
	void *arg;
};

/* socket_path: DATA/run/spawner.sock. Waits up to 10 s for the answer. */
MUST_CHECK int link_new(struct link **ret, struct loop *l, const char *socket_path, struct err *err);
struct link *link_free(struct link *k); /* NULL is allowed; returns NULL. Running jobs are forgotten */

/* Up to LINK_WATCHERS_MAX users, known by arg, told in the opposite order of their coming; ev NULL takes one out. ev must
 * outlive its use. */
void link_set_events(struct link *k, const struct link_events *ev, void *arg);
void link_set_platform(struct link *k, const struct link_platform *p);         /* copied */

/* The listening sockets, in the order of the spawner's --listen; they are the callee's, so this works once. Returns how
 * many of max were written to ret. */
size_t link_take_listeners(struct link *k, int *ret, size_t max);

/* Of the spawner's life: another one is another set of sandboxes. "" from one that does not say. Changes when the link comes
 * up again. */
const char *link_boot(const struct link *k);
/* The spawner is a service of its own: it stays when a daemon ends. */
bool link_is_kept(const struct link *k);

/* For requests; NULL while the spawner is away. Valid until the next turn of the loop. */
struct chan *link_chan(struct link *k);

/* Root jobs (image/image.h): one at a time or many, each with its own pipe. Belongs to the link. */
struct image_jobs *link_jobs(struct link *k);

/* Ends every sandbox, job and the spawner itself; done once all of it is dead, or with an error after 60 s. */
void link_shutdown(struct link *k, engine_done_fn *done, void *arg);
/* One line per thing of ours that no living object owns; "" = none. link_arg is the struct link. */
void link_leaks(void *link_arg, void (*done)(void *arg, const char *lines, const struct err *err), void *arg);
