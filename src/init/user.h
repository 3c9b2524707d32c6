/* init/user.h: whom a command or a file request acts as. Names are looked up in the sandbox's own /etc/passwd and
 * /etc/group, which its inhabitants may write: both are read bounded, and only as regular files. */
#pragma once

#include <stdbool.h>

#include "base/err.h"
#include "base/passwd.h"

/* spec as passwd_resolve() takes it. etc: a folder that holds passwd and group; a missing file counts as empty. */
MUST_CHECK int user_resolve(struct user *ret, int etc, const char *spec, struct err *err);
/* The same with a folder's name, which is this root's /etc but in tests. Reads nothing while both files are what they were at
 * the last call, and does not even look at them if still: nobody can have changed them since user_recheck(). */
MUST_CHECK int user_lookup(struct user *ret, const char *folder, const char *spec, bool still, struct err *err);
/* Forgets the last call when a file is not what it was then. */
void user_recheck(void);
#define USER_FOLDER "/etc"

/* For the file calls: init's file-system identity becomes the user's (and its file capabilities go, unless it is root)
 * until user_leave(). A failure to come back is fatal: init exits rather than act as somebody else. */
MUST_CHECK int user_enter(const struct user *u, struct err *err);
void user_leave(const struct user *u);
/* The kernel kills this process, and with it the sandbox, when the spawner dies. A change of ids undoes it. */
void user_die_with_parent(void);
