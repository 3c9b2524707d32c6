/* Keys and permission. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "auth/auth.h"

static char dir[64], path[96], key_path[96];
static struct loop *loop;
static struct store *store;
static struct auth *auth;

static void set_up(void)
{
	struct err err;

	snprintf(dir, sizeof(dir), "/tmp/test-auth-XXXXXX");
	cr_assert_not_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/x.db", dir);
	snprintf(key_path, sizeof(key_path), "%s/admin.key", dir);
	cr_assert_eq(loop_new(&loop, &err), 0);
	cr_assert_eq(store_open(&store, loop, path, &err), 0);
	cr_assert_eq(auth_new(&auth, store, &err), 0);
}

static void tear_down(void)
{
	auth = auth_free(auth);
	store = store_free(store);
	loop = loop_free(loop);
	unlink(path);
	unlink(key_path);
	rmdir(dir);
}

TestSuite(auth, .init = set_up, .fini = tear_down, .timeout = 20);

Test(auth, first_start_makes_a_key_for_its_owner_only)
{
	char key[AUTH_KEY_LEN], again[AUTH_KEY_LEN], third[AUTH_KEY_LEN];
	struct auth_caller c;
	struct stat st;
	struct err err;

	cr_assert_eq(auth_first_start(auth, key_path, key, &err), 0);
	cr_assert_eq(stat(key_path, &st), 0);
	cr_assert_eq(st.st_mode & 0777, 0600);
	cr_assert_eq(strlen(key), AUTH_KEY_LEN - 1);
	cr_assert_eq(strncmp(key, AUTH_KEY_PREFIX, strlen(AUTH_KEY_PREFIX)), 0);
	cr_assert_eq(auth_key(auth, key, &c, &err), 0);
	cr_assert_eq(c.role, STORE_ROLE_ADMIN);
	cr_assert_str_eq(c.namespace_name, "local");

	cr_assert_eq(auth_first_start(auth, key_path, again, &err), 0);
	cr_assert_str_eq(key, again, "a second start keeps the key");

	cr_assert_eq(unlink(key_path), 0);
	cr_assert_eq(auth_first_start(auth, key_path, third, &err), 0);
	cr_assert_str_neq(key, third, "a lost file brings a new key");
	cr_assert_eq(auth_key(auth, key, &c, &err), 0, "and the old one stays valid");
}

Test(auth, wrong_keys_are_refused)
{
	char key[AUTH_KEY_LEN];
	struct auth_caller c;
	struct err err;

	cr_assert_eq(auth_first_start(auth, key_path, key, &err), 0);
	key[20] = key[20] == 'x' ? 'y' : 'x';
	cr_assert_eq(auth_key(auth, key, &c, &err), -EKEYREJECTED);
	cr_assert_null(strstr(err.msg, key));
	cr_assert_eq(auth_key(auth, "", &c, &err), -EKEYREJECTED);
	cr_assert_eq(auth_key(auth, NULL, &c, &err), -EKEYREJECTED);
	cr_assert_eq(auth_key(auth, AUTH_KEY_PREFIX, &c, &err), -EKEYREJECTED);
}

Test(auth, a_revoked_key_is_refused)
{
	struct store_namespace *ns;
	char key[AUTH_KEY_LEN];
	struct auth_caller c;
	struct err err;

	cr_assert_eq(store_namespace_add(store, "other", "org", &ns, &err), 0);
	cr_assert_eq(auth_key_make(auth, ns, STORE_ROLE_MEMBER, "x", key, &err), 0);
	cr_assert_eq(auth_key(auth, key, &c, &err), 0);
	list_first(&ns->keys, struct store_key, of_namespace)->revoked_ms = 1;
	cr_assert_eq(auth_key(auth, key, &c, &err), -EKEYREJECTED);
}

/* Rows: who asks; columns: whose environment, private or not. */
Test(auth, who_may_see_and_change)
{
	struct store_namespace *a, *b;
	struct store_environment *open, *closed;
	struct err err;

	cr_assert_eq(store_namespace_add(store, "a", "org", &a, &err), 0);
	cr_assert_eq(store_namespace_add(store, "b", "org", &b, &err), 0);
	cr_assert_eq(store_environment_add(store, a, "open", &open, &err), 0);
	cr_assert_eq(store_environment_add(store, a, "closed", &closed, &err), 0);
	closed->is_private = true;
	struct auth_caller reader = { .ns = a, .namespace_name = "a", .role = STORE_ROLE_READER };
	struct auth_caller member = { .ns = a, .namespace_name = "a", .role = STORE_ROLE_MEMBER };
	struct auth_caller stranger = { .ns = b, .namespace_name = "b", .role = STORE_ROLE_MEMBER };
	struct auth_caller admin = { .ns = b, .namespace_name = "b", .role = STORE_ROLE_ADMIN };
	const struct {
		const struct auth_caller *c;
		int see_open, see_closed, change_open, change_closed;
	} rows[] = {
		{ NULL, 0, -ENOENT, -EKEYREJECTED, -ENOENT }, { &reader, 0, 0, -EPERM, -EPERM },
		{ &member, 0, 0, 0, 0 }, { &stranger, 0, -ENOENT, -EPERM, -ENOENT },
		{ &admin, 0, 0, 0, 0 },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		cr_assert_eq(auth_may_see(rows[i].c, open, &err), rows[i].see_open, "row %zu", i);
		cr_assert_eq(auth_may_see(rows[i].c, closed, &err), rows[i].see_closed, "row %zu", i);
		cr_assert_eq(auth_may_change(rows[i].c, open, &err), rows[i].change_open, "row %zu", i);
		cr_assert_eq(auth_may_change(rows[i].c, closed, &err), rows[i].change_closed, "row %zu", i);
	}
	struct store_environment *found = NULL;
	struct err hidden, missing;
	cr_assert_eq(auth_find_environment(auth, &member, NULL, "closed", &found, &err), 0);
	cr_assert_eq(found, closed);
	cr_assert_eq(auth_find_environment(auth, &stranger, "a", "closed", &found, &hidden), -ENOENT);
	cr_assert_eq(auth_find_environment(auth, &stranger, "a", "absent", &found, &missing), -ENOENT);
	cr_assert_eq(strncmp(hidden.msg, missing.msg, 20), 0, "a hidden one looks like a missing one");
}
