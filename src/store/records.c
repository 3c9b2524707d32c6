/* The records in memory, and the statements that repeat their changes in the database. */
#include "store/internal.h"

#include <errno.h>
#include <libgen.h>
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>

#include "base/mem.h"
#include "base/random.h"
#include "base/str.h"
#include "base/time.h"
#include "base/unicode.h"

#define FOLDED_MAX (4 * STORE_NAME_MAX) /* bytes: no character of UTF-8 has more than 4 */
#define PREFIX_MIN 8 /* characters of an id, as command lines show it */

void store_set_str(char **field, const char *value)
{
	char *copy = xstrdup(value ? value : "");

	free(*field);
	*field = copy;
}

int store_check_room(const struct store *s, struct err *err)
{
	auto_free char *path = xstrdup(s->path);
	const char *folder = dirname(path);
	struct statvfs fs;

	if (statvfs(folder, &fs) < 0 || (uint64_t)fs.f_bavail * fs.f_frsize >= STORE_ROOM_BYTES)
		return 0; /* who cannot be asked will say so when it is written to */
	return err_set(err, -ENOSPC, "the disk of %s is full: %llu KiB are free, a change needs %u", folder,
		       (unsigned long long)fs.f_bavail * fs.f_frsize >> 10, STORE_ROOM_BYTES >> 10);
}

/* For a name that is given now. */
static int check_name(const char *what, const char *name, struct err *err)
{
	if (str_is_name(name, STORE_NAME_NEW_MAX))
		return 0;
	return err_set(err, -EINVAL,
		       "%s: \"%.120s\": expected 1 to %d ASCII letters, digits, '.', '_' and '-', the first a letter or digit",
		       what,
		       name ? name : "", STORE_NAME_NEW_MAX);
}

static int taken(const char *what, const char *name, const char *by, struct err *err)
{
	if (str_eq(name, by))
		return err_set(err, -EEXIST, "the %s \"%s\" exists", what, name);
	return err_set(err, -EEXIST, "the %s \"%s\" exists, and \"%s\" differs from it by %s only", what, by, name,
		       str_ieq(name, by) ? "case" : "the form of its letters");
}

/* What a new name is compared as, by str_ieq(): names that exist are ASCII. NULL for what no name could fold to. */
static char *comparable(const char *name)
{
	return name && strlen(name) <= FOLDED_MAX ? unicode_fold(name) : NULL;
}

void store_copy_id(char ret[STORE_ID_LEN], const char *id)
{
	if (id)
		snprintf(ret, STORE_ID_LEN, "%s", id);
	else
		random_uuid(ret);
}

/* -- namespaces ------------------------------------------------------------------------------------------------ */

struct store_namespace *store_namespace_attach(struct store *s, const char *id, const char *name, const char *type)
{
	struct store_namespace *ns = NEW(struct store_namespace);

	store_copy_id(ns->id, id);
	ns->name = xstrdup(name);
	ns->type = xstrdup(type);
	list_init(&ns->keys);
	list_init(&ns->members);
	list_init(&ns->memberships);
	list_init(&ns->environments);
	list_push_back(&s->namespaces, &ns->all);
	map_put(s->by_name, ns->name, ns);
	map_put(s->by_id, ns->id, ns);
	return ns;
}

struct store_namespace *store_namespace_find(struct store *s, const char *name)
{
	return map_get(s->by_name, name);
}

struct store_namespace *store_namespace_by_id(struct store *s, const char *id)
{
	return map_get(s->by_id, id);
}

void store_namespaces(struct store *s, store_namespace_fn *fn, void *arg)
{
	list_foreach(&s->namespaces, struct store_namespace, all, ns)
		if (!fn(arg, ns))
			return;
}

