/* init/loop.h: the one epoll loop of init. A watch is a descriptor with a function; it is embedded in whatever owns the
 * descriptor, and nothing here allocates. One event is taken at a time, so a function may close and free any watch, its
 * own too, without a stale event following. Single-threaded. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>

#include "base/macros.h"

struct init;
struct watch;

/* events: EPOLLIN and the like, as epoll gave them. */
typedef void (*watch_fn)(struct init *in, struct watch *w, uint32_t events);

struct watch {
	int fd;          /* -1 = closed */
	uint32_t events; /* what is waited for; 0 = the descriptor is not in the epoll set at all */
	watch_fn fn;
};

#define WATCH_INIT { .fd = -1 }

/* Takes ownership of fd, on failure too (it is closed then). */
MUST_CHECK int watch_open(struct init *in, struct watch *w, int fd, uint32_t events, watch_fn fn);

/* Changes what is waited for; 0 takes it out of the set, which also silences EPOLLHUP. A failure can only be lack of
 * kernel memory: the watch then stays out and the next call tries again. */
void watch_set(struct init *in, struct watch *w, uint32_t events);

/* Closes the descriptor; harmless on a closed watch. A child between fork and exec may still hold the description, so
 * it is taken out of the epoll set explicitly. */
void watch_close(struct init *in, struct watch *w);

/* Waits until deadline_us (CLOCK_MONOTONIC, UINT64_MAX = for ever) and runs the function of at most one event. */
void loop_once(struct init *in, uint64_t deadline_us);
