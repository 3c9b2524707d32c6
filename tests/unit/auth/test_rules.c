/* Who may do what: users, organisations, members and their keys. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "auth/auth.h"
#include "base/time.h"

static char dir[64], path[96];
static struct loop *loop;
static struct store *store;
static struct auth *auth;
static struct store_namespace *acme, *zeta, *owner, *member, *reader, *stranger;
static struct store_environment *open_env, *closed_env;

static struct store_namespace *namespace(const char *name, const char *type)
{
	struct store_namespace *ns = NULL;
	struct err err;

	cr_assert_eq(store_namespace_add(store, name, type, &ns, &err), 0);
	return ns;
}

static void set_up(void)
{
	struct err err;

	snprintf(dir, sizeof(dir), "/tmp/test-rules-XXXXXX");
	cr_assert_not_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/x.db", dir);
	cr_assert_eq(loop_new(&loop, &err), 0);
	cr_assert_eq(store_open(&store, loop, path, &err), 0);
	cr_assert_eq(auth_new(&auth, store, &err), 0);
	acme = namespace("acme", "org");
	owner = namespace("owner", "user");
	member = namespace("member", "user");
	reader = namespace("reader", "user");
	stranger = namespace("stranger", "user");
	store_member_put(store, acme, owner, STORE_ROLE_OWNER);
	store_member_put(store, acme, member, STORE_ROLE_MEMBER);
	store_member_put(store, acme, reader, STORE_ROLE_READER);
	cr_assert_eq(store_environment_add(store, acme, "open", &open_env, &err), 0);
	cr_assert_eq(store_environment_add(store, acme, "closed", &closed_env, &err), 0);
	closed_env->is_private = true;
	zeta = namespace("zeta", "org");
	store_member_put(store, zeta, member, STORE_ROLE_OWNER);
}

static void tear_down(void)
{
	auth = auth_free(auth);
	store = store_free(store);
	loop = loop_free(loop);
	unlink(path);
	rmdir(dir);
}

TestSuite(rules, .init = set_up, .fini = tear_down, .timeout = 30);

static struct auth_caller caller(struct store_namespace *ns, struct store_namespace *user, enum store_role role, struct store_key **ret)
{
	struct store_key_spec spec = { .ns = ns, .user = user, .role = role, .label = "" };
	char text[AUTH_KEY_LEN];
	struct auth_caller c;
	struct store_key *k;
	struct err err;

	cr_assert_eq(auth_key_make_as(auth, &spec, text, &k, &err), 0);
	cr_assert_eq(auth_key(auth, text, &c, &err), 0, "%s", err.msg);
	if (ret)
		*ret = k;
	return c;
}

Test(rules, role_by_action)
{
	const struct auth_caller callers[] = {
		caller(owner, owner, STORE_ROLE_OWNER, NULL),      caller(owner, owner, STORE_ROLE_READER, NULL),
		caller(member, member, STORE_ROLE_OWNER, NULL),    caller(reader, reader, STORE_ROLE_OWNER, NULL),
		caller(stranger, stranger, STORE_ROLE_OWNER, NULL), caller(acme, NULL, STORE_ROLE_MEMBER, NULL),
		caller(acme, NULL, STORE_ROLE_READER, NULL),       caller(acme, member, STORE_ROLE_OWNER, NULL),
		caller(stranger, NULL, STORE_ROLE_ADMIN, NULL),
	};
	static const struct {
		const char *who;
		int role, see_closed, change_open, change_closed, add, manage, know;
	} rows[] = {
		{ "the owner", STORE_ROLE_OWNER, 0, 0, 0, 0, 0, 0 },
		{ "the owner's read-only key", STORE_ROLE_READER, 0, -EPERM, -EPERM, -EPERM, -EPERM, 0 },
		{ "a member", STORE_ROLE_MEMBER, 0, 0, 0, 0, -EPERM, 0 },
		{ "a reader", STORE_ROLE_READER, 0, -EPERM, -EPERM, -EPERM, -EPERM, 0 },
		{ "a stranger", AUTH_NOBODY, -ENOENT, -EPERM, -ENOENT, -EPERM, -ENOENT, -ENOENT },
		{ "the organisation's key", STORE_ROLE_MEMBER, 0, 0, 0, 0, -EPERM, 0 },
		{ "its read-only key", STORE_ROLE_READER, 0, -EPERM, -EPERM, -EPERM, -EPERM, 0 },
		{ "a member's key for it", STORE_ROLE_MEMBER, 0, 0, 0, 0, -EPERM, 0 },
		{ "an operator", STORE_ROLE_ADMIN, 0, 0, 0, 0, 0, 0 },
	};
	struct err err;

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		const struct auth_caller *c = &callers[i];
		cr_expect_eq(auth_role_in(c, acme), rows[i].role, "%s: its role", rows[i].who);
		cr_expect_eq(auth_may_see(c, open_env, &err), 0, "%s: see a public one", rows[i].who);
		cr_expect_eq(auth_may_see(c, closed_env, &err), rows[i].see_closed, "%s: see a private one", rows[i].who);
		cr_expect_eq(auth_may_change(c, open_env, &err), rows[i].change_open, "%s: change a public one", rows[i].who);
		cr_expect_eq(auth_may_change(c, closed_env, &err), rows[i].change_closed, "%s: change a private one", rows[i].who);
		cr_expect_eq(auth_may_change_namespace(c, acme, &err), rows[i].add, "%s: make one", rows[i].who);
		cr_expect_eq(auth_may_manage(c, acme, &err), rows[i].manage, "%s: members and keys", rows[i].who);
		cr_expect_eq(auth_may_know(c, acme, &err), rows[i].know, "%s: know of it", rows[i].who);
	}
}

Test(rules, who_may_make_which_key)
{
	const struct auth_caller owners = caller(owner, owner, STORE_ROLE_OWNER, NULL);
	const struct auth_caller members = caller(member, member, STORE_ROLE_OWNER, NULL);
	const struct auth_caller modest = caller(member, member, STORE_ROLE_MEMBER, NULL);
	const struct auth_caller strangers = caller(stranger, stranger, STORE_ROLE_OWNER, NULL);
	const struct auth_caller admins = caller(acme, NULL, STORE_ROLE_ADMIN, NULL);
	const struct auth_caller for_acme = caller(acme, member, STORE_ROLE_OWNER, NULL);
	const struct {
		const char *what;
		const struct auth_caller *c;
		struct store_namespace *ns, *user;
		const char *role;
		int r;
		enum store_role got;
	} rows[] = {
		{ "one's own", &members, member, member, NULL, 0, STORE_ROLE_OWNER },
		{ "one's own, read-only", &members, member, member, "reader", 0, STORE_ROLE_READER },
		{ "more than one's own", &modest, member, member, "owner", -EPERM, 0 },
		{ "as much as one's own", &modest, member, member, NULL, 0, STORE_ROLE_MEMBER },
		{ "an operator's, by a user", &owners, owner, owner, "admin", -EPERM, 0 },
		{ "for an organisation, as a member", &members, acme, member, NULL, 0, STORE_ROLE_OWNER },
		{ "for an organisation, as a stranger", &strangers, acme, stranger, NULL, -ENOENT, 0 },
		{ "an organisation's, by its owner", &owners, acme, NULL, NULL, 0, STORE_ROLE_MEMBER },
		{ "an organisation's, by a member", &members, acme, NULL, NULL, -EPERM, 0 },
		{ "an organisation's, by a stranger", &strangers, acme, NULL, NULL, -ENOENT, 0 },
		{ "for an organisation, by a key for it", &for_acme, acme, member, NULL, 0, STORE_ROLE_OWNER },
		{ "for all that a user is, by a key for an organisation", &for_acme, member, member, NULL, -EPERM, 0 },
		{ "for another organisation, by a key for one", &for_acme, zeta, member, NULL, -ENOENT, 0 },
		{ "another user's", &owners, member, member, NULL, -ENOENT, 0 },
		{ "another member's", &owners, acme, member, NULL, -EPERM, 0 },
		{ "a user's, by an operator", &admins, member, member, NULL, 0, STORE_ROLE_OWNER },
		{ "an operator's, by an operator", &admins, acme, NULL, "admin", 0, STORE_ROLE_ADMIN },
		{ "no user's in a user's namespace", &admins, member, NULL, NULL, -EINVAL, 0 },
		{ "for no member, by an operator", &admins, acme, stranger, NULL, -EINVAL, 0 },
		{ "a role that is none", &members, member, member, "king", -EINVAL, 0 },
	};
	struct err err;

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct store_key_spec spec = { .ns = rows[i].ns, .user = rows[i].user, .label = "" };
		cr_expect_eq(auth_may_make_key(rows[i].c, &spec, rows[i].role, &err), rows[i].r, "%s", rows[i].what);
		if (rows[i].r == 0)
			cr_expect_eq(spec.role, rows[i].got, "%s: its role", rows[i].what);
	}
}

Test(rules, a_key_outlives_no_key_that_made_it)
{
	struct store_key *k;
	struct auth_caller c = caller(member, member, STORE_ROLE_OWNER, &k);
	struct store_key_spec open = { .ns = member, .user = member, .label = "" }, late = open, soon = open;
	int64_t now = time_wall_ms();
	struct err err;

	k->expires_ms = now + 1000000;
	late.expires_ms = now + 1000001;
	soon.expires_ms = now + 5;
	cr_assert_eq(auth_may_make_key(&c, &open, NULL, &err), 0);
	cr_assert_eq(open.expires_ms, k->expires_ms);
	cr_assert_eq(auth_may_make_key(&c, &late, NULL, &err), -EPERM);
	cr_assert_eq(auth_may_make_key(&c, &soon, NULL, &err), 0);
	cr_assert_eq(soon.expires_ms, now + 5);
}

Test(rules, who_may_revoke)
{
	struct store_key *of_member, *of_acme, *operators;
	const struct auth_caller members = caller(member, member, STORE_ROLE_OWNER, &of_member);
	const struct auth_caller for_acme = caller(acme, member, STORE_ROLE_OWNER, NULL);
	const struct auth_caller modest = caller(member, member, STORE_ROLE_MEMBER, NULL);
	const struct auth_caller owners = caller(owner, owner, STORE_ROLE_OWNER, NULL);
	const struct auth_caller strangers = caller(stranger, stranger, STORE_ROLE_OWNER, NULL);
	const struct auth_caller admins = caller(acme, NULL, STORE_ROLE_ADMIN, &operators);
	struct err err;

	caller(acme, NULL, STORE_ROLE_MEMBER, &of_acme);
	cr_assert_eq(auth_may_manage_key(&members, of_member, &err), 0);
	cr_assert_eq(auth_may_manage_key(&for_acme, of_member, &err), -ENOENT, "it is for acme only");
	cr_assert_eq(auth_may_manage_key(&for_acme, for_acme.key, &err), 0);
	cr_assert_eq(auth_role_in(&members, zeta), STORE_ROLE_OWNER);
	cr_assert_eq(auth_role_in(&for_acme, zeta), AUTH_NOBODY);
	cr_assert_eq(auth_may_manage_key(&modest, of_member, &err), -EPERM, "a lesser key revokes no greater one");
	cr_assert_eq(auth_may_manage_key(&owners, of_member, &err), -ENOENT);
	cr_assert_eq(auth_may_manage_key(&owners, of_acme, &err), 0);
	cr_assert_eq(auth_may_manage_key(&members, of_acme, &err), -EPERM);
	cr_assert_eq(auth_may_manage_key(&strangers, of_acme, &err), -ENOENT);
	cr_assert_eq(auth_may_manage_key(&owners, operators, &err), -EPERM);
	cr_assert_eq(auth_may_manage_key(&admins, operators, &err), 0);
	cr_assert_eq(auth_may_manage_key(&admins, of_member, &err), 0);
}

Test(rules, what_is_over_is_refused)
{
	struct store_key_spec spec = { .ns = acme, .user = member, .role = STORE_ROLE_OWNER, .label = "" };
	char text[AUTH_KEY_LEN];
	struct auth_caller c;
	struct store_key *k;
	struct err err;

	cr_assert_eq(auth_key_make_as(auth, &spec, text, &k, &err), 0);
	cr_assert_eq(auth_key(auth, text, &c, &err), 0);
	cr_assert_eq(c.role, STORE_ROLE_MEMBER, "as a member, whatever the key says");
	k->expires_ms = time_wall_ms() - 1;
	cr_assert_eq(auth_key(auth, text, &c, &err), -EKEYREJECTED, "expired");
	k->expires_ms = time_wall_ms() + 3600000;
	cr_assert_eq(auth_key(auth, text, &c, &err), 0);
	store_member_remove(store, store_member_find(acme, member));
	cr_assert_eq(auth_key(auth, text, &c, &err), -EKEYREJECTED, "no member any more");
}

Test(rules, a_sessions_key_is_less_than_the_one_behind_it)
{
	struct store_key *k;
	struct auth_caller c = caller(owner, owner, STORE_ROLE_OWNER, &k), of_session;
	struct store_key_spec spec = { .ns = owner, .user = owner, .label = "" };
	char text[AUTH_KEY_LEN];
	struct err err;

	auth_session_key_make(auth, &c, "a session", text);
	cr_assert_eq(auth_key(auth, text, &of_session, &err), 0);
	cr_assert_eq(of_session.role, STORE_ROLE_MEMBER);
	cr_assert_eq(auth_role_in(&of_session, acme), AUTH_NOBODY, "nothing of the user's organisations");
	cr_assert_eq(auth_may_make_key(&of_session, &spec, NULL, &err), -EPERM);
	cr_assert_eq(auth_may_manage_key(&of_session, k, &err), -EPERM);
	k->revoked_ms = 1;
	cr_assert_eq(auth_key(auth, text, &of_session, &err), -EKEYREJECTED, "nor anything once that is revoked");
}

Test(rules, a_sessions_key_becomes_less_with_the_user_behind_it)
{
	struct auth_caller c = caller(acme, member, STORE_ROLE_MEMBER, NULL), of_session;
	char text[AUTH_KEY_LEN];
	struct err err;

	auth_session_key_make(auth, &c, "a session", text);
	store_member_put(store, acme, member, STORE_ROLE_READER);
	cr_assert_eq(auth_key(auth, text, &of_session, &err), 0);
	cr_assert_eq(of_session.role, STORE_ROLE_READER);
	store_member_put(store, acme, member, STORE_ROLE_OWNER);
	cr_assert_eq(auth_key(auth, text, &of_session, &err), 0);
	cr_assert_eq(of_session.role, STORE_ROLE_MEMBER, "as a member at most");
}

Test(rules, what_a_reader_may_send)
{
	static const struct {
		const char *method, *path;
		bool may;
	} rows[] = {
		{ "GET", "/v1/environments", true },        { "HEAD", "/v1/keys", true },
		{ "POST", "/create_session", true },        { "POST", "/ping", true },
		{ "POST", "/delete_session", true },        { "POST", "/delete", true },
		{ "POST", "/tasks", true },                 { "POST", "/hello/tasks", true },
		{ "POST", "/hello/num_tasks", true },       { "POST", "/task_range", true },
		{ "POST", "/read_file", true },             { "POST", "/stat_file", true },
		{ "POST", "/git/a/b/git-upload-pack", true }, { "POST", "/v1/sandboxes/x/runs/y/wait", true },
		{ "POST", "/create", false },               { "POST", "/call", false },
		{ "POST", "/hello/call", false },           { "POST", "/create_sandbox", false },
		{ "POST", "/run", false },                  { "POST", "/write_file", false },
		{ "POST", "/v1/sandboxes/x/runs", false },  { "POST", "/v1/keys", false },
		{ "DELETE", "/v1/sandboxes/x", false },     { "PUT", "/v1/orgs/a/members/b", false },
		{ "POST", "/v1/environments/a/tasks", false }, { "POST", "/git/a/b/git-receive-pack", false },
		{ "POST", "/git/a/tasks", false },          { "PATCH", "/tasks", false },
		{ "POST", "/score_group", false },          { "POST", "/v1/rollouts", false },
		{ "POST", "/x/git-upload-pack", false },    { "POST", "/v1/environments/wait", false },
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		cr_expect_eq(auth_reads_only(rows[i].method, rows[i].path), rows[i].may, "%s %s", rows[i].method, rows[i].path);
}

Test(rules, names_that_differ_by_case_collide)
{
	struct store_namespace *ns;
	struct store_environment *e;
	struct err err;

	cr_assert_eq(store_namespace_add(store, "ACME", "org", &ns, &err), -EEXIST);
	cr_assert_not_null(strstr(err.msg, "differs"), "%s", err.msg);
	cr_assert_eq(store_namespace_add(store, "acme", "user", &ns, &err), -EEXIST);
	cr_assert_eq(store_namespace_add(store, "acm\xc3\xa9", "user", &ns, &err), -EINVAL);
	cr_assert_not_null(strstr(err.msg, "ASCII"), "%s", err.msg);
	cr_assert_eq(store_environment_add(store, acme, "Open", &e, &err), -EEXIST);
	cr_assert_eq(store_environment_rename(store, closed_env, "OPEN", &err), -EEXIST);
	cr_assert_eq(store_environment_rename(store, open_env, "Open", &err), 0, "its own other spelling is free");
	cr_assert_eq(store_environment_find(store, "acme", "Open"), open_env);
}

Test(rules, names_that_differ_by_the_form_of_their_letters_collide)
{
	/* fullwidth; a long s; with a soft hyphen, a joiner; a ligature; mathematical letters, of which "acme" has 16 bytes */
	static const char *const alike[] = {
		"\xef\xbd\x81\xef\xbd\x83\xef\xbd\x8d\xef\xbd\x85", "ac\xc2\xadme", "ac\xe2\x80\x8dme",
		"\xf0\x9d\x90\x9a\xf0\x9d\x90\x9c\xf0\x9d\x90\xa6\xf0\x9d\x90\x9e", "\xef\xbc\xa1" "CME",
	};
	/* a Cyrillic a; invalid: cut off, overlong, a surrogate, too large */
	static const char *const other[] = { "\xd0\xb0" "cme", "acme\xc3", "\xc1\xa1" "cme", "acm\xed\xa0\x80", "\xf7\xbf\xbf\xbf", "\xff" };
	struct store_namespace *ns;
	struct store_environment *e;
	struct err err;
	char text[4096];

	for (size_t i = 0; i < ARRAY_LEN(alike); i++) {
		cr_assert_eq(store_namespace_add(store, alike[i], "org", &ns, &err), -EEXIST, "%zu", i);
		cr_assert(strstr(err.msg, "\"acme\"") && strstr(err.msg, alike[i]) && strstr(err.msg, "form"), "%s", err.msg);
	}
	for (size_t i = 0; i < ARRAY_LEN(other); i++)
		cr_assert_eq(store_namespace_add(store, other[i], "org", &ns, &err), -EINVAL, "%zu", i);
	for (size_t i = 0; i < sizeof(text) - 1; i++)
		text[i] = (i & 1) ? (char)0x81 : (char)0xcc; /* marks, and nothing that they belong to */
	text[sizeof(text) - 1] = '\0';
	cr_assert_eq(store_namespace_add(store, text, "org", &ns, &err), -EINVAL);
	cr_assert_eq(store_environment_add(store, acme, "o\xc2\xadpen", &e, &err), -EEXIST);
	cr_assert(strstr(err.msg, "acme/open") && strstr(err.msg, "acme/o\xc2\xadpen"), "%s", err.msg);
	cr_assert_eq(store_environment_rename(store, closed_env, "o\xc2\xadpen", &err), -EEXIST);
	cr_assert_eq(store_environment_rename(store, closed_env, "clo\xc5\xbf" "ed", &err), -EINVAL, "its own, but no name");
	cr_assert_eq(store_environment_add(store, stranger, "o\xc2\xadpen", &e, &err), -EINVAL, "of another namespace");
}

