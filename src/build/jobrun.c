/* What RUN steps see: the staged configuration of the host, the operator's mounts and variables, the resolver of the
 * steered net namespace; and the wrapper that puts them into each container's bundle, and knows that namespace. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/str.h"
#include "base/strv.h"
#include "build/dockerfile.h"
#include "build/hostpriv.h"
#include "build/jobpriv.h"
#include "image/cstore.h"
#include "image/record.h"
#include "init/boot.h"
#include "json/json.h"

#define CONTAINER_PIDS 8192
#define RUNTIME "/usr/sbin/runc"

/* -- the runtime -------------------------------------------------------------------------------------------------- */
static int write_tmp(struct job *j, const char *file, const char *text, mode_t mode, struct err *err)
{
	auto_free char *path = xasprintf("%s/%s", j->tmp, file);

	return fd_write_file(path, text, strlen(text), mode, err);
}

static void write_mount(struct json_writer *w, const char *source, const char *target)
{
	json_open_object(w);
	json_kv_str(w, "source", source);
	json_kv_str(w, "target", target);
	json_close(w);
}

static void write_mounts(struct json_writer *w, const struct job *j)
{
	auto_free char *host = xasprintf("%s/host", j->tmp);

	json_key(w, "mounts");
	json_open_array(w);
	if (j->conf.inherit_host)
		write_mount(w, host, HOSTCONF_TARGET);
	for (char **m = j->conf.mounts; m && *m; m++) {
		auto_free char *source = xstrndup(*m, strcspn(*m, ":"));
		const char *target = strchr(*m, ':');
		write_mount(w, source, target ? target + 1 : source);
	}
	json_close(w);
}

/* The operator's variables come first: the first of a name counts. */
static void write_env(struct json_writer *w, const struct job *j, char *const *staged)
{
	json_key(w, "env");
	json_open_array(w);
	for (char **e = j->conf.env; e && *e; e++)
		json_str(w, *e);
	for (; staged && *staged; staged++)
		json_str(w, *staged);
	json_close(w);
}

static void write_files(struct json_writer *w, const struct job *j)
{
	auto_free char *resolv = xasprintf("%s/resolv.conf", j->tmp), *hosts = xasprintf("%s/hosts", j->tmp);

	json_key(w, "files");
	json_open_object(w);
	json_kv_str(w, "/etc/hosts", hosts);
	if (j->netns >= 0)
		json_kv_str(w, "/etc/resolv.conf", resolv);
	json_close(w);
}

/* As a link of /proc names it: what the wrapper compares its own with. */
static int write_network(struct json_writer *w, const struct job *j, struct err *err)
{
	auto_free char *self = xasprintf("/proc/self/fd/%d", j->netns);
	char name[64];

	if (j->netns < 0)
		return 0;
	ssize_t n = readlink(self, name, sizeof(name) - 1);
	if (n < 0)
		return err_sys(err, "name the build's net namespace");
	name[n] = 0;
	json_kv_str(w, "network", name);
	return 0;
}

static int write_runtime_conf(struct job *j, char *const *staged, struct err *err)
{
	auto_buf struct buf text = { 0 };
	struct json_writer w;

	buf_init(&text, 4u << 20);
	json_write_begin(&w, &text);
	json_open_object(&w);
	json_kv_str(&w, "runtime", RUNTIME);
	json_kv_i64(&w, "pids", CONTAINER_PIDS);
	write_env(&w, j, staged);
	write_mounts(&w, j);
	write_files(&w, j);
	int r = write_network(&w, j, err);
	if (r < 0)
		return r;
	json_close(&w);
	r = json_write_end(&w);
	return r < 0 ? err_sys_code(err, r, "write runtime.json") : write_tmp(j, "runtime.json", text.data, 0600, err);
}

/* A name of an image may ask for any store or file of the host, by whoever knows the words of the tools for that: registries alone
 * are answered, as the host's policy has it, and the build's own store, in which buildah names what it has from before. */
static int write_policy(struct job *j, const struct env_store *s, struct err *err)
{
	auto_free char *store = xasprintf("[overlay@%s]", s->store);
	auto_json own = json_pack("{s:[{s:s}], s:{s:{}, s:{s:[{s:s}]}}}", "default", "type", "reject", "transports", "docker",
				  "containers-storage", store, "type", "insecureAcceptAnything");
	auto_free char *path = xasprintf("%s/policy.json", j->tmp);
	auto_buf struct buf text = { 0 };
	auto_json host = NULL;

	buf_init(&text, 1u << 20);
	int r = fd_read_file(path, &text, err);
	r = r < 0 ? r : json_read_object(&host, text.data, text.len, err);
	if (r < 0)
		return r;
	json_t *transports = json_object_get(own, "transports"), *other = json_object_get(host, "default"),
	       *scopes = json_object_get(json_object_get(host, "transports"), "docker");
	if (scopes)
		json_object_set(transports, "docker", scopes);
	scopes = json_object_get(transports, "docker");
	if (other && !json_object_get(scopes, ""))
		json_object_set(scopes, "", other);
	auto_free char *made = json_dumps(own, JSON_COMPACT);
	return made ? write_tmp(j, BUILD_POLICY, made, 0600, err) : err_set(err, -ENOMEM, "%s: out of memory", path);
}

