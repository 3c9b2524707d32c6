/* spawner/netlink.c: see netlink.h. */
#include "spawner/netlink.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "base/fd.h"

void netlink_init(struct netlink_batch *b)
{
	memset(b, 0, sizeof(*b));
}

/* Room for len bytes, padded to 4; NULL on overflow. */
static void *reserve(struct netlink_batch *b, size_t len)
{
	size_t padded = NLMSG_ALIGN(len);
	void *p = b->buf + b->len;

	if (b->overflow || padded > sizeof(b->buf) - b->len) {
		b->overflow = true;
		return NULL;
	}
	b->len += padded;
	if (b->msg)
		b->msg->nlmsg_len += (uint32_t)padded;
	return p;
}

void netlink_msg(struct netlink_batch *b, uint16_t type, uint16_t flags, const void *head, size_t head_len,
		 const char *what)
{
	b->msg = NULL;
	struct nlmsghdr *h = reserve(b, NLMSG_HDRLEN);
	if (!h || b->n == NETLINK_BATCH_MESSAGES) {
		b->overflow = true;
		return;
	}

	*h = (struct nlmsghdr){
		.nlmsg_len = NLMSG_HDRLEN,
		.nlmsg_type = type,
		.nlmsg_flags = NLM_F_REQUEST | flags,
		.nlmsg_seq = b->n,
	};
	b->what[b->n++] = what;
	b->n_acks += (flags & NLM_F_ACK) != 0;
	b->msg = h;

	void *p = reserve(b, head_len);
	if (p)
		memcpy(p, head, head_len);
}

void netlink_put(struct netlink_batch *b, uint16_t type, const void *p, size_t len)
{
	struct nlattr *a = reserve(b, NLA_HDRLEN + len);

	if (!a)
		return;
	a->nla_type = type;
	a->nla_len = (uint16_t)(NLA_HDRLEN + len);
	if (len)
		memcpy((char *)a + NLA_HDRLEN, p, len);
}

void netlink_put_str(struct netlink_batch *b, uint16_t type, const char *s)
{
	netlink_put(b, type, s, strlen(s) + 1);
}

void netlink_put_u32(struct netlink_batch *b, uint16_t type, uint32_t v)
{
	netlink_put(b, type, &v, sizeof(v));
}

void netlink_put_be32(struct netlink_batch *b, uint16_t type, uint32_t v)
{
	netlink_put_u32(b, type, htonl(v));
}

size_t netlink_nest(struct netlink_batch *b, uint16_t type)
{
	size_t position = b->len;

	netlink_put(b, type | NLA_F_NESTED, NULL, 0);
	return position;
}

void netlink_nest_end(struct netlink_batch *b, size_t position)
{
	if (!b->overflow)
		((struct nlattr *)(void *)(b->buf + position))->nla_len = (uint16_t)(b->len - position);
}

/* Reads one datagram of answers; adds to *ret_acks the messages that succeeded. */
static int read_answers(struct netlink_batch *b, int sock, unsigned *acks, struct err *err)
{
	uint8_t buf[4096] __attribute__((aligned(8)));
	ssize_t n;

	do
		n = recv(sock, buf, sizeof(buf), 0);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return err_sys(err, "netlink: read the answer");

	int left = (int)n;
	for (struct nlmsghdr *h = (void *)buf; NLMSG_OK(h, left); h = NLMSG_NEXT(h, left)) {
		if (h->nlmsg_type != NLMSG_ERROR)
			continue;
		const struct nlmsgerr *e = NLMSG_DATA(h);
		const char *what = h->nlmsg_seq < b->n ? b->what[h->nlmsg_seq] : "netlink";
		if (e->error)
			return err_sys_code(err, e->error, "%s", what);
		(*acks)++;
	}
	return 0;
}

int netlink_commit(struct netlink_batch *b, int protocol, struct err *err)
{
	struct sockaddr_nl kernel = { .nl_family = AF_NETLINK };
	unsigned acks = 0;
	int on = 1;

	if (b->overflow)
		return err_set(err, -EMSGSIZE, "netlink: the batch is larger than %d bytes", NETLINK_BATCH_BYTES);
	auto_fd sock = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol);
	if (sock < 0)
		return err_sys(err, "netlink: open a socket of protocol %d", protocol);
	/* Without it a refusal carries the whole request back, and several would not fit one read. */
	(void)setsockopt(sock, SOL_NETLINK, NETLINK_CAP_ACK, &on, sizeof(on));

	if (sendto(sock, b->buf, b->len, 0, (void *)&kernel, sizeof(kernel)) < 0)
		return err_sys(err, "netlink: send");
	while (acks < b->n_acks) {
		int r = read_answers(b, sock, &acks, err);
		if (r < 0)
			return r;
	}
	return 0;
}
