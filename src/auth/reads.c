/* What a read-only key may send. Whatever is not listed here is a change: a new call is refused until it is. */
#include <string.h>

#include "auth/auth.h"
#include "base/str.h"

/* POST, and only looks: a path, or the end of one behind anything. */
static const struct {
	const char *path;
	bool is_end;
} reads[] = {
	{ "/create_session", false }, { "/ping", false },      { "/delete", false },    { "/delete_session", false },
	{ "/stat_file", false },      { "/read_file", false },  { "/tasks", true },       { "/num_tasks", true },
	{ "/task", true },            { "/task_range", true },  { "/git-upload-pack", true },
};

static bool is_wait(const char *path)
{
	return str_starts(path, "/v1/sandboxes/") && str_ends(path, "/wait");
}

/* The ends are those of a session's calls, "/tasks" and "/ENVIRONMENT/tasks", and of git's. */
static bool is_read(const char *path, size_t i)
{
	if (!reads[i].is_end)
		return str_eq(path, reads[i].path);
	if (!str_ends(path, reads[i].path) || str_starts(path, "/v1/"))
		return false;
	return str_starts(path, "/git/") == str_eq(reads[i].path, "/git-upload-pack");
}

bool auth_reads_only(const char *method, const char *path)
{
	if (str_eq(method, "GET") || str_eq(method, "HEAD"))
		return true;
	if (!str_eq(method, "POST"))
		return false;
	for (size_t i = 0; i < ARRAY_LEN(reads); i++)
		if (is_read(path, i))
			return true;
	return is_wait(path);
}