Test(rules, all_of_it_outlives_the_daemon)
{
	struct store_key_spec spec = { .ns = acme, .user = member, .role = STORE_ROLE_MEMBER, .label = "laptop",
				       .expires_ms = time_wall_ms() + 3600000 };
	char text[AUTH_KEY_LEN];
	struct auth_caller c;
	struct store_key *k;
	struct err err;

	cr_assert_eq(auth_key_make_as(auth, &spec, text, &k, &err), 0);
	store_key_used(store, k);
	int64_t used_ms = k->last_used_ms;
	store_member_put(store, acme, reader, STORE_ROLE_OWNER);
	store_member_remove(store, store_member_find(acme, owner));
	auth = auth_free(auth);
	store = store_free(store);
	cr_assert_eq(store_open(&store, loop, path, &err), 0);
	cr_assert_eq(auth_new(&auth, store, &err), 0);
	acme = store_namespace_find(store, "acme");
	cr_assert_eq(auth_key(auth, text, &c, &err), 0);
	cr_assert_eq(c.user, store_namespace_find(store, "member"));
	cr_assert_eq(c.key->expires_ms, spec.expires_ms);
	cr_assert_eq(c.key->last_used_ms, used_ms);
	cr_assert_eq(store_key_by_prefix(store, (char[]){ c.key->id[0], c.key->id[1], c.key->id[2], c.key->id[3], c.key->id[4],
							    c.key->id[5], c.key->id[6], c.key->id[7], 0 }), c.key);
	cr_assert_null(store_key_by_prefix(store, "0"));
	cr_assert_null(store_member_find(acme, store_namespace_find(store, "owner")));
	cr_assert_eq(store_member_find(acme, store_namespace_find(store, "reader"))->role, STORE_ROLE_OWNER);
	cr_assert(store_member_is_last_owner(store_member_find(acme, store_namespace_find(store, "reader"))));
}

