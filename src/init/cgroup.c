#include "init/cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/fd.h"
#include "init/boot.h"
#include "init/init.h"

#define LINGER_CHECK_US 500000
#define SMALL_FILE 4096
#define LIMIT_SLACK_BYTES (1u << 20)
#define HIT_US 5000000 /* from a hit of the limit to its kill, before which the kernel logs all processes, a sandbox at a time */

static bool is_cgroup2(int fd)
{
	struct statfs s;

	return fstatfs(fd, &s) == 0 && (unsigned long)s.f_type == CGROUP2_SUPER_MAGIC;
}

static int open_first(int dir, const char *a, const char *b)
{
	int fd = openat(dir, a, O_RDONLY | O_CLOEXEC);

	return fd < 0 && b ? openat(dir, b, O_RDONLY | O_CLOEXEC) : fd;
}

void groups_open(struct init *in)
{
	struct groups *gs = &in->groups;

	*gs = (struct groups){ .usable = is_cgroup2(BOOT_FD_CGROUP) };
	list_init(&gs->lingering);
	gs->oom_fd = open_first(BOOT_FD_STATS, "memory.events", "memory.oom_control");
	gs->pids_fd = open_first(BOOT_FD_PIDS, "pids.events", NULL);
	gs->processes_fd = open_first(BOOT_FD_PIDS, "pids.current", NULL);
}

/* A file from its start; "" when it can't be read. */
static const char *read_small(int fd, char text[SMALL_FILE])
{
	ssize_t n = fd < 0 ? -1 : pread(fd, text, SMALL_FILE - 1, 0);

	if (n <= 0)
		return "";
	text[n] = '\0';
	return text;
}

/* The number behind "KEY " in a text of such lines; 0 when absent. */
static uint64_t value_of(const char *text, const char *key)
{
	size_t len = strlen(key);

	for (const char *line = text, *end; line; line = end ? end + 1 : NULL) {
		if (!strncmp(line, key, len) && line[len] == ' ')
			return strtoull(line + len, NULL, 10);
		end = strchr(line, '\n');
	}
	return 0;
}

static uint64_t keyed(int fd, const char *key)
{
	char text[SMALL_FILE];

	return value_of(read_small(fd, text), key);
}

static void see_hits(struct groups *gs, uint64_t hits, uint64_t now_us)
{
	if (now_us >= gs->hits_us + HIT_US)
		gs->hits_before = gs->hits;
	if (hits != gs->hits)
		gs->hits_us = now_us;
	gs->hits = hits;
}

struct counters groups_counters(struct init *in, uint64_t now_us)
{
	char text[SMALL_FILE];
	const char *oom = read_small(in->groups.oom_fd, text);
	struct counters c = {
		.oom_kills = value_of(oom, "oom_kill"),
		.limit_hits = value_of(oom, "oom"),
		.pids_hits = keyed(in->groups.pids_fd, "max"),
	};

	see_hits(&in->groups, c.limit_hits, now_us);
	return c;
}

struct counters groups_begin(struct init *in, uint64_t now_us)
{
	struct counters c = groups_counters(in, now_us);

	c.limit_hits = in->groups.hits_before;
	return c;
}

bool groups_alone(const struct init *in)
{
	char text[SMALL_FILE];

	return strcmp(read_small(in->groups.processes_fd, text), "1\n") == 0;
}

uint64_t group_read_u64(int dir, const char *name, uint64_t fallback)
{
	uint64_t v;

	return fd_read_u64(dir, name, &v) < 0 ? fallback : v;
}

/* v1 has no count of it (its failcnt stays 0 on some kernels): only whether the limit was ever reached. What the counters
 * of each processor hold is not in the peak. */
static bool was_at_limit(void)
{
	uint64_t limit = group_read_u64(BOOT_FD_STATS, "memory.limit_in_bytes", 0);
	uint64_t peak = group_read_u64(BOOT_FD_STATS, "memory.max_usage_in_bytes", 0);

	return limit && peak + LIMIT_SLACK_BYTES >= limit;
}

struct counters groups_counted(const struct counters *from, const struct counters *to)
{
	struct counters c = {
		.oom_kills = to->oom_kills - from->oom_kills,
		.limit_hits = to->limit_hits - from->limit_hits,
		.pids_hits = to->pids_hits - from->pids_hits,
	};

	if (c.oom_kills && !c.limit_hits)
		c.limit_hits = was_at_limit();
	return c;
}

static void group_name(char ret[32], unsigned number)
{
	snprintf(ret, 32, "run-%u", number);
}

