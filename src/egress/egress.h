/* egress/egress.h: the program's one object: what all sandboxes share. It takes new sandboxes from the spawner and
 * gives connections to the platform to the daemon. Lives as long as the program; loop thread.
 *
 *   spawner --REGISTER--> egress_sandbox --CONN--> egress_relay (dialled, bytes both ways)
 *                             |       \----CONN--> egress_dnstcp (port 53)
 *                             |        \---CONN--> PLATFORM to the daemon
 *                             \-------------DNS--> egress_ask --> egress_lookup (the host's name servers)
 *
 * Descriptors: a process may have few (RLIMIT_NOFILE near 20,000). An idle sandbox costs one, a connection two, a DNS
 * question one. They are counted; what would pass the budget is refused at once, and a reserve stays for taking in, so
 * that a connection that comes at the limit can still be received and reset. */
#pragma once

#include "egress/local.h"
#include "egress/policy.h"
#include "egress/resolver.h"
#include "loop/loop.h"
#include "sandbox/wire.h"

#define EGRESS_FD_RESERVE 64
#define EGRESS_BUFFER_BYTES (256u * 1024) /* of the one scratch buffer that all relays share */

struct egress_config {
	struct egress_rules allow;  /* for every sandbox */
	struct egress_rules build;  /* for builds, beside those above */
	const char *platform_name;  /* "openreward.internal"; api. and sessions. of it are the platform too */
	const char *resolv_conf;    /* path */
	const char *hosts;          /* path */
	unsigned max_connections;   /* of one sandbox */
	unsigned max_dns;           /* questions under way of one sandbox */
	uint64_t dial_ms;           /* a connection that is not there by then is reset */
	uint64_t half_close_ms;     /* silence after which a connection closed on one side ends; 0 = never */
};

struct egress {
	struct loop *loop;
	struct egress_config config;
	struct egress_local local;
	struct egress_resolver resolver;
	struct list sandboxes;       /* struct egress_sandbox */
	size_t n_sandboxes;
	struct loop_io spawner_io;   /* fd 3 */
	int spawner_fd;
	int daemon_fd;               /* fd 4; -1 = there is none */
	size_t n_fds, max_fds;       /* counted descriptors, and how many there may be */
	bool warned_fds, warned_daemon; /* one line a spell of trouble, not one a connection */
	char *message;               /* WIRE_MAX bytes, for receiving and sending; of the callback that runs */
	char *scratch;               /* EGRESS_BUFFER_BYTES, the same */
};

struct egress_config egress_config_default(void);

/* Takes ownership of both descriptors and of config's rules, on failure too. daemon_fd may be -1. */
MUST_CHECK int egress_init(struct egress *e, struct loop *loop, const struct egress_config *config, int spawner_fd,
			   int daemon_fd, struct err *err);
void egress_done(struct egress *e);

/* Counts n descriptors; false = they would pass the budget, then nothing is counted. */
bool egress_fds_take(struct egress *e, size_t n);
/* The same for connections and questions of one sandbox, which holds so many. Half of all is for those that hold few, and a fourth
 * for sandboxes themselves, also those still to come: one that cannot be taken in would have no network for life. */
bool egress_fds_take_more(struct egress *e, size_t held, size_t n);
void egress_fds_give(struct egress *e, size_t n);

/* Hands a connection to the daemon; fd stays the caller's. Negative errno when it cannot take it now. */
MUST_CHECK int egress_send_platform(struct egress *e, const char *id, uint64_t number, uint16_t port, int fd);
/* Tells the daemon of a refusal, for the audit; lost when its socket is full. */
void egress_send_denied(struct egress *e, const char *id, const char *text);
