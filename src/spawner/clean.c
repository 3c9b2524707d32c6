/* What is left of a sandbox when its last process is dead: cgroups, a tree on the disk, a range of ids. It goes in
 * batches, in a child of low priority, so that neither a tree of a million files nor a slow rmdir holds up the loop. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/time.h"
#include "spawner/spawner.h"
#include "spawner/sys.h"
#include "spawner/together.h"

#define BATCH_MAX 64
#define GATHER_MS 20   /* a child for each that has ended would take longer to make than to do its work */
#define GATHERED 32    /* as many do not wait */
#define MANY 64        /* as many wait again, until none has ended for a moment */
#define SLOW_MS 300    /* what is mounted does not wait for a child that takes longer */
#define DESCRIPTORS_LEFT 16 /* and one in so many is left for others */
#define TRIES_MAX 4
#define BUSY_TRIES 200 /* of 5 ms: a cgroup stays busy until the kernel has put its last process away */
#define NICE 10
#define RUSH_AGAIN_MS 1000
#define AGAIN_MS 500   /* after no child could be made */
#define LATER_MS 5000 /* until what was given up on is tried once more: it may have been for want of something */

struct grave {
	struct list link;
	uid_t first;
	bool tree;
	int mounts_fd; /* -1 = none, or closed */
	int tries;
	char name[];
};

static int remove_cgroup(const struct cgroups *c, const struct grave *g)
{
	int r = cgroup_remove(c, g->name);

	for (int i = 0; r == -EBUSY && i < BUSY_TRIES && g->tries < TRIES_MAX; i++) {
		nanosleep(&(struct timespec){ .tv_nsec = 5000000 }, NULL);
		r = cgroup_remove(c, g->name);
	}
	return r;
}

/* -- mounts ------------------------------------------------------------------------------------------------------ */
static void note_mounts(const struct list *graves, int *fds, size_t *n)
{
	list_foreach((struct list *)graves, struct grave, link, g)
		if (g->mounts_fd >= 0)
			fds[(*n)++] = g->mounts_fd;
}

/* In the child, of all that wait and not only of its batch: a memory group that goes has the lists of all file systems looked at
 * that the machine has. What is mounted keeps its blocks, too. The gate opens when the spawner has closed its own: whoever closes
 * the last one has the work. */
static void take_mounts_down(const int *fds, size_t n, int gate)
{
	char byte;

	if (n > 0 && read(gate, &byte, 1) == 0)
		close_together(fds, n);
}

/* Whatever else the child has of the spawner's would live on in it when the spawner lets go of it: sockets, locks, net namespaces,
 * what is mounted in sandboxes that are ending only now. And it needs some descriptors itself when there are no more. */
static void keep_what_is_needed(const struct host *h, const int *mounts, size_t n, int gate)
{
	const int own[] = { h->sandboxes_dir, h->cg.dir[0], h->cg.dir[1], h->cg.dir[2], h->cg.dir[3], gate };
	int *keep = malloc(sizeof(own) + n * sizeof(mounts[0]));

	if (!keep)
		return;
	memcpy(keep, own, sizeof(own));
	memcpy(keep + ARRAY_LEN(own), mounts, n * sizeof(mounts[0]));
	close_others(keep, ARRAY_LEN(own) + n);
	free(keep);
}

static void let_go(struct cleaner *c, struct grave *g)
{
	c->n_mounts -= g->mounts_fd >= 0;
	g->mounts_fd = fd_close(g->mounts_fd);
}

static void let_go_of_all(struct cleaner *c, struct list *graves)
{
	list_foreach(graves, struct grave, link, g)
		let_go(c, g);
}

int clean_keep_mounts(struct spawner *sp, int init_pidfd, int init_pid)
{
	struct cleaner *c = &sp->cleaner;
	int fd = -1;

	spawner_look_at_memory(sp, time_now_ms());
	if (!sp->closing_ms && !sp->pressed && c->n_mounts < c->most_mounts)
		fd = sys_pidfd_namespace(init_pidfd, init_pid, SYS_NAMESPACE_MOUNT);
	if (fd >= c->end_fd) /* all below are in use: thousands that live are being killed */
		fd = fd_close(fd);
	c->n_mounts += fd >= 0;
	return fd;
}

