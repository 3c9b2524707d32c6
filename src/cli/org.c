/* openreward user, openreward org: who there is, and who is a member of what. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "cli/cli.h"

static const char usage_user[] =
	"usage: openreward user create NAME [--json] [--data DIR]\n"
	"       openreward user ls | show NAME [--json] [--data DIR]\n"
	"       openreward user disable | rm NAME [--json] [--data DIR]\n"
	"A user is a namespace of the same name. `openreward key create --user NAME` makes its first key. `disable` revokes its\n"
	"keys and ends its memberships; what it owns stays. `rm` does the same and takes the user away, with its runs and rollouts:\n"
	"its environments must be deleted before.\n";
static const char usage_org[] =
	"usage: openreward org create NAME [--owner USER] [--json] [--data DIR]\n"
	"       openreward org ls | members NAME [--json] [--data DIR]\n"
	"       openreward org add NAME USER [ROLE] [--json] [--data DIR]\n"
	"       openreward org remove NAME USER [--json] [--data DIR]\n"
	"Roles: owner, who changes members and keys; member (where none is given), who uses and changes what the organisation\n"
	"owns; reader, who sees it. `add` gives a member another role. Its last owner stays one.\n";

struct options {
	const char *data, *owner;
	bool json;
};

struct command {
	const char *name;
	int min, max; /* arguments after it */
	int (*run)(const struct cli_target *t, char **args, const struct options *o, struct err *err);
};

static const struct cli_column user_columns[] = { { "NAME", "name" }, { "ORGANISATIONS", "organisations" },
	{ "CREATED", "created_at" } };
static const struct cli_column org_columns[] = { { "NAME", "name" }, { "MEMBERS", "members" }, { "CREATED", "created_at" } };
static const struct cli_column member_columns[] = { { "USER", "user" }, { "ROLE", "role" }, { "SINCE", "created_at" } };

/* -- what they share --------------------------------------------------------------------------------------------- */

/* One call whose answer is one object, shown as a row. */
static int ask_row(const struct cli_target *t, const char *method, const char *path, const char *body,
		   const struct cli_column *columns, size_t n, const struct options *o, struct err *err)
{
	auto_json rows = json_array();
	json_t *row = NULL;
	int r = cli_ask(t, method, path, body, &row, err);

	if (r < 0)
		return r;
	json_array_append_new(rows, row);
	cli_print_rows(rows, columns, n, o->json, true);
	return 0;
}

/* {"KEY": VALUE, ...} of those that are not NULL. */
static int body_of(const char *key, const char *value, const char *key2, const char *value2, char **ret, struct err *err)
{
	auto_json body = json_object();

	json_object_set_new(body, key, json_string(value));
	if (value2)
		json_object_set_new(body, key2, json_string(value2));
	*ret = json_object_size(body) == (value2 ? 2u : 1u) ? json_dumps(body, JSON_COMPACT) : NULL;
	return *ret ? 0 : err_set(err, -EINVAL, "the arguments are not text in UTF-8");
}

/* -- users ------------------------------------------------------------------------------------------------------- */

static int user_create(const struct cli_target *t, char **args, const struct options *o, struct err *err)
{
	auto_free char *body = NULL;
	int r = body_of("name", args[0], NULL, NULL, &body, err);

	return r < 0 ? r : ask_row(t, "POST", "/v1/users", body, user_columns, ARRAY_LEN(user_columns), o, err);
}

static int user_ls(const struct cli_target *t, char **args UNUSED, const struct options *o, struct err *err)
{
	return cli_list(t, "/v1/users", "users", user_columns, ARRAY_LEN(user_columns), o->json, err);
}

static int user_show(const struct cli_target *t, char **args, const struct options *o, struct err *err)
{
	auto_free char *path = cli_path("/v1/users/", args[0]);

	return ask_row(t, "GET", path, NULL, user_columns, ARRAY_LEN(user_columns), o, err);
}

static int user_disable(const struct cli_target *t, char **args, const struct options *o, struct err *err)
{
	auto_free char *user = cli_path("/v1/users/", args[0]);
	auto_free char *path = xasprintf("%s/disable", user);

	return ask_row(t, "POST", path, NULL, user_columns, ARRAY_LEN(user_columns), o, err);
}

static int user_rm(const struct cli_target *t, char **args, const struct options *o, struct err *err)
{
	auto_free char *path = cli_path("/v1/users/", args[0]);

	return ask_row(t, "DELETE", path, NULL, user_columns, ARRAY_LEN(user_columns), o, err);
}

static const struct command user_commands[] = {
	{ "create", 1, 1, user_create },
	{ "ls", 0, 0, user_ls },
	{ "show", 1, 1, user_show },
	{ "disable", 1, 1, user_disable },
	{ "rm", 1, 1, user_rm },
};

