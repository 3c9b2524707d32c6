/* egress/resolver.h: asks the host's name servers on behalf of sandboxes: raw messages forwarded, each from a socket
 * (and so a source port) of its own, with a random identifier, to be answered by exactly the server that was asked. One
 * per program; loop thread. */
#pragma once

#include "egress/dnsmsg.h"
#include "loop/loop.h"

#define EGRESS_SERVERS_MAX 3     /* what resolv.conf(5) allows */
#define EGRESS_TRY_MS 3000       /* one attempt */
#define EGRESS_TRIES 2           /* at least; with three servers each gets one */

struct egress_server {
	struct egress_addr addr;
	uint16_t port;
	uint32_t scope; /* interface index of a link-local address; 0 = none */
};

struct egress_resolver {
	struct loop *loop;
	struct egress_server servers[EGRESS_SERVERS_MAX];
	size_t n_servers;
	bool fixed;         /* given on the command line: resolv.conf is not read */
	const char *path;   /* of resolv.conf; kept, not copied */
	uint64_t stamp[3];  /* device and inode, size, modification time of what was read */
	uint64_t check_ms;  /* when it was last looked at, monotonic */
};

/* path: usually /etc/resolv.conf; read at the first lookup, and anew when it has changed. */
void egress_resolver_init(struct egress_resolver *r, struct loop *loop, const char *path);
/* "ADDRESS:PORT", "[V6]:PORT" or an address alone; from then on the file is not read. -EINVAL, -E2BIG. */
MUST_CHECK int egress_resolver_add(struct egress_resolver *r, const char *text, struct err *err);
/* Takes the servers from the text of a resolv.conf; none gives 127.0.0.1, as in the C library. Returns their number. */
size_t egress_resolver_parse(struct egress_resolver *r, const char *text);

/* A question under way. Ends by its callback or by egress_lookup_cancel(), after which it is gone. */
struct egress_lookup;
/* reply NULL: no server answered (the client gets SERVFAIL). Otherwise len bytes whose identifier is the asker's; valid
 * during the call. */
typedef void egress_lookup_fn(const uint8_t *reply, size_t len, void *arg);

/* msg and q: the query and what egress_dns_parse() made of it; both copied. tcp: the asker can take an answer of any
 * size, so a truncated one is asked for again by TCP. The callback never runs inside this call. Returns 0, or a
 * negative errno (no descriptor left). */
MUST_CHECK int egress_lookup_start(struct egress_lookup **ret, struct egress_resolver *r, const void *msg, size_t len,
				   const struct egress_dns_query *q, bool tcp, egress_lookup_fn *fn, void *arg);
void egress_lookup_cancel(struct egress_lookup *l); /* NULL is harmless; the callback does not run any more */
