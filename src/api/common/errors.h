/* api/common/errors.h: which HTTP status an error code is: the one table, the codes of base/err.h first. Pure. */
#pragma once

#include "base/err.h"
#include "http/server.h"

/* 400..599; 500 for what the table does not know. */
int api_status_of(int code);
/* The same for what is asked of a sandbox's files. Clients repeat such calls at every 5xx, so only what another try may
 * mend is one: a full disk, a read-only file system and the like are 4xx. */
int api_file_status_of(int code);

/* Answers with err's text as detail and message; 429 and 503 with Retry-After. */
void api_reply_err(struct http_req *req, const struct err *err);
void api_reply_file_err(struct http_req *req, const struct err *err);
