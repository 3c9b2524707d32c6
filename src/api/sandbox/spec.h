/* api/sandbox/spec.h: the body of POST /create_sandbox, read and checked. Pure.
 * What is known and not supported here yet is refused by name: a client that asks for a closed network and gets an open one
 * has been betrayed. Unknown keys are ignored. */
#pragma once

#include "base/err.h"
#include "base/machine.h"
#include "engine/engine.h"
#include "json/json.h"

struct spec_sidecar {
	char *name;               /* a label: [a-z0-9-], 63 at most; unique */
	char *image;              /* as written */
	char **command, **args;   /* NULL-terminated, in place of the image's ENTRYPOINT and CMD; NULL = not given */
	char **env;               /* "K=V", NULL-terminated; never NULL */
	size_t n_env;
	struct engine_size size;
	uint16_t *ports;          /* n_ports, waited for at the start */
	size_t n_ports;
};

struct sandbox_spec {
	char *image;              /* as written */
	struct engine_size size;
	char **env;               /* "K=V", NULL-terminated; never NULL */
	size_t n_env;
	bool block_network;
	char *hosts;              /* lines for /etc/hosts; NULL = none */
	char *environment;        /* as written; NULL = none */
	struct spec_bucket {
		char *target;     /* mount_path, without slashes at its end; NULL = no bucket_config */
		char *dir;        /* only_dir, likewise; "" = the whole bucket */
		bool make_dir;    /* implicit_dirs: an only_dir that is missing is an empty one */
	} bucket;
	struct spec_sidecar *sidecars;
	size_t n_sidecars;
	json_t *sidecars_json;    /* what they were read from, counted; NULL = none */
};

/* "0.5:2" -> CPUs and GiB; m is what sizes are checked against. -EINVAL names the value and what was expected, also for more than
 * the machine has, or less than anything can run in (0.01 CPU, 16 MiB), and for GPU sizes. */
MUST_CHECK int spec_machine_size(const char *text, const struct machine *m, struct engine_size *ret, struct err *err);

struct spec_defaults { /* for what a body leaves out */
	struct engine_size size, sidecar_size;
	size_t sidecars_max;
};

/* secrets: the X-Secrets header or NULL. Each becomes a variable of its name, under env's; see docs. is_platform_key says
 * of a value whether it is a key of this platform, which is not passed on; may be NULL.
 * -EINVAL names the key. On failure *ret is empty. */
MUST_CHECK int spec_read(struct sandbox_spec *ret, json_t *body, const char *secrets, const struct machine *m,
			 const struct spec_defaults *defaults, bool (*is_platform_key)(void *arg, const char *value), void *arg,
			 struct err *err);
void spec_done(struct sandbox_spec *s);

/* sidecar_spec.c: the list alone, of a body or of a note; list may be NULL or null. -EINVAL names the sidecar and the field.
 * Together at most SPEC_SIDECARS_BYTES as JSON. */
#define SPEC_SIDECARS_BYTES (64u * 1024)
MUST_CHECK int spec_read_sidecars(struct sandbox_spec *s, json_t *list, const struct machine *m,
				  const struct spec_defaults *defaults, struct err *err);
void spec_sidecar_done(struct spec_sidecar *c);
/* One variable more at the end of a list; -EINVAL names the field. */
MUST_CHECK int spec_add_env(char ***env, size_t *n, const char *field, const char *name, json_t *value, struct err *err);
MUST_CHECK int spec_check_image(const char *image, struct err *err);
