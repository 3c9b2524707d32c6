/* api/logs.h: answers made from a log file, read by a worker. A file that is not there is an empty log. The end of a log
 * is what people look for, so a long one loses its beginning. Loop thread only. */
#pragma once

#include "http/server.h"

#define LOGS_TEXT_MAX (4u * 1024 * 1024) /* bytes of the file in one answer */

/* {"logs": TEXT, "status": STATUS}. status is a literal. */
void logs_reply_text(struct http_req *req, const char *path, const char *status);
/* {"entries": [{"timestamp", "severity", "message"}], "status": STATUS}: the last `limit` lines, oldest first. A line of
 * JSON with those members (or "level", "msg", "event", "time") brings its own; else timestamp is the line's, or the file's. */
void logs_reply_entries(struct http_req *req, const char *path, uint64_t limit, const char *status);
