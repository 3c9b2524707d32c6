#include "base/logline.h"

#include <stdio.h>
#include <string.h>

char *logline_head(const char *tag, char ret[LOGLINE_HEAD_LEN + 1])
{
	char now[TIME_ISO_LEN];

	snprintf(ret, LOGLINE_HEAD_LEN + 1, "%s %-*.*s ", time_iso(time_wall_ms(), now), LOGLINE_TAG_LEN, LOGLINE_TAG_LEN, tag);
	return ret;
}

bool logline_is_stamped(const char *line, size_t len)
{
	return len >= TIME_ISO_LEN && line[4] == '-' && line[10] == 'T' && line[TIME_ISO_LEN - 2] == 'Z' &&
	       line[TIME_ISO_LEN - 1] == ' ';
}

size_t logline_skip(const char *line, size_t len)
{
	static const char digits[] = "0123456789abcdef";
	const char *tag = line + TIME_ISO_LEN;

	if (!logline_is_stamped(line, len))
		return 0;
	if (len < LOGLINE_HEAD_LEN || tag[LOGLINE_TAG_LEN] != ' ')
		return TIME_ISO_LEN;
	for (size_t i = 0; i < LOGLINE_TAG_LEN; i++)
		if (!memchr(digits, tag[i], sizeof(digits) - 1))
			return TIME_ISO_LEN;
	return LOGLINE_HEAD_LEN;
}
