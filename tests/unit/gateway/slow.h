/* An instance that holds what a test wants to be slow. */
#pragma once

#include "unit/gateway/harness.h"

/* Holds what has the path in up_hold, answers the rest with up_status. */
static const char *up_hold = "";
static int up_status = 200;

static inline void script(struct http_req *req, void *arg UNUSED)
{
	if (!strcmp(http_req_path(req), up_hold))
		hold(req);
	else
		http_reply(req, up_status, "application/json", "{}", 2);
}

static inline void let_go(int status)
{
	cr_assert_not_null(held);
	http_reply(STEAL(held), status, "application/json", "{}", 2);
}
