/* api/sandbox/sidecar_spec.c: `sidecars` of POST /create_sandbox, read and checked: see spec.h. */
#include <errno.h>
#include <string.h>

#include "api/sandbox/spec.h"
#include "base/mem.h"
#include "base/str.h"
#include "base/strv.h"

#define NAME_MAX_LEN 63
#define WORDS_MAX 1000
#define PORTS_MAX 64

/* -- lists ----------------------------------------------------------------------------------------------------------------- */

static int read_words(char ***ret, json_t *o, const char *key, struct err *err)
{
	json_t *list = NULL;
	int r = json_get_array(o, key, &list, err);

	if (r == 0 && json_array_size(list) > WORDS_MAX)
		r = err_set(err, -EINVAL, "%s: %zu words, expected at most %d", key, json_array_size(list), WORDS_MAX);
	return r < 0 ? r : json_get_strv(o, key, ret, err);
}

static int read_ports(struct spec_sidecar *c, json_t *o, struct err *err)
{
	json_t *list = NULL, *port;
	size_t i;
	int r = json_get_array(o, "ports", &list, err);

	if (r < 0 || !list)
		return r;
	if (json_array_size(list) > PORTS_MAX)
		return err_set(err, -EINVAL, "ports: %zu, expected at most %d", json_array_size(list), PORTS_MAX);
	c->ports = xcalloc(json_array_size(list) + 1, sizeof(*c->ports));
	json_array_foreach(list, i, port) {
		json_int_t v = json_integer_value(port); /* 0 for what is no whole number */

		if (v < 1 || v > 65535)
			return err_set(err, -EINVAL, "ports: number %zu of the list: expected 1 to 65535", i);
		c->ports[c->n_ports++] = (uint16_t)v;
	}
	return 0;
}

/* -- one ------------------------------------------------------------------------------------------------------------------- */

/* "main" and "sidecar" are reserved by clients. */
static int check_name(const struct sandbox_spec *s, const char *name, struct err *err)
{
	size_t n = strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-");

	if (n < 1 || n > NAME_MAX_LEN || name[n] || name[0] == '-' || name[n - 1] == '-' || str_eq(name, "main") ||
	    str_eq(name, "sidecar"))
		return err_set(err, -EINVAL, "name: \"%.100s\": expected 1 to %d of a-z, 0-9 and inner dashes, not main or sidecar",
			       name, NAME_MAX_LEN);
	for (size_t i = 0; i < s->n_sidecars; i++)
		if (str_eq(s->sidecars[i].name, name))
			return err_set(err, -EINVAL, "name: \"%s\" is another sidecar's, too", name);
	return 0;
}

static int read_env(struct spec_sidecar *c, json_t *o, struct err *err)
{
	json_t *env = NULL, *value;
	const char *name;
	int r = json_get_object(o, "env", &env, err);

	json_object_foreach(env, name, value)
		r = r < 0 ? r : spec_add_env(&c->env, &c->n_env, "env", name, value, err);
	return r;
}

static int read_one(struct sandbox_spec *s, struct spec_sidecar *c, json_t *o, const struct machine *m,
		    const struct engine_size *fallback, struct err *err)
{
	const char *name = NULL, *image = NULL, *size = NULL;
	int r;

	c->env = strv_dup(NULL);
	c->size = *fallback;
	if (!json_is_object(o))
		return err_set(err, -EINVAL, "expected an object with name and image");
	r = json_need_str(o, "name", &name, err);
	r = r < 0 ? r : check_name(s, name, err);
	r = r < 0 ? r : json_need_str(o, "image", &image, err);
	r = r < 0 ? r : spec_check_image(image, err);
	r = r < 0 ? r : json_get_str(o, "machine_size", &size, err);
	if (r == 0 && size)
		r = spec_machine_size(size, m, &c->size, err);
	r = r < 0 ? r : read_words(&c->command, o, "command", err);
	r = r < 0 ? r : read_words(&c->args, o, "args", err);
	r = r < 0 ? r : read_env(c, o, err);
	r = r < 0 ? r : read_ports(c, o, err);
	if (r < 0)
		return r;
	c->name = xstrdup(name);
	c->image = xstrdup(image);
	return 0;
}

void spec_sidecar_done(struct spec_sidecar *c)
{
	free(c->name);
	free(c->image);
	strv_free(c->command);
	strv_free(c->args);
	strv_free(c->env);
	free(c->ports);
	*c = (struct spec_sidecar){ .name = NULL };
}

/* -- all ------------------------------------------------------------------------------------------------------------------- */

static int check_bytes(json_t *list, struct err *err)
{
	size_t bytes = json_dumpb(list, NULL, 0, JSON_COMPACT);

	if (bytes > SPEC_SIDECARS_BYTES)
		return err_set(err, -EINVAL, "sidecars: %zu bytes, expected at most %u together", bytes, SPEC_SIDECARS_BYTES);
	return 0;
}

int spec_read_sidecars(struct sandbox_spec *s, json_t *list, const struct machine *m, const struct spec_defaults *defaults,
		       struct err *err)
{
	size_t n = json_array_size(list), i; /* 0 for NULL */
	json_t *o;
	int r = n ? check_bytes(list, err) : 0;

	if (r < 0 || !n)
		return r;
	if (n > defaults->sidecars_max)
		return err_set(err, -EINVAL, "sidecars: %zu, expected at most %zu", n, defaults->sidecars_max);
	s->sidecars = xcalloc(n, sizeof(*s->sidecars));
	s->sidecars_json = json_incref(list);
	json_array_foreach(list, i, o) {
		r = read_one(s, &s->sidecars[i], o, m, &defaults->sidecar_size, err);
		s->n_sidecars++; /* broken ones are freed, too */
		if (r < 0)
			return err_wrap(err, r, "sidecars[%zu]", i);
	}
	return 0;
}
