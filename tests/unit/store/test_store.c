/* The store: what is changed is there after a new start; failures are told; nothing is lost when a write fails. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/str.h"
#include "store/store.h"

static char dir[64], path[96];
static struct loop *loop;

static void set_up(void)
{
	struct err err;

	snprintf(dir, sizeof(dir), "/tmp/test-store-XXXXXX");
	cr_assert_not_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/x.db", dir);
	cr_assert_eq(loop_new(&loop, &err), 0);
}

static void tear_down(void)
{
	static const char *const suffixes[] = { "", "-wal", "-shm" };
	char p[128];

	loop = loop_free(loop);
	for (size_t i = 0; i < 3; i++) {
		snprintf(p, sizeof(p), "%s%s", path, suffixes[i]);
		unlink(p);
	}
	rmdir(dir);
}

TestSuite(store, .init = set_up, .fini = tear_down, .timeout = 60);

static struct store *open_store(void)
{
	struct store *s = NULL;
	struct err err = ERR_INIT;

	cr_assert_eq(store_open(&s, loop, path, &err), 0, "%s", err.msg);
	return s;
}

struct sync_result {
	int calls, code;
	char msg[ERR_MSG_MAX];
};

static void on_sync(void *arg, const struct err *err)
{
	struct sync_result *res = arg;

	res->calls++;
	res->code = err ? err->code : 0;
	snprintf(res->msg, sizeof(res->msg), "%s", err ? err->msg : "");
	loop_stop(loop, 0);
}

static struct sync_result sync_store(struct store *s)
{
	struct sync_result res = { 0 };

	store_sync(s, on_sync, &res);
	cr_assert_eq(res.calls, 0, "a callback ran inside the call that asked for it");
	cr_assert_eq(loop_run(loop), 0);
	cr_assert_eq(res.calls, 1);
	return res;
}

static struct store_environment *make_environment(struct store *s)
{
	struct store_namespace *ns;
	struct store_environment *e;
	struct err err;

	cr_assert_eq(store_namespace_add(s, "local", "org", &ns, &err), 0);
	cr_assert_eq(store_environment_add(s, ns, "hello", &e, &err), 0);
	return e;
}

Test(store, everything_is_there_after_a_new_start)
{
	unsigned char hash[STORE_HASH_LEN] = { 1, 2, 3 };
	struct store *s = open_store();
	struct store_environment *e = make_environment(s);
	struct store_deployment *d, *newer;
	struct store_key *k;
	struct err err;
	char env_id[STORE_ID_LEN], dep_id[STORE_ID_LEN];

	cr_assert_eq(store_key_add(s, &(struct store_key_spec){ .ns = e->ns, .label = "mine", .role = STORE_ROLE_MEMBER }, hash, &k, &err), 0);
	e->is_private = true;
	e->memory_bytes = 1ull << 33;
	store_set_str(&e->description, "it's \"quoted\"; DROP TABLE environment");
	store_environment_save(s, e);
	d = store_deployment_add(s, e, NULL, "folder");
	newer = store_deployment_add(s, e, "11111111-2222-4333-8444-555555555555", "git");
	d->state = STORE_DEPLOYMENT_FAILED;
	store_set_str(&d->reason, "no Dockerfile");
	store_deployment_save(s, d);
	store_setting_put(s, "node", "7");
	store_setting_put(s, "node", "8");
	memcpy(env_id, e->id, sizeof(env_id));
	memcpy(dep_id, d->id, sizeof(dep_id));
	cr_assert_str_eq(newer->id, "11111111-2222-4333-8444-555555555555");
	cr_assert_eq(sync_store(s).code, 0);
	store_free(s);

	s = open_store();
	e = store_environment_find(s, "local", "hello");
	cr_assert_not_null(e);
	cr_assert_str_eq(e->id, env_id);
	cr_assert_eq(e, store_environment_by_id(s, env_id));
	cr_assert(e->is_private);
	cr_assert_eq(e->memory_bytes, 1ull << 33);
	cr_assert_str_eq(e->description, "it's \"quoted\"; DROP TABLE environment");
	d = store_deployment_by_id(s, dep_id);
	cr_assert_not_null(d);
	cr_assert_eq(d->state, STORE_DEPLOYMENT_FAILED);
	cr_assert_str_eq(d->reason, "no Dockerfile");
	cr_assert_eq(d->environment, e);
	newer = list_first(&e->deployments, struct store_deployment, of_environment);
	cr_assert_str_eq(newer->id, "11111111-2222-4333-8444-555555555555", "newest first");
	k = store_key_by_hash(s, hash);
	cr_assert_not_null(k);
	cr_assert_eq(k->role, STORE_ROLE_MEMBER);
	cr_assert_str_eq(k->label, "mine");
	cr_assert_eq(k->ns, e->ns);
	cr_assert_str_eq(store_setting(s, "node"), "8");
	cr_assert_null(store_setting(s, "nothing"));
	store_free(s);
}

Test(store, a_deployment_moves_as_the_table_says_and_remembers)
{
	struct store *s = open_store();
	struct store_deployment *d = store_deployment_add(s, make_environment(s), NULL, "folder");
	enum store_deployment_state tos[3];
	const char *reasons[3];
	size_t n = 0;
	struct err err = ERR_INIT;
	char id[STORE_ID_LEN];

	cr_assert_eq(store_deployment_move(s, d, STORE_DEPLOYMENT_READY, NULL, &err), -EPROTO);
	cr_assert_not_null(strstr(err.msg, "from queued to ready"), "%s", err.msg);
	cr_assert_eq(d->state, STORE_DEPLOYMENT_QUEUED);
	cr_assert_eq(store_deployment_move(s, d, STORE_DEPLOYMENT_BUILDING, NULL, &err), 0);
	cr_assert_eq(store_deployment_move(s, d, STORE_DEPLOYMENT_FAILED, "no Dockerfile", &err), 0);
	for (int to = 0; to <= STORE_DEPLOYMENT_SUPERSEDED; to++)
		cr_assert_eq(store_deployment_may_move(d->state, (enum store_deployment_state)to), 
			     to == STORE_DEPLOYMENT_DEPLOYING || to == STORE_DEPLOYMENT_QUEUED,
			     "failed is final but for a rollback");
	memcpy(id, d->id, sizeof(id));
	store_free(s);

	s = open_store();
	d = store_deployment_by_id(s, id);
	cr_assert_eq(d->state, STORE_DEPLOYMENT_FAILED);
	list_foreach(&d->transitions, struct store_transition, of_deployment, t) {
		cr_assert_lt(n, 3);
		cr_assert_eq(t->from, n ? tos[n - 1] : t->to, "each begins where the one before ended");
		cr_assert_gt(t->at_ms, 0);
		reasons[n] = t->reason;
		tos[n++] = t->to;
	}
	cr_assert_eq(n, 3, "the refused one is not there");
	cr_assert(tos[0] == STORE_DEPLOYMENT_QUEUED && tos[1] == STORE_DEPLOYMENT_BUILDING && tos[2] == STORE_DEPLOYMENT_FAILED);
	cr_assert_str_eq(reasons[1], "its turn has come");
	cr_assert_str_eq(reasons[2], "no Dockerfile");
	store_free(s);
}

Test(store, closing_writes_what_was_not_synced)
{
	struct store *s = open_store();

	make_environment(s);
	store_free(s); /* without a turn of the loop */
	s = open_store();
	cr_assert_not_null(store_environment_find(s, "local", "hello"));
	store_free(s);
}

