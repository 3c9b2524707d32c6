/* store/seal.h: secrets at rest: what is in the database is of no use without DATA/secrets.key. A copy of the database
 * alone (a backup, a bug report) gives nothing away; who reads all of DATA as the server's user or as root reads both.
 *
 * AES-256-GCM with a fresh nonce for each text; the key is 32 random bytes, made beside the database when the first
 * secret is stored, mode 0600. What a text belongs to is authenticated with it, so that rows cannot be exchanged. */
#pragma once

#include <stdbool.h>

#include "base/err.h"

struct seal {
	char *path;             /* of the key */
	bool loaded;
	unsigned char key[32];
};

void seal_init(struct seal *s, const char *database_path);
void seal_done(struct seal *s);

/* *ret is malloc'ed, printable. Makes the key where there is none; errors name its path. */
MUST_CHECK int seal_text(struct seal *s, const char *belongs_to, const char *text, char **ret, struct err *err);
/* -EINVAL: it was not sealed for belongs_to, or with another key; -ENOENT: the key is gone. */
MUST_CHECK int seal_open(struct seal *s, const char *belongs_to, const char *sealed, char **ret, struct err *err);