/* -- organisations ----------------------------------------------------------------------------------------------- */

static int org_create(const struct cli_target *t, char **args, const struct options *o, struct err *err)
{
	auto_free char *body = NULL;
	int r = body_of("name", args[0], "owner", o->owner, &body, err);

	return r < 0 ? r : ask_row(t, "POST", "/v1/orgs", body, org_columns, ARRAY_LEN(org_columns), o, err);
}

static int org_ls(const struct cli_target *t, char **args UNUSED, const struct options *o, struct err *err)
{
	return cli_list(t, "/v1/orgs", "organisations", org_columns, ARRAY_LEN(org_columns), o->json, err);
}

static int org_members(const struct cli_target *t, char **args, const struct options *o, struct err *err)
{
	auto_free char *org = cli_path("/v1/orgs/", args[0]);
	auto_free char *path = xasprintf("%s/members", org);
	auto_json body = NULL;
	int r = cli_ask(t, "GET", path, NULL, &body, err);

	if (r == 0)
		cli_print_rows(json_object_get(body, "members"), member_columns, ARRAY_LEN(member_columns), o->json, true);
	return r;
}

static char *member_path(char **args)
{
	auto_free char *org = cli_path("/v1/orgs/", args[0]);
	auto_free char *members = xasprintf("%s/members/", org);

	return cli_path(members, args[1]);
}

static int org_add(const struct cli_target *t, char **args, const struct options *o, struct err *err)
{
	auto_free char *path = member_path(args);
	auto_free char *body = NULL;
	int r = body_of("role", args[2] ? args[2] : "member", NULL, NULL, &body, err);

	return r < 0 ? r : ask_row(t, "PUT", path, body, member_columns, 2, o, err);
}

static int org_remove(const struct cli_target *t, char **args, const struct options *o, struct err *err)
{
	auto_free char *path = member_path(args);

	return ask_row(t, "DELETE", path, NULL, member_columns, 2, o, err);
}

static const struct command org_commands[] = {
	{ "create", 1, 1, org_create }, { "ls", 0, 0, org_ls },         { "members", 1, 1, org_members },
	{ "add", 2, 3, org_add },       { "remove", 2, 2, org_remove },
};

/* -- the verbs --------------------------------------------------------------------------------------------------- */

/* True: the verb is over, with *ret_status. */
static bool read_options(int argc, char **argv, const char *usage, bool with_owner, struct options *ret, int *ret_status)
{
	static const struct option known[] = {
		{ "owner", required_argument, NULL, 'o' }, { "json", no_argument, NULL, 'j' },
		{ "data", required_argument, NULL, 'd' },  { "help", no_argument, NULL, 'h' }, { 0 }
	};

	*ret_status = 2;
	for (int o; (o = getopt_long(argc, argv, "", known + !with_owner, NULL)) != -1;) {
		switch (o) {
		case 'o': ret->owner = optarg; break;
		case 'j': ret->json = true; break;
		case 'd': ret->data = optarg; break;
		case 'h':
			fputs(usage, stdout);
			*ret_status = 0;
			return true;
		default: return true; /* getopt has said what it does not know */
		}
	}
	return false;
}

static int run(const struct command *c, char **args, const struct options *o)
{
	struct cli_target t = { 0 };
	struct err err;
	int r = cli_target_find(&t, o->data, &err);

	r = r < 0 ? r : c->run(&t, args, o, &err);
	cli_target_done(&t);
	return r < 0 ? cli_fail("%s", err.msg) : 0;
}

/* -1 = there is no such command. */
static int find_and_run(int argc, char **argv, const struct command *commands, size_t n_commands, const struct options *o)
{
	const char *word = optind < argc ? argv[optind] : "";
	int n = argc - optind - 1;

	for (size_t i = 0; i < n_commands; i++)
		if (str_eq(commands[i].name, word) && n >= commands[i].min && n <= commands[i].max)
			return run(&commands[i], argv + optind + 1, o);
	return -1;
}

int cli_user(int argc, char **argv)
{
	struct options o = { 0 };
	int status;

	if (read_options(argc, argv, usage_user, false, &o, &status))
		return status;
	status = find_and_run(argc, argv, user_commands, ARRAY_LEN(user_commands), &o);
	return status >= 0 ? status : cli_misuse(usage_user, "user: expected create NAME, ls, show NAME or disable NAME");
}

int cli_org(int argc, char **argv)
{
	struct options o = { 0 };
	int status;

	if (read_options(argc, argv, usage_org, true, &o, &status))
		return status;
	status = find_and_run(argc, argv, org_commands, ARRAY_LEN(org_commands), &o);
	return status >= 0 ? status :
			     cli_misuse(usage_org, "org: expected create NAME, ls, members NAME, add NAME USER [ROLE] or remove NAME USER");
}
