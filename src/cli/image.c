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
	"usage: openreward image ls [--json] [--data DIR]      --json: one object a line\n"
	"       openreward image pull NAME [--data DIR]\n"
	"       openreward image bootstrap [NAME] [--data DIR]     a base image from Debian packages; python:3.11-slim\n"
	"       openreward image import ARCHIVE NAME [--data DIR]  from `docker save`, or an OCI layout in a tar\n"
	"       openreward image rm NAME... [--data DIR]\n"
	"       openreward image gc [SIZE] [--data DIR]            down to SIZE (10GiB; 0 = all that nobody needs); images.budget\n";

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

static double mib(json_t *obj, const char *key)
{
	return (double)json_integer_value(json_object_get(obj, key)) / (1 << 20);
}

static void print_image(json_t *image)
{
	const char *name = json_string_value(json_object_get(image, "name"));
	const char *digest = json_string_value(json_object_get(image, "digest"));
	const char *created = json_string_value(json_object_get(image, "created_at"));
	const char *used = json_string_value(json_object_get(image, "last_used_at"));
	bool busy = json_is_true(json_object_get(image, "in_use"));

	if (digest && str_starts(digest, "sha256:"))
		digest += strlen("sha256:");
	printf("%-56s %-12.12s %8.1f MiB %6lld  %-19.19s  %.19s\n", name ? name : "", digest ? digest : "",
	       mib(image, "size_bytes"),
	       (long long)json_integer_value(json_object_get(image, "layers")), busy ? "now" : used ? used : "",
	       created ? created : "");
}

static void print_images(json_t *answer)
{
	size_t i;
	json_t *image;

	printf("%-56s %-12s %12s %6s  %-19s  %s\n", "NAME", "DIGEST", "SIZE", "LAYERS", "LAST USED", "CREATED");
	json_array_foreach(json_object_get(answer, "images"), i, image) {
		print_image(image);
	}
	printf("%.1f MiB in all, what several share counted once", mib(answer, "total_bytes"));
	if (json_integer_value(json_object_get(answer, "budget_bytes")))
		printf("; images.budget is %.1f MiB", mib(answer, "budget_bytes"));
	printf("\n");
}

static int list(const struct cli_target *t, bool json)
{
	auto_json body = NULL;
	struct err err;

	if (cli_ask(t, "GET", "/v1/images", NULL, &body, &err) < 0)
		return cli_fail("%s", err.msg);
	if (json)
		cli_print_rows(json_object_get(body, "images"), NULL, 0, true, false);
	else
		print_images(body);
	return 0;
}

static int report_gc(struct cli_progress *p)
{
	auto_json last = NULL;
	struct err err;

	if (!p->last.len || json_read_object(&last, p->last.data, p->last.len, &err) < 0)
		return cli_fail("the connection broke before the end; the server goes on with it");
	printf("%lld removed, %.1f MiB freed, %.1f MiB left\n", (long long)json_integer_value(json_object_get(last, "removed")),
	       mib(last, "freed_bytes"), mib(last, "left_bytes"));
	const char *error = json_string_value(json_object_get(last, "error"));
	return error ? cli_fail("%s", error) : 0;
}

static int collect(const struct cli_target *t, const char *size)
{
	struct cli_progress p;
	uint64_t bytes = 0;
	struct err err;

	if (size && (str_to_bytes(size, &bytes) < 0 || bytes > INT64_MAX))
		return cli_fail("\"%s\": expected a size, as 500MiB or 10GiB, or 0", size);
	auto_free char *body = size ? xasprintf("{\"budget_bytes\":%llu}", (unsigned long long)bytes) : xstrdup("{}");
	struct cli_request rq = {
		.method = "POST", .path = "/v1/images/gc", .body = body, .body_len = strlen(body), .line = cli_progress_line,
		.arg = &p,
	};
	cli_progress_init(&p, stdout);
	int r = cli_http(t, &rq, &err) < 0 ? cli_fail("%s", err.msg) : report_gc(&p);
	cli_request_done(&rq);
	cli_progress_done(&p);
	return r;
}

static int remove_one(const struct cli_target *t, const char *name)
{
	auto_free char *path = cli_path("/v1/images?name=", name);
	struct cli_request rq = { .method = "DELETE", .path = path };
	struct err err;
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

static int dispatch(const struct cli_target *t, const char *what, int n, char **words, bool json)
{
	int r = 0;

	if (json && !str_eq(what, "ls"))
		return cli_misuse(usage, "--json is for \"image ls\"");
	if (str_eq(what, "ls") && n == 0)
		return list(t, json);
	if (str_eq(what, "gc") && n <= 1)
		return collect(t, n ? words[0] : NULL);
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

/* Takes --json out of the words, wherever it stands before "--". */
static bool take_json(int *argc, char **argv)
{
	for (int i = 1; i < *argc && !str_eq(argv[i], "--"); i++) {
		if (!str_eq(argv[i], "--json"))
			continue;
		memmove(argv + i, argv + i + 1, (size_t)(*argc - i) * sizeof(*argv));
		--*argc;
		return true;
	}
	return false;
}

int cli_image(int argc, char **argv)
{
	const char *data = NULL;
	struct cli_target t = { 0 };
	struct err err;
	bool json = take_json(&argc, argv);
	int status;

	if (cli_data_only(argc, argv, usage, &data, &status))
		return status;
	if (optind >= argc)
		return cli_misuse(usage, "image: what is to be done?");
	if (cli_target_find(&t, data, &err) < 0)
		return cli_fail("%s", err.msg);
	int r = dispatch(&t, argv[optind], argc - optind - 1, argv + optind + 1, json);
	cli_target_done(&t);
	return r;
}
