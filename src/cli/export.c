/* openreward export RUN: all messages of a run as JSON lines. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "cli/cli.h"

static const char usage[] =
	"usage: openreward export RUN [--output FILE] [--data DIR]\n"
	"Writes all messages of a run (its name or id) as JSON lines, to standard output or to a file, which appears\n"
	"once it is whole. One line is one message with the run and the rollout that it belongs to; rollouts come\n"
	"oldest first, messages in their order.\n";

struct sink {
	FILE *f;
	int failed; /* an errno */
};

static void on_line(void *arg, const char *line, size_t len)
{
	struct sink *s = arg;

	if (!s->failed && (fwrite(line, 1, len, s->f) != len || putc('\n', s->f) == EOF))
		s->failed = errno ? errno : EIO;
}

static int fetch(const struct cli_target *t, const char *run, struct sink *s, struct err *err)
{
	auto_free char *of = cli_path("/v1/runs/", run), *path = xasprintf("%s/export", of);
	struct cli_request rq = { .method = "GET", .path = path, .line = on_line, .arg = s, .stop = &s->failed };
	int r = cli_http(t, &rq, err);
	cli_request_done(&rq);
	if (fflush(s->f) == EOF && !s->failed)
		s->failed = errno;
	return s->failed ? err_sys_code(err, -s->failed, "writing") : r;
}

static int to_file(const struct cli_target *t, const char *run, const char *name, struct err *err)
{
	auto_free char *aside = xasprintf("%s.partial", name);
	struct sink s = { .f = fopen(aside, "we") };

	if (!s.f)
		return err_sys(err, "%s", aside);
	int r = fetch(t, run, &s, err);
	if (fclose(s.f) == EOF && r == 0)
		r = err_sys(err, "%s", aside);
	if (r == 0 && rename(aside, name) < 0)
		r = err_sys(err, "%s", name);
	if (r < 0)
		(void)remove(aside);
	return r;
}

static int export(const char *data, const char *run, const char *output)
{
	struct cli_target t = { 0 };
	struct sink out = { .f = stdout };
	struct err err;
	int r = cli_target_find(&t, data, &err);

	if (r == 0)
		r = output ? to_file(&t, run, output, &err) : fetch(&t, run, &out, &err);
	cli_target_done(&t);
	return r < 0 ? cli_fail("%s", err.msg) : 0;
}

int cli_export(int argc, char **argv)
{
	static const struct option options[] = { { "output", required_argument, NULL, 'o' },
						 { "data", required_argument, NULL, 'd' },
						 { "help", no_argument, NULL, 'h' },
						 { 0 } };
	const char *data = NULL, *output = NULL;

	for (int o; (o = getopt_long(argc, argv, "o:", options, NULL)) != -1;) {
		switch (o) {
		case 'o':
			output = optarg;
			break;
		case 'd':
			data = optarg;
			break;
		case 'h':
			fputs(usage, stdout);
			return 0;
		default:
			return 2;
		}
	}
	if (optind + 1 != argc)
		return cli_misuse(usage, "export takes one run");
	return export(data, argv[optind], output);
}
