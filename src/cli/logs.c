/* openreward logs NAME: what the environment's servers wrote, or with --build what its newest build said. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "cli/cli.h"
#include "json/json.h"

static const char usage[] =
	"usage: openreward logs [OPTION...] NAMESPACE/NAME\n"
	"Shows the last lines that the environment's servers wrote, of all its revisions and instances in one, or with --build\n"
	"the log of its newest build. A bare NAME is one of the key's own namespace.\n"
	"  -f, --follow         goes on with what comes\n"
	"  -t, --timestamps     the time, revision and instance in front of each line\n"
	"  --json               each line as JSON\n"
	"  --limit LINES        how many (200)\n"
	"  --since TIME         not older: 2026-01-02T03:04:05Z, or the beginning of one\n"
	"  --severity LEVEL     at least DEBUG, INFO, NOTICE, WARNING, ERROR, CRITICAL, ALERT or EMERGENCY\n"
	"  --deployment ID      of this one alone; eight characters of it will do\n"
	"  --build              of the build\n"
	"  --data DIR           of the server on this machine\n";

struct options {
	const char *data, *limit, *since, *severity, *deployment;
	bool follow, times, json, build;
};

/* -- the server's -------------------------------------------------------------------------------------------------- */

static const char *member(json_t *obj, const char *key)
{
	const char *s = json_string_value(json_object_get(obj, key));

	return s ? s : "";
}

static void print_entry(const struct options *o, json_t *entry)
{
	const char *severity = member(entry, "severity");
	bool plain = str_eq(severity, "INFO") || !*severity;

	if (o->json) {
		auto_free char *text = json_dumps(entry, JSON_COMPACT);
		puts(text ? text : "{}");
		return;
	}
	if (o->times)
		printf("%s %.8s %s ", member(entry, "timestamp"), member(entry, "deployment"),
		       *member(entry, "instance") ? member(entry, "instance") : "-");
	printf("%s%s%s\n", plain ? "" : severity, plain ? "" : ": ", member(entry, "message"));
}

static void on_line(void *arg, const char *line, size_t len)
{
	auto_json entry = NULL;

	if (len && json_read_object(&entry, line, len, NULL) == 0) {
		print_entry(arg, entry);
		fflush(stdout);
	}
}

static char *path_of(const char *name, const struct options *o)
{
	return xasprintf("/v1/environments/%s/logs?limit=%s%s%s%s%s%s%s%s", name, o->limit, o->follow ? "&follow=1" : "",
			 o->since ? "&since=" : "", o->since ? o->since : "", o->severity ? "&severity=" : "",
			 o->severity ? o->severity : "", o->deployment ? "&deployment=" : "", o->deployment ? o->deployment : "");
}

static int show_server(const struct cli_target *t, const char *name, const struct options *o, struct err *err)
{
	auto_free char *path = path_of(name, o);
	struct cli_request rq = { .method = "GET", .path = path, .line = on_line, .arg = (void *)o };
	auto_json body = NULL;
	json_t *entry;
	size_t i;

	if (o->follow) {
		int r = cli_http(t, &rq, err);
		cli_request_done(&rq);
		return r;
	}
	int r = cli_ask(t, "GET", path, NULL, &body, err);
	if (r < 0)
		return r;
	json_array_foreach(json_object_get(body, "entries"), i, entry)
		print_entry(o, entry);
	return 0;
}

/* -- the build's ------------------------------------------------------------------------------------------------------ */

static int newest_deployment(const struct cli_target *t, const char *name, char **ret, struct err *err)
{
	auto_free char *path = xasprintf("/v1/environments/%s/deployments", name);
	auto_json list = NULL;
	int r = cli_ask(t, "GET", path, NULL, &list, err);

	if (r < 0)
		return r;
	if (!json_array_size(list))
		return err_set(err, -ENOENT, "%s was never deployed", name);
	*ret = xstrdup(member(json_array_get(list, 0), "id"));
	return 0;
}

static int follow_build(const struct cli_target *t, const char *id, struct err *err)
{
	auto_free char *path = xasprintf("/v1/deployments/%s/follow", id);
	struct cli_progress p;
	struct cli_request rq = { .method = "GET", .path = path, .line = cli_progress_line, .arg = &p };

	cli_progress_init(&p, stdout);
	int r = cli_http(t, &rq, err);
	cli_request_done(&rq);
	cli_progress_done(&p);
	return r;
}

static int show_build(const struct cli_target *t, const char *name, const struct options *o, struct err *err)
{
	auto_free char *id = o->deployment ? xstrdup(o->deployment) : NULL;
	auto_json body = NULL;
	const char *text = "";
	int r = id ? 0 : newest_deployment(t, name, &id, err);

	if (r < 0)
		return r;
	if (o->follow)
		return follow_build(t, id, err);
	auto_free char *path = xasprintf("/v1/github/deployments/%s/logs", id);
	r = cli_ask(t, "GET", path, NULL, &body, err);
	r = r < 0 ? r : json_get_str(body, "logs", &text, err);
	if (r == 0)
		fputs(text, stdout);
	return r;
}

static int run(const struct options *o, const char *given)
{
	struct cli_target t = { 0 };
	auto_free char *name = NULL;
	struct err err;
	int r = cli_target_find(&t, o->data, &err);

	r = r < 0 ? r : cli_full_name(&t, given, &name, &err);
	if (r == 0)
		r = o->build ? show_build(&t, name, o, &err) : show_server(&t, name, o, &err);
	cli_target_done(&t);
	return r < 0 ? cli_fail("%s", err.msg) : 0;
}

/* -- options ------------------------------------------------------------------------------------------------------- */

static bool take_option(struct options *o, int option)
{
	switch (option) {
	case 'f': o->follow = true; break;
	case 't': o->times = true; break;
	case 'j': o->json = true; break;
	case 'b': o->build = true; break;
	case 'l': o->limit = optarg; break;
	case 's': o->since = optarg; break;
	case 'v': o->severity = optarg; break;
	case 'i': o->deployment = optarg; break;
	case 'd': o->data = optarg; break;
	default: return false;
	}
	return true;
}

/* What goes into the path of a request as it is. */
static bool is_plain(const char *s)
{
	return !s || (*s && strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.:-") == strlen(s));
}

int cli_logs(int argc, char **argv)
{
	static const struct option options[] = {
		{ "follow", no_argument, NULL, 'f' },	       { "timestamps", no_argument, NULL, 't' },
		{ "json", no_argument, NULL, 'j' },	       { "build", no_argument, NULL, 'b' },
		{ "limit", required_argument, NULL, 'l' },     { "since", required_argument, NULL, 's' },
		{ "severity", required_argument, NULL, 'v' },  { "deployment", required_argument, NULL, 'i' },
		{ "data", required_argument, NULL, 'd' },      { "help", no_argument, NULL, 'h' }, { 0 },
	};
	struct options o = { .limit = "200" };

	for (int c; (c = getopt_long(argc, argv, "ft", options, NULL)) != -1;) {
		if (c == 'h') {
			fputs(usage, stdout);
			return 0;
		}
		if (!take_option(&o, c))
			return 2;
	}
	if (optind + 1 != argc)
		return cli_misuse(usage, "logs takes one environment");
	if (str_empty(o.limit) || o.limit[strspn(o.limit, "0123456789")] != '\0')
		return cli_misuse(usage, "--limit: \"%s\": expected a number of lines", o.limit);
	if (!is_plain(o.since) || !is_plain(o.severity) || !is_plain(o.deployment))
		return cli_misuse(usage, "--since, --severity and --deployment take a time, a word and an id");
	return run(&o, argv[optind]);
}
