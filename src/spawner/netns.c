/* spawner/netns.c: see netns.h. */
#include "spawner/netns.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_addr.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "init/boot.h"
#include "spawner/netlink.h"
#include "spawner/sys.h"

#define LOOPBACK_INDEX 1 /* the first device of every net namespace */
#define TABLE "openreward"

/* From linux/netfilter.h, which cannot be included beside the C library's netinet/in.h. */
enum { FAMILY_INET = 1, HOOK_LOCAL_OUT = 3, VERDICT_ACCEPT = 1, NFPROTO_IPV4 = 2 };

#define DESTINATION_V4 16 /* bytes into the header */

/* -- device, addresses, routes ----------------------------------------------------------------------------------- */
static void put_link_up(struct netlink_batch *b)
{
	struct ifinfomsg m = { .ifi_index = LOOPBACK_INDEX, .ifi_flags = IFF_UP, .ifi_change = IFF_UP };

	netlink_msg(b, RTM_NEWLINK, NLM_F_ACK, &m, sizeof(m), "set the loopback device up");
}

static void put_address(struct netlink_batch *b, int family, const char *text)
{
	uint8_t addr[16];
	size_t len = family == AF_INET ? 4 : 16;
	struct ifaddrmsg m = {
		.ifa_family = (uint8_t)family,
		.ifa_prefixlen = (uint8_t)(len * 8),
		.ifa_flags = IFA_F_PERMANENT | (family == AF_INET6 ? IFA_F_NODAD : 0),
		.ifa_scope = RT_SCOPE_UNIVERSE,
		.ifa_index = LOOPBACK_INDEX,
	};

	(void)inet_pton(family, text, addr);
	netlink_msg(b, RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, &m, sizeof(m),
		    "add an address to the loopback");
	netlink_put(b, IFA_LOCAL, addr, len);
	netlink_put(b, IFA_ADDRESS, addr, len);
}

static void put_default_route(struct netlink_batch *b, int family, const char *source)
{
	uint8_t addr[16];
	struct rtmsg m = {
		.rtm_family = (uint8_t)family,
		.rtm_table = RT_TABLE_MAIN,
		.rtm_protocol = RTPROT_STATIC,
		.rtm_scope = family == AF_INET ? RT_SCOPE_LINK : RT_SCOPE_UNIVERSE,
		.rtm_type = RTN_UNICAST,
	};

	(void)inet_pton(family, source, addr);
	netlink_msg(b, RTM_NEWROUTE, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, &m, sizeof(m),
		    "add a default route by the loopback");
	netlink_put_u32(b, RTA_OIF, LOOPBACK_INDEX);
	netlink_put(b, RTA_PREFSRC, addr, family == AF_INET ? 4 : 16);
}

/* The kernel adds an IPv6 address's own route later, from a work queue. Until then the address would not count as
 * local, and answers to the first packets would be refused. */
static void put_local_route_v6(struct netlink_batch *b, const char *text)
{
	uint8_t addr[16];
	struct rtmsg m = {
		.rtm_family = AF_INET6, .rtm_dst_len = 128, .rtm_table = RT_TABLE_LOCAL,
		.rtm_protocol = RTPROT_KERNEL, .rtm_scope = RT_SCOPE_UNIVERSE, .rtm_type = RTN_LOCAL,
	};

	(void)inet_pton(AF_INET6, text, addr);
	netlink_msg(b, RTM_NEWROUTE, NLM_F_ACK | NLM_F_CREATE, &m, sizeof(m), "add the IPv6 address's own route");
	netlink_put(b, RTA_DST, addr, sizeof(addr));
	netlink_put_u32(b, RTA_OIF, LOOPBACK_INDEX);
}

static int set_addresses(bool v6, struct err *err)
{
	struct netlink_batch b;

	netlink_init(&b);
	put_link_up(&b);
	put_address(&b, AF_INET, NETNS_OWN_V4);
	put_default_route(&b, AF_INET, NETNS_OWN_V4);
	if (v6) {
		put_address(&b, AF_INET6, NETNS_OWN_V6);
		put_local_route_v6(&b, NETNS_OWN_V6);
		put_default_route(&b, AF_INET6, NETNS_OWN_V6);
	}
	return netlink_commit(&b, NETLINK_ROUTE, err);
}

