#include "cli/cli.h"

#include <curl/curl.h>
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/str.h"

#define DATA_DEFAULT "/var/lib/openreward"

/* The first line of a small file, and the second where ret_second is not NULL: "" when there is none. */
static int first_lines(const char *data, const char *name, char **ret, char **ret_second, struct err *err)
{
	auto_free char *path = xasprintf("%s/%s", data, name);
	auto_buf struct buf b = { 0 };

	buf_init(&b, 4096);
	int r = fd_read_file(path, &b, err);
	if (r < 0)
		return r;
	size_t len = strcspn(b.data, "\r\n");
	const char *rest = b.data + len + strspn(b.data + len, "\r\n");
	*ret = xstrndup(b.data, len);
	if (ret_second)
		*ret_second = xstrndup(rest, strcspn(rest, "\r\n"));
	return 0;
}

/* A server that listens everywhere is reached on loopback. */
static char *url_of(const char *address)
{
	bool tls = str_starts(address, "https://");
	const char *scheme = tls ? "https" : "http", *at = tls ? address + strlen("https://") : address;

	if (str_starts(at, "0.0.0.0:"))
		return xasprintf("%s://127.0.0.1:%s", scheme, at + strlen("0.0.0.0:"));
	if (str_starts(at, "[::]:"))
		return xasprintf("%s://[::1]:%s", scheme, at + strlen("[::]:"));
	return xasprintf("%s://%s", scheme, at);
}

static int from_data(struct cli_target *ret, const char *data, struct err *err)
{
	auto_free char *address = NULL;
	auto_free char *key = NULL;
	auto_free char *pin = NULL;
	int r = first_lines(data, "run/address", &address, &pin, err);

	if (r == -ENOENT)
		return err_set(err, -ENOENT, "no server runs on %s: start it with `openreward serve --data %s`", data, data);
	if (r == -EACCES)
		return err_set(err, r, "%s may not be read by this user: use root, or OPENREWARD_URL and OPENREWARD_API_KEY", data);
	r = r < 0 ? r : first_lines(data, "admin.key", &key, NULL, err);
	if (r < 0)
		return r;
	ret->url = url_of(address);
	ret->key = STEAL(key);
	ret->pin = str_empty(pin) ? NULL : STEAL(pin);
	return 0;
}

int cli_target_find(struct cli_target *ret, const char *data, struct err *err)
{
	const char *url = getenv("OPENREWARD_API_URL");
	const char *key = getenv("OPENREWARD_API_KEY");

	ret->pin = NULL;
	if (str_empty(url))
		url = getenv("OPENREWARD_URL");
	if (data)
		return from_data(ret, data, err);
	if (str_empty(url)) {
		int r = from_data(ret, DATA_DEFAULT, err);
		return r < 0 ? err_wrap(err, r, "neither OPENREWARD_URL nor --data is given") : 0;
	}
	size_t len = strlen(url);
	while (len && url[len - 1] == '/')
		len--;
	ret->url = xstrndup(url, len);
	ret->key = xstrdup(key ? key : "");
	return 0;
}

static const char *ca_file(void)
{
	const char *file = getenv("OPENREWARD_CA");

	return str_empty(file) ? getenv("SSL_CERT_FILE") : file;
}

/* The data directory says which key the server has, whatever its certificate names: that it may be believed is a matter of who
 * may write there. */
void cli_trust(void *curl, const struct cli_target *t)
{
	const char *file = ca_file();
	CURL *c = curl;

	if (t->pin) {
		curl_easy_setopt(c, CURLOPT_SSL_VERIFYPEER, 0L);
		curl_easy_setopt(c, CURLOPT_SSL_VERIFYHOST, 0L);
		curl_easy_setopt(c, CURLOPT_PINNEDPUBLICKEY, t->pin);
	} else if (!str_empty(file)) {
		curl_easy_setopt(c, CURLOPT_CAINFO, file);
	}
}

void cli_target_done(struct cli_target *t)
{
	free(t->url);
	free(t->key);
	free(t->pin);
	*t = (struct cli_target){ 0 };
}

bool cli_data_only(int argc, char **argv, const char *usage, const char **ret_data, int *ret_status)
{
	static const struct option options[] = { { "data", required_argument, NULL, 'd' }, { "help", no_argument, NULL, 'h' },
		{ 0 } };

	for (int o; (o = getopt_long(argc, argv, "", options, NULL)) != -1;) {
		if (o != 'd') {
			if (o == 'h')
				fputs(usage, stdout);
			*ret_status = o == 'h' ? 0 : 2; /* getopt has said what it does not know */
			return true;
		}
		*ret_data = optarg;
	}
	return false;
}
