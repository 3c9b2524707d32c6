/* openreward doctor: is this machine fit, and does anything of ours lie about that nobody owns? */
#include "cli/doctor.h"

#include <dirent.h>
#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/fd.h"
#include "base/mem.h"
#include "base/str.h"
#include "cli/cli.h"
#include "daemon/config.h"
#include "json/json.h"

static const char usage[] = "usage: openreward doctor [--leaks] [--data DIR]\n"
			    "Checks what this machine needs; every line says OK or what to do. With --leaks: lists processes, mounts,\n"
			    "cgroups and folders of ours that no living object owns; ends with 1 when there are any.\n";

PRINTF_LIKE(3, 0) static void say(const char *verdict, const char *what, const char *fmt, va_list ap)
{
	printf("%-5s %s: ", verdict, what);
	vprintf(fmt, ap);
	putchar('\n');
}

void doctor_ok(struct doctor *d, const char *what, const char *fmt, ...)
{
	va_list ap;

	(void)d;
	va_start(ap, fmt);
	say("OK", what, fmt, ap);
	va_end(ap);
}

void doctor_skip(struct doctor *d, const char *what, const char *fmt, ...)
{
	va_list ap;

	(void)d;
	va_start(ap, fmt);
	say("SKIP", what, fmt, ap);
	va_end(ap);
}

void doctor_fail(struct doctor *d, const char *what, const char *fmt, ...)
{
	va_list ap;

	d->failed++;
	va_start(ap, fmt);
	say("FAIL", what, fmt, ap);
	va_end(ap);
}

static int check(const char *data)
{
	AUTO(config_freep) struct config *c = config_new();
	struct doctor d = { .data = data ? data : c->data, .user = c->user };

	doctor_kernel(&d);
	doctor_cgroups(&d);
	doctor_user_namespaces(&d);
	doctor_overlay(&d);
	doctor_nftables(&d);
	doctor_packages(&d);
	doctor_account(&d);
	doctor_disk(&d);
	doctor_limits(&d);
	if (d.failed)
		printf("%u thing%s to do\n", d.failed, d.failed == 1 ? "" : "s");
	return d.failed ? 1 : 0;
}

/* -- leaks ------------------------------------------------------------------------------------------------------- */

/* Entries of a folder but the dotted ones; 0 where there is none. */
static unsigned list_folder(const char *path, const char *what)
{
	DIR *dir = opendir(path);
	unsigned n = 0;

	if (!dir)
		return 0;
	for (struct dirent *e; (e = readdir(dir));) {
		if (e->d_name[0] == '.')
			continue;
		printf("%s %s/%s\n", what, path, e->d_name);
		n++;
	}
	closedir(dir);
	return n;
}

/* Any hierarchy's folder of that name that is still there. */
static unsigned list_cgroups(const char *name)
{
	auto_buf struct buf mounts = { 0 };
	unsigned n = 0;

	buf_init(&mounts, 4 * 1024 * 1024);
	if (fd_read_file("/proc/self/mounts", &mounts, NULL) < 0)
		return 0;
	char *rest = mounts.data;
	for (char *line; (line = strsep(&rest, "\n"));) {
		char target[512], type[32];
		if (sscanf(line, "%*s %511s %31s", target, type) != 2 || !str_starts(type, "cgroup"))
			continue;
		auto_free char *path = xasprintf("%s/%s", target, name);
		if (access(path, F_OK) == 0) {
			printf("cgroup %s\n", path);
			n++;
		}
	}
	return n;
}

static unsigned list_mounts(const char *data)
{
	auto_buf struct buf mounts = { 0 };
	auto_free char *prefix = xasprintf("%s/sandboxes/", data);
	unsigned n = 0;

	buf_init(&mounts, 4 * 1024 * 1024);
	if (fd_read_file("/proc/self/mounts", &mounts, NULL) < 0)
		return 0;
	char *rest = mounts.data;
	for (char *line; (line = strsep(&rest, "\n"));) {
		if (!strstr(line, prefix))
			continue;
		printf("mount %s\n", line);
		n++;
	}
	return n;
}

/* No daemon: then nothing of ours may live at all. */
static int scan(const char *given)
{
	auto_free char *real = realpath(given, NULL);
	const char *data = real ? real : given;
	auto_free char *sandboxes = xasprintf("%s/sandboxes", data);
	char name[32];

	snprintf(name, sizeof(name), "orw-%08x", str_hash32(data));
	unsigned n = list_folder(sandboxes, "files") + list_cgroups(name) + list_mounts(data);
	if (!n)
		printf("no leaks (no server runs on %s)\n", data);
	return n ? 1 : 0;
}

static int print_leaks(const struct buf *answer)
{
	auto_json body = NULL;
	struct err err;
	json_t *line;
	size_t i;

	if (json_read_object(&body, answer->data, answer->len, &err) < 0)
		return cli_fail("%s", err.msg);
	json_t *list = json_object_get(body, "leaks");
	json_array_foreach(list, i, line)
		printf("%s\n", json_string_value(line));
	if (json_array_size(list))
		return 1;
	printf("no leaks\n");
	return 0;
}

static int leaks(const char *data)
{
	AUTO(config_freep) struct config *c = config_new();
	struct cli_target t = { 0 };
	struct cli_request rq = { .method = "GET", .path = "/v1/leaks" };
	struct err err;
	int r = cli_target_find(&t, data, &err);

	if (r == 0)
		r = cli_http(&t, &rq, &err);
	int status = r == 0 ? print_leaks(&rq.answer) : 1;
	if (r == -ENOENT || r == -ECONNREFUSED) /* nobody there who could tell */
		status = scan(data ? data : c->data);
	else if (r < 0)
		cli_fail("%s", err.msg);
	if (t.url)
		cli_request_done(&rq);
	cli_target_done(&t);
	return status;
}

int cli_doctor(int argc, char **argv)
{
	static const struct option options[] = { { "leaks", no_argument, NULL, 'l' }, { "data", required_argument, NULL, 'd' },
						 { "help", no_argument, NULL, 'h' }, { 0 } };
	const char *data = NULL;
	bool want_leaks = false;

	for (int o; (o = getopt_long(argc, argv, "", options, NULL)) != -1;) {
		switch (o) {
		case 'l': want_leaks = true; break;
		case 'd': data = optarg; break;
		case 'h': fputs(usage, stdout); return 0;
		default: return 2;
		}
	}
	if (optind < argc)
		return cli_misuse(usage, "doctor takes no argument \"%s\"", argv[optind]);
	return want_leaks ? leaks(data) : check(data);
}
