/* image/cstore.h: reading what buildah and skopeo leave on disk (containers/storage with the overlay driver). Root jobs
 * only: the stores are root's. Nothing here writes.
 *
 * A store is a folder STORE with overlay-images/images.json (names and top layers), overlay-layers/layers.json
 * (parents) and overlay/<layer>/diff (files). An environment's store may end in layers of the store of bases: the
 * parent chain then goes on there. */
#pragma once

#include "base/err.h"
#include "image/image.h"

#define CSTORE_BASES "bases/store" /* relative to DATA/images */

/* The image called name (normalised) in images_dir/store, completed from images_dir/bases/store where its layers end
 * there: config, digest, and layers relative to images_dir. -ENOENT: no such name in this store. */
MUST_CHECK int cstore_read(struct image **ret, const char *images_dir, const char *store, const char *name,
			   struct err *err);
/* Those of the store that have no name any more, with "" as such; what can't be read is left out. -ENOENT: there is no store.
 * Free *ret with image_list_free(). */
MUST_CHECK int cstore_nameless(struct image ***ret, size_t *ret_n, const char *images_dir, const char *store, struct err *err);
