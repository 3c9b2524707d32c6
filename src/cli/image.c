/* openreward image ...: asks the server; the work is done there. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "cli/cli.h"
#include "json/json.h"

static const char usage[] =
	"usage: openreward image ls [--data DIR]\n"
	"       openreward image pull NAME [--data DIR]\n"
	"       openreward image bootstrap [NAME] [--data DIR]     a base image from Debian packages; python:3.11-slim\n"
	"       openreward image import ARCHIVE NAME [--data DIR]  from `docker save`, or an OCI layout in a tar\n"
	"       openreward image rm NAME... [--data DIR]\n";

static char *json_of(const char *name, const char *path)
{
	auto_buf struct buf b = { 0 };
	struct json_writer w;

	buf_init(&b, BUF_UNLIMITED);
	json_write_begin(&w, &b);
	json_open_object(&w);
	if (name)
		json_kv_str(&w, "name", name);
	if (path)
		json_kv_str(&w, "path", path);
	json_close(&w);
	if (json_write_end(&w) < 0)
		abort(); /* an unlimited buffer has no way to fail */
	return buf_steal(&b, NULL);
}

static int report(struct cli_progress *p)
{
	auto_json last = NULL;
	struct err err;

	if (!p->last.len || json_read_object(&last, p->last.data, p->last.len, &err) < 0)
		return cli_fail("the connection broke before the end; the server goes on with it");
	const char *error = json_string_value(json_object_get(last, "error"));
	if (error)
		return cli_fail("%s", error);
	const char *name = json_string_value(json_object_get(json_object_get(last, "image"), "name"));
	printf("%s\n", name ? name : "done");
	return 0;
}

/* Progress goes to standard error, so that the name alone is the output. */
static int bring(const struct cli_target *t, const char *path, const char *name, const char *file)
{
	struct cli_progress p;
	auto_free char *body = json_of(name, file);
	struct cli_request rq = {
		.method = "POST", .path = path, .body = body, .body_len = strlen(body), .line = cli_progress_line, .arg = &p,
	};
	struct err err;

	cli_progress_init(&p, stderr);
	int r = cli_http(t, &rq, &err) < 0 ? cli_fail("%s", err.msg) : report(&p);
	cli_request_done(&rq);
	cli_progress_done(&p);
	return r;
}

static void print_images(json_t *list)
{
	size_t i;
	json_t *image;

	printf("%-56s %-14s %10s  %s\n", "NAME", "DIGEST", "SIZE", "CREATED");
	json_array_foreach(list, i, image) {
		const char *name = json_string_value(json_object_get(image, "name"));
		const char *digest = json_string_value(json_object_get(image, "digest"));
		const char *created = json_string_value(json_object_get(image, "created_at"));
		double mib = (double)json_integer_value(json_object_get(image, "size_bytes")) / (1 << 20);
		if (digest && str_starts(digest, "sha256:"))
			digest += strlen("sha256:");
		printf("%-56s %-14.12s %6.1f MiB  %.19s\n", name ? name : "", digest ? digest : "", mib, created ? created : "");
	}
}

static int list(const struct cli_target *t)
{
	struct cli_request rq = { .method = "GET", .path = "/v1/images" };
	auto_json body = NULL;
	struct err err;
	int r = cli_http(t, &rq, &err);

	r = r < 0 ? r : json_read_object(&body, rq.answer.data, rq.answer.len, &err);
	cli_request_done(&rq);
	if (r < 0)
		return cli_fail("%s", err.msg);
	print_images(json_object_get(body, "images"));
	return 0;
}

static int remove_one(const struct cli_target *t, const char *name)
{
	auto_buf struct buf path = { 0 };
	struct err err;

	buf_init(&path, 64 * 1024);
	if (buf_puts(&path, "/v1/images?name=") < 0 || str_percent_encode(&path, name) < 0)
		return cli_fail("the name is too long");
	struct cli_request rq = { .method = "DELETE", .path = path.data };
	int r = cli_http(t, &rq, &err);
	cli_request_done(&rq);
	return r < 0 ? cli_fail("%s: %s", name, err.msg) : 0;
}

static int import(const struct cli_target *t, int n, char **words)
{
	if (n != 2)
		return cli_misuse(usage, "image import takes an archive and a name");
	auto_free char *path = realpath(words[0], NULL);
	if (!path)
		return cli_fail("%s: %s", words[0], strerror(errno));
	return bring(t, "/v1/images/import", words[1], path);
}

static int dispatch(const struct cli_target *t, const char *what, int n, char **words)
{
	int r = 0;

	if (str_eq(what, "ls") && n == 0)
		return list(t);
	if (str_eq(what, "pull") && n == 1)
		return bring(t, "/v1/images/pull", words[0], NULL);
	if (str_eq(what, "bootstrap") && n <= 1)
		return bring(t, "/v1/images/bootstrap", n ? words[0] : NULL, NULL);
	if (str_eq(what, "import"))
		return import(t, n, words);
	if (str_eq(what, "rm") && n >= 1) {
		for (int i = 0; i < n; i++)
			r |= remove_one(t, words[i]);
		return r;
	}
	return cli_misuse(usage, "\"image %s\" with %d argument%s is not something to do", what, n, n == 1 ? "" : "s");
}

int cli_image(int argc, char **argv)
{
	const char *data = NULL;
	struct cli_target t = { 0 };
	struct err err;
	int status;

	if (cli_data_only(argc, argv, usage, &data, &status))
		return status;
	if (optind >= argc)
		return cli_misuse(usage, "image: what is to be done?");
	if (cli_target_find(&t, data, &err) < 0)
		return cli_fail("%s", err.msg);
	int r = dispatch(&t, argv[optind], argc - optind - 1, argv + optind + 1);
	cli_target_done(&t);
	return r;
}
