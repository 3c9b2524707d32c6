/* http/router.h: finds the handler of a request: "/v1/environments/{owner}/{name}". Loop thread only.
 * Segments match literally or as one parameter; "{rest...}" at the end takes the remainder, slashes too. A literal
 * beats a parameter. A path that exists with other methods is a 405 with Allow; else fallback, or 404. HEAD is served
 * by GET's handler. Parameters are percent-decoded after matching, so an encoded slash stays in its segment. A bad
 * escape (%zz, %00) in path or query is a 400; the fallback gets such a request as it is. */
#pragma once

#include "http/server.h"

struct http_router;

struct http_router *http_router_new(void);
struct http_router *http_router_free(struct http_router *r);
void http_router_add(struct http_router *r, const char *method, const char *pattern, http_handler_fn *fn, void *arg);
/* For whatever no pattern matches; NULL = 404. */
void http_router_fallback(struct http_router *r, http_handler_fn *fn, void *arg);
/* A handler for http_server_new with the router as its arg. */
void http_router_dispatch(struct http_req *req, void *router);
