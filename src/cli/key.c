/* openreward key: API keys. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "cli/cli.h"

static const char usage[] =
	"usage: openreward key create [NAME] [--namespace NAMESPACE] [--user USER] [--role ROLE | --read-only]\n"
	"                             [--expires DURATION] [LIMITS] [--json] [--data DIR]\n"
	"       openreward key ls [--namespace NAMESPACE] [--all] [--json] [--data DIR]\n"
	"       openreward key limit ID LIMITS [--json] [--data DIR]\n"
	"       openreward key revoke ID... [--json] [--data DIR]\n"
	"`create` prints the new key, this once: the server keeps its hash. --user makes a personal key, for the user's own\n"
	"namespace or with --namespace for an organisation that the user is a member of; without --user it is a key of the\n"
	"namespace itself, which is that of the key in use where none is given. Roles: reader (the same as --read-only), member,\n"
	"owner, admin. DURATION: 12h, 30d. `ls` leaves out keys that are over, unless --all. An ID is one or its first 8\n"
	"characters; `revoke` and `limit` are in force when they return. LIMITS: --max-sessions N, --max-sandboxes N (open at\n"
	"once), --max-rate N (requests a second); 0 is no limit, `default` that of the configuration (keys.*).\n";

struct options {
	const char *data, *namespace, *user, *role, *expires;
	const char *sessions, *sandboxes, *rate; /* NULL = not given */
	bool read_only, all, json;
};

static const struct cli_column columns[] = {
	{ "ID", "id" },           { "NAME", "name" },          { "KIND", "kind" },       { "NAMESPACE", "namespace" },
	{ "USER", "user" },       { "ROLE", "role" },          { "STATE", "state" },     { "LAST USED", "last_used_at" },
	{ "EXPIRES", "expires_at" },
	{ "MAX SESSIONS", "max_sessions" }, { "MAX SANDBOXES", "max_sandboxes" }, { "MAX RATE", "max_rate" },
};

/* -- create ------------------------------------------------------------------------------------------------------ */

static void put(json_t *body, const char *key, const char *value)
{
	if (value)
		json_object_set_new(body, key, json_string(value));
}

static const char *text_of(json_t *obj, const char *key)
{
	const char *s = json_string_value(json_object_get(obj, key));

	return s ? s : "-";
}

/* The key alone on standard output, for whoever keeps it; what it is, for people, beside it. */
static void print_made(json_t *made, bool json)
{
	auto_free char *text = json ? json_dumps(made, JSON_COMPACT) : NULL;

	if (text) {
		puts(text);
		return;
	}
	puts(text_of(made, "key"));
	fflush(stdout);
	fprintf(stderr, "%s key %s of %s, role %s. It is shown this once.\n", text_of(made, "kind"), text_of(made, "id"),
		text_of(made, "namespace"), text_of(made, "role"));
}

static int put_limit(json_t *body, const char *key, const char *value, struct err *err)
{
	uint64_t n;

	if (!value)
		return 0;
	if (str_eq(value, "default"))
		json_object_set_new(body, key, json_null());
	else if (str_to_u64(value, &n) == 0 && n <= INT64_MAX)
		json_object_set_new(body, key, json_integer((json_int_t)n));
	else
		return err_set(err, -EINVAL, "%s: \"%.60s\": expected a whole number, 0 for no limit, or default", key, value);
	return 0;
}

static int put_limits(json_t *body, const struct options *o, struct err *err)
{
	int r = put_limit(body, "maxSessions", o->sessions, err);

	r = r < 0 ? r : put_limit(body, "maxSandboxes", o->sandboxes, err);
	return r < 0 ? r : put_limit(body, "maxRate", o->rate, err);
}

static int create(const struct cli_target *t, char **args, const struct options *o, struct err *err)
{
	auto_json body = json_object();
	auto_json made = NULL;

	put(body, "name", args[0]);
	put(body, "namespace", o->namespace);
	put(body, "user", o->user);
	put(body, "role", o->role);
	put(body, "expiresIn", o->expires);
	if (o->read_only)
		json_object_set_new(body, "readOnly", json_true());
	int r = put_limits(body, o, err);
	auto_free char *text = json_dumps(body, JSON_COMPACT);
	if (r == 0 && !text)
		r = err_set(err, -EINVAL, "the arguments are not text in UTF-8");
	r = r < 0 ? r : cli_ask(t, "POST", "/v1/keys", text, &made, err);
	if (r == 0)
		print_made(made, o->json);
	return r;
}

/* -- ls and revoke ----------------------------------------------------------------------------------------------- */

