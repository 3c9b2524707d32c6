/* openreward rollback: an earlier revision serves again. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/str.h"
#include "cli/cli.h"

static const char usage[] = "usage: openreward rollback NAME [DEPLOYMENT] [--data DIR]\n"
			    "Lets an earlier revision of the environment serve again: the deployment that is named, or the one that\n"
			    "served before. What serves now goes on until the other is ready. Ends with 0 when it is.\n";

static int begin(const struct cli_target *t, const char *name, const char *id, char **ret, struct err *err)
{
	auto_free char *path = xasprintf("/v1/environments/%s/rollback", name);
	auto_free char *body = id ? xasprintf("{\"deployment_id\": \"%s\"}", id) : xstrdup("{}");
	auto_json d = NULL;
	const char *got = NULL;
	int r = cli_ask(t, "POST", path, body, &d, err);

	r = r < 0 ? r : json_need_str(d, "id", &got, err);
	if (r == 0)
		*ret = xstrdup(got);
	return r;
}

/* The lines of the new start alone: those of its build were seen when it was built. */
static int finish(const struct cli_target *t, const char *name, const char *id, struct err *err)
{
	auto_free char *path = xasprintf("/v1/deployments/%s/follow", id);
	auto_json last = NULL;
	struct cli_progress p;
	struct cli_request rq = { .method = "GET", .path = path, .line = cli_progress_line, .arg = &p };

	cli_progress_init(&p, NULL);
	int r = cli_http(t, &rq, err);
	cli_request_done(&rq);
	if (r == 0)
		r = json_read_object(&last, p.last.data ? p.last.data : "", p.last.len, err);
	cli_progress_done(&p);
	if (r < 0)
		return r;
	const char *status = json_string_value(json_object_get(last, "status"));
	const char *reason = json_string_value(json_object_get(last, "reason"));
	if (!str_eq(status, "ready"))
		return err_set(err, -EIO, "%s %s: %s", name, status ? status : "failed", reason ? reason : "no reason was given");
	printf("ready: %s (deployment %s)\n", name, id);
	return 0;
}

int cli_rollback(int argc, char **argv)
{
	const char *data = NULL;
	struct cli_target t = { 0 };
	auto_free char *name = NULL;
	auto_free char *id = NULL;
	struct err err;
	int status;

	if (cli_data_only(argc, argv, usage, &data, &status))
		return status;
	if (optind + 1 != argc && optind + 2 != argc)
		return cli_misuse(usage, "rollback takes an environment, and a deployment of it");
	const char *given = optind + 2 == argc ? argv[optind + 1] : NULL;
	if (given && !str_is_name(given, 64))
		return cli_misuse(usage, "\"%s\": expected the id of a deployment", given);
	int r = cli_target_find(&t, data, &err);
	r = r < 0 ? r : cli_full_name(&t, argv[optind], &name, &err);
	r = r < 0 ? r : begin(&t, name, given, &id, &err);
	r = r < 0 ? r : finish(&t, name, id, &err);
	cli_target_done(&t);
	return r < 0 ? cli_fail("%s", err.msg) : 0;
}
