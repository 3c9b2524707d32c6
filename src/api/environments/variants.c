/* GET /v1/environments/{owner}/{name}/variants: the environments that the server lists, asked of an instance; one that sleeps
 * is started. A server without such a list, or that was never deployed, has none. */
#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>

#include "api/api.h"
#include "api/common/errors.h"
#include "base/fd.h"
#include "base/mem.h"
#include "base/str.h"
#include "env/env.h"
#include "http/client.h"

#define LIST_MAX (1u << 20)
#define ASK_MS 60000 /* a start included; clients ask again after a 503 */

struct asking { /* ends with its request */
	struct http_req *req;
	const struct store_environment *e;
	struct env_wait *wait;      /* before there is an instance */
	struct instance *i;         /* a use is held */
	bool connecting;            /* the use goes back in on_connected */
	struct http_client *client;
	struct loop_timer limit;
	struct buf body;
	int status;
};

/* -- the answer ---------------------------------------------------------------------------------------------------- */

/* The same for the same name in the same environment, always: a UUID of version 8. */
static void variant_id(const struct store_environment *e, const char *name, char ret[37])
{
	unsigned char h[EVP_MAX_MD_SIZE];
	auto_free char *text = xasprintf("%s/%s", e->id, name);
	char hex[33];

	if (EVP_Digest(text, strlen(text), h, NULL, EVP_sha256(), NULL) != 1)
		memset(h, 0, sizeof(h));
	h[6] = (unsigned char)(0x80 | (h[6] & 0x0f));
	h[8] = (unsigned char)(0x80 | (h[8] & 0x3f));
	str_hex(h, 16, hex);
	snprintf(ret, 37, "%.8s-%.4s-%.4s-%.4s-%.12s", hex, hex + 8, hex + 12, hex + 16, hex + 20);
}

static void write_list(struct json_writer *w, const struct asking *k)
{
	auto_json list = NULL;
	char id[37];
	size_t n;
	json_t *item;

	json_open_array(w);
	if (k->status == 200 && json_read(&list, k->body.data, k->body.len, NULL) == 0 && json_is_array(list)) {
		json_array_foreach(list, n, item) {
			if (!json_is_string(item))
				continue;
			variant_id(k->e, json_string_value(item), id);
			json_open_object(w);
			json_kv_str(w, "name", json_string_value(item));
			json_kv_str(w, "id", id);
			json_close(w);
		}
	}
	json_close(w);
}

static void reply_list(struct asking *k)
{
	struct json_writer w;
	auto_buf struct buf b = { 0 };

	buf_init(&b, 4 * LIST_MAX);
	json_write_begin(&w, &b);
	write_list(&w, k);
	api_send(k->req, 200, &w, &b);
}

/* -- asking -------------------------------------------------------------------------------------------------------- */

static void on_head(struct http_client *c UNUSED, int status, const struct http_header *h UNUSED, size_t n UNUSED,
		    int64_t body_length UNUSED, void *arg)
{
	((struct asking *)arg)->status = status;
}

static void on_data(struct http_client *c UNUSED, const char *p, size_t len, void *arg)
{
	struct asking *k = arg;

	if (buf_append(&k->body, p, len) < 0)
		k->status = 0; /* no list is so long */
}

static void on_end(struct http_client *c UNUSED, bool reusable UNUSED, void *arg)
{
	reply_list(arg);
}

static void on_error(struct http_client *c UNUSED, bool got_bytes UNUSED, const struct err *err, void *arg)
{
	http_reply_error(((struct asking *)arg)->req, 503, "the server did not list its environments: %s", err->msg);
}

static void asking_free(struct asking *k)
{
	loop_timer_stop(&k->limit);
	if (k->wait)
		env_acquire_cancel(k->wait);
	http_client_free(k->client);
	if (k->i)
		instance_release(k->i);
	buf_done(&k->body);
	free(k);
}

static void on_connected(void *arg, int fd, const struct err *err)
{
	static const struct http_client_events events = { .on_head = on_head, .on_data = on_data, .on_end = on_end,
		.on_error = on_error };
	static const struct http_header host = { "Host", "localhost:8080" };
	struct asking *k = arg;
	struct http_limits limits;
	struct err own = ERR_INIT;

	k->connecting = false;
	if (!k->req) { /* its client went meanwhile */
		fd_close(fd);
		asking_free(k);
		return;
	}
	http_limits_default(&limits);
	if (err)
		err_copy(&own, err);
	else if (http_client_new(&k->client, http_req_loop(k->req), fd, &limits, &own) == 0)
		(void)!http_client_start(k->client, "GET", "/list_environments", &host, 1, 0, &events, k, &own);
	if (own.code)
		http_reply_error(k->req, 503, "the server did not list its environments: %s", own.msg);
}

static void on_instance(void *arg, struct instance *i, const struct err *err)
{
	struct asking *k = arg;

	k->wait = NULL;
	k->i = i;
	if (err && err->code == -ENOENT) {
		reply_list(k); /* never deployed */
	} else if (err) {
		api_reply_err(k->req, err);
	} else {
		k->connecting = true;
		instance_connect(i, on_connected, k);
	}
}

static void on_limit(struct loop_timer *t UNUSED, void *arg)
{
	http_reply_error(((struct asking *)arg)->req, 503, "the environment is starting");
}

static void on_closed(struct http_req *req, bool complete, void *arg)
{
	struct asking *k = arg;

	(void)req;
	(void)complete;
	k->req = NULL;
	loop_timer_stop(&k->limit);
	if (!k->connecting)
		asking_free(k);
}

void variants_reply(struct api *api, struct http_req *req, struct store_environment *e)
{
	struct asking *k = NEW(struct asking);
	struct env_request rq = { .want = ENV_VISIT, .done = on_instance, .arg = k };

	*k = (struct asking){ .req = req, .e = e };
	buf_init(&k->body, LIST_MAX);
	loop_timer_init(&k->limit, http_req_loop(req), on_limit, k);
	loop_timer_start(&k->limit, ASK_MS);
	http_req_on_close(req, on_closed, k);
	k->wait = env_acquire(api->envs, e, &rq);
}