/* Where the kernel shares processors out by session (autogroup), nice is among those of a session alone: a child in the spawner's
 * would weigh as much as a daemon. */
static void set_session_nice(pid_t pid, const char *nice)
{
	char path[40];

	snprintf(path, sizeof(path), "/proc/%d/autogroup", (int)pid);
	(void)!fd_put_text(AT_FDCWD, path, nice);
}

static bool went(const struct grave *g, int r)
{
	if (r < 0 && g->tries + 1 == TRIES_MAX)
		spawner_log("cannot remove what is left of %s: %s", g->name, strerror(-r));
	return r == 0;
}

/* The child. Cgroups go first, at full share: whoever makes one needs the same locks of the kernel. Trees take longest, and disturb
 * least. */
static NORETURN void dig_all(struct spawner *sp)
{
	const struct host *h = &sp->host;
	bool groups[BATCH_MAX] = { false }, *gone = sp->cleaner.gone;
	size_t n = 0;

	list_foreach(&sp->cleaner.batch, struct grave, link, g)
		groups[n++] = went(g, remove_cgroup(&h->cg, g));
	setsid();
	set_session_nice(getpid(), "19");
	n = 0;
	list_foreach(&sp->cleaner.batch, struct grave, link, g) {
		gone[n] = went(g, g->tree ? disk_remove(&h->disk, h->sandboxes_dir, g->name) : 0) && groups[n];
		n++;
	}
	_exit(0);
}

/* When hundreds end, their ends are what somebody waits for. */
static uint64_t due_ms(const struct spawner *sp)
{
	const struct cleaner *c = &sp->cleaner;

	if (c->n_queued >= MANY && !sp->pressed)
		return MIN(c->last_ms + SPAWNER_QUIET_MS, c->first_ms + SPAWNER_PUT_OFF_MS);
	return c->n_queued >= GATHERED ? 0 : c->first_ms + GATHER_MS;
}

static bool is_due(struct spawner *sp)
{
	const struct cleaner *c = &sp->cleaner;
	uint64_t due;

	if (c->child.pid > 0 || c->relief.pid > 0 || c->n_queued == 0)
		return false;
	due = MAX(sp->closing_ms ? 0 : due_ms(sp), c->not_before_ms);
	if (time_now_ms() >= due)
		return true;
	spawner_wake(sp, due);
	return false;
}

static void enqueue(struct spawner *sp, struct grave *g)
{
	struct cleaner *c = &sp->cleaner;

	c->last_ms = time_now_ms();
	if (c->n_queued++ == 0)
		c->first_ms = c->last_ms;
	list_push_back(&c->queue, &g->link);
}

static void take_batch(struct cleaner *c)
{
	for (size_t n = 0; n < BATCH_MAX && c->n_queued > 0; n++) {
		struct list *l = c->queue.next;

		list_remove(l);
		list_push_back(&c->batch, l);
		c->n_queued--;
	}
}

static void put_back(struct cleaner *c)
{
	while (!list_empty(&c->batch)) {
		struct list *l = c->batch.prev;

		list_remove(l);
		list_push_front(&c->queue, l);
		c->n_queued++;
	}
}

/* It ends with the spawner: the next one has all that is left to do, and needs what this one holds. */
static NORETURN void child(struct spawner *sp, pid_t parent, bool dig, int gate)
{
	struct cleaner *c = &sp->cleaner;
	int *mounts = calloc(c->n_mounts + 1, sizeof(mounts[0])); /* without memory they go one by one when this child ends */
	size_t n = 0;

	events_begin_helper(parent, "openreward-rm");
	setpriority(PRIO_PROCESS, 0, NICE);
	if (mounts) {
		note_mounts(&c->batch, mounts, &n);
		note_mounts(&c->queue, mounts, &n);
		keep_what_is_needed(&sp->host, mounts, n, gate);
		take_mounts_down(mounts, n, gate);
	}
	if (dig)
		dig_all(sp);
	_exit(0);
}

