/* init/path.h: opening paths that somebody else chose, inside a tree that somebody else may change meanwhile.
 *
 * init is process 1 with descriptors of its own, so a path must never reach them: no call here follows a magic link
 * (/proc/self/fd, /proc/1/root, ...), and no file of a pseudo file system is handed out. Ordinary symbolic links in the
 * middle of a path are followed: the root is the sandbox's, they lead nowhere else. */
#pragma once

#include <stddef.h>
#include <sys/types.h>

#include "base/macros.h"

#define PATH_BYTES 4096 /* with the NUL */

/* openat2 with RESOLVE_NO_MAGICLINKS and O_CLOEXEC. Returns a descriptor or a negative errno. */
MUST_CHECK int path_open(int dir, const char *path, int flags, mode_t mode);

/* -EACCES when fd is on proc, sysfs, a cgroup or another pseudo file system that shows kernel state. */
MUST_CHECK int path_check_fs(int fd);

/* Opens a folder (O_PATH), making what is missing with the mode. path is absolute. */
MUST_CHECK int path_mkdirs(const char *path, mode_t mode);

/* "CWD/PATH", or PATH when it is absolute, into ret[PATH_BYTES]; an empty cwd is "/". -EINVAL, -ENAMETOOLONG. */
MUST_CHECK int path_join(char *ret, const char *cwd, const char *path);

/* Cuts an absolute path in place: *ret_parent (at least "/") and *ret_leaf. -EISDIR when it ends in a slash, ".", "..". */
MUST_CHECK int path_split(char *path, const char **ret_parent, const char **ret_leaf);