static int ls(const struct cli_target *t, char **args UNUSED, const struct options *o, struct err *err)
{
	auto_free char *of = o->namespace ? cli_path("&namespace=", o->namespace) : xstrdup("");
	auto_free char *path = xasprintf("/v1/keys?all=%d%s", o->all, of);

	return cli_list(t, path, "keys", columns, ARRAY_LEN(columns), o->json, err);
}

static int revoke(const struct cli_target *t, char **args, const struct options *o, struct err *err)
{
	int r = 0;

	for (; r == 0 && *args; args++) {
		auto_free char *path = cli_path("/v1/keys/", *args);
		auto_json gone = NULL;
		r = cli_ask(t, "DELETE", path, NULL, &gone, err);
		auto_free char *text = r == 0 && o->json ? json_dumps(gone, JSON_COMPACT) : NULL;
		if (text)
			puts(text);
		else if (r == 0)
			printf("revoked %s\n", text_of(gone, "id"));
	}
	return r;
}

/* -- limit ------------------------------------------------------------------------------------------------------- */

static int limit(const struct cli_target *t, char **args, const struct options *o, struct err *err)
{
	auto_free char *path = cli_path("/v1/keys/", args[0]);
	auto_json body = json_object();
	auto_json rows = json_array();
	json_t *row = NULL;
	int r = put_limits(body, o, err);

	if (r == 0 && !json_object_size(body))
		r = err_set(err, -EINVAL, "expected one at least of --max-sessions, --max-sandboxes and --max-rate");
	auto_free char *text = json_dumps(body, JSON_COMPACT);
	r = r < 0 ? r : cli_ask(t, "PATCH", path, text, &row, err);
	if (r < 0)
		return r;
	json_array_append_new(rows, row);
	cli_print_rows(rows, columns, ARRAY_LEN(columns), o->json, true);
	return 0;
}

/* -- the verb ---------------------------------------------------------------------------------------------------- */

static const struct {
	const char *name;
	int min, max; /* arguments after it */
	int (*run)(const struct cli_target *t, char **args, const struct options *o, struct err *err);
} commands[] = {
	{ "create", 0, 1, create },
	{ "ls", 0, 0, ls },
	{ "limit", 1, 1, limit },
	{ "revoke", 1, 1000, revoke },
};

static bool read_options(int argc, char **argv, struct options *ret, int *ret_status)
{
	static const struct option known[] = {
		{ "namespace", required_argument, NULL, 'n' }, { "user", required_argument, NULL, 'u' },
		{ "role", required_argument, NULL, 'r' },      { "read-only", no_argument, NULL, 'o' },
		{ "expires", required_argument, NULL, 'e' },   { "all", no_argument, NULL, 'a' },
		{ "json", no_argument, NULL, 'j' },            { "data", required_argument, NULL, 'd' },
		{ "max-sessions", required_argument, NULL, 's' }, { "max-sandboxes", required_argument, NULL, 'x' },
		{ "max-rate", required_argument, NULL, 't' },  { "help", no_argument, NULL, 'h' },
		{ 0 }
	};

	for (int o; (o = getopt_long(argc, argv, "", known, NULL)) != -1;) {
		switch (o) {
		case 'n': ret->namespace = optarg; break;
		case 'u': ret->user = optarg; break;
		case 'r': ret->role = optarg; break;
		case 'o': ret->read_only = true; break;
		case 'e': ret->expires = optarg; break;
		case 's': ret->sessions = optarg; break;
		case 'x': ret->sandboxes = optarg; break;
		case 't': ret->rate = optarg; break;
		case 'a': ret->all = true; break;
		case 'j': ret->json = true; break;
		case 'd': ret->data = optarg; break;
		default:
			if (o == 'h')
				fputs(usage, stdout);
			*ret_status = o == 'h' ? 0 : 2; /* getopt has said what it does not know */
			return true;
		}
	}
	return false;
}

static int run(size_t command, char **args, const struct options *o)
{
	struct cli_target t = { 0 };
	struct err err;
	int r = cli_target_find(&t, o->data, &err);

	r = r < 0 ? r : commands[command].run(&t, args, o, &err);
	cli_target_done(&t);
	return r < 0 ? cli_fail("%s", err.msg) : 0;
}

int cli_key(int argc, char **argv)
{
	struct options o = { 0 };
	int status;

	if (read_options(argc, argv, &o, &status))
		return status;
	const char *word = optind < argc ? argv[optind] : "";
	int n = argc - optind - 1;
	for (size_t i = 0; i < ARRAY_LEN(commands); i++)
		if (str_eq(commands[i].name, word) && n >= commands[i].min && n <= commands[i].max)
			return run(i, argv + optind + 1, &o);
	return cli_misuse(usage, "key: expected create [NAME], ls, limit ID or revoke ID...");
}
