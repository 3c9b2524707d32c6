/* api/sandbox/spec.c: see spec.h. */
#include "api/sandbox/spec.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "base/strv.h"
#include "bucket/tree.h"
#include "image/image.h"
#include "sandbox/plan.h"

#define GIB ((double)(1ull << 30))
#define CPU_MIN_MILLI 10
#define MEMORY_MIN_BYTES (16ull << 20)
#define SECRETS_MAX_BYTES (64u * 1024)
#define ENV_MAX 1000 /* variables */

/* -- machine_size ------------------------------------------------------------------------------------------------------------ */

static int bad_size(struct err *err, const char *text, const char *expected)
{
	return err_set(err, -EINVAL, "machine_size: \"%.100s\": %s", text, expected);
}

static int check_size(const char *text, double cpu, double gib, const struct machine *m, struct err *err)
{
	if (cpu * 1000 < CPU_MIN_MILLI || gib * GIB < (double)MEMORY_MIN_BYTES)
		return bad_size(err, text, "expected at least 0.01 CPU and 0.016 GiB");
	if (cpu * 1000 > (double)m->cpu_milli)
		return err_set(err, -EINVAL, "machine_size: \"%.100s\": this machine has %g CPUs", text,
			       (double)m->cpu_milli / 1000);
	if (gib * GIB > (double)m->memory_bytes)
		return err_set(err, -EINVAL, "machine_size: \"%.100s\": this machine has %.1f GiB of memory", text,
			       (double)m->memory_bytes / GIB);
	return 0;
}

int spec_machine_size(const char *text, const struct machine *m, struct engine_size *ret, struct err *err)
{
	const char *colon = strchr(text, ':');
	auto_free char *left = NULL;
	double cpu, gib;
	int r;

	if (str_starts(text, "nvidia-"))
		return bad_size(err, text, "this machine offers no GPUs; expected \"CPU:GIB\", as in \"1:2\"");
	if (!colon)
		return bad_size(err, text, "expected \"CPU:GIB\", as in \"1:2\"");
	left = xstrndup(text, (size_t)(colon - text));
	if (str_to_double(left, &cpu) < 0 || str_to_double(colon + 1, &gib) < 0)
		return bad_size(err, text, "expected \"CPU:GIB\", as in \"0.5:1\"");
	r = check_size(text, cpu, gib, m, err);
	if (r < 0)
		return r;
	*ret = (struct engine_size){ .cpu_milli = (uint64_t)(cpu * 1000 + 0.5), .memory_bytes = (uint64_t)(gib * GIB + 0.5) };
	return 0;
}

/* -- variables --------------------------------------------------------------------------------------------------------------- */

int spec_add_env(char ***env, size_t *n, const char *field, const char *name, json_t *value, struct err *err)
{
	const char *text = json_string_value(value);

	if (!text)
		return err_set(err, -EINVAL, "%s.%.100s: expected a string", field, name);
	if (!*name || strchr(name, '='))
		return err_set(err, -EINVAL, "%s: \"%.100s\" is no name of a variable", field, name);
	if (*n == ENV_MAX)
		return err_set(err, -EINVAL, "%s: more than %d variables", field, ENV_MAX);
	*env = xrealloc(*env, (*n + 2) * sizeof(**env));
	(*env)[(*n)++] = xasprintf("%s=%s", name, text);
	(*env)[*n] = NULL;
	return 0;
}

static int read_env(struct sandbox_spec *s, json_t *body, struct err *err)
{
	json_t *env = NULL, *value;
	const char *name;
	int r = json_get_object(body, "env", &env, err);

	json_object_foreach(env, name, value)
		r = r < 0 ? r : spec_add_env(&s->env, &s->n_env, "env", name, value, err);
	return r;
}

static int decode_secrets(json_t **ret, const char *header, struct err *err)
{
	auto_buf struct buf text = { 0 };
	int r;

	buf_init(&text, SECRETS_MAX_BYTES);
	if (str_base64_decode(&text, header, strlen(header)) < 0)
		return err_set(err, -EINVAL, "X-Secrets: expected base64 of at most %u bytes", SECRETS_MAX_BYTES);
	r = json_read_object(ret, text.data, text.len, err);
	return r < 0 ? err_wrap(err, r, "X-Secrets") : 0;
}

static int read_secrets(struct sandbox_spec *s, const char *header, bool (*is_platform_key)(void *arg, const char *value),
			void *arg, struct err *err)
{
	auto_json secrets = NULL;
	json_t *secret;
	const char *name;
	int r;

	if (str_empty(header))
		return 0;
	r = decode_secrets(&secrets, header, err);
	json_object_foreach(secrets, name, secret) {
		json_t *value = json_object_get(secret, "value");

		if (json_is_string(value) && is_platform_key && is_platform_key(arg, json_string_value(value)))
			continue;
		r = r < 0 ? r : spec_add_env(&s->env, &s->n_env, "X-Secrets", name, value, err);
	}
	return r;
}

/* -- hosts --------------------------------------------------------------------------------------------------------------------- */

static bool is_host_name(const char *s)
{
	return *s && strlen(s) <= 253 &&
	       strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_") == strlen(s);
}

