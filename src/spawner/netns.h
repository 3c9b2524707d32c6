/* spawner/netns.h: net namespaces in which everything outgoing is steered to init's listeners.
 *
 * What a new one holds:
 *  - the loopback device and nothing else, up, with one more address of each family and default routes through it, so
 * that a connect() to any address finds a source address and a route and so reaches the output hook;
 *  - nf_tables rules: TCP to an address that is not the namespace's own goes to port STEER_TCP_PORT of the loopback
 *    (init reads the original destination with SO_ORIGINAL_DST), UDP to port 53 goes to STEER_DNS_PORT, and every other
 *    packet to elsewhere is refused at once: sendto() fails with EPERM. Even without the rules nothing could leave,
 *    because there is no device to leave through;
 *  - no tracking of connections that stay inside, so that a local server costs no conntrack entries;
 *  - sysctls: every port may be bound without privilege, ICMP echo sockets are open to all groups.
 *
 * The namespace belongs to the caller's user namespace. A sandbox with a user namespace of its own that is started in
 * it holds no capability over it: no raw or packet sockets, no change of addresses, routes or rules.
 *
 * No external command and no library: raw netlink, so that it compiles in the static spawner. Needs nf_tables with
 * the fib, redirect, reject and notrack expressions in the kernel. IPv6 is left out where the kernel has none. */
#pragma once

#include <stdbool.h>

#include "base/err.h"
#include "base/macros.h"

/* The namespace's own addresses. Of fd00::/8 so that resolvers, which prefer a destination whose source is of the same
 * kind, take IPv4 where a name has both: a connection seems established before the world was dialled, so clients cannot
 * fall back from an address family that the host does not have. */
#define NETNS_OWN_V4 "198.18.0.1"
#define NETNS_OWN_V6 "fd6f:7200::1"

/* Makes a namespace as above. The caller is single-threaded and has CAP_SYS_ADMIN and CAP_NET_ADMIN; it is in the new
 * namespace for some hundred microseconds and back in its own when this returns, on failure too (if it cannot go back,
 * the process aborts: everything that it did from then on would happen in the wrong network).
 * sysctls: of netns_open_sysctls(), borrowed; -1 = the host's.
 * *ret_fd is the caller's: a close-on-exec descriptor for setns(2); the namespace lives as long as that, a process or a
 * socket in it does. Returns 0, or a negative errno with *err, which names the step; *ret_fd is then untouched. */
MUST_CHECK int netns_create(int sysctls, int *ret_fd, struct err *err);

/* The folder sys/net of a /proc of the caller's own; a close-on-exec descriptor, or a negative errno. Where one /proc serves for
 * the sysctls of all namespaces, as the host's would, the kernel has the entries of those that live under the same names, and
 * looks at one after another: with thousands that was a third of the processor time of a sandbox. A hundred or so should go through
 * one of these. */
MUST_CHECK int netns_open_sysctls(void);

/* Whether nothing ever went through the namespace and nobody holds anything in it: its loopback, the only device, has not
 * seen one byte, it has no socket and no flow label. Then whatever a user of it could leave behind (tracked connections,
 * learned routes and metrics, counters) is not there either, and it is as good as new. What cannot be told is no. As above,
 * the caller is in it meanwhile. */
MUST_CHECK bool netns_is_unused(int fd);