/* -- limits ------------------------------------------------------------------------------------------------------ */

static struct store_key *made_by(struct store_key *maker, unsigned char n)
{
	struct store_key_spec spec = { .ns = member, .user = member, .role = STORE_ROLE_OWNER, .label = "", .maker = maker };
	unsigned char hash[STORE_HASH_LEN] = { 77, n };
	struct store_key *k = NULL;
	struct err err;

	cr_assert_eq(store_key_add(store, &spec, hash, &k, &err), 0);
	return k;
}

static int open_one(struct store_key *k, struct err *err)
{
	struct auth_caller c = { .key = k };
	int r = auth_may_open(auth, &c, STORE_USE_SESSIONS, err);

	if (r == 0)
		auth_count(k, STORE_USE_SESSIONS, 1);
	return r;
}

Test(rules, what_a_limited_key_makes_has_its_limits_together_with_it)
{
	struct store_key *first = made_by(NULL, 1), *second = made_by(first, 2), *third = made_by(second, 3), *other = made_by(NULL, 4);
	struct err err = ERR_INIT;

	store_key_limit(store, first, (int64_t[STORE_LIMITS]){ 2, 0, 0 });
	store_key_limit(store, second, (int64_t[STORE_LIMITS]){ 1, 0, 0 });
	cr_assert_eq(open_one(third, &err), 0);
	cr_assert_eq(open_one(third, &err), -EUSERS);
	cr_assert(strstr(err.msg, "whose limit is 1") && strstr(err.msg, second->id) == NULL, "%s", err.msg);
	cr_assert_eq(open_one(second, &err), -EUSERS);
	cr_assert_not_null(strstr(err.msg, "own limit is 1"), "%s", err.msg);
	cr_assert_eq(open_one(first, &err), 0);
	cr_assert_eq(open_one(first, &err), -EUSERS);
	for (int i = 0; i < 10; i++)
		cr_assert_eq(open_one(other, &err), 0, "made by nobody who is limited");
	auth_count(third, STORE_USE_SESSIONS, -1);
	cr_assert_eq(open_one(second, &err), 0);
}