Test(store, names_and_twins_are_refused)
{
	struct store *s = open_store();
	struct store_environment *e = make_environment(s), *other = NULL;
	struct store_namespace *ns = NULL;
	struct err err;
	static const char *const bad[] = { "", "a/b", "../x", ".x", "-x", "a b", "\xc3\xa4" };

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		cr_assert_eq(store_environment_add(s, e->ns, bad[i], &other, &err), -EINVAL, "%s", bad[i]);
		cr_assert_eq(store_namespace_add(s, bad[i], "org", &ns, &err), -EINVAL, "%s", bad[i]);
	}
	cr_assert_eq(store_environment_add(s, e->ns, "hello", &other, &err), -EEXIST);
	cr_assert_not_null(strstr(err.msg, "local/hello"));
	cr_assert_eq(store_namespace_add(s, "local", "org", &ns, &err), -EEXIST);
	cr_assert_null(other);
	cr_assert_null(ns);
	store_free(s);
}

/* An image's name has room for 64; what an older program took is still there. */
Test(store, new_names_have_64_bytes_and_old_ones_stay)
{
	static const char old[] = "ooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooo";
	struct store *s = open_store();
	struct store_environment *e = make_environment(s), *other = NULL;
	struct store_namespace *ns = NULL;
	char name[66] = "";
	struct err err = ERR_INIT;
	sqlite3 *db;

	memset(name, 'a', 65);
	cr_assert_eq(store_environment_add(s, e->ns, name, &other, &err), -EINVAL);
	cr_assert_not_null(strstr(err.msg, "1 to 64"), "%s", err.msg);
	cr_assert_eq(store_environment_rename(s, e, name, &err), -EINVAL);
	cr_assert_eq(store_namespace_add(s, name, "org", &ns, &err), -EINVAL);
	name[64] = '\0';
	cr_assert_eq(store_environment_add(s, e->ns, name, &other, &err), 0, "%s", err.msg);
	cr_assert_eq(store_namespace_add(s, name, "org", &ns, &err), 0, "%s", err.msg);
	store_free(s);
	cr_assert_eq(sqlite3_open(path, &db), SQLITE_OK);
	auto_free char *sql = xasprintf("UPDATE environment SET name = '%s' WHERE name = 'hello'", old);
	cr_assert_eq(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
	sqlite3_close(db);

	s = open_store();
	e = store_environment_find(s, "local", old);
	cr_assert_not_null(e);
	cr_assert_eq(store_environment_check(e->ns, e, "new_name", old, &err), 0, "%s", err.msg);
	cr_assert_eq(store_environment_rename(s, e, "short", &err), 0, "%s", err.msg);
	store_free(s);
}

Test(store, a_newer_database_is_refused)
{
	struct store *s = NULL;
	struct err err;
	sqlite3 *db;

	cr_assert_eq(sqlite3_open(path, &db), SQLITE_OK);
	cr_assert_eq(sqlite3_exec(db, "PRAGMA user_version = 999", NULL, NULL, NULL), SQLITE_OK);
	sqlite3_close(db);
	cr_assert_eq(store_open(&s, loop, path, &err), -EPROTONOSUPPORT);
	cr_assert_not_null(strstr(err.msg, "999"));
	cr_assert_null(s);
}

Test(store, what_is_no_database_is_refused)
{
	struct store *s = NULL;
	struct err err;
	int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	static const char junk[] = "this is certainly not a database file, and it is longer than its header of 100 bytes is; so there";

	cr_assert_eq(write(fd, junk, sizeof(junk)), (ssize_t)sizeof(junk));
	close(fd);
	cr_assert_lt(store_open(&s, loop, path, &err), 0);
	cr_assert_not_null(strstr(err.msg, path));
}

/* A full disk is played by RLIMIT_FSIZE: SQLite's write fails, and passes again once the limit is lifted. */
Test(store, a_failed_write_is_told_and_made_up_for)
{
	struct store *s = open_store();
	struct store_environment *e = make_environment(s);
	struct rlimit none = { .rlim_cur = 0, .rlim_max = RLIM_INFINITY }, all = { RLIM_INFINITY, RLIM_INFINITY };
	char *big;

	signal(SIGXFSZ, SIG_IGN);
	cr_assert_eq(sync_store(s).code, 0);
	big = calloc(1, 1 << 20);
	memset(big, 'x', (1 << 20) - 1);
	store_set_str(&e->description, big);
	store_environment_save(s, e);
	cr_assert_eq(setrlimit(RLIMIT_FSIZE, &none), 0);
	struct sync_result res = sync_store(s);
	cr_assert_eq(setrlimit(RLIMIT_FSIZE, &all), 0);
	cr_assert_lt(res.code, 0);
	cr_assert_not_null(strstr(res.msg, path), "%s", res.msg);
	cr_assert_eq(sync_store(s).code, 0, "the change is written with the next batch");
	store_free(s);

	s = open_store();
	cr_assert_str_eq(store_environment_find(s, "local", "hello")->description, big);
	store_free(s);
	free(big);
}

static void limit_files(rlim_t bytes)
{
	struct rlimit l = { .rlim_cur = bytes, .rlim_max = RLIM_INFINITY };

	cr_assert_eq(setrlimit(RLIMIT_FSIZE, &l), 0);
}

static void stop_now(void *arg)
{
	loop_stop(arg, 0);
}

/* Somebody else wrote to the database what a change then collides with. */
Test(store, a_change_that_breaks_a_rule_takes_no_other_along)
{
	struct store *s = open_store();
	struct store_environment *e = make_environment(s);
	struct store_namespace *ns;
	struct err err = ERR_INIT;
	sqlite3 *db;

	cr_assert_eq(sync_store(s).code, 0);
	cr_assert_eq(sqlite3_open(path, &db), SQLITE_OK);
	cr_assert_eq(sqlite3_exec(db, "INSERT INTO namespace VALUES ('an-id', 'taken', 'org', 1)", NULL, NULL, NULL), SQLITE_OK);
	sqlite3_close(db);
	store_set_str(&e->description, "before");
	store_environment_save(s, e);
	cr_assert_eq(store_namespace_add(s, "taken", "org", &ns, &err), 0, "%s", err.msg);
	store_setting_put(s, "node", "behind");
	cr_assert_eq(sync_store(s).code, -EEXIST, "whoever waits hears of it");
	cr_assert_eq(sync_store(s).code, 0, "it is not tried again");
	store_free(s);

	s = open_store();
	cr_assert_str_eq(store_environment_find(s, "local", "hello")->description, "before");
	cr_assert_str_eq(store_setting(s, "node"), "behind");
	cr_assert_str_eq(store_namespace_find(s, "taken")->id, "an-id");
	store_free(s);
}

/* The first change finds the disk full and the second, a small one, does not: tried again, the first must not undo it. */
Test(store, a_change_that_failed_does_not_undo_a_later_one)
{
	struct store *s = open_store();
	struct store_environment *e = make_environment(s);
	char *big = calloc(1, 1 << 20), wal[sizeof(path) + 8];
	struct stat st;

	signal(SIGXFSZ, SIG_IGN);
	cr_assert_eq(sync_store(s).code, 0);
	snprintf(wal, sizeof(wal), "%s-wal", path);
	cr_assert_eq(stat(wal, &st), 0);
	memset(big, 'x', (1 << 20) - 1);
	limit_files((rlim_t)st.st_size + 60000);
	store_set_str(&e->description, big);
	store_environment_save(s, e);
	loop_post(loop, stop_now, loop);
	cr_assert_eq(loop_run(loop), 0); /* the first is with the writer */
	store_set_str(&e->description, "small");
	store_environment_save(s, e);
	(void)sync_store(s);
	limit_files(RLIM_INFINITY);
	cr_assert_eq(sync_store(s).code, 0);
	store_free(s);
	free(big);

	s = open_store();
	cr_assert(strcmp(store_environment_find(s, "local", "hello")->description, "small") == 0, "the failed change is back");
	store_free(s);
}

static bool on_disk(const char *description)
{
	sqlite3 *db;
	sqlite3_stmt *st = NULL;
	bool found = false;

	cr_assert_eq(sqlite3_open_v2(path, &db, SQLITE_OPEN_READONLY, NULL), SQLITE_OK);
	if (sqlite3_prepare_v2(db, "SELECT count(*) FROM environment WHERE description = ?", -1, &st, NULL) == SQLITE_OK &&
	    sqlite3_bind_text(st, 1, description, -1, SQLITE_STATIC) == SQLITE_OK && sqlite3_step(st) == SQLITE_ROW)
		found = sqlite3_column_int(st, 0) > 0;
	sqlite3_finalize(st);
	sqlite3_close(db);
	return found;
}

static void on_look(struct loop_timer *t, void *arg)
{
	if (on_disk(arg))
		loop_stop(loop, 0);
	else
		loop_timer_start(t, 50);
}

Test(store, a_change_that_failed_is_tried_again_though_nobody_changes_anything)
{
	struct store *s = open_store();
	struct store_environment *e = make_environment(s);
	struct loop_timer look;

	signal(SIGXFSZ, SIG_IGN);
	cr_assert_eq(sync_store(s).code, 0);
	store_set_str(&e->description, "later");
	store_environment_save(s, e);
	limit_files(0);
	cr_assert_lt(sync_store(s).code, 0);
	limit_files(RLIM_INFINITY);
	cr_assert_not(on_disk("later"));
	loop_timer_init(&look, loop, on_look, (char[]){ "later" });
	loop_timer_start(&look, 1);
	cr_assert_eq(loop_run(loop), 0);
	store_free(s);
}

Test(store, a_renamed_environment_keeps_its_origin)
{
	struct store *s = open_store();
	struct store_namespace *ns;
	struct store_environment *e, *other;
	struct err err;

	cr_assert_eq(store_namespace_add(s, "acme", "org", &ns, &err), 0);
	cr_assert_eq(store_environment_add(s, ns, "one", &e, &err), 0);
	cr_assert_eq(store_environment_add(s, ns, "two", &other, &err), 0);
	cr_assert_str_eq(e->origin.branch, "main");
	cr_assert_eq(store_environment_rename(s, e, "two", &err), -EEXIST);
	cr_assert_eq(store_environment_rename(s, e, "../x", &err), -EINVAL);
	cr_assert_eq(store_environment_rename(s, e, "three", &err), 0);
	store_set_str(&e->origin.subdirectory, "sub");
	e->origin.github_id = 42;
	store_origin_save(s, e);
	store_free(s);

	s = open_store();
	cr_assert_null(store_environment_find(s, "acme", "one"));
	e = store_environment_find(s, "acme", "three");
	cr_assert_not_null(e);
	cr_assert_str_eq(e->origin.subdirectory, "sub");
	cr_assert_eq(e->origin.github_id, 42);
	store_free(s);
}

Test(store, deliveries_are_remembered_up_to_a_limit)
{
	struct store *s = open_store();
	char id[32];

	for (int i = 0; i <= STORE_DELIVERIES_MAX; i++) {
		snprintf(id, sizeof(id), "delivery-%d", i);
		store_delivery_add(s, id);
	}
	store_free(s);

	s = open_store();
	cr_assert_not(store_delivery_known(s, "delivery-0"));
	cr_assert(store_delivery_known(s, "delivery-1"));
	cr_assert(store_delivery_known(s, id));
	store_free(s);
}

Test(store, a_removed_environment_is_gone_and_its_name_free)
{
	struct store *s = open_store();
	struct store_namespace *ns;
	struct store_environment *e, *other;
	struct err err = ERR_INIT;

	cr_assert_eq(store_namespace_add(s, "n", "user", &ns, &err), 0);
	cr_assert_eq(store_environment_add(s, ns, "gone", &e, &err), 0);
	cr_assert_eq(store_environment_add(s, ns, "stays", &other, &err), 0);
	struct store_deployment *d = store_deployment_add(s, e, NULL, "folder");
	store_set_str(&e->origin.branch, "dev");
	store_origin_save(s, e);
	cr_assert_eq(store_deployment_move(s, d, STORE_DEPLOYMENT_BUILDING, NULL, &err), 0);
	store_environment_remove(s, e);
	cr_assert_null(store_environment_find(s, "n", "gone"));
	cr_assert_null(store_environment_by_id(s, e->id));
	cr_assert_null(store_deployment_by_id(s, d->id));
	/* Whoever holds it still may say so, and harms nobody whose change is in the same transaction. */
	cr_assert_eq(store_deployment_move(s, d, STORE_DEPLOYMENT_FAILED, NULL, &err), 0);
	store_deployment_save(s, d);
	store_environment_save(s, e);
	store_origin_save(s, e);
	store_set_str(&other->description, "here");
	store_environment_save(s, other);
	struct sync_result res = sync_store(s);
	cr_assert_eq(res.code, 0, "%s", res.msg);
	cr_assert_eq(store_environment_add(s, ns, "gone", &e, &err), 0, "%s", err.msg);
	store_free(s);
	s = open_store();
	e = store_environment_find(s, "n", "gone");
	cr_assert(e && list_empty(&e->deployments));
	cr_assert_str_eq(e->origin.branch, STORE_BRANCH_DEFAULT);
	cr_assert_str_eq(store_environment_find(s, "n", "stays")->description, "here");
	store_free(s);
}

Test(store, a_removed_user_leaves_nothing_that_is_found)
{
	static const unsigned char hash[2][STORE_HASH_LEN] = { { 1 }, { 2 } };
	struct store *s = open_store();
	struct store_namespace *org = NULL, *user = NULL, *again = NULL;
	struct store_key *own = NULL, *for_org = NULL;
	struct err err = ERR_INIT;

	cr_assert_eq(store_namespace_add(s, "org", "org", &org, &err), 0);
	cr_assert_eq(store_namespace_add(s, "alice", "user", &user, &err), 0);
	store_member_remove(s, store_member_put(s, org, user, STORE_ROLE_MEMBER));
	struct store_key_spec specs[] = { { .ns = user, .user = user, .label = "", .limits = { 3, STORE_LIMIT_NONE } },
					  { .ns = org, .user = user, .label = "" } };
	cr_assert_eq(store_key_add(s, &specs[0], hash[0], &own, &err), 0);
	specs[1].maker = own;
	cr_assert_eq(store_key_add(s, &specs[1], hash[1], &for_org, &err), 0);
	store_free(s);

	s = open_store();
	own = store_key_by_hash(s, hash[0]);
	for_org = store_key_by_hash(s, hash[1]);
	cr_assert(own->limits[0] == 3 && own->limits[1] == STORE_LIMIT_NONE && own->limits[2] == 0);
	cr_assert(!own->maker && for_org->maker == own && for_org->depth == 1);
	store_key_limit(s, for_org, (int64_t[STORE_LIMITS]){ 0, 5, 7 });
	store_key_used(s, own);
	store_free(s);

	s = open_store();
	for_org = store_key_by_hash(s, hash[1]);
	own = store_key_by_hash(s, hash[0]);
	cr_assert(for_org->limits[0] == 0 && for_org->limits[1] == 5 && for_org->limits[2] == 7);
	store_key_used(s, own);
	store_user_remove(s, store_namespace_find(s, "alice"));
	cr_assert(store_key_is_over(own) && store_key_is_over(for_org), "whoever holds one sees it");
	cr_assert_null(store_key_by_hash(s, hash[0]));
	cr_assert_null(store_key_by_id(s, for_org->id));
	cr_assert(list_empty(&store_namespace_find(s, "org")->keys));
	cr_assert_eq(store_namespace_add(s, "Alice", "org", &again, &err), 0, "the name is free");
	store_free(s);

	s = open_store();
	cr_assert_null(store_namespace_find(s, "alice"));
	cr_assert_not_null(store_namespace_find(s, "Alice"));
	cr_assert_null(store_key_by_hash(s, hash[1]));
	store_free(s);
}

/* -- what waits for the disk ------------------------------------------------------------------------------------------- */

static void many(struct store *s, int n)
{
	for (int i = 0; i < n; i++)
		store_setting_put(s, "node", "x");
}

Test(store, no_more_than_a_number_of_changes_wait_for_the_disk)
{
	struct store *s = open_store();
	struct err err = ERR_INIT;

	signal(SIGXFSZ, SIG_IGN);
	store_limit_queue(s, 50);
	cr_assert_eq(sync_store(s).code, 0);
	many(s, 100);
	cr_assert_eq(store_check_queue(s, &err), 0, "nothing has failed");
	limit_files(0);
	cr_assert_lt(sync_store(s).code, 0);
	cr_assert_eq(store_check_queue(s, &err), -ENOSPC);
	cr_assert(strstr(err.msg, "100 changes") && strstr(err.msg, path), "%s", err.msg);
	limit_files(RLIM_INFINITY);
	cr_assert_eq(sync_store(s).code, 0);
	cr_assert_eq(store_check_queue(s, &err), 0);
	store_free(s);
}

static void on_change(struct loop_timer *t, void *arg)
{
	many(arg, 1);
	loop_timer_start(t, 10);
}

/* Under load nothing is tried for each change that comes. */
Test(store, what_failed_is_tried_again_after_a_pause_whatever_comes_meanwhile)
{
	struct store *s = open_store();
	struct timespec before, after;
	struct loop_timer change;

	signal(SIGXFSZ, SIG_IGN);
	cr_assert_eq(sync_store(s).code, 0);
	many(s, 1);
	limit_files(0);
	cr_assert_lt(sync_store(s).code, 0);
	limit_files(RLIM_INFINITY);
	loop_timer_init(&change, loop, on_change, s);
	loop_timer_start(&change, 1);
	clock_gettime(CLOCK_MONOTONIC, &before);
	cr_assert_eq(sync_store(s).code, 0);
	clock_gettime(CLOCK_MONOTONIC, &after);
	loop_timer_stop(&change);
	cr_assert_geq((after.tv_sec - before.tv_sec) * 1000 + (after.tv_nsec - before.tv_nsec) / 1000000, 500);
	store_free(s);
}

static size_t lost;

static void on_lost(void *arg, size_t n, const struct err *err)
{
	(void)arg;
	cr_assert(strstr(err->msg, path), "%s", err->msg);
	lost += n;
}

Test(store, what_is_lost_at_the_end_is_told)
{
	struct store *s = open_store();

	signal(SIGXFSZ, SIG_IGN);
	cr_assert_eq(sync_store(s).code, 0);
	store_on_lost(s, on_lost, NULL);
	many(s, 3);
	limit_files(0);
	cr_assert_lt(sync_store(s).code, 0);
	many(s, 2);
	store_free(s);
	limit_files(RLIM_INFINITY);
	cr_assert_eq(lost, 5);
}