int store_namespace_add(struct store *s, const char *name, const char *type, struct store_namespace **ret, struct err *err)
{
	auto_free char *as = comparable(name);

	list_foreach(&s->namespaces, struct store_namespace, all, other)
		if (str_ieq(other->name, as))
			return taken("namespace", name, other->name, err);
	int r = check_name("namespace", name, err);
	r = r < 0 ? r : store_check_room(s, err);
	if (r < 0)
		return r;
	struct store_namespace *ns = store_namespace_attach(s, NULL, name, type);
	ns->created_ms = time_wall_ms();

	struct store_op *op = store_op_new(s, "INSERT INTO namespace (id, name, type, created_ms) VALUES (?, ?, ?, ?)");
	store_op_text(op, ns->id);
	store_op_text(op, ns->name);
	store_op_text(op, ns->type);
	store_op_i64(op, ns->created_ms);
	*ret = ns;
	return 0;
}

void store_user_remove(struct store *s, struct store_namespace *user)
{
	/* Children before parents. What was recorded for it is many rows: retention takes it (record_trim.c). */
	static const char *const statements[] = {
		"DELETE FROM api_key WHERE ?1 IN (namespace_id, user_id)",
		("INSERT INTO record_usage (namespace_id, last_seq, num_messages, is_gone) VALUES (?, 1, 0, 1)"
		 " ON CONFLICT (namespace_id) DO UPDATE SET is_gone = 1"),
		"DELETE FROM namespace WHERE id = ?",
	};

	for (size_t i = 0; i < ARRAY_LEN(statements); i++)
		store_op_text(store_op_new(s, statements[i]), user->id);
	store_keys_forget(s, user);
	map_del(s->by_name, user->name);
	map_del(s->by_id, user->id);
	list_remove(&user->all);
	list_push_back(&s->former, &user->all);
}

/* -- environments ---------------------------------------------------------------------------------------------- */

static char *environment_key(const char *owner, const char *name)
{
	return xasprintf("%s/%s", owner, name);
}

struct store_environment *store_environment_attach(struct store *s, struct store_namespace *ns, const char *id,
						   const char *name)
{
	struct store_environment *e = NEW(struct store_environment);
	auto_free char *key = environment_key(ns->name, name);

	store_copy_id(e->id, id);
	e->ns = ns;
	e->name = xstrdup(name);
	store_set_str(&e->description, "");
	store_origin_init(&e->origin);
	list_init(&e->deployments);
	list_push_back(&ns->environments, &e->of_namespace);
	map_put(s->env_by_name, key, e);
	map_put(s->env_by_id, e->id, e);
	return e;
}

struct store_environment *store_environment_find(struct store *s, const char *owner, const char *name)
{
	auto_free char *key = environment_key(owner, name);

	return map_get(s->env_by_name, key);
}

struct store_environment *store_environment_by_id(struct store *s, const char *id)
{
	return map_get(s->env_by_id, id);
}

static void put_environment(struct store *s, const struct store_environment *e)
{
	if (e->removed)
		return;
	struct store_op *op = store_op_new(
		s, "INSERT INTO environment (id, namespace_id, name, description, is_private, is_harbor, cpu_milli,"
		   " memory_bytes, max_concurrency, max_scale, created_ms, updated_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
		   " ON CONFLICT (id) DO UPDATE SET name = excluded.name, description = excluded.description, is_private = excluded.is_private,"
		   " is_harbor = excluded.is_harbor, cpu_milli = excluded.cpu_milli, memory_bytes = excluded.memory_bytes,"
		   " max_concurrency = excluded.max_concurrency, max_scale = excluded.max_scale,"
		   " updated_ms = excluded.updated_ms");

	store_op_text(op, e->id);
	store_op_text(op, e->ns->id);
	store_op_text(op, e->name);
	store_op_text(op, e->description);
	store_op_i64(op, e->is_private);
	store_op_i64(op, e->is_harbor);
	store_op_i64(op, (int64_t)e->cpu_milli);
	store_op_i64(op, (int64_t)e->memory_bytes);
	store_op_i64(op, (int64_t)e->max_concurrency);
	store_op_i64(op, (int64_t)e->max_scale);
	store_op_i64(op, e->created_ms);
	store_op_i64(op, e->updated_ms);
}

/* Two names of one namespace that differ by case only would be one on a file system that folds it, and in people's ears; other
 * forms of a letter are in their eyes. */
