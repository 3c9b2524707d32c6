/* store/audit.h: the audit log: every change that somebody asked for, in the order in which they came. Not in memory, as it
 * only grows. An entry is queued before the change that it is about, so no change is on disk without it; the answer's
 * status follows. Only age removes entries (record_limits.audit_ms), nothing rewrites them. Writing: loop thread; reading: a worker
 * with a store_reader. */
#pragma once

#include "store/record.h"

/* Texts are never NULL; "" = none. */
struct audit_entry {
	int64_t id;     /* grows by one with each */
	int64_t at_ms;  /* wall clock */
	const char *actor_id, *actor;         /* the user, or the namespace of a key that is nobody's; its name as it was */
	const char *key_id, *session_id;      /* session: the key was this one's own */
	const char *namespace_id, *namespace; /* whose the changed thing is */
	const char *action;                   /* "PUT /v1/orgs/acme/members/bob" */
	const char *target;                   /* more than action says */
	const char *peer;                     /* where it came from */
	int status;                           /* of the answer; 0 = there is none (yet) */
};

/* id and status are not looked at; at_ms 0 = now. Returns the entry's id. */
int64_t store_audit_add(struct store *s, const struct audit_entry *e);
/* Of what the server or the machine's operator did without a call, to the namespace `local`; peer "". */
void store_audit_own(struct store *s, const char *action, const char *target);
/* What the entry is about, when that is known later. */
void store_audit_target(struct store *s, int64_t id, const struct store_namespace *ns, const char *target);
void store_audit_status(struct store *s, int64_t id, int status);

/* NULL and 0 = any. */
struct audit_filter {
	const char *namespace_id; /* what was done to what is its, or by it */
	const char *actor;        /* name */
	const char *action;       /* its beginning */
	int64_t since_ms;
};

/* Newest first, those before this id (0 = from the newest). Texts live until fn returns. */
typedef void audit_fn(void *arg, const struct audit_entry *e);
MUST_CHECK int store_audit_read(struct store_reader *r, const struct audit_filter *f, int64_t before, uint64_t limit, audit_fn *fn,
				void *arg, struct err *err);