/* The batch's, or one that only takes mounts down. */
static pid_t fork_child(struct spawner *sp, bool dig)
{
	struct sys_clone_args args = { .exit_signal = SIGCHLD };
	struct cleaner *c = &sp->cleaner;
	const pid_t self = getpid();
	int gate[2] = { -1, -1 };
	pid_t pid;

	(void)!pipe2(gate, O_CLOEXEC); /* without descriptors: what is mounted goes when the child ends */
	pid = sys_clone3(&args);
	if (pid == 0) {
		fd_close(gate[1]);
		child(sp, self, dig, gate[0]);
	}
	if (pid > 0) {
		let_go_of_all(c, &c->batch);
		let_go_of_all(c, &c->queue);
	}
	fd_close(gate[0]);
	fd_close(gate[1]);
	return pid;
}

static void start_batch(struct spawner *sp)
{
	struct cleaner *c = &sp->cleaner;
	pid_t pid;

	if (!is_due(sp))
		return;
	take_batch(c);
	memset(c->gone, 0, BATCH_MAX * sizeof(c->gone[0]));
	c->began_ms = time_now_ms();
	c->rush_ms = c->first_ms + SPAWNER_PUT_OFF_MS;
	c->hurried = false;
	pid = fork_child(sp, true);
	if (pid > 0) {
		events_child_add(&sp->ev, &c->child, pid);
		return;
	}
	/* No process is to be had: of what is left nothing was tried. */
	put_back(c);
	c->not_before_ms = c->began_ms + AGAIN_MS;
	spawner_wake(sp, c->not_before_ms);
}

static bool any_mounts(const struct list *graves)
{
	list_foreach((struct list *)graves, struct grave, link, g)
		if (g->mounts_fd >= 0)
			return true;
	return false;
}

/* A tree of a million files takes its time, and what is mounted elsewhere may be memory. */
static void relieve(struct spawner *sp)
{
	struct cleaner *c = &sp->cleaner;
	uint64_t now = time_now_ms();
	pid_t pid;

	if (c->child.pid == 0 || c->relief.pid > 0 || !any_mounts(&c->queue))
		return;
	if (now >= c->began_ms + SLOW_MS) {
		c->began_ms = now;
		pid = fork_child(sp, false);
		if (pid > 0)
			events_child_add(&sp->ev, &c->relief, pid);
	}
	spawner_wake(sp, c->began_ms + SLOW_MS);
}

static void retry(struct spawner *sp, struct grave *g)
{
	list_remove(&g->link);
	if (++g->tries < TRIES_MAX) {
		enqueue(sp, g);
		return;
	}
	let_go(&sp->cleaner, g);
	list_push_back(&sp->cleaner.failed, &g->link);
	sp->cleaner.later_ms = time_now_ms() + LATER_MS;
	spawner_wake(sp, sp->cleaner.later_ms);
}

/* When there is nothing else to do: nobody waits for it. */
static void try_failed(struct spawner *sp)
{
	struct cleaner *c = &sp->cleaner;
	struct grave *g;
	uint64_t now = time_now_ms();

	if (sp->closing_ms || list_empty(&c->failed))
		return;
	if (now >= c->later_ms && clean_idle(sp)) {
		while ((g = list_first(&c->failed, struct grave, link))) {
			list_remove(&g->link);
			enqueue(sp, g);
		}
		start_batch(sp);
	}
	spawner_wake(sp, MAX(c->later_ms, now + SLOW_MS));
}

static void forget(struct spawner *sp, struct grave *g)
{
	list_remove(&g->link);
	if (g->first)
		ids_give(&sp->ids, g->first);
	free(g);
}

/* However it ended: what is not known to be gone is removed again, which costs nothing where it is. */
static void on_cleaner_exit(void *arg, int status UNUSED)
{
	struct spawner *sp = arg;
	const bool *gone = sp->cleaner.gone;

	list_foreach(&sp->cleaner.batch, struct grave, link, g) {
		if (*gone++)
			forget(sp, g);
		else
			retry(sp, g);
	}
	start_batch(sp);
}

static void on_relief_exit(void *arg, int status)
{
	(void)status;
	start_batch(arg);
}

