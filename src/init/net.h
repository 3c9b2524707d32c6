/* init/net.h: the sandbox's network. It has loopback only; its net namespace turns every outgoing TCP connection and
 * every DNS query to listeners of init, which hands them to egress and takes no decision. And the other way: connections
 * of the daemon to a port inside.
 *
 * egress may be slow: while its socket is full nothing is accepted (the kernel's queue holds the rest); a DNS query that
 * finds it full is dropped, as a network would. When egress is gone, connections are accepted and closed. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#include "base/err.h"
#include "base/list.h"
#include "init/control.h"
#include "init/loop.h"

#define NET_CONNECTS_MAX 256        /* connections to the inside that are not yet made */
#define NET_CONNECT_TIMEOUT_MS 5000 /* for a listener that does not accept */
#define NET_DNS_MAX 4096            /* bytes of a query */
#define NET_DNS_REPLY_MAX 65535     /* of a reply: a client may ask for as many by a datagram */

enum net_listener { NET_TCP4, NET_TCP6, NET_UDP4, NET_UDP6, NET_LISTENERS };

struct net {
	struct watch listeners[NET_LISTENERS]; /* -1 = none: no steering, or no IPv6 */
	struct watch egress;
	int waiting;               /* an accepted connection that egress had no room for; -1 = none */
	uint64_t resume_us;        /* when to accept again after another failure; 0 = now */
	struct list connects;      /* of struct net_connect */
	size_t n_connects;
};

void net_init(struct net *n);
/* Opens the listeners and watches BOOT_FD_EGRESS. */
MUST_CHECK int net_open(struct init *in, struct err *err);

/* Handler of CONNECT. The answer may come later. */
MUST_CHECK int net_connect_request(struct init *in, struct request *q, struct err *err);

uint64_t net_next_us(const struct init *in);
void net_tick(struct init *in, uint64_t now_us);

/* The destination that the namespace's rule replaced. -ENOENT when the connection was made to the listener itself. */
MUST_CHECK int net_original_dst(int fd, struct sockaddr_storage *ret);
