/* What image tools leave behind: the lists, layers and configuration of a store, the record that is made of them, and names.
 * The input is four files with "\n--\n" between them: images.json, layers.json, the configuration, a record. What is accepted
 * names nothing outside of the images' folder, and is the same when it was written and read again. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/str.h"
#include "image/choose.h"
#include "image/cstore.h"
#include "image/record.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define NAME "docker.io/library/n:1"
#define CONFIG_PATH "images/bases/store/overlay-images/1f/=c2hhMjU2OjFm" /* base64 of "sha256:1f" */

static char dir[64];

static void check(bool ok)
{
	if (!ok)
		abort();
}

static void remove_dir(void)
{
	static const char *const paths[] = { "images/bases/store/overlay-images/images.json", "images/bases/store/overlay-layers/layers.json",
		CONFIG_PATH, "record", "images/bases/store/overlay-images/1f",
		"images/bases/store/overlay-images", "images/bases/store/overlay-layers", "images/bases/store", "images/bases",
		"images/records/docker.io+library+n=1.json", "images/records", "images", "." };

	for (size_t i = 0; i < sizeof(paths) / sizeof(*paths); i++) {
		auto_free char *path = xasprintf("%s/%s", dir, strcmp(paths[i], ".") == 0 ? "" : paths[i]);
		(void)remove(path);
	}
}

static void make_dir(void)
{
	if (*dir)
		return;
	snprintf(dir, sizeof(dir), "%s", access("/dev/shm", W_OK) == 0 ? "/dev/shm/orw-fuzz-XXXXXX" : "/tmp/orw-fuzz-XXXXXX");
	check(mkdtemp(dir) != NULL);
	atexit(remove_dir);
	auto_free char *a = xasprintf("%s/images/bases/store/overlay-images/1f", dir), *b = xasprintf("%s/images/bases/store/overlay-layers", dir);
	check(fd_mkdirs(a, 0755, NULL) == 0 && fd_mkdirs(b, 0755, NULL) == 0);
}

static void put(const char *name, const char *p, size_t len)
{
	auto_free char *path = xasprintf("%s/%s", dir, name);
	auto_fd fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	check(fd >= 0 && fd_write_all(fd, p, len) == 0);
}

/* The next of the four, and what is behind it. */
static void put_next(const char *name, const char **p, size_t *len)
{
	const char *stop = memmem(*p, *len, "\n--\n", 4);
	size_t n = stop ? (size_t)(stop - *p) : *len;

	put(name, *p, n);
	*p += stop ? n + 4 : n;
	*len -= stop ? n + 4 : n;
}

static void check_image(const struct image *i)
{
	check(i->name && i->digest && i->workdir && i->user && i->env && i->entrypoint && i->cmd);
	check(i->n_layers > 0 && i->n_layers <= IMAGE_LAYERS_MAX);
	struct choice c = { .image = i };
	check(i->layer_bytes || image_choose_total(&c, 1) <= i->size_bytes || i->size_bytes == 0);
}

static void check_paths(const struct image *i)
{
	for (size_t k = 0; k < i->n_layers; k++)
		check(i->layers[k][0] != '/' && !strstr(i->layers[k], "..") && !strpbrk(i->layers[k], ":,\\\n"));
}

/* A record that is written is read again, or refused: a store with ids that are paths, say. */
static void write_again(const struct image *i)
{
	AUTO(image_freep) struct image *again = NULL;
	auto_free char *path = image_record_path(dir, i->name);

	if (str_eq(i->name, NAME) && image_record_write(dir, i, NULL) == 0 && image_record_read(&again, path, NULL) == 0) {
		check(again->n_layers == i->n_layers && str_eq(again->digest, i->digest));
		check_paths(again);
	}
}

static void names(const char *text)
{
	auto_free char *once = NULL, *twice = NULL;

	if (image_normalise(&once, text, NULL) < 0)
		return;
	check(image_normalise(&twice, once, NULL) == 0 && str_eq(once, twice));
	check(!strstr(once, "..") && !strpbrk(once, " \t\n'\"\\") && once[0] != '-' && once[0] != '/');
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	AUTO(image_freep) struct image *stored = NULL, *recorded = NULL;
	const char *p = (const char *)data;
	size_t len = size;

	make_dir();
	put_next("images/bases/store/overlay-images/images.json", &p, &len);
	put_next("images/bases/store/overlay-layers/layers.json", &p, &len);
	put_next(CONFIG_PATH, &p, &len);
	auto_free char *rest = xstrndup(p, len);
	put_next("record", &p, &len);
	names(rest);
	auto_free char *images = xasprintf("%s/images", dir), *record = xasprintf("%s/record", dir);
	if (cstore_read(&stored, images, CSTORE_BASES, NAME, NULL) == 0) {
		check_image(stored);
		write_again(stored);
	}
	if (image_record_read(&recorded, record, NULL) == 0) {
		check_image(recorded);
		check_paths(recorded);
		write_again(recorded);
	}
	return 0;
}
