/* build/conf.h: what root jobs are told by the operator: DATA/images/build.conf, JSON, root's, mode 0600.
 *
 * `openreward serve` writes it while it is root, before it drops to its user; the daemon can neither read nor change
 * it. So what a build may mount or see is decided by the configuration file and not by whoever speaks for the daemon.
 * Keys, all optional:
 *   inherit_host  bool, default true: RUN steps use the package client configuration of this machine
 *   env           ["K=V"]: in every RUN step, unless the image or the Dockerfile sets K; never in the image
 *   mounts        ["SOURCE[:TARGET]"]: read-only in every RUN step
 *   memory_bytes  of a RUN step, 0 = no limit; default 4 GiB
 *   disk_bytes    what one build may write, 0 = no limit; default 20 GiB
 *   min_free_bytes  below which a build is ended, 0 = never; default 256 MiB
 *   aliases       {"FROM": "TO"}: images.aliases, applied to FROM lines
 *   host_env      ["K=V"]: what `serve` found in its own environment (hostconf_snapshot) */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "image/image.h"

#define BUILD_CONF_MEMORY (4ull << 30)
#define BUILD_CONF_DISK (20ull << 30)
#define BUILD_CONF_MIN_FREE (256ull << 20)

struct build_conf { /* lists are NULL-terminated and malloc'ed; NULL = empty */
	bool inherit_host;
	char **env;
	char **mounts;
	uint64_t memory_bytes, disk_bytes, min_free_bytes;
	char **aliases;  /* FROM, TO, FROM, TO, ... */
	char **host_env; /* NULL: the job's own environment is taken */
};

void build_conf_init(struct build_conf *c); /* the defaults */
void build_conf_done(struct build_conf *c);

/* Copies into *c, which build_conf_init or build_conf_read has filled: the daemon's configuration in one call.
 * host_env is taken from this process's environment. env and mounts may be NULL. Limits are set in the struct. */
void build_conf_set(struct build_conf *c, bool inherit_host, const char *const *env, const char *const *mounts,
		    const struct image_alias *aliases);

/* DATA/images must exist. Called as root. -EINVAL: a mount or an "K=V" that is none, with the value. */
MUST_CHECK int build_conf_write(const char *data_dir, const struct build_conf *c, struct err *err);
/* A missing file gives the defaults. -EINVAL names the key; -EPERM: the file is not its reader's own. */
MUST_CHECK int build_conf_read(struct build_conf *ret, const char *data_dir, struct err *err);
