/* Numbers with units: what configuration, settings and requests write for times, sizes and machines. */
#include <errno.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"

struct unit {
	const char *suffix;
	uint64_t factor;
};

/* Digits and one of the units; a bare 0 needs none. */
static int parse_unit(const char *s, const struct unit *units, size_t n, uint64_t *ret)
{
	size_t digits = strspn(s, "0123456789");
	auto_free char *number = xstrndup(s, digits);
	uint64_t v;
	int r = str_to_u64(number, &v);

	if (r < 0)
		return -EINVAL;
	if (v == 0 && s[digits] == '\0') {
		*ret = 0;
		return 0;
	}
	for (size_t i = 0; i < n; i++) {
		if (!str_eq(s + digits, units[i].suffix))
			continue;
		return __builtin_mul_overflow(v, units[i].factor, ret) ? -ERANGE : 0;
	}
	return -EINVAL;
}

int str_to_duration(const char *s, uint64_t *ret_ms)
{
	static const struct unit units[] = { { "ms", 1 }, { "s", 1000 }, { "m", 60000 }, { "h", 3600000 }, { "d", 86400000 } };

	return parse_unit(s, units, ARRAY_LEN(units), ret_ms);
}

int str_to_bytes(const char *s, uint64_t *ret_bytes)
{
	static const struct unit units[] = {
		{ "", 1 }, { "KiB", 1ull << 10 }, { "MiB", 1ull << 20 }, { "GiB", 1ull << 30 }, { "TiB", 1ull << 40 },
	};

	return parse_unit(s, units, ARRAY_LEN(units), ret_bytes);
}

int str_to_machine(const char *s, uint64_t *ret_cpu_milli, uint64_t *ret_memory_bytes)
{
	size_t len = strcspn(s, ":");
	auto_free char *left = xstrndup(s, len);
	double cpu, gib;

	if (s[len] != ':' || str_to_double(left, &cpu) < 0 || str_to_double(s + len + 1, &gib) < 0)
		return -EINVAL;
	if (cpu < 0.01 || cpu > 4096 || gib < 0.05 || gib > 65536)
		return -EINVAL;
	*ret_cpu_milli = (uint64_t)(cpu * 1000 + 0.5);
	*ret_memory_bytes = (uint64_t)(gib * (double)(1ull << 30) + 0.5);
	return 0;
}
