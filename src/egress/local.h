/* egress/local.h: the addresses of this machine, kept fresh, and whether it has a way out by IPv6.
 * One per program, on the loop's thread. */
#pragma once

#include "egress/addr.h"
#include "loop/loop.h"

struct egress_local {
	struct egress_addr *items; /* owned; every address of every interface, v4 and v6 */
	size_t n;
	bool stale;                /* an interface has changed since they were read */
	uint64_t read_ms;          /* when they were read, monotonic */
	bool v6;                   /* a route to the public IPv6 network exists */
	int fd; /* netlink: changes of addresses; -1 = none: then they are read anew every few seconds */
	struct loop_io io;
};

/* Reads the addresses once; -errno when the system does not give them (then nothing could be refused safely). */
MUST_CHECK int egress_local_init(struct egress_local *l, struct loop *loop, struct err *err);
void egress_local_done(struct egress_local *l);
/* Before every use: reads them anew when something changed or they are old. A failure keeps the old ones. */
void egress_local_refresh(struct egress_local *l, uint64_t now_ms);
