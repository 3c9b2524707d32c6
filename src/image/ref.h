/* image/ref.h: names of images. Pure functions.
 *
 * A normalised name is HOST/PATH:TAG or HOST/PATH@sha256:HEX, at most IMAGE_NAME_MAX bytes, in lower case but for the
 * tag (image_normalise in image/image.h makes it). Everything that names files or goes to buildah is one of these, so
 * it holds no blank, no quote, no leading '-' and no "..". */
#pragma once

#include <stdbool.h>

#include "base/err.h"

#define IMAGE_NAME_MAX 230 /* bytes; a record's file name adds 5 and must fit NAME_MAX */

/* The name of an environment's image: localhost/env/OWNER/NAME:DEPLOYMENT. Owner and name may hold what a repository
 * name may not (upper case): such a part is made lower case and gets a hash of the original, so that no two collide.
 * -EINVAL unless all three are str_is_name. The caller frees *ret. */
MUST_CHECK int image_of_build(char **ret, const char *owner, const char *name, const char *deployment, struct err *err);

/* The folder of an environment's store, relative to DATA/images: "env/OWNER/NAME", parts written as above. */
MUST_CHECK int image_env_dir(char **ret, const char *owner, const char *name, struct err *err);

/* The same folder for an image name made by image_of_build; false when the name is not an environment's. */
bool image_name_env_dir(const char *name, char **ret);
