/* spawner/events.h: the spawner's whole event loop: descriptors, children, one clock. A single thread and no allocation.
 *
 * One event is taken from the kernel at a time, so a handler may free any object, the one whose event it handles too:
 * nothing that was already fetched can refer to it. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "base/list.h"

#define EVENTS_PID_BUCKETS 256

/* A watched descriptor; embedded in its owner. */
struct source {
	int fd; /* -1 = not watched */
	void (*fn)(void *arg, uint32_t epoll_events);
	void *arg;
};

/* A child process; embedded in its owner. The entry has left the table when fn runs; status is as waitpid gives it. */
struct child {
	struct list link;
	pid_t pid; /* 0 = none */
	void (*fn)(void *arg, int status);
	void *arg;
};

struct events {
	int epoll_fd;
	struct source signals; /* SIGCHLD, SIGTERM, SIGINT */
	struct list children[EVENTS_PID_BUCKETS];
	bool terminated;       /* SIGTERM or SIGINT came */
	/* A child was reaped that no entry knows: its owner may have been told its pid in a message still unread. Reads
	 * those messages, so that the second look-up finds it. */
	void (*unknown_child)(void *arg);
	void *unknown_arg;
};

/* Blocks the signals above in the process; a forked child undoes it with events_reset_child(). */
MUST_CHECK int events_init(struct events *ev, struct err *err);
void events_reset_child(void);
/* The same for a helper of the spawner's, a child that goes on with its program: it ends with it (parent), has the kernel's own
 * slice, and is called so (NULL = as the spawner). */
void events_begin_helper(pid_t parent, const char *name);

MUST_CHECK int events_watch(struct events *ev, struct source *s, int fd, uint32_t epoll_events);
MUST_CHECK int events_change(struct events *ev, struct source *s, uint32_t epoll_events);
/* Harmless when it is not watched. */
void events_close(struct events *ev, struct source *s);

void events_child_add(struct events *ev, struct child *c, pid_t pid);
void events_child_remove(struct child *c); /* harmless when there is none */

/* Waits for one event, at most timeout_ms (-1 = for ever), and handles it. */
MUST_CHECK int events_once(struct events *ev, int timeout_ms, struct err *err);
