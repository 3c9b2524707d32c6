/* Keys, roles, and who is a member of what. */
#include "store/internal.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "base/time.h"

#define PREFIX_MIN 8
#define USE_FLUSH_MS 60000

/* -- roles ----------------------------------------------------------------------------------------------------- */

static const char *const role_names[] = {
#define X(name, text) [STORE_ROLE_##name] = text,
	STORE_ROLES(X)
#undef X
};

const char *store_role_name(enum store_role r)
{
	return role_names[r];
}

int store_role_of(const char *name)
{
	for (size_t i = 0; i < ARRAY_LEN(role_names); i++)
		if (str_eq(role_names[i], name))
			return (int)i;
	return -1;
}

int store_role_read(const char *field, const char *name, enum store_role max, enum store_role *ret, struct err *err)
{
	int role = store_role_of(name);

	if (role >= 0 && role <= (int)max) {
		*ret = (enum store_role)role;
		return 0;
	}
	return err_set(err, -EINVAL, "%s: \"%.60s\": expected reader%s%s%s", field, name,
		       max >= STORE_ROLE_MEMBER ? ", member" : "",
		       max >= STORE_ROLE_OWNER ? ", owner" : "", max >= STORE_ROLE_ADMIN ? ", admin" : "");
}

/* -- members --------------------------------------------------------------------------------------------------- */

bool store_namespace_is_user(const struct store_namespace *ns)
{
	return str_eq(ns->type, "user");
}

struct store_member *store_member_attach(struct store_namespace *org, struct store_namespace *user, enum store_role role)
{
	struct store_member *m = NEW(struct store_member);

	*m = (struct store_member){ .org = org, .user = user, .role = role };
	list_push_back(&org->members, &m->of_org);
	list_push_back(&user->memberships, &m->of_user);
	return m;
}

/* By the user's list: a user is in few organisations, one of which may have many members. */
struct store_member *store_member_find(const struct store_namespace *org, const struct store_namespace *user)
{
	list_foreach((struct list *)&user->memberships, struct store_member, of_user, m)
		if (m->org == org)
			return m;
	return NULL;
}

struct store_member *store_member_put(struct store *s, struct store_namespace *org, struct store_namespace *user,
				      enum store_role role)
{
	struct store_member *m = store_member_find(org, user);
	struct store_op *op;

	if (!m) {
		m = store_member_attach(org, user, role);
		m->created_ms = time_wall_ms();
	}
	m->role = role;
	op = store_op_new(s, "INSERT INTO member (org_id, user_id, role, created_ms) VALUES (?, ?, ?, ?)"
			     " ON CONFLICT (org_id, user_id) DO UPDATE SET role = excluded.role");
	store_op_text(op, org->id);
	store_op_text(op, user->id);
	store_op_text(op, store_role_name(role));
	store_op_i64(op, m->created_ms);
	return m;
}

void store_member_remove(struct store *s, struct store_member *m)
{
	struct store_op *op = store_op_new(s, "DELETE FROM member WHERE org_id = ? AND user_id = ?");

	store_op_text(op, m->org->id);
	store_op_text(op, m->user->id);
	list_remove(&m->of_org);
	list_remove(&m->of_user);
	free(m);
}

bool store_member_is_last_owner(const struct store_member *m)
{
	if (m->role != STORE_ROLE_OWNER)
		return false;
	list_foreach(&m->org->members, struct store_member, of_org, other)
		if (other != m && other->role == STORE_ROLE_OWNER)
			return false;
	return true;
}

/* -- keys ------------------------------------------------------------------------------------------------------ */

struct store_key *store_key_attach(struct store *s, struct store_namespace *ns, const char *id, const unsigned char *hash)
{
	struct store_key *k = NEW(struct store_key);

	store_copy_id(k->id, id);
	k->ns = ns;
	memcpy(k->hash, hash, sizeof(k->hash));
	store_set_str(&k->label, "");
	list_init(&k->used);
	list_push_back(&ns->keys, &k->of_namespace);
	map_put_bytes(s->keys_by_hash, k->hash, sizeof(k->hash), k);
	map_put(s->keys_by_id, k->id, k);
	return k;
}

struct store_key *store_key_by_hash(struct store *s, const unsigned char hash[STORE_HASH_LEN])
{
	return map_get_bytes(s->keys_by_hash, hash, STORE_HASH_LEN);
}

struct store_key *store_key_by_id(struct store *s, const char *id)
{
	return map_get(s->keys_by_id, id);
}

struct store_key *store_key_by_prefix(struct store *s, const char *prefix)
{
	struct store_key *found = store_key_by_id(s, prefix);
	struct map_iter it = { 0 };

	if (found || strlen(prefix) < PREFIX_MIN)
		return found;
	while (map_next(s->keys_by_id, &it))
		if (str_starts(it.key, prefix)) {
			if (found)
				return NULL;
			found = it.value;
		}
	return found;
}

void store_key_set_maker(struct store_key *k, struct store_key *maker)
{
	k->maker = maker && maker->depth == STORE_MAKERS ? maker->maker : maker;
	k->depth = k->maker ? k->maker->depth + 1 : 0;
}

