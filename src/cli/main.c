/* The program `openreward`: finds the verb and runs it. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "api/api.h"
#include "base/mem.h"
#include "base/str.h"
#include "build/job.h"
#include "cli/cli.h"
#include "sandbox/wire.h"

static const char version_usage[] = "usage: openreward version [--wire]\n"
				    "Prints the version; with --wire that of the protocol between the programs, and the oldest one that\n"
				    "this program still speaks.\n";

static int version(int argc, char **argv)
{
	if (argc > 2)
		return cli_misuse(version_usage, "version takes no argument \"%s\"", argv[2]);
	if (argc < 2)
		printf("openreward %s\n", OPENREWARD_VERSION);
	else if (str_eq(argv[1], "--wire"))
		printf("%d %d\n", WIRE_VERSION, WIRE_VERSION_MIN);
	else if (str_eq(argv[1], "--help"))
		fputs(version_usage, stdout);
	else
		return cli_misuse(version_usage, "version takes no argument \"%s\"", argv[1]);
	return 0;
}

static int help(int argc, char **argv);

static const struct {
	const char *name;
	cli_verb_fn *fn;
	const char *what; /* NULL = not for people */
} verbs[] = {
	{ "serve", cli_serve, "run the server" },
	{ "spawner", cli_spawner, "run what holds sandboxes as a service of its own" },
	{ "client-env", cli_client_env, "print what clients of the running server need in their environment" },
	{ "deploy", cli_deploy, "build a folder with a Dockerfile and serve it as an environment" },
	{ "sandbox", cli_sandbox, "run a command in a new sandbox; list, enter and remove sandboxes" },
	{ "image", cli_image, "bootstrap, import, pull, list and remove images" },
	{ "deployment", cli_deployment, "list deployments, tell how one went, cancel one" },
	{ "rollback", cli_rollback, "let an earlier revision of an environment serve again" },
	{ "env", cli_env, "list environments, show and change their settings" },
	{ "logs", cli_logs, "show what an environment's server or build wrote" },
	{ "runs", cli_runs, "list what agents did, by run" },
	{ "rollouts", cli_rollouts, "list the rollouts of a run, or show the messages of one" },
	{ "export", cli_export, "write all messages of a run as JSON lines" },
	{ "backup", cli_backup, "write all that the server must keep to one file" },
	{ "restore", cli_restore, "make a data directory of a backup" },
	{ "key", cli_key, "make, list and revoke API keys" },
	{ "user", cli_user, "make, list and disable users" },
	{ "org", cli_org, "organisations and their members" },
	{ "audit", cli_audit, "list who changed what, when, from where" },
	{ "doctor", cli_doctor, "check this machine, or look for leaks" },
	{ "version", version, "print the version" },
	{ "help", help, "print this" },
	{ "job", job_main, NULL },
	{ API_BACKUP_VERB, cli_dump, NULL },
};

static int help(int argc, char **argv)
{
	(void)argc;
	(void)argv;
	printf("usage: openreward VERB [ARGUMENTS]\n\n");
	for (size_t i = 0; i < ARRAY_LEN(verbs); i++)
		if (verbs[i].what)
			printf("  %-12s %s\n", verbs[i].name, verbs[i].what);
	printf("\n`openreward VERB --help` tells more. The verbs find the server by OPENREWARD_URL and OPENREWARD_API_KEY, or by\n"
	       "--data DIR, the data directory of a server on this machine.\n");
	return 0;
}

int cli_fail(const char *fmt, ...)
{
	va_list ap;

	fputs("openreward: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	return 1;
}

int cli_misuse(const char *usage, const char *fmt, ...)
{
	va_list ap;

	fputs("openreward: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fprintf(stderr, "\n%s", usage);
	return 2;
}

static const char *canonical(const char *word)
{
	if (str_eq(word, "--help") || str_eq(word, "-h"))
		return "help";
	if (str_eq(word, "--version") || str_eq(word, "-V"))
		return "version";
	return word;
}

int main(int argc, char **argv)
{
	if (argc < 2) {
		help(argc, argv);
		return 2;
	}
	const char *name = canonical(argv[1]);
	for (size_t i = 0; i < ARRAY_LEN(verbs); i++)
		if (str_eq(verbs[i].name, name))
			return verbs[i].fn(argc - 1, argv + 1);
	fprintf(stderr, "openreward: there is no verb \"%s\"; `openreward help` lists them\n", argv[1]);
	return 2;
}
