/* GET /v1/billing/api-usage: nothing is metered here, so clients get zeros over the days that they asked for. */
#include <errno.h>

#include "api/api.h"
#include "api/common/errors.h"
#include "base/str.h"
#include "base/time.h"

#define DAYS_DEFAULT 30
#define DAYS_MAX 90
#define DAY_MS (24 * 3600 * 1000ll)

static int read_days(struct http_req *req, uint64_t *ret, struct err *err)
{
	const char *text = http_req_query(req, "days");

	*ret = DAYS_DEFAULT;
	if (str_empty(text) || (str_to_u64(text, ret) == 0 && *ret >= 1 && *ret <= DAYS_MAX))
		return 0;
	return err_set(err, -EINVAL, "days: \"%.100s\": expected a whole number from 1 to %d", text, DAYS_MAX);
}

static int read_daily(struct http_req *req, bool *ret, struct err *err)
{
	const char *text = http_req_query(req, "granularity");

	*ret = str_eq(text, "daily");
	if (str_empty(text) || *ret || str_eq(text, "total"))
		return 0;
	return err_set(err, -EINVAL, "granularity: \"%.100s\": expected total or daily", text);
}

static int check_service(struct http_req *req, struct err *err)
{
	const char *text = http_req_query(req, "service");

	if (str_empty(text) || str_eq(text, "search") || str_eq(text, "fetch"))
		return 0;
	return err_set(err, -EINVAL, "service: \"%.100s\": expected search or fetch", text);
}

static void write_totals(struct json_writer *w)
{
	json_key(w, "totals");
	json_open_object(w);
	json_kv_i64(w, "requests", 0);
	json_kv_str(w, "cost", "0.000000"); /* an amount is a text, for its digits */
	json_kv_i64(w, "pendingRequests", 0);
	json_close(w);
}

static void write_none(struct json_writer *w, const char *key)
{
	json_key(w, key);
	json_open_array(w);
	json_close(w);
}

static void on_usage(struct http_req *req, void *arg)
{
	char since[TIME_ISO_LEN], until[TIME_ISO_LEN];
	int64_t now = time_wall_ms();
	uint64_t days;
	bool daily;
	struct json_writer w;
	struct err err;
	auto_buf struct buf b = { 0 };

	if (!api_caller(arg, req))
		return;
	if (read_days(req, &days, &err) < 0 || read_daily(req, &daily, &err) < 0 || check_service(req, &err) < 0) {
		api_reply_err(req, &err);
		return;
	}
	buf_init(&b, 4096);
	json_write_begin(&w, &b);
	json_open_object(&w);
	json_kv_str(&w, "since", time_iso(now - (int64_t)days * DAY_MS, since));
	json_kv_str(&w, "until", time_iso(now, until));
	write_none(&w, "byService");
	write_totals(&w);
	if (daily)
		write_none(&w, "daily");
	json_close(&w);
	api_send(req, 200, &w, &b);
}

void api_billing_routes(struct api *a, struct http_router *r)
{
	http_router_add(r, "GET", "/v1/billing/api-usage", on_usage, a);
}
