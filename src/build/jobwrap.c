/* runtime-wrapper: stands between buildah and runc. buildah's own ways to give a RUN step mounts and variables either
 * stay in the image (--env), break tools that replace the file (a bind over the CA bundle) or leave an empty mount
 * point in the layer. So what the operator configured is put into the runtime's bundle here, just before runc reads it.
 * And no step begins in another network than the build's, or with a file of the host's: which ones a bundle names is the
 * Dockerfile's choice too, in some versions of buildah.
 *
 * CONF is JSON: {"runtime": "/usr/sbin/runc", "pids": N, "env": ["K=V"], "mounts": [{"source","target"}], "files":
 * {"/etc/hosts": SOURCE}, "network": "net:[N]"}: variables that the process does not have yet; read-only binds; other sources
 * for files that buildah binds; the net namespace that the wrapper must be in, if any. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/str.h"
#include "build/job.h"
#include "build/jobpriv.h"
#include "json/json.h"

#define BUNDLE_MAX (16u << 20)

static int read_file(json_t **ret, const char *path, struct err *err)
{
	auto_buf struct buf text = { 0 };

	buf_init(&text, BUNDLE_MAX);
	int r = fd_read_file(path, &text, err);
	return r < 0 ? r : json_read_object(ret, text.data, text.len, err);
}

static bool has_variable(json_t *list, const char *entry)
{
	size_t n = strcspn(entry, "="), k;
	json_t *item;

	json_array_foreach(list, k, item) {
		const char *s = json_string_value(item);
		if (s && !strncmp(s, entry, n) && s[n] == '=')
			return true;
	}
	return false;
}

static void add_env(json_t *process, json_t *add)
{
	json_t *env = json_object_get(process, "env"), *item;
	size_t k;

	if (!env) {
		env = json_array();
		json_object_set_new(process, "env", env);
	}
	json_array_foreach(add, k, item) {
		if (json_is_string(item) && !has_variable(env, json_string_value(item)))
			json_array_append(env, item);
	}
}

static void add_mounts(json_t *mounts, json_t *add)
{
	json_t *item;
	size_t k;

	json_array_foreach(add, k, item) {
		json_t *target = json_object_get(item, "target"), *source = json_object_get(item, "source");
		json_array_append_new(mounts, json_pack("{s:O, s:s, s:O, s:[s,s,s,s,s]}", "destination", target, "type", "bind",
							"source", source, "options", "rbind", "ro", "nosuid", "nodev",
							"rprivate"));
	}
}

static void replace_sources(json_t *mounts, json_t *files)
{
	json_t *m;
	size_t k;

	json_array_foreach(mounts, k, m) {
		const char *target = json_string_value(json_object_get(m, "destination"));
		json_t *source = target ? json_object_get(files, target) : NULL;
		if (source)
			json_object_set(m, "source", source);
	}
}

/* A fork bomb in a RUN step ends there. */
static void limit_pids(json_t *bundle, json_t *conf)
{
	json_t *pids = json_object_get(conf, "pids"), *linux_part = json_object_get(bundle, "linux");
	json_t *resources = json_object_get(linux_part, "resources");

	if (!pids || !linux_part)
		return;
	if (!resources) {
		resources = json_object();
		json_object_set_new(linux_part, "resources", resources);
	}
	json_object_set_new(resources, "pids", json_pack("{s:O}", "limit", pids));
}

/* Without an entry the step is where the runtime is; an entry without a path is a new one, which leads nowhere. */
static bool names_network(json_t *bundle)
{
	json_t *list = json_object_get(json_object_get(bundle, "linux"), "namespaces"), *item;
	size_t k;

	json_array_foreach(list, k, item) {
		const char *type = json_string_value(json_object_get(item, "type"));
		if (type && str_eq(type, "network") && json_object_get(item, "path"))
			return true;
	}
	return false;
}

static int check_network(json_t *bundle, json_t *conf, struct err *err)
{
	const char *network = json_string_value(json_object_get(conf, "network"));
	char own[64] = "";

	if (names_network(bundle))
		return err_set(err, -EPERM, "the step asks for another network than the build's");
	if (network && readlink("/proc/self/ns/net", own, sizeof(own) - 1) < 0)
		return err_sys(err, "readlink /proc/self/ns/net");
	return network && !str_eq(network, own) ? err_set(err, -EPERM, "the step is not in the build's network") : 0;
}

static bool is_bind(json_t *mount)
{
	const char *type = json_string_value(json_object_get(mount, "type"));
	json_t *option;
	size_t k;

	json_array_foreach(json_object_get(mount, "options"), k, option)
		if (str_eq(json_string_value(option), "bind") || str_eq(json_string_value(option), "rbind"))
			return true;
	return str_eq(type, "bind");
}

/* Before ours are added. */
static int check_binds(json_t *mounts, const char *bundle, struct err *err)
{
	json_t *m;
	size_t k;
	int r = 0;

	json_array_foreach(mounts, k, m) {
		const char *source = json_string_value(json_object_get(m, "source"));

		if (r == 0 && is_bind(m))
			r = source ? job_check_bind(source, bundle, err) : err_set(err, -EPERM, "a bind of nothing");
	}
	return r;
}

static int write_back(json_t *bundle, const char *path, struct err *err)
{
	auto_free char *text = json_dumps(bundle, JSON_COMPACT);

	if (!text)
		return err_set(err, -EINVAL, "%s: cannot be written again", path);
	return fd_write_file(path, text, strlen(text), 0600, err);
}

static int change_bundle(const char *dir, json_t *conf, struct err *err)
{
	auto_free char *path = xasprintf("%s/config.json", dir);
	auto_json bundle = NULL;

	int r = read_file(&bundle, path, err);
	if (r == 0)
		r = check_network(bundle, conf, err);
	json_t *mounts = json_object_get(bundle, "mounts");
	if (r == 0)
		r = check_binds(mounts, dir, err);
	if (r < 0)
		return r;
	add_env(json_object_get(bundle, "process"), json_object_get(conf, "env"));
	add_mounts(mounts, json_object_get(conf, "mounts"));
	replace_sources(mounts, json_object_get(conf, "files"));
	limit_pids(bundle, conf);
	return write_back(bundle, path, err);
}

/* The bundle's folder in "[FLAGS] create [FLAGS] --bundle DIR ..."; NULL for every other command. */
static const char *bundle_of(char **argv)
{
	const char *bundle = NULL;
	bool create = false;

	for (; *argv; argv++) {
		create |= str_eq(*argv, "create");
		if ((str_eq(*argv, "--bundle") || str_eq(*argv, "-b")) && argv[1])
			bundle = argv[1];
		else if (str_starts(*argv, "--bundle="))
			bundle = *argv + strlen("--bundle=");
	}
	return create ? bundle : NULL;
}

int job_wrapper(int argc, char **argv)
{
	struct err err = ERR_INIT;
	auto_json conf = NULL;

	int r = argc < 2 ? err_set(&err, -EINVAL, "runtime-wrapper: expected CONF and the runtime's arguments")
			 : read_file(&conf, argv[0], &err);
	const char *bundle = r == 0 ? bundle_of(argv + 1) : NULL;
	const char *runtime = json_string_value(json_object_get(conf, "runtime"));
	if (r == 0 && bundle)
		r = change_bundle(bundle, conf, &err);
	if (r == 0 && runtime) {
		argv[0] = (char *)runtime;
		execv(runtime, argv);
		err_sys(&err, "start %s", runtime);
	}
	fprintf(stderr, "openreward runtime-wrapper: %s\n", err.msg);
	return 1;
}
