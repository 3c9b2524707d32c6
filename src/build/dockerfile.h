/* build/dockerfile.h: the little that must be known of a Dockerfile before buildah sees it: which images its FROM and
 * COPY --from lines name. Pure; the text is foreign and may be anything. */
#pragma once

#include "base/err.h"

/* The images that a Dockerfile names: FROM without scratch and without earlier stages, COPY --from of other images.
 * Names with variables are expanded from ARG lines before the first FROM, and left out where that is not enough.
 * Returns pairs, in order, without duplicates: the name as written ("$BASE"), then expanded ("python:3.11-slim").
 * NULL-terminated; the caller frees with strv_free. */
char **dockerfile_images(const char *text);
