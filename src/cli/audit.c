/* openreward audit: who changed what, when, from where. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "cli/cli.h"

static const char usage[] =
	"usage: openreward audit [--namespace NAMESPACE] [--actor NAME] [--action BEGINNING] [--since DURATION] [--limit N]\n"
	"                        [--json] [--data DIR]\n"
	"Lists what was changed, or tried, newest first: 100, or --limit. Operators see all, owners what concerns their\n"
	"namespace. --action: \"DELETE\", \"PUT /v1/orgs/acme\"; --since: 30m, 24h, 7d. --json: one object a line.\n";

#define PAGE 1000u

struct options {
	const char *data, *namespace, *actor, *action, *since;
	uint64_t limit;
	bool json;
};

static const struct cli_column columns[] = {
	{ "AT", "at" },         { "ACTOR", "actor" },   { "FROM", "from" },     { "STATUS", "status" },
	{ "ACTION", "action" }, { "TARGET", "target" }, { "NAMESPACE", "namespace" },
};

static void put(struct buf *b, const char *name, const char *value)
{
	if (value && (buf_printf(b, "&%s=", name) < 0 || str_percent_encode(b, value) < 0))
		abort(); /* an unlimited buffer has no way to fail */
}

static char *path_of(const struct options *o, uint64_t left, const char *token)
{
	auto_free char *start = xasprintf("/v1/audit?limit=%llu", (unsigned long long)MIN(left, PAGE));
	auto_buf struct buf b = { 0 };

	buf_init(&b, BUF_UNLIMITED);
	if (buf_puts(&b, start) < 0)
		abort();
	put(&b, "namespace", o->namespace);
	put(&b, "actor", o->actor);
	put(&b, "action", o->action);
	put(&b, "since", o->since);
	put(&b, "pageToken", token);
	return buf_steal(&b, NULL);
}

/* Each page is printed as it comes: the whole may be long. */
static int list(const struct cli_target *t, const struct options *o, struct err *err)
{
	auto_free char *token = NULL;
	uint64_t left = o->limit;
	bool first = true;

	do {
		auto_free char *path = path_of(o, left, token);
		auto_json page = NULL;
		int r = cli_ask(t, "GET", path, NULL, &page, err);
		if (r < 0)
			return r;
		json_t *entries = json_object_get(page, "entries");
		cli_print_rows(entries, columns, ARRAY_LEN(columns), o->json, first);
		first = false;
		left -= MIN(left, (uint64_t)json_array_size(entries));
		free(token);
		token = xstrdup(json_string_value(json_object_get(page, "nextPageToken")));
	} while (token && left);
	return 0;
}

static bool read_options(int argc, char **argv, struct options *ret, int *ret_status)
{
	static const struct option known[] = {
		{ "namespace", required_argument, NULL, 'n' }, { "actor", required_argument, NULL, 'a' },
		{ "action", required_argument, NULL, 'c' },    { "since", required_argument, NULL, 's' },
		{ "limit", required_argument, NULL, 'l' },     { "json", no_argument, NULL, 'j' },
		{ "data", required_argument, NULL, 'd' },      { "help", no_argument, NULL, 'h' }, { 0 }
	};

	for (int o; (o = getopt_long(argc, argv, "", known, NULL)) != -1;) {
		*ret_status = 2;
		switch (o) {
		case 'n': ret->namespace = optarg; break;
		case 'a': ret->actor = optarg; break;
		case 'c': ret->action = optarg; break;
		case 's': ret->since = optarg; break;
		case 'j': ret->json = true; break;
		case 'd': ret->data = optarg; break;
		case 'l':
			if (str_to_u64(optarg, &ret->limit) == 0 && ret->limit)
				break;
			cli_misuse(usage, "--limit: \"%s\": expected a whole number of at least 1", optarg);
			return true;
		default:
			if (o == 'h')
				fputs(usage, stdout);
			*ret_status = o == 'h' ? 0 : 2; /* getopt has said what it does not know */
			return true;
		}
	}
	return false;
}

int cli_audit(int argc, char **argv)
{
	struct options o = { .limit = 100 };
	struct cli_target t = { 0 };
	struct err err;
	int status;

	if (read_options(argc, argv, &o, &status))
		return status;
	if (optind != argc)
		return cli_misuse(usage, "audit takes no argument, but \"%s\" is one", argv[optind]);
	int r = cli_target_find(&t, o.data, &err);
	r = r < 0 ? r : list(&t, &o, &err);
	cli_target_done(&t);
	return r < 0 ? cli_fail("%s", err.msg) : 0;
}
