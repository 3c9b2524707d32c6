/* daemon/spawn.h: starting openreward-spawner, as root. The spawner stays when the daemon dies otherwise than by a signal
 * that asks for the end, so it is made a session of its own and gets nothing of the daemon's but its standard error. */
#pragma once

#include "daemon/launch.h"

/* Whether somebody accepts connections there. */
bool spawn_is_listening(const char *socket_path);
/* DATA/images/build.conf: what root jobs may trust. Before the daemon's user can speak to anybody. */
MUST_CHECK int spawn_write_build_conf(const struct config *c, struct err *err);
/* Starts it and waits until it listens. Its own message has gone to standard error when it did not come up. */
MUST_CHECK int spawn_start(struct launch *l, const struct config *c, struct err *err);
/* Becomes it, as a service of its own (--keep). Returns only on failure. */
MUST_CHECK int spawn_exec(const struct launch *l, const struct config *c, struct err *err);
/* After a failed launch: ends what this life started. */
void spawn_stop(struct launch *l);

/* The arguments, for the tests: NULL-terminated, the caller frees each and the array. */
char **spawn_args(const struct launch *l, const struct config *c);
