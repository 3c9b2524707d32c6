/* openreward serve: becomes the daemon. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <sys/wait.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/str.h"
#include "cli/cli.h"
#include "daemon/server.h"

static const char usage[] =
	"usage: openreward serve [--config FILE] [--listen HOST:PORT] [--data DIR] [--insecure] [--print-config]\n"
	"Runs the server; start it as root, it goes on as an ordinary user. Without --config every setting has its default\n"
	"(`openreward serve --print-config` shows them all); --listen (127.0.0.1:8080) and --data (/var/lib/openreward) go\n"
	"before the file; --insecure allows plain HTTP on other addresses than this machine's own. Ready is the line `listening\n"
	"on http://HOST:PORT`. SIGTERM ends it and everything that it runs; SIGHUP reads certificate and key anew.\n";

static const char spawner_usage[] =
	"usage: openreward spawner [--config FILE] [--listen HOST:PORT] [--data DIR] [--insecure] [--print-config]\n"
	"Runs, as root, the part of the server that makes and holds sandboxes, as a service of its own: a server that is stopped or\n"
	"restarted then leaves everything running, and the next one takes it over. With the settings that `serve` gets. SIGTERM\n"
	"ends it and everything that it holds.\n";

#define PRINT_MAX (1024u * 1024)

struct options {
	const char *config, *listen, *data;
	bool insecure, print;
};

static int apply(struct config *c, const struct options *o, struct err *err)
{
	int r = o->config ? config_load(c, o->config, err) : 0;

	if (r == 0 && o->listen)
		r = config_set(c, "listen", o->listen, err);
	if (r == 0 && o->data)
		r = config_set(c, "data", o->data, err);
	if (r == 0 && o->insecure)
		r = config_set(c, "insecure", "true", err);
	return r < 0 ? r : config_check(c, err);
}

static int print(const struct config *c)
{
	auto_buf struct buf b = { 0 };

	buf_init(&b, PRINT_MAX);
	if (config_print(c, &b) < 0)
		return cli_fail("the configuration is too large to print");
	fputs(b.data, stdout);
	return 0;
}

static int serve(const struct config *c)
{
	struct launch l = LAUNCH_INIT;
	struct err err;

	log_setup("openreward", c->log_level, c->log_format);
	if (launch(&l, c, &err) < 0)
		return cli_fail("%s", err.msg);
	int r = daemon_run(c, &l, &err);
	if (l.spawner > 0 && r != DAEMON_LEFT)
		waitpid(l.spawner, NULL, r == 0 ? 0 : WNOHANG);
	launch_done(&l);
	return r < 0 ? cli_fail("%s", err.msg) : 0;
}

static int spawner(const struct config *c)
{
	struct err err = ERR_INIT;

	return launch_spawner(c, &err) < 0 ? cli_fail("%s", err.msg) : 0;
}

static int run_verb(int argc, char **argv, const char *help, int (*run)(const struct config *c))
{
	static const struct option options[] = {
		{ "config", required_argument, NULL, 'c' }, { "listen", required_argument, NULL, 'l' },
		{ "data", required_argument, NULL, 'd' }, { "insecure", no_argument, NULL, 'i' },
		{ "print-config", no_argument, NULL, 'p' },
		{ "help", no_argument, NULL, 'h' }, { 0 },
	};
	AUTO(config_freep) struct config *c = config_new();
	struct options opt = { 0 };
	struct err err;

	for (int o; (o = getopt_long(argc, argv, "", options, NULL)) != -1;) {
		switch (o) {
		case 'c': opt.config = optarg; break;
		case 'l': opt.listen = optarg; break;
		case 'd': opt.data = optarg; break;
		case 'i': opt.insecure = true; break;
		case 'p': opt.print = true; break;
		case 'h': fputs(help, stdout); return 0;
		default: return 2;
		}
	}
	if (optind < argc)
		return cli_misuse(help, "%s takes no argument \"%s\"", argv[0], argv[optind]);
	if (apply(c, &opt, &err) < 0)
		return cli_fail("%s", err.msg);
	return opt.print ? print(c) : run(c);
}

int cli_serve(int argc, char **argv)
{
	return run_verb(argc, argv, usage, serve);
}

int cli_spawner(int argc, char **argv)
{
	return run_verb(argc, argv, spawner_usage, spawner);
}
