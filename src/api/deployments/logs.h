/* api/deployments/logs.h: answers made from log files. A file that is not there is an empty log. The end of a log is what
 * people look for, so a long one loses its beginning. Loop thread only, but for what a worker reads. */
#pragma once

#include "api/deployments/logentry.h"
#include "base/buf.h"
#include "http/server.h"
#include "store/store.h"

#define LOGS_TEXT_MAX (4u * 1024 * 1024) /* bytes of one file in one answer */

/* {"logs": TEXT, "status": STATUS}. status is a literal. */
void logs_reply_text(struct http_req *req, const char *path, const char *status);

/* One deployment's log. */
struct log_source {
	char id[STORE_ID_LEN]; /* the deployment's */
	char *path;            /* owned */
	struct buf text;       /* what was read: whole lines, the last of the file */
	int64_t modified_ms;   /* of the file: the time of lines that have none */
	uint64_t end;          /* offset behind text in the file */
};

struct log_query {
	uint64_t limit;             /* of entries: the last ones */
	enum log_severity severity; /* at least */
	char since[TIME_ISO_LEN];   /* of the form of base/time.h, or its beginning; "" = all */
	bool labelled;              /* entries tell their deployment and instance */
	const char *status;         /* a literal, NULL = none */
};

/* {"entries": [{"timestamp", "severity", "message"}], "status": STATUS}, oldest first, of all sources merged by the times at
 * which the lines were seen. Takes the sources, an array of n. */
void logs_reply_entries(struct http_req *req, struct log_source *sources, size_t n, const struct log_query *q);

/* For a worker or the loop: reads the last max bytes of each. Files that are not there stay empty. */
void log_sources_read(struct log_source *sources, size_t n, size_t max);
void log_sources_free(struct log_source *sources, size_t n);
/* The last q->limit entries of all sources, in order. */
typedef void log_entry_fn(void *arg, const struct log_source *s, const struct logentry *e);
void log_sources_merge(const struct log_source *sources, size_t n, const struct log_query *q, log_entry_fn *fn, void *arg);
