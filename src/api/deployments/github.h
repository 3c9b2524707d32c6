/* api/deployments/github.h: what github.c and webhook.c share. */
#pragma once

#include "api/api.h"

/* Begins a deployment of e, which is linked: its branch is fetched, then built. A failed fetch fails the deployment. */
MUST_CHECK int github_deploy(struct api *a, struct store_environment *e, struct store_deployment **ret, struct err *err);
void api_webhook_routes(struct api *a, struct http_router *r);
