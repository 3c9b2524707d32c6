/* openreward env: the environments of the server, and their settings. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/str.h"
#include "cli/cli.h"

static const char usage[] =
	"usage: openreward env ls [--data DIR]\n"
	"       openreward env show NAME [--data DIR]\n"
	"       openreward env set NAME KEY=VALUE... [--data DIR]\n"
	"       openreward env unset NAME KEY... [--data DIR]\n"
	"       openreward env rm NAME [--data DIR]\n"
	"`show` lists every setting of the environment with its value, what it means and what may stand there; `unset`, and an\n"
	"empty VALUE, give the default back. `rm` deletes the environment: its sessions end, and its builds, images, files,\n"
	"repository and logs are gone when it returns. One member of a map: build_args.NAME=VALUE. A VALUE of @FILE is read from that\n"
	"file, @- from standard input, so that a secret is in no command line; @@ begins one with an @.\n";

#define VALUE_MAX (64u * 1024)

/* -- ls and show ------------------------------------------------------------------------------------------------- */

static const char *member(json_t *obj, const char *key)
{
	const char *s = json_string_value(json_object_get(obj, key));

	return s ? s : "";
}

static int ls(const struct cli_target *t, char **args UNUSED, struct err *err)
{
	auto_json body = NULL;
	json_t *e;
	size_t i;
	int r = cli_ask(t, "GET", "/v1/environments?limit=500", NULL, &body, err);

	if (r < 0)
		return r;
	json_array_foreach(json_object_get(body, "environments"), i, e)
		printf("%s/%s\t%s\n", member(e, "owner"), member(e, "name"),
		       *member(e, "status") ? member(e, "status") : "never deployed");
	return 0;
}

static void print_value(json_t *v)
{
	auto_free char *text = json_is_string(v) ? xstrdup(json_string_value(v)) : json_dumps(v, JSON_ENCODE_ANY | JSON_SORT_KEYS);

	fputs(text ? text : "?", stdout);
}

static bool is_set(json_t *body, const char *name)
{
	json_t *item;
	size_t i;

	json_array_foreach(json_object_get(body, "set"), i, item)
		if (str_eq(json_string_value(item), name))
			return true;
	return false;
}

static void print_setting(json_t *body, json_t *row)
{
	const char *name = member(row, "name");
	json_t *value = json_object_get(json_object_get(body, "settings"), name);

	printf("%s: ", name);
	if (!json_is_null(value))
		print_value(value);
	else
		fputs(member(row, "default"), stdout);
	printf("%s\n    %s: %s\n", is_set(body, name) ? "" : "  (default)", member(row, "description"), member(row, "expected"));
}

static char *path_of(const char *name)
{
	return xasprintf("/v1/environments/%s/settings", name);
}

static int show(const struct cli_target *t, char **args, struct err *err)
{
	auto_free char *path = path_of(args[0]);
	auto_json body = NULL;
	json_t *row;
	size_t i;
	int r = cli_ask(t, "GET", path, NULL, &body, err);

	if (r < 0)
		return r;
	json_array_foreach(json_object_get(body, "known"), i, row)
		print_setting(body, row);
	return 0;
}

/* -- set and rm -------------------------------------------------------------------------------------------------- */

static int read_value(const char *given, char **ret, struct err *err)
{
	auto_buf struct buf b = { 0 };
	int r;

	if (*given != '@' || given[1] == '@') {
		*ret = xstrdup(given + (*given == '@'));
		return 0;
	}
	buf_init(&b, VALUE_MAX);
	r = str_eq(given, "@-") ? fd_read_to_end(STDIN_FILENO, &b) : fd_read_file(given + 1, &b, err);
	if (r < 0)
		return err_set(err, r, "%s: cannot be read, or has more than %u bytes", given + 1, VALUE_MAX);
	*ret = xstrndup(b.data ? b.data : "", b.len);
	return 0;
}

/* KEY or KEY.MEMBER of the change; NULL value = the default. */
static void put(json_t *change, const char *key, const char *value)
{
	const char *dot = strchr(key, '.');
	json_t *v = str_empty(value) ? json_null() : json_string(value);

	if (!dot) {
		json_object_set_new(change, key, v);
		return;
	}
	auto_free char *map = xstrndup(key, (size_t)(dot - key));
	json_t *members = json_object_get(change, map);
	if (!json_is_object(members)) {
		members = json_object();
		json_object_set_new(change, map, members);
	}
	json_object_set_new(members, dot + 1, v);
}

static int take_pair(json_t *change, const char *arg, struct err *err)
{
	const char *equals = strchr(arg, '=');
	auto_free char *value = NULL;

	if (!equals)
		return err_set(err, -EINVAL, "\"%.100s\": expected KEY=VALUE", arg);
	auto_free char *key = xstrndup(arg, (size_t)(equals - arg));
	int r = read_value(equals + 1, &value, err);
	if (r == 0 && !str_is_utf8(value, strlen(value)))
		r = err_set(err, -EINVAL, "%s: expected text in UTF-8", key);
	if (r == 0)
		put(change, key, value);
	return r;
}

static int send_change(const struct cli_target *t, const char *name, json_t *change, struct err *err)
{
	auto_free char *path = path_of(name);
	auto_free char *body = json_dumps(change, JSON_COMPACT);
	auto_json answer = NULL;

	return cli_ask(t, "PATCH", path, body, &answer, err);
}

static int set(const struct cli_target *t, char **args, struct err *err)
{
	auto_json change = json_object();
	int r = 0;

	for (char **a = args + 1; r == 0 && *a; a++)
		r = take_pair(change, *a, err);
	return r < 0 ? r : send_change(t, args[0], change, err);
}

static int unset(const struct cli_target *t, char **args, struct err *err)
{
	auto_json change = json_object();

	for (char **a = args + 1; *a; a++)
		put(change, *a, NULL);
	return send_change(t, args[0], change, err);
}

static int rm(const struct cli_target *t, char **args, struct err *err)
{
	auto_free char *path = xasprintf("/v1/environments/%s", args[0]);
	auto_json answer = NULL;

	return cli_ask(t, "DELETE", path, NULL, &answer, err);
}

static const struct {
	const char *name;
	int min, max; /* arguments after it; the first is an environment */
	int (*run)(const struct cli_target *t, char **args, struct err *err);
} commands[] = {
	{ "ls", 0, 0, ls }, { "show", 1, 1, show }, { "set", 2, 1000, set }, { "unset", 2, 1000, unset }, { "rm", 1, 1, rm },
};

static int run(const char *data, size_t command, char **args)
{
	struct cli_target t = { 0 };
	auto_free char *name = NULL;
	struct err err;
	int r = cli_target_find(&t, data, &err);

	if (r == 0 && args[0]) {
		r = cli_full_name(&t, args[0], &name, &err);
		args[0] = name;
	}
	r = r < 0 ? r : commands[command].run(&t, args, &err);
	cli_target_done(&t);
	return r < 0 ? cli_fail("%s", err.msg) : 0;
}

int cli_env(int argc, char **argv)
{
	const char *data = NULL;
	int status;

	if (cli_data_only(argc, argv, usage, &data, &status))
		return status;
	const char *word = optind < argc ? argv[optind] : "";
	int n = argc - optind - 1;
	for (size_t i = 0; i < ARRAY_LEN(commands); i++)
		if (str_eq(commands[i].name, word) && n >= commands[i].min && n <= commands[i].max)
			return run(data, i, argv + optind + 1);
	return cli_misuse(usage, "env: expected ls, show NAME, set NAME KEY=VALUE... unset NAME KEY... or rm NAME");
}
