/* openreward client-env: what OpenReward's clients read from their environment, as shell lines. */
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "cli/cli.h"

static const char usage[] = "usage: openreward client-env [--data DIR]\n"
			    "Prints export lines for OPENREWARD_URL, OPENREWARD_API_URL, OPENREWARD_SESSION_URL and\n"
			    "OPENREWARD_API_KEY. Use: eval \"$(openreward client-env)\"\n";

/* In single quotes, with each ' as '\''. */
static void print_export(const char *name, const char *value)
{
	printf("export %s='", name);
	for (; *value; value++) {
		if (*value == '\'')
			fputs("'\\''", stdout);
		else
			putchar(*value);
	}
	puts("'");
}

int cli_client_env(int argc, char **argv)
{
	const char *data = NULL;
	struct cli_target t = { 0 };
	struct err err;
	int status;

	if (cli_data_only(argc, argv, usage, &data, &status))
		return status;
	if (optind < argc)
		return cli_misuse(usage, "client-env takes no argument \"%s\"", argv[optind]);
	if (cli_target_find(&t, data, &err) < 0)
		return cli_fail("%s", err.msg);
	struct cli_request rq = { .method = "GET", .path = "/health" };
	int r = cli_http(&t, &rq, &err);
	cli_request_done(&rq);
	if (r < 0) {
		cli_target_done(&t);
		return cli_fail("%s", err.msg);
	}
	print_export("OPENREWARD_URL", t.url);
	print_export("OPENREWARD_API_URL", t.url);
	print_export("OPENREWARD_SESSION_URL", t.url);
	print_export("OPENREWARD_API_KEY", t.key);
	cli_target_done(&t);
	return 0;
}