/* -- rules ------------------------------------------------------------------------------------------------------- */
/* Every message of nf_tables starts with this; a family of 0 and the subsystem as resource id frame the batch. */
static void put_nf(struct netlink_batch *b, uint16_t type, uint16_t flags, const char *what)
{
	bool frame = type == NFNL_MSG_BATCH_BEGIN || type == NFNL_MSG_BATCH_END;
	struct nfgenmsg m = {
		.nfgen_family = frame ? 0 : FAMILY_INET,
		.version = NFNETLINK_V0,
		.res_id = frame ? htons(NFNL_SUBSYS_NFTABLES) : 0,
	};

	netlink_msg(b, frame ? type : (uint16_t)(NFNL_SUBSYS_NFTABLES << 8 | type), flags, &m, sizeof(m), what);
}

static void put_table(struct netlink_batch *b)
{
	put_nf(b, NFT_MSG_NEWTABLE, NLM_F_CREATE,
	       "nf_tables: add the table (does the kernel have CONFIG_NF_TABLES_INET?)");
	netlink_put_str(b, NFTA_TABLE_NAME, TABLE);
}

static void put_chain(struct netlink_batch *b, const char *name, const char *type, int priority, const char *what)
{
	put_nf(b, NFT_MSG_NEWCHAIN, NLM_F_CREATE, what);
	netlink_put_str(b, NFTA_CHAIN_TABLE, TABLE);
	netlink_put_str(b, NFTA_CHAIN_NAME, name);
	netlink_put_str(b, NFTA_CHAIN_TYPE, type);
	size_t hook = netlink_nest(b, NFTA_CHAIN_HOOK);
	netlink_put_be32(b, NFTA_HOOK_HOOKNUM, HOOK_LOCAL_OUT);
	netlink_put_be32(b, NFTA_HOOK_PRIORITY, (uint32_t)priority);
	netlink_nest_end(b, hook);
}

struct rule {
	size_t expressions; /* the open list */
};

static struct rule rule_begin(struct netlink_batch *b, const char *chain, const char *what)
{
	put_nf(b, NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND, what);
	netlink_put_str(b, NFTA_RULE_TABLE, TABLE);
	netlink_put_str(b, NFTA_RULE_CHAIN, chain);
	return (struct rule){ netlink_nest(b, NFTA_RULE_EXPRESSIONS) };
}

static void rule_end(struct netlink_batch *b, struct rule r)
{
	netlink_nest_end(b, r.expressions);
}

struct expr {
	size_t element, data;
};

static struct expr expr_begin(struct netlink_batch *b, const char *name)
{
	struct expr e = { .element = netlink_nest(b, NFTA_LIST_ELEM) };

	netlink_put_str(b, NFTA_EXPR_NAME, name);
	e.data = netlink_nest(b, NFTA_EXPR_DATA);
	return e;
}

static void expr_end(struct netlink_batch *b, struct expr e)
{
	netlink_nest_end(b, e.data);
	netlink_nest_end(b, e.element);
}

static void put_value(struct netlink_batch *b, uint16_t attribute, const void *p, size_t len)
{
	size_t nest = netlink_nest(b, attribute);

	netlink_put(b, NFTA_DATA_VALUE, p, len);
	netlink_nest_end(b, nest);
}

static void expr_compare(struct netlink_batch *b, uint32_t op, const void *p, size_t len)
{
	struct expr e = expr_begin(b, "cmp");

	netlink_put_be32(b, NFTA_CMP_SREG, NFT_REG_1);
	netlink_put_be32(b, NFTA_CMP_OP, op);
	put_value(b, NFTA_CMP_DATA, p, len);
	expr_end(b, e);
}

/* Goes on only where the destination is one of the namespace's own addresses. */
static void expr_to_local(struct netlink_batch *b)
{
	uint32_t local = RTN_LOCAL;
	struct expr e = expr_begin(b, "fib");

	netlink_put_be32(b, NFTA_FIB_DREG, NFT_REG_1);
	netlink_put_be32(b, NFTA_FIB_RESULT, NFT_FIB_RESULT_ADDRTYPE);
	netlink_put_be32(b, NFTA_FIB_FLAGS, NFTA_FIB_F_DADDR);
	expr_end(b, e);
	expr_compare(b, NFT_CMP_EQ, &local, sizeof(local));
}

