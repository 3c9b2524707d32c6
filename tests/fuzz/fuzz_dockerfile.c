/* A Dockerfile from anywhere: whatever it says, the images that it names come in pairs, none twice, none of several lines. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/strv.h"
#include "build/dockerfile.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	auto_free char *text = xstrndup((const char *)data, size);
	char **images = dockerfile_images(text);

	for (char **i = images; i[0]; i += 2) {
		if (!i[1] || !*i[0] || strchr(i[0], '\n') || strchr(i[1], '\n'))
			abort();
		for (char **o = images; o < i; o += 2)
			if (strcmp(o[0], i[0]) == 0 && strcmp(o[1], i[1]) == 0)
				abort();
	}
	strv_free(images);
	return 0;
}
