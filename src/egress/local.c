#include "egress/local.h"

#include <errno.h>
#include <ifaddrs.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"

#define MAX_AGE_MS 5000

/* A UDP connect() sends nothing; it fails where there is no route. */
static bool probe_v6(void)
{
	struct sockaddr_storage sa;
	struct egress_addr a;
	auto_fd fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || egress_addr_parse("2001:4860:4860::8888", &a) < 0)
		return false;
	socklen_t len = egress_addr_to_sockaddr(&a, 53, &sa);
	return connect(fd, (struct sockaddr *)&sa, len) == 0;
}

static int read_addresses(struct egress_local *l, struct err *err)
{
	struct ifaddrs *all, *it;
	struct egress_addr *items = NULL;
	size_t n = 0;

	if (getifaddrs(&all) < 0)
		return err_sys(err, "list the addresses of this machine");
	for (it = all; it; it = it->ifa_next) {
		struct egress_addr a;
		if (!it->ifa_addr || egress_addr_from_sockaddr(it->ifa_addr, &a) < 0)
			continue;
		items = xrealloc(items, (n + 1) * sizeof(*items));
		items[n++] = a;
	}
	freeifaddrs(all);
	free(l->items);
	l->items = items;
	l->n = n;
	return 0;
}

static void on_change(struct loop_io *io, uint32_t events, void *arg)
{
	struct egress_local *l = arg;
	char buf[8192];

	(void)events;
	l->stale = true;
	/* What changed does not matter; ENOBUFS (changes were lost) is a change as well. */
	for (int i = 0; i < 64; i++)
		if (recv(io->fd, buf, sizeof(buf), MSG_DONTWAIT) < 0 && errno != ENOBUFS)
			break;
}

static int watch(struct egress_local *l, struct loop *loop, struct err *err)
{
	struct sockaddr_nl sa = {
		.nl_family = AF_NETLINK,
		.nl_groups = RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR,
	};
	auto_fd fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE);

	if (fd < 0 || bind(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0)
		return err_sys(err, "watch the addresses of this machine");
	int r = loop_io_open(&l->io, loop, fd, EPOLLIN, on_change, l, err);
	if (r < 0)
		return r;
	l->fd = fd_steal(&fd);
	return 0;
}

int egress_local_init(struct egress_local *l, struct loop *loop, struct err *err)
{
	*l = (struct egress_local){ .fd = -1, .stale = true };
	int r = watch(l, loop, err);
	if (r < 0)
		return r;
	r = read_addresses(l, err);
	if (r < 0)
		egress_local_done(l);
	return r;
}

void egress_local_done(struct egress_local *l)
{
	loop_io_close(&l->io);
	l->fd = fd_close(l->fd);
	free(l->items);
	l->items = NULL;
	l->n = 0;
}

void egress_local_refresh(struct egress_local *l, uint64_t now_ms)
{
	if (!l->stale && now_ms - l->read_ms < MAX_AGE_MS)
		return;
	/* A change may be queued on the socket and not yet dispatched: the age limit alone bounds that, and the order
	 * here keeps one that arrives while reading. */
	l->stale = false;
	l->read_ms = now_ms;
	if (read_addresses(l, NULL) < 0)
		l->stale = true;
	l->v6 = probe_v6();
}