int clean_init(struct spawner *sp, struct err *err)
{
	struct cleaner *c = &sp->cleaner;
	struct rlimit files;

	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		c->most_mounts = (size_t)(files.rlim_cur / SPAWNER_PUT_OFF_SHARE);
		c->end_fd = (int)MIN(files.rlim_cur - files.rlim_cur / DESCRIPTORS_LEFT, (rlim_t)INT_MAX);
	}
	list_init(&c->queue);
	list_init(&c->batch);
	list_init(&c->failed);
	c->child = (struct child){ .fn = on_cleaner_exit, .arg = sp };
	c->relief = (struct child){ .fn = on_relief_exit, .arg = sp };
	c->gone = mmap(NULL, BATCH_MAX * sizeof(c->gone[0]), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	return c->gone == MAP_FAILED ? err_sys(err, "share memory with whoever removes what is left") : 0;
}

static void free_all(struct list *l)
{
	list_foreach(l, struct grave, link, g) {
		list_remove(&g->link);
		fd_close(g->mounts_fd);
		free(g);
	}
}

void clean_done(struct spawner *sp)
{
	free_all(&sp->cleaner.queue);
	free_all(&sp->cleaner.batch);
	free_all(&sp->cleaner.failed);
}

void clean_bury(struct spawner *sp, const struct remains *r)
{
	struct grave *g = calloc(1, sizeof(*g) + strlen(r->name) + 1);

	if (!g) {
		spawner_log("out of memory: %s is left for the next start to remove", r->name);
		sp->cleaner.n_mounts -= r->mounts_fd >= 0;
		fd_close(r->mounts_fd);
		return;
	}
	memcpy(g->name, r->name, strlen(r->name) + 1);
	g->first = r->first;
	g->tree = r->tree;
	g->mounts_fd = r->mounts_fd;
	enqueue(sp, g);
	clean_tick(sp);
}

/* Somebody may wait for the ids, or for the end of the program. Again after a second: the child may not have been so far. */
static void hurry(struct spawner *sp)
{
	struct cleaner *c = &sp->cleaner;
	uint64_t now = time_now_ms();

	if (c->child.pid <= 0)
		return;
	if ((c->n_queued >= MANY || sp->closing_ms) && !c->hurried)
		c->rush_ms = now;
	if (now >= c->rush_ms) {
		set_session_nice(c->child.pid, "0");
		c->hurried = true;
		c->rush_ms = now + RUSH_AGAIN_MS;
	}
	spawner_wake(sp, c->rush_ms);
}

void clean_tick(struct spawner *sp)
{
	try_failed(sp);
	start_batch(sp);
	relieve(sp);
	hurry(sp);
}

static const struct grave *find(const struct list *l, const char *name)
{
	list_foreach((struct list *)l, struct grave, link, g)
		if (strcmp(g->name, name) == 0)
			return g;
	return NULL;
}

bool clean_has(const struct spawner *sp, const char *name)
{
	const struct cleaner *c = &sp->cleaner;

	return find(&c->queue, name) || find(&c->batch, name) || find(&c->failed, name);
}

/* What was given up on once is something left, also while it is tried again. */
bool clean_will(const struct spawner *sp, const char *name)
{
	const struct grave *g = find(&sp->cleaner.queue, name);

	g = g ? g : find(&sp->cleaner.batch, name);
	return g && g->tries < TRIES_MAX;
}

bool clean_idle(const struct spawner *sp)
{
	return sp->cleaner.child.pid == 0 && sp->cleaner.relief.pid == 0 && list_empty(&sp->cleaner.queue);
}

bool clean_is_done(const struct spawner *sp)
{
	const struct cleaner *c = &sp->cleaner;

	return list_empty(&c->queue) && list_empty(&c->batch) && list_empty(&c->failed);
}

/* -- an earlier life --------------------------------------------------------------------------------------------- */
static void kill_and_bury(void *arg, const char *id)
{
	struct spawner *sp = arg;

	cgroup_kill(&sp->host.cg, id);
	if (!clean_has(sp, id))
		clean_bury(sp, &(struct remains){ id, 0, false, -1 });
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
			clean_bury(sp, &(struct remains){ e->d_name, 0, true, -1 });
	closedir(d);
	return 0;
}
