/* gateway/upstream.c: kept connections per instance, newest first (the oldest are the ones that the server may close). */
#include "gateway/upstream.h"

#include "base/fd.h"
#include "base/mem.h"
#include "gateway/private.h"

struct upstreams { /* of one instance; hangs at instance_user() */
	struct list kept; /* struct kept, newest first */
	size_t n_kept;
};

struct kept {
	struct list node;
	struct upstreams *pool;
	struct http_client *client;
	struct loop_timer expiry;
};

struct upstream_wait {
	struct gateway *g;
	struct instance *instance;  /* used by who waits, until it cancels */
	struct http_client *client; /* a kept one that waits to be delivered */
	bool cancelled;
	upstream_fn *done;
	void *arg;
};

static void kept_free(struct kept *k)
{
	list_remove(&k->node);
	k->pool->n_kept--;
	loop_timer_stop(&k->expiry);
	if (k->client)
		http_client_free(k->client);
	free(k);
}

static void upstreams_free(void *p)
{
	struct upstreams *u = p;
	list_foreach(&u->kept, struct kept, node, k)
		kept_free(k);
	free(u);
}

static struct upstreams *upstreams_of(struct instance *i)
{
	void **slot = instance_user(i, upstreams_free);
	if (!*slot) {
		struct upstreams *u = NEW(struct upstreams);
		list_init(&u->kept);
		*slot = u;
	}
	return *slot;
}

static void on_kept_expired(struct loop_timer *t UNUSED, void *arg)
{
	kept_free(arg);
}

void upstream_put(struct gateway *g, struct instance *i, struct http_client *c)
{
	struct upstreams *u = upstreams_of(i);
	if (u->n_kept >= g->settings.idle_upstreams_max || instance_end_reason(i) || !http_client_idle(c)) {
		http_client_free(c);
		return;
	}
	struct kept *k = NEW(struct kept);
	k->pool = u;
	k->client = c;
	loop_timer_init(&k->expiry, g->loop, on_kept_expired, k);
	loop_timer_start(&k->expiry, g->settings.upstream_idle_ms);
	list_push_front(&u->kept, &k->node);
	u->n_kept++;
}

/* The newest connection that its peer has not closed, or NULL. */
static struct http_client *kept_take(struct instance *i)
{
	struct upstreams *u = upstreams_of(i);
	for (struct kept *k = list_first(&u->kept, struct kept, node); k; k = list_first(&u->kept, struct kept, node)) {
		struct http_client *c = STEAL(k->client);
		kept_free(k);
		if (http_client_idle(c))
			return c;
		http_client_free(c);
	}
	return NULL;
}

static void on_connected(void *arg, int fd, const struct err *err)
{
	struct upstream_wait *w = arg;
	struct err own = ERR_INIT;
	struct http_client *c = NULL;
	if (w->cancelled) {
		fd_close(fd);
	} else if (err) {
		w->done(w->arg, NULL, true, err);
	} else if (http_client_new(&c, w->g->loop, fd, &w->g->settings.http, &own) < 0) {
		w->done(w->arg, NULL, true, &own);
	} else {
		w->done(w->arg, c, true, NULL);
	}
	free(w);
}

/* Its server may have closed it since it was taken. */
static void deliver_kept(void *arg)
{
	struct upstream_wait *w = arg;
	if (!w->cancelled && !http_client_idle(w->client)) {
		w->client = http_client_free(w->client);
		instance_connect(w->instance, on_connected, w);
		return;
	}
	if (w->cancelled)
		http_client_free(w->client);
	else
		w->done(w->arg, w->client, false, NULL);
	free(w);
}

struct upstream_wait *upstream_get(struct gateway *g, struct instance *i, bool never_kept, upstream_fn *done, void *arg)
{
	struct upstream_wait *w = NEW(struct upstream_wait);
	w->g = g;
	w->instance = i;
	w->done = done;
	w->arg = arg;
	w->client = never_kept ? NULL : kept_take(i);
	if (w->client)
		loop_defer(g->loop, deliver_kept, w);
	else
		instance_connect(i, on_connected, w);
	return w;
}

void upstream_cancel(struct upstream_wait *w)
{
	w->cancelled = true;
}