/* Goes on only for 127.0.0.0/8, which is local without a look at the routes: nearly all that passes here is. */
static void expr_to_loopback(struct netlink_batch *b)
{
	const uint8_t ipv4 = NFPROTO_IPV4, net = 127;
	struct expr e = expr_begin(b, "meta");

	netlink_put_be32(b, NFTA_META_DREG, NFT_REG_1);
	netlink_put_be32(b, NFTA_META_KEY, NFT_META_NFPROTO);
	expr_end(b, e);
	expr_compare(b, NFT_CMP_EQ, &ipv4, sizeof(ipv4));
	e = expr_begin(b, "payload");
	netlink_put_be32(b, NFTA_PAYLOAD_DREG, NFT_REG_1);
	netlink_put_be32(b, NFTA_PAYLOAD_BASE, NFT_PAYLOAD_NETWORK_HEADER);
	netlink_put_be32(b, NFTA_PAYLOAD_OFFSET, DESTINATION_V4);
	netlink_put_be32(b, NFTA_PAYLOAD_LEN, sizeof(net));
	expr_end(b, e);
	expr_compare(b, NFT_CMP_EQ, &net, sizeof(net));
}

static void expr_protocol(struct netlink_batch *b, uint8_t protocol)
{
	struct expr e = expr_begin(b, "meta");

	netlink_put_be32(b, NFTA_META_DREG, NFT_REG_1);
	netlink_put_be32(b, NFTA_META_KEY, NFT_META_L4PROTO);
	expr_end(b, e);
	expr_compare(b, NFT_CMP_EQ, &protocol, sizeof(protocol));
}

/* offset 0: the source port, 2: the destination port, of TCP and UDP alike. */
static void expr_port(struct netlink_batch *b, uint32_t offset, uint32_t op, uint16_t port)
{
	uint16_t wire = htons(port);
	struct expr e = expr_begin(b, "payload");

	netlink_put_be32(b, NFTA_PAYLOAD_DREG, NFT_REG_1);
	netlink_put_be32(b, NFTA_PAYLOAD_BASE, NFT_PAYLOAD_TRANSPORT_HEADER);
	netlink_put_be32(b, NFTA_PAYLOAD_OFFSET, offset);
	netlink_put_be32(b, NFTA_PAYLOAD_LEN, sizeof(wire));
	expr_end(b, e);
	expr_compare(b, op, &wire, sizeof(wire));
}

static void expr_accept(struct netlink_batch *b)
{
	struct expr e = expr_begin(b, "immediate");

	netlink_put_be32(b, NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT);
	size_t data = netlink_nest(b, NFTA_IMMEDIATE_DATA);
	size_t verdict = netlink_nest(b, NFTA_DATA_VERDICT);
	netlink_put_be32(b, NFTA_VERDICT_CODE, VERDICT_ACCEPT);
	netlink_nest_end(b, verdict);
	netlink_nest_end(b, data);
	expr_end(b, e);
}

/* To the loopback address of the packet's family, as redirection in the output hook does. */
static void expr_redirect(struct netlink_batch *b, uint16_t port)
{
	uint16_t wire = htons(port);
	struct expr e = expr_begin(b, "immediate");

	netlink_put_be32(b, NFTA_IMMEDIATE_DREG, NFT_REG_1);
	put_value(b, NFTA_IMMEDIATE_DATA, &wire, sizeof(wire));
	expr_end(b, e);
	e = expr_begin(b, "redir");
	netlink_put_be32(b, NFTA_REDIR_REG_PROTO_MIN, NFT_REG_1);
	netlink_put_be32(b, NFTA_REDIR_REG_PROTO_MAX, NFT_REG_1);
	expr_end(b, e);
}

/* Answers of the steering listeners go to a local address too, but belong to tracked, translated connections. */
static void expr_untracked(struct netlink_batch *b)
{
	expr_port(b, 0, NFT_CMP_NEQ, STEER_TCP_PORT);
	expr_port(b, 0, NFT_CMP_NEQ, STEER_DNS_PORT);
	expr_end(b, expr_begin(b, "notrack"));
}

