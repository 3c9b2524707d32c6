#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/str.h"
#include "image/cstore.h"
#include "image/record.h"
#include "unit/image/tmpdir.h"

static char dir[] = "/tmp/orw-record-XXXXXX";

static void begin(void)
{
	tmpdir_make(dir);
}

static void end(void)
{
	tmpdir_remove(dir);
}

TestSuite(record, .init = begin, .fini = end, .timeout = 10);

static void put(const char *rel, const char *text)
{
	auto_free char *path = xasprintf("%s/%s", dir, rel);
	auto_free char *parent = xstrndup(path, (size_t)(strrchr(path, '/') - path));
	struct err err = ERR_INIT;

	cr_assert_eq(fd_mkdirs(parent, 0755, &err), 0, "%s", err.msg);
	cr_assert_eq(fd_write_file(path, text, strlen(text), 0644, &err), 0, "%s", err.msg);
}

#define TOP "ab12"
#define MID "cd34"
#define LOW "ef56"
#define ID "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

/* An environment's store whose image ends in a layer of the store of bases. */
static void make_stores(void)
{
	auto_buf struct buf key;

	buf_init(&key, 1024);
	cr_assert_eq(str_base64_append(&key, "sha256:" ID, 71), 0);
	auto_free char *config = xasprintf("images/env/a/b/store/overlay-images/" ID "/=%s", key.data);
	put("images/env/a/b/store/overlay-images/images.json",
	    "[{\"id\":\"" ID "\",\"names\":[\"localhost/env/a/b:1\"],\"layer\":\"" TOP "\"}]");
	put("images/env/a/b/store/overlay-layers/layers.json",
	    "[{\"id\":\"" MID "\",\"parent\":\"" LOW "\",\"diff-size\":20},{\"id\":\"" TOP "\",\"parent\":\"" MID
	    "\",\"diff-size\":1}]");
	put("images/bases/store/overlay-layers/layers.json", "[{\"id\":\"" LOW "\",\"diff-size\":300}]");
	put(config, "{\"created\":\"2025-01-01T00:00:00.5Z\",\"config\":{\"Env\":[\"A=1\",\"B=2\"],\"Cmd\":[\"x\"],"
		    "\"User\":\"joe\","
		    "\"WorkingDir\":\"/srv\"}}");
}

static struct image *read_it(void)
{
	auto_free char *images = xasprintf("%s/images", dir);
	struct err err = ERR_INIT;
	struct image *i = NULL;

	cr_assert_eq(cstore_read(&i, images, "env/a/b/store", "localhost/env/a/b:1", &err), 0, "%s", err.msg);
	return i;
}

Test(record, layers_go_on_in_the_store_of_bases)
{
	make_stores();
	AUTO(image_freep) struct image *i = read_it();
	cr_assert_eq(i->n_layers, 3);
	cr_assert_str_eq(i->layers[0], "env/a/b/store/overlay/" TOP "/diff");
	cr_assert_str_eq(i->layers[1], "env/a/b/store/overlay/" MID "/diff");
	cr_assert_str_eq(i->layers[2], "bases/store/overlay/" LOW "/diff");
	cr_assert_eq(i->size_bytes, 321);
	cr_assert_eq(i->created_ms, 1735689600000);
	cr_assert_str_eq(i->user, "joe");
	cr_assert_str_eq(i->workdir, "/srv");
	cr_assert_str_eq(i->env[1], "B=2");
	cr_assert_null(i->env[2]);
	cr_assert_null(i->entrypoint[0]);
}

Test(record, a_missing_name_or_layer_is_told)
{
	auto_free char *images = xasprintf("%s/images", dir);
	struct err err = ERR_INIT;
	struct image *i = NULL;

	make_stores();
	cr_assert_eq(cstore_read(&i, images, "env/a/b/store", "localhost/env/a/b:2", &err), -ENOENT);
	put("images/bases/store/overlay-layers/layers.json", "[]");
	cr_assert_eq(cstore_read(&i, images, "env/a/b/store", "localhost/env/a/b:1", &err), -EIO);
	cr_assert(strstr(err.msg, LOW), "%s", err.msg);
	cr_assert_null(i);
}

Test(record, what_is_written_is_read)
{
	struct err err = ERR_INIT;

	make_stores();
	AUTO(image_freep) struct image *i = read_it(), *again = NULL;
	cr_assert_eq(image_record_write(dir, i, &err), 0, "%s", err.msg);
	auto_free char *path = image_record_path(dir, i->name);
	cr_assert(str_ends(path, "/images/records/localhost+env+a+b=1.json"), "%s", path);
	struct stat st;
	cr_assert_eq(stat(path, &st), 0);
	cr_assert_eq(st.st_mode & 0777, 0644);
	cr_assert_eq(image_record_read(&again, path, &err), 0, "%s", err.msg);
	cr_assert_str_eq(again->name, i->name);
	cr_assert_str_eq(again->digest, "sha256:" ID);
	cr_assert_eq(again->n_layers, 3);
	cr_assert_str_eq(again->layers[2], i->layers[2]);
	cr_assert_eq(again->layer_bytes[2], 300);
	cr_assert_str_eq(again->cmd[0], "x");
	cr_assert_eq(again->size_bytes, 321);
}

static void refused(const char *text, const char *word)
{
	struct err err = ERR_INIT;
	struct image *i = NULL;
	auto_free char *path = xasprintf("%s/images/records/x.json", dir);

	put("images/records/x.json", text);
	cr_assert_eq(image_record_read(&i, path, &err), -EINVAL, "%s was read", text);
	cr_assert(strstr(err.msg, word), "%s does not name %s", err.msg, word);
	cr_assert_null(i);
}

Test(record, broken_ones_are_refused)
{
	refused("{", "x.json");
	refused("[]", "x.json");
	refused("{\"digest\":\"d\",\"layers\":[\"a\"]}", "name");
	refused("{\"name\":\"n\",\"digest\":\"d\",\"layers\":[]}", "layers");
	refused("{\"name\":\"n\",\"digest\":\"d\",\"layers\":[1]}", "layers");
	refused("{\"name\":\"n\",\"digest\":\"d\",\"layers\":[\"/etc\"]}", "/etc");
	refused("{\"name\":\"n\",\"digest\":\"d\",\"layers\":[\"a/../../etc\"]}", "..");
	refused("{\"name\":\"n\",\"digest\":\"d\",\"layers\":[\"a:b\"]}", "a:b");
	refused("{\"name\":\"n\",\"digest\":\"d\",\"layers\":[\"a\"],\"env\":\"x\"}", "env");
}

Test(record, the_list_is_sorted_and_skips_broken_ones)
{
	struct image **list = NULL;
	struct err err = ERR_INIT;
	size_t n = 7;

	cr_assert_eq(image_record_list(dir, &list, &n, &err), 0);
	cr_assert_eq(n, 0, "no folder is an empty list");
	put("images/records/b.json", "{\"name\":\"b\",\"digest\":\"d\",\"layers\":[\"x\"]}");
	put("images/records/a.json", "{\"name\":\"a\",\"digest\":\"d\",\"layers\":[\"x\"]}");
	put("images/records/c.json", "{");
	put("images/records/d.tmp", "{}");
	cr_assert_eq(image_record_list(dir, &list, &n, &err), 0, "%s", err.msg);
	cr_assert_eq(n, 2);
	cr_assert_str_eq(list[0]->name, "a");
	cr_assert_str_eq(list[1]->name, "b");
	image_list_free(list, n);
}
