/* gateway/upstream.c: kept connections per instance, a stack: the newest is used first, the oldest are the ones that the
 * server may close. One timer per instance drops those that were not used for upstream_idle_ms. */
#include "gateway/upstream.h"

#include <string.h>

#include "base/fd.h"
#include "base/mem.h"
#include "gateway/private.h"

/* No server closes what was idle for less (gunicorn's workers do after 2 s, uvicorn and node after 5 s), and a session's calls
 * mostly follow sooner: they do without the system call. */
#define TRUST_MS 1000

struct kept {
	struct http_client *client;
	uint64_t since_ms;
};

struct upstreams { /* of one instance; hangs at instance_user() */
	struct gateway *g;
	struct kept *kept; /* oldest first; room for idle_upstreams_max */
	size_t n_kept;
	struct loop_timer sweep; /* armed while there are any */
	enum upstream_listing listing;
	char *environment; /* see upstream_environment() */
};

struct upstream_wait {
	struct gateway *g;
	bool cancelled;
	upstream_fn *done;
	void *arg;
};

static void drop_oldest(struct upstreams *u, size_t n)
{
	for (size_t k = 0; k < n; k++)
		http_client_free(u->kept[k].client);
	u->n_kept -= n;
	memmove(u->kept, u->kept + n, u->n_kept * sizeof(*u->kept));
}

static void upstreams_free(void *p)
{
	struct upstreams *u = p;
	drop_oldest(u, u->n_kept);
	loop_timer_stop(&u->sweep);
	free(u->kept);
	free(u->environment);
	free(u);
}

static void on_sweep_kept(struct loop_timer *t, void *arg)
{
	struct upstreams *u = arg;
	uint64_t now = loop_now_ms(u->g->loop), idle = u->g->settings.upstream_idle_ms;
	size_t n = 0;
	while (n < u->n_kept && (now - u->kept[n].since_ms >= idle || !http_client_idle(u->kept[n].client)))
		n++;
	drop_oldest(u, n);
	if (u->n_kept)
		loop_timer_start(t, u->kept[0].since_ms + idle - now);
}

static struct upstreams *upstreams_of(struct gateway *g, struct instance *i)
{
	void **slot = instance_user(i, upstreams_free);
	if (!*slot) {
		struct upstreams *u = NEW(struct upstreams);
		u->g = g;
		u->kept = xcalloc(g->settings.idle_upstreams_max + 1, sizeof(*u->kept));
		loop_timer_init(&u->sweep, g->loop, on_sweep_kept, u);
		*slot = u;
	}
	return *slot;
}

void upstream_put(struct gateway *g, struct instance *i, struct http_client *c)
{
	struct upstreams *u = upstreams_of(g, i);
	if (u->n_kept >= g->settings.idle_upstreams_max || instance_end_reason(i) || !http_client_idle(c)) {
		http_client_free(c);
		return;
	}
	u->kept[u->n_kept++] = (struct kept){ c, loop_now_ms(g->loop) };
	if (!loop_timer_armed(&u->sweep))
		loop_timer_start(&u->sweep, g->settings.upstream_idle_ms);
}

/* The end of an older one may lie in its socket, found by the same turn of the loop as the request. */
static bool is_usable(const struct gateway *g, const struct kept *k)
{
	return loop_now_ms(g->loop) - k->since_ms < TRUST_MS ? http_client_idle(k->client) : http_client_alive(k->client);
}

struct http_client *upstream_take(struct gateway *g, struct instance *i)
{
	struct upstreams *u = upstreams_of(g, i);
	while (u->n_kept) {
		struct kept *k = &u->kept[--u->n_kept];
		if (is_usable(g, k))
			return k->client;
		http_client_free(k->client);
	}
	return NULL;
}

static void on_connected(void *arg, int fd, const struct err *err)
{
	struct upstream_wait *w = arg;
	struct err own = ERR_INIT;
	struct http_client *c = NULL;
	if (w->cancelled)
		fd_close(fd);
	else if (err)
		w->done(w->arg, NULL, err);
	else if (http_client_new(&c, w->g->loop, fd, &w->g->settings.http, &own) < 0)
		w->done(w->arg, NULL, &own);
	else
		w->done(w->arg, c, NULL);
	free(w);
}

struct upstream_wait *upstream_connect(struct gateway *g, struct instance *i, upstream_fn *done, void *arg)
{
	struct upstream_wait *w = NEW(struct upstream_wait);
	w->g = g;
	w->done = done;
	w->arg = arg;
	instance_connect(i, on_connected, w);
	return w;
}

void upstream_cancel(struct upstream_wait *w)
{
	w->cancelled = true;
}

/* -- what the server is --------------------------------------------------------------------------------------------- */

const char *upstream_environment(struct gateway *g, struct instance *i)
{
	return upstreams_of(g, i)->environment;
}

bool upstream_must_ask(struct gateway *g, struct instance *i)
{
	struct upstreams *u = upstreams_of(g, i);
	if (u->listing != UPSTREAM_UNKNOWN)
		return false;
	u->listing = UPSTREAM_ASKED;
	return true;
}

void upstream_set_environment(struct gateway *g, struct instance *i, enum upstream_listing state, char *name)
{
	struct upstreams *u = upstreams_of(g, i);
	u->listing = state;
	free(u->environment);
	u->environment = name;
}
