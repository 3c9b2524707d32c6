/* api/common/paging.h: tokens of lists whose pages are found by a position: where the page before ended, signed together
 * with what was listed, so that a token continues that list and no other. Pure; any thread. */
#pragma once

#include "auth/signer.h"

/* What is listed: its kind, whose, and everything that a caller may narrow it by. */
#define PAGING_FIELDS 4
struct paging_list {
	const char *fields[PAGING_FIELDS]; /* NULL counts as "" */
};

/* position: at most two numbers. Malloc'ed. */
char *paging_token(const struct signer *s, const struct paging_list *list, int64_t position, int64_t second);
/* token NULL or "" leaves *ret and *ret_second as they are. -EINVAL for anything that was not made for this list. */
MUST_CHECK int paging_read(const struct signer *s, const struct paging_list *list, const char *token, int64_t *ret,
			   int64_t *ret_second, struct err *err);
