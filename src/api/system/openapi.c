/* GET /openapi.json: docs/openapi.json, which the build puts into the program. tools/check-openapi compares it with the code. */
#include "api/api.h"
#include "api/openapi.gen.h" /* made by tools/gen-openapi */

static void on_openapi(struct http_req *req, void *arg UNUSED)
{
	http_reply(req, 200, "application/json", openapi_json, sizeof(openapi_json));
}

void api_openapi_routes(struct api *a, struct http_router *r)
{
	http_router_add(r, "GET", "/openapi.json", on_openapi, a);
}
