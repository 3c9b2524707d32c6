/* egress/sandbox.h: one sandbox as egress sees it: the socket to its init, its policy, and what it has under way.
 * Made by REGISTER; ends when init closes the socket, which it does by dying. Then every connection is reset: the
 * accepted sockets would keep its net namespace alive. Loop thread. */
#pragma once

#include "base/list.h"
#include "egress/egress.h"
#include "sandbox/plan.h"

struct egress_sandbox {
	struct list node;          /* in egress.sandboxes */
	struct egress *egress;
	char id[PLAN_ID_LEN];
	uint64_t number;           /* the spawner's; passed on to the daemon */
	enum plan_net net;
	int fd;                    /* SEQPACKET to init */
	struct loop_io io;
	struct list relays;        /* struct egress_relay */
	struct list dns_streams;   /* struct egress_dnstcp */
	struct list asks;          /* struct egress_ask */
	unsigned n_connections;    /* relays and DNS streams */
	unsigned n_asks;
	struct egress_pins pins;
	unsigned denied_left;      /* events that may be sent until denied_ms + 1 s */
	uint64_t denied_ms;
};

/* Takes ownership of fd, on failure too. id: text of at most PLAN_ID_LEN - 1 bytes. */
MUST_CHECK int egress_sandbox_new(struct egress *e, const char *id, uint64_t number, enum plan_net net, int fd,
				  struct err *err);
void egress_sandbox_end(struct egress_sandbox *s);

/* Counts n more descriptors of its connections and questions; false = there are none for it. */
bool egress_sandbox_fds_take(struct egress_sandbox *s, size_t n);

