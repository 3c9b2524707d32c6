/* Opening: the database, then everything in it into memory. */
#include "store/internal.h"

#include <errno.h>
#include <string.h>

#include "base/mem.h"
#include "store/envset.h"

typedef int row_fn(struct store *s, sqlite3_stmt *st, struct err *err);

static const char *text(sqlite3_stmt *st, int column)
{
	const char *t = (const char *)sqlite3_column_text(st, column);

	return t ? t : "";
}

static int damaged(struct err *err, const char *table, const char *id)
{
	return err_set(err, -EIO, "the database is damaged: %s %s does not make sense", table, id);
}

static int on_namespace(struct store *s, sqlite3_stmt *st, struct err *err)
{
	struct store_namespace *ns = store_namespace_attach(s, text(st, 0), text(st, 1), text(st, 2));

	(void)err;
	ns->created_ms = sqlite3_column_int64(st, 3);
	return 0;
}

static int on_key(struct store *s, sqlite3_stmt *st, struct err *err)
{
	struct store_namespace *ns = store_namespace_by_id(s, text(st, 1));
	int role = store_role_of(text(st, 3));

	if (!ns || role < 0 || sqlite3_column_bytes(st, 4) != STORE_HASH_LEN)
		return damaged(err, "key", text(st, 0));
	struct store_key *k = store_key_attach(s, ns, text(st, 0), sqlite3_column_blob(st, 4));
	store_set_str(&k->label, text(st, 2));
	k->role = (enum store_role)role;
	k->created_ms = sqlite3_column_int64(st, 5);
	k->revoked_ms = sqlite3_column_int64(st, 6);
	k->user = store_namespace_by_id(s, text(st, 7));
	k->expires_ms = sqlite3_column_int64(st, 8);
	k->last_used_ms = sqlite3_column_int64(st, 9);
	for (int i = 0; i < STORE_LIMITS; i++)
		k->limits[i] = sqlite3_column_int64(st, 10 + i);
	store_key_set_maker(k, store_key_by_id(s, text(st, 10 + STORE_LIMITS))); /* older, so it is here, if it is at all */
	if (*text(st, 7) && !k->user)
		return damaged(err, "key", k->id);
	return 0;
}

static int on_member(struct store *s, sqlite3_stmt *st, struct err *err)
{
	struct store_namespace *org = store_namespace_by_id(s, text(st, 0)), *user = store_namespace_by_id(s, text(st, 1));
	int role = store_role_of(text(st, 2));

	if (!org || !user || role < 0)
		return damaged(err, "member of", text(st, 0));
	store_member_attach(org, user, (enum store_role)role)->created_ms = sqlite3_column_int64(st, 3);
	return 0;
}

static int on_environment(struct store *s, sqlite3_stmt *st, struct err *err)
{
	struct store_namespace *ns = store_namespace_by_id(s, text(st, 1));

	if (!ns)
		return damaged(err, "environment", text(st, 0));
	struct store_environment *e = store_environment_attach(s, ns, text(st, 0), text(st, 2));
	store_set_str(&e->description, text(st, 3));
	e->is_private = sqlite3_column_int64(st, 4);
	e->is_harbor = sqlite3_column_int64(st, 5);
	e->cpu_milli = (uint64_t)sqlite3_column_int64(st, 6);
	e->memory_bytes = (uint64_t)sqlite3_column_int64(st, 7);
	e->max_concurrency = (uint64_t)sqlite3_column_int64(st, 8);
	e->max_scale = (uint64_t)sqlite3_column_int64(st, 9);
	e->created_ms = sqlite3_column_int64(st, 10);
	e->updated_ms = sqlite3_column_int64(st, 11);
	return 0;
}

static int on_deployment(struct store *s, sqlite3_stmt *st, struct err *err)
{
	struct store_environment *e = store_environment_by_id(s, text(st, 1));
	int state = store_state_of(text(st, 2));

	if (!e || state < 0)
		return damaged(err, "deployment", text(st, 0));
	struct store_deployment *d = store_deployment_attach(s, e, text(st, 0));
	d->state = (enum store_deployment_state)state;
	store_set_str(&d->image, text(st, 3));
	store_set_str(&d->source, text(st, 4));
	store_set_str(&d->branch, text(st, 5));
	store_set_str(&d->commit, text(st, 6));
	store_set_str(&d->reason, text(st, 7));
	d->cpu_milli = (uint64_t)sqlite3_column_int64(st, 8);
	d->memory_bytes = (uint64_t)sqlite3_column_int64(st, 9);
	d->created_ms = sqlite3_column_int64(st, 10);
	d->updated_ms = sqlite3_column_int64(st, 11);
	return 0;
}

static int on_environment_setting(struct store *s, sqlite3_stmt *st, struct err *err)
{
	struct store_environment *e = store_environment_by_id(s, text(st, 0));

	if (!e)
		return damaged(err, "setting of environment", text(st, 0));
	return envset_attach(s, e, text(st, 1), text(st, 2), err);
}

static int on_transition(struct store *s, sqlite3_stmt *st, struct err *err)
{
	struct store_deployment *d = store_deployment_by_id(s, text(st, 0));
	int from = store_state_of(text(st, 1)), to = store_state_of(text(st, 2));

	if (!d || to < 0)
		return damaged(err, "transition of deployment", text(st, 0));
	from = from < 0 ? to : from;
	struct store_transition *t = store_transition_attach(d, (enum store_deployment_state)from,
							     (enum store_deployment_state)to, text(st, 3));
	t->at_ms = sqlite3_column_int64(st, 4);
	return 0;
}

