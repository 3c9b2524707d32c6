/* store/envset.h: what the owner of an environment may set: one table of names, types, ranges, defaults and meanings.
 *
 * A row is all that a new setting needs: PATCH and GET .../settings, `openreward env` and the check of values follow from
 * it, and the module that obeys it reads it with envset_number() or envset_text(). Values live in the environment's
 * record and in the table environment_setting; one that is not set is in neither, so a changed default reaches every
 * environment that did not choose. Secrets are sealed there (store/seal.h) and plain in memory. What says where the source comes
 * from (branch, subdirectory) is in struct store_origin and is shown beside these by api/environments/settings.c. Loop
 * thread only. */
#pragma once

#include "json/json.h"
#include "store/store.h"

enum envset_type {
	ENVTYPE_COUNT,    /* a whole number */
	ENVTYPE_DURATION, /* "30s"; envset_number() is in ms */
	ENVTYPE_SIZE,     /* "2GiB"; envset_number() is in bytes */
	ENVTYPE_MACHINE,  /* "CPU:GIB" */
	ENVTYPE_BOOL,     /* true or false; envset_number() is 0 or 1 */
	ENVTYPE_CHOICE,   /* one word of the row's fallback, "a|b|c": the first is the default; envset_number() is its place */
	ENVTYPE_PATH,     /* inside the source; "" = its top */
	ENVTYPE_MAP,      /* {"NAME": "VALUE"} */
	ENVTYPE_SECRETS,  /* the same; values are never given out */
};

/* ID, name, type, default, least, most, meaning. A default "@KEY" is the configuration's: envset_number() gives 0 and the
 * reader takes what it was given at its start. */
#define ENVSETS(X)                                                                                                          \
	X(SIZE, "size", ENVTYPE_MACHINE, "@instances.size", 0, 0, "Machine of an instance, CPU:GIB; from the next deployment on") \
	X(CONCURRENCY, "concurrency", ENVTYPE_COUNT, "1000", 1, 1000000, "Open sessions per instance")                        \
	X(MIN_SCALE, "min_scale", ENVTYPE_COUNT, "0", 0, 1000, "Instances that run although nobody asks")                     \
	X(MAX_SCALE, "max_scale", ENVTYPE_COUNT, "1", 0, 1000, "Instances at most; 0 = none: new sessions are refused")       \
	X(IDLE_TIMEOUT, "idle_timeout", ENVTYPE_DURATION, "@instances.idle", 1000, 31536000000,                               \
	  "Without sessions for this long, one ends")                                                                         \
	X(DRAIN_TIMEOUT, "drain_timeout", ENVTYPE_DURATION, "0", 0, 31536000000,                                              \
	  "After this long sessions of a replaced revision are ended; 0 = they end in their own time")                        \
	X(HEALTH_TIMEOUT, "health_timeout", ENVTYPE_DURATION, "@instances.start_timeout", 1000, 86400000,                     \
	  "From an instance's start to its first healthy answer")                                                            \
	X(DATA_ALWAYS, "orwd_data_always", ENVTYPE_BOOL, "@instances.orwd_data_always", 0, 0,                                 \
	  "Show /orwd_data although there are no files; from an instance's next start on")                                   \
	X(DATA_WRITABLE, "orwd_data_writable", ENVTYPE_BOOL, "@instances.orwd_data_writable", 0, 0, "Let instances write to it") \
	X(DOCKERFILE, "dockerfile", ENVTYPE_PATH, "Dockerfile", 0, 0, "Its path below the subdirectory")                      \
	X(KEEP_IMAGES, "keep_images", ENVTYPE_COUNT, "@builds.keep_images", 1, 10000, "Images that are kept for rollbacks")      \
	X(BUILD_ARGS, "build_args", ENVTYPE_MAP, "", 0, 0, "Build arguments (ARG); they are in the image's history")           \
	X(BUILD_SECRETS, "build_secrets", ENVTYPE_SECRETS, "", 0, 0,                                                          \
	  "Files for RUN --mount=type=secret,id=NAME; in no image, and masked in logs")                                      \
	X(ENV, "env", ENVTYPE_MAP, "", 0, 0, "Variables of every instance; from its next start on")

enum envset {
#define X(id, ...) ENVSET_##id,
	ENVSETS(X)
#undef X
	ENVSET_N
};

struct envset_row {
	const char *name;
	enum envset_type type;
	const char *fallback; /* as written in a change; "@KEY" = the configuration's KEY */
	uint64_t min, max;    /* of numbers; ms and bytes where they have a unit */
	const char *doc;
};
extern const struct envset_row envset_rows[ENVSET_N];

/* Checks every member of changes, then sets them all and queues the records: on failure nothing is changed. A value is
 * written as JSON or as text ("4"); null and "" give the default back; members of a map are merged, null and "" remove
 * one. -ENOSPC: no room on the disk; -EINVAL names the setting, its value (never a secret's) and what was expected. */
MUST_CHECK int envset_change(struct store *s, struct store_environment *e, json_t *changes, struct err *err);
/* The checks alone. */
MUST_CHECK int envset_check(const struct store_environment *e, json_t *changes, struct err *err);

bool envset_is_set(const struct store_environment *e, enum envset id);
/* What is set, else the default; 0 for one of the configuration's, for maps and for texts. */
uint64_t envset_number(const struct store_environment *e, enum envset id);
uint64_t envset_number_or(const struct store_environment *e, enum envset id, uint64_t fallback); /* where it is not set */
/* The same as text; "" for one of the configuration's, and for an empty map. */
const char *envset_text(const struct store_environment *e, enum envset id);
/* Each member of a map, by name. */
typedef void envset_pair_fn(void *arg, const char *name, const char *value);
void envset_each(const struct store_environment *e, enum envset id, envset_pair_fn *fn, void *arg);

/* Members of an open object: NAME: the value in force, null for a default of the configuration; of secrets the names alone.
 * Members of an open array: the names that are set. Likewise: {name, type, default, expected, description} of each row. */
void envset_write_values(struct json_writer *w, const struct store_environment *e);
void envset_write_set(struct json_writer *w, const struct store_environment *e);
void envset_write_rows(struct json_writer *w);
/* What was expected of a value, for people. buf of len bytes; returns buf. */
const char *envset_expected(enum envset id, char *buf, size_t len);

/* For the loader: puts a stored text; unknown names (of a newer version) and bad values are ignored. Secrets that cannot be
 * opened are an error that names the file of their key. */
MUST_CHECK int envset_attach(struct store *s, struct store_environment *e, const char *name, const char *text, struct err *err);
