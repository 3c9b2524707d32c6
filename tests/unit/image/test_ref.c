#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "base/mem.h"
#include "image/image.h"
#include "image/ref.h"

TestSuite(ref, .timeout = 10);

static void gives(const char *ref, const char *expected)
{
	struct err err = ERR_INIT;
	auto_free char *name = NULL;

	cr_assert_eq(image_normalise(&name, ref, &err), 0, "%s: %s", ref, err.msg);
	cr_assert_str_eq(name, expected);
	/* What is normal stays as it is. */
	auto_free char *again = NULL;
	cr_assert_eq(image_normalise(&again, name, &err), 0, "%s: %s", name, err.msg);
	cr_assert_str_eq(again, expected);
}

#define HEX "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

Test(ref, short_names_are_docker_hub)
{
	gives("python:3.11-slim", "docker.io/library/python:3.11-slim");
	gives("alpine", "docker.io/library/alpine:latest");
	gives("me/tool", "docker.io/me/tool:latest");
	gives("index.docker.io/library/x:1", "docker.io/library/x:1");
	gives("docker.io/x", "docker.io/library/x:latest");
}

Test(ref, hosts_ports_and_digests_are_kept)
{
	gives("localhost/env/a/b:c", "localhost/env/a/b:c");
	gives("localhost:5000/x", "localhost:5000/x:latest");
	gives("ghcr.io/a/b/c:V1.2", "ghcr.io/a/b/c:V1.2");
	gives("x@sha256:" HEX, "docker.io/library/x@sha256:" HEX);
	gives("x:1@sha256:" HEX, "docker.io/library/x@sha256:" HEX);
	gives("a__b/c-d--e.f", "docker.io/a__b/c-d--e.f:latest");
}

static const char *const bad[] = {
	"",         " ",      "UPPER",       "a b",           "-x",         "x:",   "x:-t",  "a//b", "/a", "a/",
	"a/../b",   "../x",   "x@sha256:12", "x@md5:" HEX,    "a:b:c",      "a..b", "a___b", "_a",   "a_", "x:a..b",
	"ho$t.x/a", "--help", "a\nb",        "localhost:x/a", "http://x/y",
};

Test(ref, what_is_no_name_is_refused_with_its_text)
{
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct err err = ERR_INIT;
		char *name = NULL;
		cr_assert_eq(image_normalise(&name, bad[i], &err), -EINVAL, "\"%s\" became %s", bad[i], name);
		cr_assert_null(name);
		cr_assert(strstr(err.msg, bad[i]), "%s", err.msg);
	}
	char longer[300];
	memset(longer, 'a', sizeof(longer) - 1);
	longer[299] = 0;
	char *name = NULL;
	cr_assert_eq(image_normalise(&name, longer, NULL), -EINVAL);
}

Test(ref, environments_never_collide)
{
	auto_free char *a = NULL, *b = NULL, *c = NULL;
	auto_free char *again = NULL;

	cr_assert_eq(image_of_build(&a, "alice", "hello", "d1", NULL), 0);
	cr_assert_str_eq(a, "localhost/env/alice/hello:d1");
	cr_assert_eq(image_of_build(&b, "alice", "Hello", "d1", NULL), 0);
	cr_assert_eq(image_of_build(&c, "alice", "heLLo", "d1", NULL), 0);
	cr_assert_str_neq(a, b);
	cr_assert_str_neq(b, c);
	cr_assert_eq(image_normalise(&again, b, NULL), 0);
	cr_assert_str_eq(again, b);
}

Test(ref, parts_of_paths_are_checked)
{
	char *s = NULL;

	cr_assert_eq(image_of_build(&s, "a/b", "c", "d", NULL), -EINVAL);
	cr_assert_eq(image_of_build(&s, "..", "c", "d", NULL), -EINVAL);
	cr_assert_eq(image_of_build(&s, "a", "c", "../d", NULL), -EINVAL);
	cr_assert_eq(image_env_dir(&s, "", "c", NULL), -EINVAL);
	cr_assert_null(s);
}

Test(ref, a_store_is_found_from_its_image)
{
	char *dir = NULL;

	cr_assert(image_name_env_dir("localhost/env/a/b:c", &dir));
	cr_assert_str_eq(dir, "env/a/b");
	free(dir);
	cr_assert_not(image_name_env_dir("docker.io/library/x:1", &dir));
}
