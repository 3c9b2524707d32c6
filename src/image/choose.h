/* image/choose.h: which images go when all of them together are too large. A pure function of what is here. */
#pragma once

#include <stdbool.h>

#include "image/image.h"

struct choice {
	const struct image *image; /* borrowed */
	int64_t used_ms;           /* when it was last used: the longest ago goes first */
	bool kept;                 /* it stays, whatever else */
	bool goes;                 /* out */
	uint64_t frees_bytes;      /* out: of layers that nothing else has, once all before it in the order are gone */
};

/* Bytes of the layers of all, those counted once that several have. */
uint64_t image_choose_total(const struct choice *list, size_t n);

/* Marks what is to go so that the rest takes at most budget bytes, as little as the order of use allows, and writes the
 * places in the list in the order of going to order (room for n). Names of one image (the same digest) go together or not
 * at all, and nothing goes on which an image that stays lies: a build that adds no files lies on its base.
 * Returns how many go; that may be too few. *ret_left: bytes of what stays. */
size_t image_choose(struct choice *list, size_t n, uint64_t budget, size_t *order, uint64_t *ret_left);
