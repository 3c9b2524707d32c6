/* sandbox/plan.h: what a sandbox is to be, as plain data. Made and checked by the daemon, checked again and replayed by
 * the spawner, which trusts none of it: every path is opened beneath a folder that the spawner knows, never as given.
 *
 * The spawner runs as root and the daemon does not, so a plan can name no host path of the daemon's choosing: layers are
 * relative to DATA/images and opened without following links out; mounts must be among those that the operator's
 * configuration named when the spawner was started; a bucket is named by its id, and a folder of it by a path that is
 * resolved beneath it when it is mounted. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "sandbox/wire.h"

#define PLAN_ID_LEN 37       /* a UUID in text with NUL */
#define PLAN_LAYERS_MAX 127  /* overlayfs takes 500; a page of option string takes fewer */
#define PLAN_MOUNTS_MAX 32
#define PLAN_HOSTNAME_LEN 64 /* with NUL: what a kernel takes */
#define PLAN_HOSTS_MAX 16384 /* bytes of lines for /etc/hosts */

enum plan_kind { PLAN_SANDBOX = 0, PLAN_INSTANCE = 1 };

enum plan_net {
	PLAN_NET_OPEN = 0,    /* out through egress: the world, not the host and not private ranges */
	PLAN_NET_BLOCKED = 1, /* loopback only: egress refuses everything, DNS too */
	PLAN_NET_BUILD = 2,   /* as OPEN, and also whatever names the host's own package clients are configured with */
};

enum plan_mount_flag { PLAN_MOUNT_RO = 1 };

struct plan_mount {
	const char *source; /* a host path that the operator allowed, exactly as configured */
	const char *target; /* absolute path inside; made if missing */
	uint64_t flags;     /* enum plan_mount_flag */
};

/* Files of an environment, in a mount that shows what the daemon's user owns as the image's user's, and lets that user
 * alone make anything. */
struct plan_bucket {
	const char *id;     /* UUID text: DATA/buckets/<id>; NULL = none */
	const char *dir;    /* folder of it that is mounted, relative, without links; NULL or "" = all of it */
	const char *target; /* absolute path inside; made if missing */
	const char *user;   /* USER of the image, looked up in its own passwd; NULL or "" = root */
	uint64_t flags;     /* enum plan_mount_flag */
};

struct plan {
	const char *id;                       /* UUID text; also the name of DATA/sandboxes/<id>, unless it was a spare */
	enum plan_kind kind;
	enum plan_net net;
	const char *layers[PLAN_LAYERS_MAX];  /* relative to DATA/images, top first */
	size_t n_layers;
	struct plan_mount mounts[PLAN_MOUNTS_MAX];
	size_t n_mounts;
	struct plan_bucket bucket;
	const char *hostname;                 /* 1..63 of [a-z0-9-] */
	uint64_t cpu_milli;                   /* thousandths of a CPU; 0 = no limit */
	uint64_t memory_bytes;                /* 0 = no limit; swap is off */
	uint64_t pids_max;                    /* 0 = no limit */
	uint64_t shm_bytes;                   /* size of /dev/shm; 0 = half the memory */
	uint64_t disk_bytes;                  /* of what is written, /tmp included; 0 = no limit. spawner/disk.h says how it holds
						 on the disk; in memory it always does */
	uint64_t disk_files;                  /* files and folders that are made; 0 = no limit */
	bool memory_upper;                    /* what is written is kept in memory, and counts as the sandbox's */
	uint64_t lease_ms;                    /* silence after which the spawner ends it; 0 = never */
	uint64_t hard_ms;                     /* life after which it ends whatever happens; 0 = never */
	bool no_new_privs;                    /* set-uid programs gain nothing */
	const char *hosts;                    /* lines for /etc/hosts, after its own; NULL = none */
	const char *workdir;                  /* absolute path inside; made if missing. NULL: init is told neither of it nor of
						 names before it is ready, whoever gets the sandbox sends CONFIG */
	const char *beside;                   /* UUID text of a sandbox that is ready: this one joins its network, has none of its
						 own, and ends before it does; NULL = it stands alone */
};

/* Where a bucket may be mounted: an absolute path without "." and "..", not / itself, and nothing that the spawner or
 * init fills themselves (/proc, /sys, /dev and below; /etc). -EINVAL names the path and what was expected. */
MUST_CHECK int plan_check_target(const char *path, struct err *err);
/* The rules above that need no file system; -EINVAL names the field. Both sides call it. */
MUST_CHECK int plan_check(const struct plan *p, struct err *err);
void plan_encode(const struct plan *p, struct wire_out *o);
/* "box-" or, of an instance, "env-", and the last 12 digits of id, which is a UUID in text. */
void plan_hostname(char ret[PLAN_HOSTNAME_LEN], enum plan_kind kind, const char *id);
/* The fields of CONFIG. hosts and workdir as in a plan, or NULL. */
void plan_put_config(const char *hostname, const char *hosts, const char *workdir, struct wire_out *o);
/* Strings point into in. Calls plan_check. */
MUST_CHECK int plan_decode(struct plan *ret, const struct wire_in *in, struct err *err);
