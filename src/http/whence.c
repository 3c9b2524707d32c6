/* http/whence.c: where a request comes from, and what its client calls this server. */
#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "http/private.h"

#define PEER_BYTES (INET6_ADDRSTRLEN + 10)

static bool is_trusted(const struct http_conn *c)
{
	const struct http_server *s = c->server;
	struct http_address a;

	if (c->adopted || !http_address_of(&a, &c->peer.any))
		return false;
	for (size_t i = 0; i < s->n_trusted; i++)
		if (http_range_has(&s->trusted[i], &a))
			return true;
	return false;
}

static const struct http_origin *origin_of(struct http_req *r)
{
	const struct http_server *s = r->conn->server;

	if (r->origin)
		return r->origin;
	r->origin = http_req_alloc(r, sizeof(*r->origin));
	*r->origin = (struct http_origin){ 0 };
	if (s->n_trusted && is_trusted(r->conn))
		http_origin_read(r->origin, s->trusted, s->n_trusted, r->head.headers, r->head.n_headers);
	return r->origin;
}

static const char *address_text(struct http_req *r, const struct http_address *a)
{
	const struct in6_addr *v6 = (const void *)a->bytes;
	char *text = http_req_alloc(r, PEER_BYTES);

	if (IN6_IS_ADDR_V4MAPPED(v6))
		return inet_ntop(AF_INET, a->bytes + 12, text, PEER_BYTES);
	return inet_ntop(AF_INET6, a->bytes, text, PEER_BYTES);
}

const char *http_req_peer(struct http_req *r)
{
	const struct http_conn *c = r->conn;
	const struct http_origin *o = origin_of(r);
	char ip[INET6_ADDRSTRLEN], *text;

	if (c->is_unix)
		return "unix";
	if (c->tag)
		return "sandbox";
	if (o->known)
		return address_text(r, &o->address);
	text = http_req_alloc(r, PEER_BYTES);
	if (c->peer.any.sa_family == AF_INET && inet_ntop(AF_INET, &c->peer.in4.sin_addr, ip, sizeof(ip)))
		snprintf(text, PEER_BYTES, "%s:%u", ip, ntohs(c->peer.in4.sin_port));
	else if (c->peer.any.sa_family == AF_INET6 && inet_ntop(AF_INET6, &c->peer.in6.sin6_addr, ip, sizeof(ip)))
		snprintf(text, PEER_BYTES, "[%s]:%u", ip, ntohs(c->peer.in6.sin6_port));
	else
		return "unknown";
	return text;
}

bool http_req_is_local(struct http_req *r)
{
	const struct http_origin *o = origin_of(r);
	struct http_address a;

	if (r->conn->adopted || !http_address_of(&a, &r->conn->peer.any))
		return r->conn->is_unix && !r->conn->adopted;
	return http_address_is_loopback(o->known ? &o->address : &a);
}

const char *http_req_scheme(struct http_req *r)
{
	const struct http_origin *o = origin_of(r);

	return o->scheme ? o->scheme : r->conn->tls ? "https" : "http";
}

const char *http_req_host(struct http_req *r)
{
	const struct http_origin *o = origin_of(r);
	const char *host = *o->host ? o->host : http_req_header(r, "Host");

	return str_empty(host) ? "localhost" : host;
}