/* buildah wants the path of a program; ours has a verb in front. */
static int write_wrapper(struct job *j, char **ret, struct err *err)
{
	auto_free char *text =
		xasprintf("#!/bin/sh\nexec '%s' job runtime-wrapper '%s/runtime.json' \"$@\"\n", j->self, j->tmp);

	if (strchr(j->self, '\'') || strchr(j->tmp, '\''))
		return err_set(err, -EINVAL, "paths with a quote cannot be used for builds: %s, %s", j->self, j->tmp);
	*ret = xasprintf("%s/runtime", j->tmp);
	return write_tmp(j, "runtime", text, 0700, err);
}

/* -- names -------------------------------------------------------------------------------------------------------- */
/* A host without that file has none to hide. */
static int mount_file(const struct job *j, const char *file, const char *target, struct err *err)
{
	auto_free char *path = xasprintf("%s/%s", j->tmp, file);

	return mount(path, target, NULL, MS_BIND, NULL) < 0 && errno != ENOENT ? err_sys(err, "mount %s at %s", path, target) : 0;
}

/* buildah resolves names too. The host's name server may listen on a loopback that is not the one of the steered network. */
static int mount_names(const struct job *j, struct err *err)
{
	int r = mount_file(j, "resolv.conf", "/etc/resolv.conf", err);

	return r < 0 ? r : mount_file(j, "hosts", "/etc/hosts", err);
}

int job_run_setup(struct job *j, const struct env_store *s, char **ret_runtime, struct err *err)
{
	auto_free char *host = xasprintf("%s/host", j->tmp);
	char **staged = NULL;
	int r = 0;

	if (j->conf.inherit_host)
		r = hostconf_stage(host, HOSTCONF_TARGET, j->host_env, &staged, err);
	if (r == 0)
		r = write_tmp(j, "hosts", "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n", 0644,
			      err);
	if (r == 0)
		r = write_tmp(j, "resolv.conf", "nameserver " STEER_NAMESERVER "\n", 0644, err);
	if (r == 0)
		r = write_runtime_conf(j, staged, err);
	strv_free(staged);
	if (r == 0)
		r = write_policy(j, s, err);
	if (r == 0)
		r = write_wrapper(j, ret_runtime, err);
	return r == 0 && j->netns >= 0 ? mount_names(j, err) : r;
}

/* -- base images -------------------------------------------------------------------------------------------------- */
static const char *alias_of(const struct job *j, const char *name)
{
	for (char **a = j->conf.aliases; a && a[0] && a[1]; a += 2) {
		auto_free char *from = NULL;
		if (image_normalise(&from, a[0], NULL) == 0 && str_eq(from, name))
			return a[1];
	}
	return NULL;
}

static int follow_aliases(const struct job *j, const char *written, char **ret, struct err *err)
{
	auto_free char *name = NULL;

	int r = image_normalise(&name, written, err);
	for (int hop = 0; r == 0 && hop < 8; hop++) {
		const char *to = alias_of(j, name);
		if (!to)
			break;
		auto_free char *next = NULL;
		r = image_normalise(&next, to, err);
		if (r == 0) {
			free(name);
			name = STEAL(next);
		}
	}
	if (r == 0)
		*ret = STEAL(name);
	return r;
}

int job_no_base(const char *name, const char *why, struct err *err)
{
	return err_set(err, -ENOENT,
		       "the source's base image %s is not here and could not be pulled: %.400s. Without a registry: "
		       "`openreward image bootstrap NAME`, `openreward image import FILE NAME`, or map its name in "
		       "images.aliases",
		       name, why);
}

static int bring(struct job *j, const char *written, const char *name, struct err *err)
{
	AUTO(image_freep) struct image *here = NULL;
	bool same = false;

	if (str_starts(name, "localhost/env/") || cstore_read(&here, j->images, CSTORE_BASES, name, NULL) == 0)
		return 0;
	auto_free char *plain = NULL;
	if (image_normalise(&plain, written, NULL) == 0)
		same = str_eq(plain, name);
	job_say("pulling %s", name);
	struct err why = ERR_INIT;
	int r = job_fetch(j, name, &why);
	if (r == 0)
		return 0;
	auto_free char *both = xasprintf("%s%s%s", written, same ? "" : " = ", same ? "" : name);
	return job_no_base(both, why.msg, err);
}

/* "--build-context ubuntu:22.04=docker-image://NAME": buildah then takes NAME wherever the text says ubuntu:22.04. */
static void add_context(struct strv *v, const char *written, const char *expanded, const char *name)
{
	auto_free char *plain = NULL;

	if ((image_normalise(&plain, expanded, NULL) == 0 && str_eq(plain, name)) || strchr(written, '='))
		return;
	strv_add(v, xstrdup("--build-context"));
	strv_add(v, xasprintf("%s=docker-image://%s", written, name));
}

static int bring_one(struct job *j, const char *written, const char *expanded, struct strv *args, struct err *err)
{
	auto_free char *name = NULL;

	int r = follow_aliases(j, expanded, &name, err);
	if (r == 0)
		r = bring(j, expanded, name, err);
	if (r == 0)
		add_context(args, written, expanded, name);
	return r;
}

int job_bring_bases(struct job *j, const char *path, char ***ret_args, struct err *err)
{
	struct strv args = { 0 };
	auto_buf struct buf text = { 0 };

	buf_init(&text, 4u << 20);
	int r = fd_read_file(path, &text, err);
	if (r < 0)
		return r;
	char **images = dockerfile_images(text.data);
	for (char **i = images; r == 0 && i[0]; i += 2)
		r = bring_one(j, i[0], i[1], &args, err);
	strv_free(images);
	if (r < 0) {
		strv_free(args.list);
		return r;
	}
	*ret_args = strv_take(&args);
	return 0;
}
