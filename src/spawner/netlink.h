/* spawner/netlink.h: just enough of netlink to configure a net namespace: a batch of messages in one buffer, sent with
 * one system call, and the acknowledgements read back. Owned by the caller, on its stack; no allocation. */
#pragma once

#include <linux/netlink.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/macros.h"

#define NETLINK_BATCH_BYTES 8192
#define NETLINK_BATCH_MESSAGES 32

struct netlink_batch {
	/* Messages one after the other, each 4-aligned. */
	uint8_t buf[NETLINK_BATCH_BYTES] __attribute__((aligned(8)));
	size_t len;                               /* bytes used */
	struct nlmsghdr *msg;                     /* the message being written; NULL before the first */
	unsigned n;                               /* messages; the sequence number of the k-th (from 0) is k */
	unsigned n_acks;                          /* of them, those that ask for an acknowledgement */
	bool overflow;                            /* something did not fit: netlink_commit() says so */
	const char *what[NETLINK_BATCH_MESSAGES]; /* what each message does, for errors; static strings */
};

void netlink_init(struct netlink_batch *b);

/* Starts a message; head (of head_len bytes) is what follows the netlink header: ifinfomsg, nfgenmsg, ...
 * flags: NLM_F_* beside NLM_F_REQUEST; with NLM_F_ACK the kernel's answer is waited for, without it only an error that
 * comes before the last acknowledgement is seen. what: "set the loopback up". */
void netlink_msg(struct netlink_batch *b, uint16_t type, uint16_t flags, const void *head, size_t head_len,
		 const char *what);

/* Attributes of the message being written. Multi-byte numbers of nf_tables are big-endian: the be32 form. */
void netlink_put(struct netlink_batch *b, uint16_t type, const void *p, size_t len);
void netlink_put_str(struct netlink_batch *b, uint16_t type, const char *s); /* with its NUL */
void netlink_put_u32(struct netlink_batch *b, uint16_t type, uint32_t v);
void netlink_put_be32(struct netlink_batch *b, uint16_t type, uint32_t v);

/* A nested attribute: everything put between the two calls lies in it. The position is the start's to the end's. */
MUST_CHECK size_t netlink_nest(struct netlink_batch *b, uint16_t type);
void netlink_nest_end(struct netlink_batch *b, size_t position);

/* Sends the batch over a new socket of protocol (NETLINK_ROUTE, NETLINK_NETFILTER) in the caller's net namespace and
 * waits for its acknowledgements. The first refusal is returned, as "WHAT: reason"; -EMSGSIZE on overflow. */
MUST_CHECK int netlink_commit(struct netlink_batch *b, int protocol, struct err *err);
