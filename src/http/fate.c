/* http/fate.c: whether answers arrived that were over before anybody could tell. */
#include "base/mem.h"
#include "http/private.h"

static void tell(struct http_fate *f, bool acked)
{
	list_remove(&f->node);
	f->fn(f->arg, acked);
	free(f);
}

void conn_tell_fates(struct http_conn *c, bool again)
{
	struct http_fate *f;

	while ((f = list_first(&c->fates, struct http_fate, node)))
		tell(f, again || conn_acked(c, f->offset));
}

void conn_tell_acked(struct http_conn *c)
{
	struct http_fate *f;

	while ((f = list_first(&c->fates, struct http_fate, node))) {
		bool acked = conn_acked(c, f->offset);

		if (!acked && !f->now) /* what was queued behind it is likelier not to be than to be */
			return;
		tell(f, acked);
	}
}

/* A stream does not last; what was broken off will not come any more. */
static void follow_wire(struct http_fate *f)
{
	const struct http_conn *c = f->conn;

	f->now = !h2_all_sent(c);
	f->offset = h2_on_wire(c, f->offset);
	f->conn = c->wire;
	conn_mark_dirty(c->wire);
}

struct http_fate *http_reply_fate(struct http_req *r, uint64_t offset, http_fate_fn *fn, void *arg)
{
	struct http_fate *f = NEW(struct http_fate);

	*f = (struct http_fate){ .conn = r->conn, .offset = r->base + offset, .fn = fn, .arg = arg };
	if (r->conn->wire)
		follow_wire(f);
	if (f->now)
		list_push_front(&f->conn->fates, &f->node);
	else
		list_push_back(&f->conn->fates, &f->node);
	return f;
}

bool http_fate_acked(const struct http_fate *f)
{
	return conn_acked(f->conn, f->offset);
}

void http_fate_cancel(struct http_fate *f)
{
	if (!f)
		return;
	list_remove(&f->node);
	free(f);
}
