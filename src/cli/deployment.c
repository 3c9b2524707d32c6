/* openreward deployment: how one came to be what it is, and its end before its time. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/str.h"
#include "cli/cli.h"

static const char usage[] = "usage: openreward deployment ls NAME [--data DIR]\n"
			    "       openreward deployment show ID [--data DIR]\n"
			    "       openreward deployment cancel ID [--data DIR]\n"
			    "`show` tells the state, and every move that led to it with its time and reason. `cancel` stops one that is\n"
			    "queued, building or deploying; what served before goes on serving.\n";

static const char *member(json_t *obj, const char *key)
{
	const char *s = json_string_value(json_object_get(obj, key));

	return s ? s : "";
}

static void print_whole(json_t *d)
{
	static const char *const keys[] = { "id", "status", "reason", "source", "gitBranch", "commitSha", "image" };
	json_t *t;
	size_t i;

	for (i = 0; i < ARRAY_LEN(keys); i++)
		if (*member(d, keys[i]))
			printf("%s: %s\n", keys[i], member(d, keys[i]));
	json_array_foreach(json_object_get(d, "transitions"), i, t)
		printf("  %s %s%s%s: %s\n", member(t, "at"), member(t, "from"), *member(t, "from") ? " -> " : "", member(t, "to"),
		       member(t, "reason"));
}

static int ls(const struct cli_target *t, const char *given, struct err *err)
{
	auto_free char *name = NULL;
	auto_json list = NULL;
	json_t *d;
	size_t i;
	int r = cli_full_name(t, given, &name, err);

	if (r < 0)
		return r;
	auto_free char *path = xasprintf("/v1/environments/%s/deployments", name);
	r = cli_ask(t, "GET", path, NULL, &list, err);
	if (r < 0)
		return r;
	json_array_foreach(list, i, d)
		printf("%s\t%s\t%s\t%s\n", member(d, "id"), member(d, "created_at"), member(d, "status"), member(d, "reason"));
	return 0;
}

static int one(const struct cli_target *t, const char *id, const char *method, const char *call, struct err *err)
{
	auto_free char *path = xasprintf("/v1/deployments/%s%s", id, call);
	auto_json d = NULL;

	if (!str_is_name(id, 64))
		return err_set(err, -EINVAL, "\"%.100s\": expected the id of a deployment", id);
	int r = cli_ask(t, method, path, NULL, &d, err);
	if (r == 0)
		print_whole(d);
	return r;
}

static int show(const struct cli_target *t, const char *id, struct err *err)
{
	return one(t, id, "GET", "", err);
}

static int cancel(const struct cli_target *t, const char *id, struct err *err)
{
	return one(t, id, "POST", "/cancel", err);
}

static const struct {
	const char *name;
	int (*run)(const struct cli_target *t, const char *arg, struct err *err);
} commands[] = { { "ls", ls }, { "show", show }, { "cancel", cancel } };

int cli_deployment(int argc, char **argv)
{
	const char *data = NULL;
	struct cli_target t = { 0 };
	struct err err;
	int status;

	if (cli_data_only(argc, argv, usage, &data, &status))
		return status;
	const char *word = optind < argc ? argv[optind] : "";
	size_t i = 0;
	while (i < ARRAY_LEN(commands) && !str_eq(commands[i].name, word))
		i++;
	if (i == ARRAY_LEN(commands) || optind + 2 != argc)
		return cli_misuse(usage, "deployment: expected ls NAME, show ID or cancel ID");
	int r = cli_target_find(&t, data, &err);
	r = r < 0 ? r : commands[i].run(&t, argv[optind + 1], &err);
	cli_target_done(&t);
	return r < 0 ? cli_fail("%s", err.msg) : 0;
}
