/* Where environments come from, and which deliveries of webhooks were taken. */
#include "store/internal.h"

#include "base/mem.h"

void store_origin_init(struct store_origin *o)
{
	store_set_str(&o->branch, STORE_BRANCH_DEFAULT);
	store_set_str(&o->subdirectory, "");
	store_set_str(&o->github_repo, "");
	store_set_str(&o->arxiv_url, "");
	store_set_str(&o->github_url, "");
	store_set_str(&o->hf_url, "");
}

void store_origin_done(struct store_origin *o)
{
	free(o->branch);
	free(o->subdirectory);
	free(o->github_repo);
	free(o->arxiv_url);
	free(o->github_url);
	free(o->hf_url);
}

void store_origin_save(struct store *s, struct store_environment *e)
{
	const struct store_origin *o = &e->origin;

	if (e->removed)
		return;
	struct store_op *op = store_op_new(
		s, "INSERT OR REPLACE INTO environment_origin (environment_id, branch, subdirectory, github_id, github_repo,"
		   " arxiv_url, github_url, hf_url) VALUES (?, ?, ?, ?, ?, ?, ?, ?)");

	store_op_text(op, e->id);
	store_op_text(op, o->branch);
	store_op_text(op, o->subdirectory);
	store_op_i64(op, o->github_id);
	store_op_text(op, o->github_repo);
	store_op_text(op, o->arxiv_url);
	store_op_text(op, o->github_url);
	store_op_text(op, o->hf_url);
}

/* -- deliveries of webhooks ---------------------------------------------------------------------------------------- */

struct store_delivery {
	char *id;
	struct list node; /* of store.delivered */
};

static void forget(struct store *s, struct store_delivery *d)
{
	map_del(s->deliveries, d->id);
	list_remove(&d->node);
	free(d->id);
	free(d);
}

void store_delivery_attach(struct store *s, const char *id)
{
	struct store_delivery *d = NEW(struct store_delivery);

	d->id = xstrdup(id);
	list_push_back(&s->delivered, &d->node);
	map_put(s->deliveries, id, d);
}

bool store_delivery_known(struct store *s, const char *id)
{
	return map_get(s->deliveries, id);
}

void store_delivery_add(struct store *s, const char *id)
{
	if (store_delivery_known(s, id))
		return;
	store_delivery_attach(s, id);
	store_op_text(store_op_new(s, "INSERT OR IGNORE INTO webhook_delivery (id) VALUES (?)"), id);
	while (map_len(s->deliveries) > STORE_DELIVERIES_MAX) {
		struct store_delivery *oldest = list_first(&s->delivered, struct store_delivery, node);
		store_op_text(store_op_new(s, "DELETE FROM webhook_delivery WHERE id = ?"), oldest->id);
		forget(s, oldest);
	}
}

void store_deliveries_free(struct store *s)
{
	struct store_delivery *d;

	while ((d = list_first(&s->delivered, struct store_delivery, node)))
		forget(s, d);
}
