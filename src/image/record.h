/* image/record.h: the records of images, DATA/images/records/FILE.json: what root jobs write and the daemon reads.
 *
 * A record is written aside and renamed, so a reader sees all of it or nothing. Its file name is the image's name with
 * '/' and ':' written '+' and '='; the name itself is also inside and decides. */
#pragma once

#include "base/err.h"
#include "image/image.h"

#define IMAGE_LAYERS_MAX 127 /* what a sandbox plan takes (sandbox/plan.h has the same number for the same reason) */
#define IMAGE_RECORD_MAX (1u << 20) /* bytes of one record */

/* An empty image with one count; strings are malloc'ed and may be NULL until it is complete. */
struct image *image_new(void);
DEFINE_FREEP(image, image_unref)

/* DATA/images/records/FILE.json for a normalised name; the caller frees. */
char *image_record_path(const char *data_dir, const char *name);

/* -ENOENT: no such file; -EINVAL: not a record (the message names the file and the field). */
MUST_CHECK int image_record_read(struct image **ret, const char *path, struct err *err);
/* Makes the folder if it is missing. The file is readable for everybody (0644). */
MUST_CHECK int image_record_write(const char *data_dir, const struct image *i, struct err *err);

/* Every readable record, sorted by name; broken ones are skipped. The caller unrefs each and frees the array. */
MUST_CHECK int image_record_list(const char *data_dir, struct image ***ret, size_t *ret_n, struct err *err);
struct image **image_list_free(struct image **list, size_t n); /* returns NULL */
