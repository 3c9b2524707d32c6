/* gateway/upstream.h: connections to an instance's server: one of the instance's kept ones, at once, or a new one. They belong
 * to the instance and die with it. Loop thread only. */
#pragma once

#include "base/err.h"
#include "env/env.h"
#include "http/client.h"

struct gateway;
struct upstream_wait;

/* The kept connection that was used last and that its peer has not closed, or NULL. The caller's until upstream_put() or
 * http_client_free(). Its peer may close it at any moment: what must not be sent in vain may need another try. */
struct http_client *upstream_take(struct gateway *g, struct instance *i);

/* The first environment of the instance's server, as it listed them; NULL = not known. */
const char *upstream_environment(struct gateway *g, struct instance *i);
/* True once per instance, and again after upstream_set_environment(.., UPSTREAM_UNKNOWN, ..): the caller is to ask. */
bool upstream_must_ask(struct gateway *g, struct instance *i);
enum upstream_listing { UPSTREAM_UNKNOWN, UPSTREAM_ASKED, UPSTREAM_LISTED };
/* Takes name, malloc'ed; NULL with LISTED = the server has no list. */
void upstream_set_environment(struct gateway *g, struct instance *i, enum upstream_listing state, char *name);

/* c is the callee's as above; NULL with err. */
typedef void upstream_fn(void *arg, struct http_client *c, const struct err *err);

/* A new connection. The caller holds a use of i until done or upstream_cancel(). done runs from the loop. */
struct upstream_wait *upstream_connect(struct gateway *g, struct instance *i, upstream_fn *done, void *arg);
void upstream_cancel(struct upstream_wait *w); /* before done */
/* Keeps c for the next exchange, or closes it where enough are kept. */
void upstream_put(struct gateway *g, struct instance *i, struct http_client *c);
