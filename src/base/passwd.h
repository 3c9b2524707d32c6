/* base/passwd.h: who a user of an image is, from the text of its passwd and group files. Both were written by strangers:
 * they are read bounded, and only from regular files. Used by init for every command, and by the spawner, which must know
 * the owner of a bucket before init runs. No state. */
#pragma once

#include <stddef.h>
#include <sys/types.h>

#include "base/err.h"

#define USER_GROUPS_MAX 256
#define USER_HOME_MAX 512
#define PASSWD_FILE_MAX (1024 * 1024) /* bytes of passwd or group that are read */

struct user {
	uid_t uid;
	gid_t gid;
	gid_t groups[USER_GROUPS_MAX]; /* supplementary */
	size_t n_groups;
	char home[USER_HOME_MAX]; /* "/" when unknown */
};

/* The content of an open file, NUL-terminated and malloc'ed; NULL = fd is -1 or no regular file. fd stays the caller's. */
char *passwd_read(int fd);

/* spec: "" (root), "name", "uid", "user:group" with either part a name or a number; the rules are Docker's: a number need
 * not be in the file, a name must (-ENOENT); a group that is named replaces the supplementary ones. Both texts are taken
 * apart in place; NULL counts as empty. */
MUST_CHECK int passwd_resolve(struct user *ret, char *passwd, char *group, const char *spec, struct err *err);
