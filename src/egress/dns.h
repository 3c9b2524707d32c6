/* egress/dns.h: answers a sandbox's DNS questions: the platform's names itself, the rest by the host's name servers,
 * none where the network is blocked. Addresses of names that a rule allows become pins of the sandbox. Loop thread. */
#pragma once

#include "egress/sandbox.h"

#define EGRESS_PLATFORM_TTL_S 60

/* A question that waits for an answer; owned by its sandbox until it is answered or ended. */
struct egress_ask;
/* reply is valid during the call. Runs once, never inside egress_ask(). */
typedef void egress_ask_fn(const uint8_t *reply, size_t len, void *arg);

enum { EGRESS_ASK_ANSWERED = 1, EGRESS_ASK_DROPPED = 2 };

/* tcp: the asker takes answers of any size.
 * 0 = under way, *ret_ask is set (and may be ended); EGRESS_ASK_ANSWERED = the answer is in ret_reply
 * (EGRESS_DNS_SHORT_MAX bytes) and *ret_len; EGRESS_ASK_DROPPED = not a query, no answer is due. Never negative. */
MUST_CHECK int egress_ask(struct egress_sandbox *s, const void *msg, size_t len, bool tcp, egress_ask_fn *fn, void *arg,
			  struct egress_ask **ret_ask, uint8_t *ret_reply, size_t *ret_len);
void egress_ask_end(struct egress_ask *a); /* NULL is harmless; fn does not run any more */
void egress_ask_end_all(struct egress_sandbox *s);

/* A DNS message of init: answered by DNS_REPLY with the same client token, now or later. */
void egress_dns_datagram(struct egress_sandbox *s, const void *client, size_t client_len, const void *msg, size_t len);

/* A connection to port 53 (RFC 7766): messages behind their length, one question at a time, closed after some seconds
 * of silence. Takes ownership of fd; resets it on failure. */
struct egress_dnstcp;
MUST_CHECK int egress_dnstcp_new(struct egress_sandbox *s, int fd, struct err *err);
void egress_dnstcp_end_all(struct egress_sandbox *s);
