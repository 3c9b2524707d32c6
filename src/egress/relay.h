/* egress/relay.h: a connection out of a sandbox: dialled from the host, then bytes both ways until both sides are done.
 * Half-close is passed on; a side that reads slowly stops reading from the other; a reset on one side resets the other.
 * It costs two sockets and some hundred bytes, idle or not: bytes pass through the program's one buffer, and what the
 * receiver does not take stays in the sender's socket. Owned by its sandbox; ends by itself or with
 * egress_relay_end_all(). Loop thread. */
#pragma once

#include "egress/sandbox.h"

/* Takes ownership of fd, the accepted connection, on failure too (then it is reset). Descriptors are counted here: the
 * caller has counted none. Negative errno with *err when it cannot be dialled. */
struct egress_relay;
MUST_CHECK int egress_relay_new(struct egress_sandbox *s, int fd, const struct egress_addr *to, uint16_t port,
				struct err *err);
/* All of a sandbox's: resets both sides of each. */
void egress_relay_end_all(struct egress_sandbox *s);
