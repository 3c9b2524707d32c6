#include "build/conf.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/str.h"
#include "base/strv.h"
#include "build/hostconf.h"
#include "json/json.h"

#define CONF_MAX (1u << 20)

void build_conf_init(struct build_conf *c)
{
	*c = (struct build_conf){ 
		.inherit_host = true, .memory_bytes = BUILD_CONF_MEMORY, .disk_bytes = BUILD_CONF_DISK,
		.min_free_bytes = BUILD_CONF_MIN_FREE,
	};
}

void build_conf_done(struct build_conf *c)
{
	c->env = strv_free(c->env);
	c->mounts = strv_free(c->mounts);
	c->aliases = strv_free(c->aliases);
	c->host_env = strv_free(c->host_env);
}

static char **flatten_aliases(const struct image_alias *aliases)
{
	size_t n = 0;

	while (aliases && aliases[n].from)
		n++;
	char **out = xcalloc(2 * n + 1, sizeof(*out));
	for (size_t i = 0; i < n; i++) {
		out[2 * i] = xstrdup(aliases[i].from);
		out[2 * i + 1] = xstrdup(aliases[i].to);
	}
	return out;
}

void build_conf_set(struct build_conf *c, bool inherit_host, const char *const *env, const char *const *mounts,
		    const struct image_alias *aliases)
{
	build_conf_done(c);
	c->inherit_host = inherit_host;
	c->env = strv_dup(env);
	c->mounts = strv_dup(mounts);
	c->aliases = flatten_aliases(aliases);
	c->host_env = hostconf_snapshot();
}

static int check(const struct build_conf *c, struct err *err)
{
	for (char **e = c->env; e && *e; e++)
		if (**e == '=' || !strchr(*e, '='))
			return err_set(err, -EINVAL, "builds.env: \"%.200s\": expected NAME=VALUE", *e);
	for (char **m = c->mounts; m && *m; m++) {
		const char *target = strchr(*m, ':');
		if (**m != '/' || (target && target[1] != '/'))
			return err_set(err, -EINVAL,
				       "builds.mounts: \"%.200s\": expected SOURCE[:TARGET], absolute paths", *m);
	}
	return 0;
}

/* -- writing ------------------------------------------------------------------------------------------------- */
static int to_json(const struct build_conf *c, struct buf *out)
{
	struct json_writer w;

	json_write_begin(&w, out);
	json_open_object(&w);
	json_kv_bool(&w, "inherit_host", c->inherit_host);
	json_kv_strv(&w, "env", c->env);
	json_kv_strv(&w, "mounts", c->mounts);
	json_kv_i64(&w, "memory_bytes", (int64_t)c->memory_bytes);
	json_kv_i64(&w, "disk_bytes", (int64_t)c->disk_bytes);
	json_kv_i64(&w, "min_free_bytes", (int64_t)c->min_free_bytes);
	json_key(&w, "aliases");
	json_open_object(&w);
	for (char **a = c->aliases; a && a[0] && a[1]; a += 2)
		json_kv_str(&w, a[0], a[1]);
	json_close(&w);
	if (c->host_env)
		json_kv_strv(&w, "host_env", c->host_env);
	json_close(&w);
	return json_write_end(&w);
}

int build_conf_write(const char *data_dir, const struct build_conf *c, struct err *err)
{
	auto_free char *path = xasprintf("%s/images/build.conf", data_dir);
	auto_buf struct buf text = { 0 };

	int r = check(c, err);
	if (r < 0)
		return r;
	buf_init(&text, CONF_MAX);
	r = to_json(c, &text);
	if (r < 0)
		return err_sys_code(err, r, "write %s", path);
	return fd_write_file(path, text.data, text.len, 0600, err);
}

/* -- reading ------------------------------------------------------------------------------------------------- */
static int read_aliases(json_t *obj, char ***ret, struct err *err)
{
	json_t *map = NULL, *to;
	const char *from;
	size_t n = 0;

	int r = json_get_object(obj, "aliases", &map, err);
	if (r < 0 || !map)
		return r;
	*ret = xcalloc(2 * json_object_size(map) + 1, sizeof(**ret));
	json_object_foreach(map, from, to) {
		if (!json_is_string(to))
			return err_set(err, -EINVAL, "aliases: %s: expected the name of an image", from);
		(*ret)[n++] = xstrdup(from);
		(*ret)[n++] = xstrdup(json_string_value(to));
	}
	return 0;
}

static int read_bytes(json_t *obj, const char *key, uint64_t *ret, struct err *err)
{
	int64_t v = (int64_t)*ret;
	int r = json_get_i64(obj, key, 0, INT64_MAX, &v, err);

	*ret = (uint64_t)v;
	return r;
}

static int from_json(struct build_conf *c, json_t *obj, struct err *err)
{
	int r;

	if ((r = json_get_bool(obj, "inherit_host", &c->inherit_host, err)) < 0 ||
	    (r = json_get_strv(obj, "env", &c->env, err)) < 0 || (r = json_get_strv(obj, "mounts", &c->mounts, err)) < 0 ||
	    (r = read_bytes(obj, "memory_bytes", &c->memory_bytes, err)) < 0 ||
	    (r = read_bytes(obj, "disk_bytes", &c->disk_bytes, err)) < 0 ||
	    (r = read_bytes(obj, "min_free_bytes", &c->min_free_bytes, err)) < 0 ||
	    (r = read_aliases(obj, &c->aliases, err)) < 0 || (r = json_get_strv(obj, "host_env", &c->host_env, err)) < 0)
		return r;
	return check(c, err);
}

static int read_own_file(const char *path, struct buf *ret, struct err *err)
{
	auto_fd fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	struct stat st;

	if (fd < 0)
		return err_sys(err, "open %s", path);
	if (fstat(fd, &st) < 0)
		return err_sys(err, "stat %s", path);
	if (st.st_uid != geteuid() || (st.st_mode & 022))
		return err_set(err, -EPERM, "%s: expected a file that only its owner, uid %u, can write", path,
			       geteuid());
	int r = fd_read_to_end(fd, ret);
	return r < 0 ? err_sys_code(err, r, "read %s", path) : 0;
}

int build_conf_read(struct build_conf *ret, const char *data_dir, struct err *err)
{
	auto_free char *path = xasprintf("%s/images/build.conf", data_dir);
	struct build_conf c;
	auto_buf struct buf text = { 0 };
	auto_json obj = NULL;

	build_conf_init(&c);
	buf_init(&text, CONF_MAX);
	int r = read_own_file(path, &text, err);
	if (r == 0)
		r = json_read_object(&obj, text.data, text.len, err);
	if (r == 0)
		r = from_json(&c, obj, err);
	if (r < 0 && r != -ENOENT) {
		build_conf_done(&c);
		return err_wrap(err, r, "%s", path);
	}
	*ret = c;
	return 0;
}
