/* How much sandboxes can still write: the file system of ours (volumes.h) is looked at, made larger or smaller by a child, since
 * that may wait for the disk, and the daemons are told what there is. Nothing of it where the disk is limited in another way. */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/sysinfo.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/time.h"
#include "spawner/growth.h"
#include "spawner/spawner.h"
#include "spawner/sys.h"
#include "spawner/together.h"

#define IDLE_MS 60000       /* without a sandbox, until it is made smaller */
#define QUIET_MS 1000       /* between two looks while nobody has one */
#define SOON_MS 20          /* after somebody came who may write */
#define BACKOFF_MS 1000     /* after a change that failed */
#define TELL_STEP (16ull << 20)

static void on_changed(void *arg, int status)
{
	struct spawner *sp = arg;
	struct space *s = &sp->space;
	int error = WIFEXITED(status) ? WEXITSTATUS(status) : EINTR;

	s->hollow = s->hollow || (error == EOPNOTSUPP && !s->changing_to.trim);
	if (error && error != s->error)
		spawner_log("cannot change the file system of sandboxes: %s%s", strerror(error), s->hollow ?
			    " (fallocate): where others fill the disk of DATA, all sandboxes will fail" : "");
	if (!error)
		s->backed = s->changing_to.backed;
	s->trimmed = !error && s->changing_to.trim;
	s->error = error;
	s->next_ms = time_now_ms() + (error ? BACKOFF_MS : 0);
	spawner_wake(sp, s->next_ms);
}

void space_init(struct spawner *sp)
{
	struct space *s = &sp->space;

	s->child = (struct child){ .fn = on_changed, .arg = sp };
	s->on = sp->host.disk.kind == DISK_VOLUMES;
	s->backed = sp->host.disk.backed;
	s->cpus = (unsigned)MAX(get_nprocs(), 1);
	s->idle_since_ms = time_now_ms();
	if (s->on)
		spawner_wake(sp, s->idle_since_ms);
}

/* It ends with the spawner, whose locks and sockets it does not keep: the next one has a file system of its own. */
static NORETURN void child(const struct volumes *v, pid_t parent, uint64_t size, const struct growth_plan *to)
{
	int keep[] = { v->file, v->loop, v->root, v->figures };

	events_begin_helper(parent, NULL);
	close_others(keep, ARRAY_LEN(keep));
	_exit(-(to->trim ? volumes_trim(v) : volumes_resize(v, size, to->size, to->backed)));
}

/* In a child: it may wait for the disk. */
static void begin(struct spawner *sp, uint64_t size, const struct growth_plan *to)
{
	struct sys_clone_args args = { .exit_signal = SIGCHLD };
	const pid_t self = getpid();
	pid_t pid = sys_clone3(&args);

	if (pid == 0)
		child(&sp->host.disk.volumes, self, size, to);
	if (pid < 0)
		return; /* the next look tries again */
	sp->space.changing_to = *to;
	events_child_add(&sp->ev, &sp->space.child, pid);
}

/* -- telling ----------------------------------------------------------------------------------------------------- */
static void put(struct spawner *sp, struct wire_out *o)
{
	const struct space_told *t = &sp->space.told;

	conn_begin(sp, o, WIRE_SPACE, (struct waiter){ 0, 0 });
	wire_put_u64(o, WIRE_T_DISK_SIZE, t->size);
	wire_put_u64(o, WIRE_T_DISK_FREE, t->free);
	wire_put_u64(o, WIRE_T_DISK_MORE, t->more);
	wire_put_u64(o, WIRE_T_STATE, t->broken);
}

void space_greet(struct spawner *sp, struct waiter to)
{
	struct wire_out o;

	if (!sp->space.told.size)
		return;
	put(sp, &o);
	conn_answer(sp, to, &o);
}

static void tell(struct spawner *sp, const struct space_told *is)
{
	struct wire_out o;

	if (memcmp(&sp->space.told, is, sizeof(*is)) == 0)
		return;
	if (is->broken && !sp->space.told.broken)
		spawner_log("the file system of sandboxes has failed and can only be read: they cannot write until the spawner is started again");
	sp->space.told = *is;
	put(sp, &o);
	conns_tell(sp, &o);
}

/* -- looking ----------------------------------------------------------------------------------------------------- */
static bool is_idle(struct spawner *sp, uint64_t now_ms)
{
	if (boxes_taken(sp))
		sp->space.idle_since_ms = now_ms;
	return now_ms - sp->space.idle_since_ms >= IDLE_MS;
}

static uint64_t in_steps(uint64_t bytes)
{
	return bytes / TELL_STEP * TELL_STEP;
}

static void change(struct spawner *sp, const struct growth *g)
{
	struct space *s = &sp->space;
	struct growth_plan to = growth_next(g);

	if (s->child.pid > 0 || sp->closing_ms)
		return;
	if (to.size != g->size || to.trim || (to.backed && !g->backed))
		begin(sp, g->size, &to);
	else
		s->backed = to.backed;
}

static int measure(struct spawner *sp, uint64_t now_ms, struct growth *ret)
{
	const struct disk *d = &sp->host.disk;
	struct space *s = &sp->space;
	struct volumes_state is = { 0 };
	int r = volumes_look(&d->volumes, &is);

	if (s->trimmed && is.held > is.size - is.free)
		s->kept = is.held - (is.size - is.free);
	s->trimmed = false;
	*ret = (struct growth){
		.size = is.size, .free = is.free, .held = is.held, .total = d->total, .below = disk_below(d), .reserve = d->reserve,
		.kept = s->kept, .cpus = s->cpus, .idle = is_idle(sp, now_ms), .backed = s->backed, .hollow = s->hollow,
	};
	return is.broken ? -EROFS : r;
}

static void look(struct spawner *sp, uint64_t now_ms)
{
	struct growth g;
	bool good = measure(sp, now_ms, &g) == 0, taken = sp->space.idle_since_ms == now_ms;

	if (good)
		change(sp, &g);
	tell(sp, &(struct space_told){ g.size, good ? in_steps(growth_free(&g)) : 0, good ? growth_more(&g) : 0, !good });
	sp->space.next_ms = now_ms + (taken ? growth_next_ms(&g) : QUIET_MS);
}

/* Whoever is new may write at once. */
void space_expect(struct spawner *sp)
{
	if (!sp->space.on)
		return;
	sp->space.next_ms = MIN(sp->space.next_ms, time_now_ms() + SOON_MS);
	spawner_wake(sp, sp->space.next_ms);
}

void space_tick(struct spawner *sp, uint64_t now_ms)
{
	if (!sp->space.on)
		return;
	if (now_ms >= sp->space.next_ms)
		look(sp, now_ms);
	spawner_wake(sp, sp->space.next_ms);
}