static int append_alias(struct buf *b, json_t *alias, struct err *err)
{
	const char *ip = json_string_value(json_object_get(alias, "ip"));
	json_t *names = json_object_get(alias, "hostnames"), *name;
	unsigned char binary[16];
	size_t i;
	int r;

	if (!ip || (inet_pton(AF_INET, ip, binary) != 1 && inet_pton(AF_INET6, ip, binary) != 1))
		return err_set(err, -EINVAL, "host_aliases: ip \"%.100s\": expected an IPv4 or IPv6 address", ip ? ip : "");
	if (!json_is_array(names) || json_array_size(names) == 0)
		return err_set(err, -EINVAL, "host_aliases: hostnames of %s: expected a list of names", ip);
	r = buf_puts(b, ip);
	json_array_foreach(names, i, name) {
		const char *text = json_string_value(name);

		if (!text || !is_host_name(text))
			return err_set(err, -EINVAL, "host_aliases: hostnames: \"%.100s\" is no host name", text ? text : "");
		r = r < 0 ? r : buf_printf(b, " %s", text);
	}
	r = r < 0 ? r : buf_puts(b, "\n");
	return r < 0 ? err_set(err, -EINVAL, "host_aliases: too many") : 0;
}

static int read_hosts(struct sandbox_spec *s, json_t *body, struct err *err)
{
	json_t *list = NULL, *alias;
	auto_buf struct buf b = { 0 };
	size_t i;
	int r = json_get_array(body, "host_aliases", &list, err);

	buf_init(&b, 16384);
	json_array_foreach(list, i, alias)
		r = r < 0 ? r : append_alias(&b, alias, err);
	if (r == 0 && b.len > 0)
		s->hosts = buf_steal(&b, NULL);
	return r;
}

/* -- the whole ----------------------------------------------------------------------------------------------------- */

static bool is_asked_for(json_t *body, const char *key)
{
	json_t *v = json_object_get(body, key);

	return v && !json_is_null(v) && !(json_is_array(v) && json_array_size(v) == 0);
}

/* Without those at the end; malloc'ed. "/" becomes "". */
static char *without_slashes(const char *s)
{
	size_t len = s ? strlen(s) : 0;

	while (len && s[len - 1] == '/')
		len--;
	return xstrndup(s ? s : "", len);
}

static int refuse_unsupported(json_t *body, struct err *err)
{
	if (!is_asked_for(body, "network"))
		return 0;
	return err_set(err, -EINVAL, "network: policies are not supported here yet; use block_network, or leave both out");
}

/* read_only says nothing: a sandbox never writes to a bucket, whatever was asked. */
static int read_bucket(struct sandbox_spec *s, json_t *body, struct err *err)
{
	const char *target = NULL, *dir = NULL;
	bool read_only, implicit_dirs = true;
	json_t *config = NULL;
	int r = json_get_object(body, "bucket_config", &config, err);

	if (r < 0 || !config)
		return r;
	r = json_need_str(config, "mount_path", &target, err);
	r = r < 0 ? r : json_get_str(config, "only_dir", &dir, err);
	r = r < 0 ? r : json_get_bool(config, "read_only", &read_only, err);
	r = r < 0 ? r : json_get_bool(config, "implicit_dirs", &implicit_dirs, err);
	if (r < 0)
		return err_wrap(err, r, "bucket_config");
	s->bucket.target = without_slashes(target);
	s->bucket.dir = without_slashes(dir);
	s->bucket.make_dir = implicit_dirs;
	r = plan_check_target(s->bucket.target, err);
	if (r < 0)
		return err_wrap(err, r, "bucket_config.mount_path");
	return *s->bucket.dir ? bucket_check_name("bucket_config.only_dir", s->bucket.dir, err) : 0;
}

int spec_check_image(const char *image, struct err *err)
{
	auto_free char *name = NULL;

	if (!*image)
		return err_set(err, -EINVAL, "image: empty: expected a name, as in \"python:3.11-slim\"");
	return image_normalise(&name, image, err);
}

static int read_fields(struct sandbox_spec *s, json_t *body, const struct machine *m, const struct engine_size *fallback,
		       struct err *err)
{
	const char *image = NULL, *size = NULL, *environment = NULL;
	int r = refuse_unsupported(body, err);

	r = r < 0 ? r : json_need_str(body, "image", &image, err);
	if (r == 0)
		r = spec_check_image(image, err);
	r = r < 0 ? r : json_get_str(body, "environment", &environment, err); /* any: only the bucket depends on it */
	r = r < 0 ? r : json_get_str(body, "machine_size", &size, err);
	r = r < 0 ? r : json_get_bool(body, "block_network", &s->block_network, err);
	if (r < 0)
		return r;
	s->image = xstrdup(image);
	s->environment = xstrdup(environment);
	s->size = *fallback;
	return size ? spec_machine_size(size, m, &s->size, err) : 0;
}

int spec_read(struct sandbox_spec *ret, json_t *body, const char *secrets, const struct machine *m,
	      const struct spec_defaults *defaults, bool (*is_platform_key)(void *arg, const char *value), void *arg,
	      struct err *err)
{
	struct sandbox_spec s = { .env = xcalloc(1, sizeof(char *)) };
	json_t *sidecars = NULL;
	int r = read_fields(&s, body, m, &defaults->size, err);

	r = r < 0 ? r : read_secrets(&s, secrets, is_platform_key, arg, err);
	/* After the secrets: of two of one name the later one counts. */
	r = r < 0 ? r : read_env(&s, body, err);
	r = r < 0 ? r : read_hosts(&s, body, err);
	r = r < 0 ? r : read_bucket(&s, body, err);
	r = r < 0 ? r : json_get_array(body, "sidecars", &sidecars, err);
	r = r < 0 ? r : spec_read_sidecars(&s, sidecars, m, defaults, err);
	if (r < 0)
		spec_done(&s);
	*ret = s;
	return r;
}

void spec_done(struct sandbox_spec *s)
{
	strv_free(s->env);
	free(s->image);
	free(s->hosts);
	free(s->environment);
	free(s->bucket.target);
	free(s->bucket.dir);
	for (size_t i = 0; i < s->n_sidecars; i++)
		spec_sidecar_done(&s->sidecars[i]);
	free(s->sidecars);
	json_decref(s->sidecars_json);
	*s = (struct sandbox_spec){ .image = NULL };
}
