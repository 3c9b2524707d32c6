/* What lies unread in the netlink sockets of a sandbox is in no limit of memory: the kernel takes it without a charge, megabytes
 * for a socket that costs its owner kilobytes. So when the machine's free memory falls, a child looks what each has there, and
 * who has more than UNREAD_MAX ends. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/machine.h"
#include "base/random.h"
#include "base/time.h"
#include "spawner/box.h"
#include "spawner/sys.h"
#include "spawner/together.h"

#define UNREAD_MAX (32ull << 20)       /* bytes of one sandbox: programs that read have kilobytes */
#define LOOK_MS 500                    /* at the machine's memory */
#define PAUSES 20                      /* so many times what a look at all took is the pause after it, */
#define PAUSE_MAX_MS 5000              /* but no longer */
#define STEP_SHARE 64                  /* when it has fallen by this part of all */
#define STEP_MIN_BYTES (64ull << 20)
#define PRESSED_MS 5000                /* or, while there is little of it, so long after the last look */
#define CHILD_CPU_S 10                 /* the kernel goes through the sockets of all for each: it may not come to its end */

/* Of the net namespace that a process is in. -errno: it is gone. */
static int unread_of(pid_t pid, uint64_t *ret)
{
	char path[40], line[256];
	unsigned long long bytes;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/net/netlink", pid);
	f = fopen(path, "re");
	if (!f)
		return -errno;
	/* sk Eth Pid Groups Rmem ... */
	for (*ret = 0; *ret <= UNREAD_MAX && fgets(line, sizeof(line), f);)
		if (sscanf(line, "%*s %*s %*s %*s %llu", &bytes) == 1)
			*ret += bytes;
	fclose(f);
	return 0;
}

/* What is beside a sandbox shares its sockets' namespace. */
static bool is_asked(const struct box *b)
{
	return b->state == BOX_READY && !b->spare && !b->owner;
}

/* Of those from the first'th on, or of those before it. */
static void look_at_some(const struct spawner *sp, size_t first, bool before, int out)
{
	uint64_t bytes = 0;
	size_t i = 0;

	list_foreach((struct list *)&sp->boxes, struct box, link, b)
		if ((i++ < first) == before && is_asked(b) && unread_of(b->init_pid, &bytes) == 0 && bytes > UNREAD_MAX)
			(void)!write(out, &b->number, sizeof(b->number));
}

static NORETURN void child(const struct spawner *sp, pid_t parent, int out)
{
	const struct rlimit l = { CHILD_CPU_S, CHILD_CPU_S };
	size_t n = 1, first;

	events_begin_helper(parent, "openreward-look");
	close_others(&out, 1);
	(void)setrlimit(RLIMIT_CPU, &l);
	list_foreach((struct list *)&sp->boxes, struct box, link, b)
		n++;
	first = (size_t)(random_u64() % n); /* nobody is always the last one */
	look_at_some(sp, first, false, out);
	look_at_some(sp, first, true, out);
	_exit(0);
}

static void end_box(struct spawner *sp, uint64_t number)
{
	list_foreach(&sp->boxes, struct box, link, b) {
		if (b->number != number || b->state != BOX_READY)
			continue;
		spawner_log("sandbox %s has left more than %llu MiB of netlink messages unread, and ends", b->id, UNREAD_MAX >> 20);
		box_kill(b, "netlink");
		box_over_if_dead(b);
		return;
	}
}

static void on_looked(void *arg, int status UNUSED)
{
	struct spawner *sp = arg;
	struct unread *u = &sp->unread;
	uint64_t number, now_ms;

	while (read(u->out, &number, sizeof(number)) == sizeof(number))
		end_box(sp, number);
	u->out = fd_close(u->out);
	now_ms = time_now_ms();
	u->next_ms = MAX(u->next_ms, now_ms + MIN(PAUSES * (now_ms - u->looked_ms), (uint64_t)PAUSE_MAX_MS));
	spawner_wake(sp, u->next_ms);
}

static void begin(struct spawner *sp)
{
	struct sys_clone_args args = { .exit_signal = SIGCHLD };
	const pid_t self = getpid();
	int out[2];
	pid_t pid;

	if (pipe2(out, O_CLOEXEC | O_NONBLOCK) < 0)
		return; /* the next look tries again */
	pid = sys_clone3(&args);
	if (pid == 0)
		child(sp, self, out[1]);
	fd_close(out[1]);
	sp->unread.out = pid < 0 ? fd_close(out[0]) : out[0];
	if (pid > 0)
		events_child_add(&sp->ev, &sp->unread.child, pid);
}

static bool is_due(const struct spawner *sp, uint64_t now_ms, uint64_t available)
{
	const struct unread *u = &sp->unread;

	return available + u->step < u->most || (sp->pressed && now_ms - u->looked_ms >= PRESSED_MS);
}

static void look(struct spawner *sp, uint64_t now_ms)
{
	struct unread *u = &sp->unread;
	uint64_t available = machine_memory_free();

	spawner_look_at_memory(sp, now_ms);
	u->next_ms = now_ms + LOOK_MS;
	if (available == MACHINE_UNKNOWN)
		return;
	u->most = MAX(u->most, available);
	if (!is_due(sp, now_ms, available))
		return;
	u->most = available;
	u->looked_ms = now_ms;
	begin(sp);
}

void unread_init(struct spawner *sp)
{
	struct machine here;

	machine_here(&here);
	sp->unread = (struct unread){
		.child = { .fn = on_looked, .arg = sp }, .out = -1, .step = MAX(here.memory_bytes / STEP_SHARE, STEP_MIN_BYTES),
	};
}

void unread_watch(struct spawner *sp)
{
	spawner_wake(sp, sp->unread.next_ms);
}

void unread_tick(struct spawner *sp, uint64_t now_ms)
{
	if (sp->unread.child.pid || !boxes_taken(sp))
		return;
	if (now_ms >= sp->unread.next_ms)
		look(sp, now_ms);
	unread_watch(sp);
}
