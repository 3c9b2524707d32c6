/* api/environments/details.h: where an environment's source comes from and what people read about it, as requests set it. */
#pragma once

#include "api/api.h"

/* "branch" and "subdirectory" of body into e's origin; absent leaves it, and so does null, which clears "subdirectory". Saved
 * when anything was there. -EINVAL names the member. */
MUST_CHECK int details_origin(struct store *s, struct store_environment *e, json_t *body, struct err *err);
/* The same, without changing anything. */
MUST_CHECK int details_check_origin(json_t *body, struct err *err);
/* A text of body that describes an environment: absent, or not too long. -EINVAL names it. */
MUST_CHECK int details_check_description(json_t *body, const char *key, struct err *err);
/* The members of an environment that origin holds. */
void details_write(struct json_writer *w, const struct store_environment *e);
