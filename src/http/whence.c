/* http/whence.c: where a request comes from, and what its client calls this server. */
#include <arpa/inet.h>
#include <string.h>

#include "base/str.h"
#include "http/private.h"

static bool is_trusted(const struct http_conn *c)
{
	const struct http_server *s = c->server;
	struct http_address a;

	return !c->adopted && http_address_of(&a, &c->peer.any) && http_ranges_have(s->trusted, s->n_trusted, &a);
}

static const struct http_origin *origin_of(struct http_req *r)
{
	const struct http_server *s = r->conn->server;

	if (r->origin)
		return r->origin;
	r->origin = http_req_alloc(r, sizeof(*r->origin));
	*r->origin = (struct http_origin){ 0 };
	if (is_trusted(r->conn))
		http_origin_read(r->origin, s->trusted, s->n_trusted, r->head.headers, r->head.n_headers);
	return r->origin;
}

static const char *address_text(struct http_req *r, const struct http_address *a)
{
	const struct in6_addr *v6 = (const void *)a->bytes;
	char *text = http_req_alloc(r, INET6_ADDRSTRLEN);

	if (IN6_IS_ADDR_V4MAPPED(v6))
		return inet_ntop(AF_INET, a->bytes + 12, text, INET6_ADDRSTRLEN);
	return inet_ntop(AF_INET6, a->bytes, text, INET6_ADDRSTRLEN);
}

const char *http_req_peer(struct http_req *r)
{
	const struct http_conn *c = r->conn;
	const struct http_origin *o = origin_of(r);
	char *text;

	if (c->is_unix)
		return "unix";
	if (c->tag)
		return "sandbox";
	if (o->known)
		return address_text(r, &o->address);
	text = http_req_alloc(r, HTTP_SOCKADDR_TEXT);
	return http_sockaddr_text(&c->peer.any, text, HTTP_SOCKADDR_TEXT) ? text : "unknown";
}

bool http_req_is_local(struct http_req *r)
{
	const struct http_origin *o = origin_of(r);
	struct http_address a;

	if (r->conn->adopted || !http_address_of(&a, &r->conn->peer.any))
		return r->conn->is_unix && !r->conn->adopted;
	if (o->forwarded && !o->known)
		return false; /* for whom nobody knows: a stranger may have added to what the proxy says */
	return http_address_is_loopback(o->known ? &o->address : &a);
}

const char *http_req_scheme(struct http_req *r)
{
	const struct http_origin *o = origin_of(r);

	return o->scheme ? o->scheme : (r->conn->wire ? r->conn->wire : r->conn)->tls ? "https" : "http";
}

const char *http_req_host(struct http_req *r)
{
	const struct http_origin *o = origin_of(r);
	const char *host = *o->host ? o->host : http_req_header(r, "Host");

	return str_empty(host) ? "localhost" : host;
}
