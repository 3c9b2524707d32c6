/* daemon/launch.h: the part of `serve` that runs as root, before anything is served: the data directory, its lock, the
 * spawner, and the way down to an ordinary user. Single-threaded; blocking; every failure is a message for the person who
 * typed the command. */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "daemon/config.h"

struct launch {
	uid_t uid;
	gid_t gid;
	int lock_fd;          /* flock on DATA/lock, for the life of the daemon */
	pid_t spawner;        /* the child, when this life started it; else 0 */
	bool owns_spawner;    /* started as root: the daemon's orderly end is the spawner's, unless that is a service of its own */
	char *libexec;        /* folder of the other programs */
	char *self;           /* path of this program */
	char *spawner_socket; /* DATA/run/spawner.sock */
	char *host_dir;       /* with sandboxes.inherit_host: the host's package client configuration, staged; else NULL */
	char **host_env;      /* "K=V" that point to it where it is mounted at LAUNCH_HOST_TARGET */
};

#define LAUNCH_HOST_TARGET "/run/openreward-host"
#define LAUNCH_INIT { .lock_fd = -1 }

/* Does all of it: afterwards this process is the configured user for good, and a spawner listens on spawner_socket.
 * Not root: works only if a spawner runs already and this is its user.
 *   -EPERM   no root and no spawner          -ENOENT  the user or a program is missing
 *   -EBUSY   another daemon holds DATA       -EACCES  the user may not pass a folder above DATA */
MUST_CHECK int launch(struct launch *ret, const struct config *c, struct err *err);
/* `openreward spawner`: as root, makes what launch() makes and becomes the spawner, as a service of its own. Returns only on
 * failure. */
MUST_CHECK int launch_spawner(const struct config *c, struct err *err);
void launch_done(struct launch *l); /* gives the lock back */

/* -- the steps, for the tests ----------------------------------------------------------------------------------- */
/* The user that the daemon is to run as; -ENOENT tells how to make it. */
MUST_CHECK int launch_user(const struct config *c, uid_t *ret_uid, gid_t *ret_gid, struct err *err);
/* -EBUSY names the holder's pid. */
MUST_CHECK int launch_lock(int *ret_fd, const char *data_dir, struct err *err);
/* -EACCES names the first folder on the way to path that uid/gid may not enter. Needs root. */
MUST_CHECK int launch_check_path(const char *path, uid_t uid, gid_t gid, const char *user, struct err *err);
/* Makes DATA and its folders with their owners and modes. Needs root. */
MUST_CHECK int launch_folders(const char *data_dir, uid_t uid, gid_t gid, struct err *err);
/* Irreversible. */
MUST_CHECK int launch_drop(uid_t uid, gid_t gid, struct err *err);
