/* gateway/upstream.h: connections to an instance's server: taken from the instance's kept ones, or made. They belong to
 * the instance and die with it. Loop thread only. */
#pragma once

#include "base/err.h"
#include "env/env.h"
#include "http/client.h"

struct gateway;
struct upstream_wait;

/* c is the callee's until upstream_put() or http_client_free(). fresh = made for this call, so that nothing can have closed
 * it meanwhile. */
typedef void upstream_fn(void *arg, struct http_client *c, bool fresh, const struct err *err);

/* The caller holds a use of i until done or upstream_cancel(). never_kept: do not take a kept connection (a repeat after a kept one turned out dead). done runs from the loop. */
struct upstream_wait *upstream_get(struct gateway *g, struct instance *i, bool never_kept, upstream_fn *done, void *arg);
void upstream_cancel(struct upstream_wait *w); /* before done */
/* Keeps c for the next exchange, or closes it where enough are kept. */
void upstream_put(struct gateway *g, struct instance *i, struct http_client *c);