static void put_untracked(struct netlink_batch *b)
{
	put_chain(b, "raw", "filter", -300, "nf_tables: add the chain for untracked packets");
	struct rule r = rule_begin(b, "raw", "nf_tables: do not track packets of the loopback (CONFIG_NFT_CT?)");
	expr_to_loopback(b);
	expr_untracked(b);
	expr_accept(b);
	rule_end(b, r);

	r = rule_begin(b, "raw", "nf_tables: do not track local packets (CONFIG_NFT_FIB_INET?)");
	expr_to_local(b);
	expr_untracked(b);
	rule_end(b, r);
}

static void put_steering(struct netlink_batch *b)
{
	put_chain(b, "steer", "nat", -100, "nf_tables: add the chain that steers (CONFIG_NFT_NAT?)");
	struct rule r = rule_begin(b, "steer", "nf_tables: leave local packets alone (CONFIG_NFT_FIB_INET?)");
	expr_to_local(b);
	expr_accept(b);
	rule_end(b, r);

	r = rule_begin(b, "steer", "nf_tables: steer TCP (CONFIG_NFT_REDIR?)");
	expr_protocol(b, IPPROTO_TCP);
	expr_redirect(b, STEER_TCP_PORT);
	rule_end(b, r);

	r = rule_begin(b, "steer", "nf_tables: steer DNS (CONFIG_NFT_REDIR?)");
	expr_protocol(b, IPPROTO_UDP);
	expr_port(b, 2, NFT_CMP_EQ, 53);
	expr_redirect(b, STEER_DNS_PORT);
	rule_end(b, r);
}

/* After the steering, so what was steered is local by now. Refused, not dropped: the sender gets EPERM at once. */
static void put_refusal(struct netlink_batch *b)
{
	put_chain(b, "rest", "filter", 0, "nf_tables: add the chain that refuses the rest");
	struct rule r = rule_begin(b, "rest", "nf_tables: accept packets of the loopback");
	expr_to_loopback(b);
	expr_accept(b);
	rule_end(b, r);

	r = rule_begin(b, "rest", "nf_tables: accept local packets");
	expr_to_local(b);
	expr_accept(b);
	rule_end(b, r);

	r = rule_begin(b, "rest", "nf_tables: refuse the rest (CONFIG_NFT_REJECT_INET?)");
	struct expr e = expr_begin(b, "reject");
	netlink_put_be32(b, NFTA_REJECT_TYPE, NFT_REJECT_ICMPX_UNREACH);
	uint8_t code = NFT_REJECT_ICMPX_ADMIN_PROHIBITED;
	netlink_put(b, NFTA_REJECT_ICMP_CODE, &code, sizeof(code));
	expr_end(b, e);
	rule_end(b, r);
}

static int set_rules(struct err *err)
{
	struct netlink_batch b;

	netlink_init(&b);
	put_nf(&b, NFNL_MSG_BATCH_BEGIN, 0, "nf_tables: begin (does the kernel have CONFIG_NF_TABLES?)");
	put_table(&b);
	put_untracked(&b);
	put_steering(&b);
	put_refusal(&b);
	/* A batch is all or nothing, and refusals come before what the last message answers. */
	b.msg->nlmsg_flags |= NLM_F_ACK;
	b.n_acks = 1;
	put_nf(&b, NFNL_MSG_BATCH_END, 0, "nf_tables: commit");
	return netlink_commit(&b, NETLINK_NETFILTER, err);
}

/* -- the namespace ----------------------------------------------------------------------------------------------- */
/* Of /proc/sys/net, which shows the net namespace of whoever looks. */
static int set_sysctl(int net, const char *path, const char *value, struct err *err)
{
	int r = fd_put_text(net, path, value);

	return r < 0 ? err_sys_code(err, r, "write '%s' to /proc/sys/net/%s", value, path) : 0;
}

static int set_sysctls(int net, struct err *err)
{
	int r = set_sysctl(net, "ipv4/ip_unprivileged_port_start", "0", err);

	if (r < 0)
		return r;
	/* Comforts: an old or trimmed kernel may lack them. The second keeps a client that makes many short
	 * connections from filling the table of tracked ones with those that are over. */
	(void)set_sysctl(net, "ipv4/ping_group_range", "0 2147483647", NULL);
	(void)set_sysctl(net, "netfilter/nf_conntrack_tcp_timeout_time_wait", "10", NULL);
	return 0;
}