Test(rules, nobody_limits_a_key_beyond_what_its_maker_has)
{
	static const int64_t wide[STORE_LIMITS] = { 3, 0, 0 }, none[STORE_LIMITS] = { STORE_LIMIT_NONE, 0, 0 }, same[STORE_LIMITS] = { 2, 0, 0 };
	struct store_key *first = made_by(NULL, 1), *second = made_by(first, 2);
	struct auth_caller c = { .key = second, .role = STORE_ROLE_OWNER };
	int64_t limits[STORE_LIMITS];
	struct err err = ERR_INIT;

	cr_assert_eq(auth_may_limit(auth, &c, none, &err), 0);
	store_key_limit(store, first, same); /* when the other was there already */
	cr_assert_eq(auth_may_limit(auth, &c, none, &err), -EPERM);
	cr_assert_eq(auth_may_limit(auth, &c, wide, &err), -EPERM);
	cr_assert(strstr(err.msg, "maxSessions") && strstr(err.msg, "at most 2"), "%s", err.msg);
	auth_limits_in_force(auth, second, limits);
	cr_assert_eq(limits[0], 2);
	cr_assert_eq(auth_may_limit(auth, &c, limits, &err), 0);
	auth_set_limits(auth, &(struct auth_limits){ .of = { 1, 0, 0 } });
	auth_limits_in_force(auth, second, limits);
	cr_assert_eq(limits[0], 0, "the configuration's is narrower");
}

Test(rules, makers_are_so_many_at_most)
{
	struct store_key *k = made_by(NULL, 0), *before = NULL;

	for (unsigned char i = 1; i < 4 * STORE_MAKERS; i++) {
		before = k;
		k = made_by(k, i);
		cr_assert_leq(k->depth, STORE_MAKERS);
	}
	cr_assert_eq(k->maker, before->maker, "what would be too deep stands beside its maker");
}
