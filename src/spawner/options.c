#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "spawner/spawner.h"

enum {
	OPT_DATA, OPT_UID, OPT_GID, OPT_LISTEN, OPT_LIBEXEC, OPT_MOUNT, OPT_EGRESS_ARG, OPT_JOB_ENV, OPT_READY_FD,
	OPT_INIT, OPT_PROGRAM, OPT_KEEP, OPT_DISK_TOTAL, OPT_DISK_RESERVE,
};

static const struct option known[] = {
	{ "data", required_argument, NULL, OPT_DATA },
	{ "uid", required_argument, NULL, OPT_UID },
	{ "gid", required_argument, NULL, OPT_GID },
	{ "listen", required_argument, NULL, OPT_LISTEN },
	{ "libexec", required_argument, NULL, OPT_LIBEXEC },
	{ "mount", required_argument, NULL, OPT_MOUNT },
	{ "egress-arg", required_argument, NULL, OPT_EGRESS_ARG },
	{ "job-env", required_argument, NULL, OPT_JOB_ENV },
	{ "ready-fd", required_argument, NULL, OPT_READY_FD },
	{ "init", required_argument, NULL, OPT_INIT },
	{ "program", required_argument, NULL, OPT_PROGRAM },
	{ "keep", no_argument, NULL, OPT_KEEP },
	{ "disk-total", required_argument, NULL, OPT_DISK_TOTAL },
	{ "disk-reserve", required_argument, NULL, OPT_DISK_RESERVE },
	{ NULL, 0, NULL, 0 },
};

static int add(const char **list, size_t max, const char *name, const char *value, struct err *err)
{
	for (size_t i = 0; i < max; i++) {
		if (list[i])
			continue;
		list[i] = value;
		return 0;
	}
	return err_set(err, -E2BIG, "--%s: given more than %zu times", name, max);
}

static int number(const char *name, const char *value, uint64_t max, uint64_t *ret, struct err *err)
{
	uint64_t v;

	if (str_to_u64(value, &v) < 0 || v > max)
		return err_set(err, -EINVAL, "--%s: \"%s\", expected a number of at most %llu", name, value,
			       (unsigned long long)max);
	*ret = v;
	return 0;
}

static int take_number(struct options *o, int opt, const char *name, const char *value, struct err *err)
{
	uint64_t v = 0;
	int r = number(name, value, opt == OPT_READY_FD ? INT_MAX : UINT32_MAX - 1, &v, err);

	if (r < 0)
		return r;
	if (opt == OPT_UID)
		o->uid = (uid_t)v;
	else if (opt == OPT_GID)
		o->gid = (gid_t)v;
	else
		o->ready_fd = (int)v;
	return 0;
}

static int take(struct options *o, int opt, const char *name, const char *value, struct err *err)
{
	switch (opt) {
	case OPT_DATA:
		o->data = value;
		return 0;
	case OPT_LIBEXEC:
		o->libexec = value;
		return 0;
	case OPT_INIT:
		o->init = value;
		return 0;
	case OPT_PROGRAM:
		o->program = value;
		return 0;
	case OPT_KEEP:
		o->keep = true;
		return 0;
	case OPT_DISK_TOTAL:
		return number(name, value, UINT64_MAX / 2, &o->disk_total, err);
	case OPT_DISK_RESERVE:
		return number(name, value, UINT64_MAX / 2, &o->disk_reserve, err);
	case OPT_LISTEN:
		return add(o->listen, SPAWNER_LISTEN_MAX, name, value, err);
	case OPT_MOUNT:
		return add(o->mounts, SPAWNER_ARGS_MAX, name, value, err);
	case OPT_EGRESS_ARG:
		return add(o->egress_args, SPAWNER_ARGS_MAX, name, value, err);
	case OPT_JOB_ENV:
		return add(o->job_env, SPAWNER_ARGS_MAX, name, value, err);
	default:
		return take_number(o, opt, name, value, err);
	}
}

static const char *in_libexec(const char *libexec, const char *name)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/%s", libexec, name);
	return strdup(path); /* for the program's life */
}

static int check(struct options *o, struct err *err)
{
	if (!o->data || o->data[0] != '/')
		return err_set(err, -EINVAL, "--data: \"%s\", expected an absolute path", o->data ? o->data : "");
	if (!o->libexec || o->libexec[0] != '/')
		return err_set(err, -EINVAL, "--libexec: \"%s\", expected an absolute path", o->libexec ? o->libexec : "");
	if (o->uid == (uid_t)-1 || o->gid == (gid_t)-1)
		return err_set(err, -EINVAL, "--uid and --gid are missing: the daemon's user");
	for (size_t i = 0; o->job_env[i]; i++)
		if (!strchr(o->job_env[i], '=') || o->job_env[i][0] == '=')
			return err_set(err, -EINVAL, "--job-env: \"%s\", expected NAME=VALUE", o->job_env[i]);
	o->init = o->init ? o->init : in_libexec(o->libexec, "openreward-init");
	o->program = o->program ? o->program : in_libexec(o->libexec, "openreward");
	return o->init && o->program ? 0 : err_set(err, -ENOMEM, "out of memory");
}

int options_parse(struct options *ret, int argc, char **argv, struct err *err)
{
	struct options o = { .uid = (uid_t)-1, .gid = (gid_t)-1, .ready_fd = -1, .disk_total = DISK_NO_LIMITS };
	int opt, index = 0, r = 0;

	opterr = 0;
	optind = 1;
	while (r == 0 && (opt = getopt_long(argc, argv, "", known, &index)) != -1) {
		if (opt == '?')
			return err_set(err, -EINVAL, "unknown option, or one without its value: %s", argv[optind - 1]);
		r = take(&o, opt, known[index].name, optarg, err);
	}
	if (r == 0 && optind < argc)
		r = err_set(err, -EINVAL, "unexpected argument \"%s\"", argv[optind]);
	if (r == 0)
		r = check(&o, err);
	if (r == 0)
		*ret = o;
	return r;
}
