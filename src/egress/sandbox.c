#include "egress/sandbox.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "egress/dns.h"
#include "egress/relay.h"

#define MESSAGES_A_TURN 32  /* then the other sandboxes have their turn */
#define DENIED_A_SECOND 10

static void egress_sandbox_denied(struct egress_sandbox *s, const char *destination, const char *reason)
{
	uint64_t now_ms = loop_now_ms(s->egress->loop);
	char text[128];

	if (now_ms - s->denied_ms >= 1000) {
		s->denied_ms = now_ms;
		s->denied_left = DENIED_A_SECOND;
	}
	if (s->denied_left == 0)
		return;
	s->denied_left--;
	snprintf(text, sizeof(text), "%s %s", destination, reason);
	log_event(LOG_DEBUG, "egress", LOG_KV("sandbox", s->id), "refused %s", text);
	egress_send_denied(s->egress, s->id, text);
}

/* -- connections ------------------------------------------------------------------------------------------------- */
static enum egress_verdict decide(struct egress_sandbox *s, const struct egress_addr *a, uint16_t port,
				  const char **reason)
{
	struct egress *e = s->egress;
	uint64_t now_ms = loop_now_ms(e->loop);

	egress_local_refresh(&e->local, now_ms);
	struct egress_question q = {
		.net = s->net, .addr = *a, .port = port, .allow = &e->config.allow, .build = &e->config.build,
		.pins = &s->pins, .host = e->local.items, .n_host = e->local.n, .now_ms = now_ms,
	};
	return egress_decide(&q, reason);
}

static void refuse(struct egress_sandbox *s, const struct egress_addr *a, uint16_t port, int fd, const char *reason)
{
	char text[EGRESS_ADDR_TEXT], destination[EGRESS_ADDR_TEXT + 10];

	fd_reset(fd);
	snprintf(destination, sizeof(destination), a->family == 6 ? "[%s]:%u" : "%s:%u", egress_addr_text(a, text),
		 port);
	egress_sandbox_denied(s, destination, reason);
}

static void to_platform(struct egress_sandbox *s, uint16_t port, int fd)
{
	if (egress_send_platform(s->egress, s->id, s->number, port, fd) < 0)
		fd_reset(fd);
	else
		fd_close_foreign(fd);
}

/* Takes ownership of fd. */
static void on_conn(struct egress_sandbox *s, const struct wire_in *in, int fd)
{
	struct egress_addr a = { 0 };
	struct err err = ERR_INIT;
	const char *reason = "";
	size_t len = 0;
	const void *p = wire_get(in, WIRE_T_ADDR, 0, &len);
	uint64_t port = wire_get_u64(in, WIRE_T_PORT, 0);
	int r = 0;

	if (fd < 0)
		return;
	if (egress_addr_from_bytes(wire_get_u64(in, WIRE_T_FAMILY, 0), p, len, &a) < 0 || port > 65535) {
		fd_reset(fd);
		return;
	}
	switch (decide(s, &a, (uint16_t)port, &reason)) {
	case EGRESS_REFUSE:
		refuse(s, &a, (uint16_t)port, fd, reason);
		break;
	case EGRESS_PLATFORM:
		to_platform(s, (uint16_t)port, fd);
		break;
	case EGRESS_DNS:
		r = egress_dnstcp_new(s, fd, &err);
		break;
	case EGRESS_DIAL:
		a = egress_addr_unmap(&a);
		r = egress_relay_new(s, fd, &a, (uint16_t)port, &err);
		break;
	}
	if (r < 0)
		log_event(LOG_DEBUG, "egress", LOG_KV("sandbox", s->id), "connection not made: %s", err.msg);
}

/* -- messages of init -------------------------------------------------------------------------------------------- */
static void on_dns(struct egress_sandbox *s, const struct wire_in *in)
{
	size_t client_len = 0, len = 0;
	const void *client = wire_get(in, WIRE_T_CLIENT, 0, &client_len);
	const void *msg = wire_get(in, WIRE_T_OUTPUT, 0, &len);

	if (client && msg)
		egress_dns_datagram(s, client, client_len, msg, len);
}

static void dispatch(struct egress_sandbox *s, size_t len, int fd)
{
	struct wire_in in;

	/* init is trusted with nothing: whatever does not parse is passed over. */
	if (wire_parse(&in, s->egress->message, len) < 0) {
		fd_reset(fd);
		return;
	}
	if (in.type == WIRE_CONN) {
		on_conn(s, &in, fd);
		return;
	}
	fd_close_foreign(fd);
	if (in.type == WIRE_DNS)
		on_dns(s, &in);
}

static void on_message(struct loop_io *io, uint32_t events, void *arg)
{
	struct egress_sandbox *s = arg;

	(void)events;
	for (int i = 0; i < MESSAGES_A_TURN && s->fd >= 0; i++) {
		int fd = -1;
		size_t len = 0, n_fds = 0;
		int r = fd_recv_foreign(io->fd, s->egress->message, WIRE_MAX, &len, &fd, 1, &n_fds);
		if (r == -EAGAIN)
			return;
		if (r == -EMSGSIZE || r == -EMFILE)
			continue;
		if (r < 0 || len == 0) {
			egress_sandbox_end(s);
			return;
		}
		dispatch(s, len, n_fds ? fd : -1);
	}
}

/* -- life -------------------------------------------------------------------------------------------------------- */
int egress_sandbox_new(struct egress *e, const char *id, uint64_t number, enum plan_net net, int fd, struct err *err)
{
	struct egress_sandbox *s;

	if (strlen(id) >= sizeof(s->id) || fd_set_nonblock(fd, true) < 0) {
		fd_close(fd);
		return err_set(err, -EINVAL, "the id is longer than %zu bytes or the socket is none",
			       sizeof(s->id) - 1);
	}
	if (!egress_fds_take(e, 1)) {
		fd_close(fd);
		return err_set(err, -EMFILE, "no descriptor is left");
	}
	s = NEW(struct egress_sandbox);
	*s = (struct egress_sandbox){ .egress = e, .number = number, .net = net, .fd = fd };
	memcpy(s->id, id, strlen(id) + 1);
	list_init(&s->relays);
	list_init(&s->dns_streams);
	list_init(&s->asks);
	list_push_back(&e->sandboxes, &s->node);
	e->n_sandboxes++;
	int r = loop_io_open(&s->io, e->loop, fd, EPOLLIN, on_message, s, err);
	if (r < 0)
		egress_sandbox_end(s);
	return r;
}

bool egress_sandbox_fds_take(struct egress_sandbox *s, size_t n)
{
	return egress_fds_take_more(s->egress, 2 * (size_t)s->n_connections + s->n_asks, n);
}

void egress_sandbox_end(struct egress_sandbox *s)
{
	if (s->fd < 0)
		return;
	egress_relay_end_all(s);
	egress_dnstcp_end_all(s);
	egress_ask_end_all(s);
	loop_io_close(&s->io);
	s->fd = fd_close_channel(s->fd);
	egress_fds_give(s->egress, 1);
	egress_pins_done(&s->pins);
	list_remove(&s->node);
	s->egress->n_sandboxes--;
	loop_release(s->egress->loop, free, s);
}
