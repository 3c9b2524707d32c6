/* api/deployments/source.h: a commit of a repository becomes a deployment, whether it was pushed here or fetched from elsewhere:
 * source_begin() makes the record, source_deploy() exports the commit and hands it to env/. Loop thread only. */
#pragma once

#include "api/api.h"

#define SOURCE_DELETED "the environment was deleted meanwhile"

/* A record in state queued, and its folder DATA/builds/<id>. source: "git" or "github". commit "" = not known yet. */
MUST_CHECK int source_begin(struct api *a, struct store_environment *e, const char *source, const char *branch,
			    const char *commit, struct store_deployment **ret, struct err *err);
/* notes: lines for whoever pushed; "" = nothing. err: the deployment is failed or superseded, with this reason. Once. */
typedef void source_done_fn(void *arg, struct store_deployment *d, const char *notes, const struct err *err);
/* Exports d->commit, which must still be what d->branch of the repository says, and starts the build. A deployment that
 * was begun later wins. done may be NULL. */
void source_deploy(struct api *a, struct store_deployment *d, const char *repository, source_done_fn *done, void *arg);