static void put_key(struct store *s, const struct store_key *k)
{
	struct store_op *op = store_op_new(s, "INSERT INTO api_key (id, namespace_id, label, role, hash, created_ms, revoked_ms,"
					      " expires_ms, max_sessions, max_sandboxes, max_rate, maker_id, user_id)"
			     " VALUES (?, ?, ?, ?, ?, ?, 0, ?, ?, ?, ?, ?, ?)");

	store_op_text(op, k->id);
	store_op_text(op, k->ns->id);
	store_op_text(op, k->label);
	store_op_text(op, store_role_name(k->role));
	store_op_blob(op, k->hash, sizeof(k->hash));
	store_op_i64(op, k->created_ms);
	store_op_i64(op, k->expires_ms);
	for (size_t i = 0; i < STORE_LIMITS; i++)
		store_op_i64(op, k->limits[i]);
	store_op_text(op, k->maker ? k->maker->id : "");
	if (k->user)
		store_op_text(op, k->user->id);
}

int store_key_add(struct store *s, const struct store_key_spec *spec, const unsigned char hash[STORE_HASH_LEN],
		  struct store_key **ret, struct err *err)
{
	if (store_key_by_hash(s, hash))
		return err_set(err, -EEXIST, "this key exists");
	int r = store_check_room(s, err);
	if (r < 0)
		return r;
	struct store_key *k = store_key_attach(s, spec->ns, NULL, hash);
	store_set_str(&k->label, spec->label);
	k->user = spec->user;
	k->role = spec->role;
	k->expires_ms = spec->expires_ms;
	memcpy(k->limits, spec->limits, sizeof(k->limits));
	store_key_set_maker(k, spec->maker);
	k->created_ms = time_wall_ms();
	put_key(s, k);
	*ret = k;
	return 0;
}

void store_counts(const struct store *s, uint64_t *ret_namespaces, uint64_t *ret_keys)
{
	*ret_namespaces = *ret_keys = 0;
	list_foreach(&s->namespaces, struct store_namespace, all, ns) {
		++*ret_namespaces;
		list_foreach(&ns->keys, struct store_key, of_namespace, k)
			*ret_keys += !store_key_is_over(k);
	}
}

bool store_key_is_over(const struct store_key *k)
{
	return k->revoked_ms || (k->expires_ms && k->expires_ms <= time_wall_ms());
}

void store_key_revoke(struct store *s, struct store_key *k)
{
	if (k->revoked_ms)
		return;
	k->revoked_ms = time_wall_ms();
	struct store_op *op = store_op_new(s, "UPDATE api_key SET revoked_ms = ? WHERE id = ?");
	store_op_i64(op, k->revoked_ms);
	store_op_text(op, k->id);
}

void store_key_limit(struct store *s, struct store_key *k, const int64_t limits[STORE_LIMITS])
{
	struct store_op *op = store_op_new(s, "UPDATE api_key SET max_sessions = ?, max_sandboxes = ?, max_rate = ? WHERE id = ?");

	memcpy(k->limits, limits, sizeof(k->limits));
	for (size_t i = 0; i < STORE_LIMITS; i++)
		store_op_i64(op, limits[i]);
	store_op_text(op, k->id);
}

/* Whoever holds one sees that it is over. One for an organisation stays with its user from now on. */
static void forget(struct store *s, struct store_key *k, struct store_namespace *user)
{
	k->revoked_ms = k->revoked_ms ? k->revoked_ms : time_wall_ms();
	map_del_bytes(s->keys_by_hash, k->hash, sizeof(k->hash));
	map_del(s->keys_by_id, k->id);
	list_remove(&k->used);
	list_remove(&k->of_namespace);
	list_push_back(&user->keys, &k->of_namespace);
}

void store_keys_forget(struct store *s, struct store_namespace *user)
{
	struct map_iter it = { 0 };
	size_t n = 0;
	auto_free struct store_key **theirs = xcalloc(map_len(s->keys_by_id) + 1, sizeof(struct store_key *));

	while (map_next(s->keys_by_id, &it)) {
		struct store_key *k = it.value;
		if (k->user == user || k->ns == user)
			theirs[n++] = k;
	}
	while (n)
		forget(s, theirs[--n], user);
}

/* -- the last use ---------------------------------------------------------------------------------------------- */

static void flush_uses(struct store *s)
{
	struct store_key *k;

	while ((k = list_first(&s->keys_used, struct store_key, used))) {
		struct store_op *op = store_op_new(s, "UPDATE api_key SET last_used_ms = ? WHERE id = ?");
		store_op_i64(op, k->last_used_ms);
		store_op_text(op, k->id);
		list_remove(&k->used);
	}
}

static void on_use_timer(struct loop_timer *t UNUSED, void *arg)
{
	flush_uses(arg);
}

void store_key_used(struct store *s, struct store_key *k)
{
	k->last_used_ms = time_wall_ms();
	if (!list_empty(&k->used))
		return;
	list_push_back(&s->keys_used, &k->used);
	if (!loop_timer_armed(&s->use_timer))
		loop_timer_start(&s->use_timer, USE_FLUSH_MS);
}

/* -- beginning and end ----------------------------------------------------------------------------------------- */

void store_keys_init(struct store *s)
{
	s->keys_by_hash = map_new();
	s->keys_by_id = map_new();
	list_init(&s->keys_used);
	loop_timer_init(&s->use_timer, s->loop, on_use_timer, s);
}

void store_keys_finish(struct store *s)
{
	loop_timer_stop(&s->use_timer);
	flush_uses(s);
}

void store_keys_free(struct store_namespace *ns)
{
	list_foreach(&ns->members, struct store_member, of_org, m)
		free(m);
	list_foreach(&ns->keys, struct store_key, of_namespace, k) {
		free(k->label);
		free(k);
	}
}