static bool have_v6(int net)
{
	auto_fd fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return false;
	/* New namespaces may inherit a host-wide "off". */
	(void)set_sysctl(net, "ipv6/conf/lo/disable_ipv6", "0", NULL);
	return true;
}

int netns_open_sysctls(void)
{
	auto_fd fs = sys_fsopen("proc");
	auto_fd proc = -1;
	int fd;

	if (fs < 0 || sys_fsconfig(fs, SYS_FSCONFIG_CREATE, NULL, NULL) < 0)
		return -errno;
	proc = sys_fsmount(fs, SYS_ATTR_NOSUID | SYS_ATTR_NODEV | SYS_ATTR_NOEXEC);
	fd = proc < 0 ? -1 : openat(proc, "sys/net", O_PATH | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

/* In the new namespace. The rules come before the addresses: not for a moment is there a route without them. */
static int set_up(int sysctls, int *ret_fd, struct err *err)
{
	auto_fd host = sysctls < 0 ? open("/proc/sys/net", O_PATH | O_DIRECTORY | O_CLOEXEC) : -1;
	auto_fd fd = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	int net = sysctls < 0 ? host : sysctls;

	if (fd < 0 || net < 0)
		return err_sys(err, "open %s", fd < 0 ? "the new net namespace" : "/proc/sys/net");
	int r = set_rules(err);
	if (r == 0)
		r = set_addresses(have_v6(net), err);
	if (r == 0)
		r = set_sysctls(net, err);
	if (r < 0)
		return r;
	*ret_fd = fd_steal(&fd);
	return 0;
}

static void go_home(int home)
{
	if (setns(home, CLONE_NEWNET) < 0) {
		perror("return from another net namespace");
		abort();
	}
}

int netns_create(int sysctls, int *ret_fd, struct err *err)
{
	auto_fd home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);

	if (home < 0)
		return err_sys(err, "open the current net namespace");
	if (unshare(CLONE_NEWNET) < 0)
		return err_sys(err, "make a net namespace");
	int r = set_up(sysctls, ret_fd, err);
	go_home(home);
	return r < 0 ? err_wrap(err, r, "set up a net namespace") : 0;
}

/* -- used or not --------------------------------------------------------------------------------------------------- */
/* /proc/net shows the net namespace of whoever looks. */
static bool read_text(int net, const char *file, char *ret, size_t cap)
{
	auto_fd fd = openat(net, file, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, ret, cap - 1);

	ret[n > 0 ? n : 0] = 0;
	return n > 0;
}

static bool loopback_is_silent(int net)
{
	const char *line, *other;
	unsigned long long in, out;
	char text[2048];

	if (!read_text(net, "dev", text, sizeof(text)))
		return false;
	line = strstr(text, "lo:");
	other = line ? strchr(line, '\n') : NULL;
	return other && !strchr(other, ':') &&
	       sscanf(line, "lo: %llu %*u %*u %*u %*u %*u %*u %*u %llu", &in, &out) == 2 && in == 0 && out == 0;
}

static bool has_no_socket(int net)
{
	char text[1024];

	return read_text(net, "sockstat", text, sizeof(text)) && strstr(text, "sockets: used 0\n");
}

/* They outlive their sockets. The first line is a heading; without IPv6 there is no file. */
static bool has_no_flow_label(int net)
{
	const char *line;
	char text[512];

	if (!read_text(net, "ip6_flowlabel", text, sizeof(text)))
		return errno == ENOENT;
	line = strchr(text, '\n');
	return line && !line[1];
}

bool netns_is_unused(int fd)
{
	auto_fd home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	auto_fd net = -1;
	bool unused;

	if (home < 0 || setns(fd, CLONE_NEWNET) < 0)
		return false;
	net = open("/proc/thread-self/net", O_PATH | O_DIRECTORY | O_CLOEXEC);
	unused = net >= 0 && loopback_is_silent(net) && has_no_socket(net) && has_no_flow_label(net);
	go_home(home);
	return unused;
}
