#include "egress/dns.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/str.h"
#include "egress/hosts.h"
#include "init/boot.h"

#define CLIENT_MAX_BYTES 128 /* of init's token */

struct egress_ask {
	struct list node; /* in sandbox.asks */
	struct egress_sandbox *sandbox;
	struct egress_lookup *lookup;
	struct egress_dns_query query;
	bool pin;         /* a rule allows the name */
	egress_ask_fn *fn;
	void *arg;
	bool owns_arg;
	uint8_t head[]; /* header and question, for an answer of our own */
};

/* -- names ------------------------------------------------------------------------------------------------------- */
/* 1: one of the platform's names; 2: another name below it, which does not exist; 0: neither. */
static int platform_match(const char *platform, const char *name)
{
	size_t n = strlen(platform), len = strlen(name);

	if (str_eq(name, platform))
		return 1;
	if (len <= n + 1 || name[len - n - 1] != '.' || !str_eq(name + len - n, platform))
		return 0;
	return str_starts(name, "api.") && len == n + 4 ? 1 : str_starts(name, "sessions.") && len == n + 9 ? 1 : 2;
}

static const struct egress_rule *next_rule(const struct egress_sandbox *s, bool build, const char *name,
					   const struct egress_rule *prev)
{
	const struct egress_config *c = &s->egress->config;

	return build ? egress_rules_next_name(&c->build, name, prev) : egress_rules_next_name(&c->allow, name, prev);
}

static bool name_is_allowed(const struct egress_sandbox *s, const char *name)
{
	return next_rule(s, false, name, NULL) || (s->net == PLAN_NET_BUILD && next_rule(s, true, name, NULL));
}

/* -- pins -------------------------------------------------------------------------------------------------------- */
struct pinning {
	struct egress_sandbox *sandbox;
	const char *name;
};

static void pin(const struct egress_addr *a, uint32_t ttl_s, void *arg)
{
	struct pinning *p = arg;
	struct egress_sandbox *s = p->sandbox;
	struct egress *e = s->egress;
	uint64_t now_ms = loop_now_ms(e->loop);
	struct egress_addr plain = egress_addr_unmap(a);

	/* What anyone may reach needs no pin, and would push out those that matter. */
	if (!egress_refused_range(&plain, e->local.items, e->local.n))
		return;
	for (int build = 0; build <= (s->net == PLAN_NET_BUILD); build++)
		for (const struct egress_rule *r = NULL; (r = next_rule(s, build, p->name, r));)
			egress_pins_add(&s->pins, &plain, r->port, ttl_s, now_ms);
}

/* -- answers ----------------------------------------------------------------------------------------------------- */
/* Of an allowed name that the host's own file gives: the file is what the host's clients go by. */
static size_t answer_from_hosts(struct egress_sandbox *s, const void *msg, const struct egress_dns_query *q,
				uint8_t *ret)
{
	struct egress *e = s->egress;
	struct egress_addr a;

	if (q->class != EGRESS_DNS_IN || (q->type != EGRESS_DNS_A && q->type != EGRESS_DNS_AAAA))
		return 0;
	if (egress_hosts_find_file(e->config.hosts, q->name, 4, &a, 1) == 0)
		return 0;
	if (q->type == EGRESS_DNS_AAAA)
		return egress_dns_answer_code(msg, q, EGRESS_DNS_NOERROR, ret);
	pin(&a, EGRESS_PLATFORM_TTL_S, &(struct pinning){ s, q->name });
	return egress_dns_answer_v4(msg, q, &a, EGRESS_PLATFORM_TTL_S, ret);
}

static size_t answer_platform(const void *msg, const struct egress_dns_query *q, uint8_t *ret)
{
	struct egress_addr a;

	if (q->class != EGRESS_DNS_IN || q->type != EGRESS_DNS_A || egress_addr_parse(STEER_PLATFORM_V4, &a) < 0)
		return egress_dns_answer_code(msg, q, EGRESS_DNS_NOERROR, ret);
	return egress_dns_answer_v4(msg, q, &a, EGRESS_PLATFORM_TTL_S, ret);
}

/* An answer that needs nobody else; 0 = there is none. */
static size_t answer_ourselves(struct egress_sandbox *s, const void *msg, const struct egress_dns_query *q,
			       bool allowed, uint8_t *ret)
{
	struct egress *e = s->egress;
	int platform = platform_match(e->config.platform_name, q->name);
	size_t len = 0;

	if (s->net == PLAN_NET_BLOCKED)
		return egress_dns_answer_code(msg, q, EGRESS_DNS_REFUSED, ret);
	if (platform == 1)
		return answer_platform(msg, q, ret);
	if (platform == 2)
		return egress_dns_answer_code(msg, q, EGRESS_DNS_NXDOMAIN, ret);
	egress_local_refresh(&e->local, loop_now_ms(e->loop));
	if (allowed)
		len = answer_from_hosts(s, msg, q, ret);
	/* A connection seems established before it is dialled, so a client could not fall back from IPv6. */
	if (len == 0 && !allowed && q->type == EGRESS_DNS_AAAA && !e->local.v6)
		len = egress_dns_answer_code(msg, q, EGRESS_DNS_NOERROR, ret);
	return len;
}

