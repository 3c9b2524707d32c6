/* json/private.h: between the files of this folder. */
#pragma once

#include <stddef.h>

#define JSON_DEPTH_MAX 64 /* of nested objects and arrays */

/* Where byte `position` of the text p lies, as "events[3].content"; "" = at its top. Cut at size; names that are no short
 * ASCII end it. p may be broken from position on, and must not be nested deeper than JSON_DEPTH_MAX. */
void json_where(const char *p, size_t position, char *ret, size_t size);
