/* cli/cli.h: the verbs of the program `openreward`, and what they share. A verb is a function of its arguments that
 * returns the exit status: 0 done, 1 it failed (the reason is on standard error), 2 it was called wrongly. One verb per
 * process, single-threaded. */
#pragma once

#include <stdbool.h>
#include <stdio.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/macros.h"
#include "json/json.h"

typedef int cli_verb_fn(int argc, char **argv); /* argv[0] is the verb */

int cli_serve(int argc, char **argv);
int cli_spawner(int argc, char **argv);
int cli_client_env(int argc, char **argv);
int cli_deploy(int argc, char **argv);
int cli_sandbox(int argc, char **argv);
int cli_image(int argc, char **argv);
int cli_logs(int argc, char **argv);
int cli_deployment(int argc, char **argv);
int cli_env(int argc, char **argv);
int cli_rollback(int argc, char **argv);
int cli_runs(int argc, char **argv);
int cli_rollouts(int argc, char **argv);
int cli_export(int argc, char **argv);
int cli_backup(int argc, char **argv);
int cli_restore(int argc, char **argv);
int cli_dump(int argc, char **argv);
int cli_key(int argc, char **argv);
int cli_user(int argc, char **argv);
int cli_org(int argc, char **argv);
int cli_audit(int argc, char **argv);
int cli_doctor(int argc, char **argv);

/* "openreward: MESSAGE" on standard error; returns 1. */
int cli_fail(const char *fmt, ...) PRINTF_LIKE(1, 2);
/* "openreward VERB: MESSAGE" and how the verb is used; returns 2. */
int cli_misuse(const char *usage, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* -- the server ------------------------------------------------------------------------------------------------- */
struct cli_target {
	char *url; /* without a slash at the end */
	char *key; /* "" = none */
	/* Of the server's public key, in curl's notation, which is then looked at in place of certificates; NULL = none. */
	char *pin;
};

/* data (--data DIR; NULL = not given): DATA/run/address and DATA/admin.key. Else OPENREWARD_API_URL or OPENREWARD_URL
 * and OPENREWARD_API_KEY, where set. Else the default data directory. -ENOENT says that no server runs there. */
MUST_CHECK int cli_target_find(struct cli_target *ret, const char *data, struct err *err);
void cli_target_done(struct cli_target *t);
/* Tells a CURL handle whom to believe at this address: see cli_http(). */
void cli_trust(void *curl, const struct cli_target *t);
/* The options of a verb that has --data and --help alone; optind is then at the first argument. True: the verb is over,
 * with *ret_status. *ret_data is untouched where the option is not given. */
MUST_CHECK bool cli_data_only(int argc, char **argv, const char *usage, const char **ret_data, int *ret_status);

/* -- HTTP ------------------------------------------------------------------------------------------------------- */
typedef void cli_line_fn(void *arg, const char *line, size_t len);
typedef void cli_data_fn(void *arg, const char *p, size_t len);
typedef ssize_t cli_read_fn(void *arg, char *p, size_t cap); /* 0 = the end, negative = give up */

struct cli_request {
	const char *method, *path;   /* path with its query, percent-encoded */
	const char *content_type;    /* NULL = application/json when there is a body */
	const char *body;            /* NULL = none, or `read` */
	size_t body_len;
	cli_read_fn *read;           /* a chunked body */
	const char *session_id;      /* X-Session-ID; NULL = none */
	cli_line_fn *line;           /* each line of a good answer as it comes, without its end; NULL = collect */
	cli_data_fn *data;           /* the same in pieces, whatever is in them; NULL = by lines, or collected */
	void *arg;                   /* of read, line and data */
	const volatile int *stop;    /* becomes true (a signal): the request is given up with -EINTR; may be NULL */
	int status;                  /* out */
	struct buf answer;           /* out: what was collected; cli_request_done frees it */
};

/* An https address is believed by the system's CA certificates, or by those in the file that OPENREWARD_CA, else SSL_CERT_FILE,
 * names. 0 = a 2xx answer. Else a message for people: what the server said, or "no server answers at URL". Codes: -ECONNREFUSED
 * nobody there, -EINTR stopped, -ENOENT 404, -EPROTO any other refusal, -EPIPE broke in the middle. */
MUST_CHECK int cli_http(const struct cli_target *t, struct cli_request *rq, struct err *err);
void cli_request_done(struct cli_request *rq);

/* One call with a JSON body (NULL = none) and a JSON answer; the caller owns *ret. Errors as cli_http(). */
MUST_CHECK int cli_ask(const struct cli_target *t, const char *method, const char *path, const char *body, json_t **ret,
		       struct err *err);
/* The name of the namespace that the key acts for; the caller frees. */
MUST_CHECK int cli_own_namespace(const struct cli_target *t, char **ret, struct err *err);
/* "NAME" becomes "NAMESPACE/NAME" with the key's own; the caller frees. -EINVAL: neither form. */
MUST_CHECK int cli_full_name(const struct cli_target *t, const char *name, char **ret, struct err *err);

/* -- lists ------------------------------------------------------------------------------------------------------ */
struct cli_column {
	const char *title, *key; /* "CREATED", "created_at"; a list of objects shows their "name" and "role" */
};
/* rows as a table with aligned columns, or with json as one object a line. What servers and strangers wrote is made harmless
 * for a terminal. */
void cli_print_rows(json_t *rows, const struct cli_column *columns, size_t n, bool json, bool with_titles);
/* Every page of what path lists under key, by offset. path may have a query. */
MUST_CHECK int cli_list(const struct cli_target *t, const char *path, const char *key, const struct cli_column *columns, size_t n,
			bool json, struct err *err);
/* One part of a path or query, percent-encoded, behind what stands there already; the caller frees. */
char *cli_path(const char *before, const char *part);

/* -- streams of events ------------------------------------------------------------------------------------------ */
/* Reads what json lines (application/x-ndjson) tell: prints each "line", keeps the last object. */
struct cli_progress {
	FILE *out;           /* where lines go; NULL = nowhere */
	char *tail[20];      /* the last lines, oldest first from `next` */
	unsigned next;
	struct buf last;     /* the last object that was no line, as JSON text */
};
void cli_progress_init(struct cli_progress *p, FILE *out);
void cli_progress_done(struct cli_progress *p);
void cli_progress_line(void *progress, const char *line, size_t len); /* a cli_line_fn */

/* Reads server-sent events: joins chunk and end. */
struct cli_events {
	char event[32];      /* of the event being read */
	char task_id[64];    /* by which the answer may be asked for again; "" = did not come */
	struct buf json;     /* chunk + end */
	struct buf error;    /* text of `error` */
	bool ended, failed;
};
void cli_events_init(struct cli_events *e, size_t max_bytes);
void cli_events_done(struct cli_events *e);
void cli_events_line(void *events, const char *line, size_t len); /* a cli_line_fn */