static int group_make(struct init *in, struct group **ret)
{
	auto_free struct group *g = calloc(1, sizeof(*g));
	char name[32];

	if (!g)
		return -ENOMEM;
	g->cpu_fd = g->events_fd = -1;
	g->number = ++in->groups.last;
	group_name(name, g->number);
	if (mkdirat(BOOT_FD_CGROUP, name, 0755) < 0)
		return -errno;
	g->fd = openat(BOOT_FD_CGROUP, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (g->fd < 0) {
		int r = -errno;

		(void)unlinkat(BOOT_FD_CGROUP, name, AT_REMOVEDIR);
		return r;
	}
	list_init(&g->link);
	*ret = STEAL(g);
	return 0;
}

static uint64_t usage_us(const struct group *g)
{
	auto_fd fd = g->cpu_fd < 0 ? openat(g->fd, "cpu.stat", O_RDONLY | O_CLOEXEC) : -1;

	return keyed(g->cpu_fd < 0 ? fd : g->cpu_fd, "usage_usec");
}

static void group_free(struct group *g)
{
	fd_close(g->cpu_fd);
	fd_close(g->events_fd);
	fd_close(g->fd);
	free(g);
}

uint64_t groups_cpu_us(const struct init *in)
{
	auto_fd fd = in->groups.usable ? openat(BOOT_FD_CGROUP, "cpu.stat", O_RDONLY | O_CLOEXEC) : -1;

	return keyed(fd, "usage_usec");
}

static void keep_spare(struct init *in, struct group *g)
{
	if (g->cpu_fd < 0)
		g->cpu_fd = openat(g->fd, "cpu.stat", O_RDONLY | O_CLOEXEC);
	if (g->events_fd < 0)
		g->events_fd = openat(g->fd, "cgroup.events", O_RDONLY | O_CLOEXEC);
	g->cpu_base_us = usage_us(g);
	in->groups.spare = g;
}

int group_take(struct init *in, struct group **ret)
{
	*ret = NULL;
	if (!in->groups.usable)
		return 0;
	if (!in->groups.spare)
		return group_make(in, ret);
	*ret = STEAL(in->groups.spare);
	return 0;
}

void groups_prepare(struct init *in)
{
	struct group *g;

	if (group_take(in, &g) == 0)
		group_put(in, g);
}

bool group_populated(const struct group *g)
{
	auto_fd fd = g->events_fd < 0 ? openat(g->fd, "cgroup.events", O_RDONLY | O_CLOEXEC) : -1;

	return keyed(g->events_fd < 0 ? fd : g->events_fd, "populated") != 0;
}

/* An empty group: kept as the spare, or removed. -EBUSY when it is not empty after all. */
static int retire(struct init *in, struct group *g)
{
	char name[32];

	list_remove(&g->link);
	if (!in->groups.spare && !g->killed) {
		keep_spare(in, g);
		return 0;
	}
	group_name(name, g->number);
	if (unlinkat(BOOT_FD_CGROUP, name, AT_REMOVEDIR) < 0 && errno == EBUSY)
		return -EBUSY;
	group_free(g);
	return 0;
}

bool group_put_empty(struct init *in, struct group *g)
{
	return g && !group_populated(g) && retire(in, g) == 0;
}

void group_put(struct init *in, struct group *g)
{
	if (g && !group_put_empty(in, g))
		list_push_back(&in->groups.lingering, &g->link);
}

int group_kill(struct group *g)
{
	auto_fd fd = openat(g->fd, "cgroup.kill", O_WRONLY | O_CLOEXEC);

	if (fd < 0)
		return errno == ENOENT ? group_signal(g, SIGKILL) : -errno;
	g->killed = true;
	return write(fd, "1", 1) == 1 ? 0 : -errno;
}

bool groups_dying(const struct init *in)
{
	for (const struct list *l = in->groups.lingering.next; l != &in->groups.lingering; l = l->next) {
		const struct group *g = container_of(l, const struct group, link);

		if (g->killed && group_populated(g))
			return true;
	}
	return false;
}

int group_signal(const struct group *g, int sig)
{
	auto_fd fd = openat(g->fd, "cgroup.procs", O_RDONLY | O_CLOEXEC);
	char text[SMALL_FILE];
	long pid = 0;
	ssize_t n;

	if (fd < 0)
		return -errno;
	while ((n = read(fd, text, sizeof(text))) > 0) {
		for (ssize_t i = 0; i < n; i++) {
			if (text[i] >= '0' && text[i] <= '9') {
				pid = pid * 10 + (text[i] - '0');
				continue;
			}
			if (pid > 1)
				(void)kill((pid_t)pid, sig);
			pid = 0;
		}
	}
	return n < 0 ? -errno : 0;
}

uint64_t group_cpu_us(const struct group *g)
{
	uint64_t now = usage_us(g);

	return now > g->cpu_base_us ? now - g->cpu_base_us : 0;
}

void groups_touch(struct init *in, uint64_t now_us)
{
	if (!list_empty(&in->groups.lingering) && !in->groups.check_us)
		in->groups.check_us = now_us + LINGER_CHECK_US;
}

uint64_t groups_next_us(const struct init *in)
{
	return in->groups.check_us ? in->groups.check_us : UINT64_MAX;
}

void groups_tick(struct init *in, uint64_t now_us)
{
	if (!in->groups.check_us || now_us < in->groups.check_us)
		return;
	in->groups.check_us = 0;
	list_foreach(&in->groups.lingering, struct group, link, g)
		if (!group_populated(g) && retire(in, g) < 0)
			list_push_back(&in->groups.lingering, &g->link);
}
