/* What is left of a sandbox when its last process is dead: cgroups, a tree on the disk, a range of ids. It goes in
 * batches, in a child of low priority, so that neither a tree of a million files nor a slow rmdir holds up the loop. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/time.h"
#include "spawner/spawner.h"
#include "spawner/sys.h"

#define BATCH_MAX 64
#define GATHER_MS 20   /* a child for each that has ended would take longer to make than to do its work */
#define GATHERED 32    /* as many do not wait */
#define TRIES_MAX 4
#define BUSY_TRIES 200 /* of 5 ms: a cgroup stays busy until the kernel has put its last process away */
#define NICE 10

struct grave {
	struct list link;
	uid_t first;
	bool tree;
	int tries;
	char name[];
};

static int remove_cgroup(const struct cgroups *c, const char *name)
{
	int r = cgroup_remove(c, name);

	for (int i = 0; r == -EBUSY && i < BUSY_TRIES; i++) {
		nanosleep(&(struct timespec){ .tv_nsec = 5000000 }, NULL);
		r = cgroup_remove(c, name);
	}
	return r;
}

static int dig(const struct host *h, const struct grave *g)
{
	int a = remove_cgroup(&h->cg, g->name);
	int b = g->tree ? disk_remove(&h->disk, h->sandboxes_dir, g->name) : 0;

	return a < 0 ? a : b;
}

/* The child. Its exit status is the number of graves that are not empty, at most 255. */
static NORETURN void dig_all(struct spawner *sp)
{
	int bad = 0;

	events_reset_child();
	setpriority(PRIO_PROCESS, 0, NICE);
	list_foreach(&sp->cleaner.batch, struct grave, link, g) {
		int r = dig(&sp->host, g);

		if (r < 0 && g->tries + 1 >= TRIES_MAX)
			spawner_log("cannot remove what is left of %s: %s", g->name, strerror(-r));
		bad += r < 0;
	}
	_exit(MIN(bad, 255));
}

static bool is_due(struct spawner *sp)
{
	const struct cleaner *c = &sp->cleaner;

	if (c->child.pid > 0 || c->n_queued == 0)
		return false;
	if (sp->closing_ms || c->n_queued >= GATHERED || time_now_ms() >= c->due_ms)
		return true;
	spawner_wake(sp, c->due_ms);
	return false;
}

static void enqueue(struct spawner *sp, struct grave *g)
{
	struct cleaner *c = &sp->cleaner;

	if (c->n_queued++ == 0)
		c->due_ms = time_now_ms() + GATHER_MS;
	list_push_back(&c->queue, &g->link);
}

static void start_batch(struct spawner *sp)
{
	struct sys_clone_args args = { .exit_signal = SIGCHLD };
	struct cleaner *c = &sp->cleaner;
	pid_t pid;

	if (!is_due(sp))
		return;
	for (size_t n = 0; n < BATCH_MAX && c->n_queued > 0; n++) {
		struct list *l = c->queue.next;

		list_remove(l);
		list_push_back(&c->batch, l);
		c->n_queued--;
	}
	pid = sys_clone3(&args);
	if (pid == 0)
		dig_all(sp);
	if (pid > 0)
		events_child_add(&sp->ev, &c->child, pid);
	else
		c->child.fn(c->child.arg, 255 << 8); /* as if all had failed: tried again later */
}

static void retry(struct spawner *sp, struct grave *g)
{
	list_remove(&g->link);
	if (++g->tries < TRIES_MAX) {
		enqueue(sp, g);
		return;
	}
	list_push_back(&sp->cleaner.failed, &g->link);
}

static void forget(struct spawner *sp, struct grave *g)
{
	list_remove(&g->link);
	if (g->first)
		ids_give(&sp->ids, g->first);
	free(g);
}

/* Which of a batch failed is not told; removing what is gone already costs nothing. */
static void on_cleaner_exit(void *arg, int status)
{
	struct spawner *sp = arg;
	bool good = WIFEXITED(status) && WEXITSTATUS(status) == 0;

	list_foreach(&sp->cleaner.batch, struct grave, link, g) {
		if (good)
			forget(sp, g);
		else
			retry(sp, g);
	}
	start_batch(sp);
}

void clean_init(struct spawner *sp)
{
	struct cleaner *c = &sp->cleaner;

	list_init(&c->queue);
	list_init(&c->batch);
	list_init(&c->failed);
	c->child = (struct child){ .fn = on_cleaner_exit, .arg = sp };
}

static void free_all(struct list *l)
{
	list_foreach(l, struct grave, link, g) {
		list_remove(&g->link);
		free(g);
	}
}

void clean_done(struct spawner *sp)
{
	free_all(&sp->cleaner.queue);
	free_all(&sp->cleaner.batch);
	free_all(&sp->cleaner.failed);
}

void clean_bury(struct spawner *sp, const char *name, uid_t first, bool tree)
{
	struct grave *g = calloc(1, sizeof(*g) + strlen(name) + 1);

	if (!g) {
		spawner_log("out of memory: %s is left for the next start to remove", name);
		return;
	}
	memcpy(g->name, name, strlen(name) + 1);
	g->first = first;
	g->tree = tree;
	enqueue(sp, g);
	start_batch(sp);
}

void clean_tick(struct spawner *sp)
{
	start_batch(sp);
}

static bool has(const struct list *l, const char *name)
{
	list_foreach((struct list *)l, struct grave, link, g)
		if (strcmp(g->name, name) == 0)
			return true;
	return false;
}

bool clean_has(const struct spawner *sp, const char *name)
{
	return clean_will(sp, name) || has(&sp->cleaner.failed, name);
}

bool clean_will(const struct spawner *sp, const char *name)
{
	return has(&sp->cleaner.queue, name) || has(&sp->cleaner.batch, name);
}

bool clean_idle(const struct spawner *sp)
{
	return sp->cleaner.child.pid == 0 && list_empty(&sp->cleaner.queue);
}

/* -- an earlier life --------------------------------------------------------------------------------------------- */
static void kill_and_bury(void *arg, const char *id)
{
	struct spawner *sp = arg;

	cgroup_kill(&sp->host.cg, id);
	if (!clean_has(sp, id))
		clean_bury(sp, id, 0, false);
}

int clean_reconcile(struct spawner *sp, struct err *err)
{
	int fd = openat(sp->host.sandboxes_dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *e;

	if (!d) {
		fd_close(fd);
		return err_sys(err, "read %s/sandboxes", sp->host.data);
	}
	cgroups_each(&sp->host.cg, kill_and_bury, sp);
	builds_sweep(sp);
	while ((e = readdir(d)))
		if (e->d_name[0] != '.')
			clean_bury(sp, e->d_name, 0, true);
	closedir(d);
	return 0;
}