/* -- asking ------------------------------------------------------------------------------------------------------ */
static void detach(struct egress_ask *a)
{
	list_remove(&a->node);
	a->sandbox->n_asks--;
	egress_fds_give(a->sandbox->egress, 1);
}

static void ask_free(struct egress_ask *a)
{
	if (a->owns_arg)
		free(a->arg);
	free(a);
}

void egress_ask_end(struct egress_ask *a)
{
	if (!a)
		return;
	egress_lookup_cancel(a->lookup);
	detach(a);
	ask_free(a);
}

void egress_ask_end_all(struct egress_sandbox *s)
{
	list_foreach(&s->asks, struct egress_ask, node, a)
		egress_ask_end(a);
}

static void on_reply(const uint8_t *reply, size_t len, void *arg)
{
	struct egress_ask *a = arg;
	uint8_t own[EGRESS_DNS_SHORT_MAX];

	a->lookup = NULL; /* over with this call */
	if (!reply) {
		len = egress_dns_answer_code(a->head, &a->query, EGRESS_DNS_SERVFAIL, own);
		reply = own;
	} else if (a->pin) {
		egress_dns_records(reply, len, pin, &(struct pinning){ a->sandbox, a->query.name });
	}
	/* Out of the sandbox's list first: fn may end what it finds there. */
	detach(a);
	a->fn(reply, len, a->arg);
	ask_free(a);
}

static int forward(struct egress_sandbox *s, const void *msg, size_t len, const struct egress_dns_query *q, bool tcp,
		   bool allowed, struct egress_ask **ret)
{
	struct egress *e = s->egress;

	if (s->n_asks >= e->config.max_dns || !egress_sandbox_fds_take(s, 1))
		return -EUSERS;
	struct egress_ask *a = xcalloc(1, sizeof(*a) + q->end);
	a->sandbox = s;
	a->query = *q;
	a->pin = allowed;
	memcpy(a->head, msg, q->end);
	s->n_asks++;
	list_push_back(&s->asks, &a->node);
	int r = egress_lookup_start(&a->lookup, &e->resolver, msg, len, q, tcp, on_reply, a);
	if (r < 0) {
		egress_ask_end(a);
		return r;
	}
	*ret = a;
	return 0;
}

int egress_ask(struct egress_sandbox *s, const void *msg, size_t len, bool tcp, egress_ask_fn *fn, void *arg,
	       struct egress_ask **ret_ask, uint8_t *ret_reply, size_t *ret_len)
{
	struct egress_dns_query q;
	int r = egress_dns_parse(&q, msg, len);

	if (r < 0)
		return EGRESS_ASK_DROPPED;
	if (r > 0) {
		*ret_len = egress_dns_answer_code(msg, &q, (enum egress_dns_rcode)r, ret_reply);
		return EGRESS_ASK_ANSWERED;
	}
	bool allowed = name_is_allowed(s, q.name);
	*ret_len = answer_ourselves(s, msg, &q, allowed, ret_reply);
	if (*ret_len > 0)
		return EGRESS_ASK_ANSWERED;
	if (forward(s, msg, len, &q, tcp, allowed, ret_ask) < 0) {
		*ret_len = egress_dns_answer_code(msg, &q, EGRESS_DNS_SERVFAIL, ret_reply);
		return EGRESS_ASK_ANSWERED;
	}
	(*ret_ask)->fn = fn;
	(*ret_ask)->arg = arg;
	return 0;
}

/* -- datagrams ---------------------------------------------------------------------------------------------------- */
struct datagram {
	struct egress_sandbox *sandbox;
	size_t client_len;
	uint8_t client[CLIENT_MAX_BYTES];
};

static void send_reply(const struct datagram *d, const uint8_t *reply, size_t len)
{
	struct egress_sandbox *s = d->sandbox;
	struct wire_out o;

	wire_begin(&o, s->egress->scratch, EGRESS_BUFFER_BYTES, WIRE_DNS_REPLY, 0);
	wire_put(&o, WIRE_T_CLIENT, d->client, d->client_len);
	wire_put(&o, WIRE_T_OUTPUT, reply, len);
	int r = wire_send(s->fd, &o, NULL, 0);
	/* As with any datagram: the asker asks again. */
	if (r < 0)
		log_event(LOG_DEBUG, "egress", LOG_KV("sandbox", s->id), "a DNS answer was lost: %s", strerror(-r));
}

static void on_datagram_reply(const uint8_t *reply, size_t len, void *arg)
{
	send_reply(arg, reply, len);
}

void egress_dns_datagram(struct egress_sandbox *s, const void *client, size_t client_len, const void *msg, size_t len)
{
	struct datagram d = { .sandbox = s, .client_len = client_len };
	uint8_t reply[EGRESS_DNS_SHORT_MAX];
	struct egress_ask *a = NULL;
	size_t reply_len = 0;

	if (client_len > sizeof(d.client))
		return;
	memcpy(d.client, client, client_len);
	int r = egress_ask(s, msg, len, false, on_datagram_reply, NULL, &a, reply, &reply_len);
	if (r == EGRESS_ASK_ANSWERED)
		send_reply(&d, reply, reply_len);
	if (r == 0) {
		a->arg = xmemdup(&d, sizeof(d));
		a->owns_arg = true;
	}
}