static int check_free(const struct store_namespace *ns, const struct store_environment *self, const char *name, struct err *err)
{
	auto_free char *as = comparable(name);

	list_foreach((struct list *)&ns->environments, struct store_environment, of_namespace, other) {
		if (other == self || !str_ieq(other->name, as))
			continue;
		auto_free char *full = environment_key(ns->name, name);
		auto_free char *by = environment_key(ns->name, other->name);
		return taken("environment", full, by, err);
	}
	return 0;
}

int store_environment_check(const struct store_namespace *ns, const struct store_environment *self, const char *field,
			    const char *name, struct err *err)
{
	int r = check_free(ns, self, name, err);

	if (r == 0 && self && str_eq(self->name, name)) /* however long: it stays */
		return 0;
	return r < 0 ? r : check_name(field, name, err);
}

int store_environment_add(struct store *s, struct store_namespace *ns, const char *name, struct store_environment **ret,
			  struct err *err)
{
	int r = store_environment_check(ns, NULL, "name", name, err);

	r = r < 0 ? r : store_check_room(s, err);
	if (r < 0)
		return r;
	struct store_environment *e = store_environment_attach(s, ns, NULL, name);
	e->max_concurrency = 1000;
	e->max_scale = 1;
	e->created_ms = e->updated_ms = time_wall_ms();
	put_environment(s, e);
	*ret = e;
	return 0;
}

void store_environment_save(struct store *s, struct store_environment *e)
{
	e->updated_ms = time_wall_ms();
	put_environment(s, e);
}

int store_environment_rename(struct store *s, struct store_environment *e, const char *name, struct err *err)
{
	int r = store_environment_check(e->ns, e, "name", name, err);

	if (r < 0 || str_eq(e->name, name))
		return r;
	r = store_check_room(s, err);
	if (r < 0)
		return r;
	auto_free char *old = environment_key(e->ns->name, e->name);
	auto_free char *new = environment_key(e->ns->name, name);
	map_del(s->env_by_name, old);
	map_put(s->env_by_name, new, e);
	store_set_str(&e->name, name);
	store_environment_save(s, e);
	return 0;
}

void store_environments(struct store *s, store_environment_fn *fn, void *arg)
{
	list_foreach(&s->namespaces, struct store_namespace, all, ns)
		list_foreach(&ns->environments, struct store_environment, of_namespace, e)
			if (!fn(arg, e))
				return;
}

/* -- deployments ----------------------------------------------------------------------------------------------- */

struct store_deployment *store_deployment_attach(struct store *s, struct store_environment *e, const char *id)
{
	struct store_deployment *d = NEW(struct store_deployment);

	store_copy_id(d->id, id);
	d->environment = e;
	store_set_str(&d->image, "");
	store_set_str(&d->source, "");
	store_set_str(&d->branch, "");
	store_set_str(&d->commit, "");
	store_set_str(&d->reason, "");
	list_init(&d->transitions);
	list_push_front(&e->deployments, &d->of_environment);
	map_put(s->dep_by_id, d->id, d);
	return d;
}

struct store_deployment *store_deployment_by_id(struct store *s, const char *id)
{
	return map_get(s->dep_by_id, id);
}

struct store_deployment *store_deployment_by_prefix(struct store *s, const char *prefix)
{
	struct store_deployment *found = map_get(s->dep_by_id, prefix);
	struct map_iter it = { 0 };

	if (found || strlen(prefix) < PREFIX_MIN)
		return found;
	while (map_next(s->dep_by_id, &it))
		if (str_starts(it.key, prefix)) {
			if (found)
				return NULL;
			found = it.value;
		}
	return found;
}

static void put_deployment(struct store *s, const struct store_deployment *d)
{
	if (d->environment->removed)
		return;
	struct store_op *op = store_op_new(
		s, "INSERT INTO deployment (id, environment_id, state, image, source, branch, commit_sha, reason, cpu_milli,"
		   " memory_bytes, created_ms, updated_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
		   " ON CONFLICT (id) DO UPDATE SET state = excluded.state, image = excluded.image, source = excluded.source,"
		   " branch = excluded.branch, commit_sha = excluded.commit_sha, reason = excluded.reason,"
		   " cpu_milli = excluded.cpu_milli, memory_bytes = excluded.memory_bytes, updated_ms = excluded.updated_ms");

	store_op_text(op, d->id);
	store_op_text(op, d->environment->id);
	store_op_text(op, store_deployment_state_name(d->state));
	store_op_text(op, d->image);
	store_op_text(op, d->source);
	store_op_text(op, d->branch);
	store_op_text(op, d->commit);
	store_op_text(op, d->reason);
	store_op_i64(op, (int64_t)d->cpu_milli);
	store_op_i64(op, (int64_t)d->memory_bytes);
	store_op_i64(op, d->created_ms);
	store_op_i64(op, d->updated_ms);
}