static int on_setting(struct store *s, sqlite3_stmt *st, struct err *err)
{
	(void)err;
	free(map_put(s->settings, text(st, 0), xstrdup(text(st, 1))));
	return 0;
}

static int on_origin(struct store *s, sqlite3_stmt *st, struct err *err)
{
	struct store_environment *e = store_environment_by_id(s, text(st, 0));

	if (!e)
		return damaged(err, "the origin of environment", text(st, 0));
	store_set_str(&e->origin.branch, text(st, 1));
	store_set_str(&e->origin.subdirectory, text(st, 2));
	e->origin.github_id = sqlite3_column_int64(st, 3);
	store_set_str(&e->origin.github_repo, text(st, 4));
	store_set_str(&e->origin.arxiv_url, text(st, 5));
	store_set_str(&e->origin.github_url, text(st, 6));
	store_set_str(&e->origin.hf_url, text(st, 7));
	return 0;
}

static int on_delivery(struct store *s, sqlite3_stmt *st, struct err *err)
{
	(void)err;
	store_delivery_attach(s, text(st, 0));
	return 0;
}

static int load_table(struct store *s, const char *sql, row_fn *fn, struct err *err)
{
	sqlite3_stmt *st;
	int code, r = 0;

	if (sqlite3_prepare_v2(s->db, sql, -1, &st, NULL) != SQLITE_OK)
		return store_db_error(s->db, s->path, "reading", err);
	while (r == 0 && (code = sqlite3_step(st)) == SQLITE_ROW)
		r = fn(s, st, err);
	if (r == 0 && code != SQLITE_DONE)
		r = store_db_error(s->db, s->path, "reading", err);
	sqlite3_finalize(st);
	return r;
}

static int on_last_audit(struct store *s, sqlite3_stmt *st, struct err *err UNUSED)
{
	s->last_audit = sqlite3_column_int64(st, 0);
	return 0;
}

/* Parents before children; rowid keeps the order of creation, which a wall clock does not. */
static const struct {
	const char *sql;
	row_fn *fn;
} tables[] = {
	{ "SELECT id, name, type, created_ms FROM namespace ORDER BY rowid", on_namespace },
	{ "SELECT id, namespace_id, label, role, hash, created_ms, revoked_ms, user_id, expires_ms, last_used_ms,"
	  " max_sessions, max_sandboxes, max_rate, maker_id FROM api_key ORDER BY rowid", on_key },
	{ "SELECT org_id, user_id, role, created_ms FROM member ORDER BY rowid", on_member },
	{ "SELECT id, namespace_id, name, description, is_private, is_harbor, cpu_milli, memory_bytes, max_concurrency,"
	  " max_scale, created_ms, updated_ms FROM environment ORDER BY rowid", on_environment },
	{ "SELECT id, environment_id, state, image, source, branch, commit_sha, reason, cpu_milli, memory_bytes, created_ms,"
	  " updated_ms FROM deployment ORDER BY rowid", on_deployment },
	{ "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'audit'", on_last_audit },
	{ "SELECT key, value FROM setting", on_setting },
	{ "SELECT environment_id, branch, subdirectory, github_id, github_repo, arxiv_url, github_url, hf_url"
	  " FROM environment_origin", on_origin },
	{ "SELECT id FROM webhook_delivery ORDER BY rowid", on_delivery },
	{ "SELECT environment_id, name, value FROM environment_setting", on_environment_setting },
	{ "SELECT deployment_id, from_state, to_state, reason, at_ms FROM deployment_transitions ORDER BY rowid", on_transition },
};

int store_load(struct store *s, struct err *err)
{
	for (size_t i = 0; i < ARRAY_LEN(tables); i++) {
		int r = load_table(s, tables[i].sql, tables[i].fn, err);
		if (r < 0)
			return r;
	}
	return 0;
}

static struct store *store_new(struct loop *l, const char *path)
{
	struct store *s = NEW(struct store);

	s->loop = l;
	s->path = xstrdup(path);
	seal_init(&s->seal, path);
	list_init(&s->namespaces);
	list_init(&s->delivered);
	list_init(&s->removed);
	list_init(&s->former);
	s->by_name = map_new();
	s->by_id = map_new();
	store_keys_init(s);
	s->env_by_name = map_new();
	s->env_by_id = map_new();
	s->dep_by_id = map_new();
	s->settings = map_new();
	s->deliveries = map_new();
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->idle, NULL);
	store_queue_init(s);
	store_record_init(s);
	return s;
}

int store_open(struct store **ret, struct loop *l, const char *path, struct err *err)
{
	AUTO(store_freep) struct store *s = store_new(l, path);
	int r = store_db_open(&s->db, path, err);

	if (r == 0)
		r = store_load(s, err);
	if (r < 0)
		return r;
	store_record_tidy(s);
	*ret = STEAL(s);
	return 0;
}

struct store *store_free(struct store *s)
{
	if (!s)
		return NULL;
	store_keys_finish(s);
	store_queue_finish(s);
	store_record_finish(s);
	store_records_free(s);
	store_deliveries_free(s);
	map_free(s->by_name);
	map_free(s->by_id);
	map_free(s->keys_by_hash);
	map_free(s->keys_by_id);
	map_free(s->env_by_name);
	map_free(s->env_by_id);
	map_free(s->dep_by_id);
	map_free(s->settings);
	map_free(s->deliveries);
	sqlite3_close(s->db);
	pthread_mutex_destroy(&s->lock);
	pthread_cond_destroy(&s->idle);
	free(s->path);
	seal_done(&s->seal);
	free(s);
	return NULL;
}
