/* openreward logs NAME: what the environment's server wrote, or with --build what its build said. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "cli/cli.h"
#include "json/json.h"

static const char usage[] = "usage: openreward logs NAMESPACE/NAME [--build] [--limit LINES] [--data DIR]\n"
			    "Shows the last lines that the environment's server wrote (200), or with --build the log of its newest\n"
			    "build. A bare NAME is one of the key's own namespace.\n";

/* The newest deployment; for the server's log the one that serves, where there is one. */
static int find_deployment(const struct cli_target *t, const char *name, bool build, char **ret, struct err *err)
{
	auto_free char *path = xasprintf("/v1/environments/%s/deployments", name);
	auto_json list = NULL;
	json_t *item, *best = NULL;
	size_t i;
	int r = cli_ask(t, "GET", path, NULL, &list, err);

	if (r < 0)
		return r;
	json_array_foreach(list, i, item) {
		bool ready = str_eq(json_string_value(json_object_get(item, "status")), "ready");
		if (!best || (!build && ready)) {
			best = item;
			if (build || ready)
				break;
		}
	}
	const char *id = json_string_value(json_object_get(best, "id"));
	if (!id)
		return err_set(err, -ENOENT, "%s was never deployed", name);
	*ret = xstrdup(id);
	return 0;
}

static int show_build(const struct cli_target *t, const char *id, struct err *err)
{
	auto_free char *path = xasprintf("/v1/github/deployments/%s/logs", id);
	auto_json body = NULL;
	const char *text = "";
	int r = cli_ask(t, "GET", path, NULL, &body, err);

	r = r < 0 ? r : json_get_str(body, "logs", &text, err);
	if (r == 0)
		fputs(text, stdout);
	return r;
}

static int show_server(const struct cli_target *t, const char *id, const char *limit, struct err *err)
{
	auto_free char *path = xasprintf("/v1/github/deployments/%s/runtime-logs?limit=%s", id, limit);
	auto_json body = NULL;
	json_t *entry;
	size_t i;
	int r = cli_ask(t, "GET", path, NULL, &body, err);

	if (r < 0)
		return r;
	json_array_foreach(json_object_get(body, "entries"), i, entry) {
		const char *message = json_string_value(json_object_get(entry, "message"));
		const char *severity = json_string_value(json_object_get(entry, "severity"));
		bool plain = !severity || str_ieq(severity, "info");
		printf("%s%s%s\n", plain ? "" : severity, plain ? "" : ": ", message ? message : "");
	}
	return 0;
}

static int run(const char *data, const char *given, bool build, const char *limit)
{
	struct cli_target t = { 0 };
	auto_free char *name = NULL;
	auto_free char *id = NULL;
	struct err err;
	int r = cli_target_find(&t, data, &err);

	r = r < 0 ? r : cli_full_name(&t, given, &name, &err);
	r = r < 0 ? r : find_deployment(&t, name, build, &id, &err);
	if (r == 0)
		r = build ? show_build(&t, id, &err) : show_server(&t, id, limit, &err);
	cli_target_done(&t);
	return r < 0 ? cli_fail("%s", err.msg) : 0;
}

int cli_logs(int argc, char **argv)
{
	static const struct option options[] = { { "build", no_argument, NULL, 'b' }, { "limit", required_argument, NULL, 'l' },
						 { "data", required_argument, NULL, 'd' }, { "help", no_argument, NULL, 'h' }, { 0 } };
	const char *data = NULL, *limit = "200";
	bool build = false;

	for (int o; (o = getopt_long(argc, argv, "", options, NULL)) != -1;) {
		switch (o) {
		case 'b': build = true; break;
		case 'l': limit = optarg; break;
		case 'd': data = optarg; break;
		case 'h': fputs(usage, stdout); return 0;
		default: return 2;
		}
	}
	if (optind + 1 != argc)
		return cli_misuse(usage, "logs takes one environment");
	if (str_empty(limit) || limit[strspn(limit, "0123456789")] != '\0')
		return cli_misuse(usage, "--limit: \"%s\": expected a number of lines", limit);
	return run(data, argv[optind], build, limit);
}