struct store_deployment *store_deployment_add(struct store *s, struct store_environment *e, const char *id,
					      const char *source)
{
	struct store_deployment *d = store_deployment_attach(s, e, id);

	store_set_str(&d->source, source);
	d->state = STORE_DEPLOYMENT_QUEUED;
	d->cpu_milli = e->cpu_milli;
	d->memory_bytes = e->memory_bytes;
	d->created_ms = d->updated_ms = time_wall_ms();
	put_deployment(s, d);
	store_transition_add(s, d, d->state, d->state, source);
	return d;
}

void store_deployment_save(struct store *s, struct store_deployment *d)
{
	d->updated_ms = time_wall_ms();
	put_deployment(s, d);
}

/* -- removal --------------------------------------------------------------------------------------------------- */

void store_environment_remove(struct store *s, struct store_environment *e)
{
	/* Children before parents. */
	static const char *const statements[] = {
		"DELETE FROM deployment_transitions WHERE deployment_id IN (SELECT id FROM deployment WHERE environment_id = ?)",
		"DELETE FROM deployment WHERE environment_id = ?",
		"DELETE FROM environment_setting WHERE environment_id = ?",
		"DELETE FROM environment_origin WHERE environment_id = ?",
		"DELETE FROM environment WHERE id = ?",
	};
	auto_free char *key = environment_key(e->ns->name, e->name);

	for (size_t i = 0; i < ARRAY_LEN(statements); i++)
		store_op_text(store_op_new(s, statements[i]), e->id);
	list_foreach(&e->deployments, struct store_deployment, of_environment, d)
		map_del(s->dep_by_id, d->id);
	map_del(s->env_by_name, key);
	map_del(s->env_by_id, e->id);
	list_remove(&e->of_namespace);
	list_push_back(&s->removed, &e->of_namespace);
	e->removing = e->removed = true;
}

/* -- settings -------------------------------------------------------------------------------------------------- */

const char *store_setting(struct store *s, const char *key)
{
	return map_get(s->settings, key);
}

void store_setting_put(struct store *s, const char *key, const char *value)
{
	free(map_put(s->settings, key, xstrdup(value)));
	struct store_op *op = store_op_new(s, "INSERT INTO setting (key, value) VALUES (?, ?)"
					      " ON CONFLICT (key) DO UPDATE SET value = excluded.value");
	store_op_text(op, key);
	store_op_text(op, value);
}

/* -- the end --------------------------------------------------------------------------------------------------- */

static void environment_free(struct store_environment *e)
{
	list_foreach(&e->deployments, struct store_deployment, of_environment, d) {
		free(d->image);
		free(d->source);
		free(d->branch);
		free(d->commit);
		free(d->reason);
		store_transitions_free(d);
		free(d);
	}
	for (size_t i = 0; i < ARRAY_LEN(e->settings); i++)
		free(e->settings[i]);
	free(e->name);
	free(e->description);
	store_origin_done(&e->origin);
	free(e);
}

static void namespace_free(struct store_namespace *ns)
{
	store_keys_free(ns);
	list_foreach(&ns->environments, struct store_environment, of_namespace, e)
		environment_free(e);
	free(ns->name);
	free(ns->type);
	free(ns);
}

void store_records_free(struct store *s)
{
	struct map_iter it = { 0 };

	list_foreach(&s->removed, struct store_environment, of_namespace, e)
		environment_free(e);

	list_foreach(&s->namespaces, struct store_namespace, all, ns)
		namespace_free(ns);
	list_foreach(&s->former, struct store_namespace, all, ns)
		namespace_free(ns);
	while (map_next(s->settings, &it))
		free(it.value);
}
