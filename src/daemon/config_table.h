/* daemon/config_table.h: the table behind config.h: one row per key, with type, place, default and comment. Shared by
 * the files config*.c only. */
#pragma once

#include "daemon/config.h"

enum config_type {
	CONFIG_STR,
	CONFIG_SECRET,    /* a string that is never printed */
	CONFIG_PATH,      /* absolute, or made so from the working directory; "" where the default is "" */
	CONFIG_DURATION,  /* uint64_t, ms */
	CONFIG_SIZE,      /* uint64_t or size_t, bytes */
	CONFIG_COUNT,     /* uint64_t or size_t */
	CONFIG_BOOL,
	CONFIG_LEVEL,     /* enum log_level */
	CONFIG_FORMAT,    /* enum log_format */
	CONFIG_MACHINE,   /* char *, "CPU:GIB" */
	CONFIG_LISTEN,    /* char **, HOST:PORT */
	CONFIG_LIST,      /* char ** */
	CONFIG_MOUNTS,    /* char **, "SOURCE[:TARGET]" */
	CONFIG_ENV,       /* char **, "K=V"; a mapping in the file */
	CONFIG_ALIASES,   /* struct image_alias *; a mapping in the file */
};

struct config_key {
	const char *name;     /* "http.idle": section and key; no dot = top level */
	enum config_type type;
	size_t offset;        /* in struct config */
	const char *value;    /* the default, as in a file; NULL = an empty list or mapping */
	uint64_t min, max;    /* of DURATION, SIZE, COUNT */
	const char *comment;  /* lines, without '#' */
};

extern const struct config_key config_keys[];
extern const size_t config_n_keys;

const struct config_key *config_find_key(const char *name); /* NULL = none */
const char *config_nearest_key(const char *name);           /* for "did you mean" */
const char *config_section_comment(const char *section);    /* NULL = no such section */

/* One scalar into its place. Errors name key, value and expectation; no line. */
MUST_CHECK int config_put(struct config *c, const struct config_key *k, const char *value, struct err *err);
/* Lists and mappings: empties, then takes one element after the other; name NULL for lists. */
bool config_is_list(enum config_type t);
bool config_is_map(enum config_type t);
void config_clear(struct config *c, const struct config_key *k);
MUST_CHECK int config_add(struct config *c, const struct config_key *k, const char *name, const char *value, struct err *err);

/* For rules of single values: names key, value and what was expected. Returns -EINVAL. */
int config_wrong(const struct config_key *k, const char *value, struct err *err, const char *expected);
/* -- config_listen.c -- */
MUST_CHECK int config_check_tls(const struct config *c, struct err *err); /* rules between listen and tls.* */
MUST_CHECK int config_check_listen(const struct config_key *k, const char *value, struct err *err);
