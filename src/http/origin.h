/* http/origin.h: where a request began, when it came through reverse proxies. Only what a proxy that the operator trusts
 * says is believed: the header fields of anybody else are text like any other.
 *
 * The trail of addresses is read from its end, which our own proxy wrote, backwards for as long as the addresses are
 * trusted ones; the first that is not is the client's. X-Forwarded-For, -Proto and -Host are read, and Forwarded (RFC
 * 7239). A proxy that sets one kind often passes the other on as its client sent it: so where both are there and tell
 * different stories, neither is believed. Pure functions, any thread. */
#pragma once

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "base/err.h"
#include "base/macros.h"
#include "http/server.h"

#define HTTP_HOPS_MAX 32   /* a longer trail is not believed */
#define HTTP_HOST_MAX 255  /* bytes of a host; a longer one is not believed */

struct http_address {
	uint8_t bytes[16]; /* IPv6, network order; IPv4 as ::ffff:a.b.c.d */
};

struct http_range {
	struct http_address base;
	unsigned bits; /* of IPv6: those of an IPv4 range and 96 */
};

/* "10.0.0.0/8", "::1". -EINVAL, and *err says what was expected but not of which setting. A range whose address has bits
 * beyond its length is wrong: "10.0.0.1/8" is likelier a mistake. */
MUST_CHECK int http_range_parse(struct http_range *ret, const char *text, struct err *err);
bool http_ranges_have(const struct http_range *ranges, size_t n, const struct http_address *a); /* one of them does */
/* False for what is neither IPv4 nor IPv6. */
bool http_address_of(struct http_address *ret, const struct sockaddr *sa);
bool http_address_is_loopback(const struct http_address *a);
/* "192.0.2.1:80", "[::1]:80", cut at size. False for what is neither IPv4 nor IPv6. */
#define HTTP_SOCKADDR_TEXT (INET6_ADDRSTRLEN + 10) /* bytes of the longest */
bool http_sockaddr_text(const struct sockaddr *sa, char *ret, size_t size);

struct http_origin {
	bool forwarded;                  /* there are such fields; where they contradict each other nothing else is set */
	bool known;                      /* address is set */
	struct http_address address;
	const char *scheme;              /* "http", "https"; NULL = not told */
	char host[HTTP_HOST_MAX + 1];    /* "" = not told */
};

/* What the header fields of a request say that came from one of the trusted. */
void http_origin_read(struct http_origin *ret, const struct http_range *trusted, size_t n_trusted, const struct http_header *h,
		      size_t n);
