/* bench/floor ROOT DATA: see floor.h and worker.h. ROOT: the root file system of the boxes; DATA: a folder on the disk to
 * measure, which is made and left empty. Cases:
 *   create OPTIONS COMMAND...   a box from nothing to nothing; OPTIONS: words of "memory", "prepared", "least", "-" = none, by commas
 *   agent NUMBER                a command (floor_commands) in a box that lives on
 *   do probe                    a box that runs /probe: its pid, its output, and it goes when a line comes
 *   do hold COUNT               that many idle boxes, until a line comes; then how long their ends took in milliseconds */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "floor.h"
#include "spawner/spawner.h"

/* What host.c tells of goes where this program's own words go. */
void spawner_log(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
}

struct program {
	struct floor floor;
	struct floor_box living;
	bool lives;
	struct floor_shared *shared; /* two: for the box of the iteration, for the one that lives on */
};

static bool has_word(const char *words, const char *word)
{
	const char *p = strstr(words, word);

	return p && (p == words || p[-1] == ',');
}

static int create(struct program *p, const char *words, char **argv, struct sample *s, struct err *err)
{
	struct floor_box b = {
		.opt = { .memory = has_word(words, "memory"), .prepared = has_word(words, "prepared"), .least = has_word(words, "least") },
		.argv = argv, .output_fd = -1, .input_fd = -1, .shared = &p->shared[0],
	};
	struct err second;
	int r = b.opt.prepared && !p->floor.pooled ? floor_prepare_pool(&p->floor, err) : 0;

	if (r < 0)
		return r;
	sample_begin(s);
	r = floor_start(&p->floor, &b, err);
	if (r < 0)
		return r;
	sample_part(s);
	r = floor_wait(&b, false, err);
	sample_part(s);
	if (floor_remove(&p->floor, &b, r < 0 ? &second : err) < 0 && r == 0)
		r = -EIO;
	sample_part(s);
	return r;
}

static int ask(struct program *p, int number, struct sample *s, struct err *err)
{
	int r = 0;

	if (number < 0 || number >= FLOOR_COMMANDS)
		return err_set(err, -EINVAL, "agent: command %d, expected 0 to %d", number, FLOOR_COMMANDS - 1);
	if (!p->lives) {
		p->living = (struct floor_box){
			.opt.agent = true, .output_fd = -1, .input_fd = -1, .shared = &p->shared[1],
		};
		r = floor_start(&p->floor, &p->living, err);
		p->lives = r == 0;
	}
	sample_begin(s);
	if (r == 0)
		r = floor_ask_agent(&p->living, number, err);
	sample_part(s);
	if (r < 0 && p->living.shared->error)
		r = err_set(err, r, "floor: %s: %s", p->living.shared->stage, strerror(p->living.shared->error));
	return r;
}

static int once(void *arg, char **args, struct sample *s, struct err *err)
{
	if (strcmp(args[0], "create") == 0 && args[1] && args[2])
		return create(arg, args[1], args + 2, s, err);
	if (strcmp(args[0], "agent") == 0 && args[1])
		return ask(arg, (int)strtol(args[1], NULL, 10), s, err);
	return err_set(err, -EINVAL, "floor: unknown case \"%s\"", args[0]);
}

static int forked(void *arg, int number, struct err *err)
{
	struct program *p = arg;

	(void)err;
	p->floor.number = number + 1;
	p->floor.count = 0;
	p->floor.pooled = false;
	p->shared = mmap(NULL, 2 * sizeof(*p->shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	return p->shared == MAP_FAILED ? err_sys(err, "shared memory") : 0;
}

/* -- the evidence ------------------------------------------------------------------------------------------------------ */
static void copy_output(int fd)
{
	char buf[4096];
	ssize_t n;

	/* Until the probe has said its last word; it stays, so there is no end of file to wait for. */
	while ((n = read(fd, buf, sizeof(buf))) > 0) {
		fwrite(buf, 1, (size_t)n, stdout);
		if (memmem(buf, (size_t)n, "write sysctl\n", 13))
			break;
	}
}

static int probe(struct program *p, struct err *err)
{
	struct floor_box b = { .argv = (char *[]){ (char[]){ "/probe" }, NULL }, .shared = &p->shared[0] };
	int out[2], in[2], r;

	if (pipe2(out, O_CLOEXEC) < 0 || pipe2(in, O_CLOEXEC) < 0)
		return err_sys(err, "pipe");
	b.output_fd = out[1];
	b.input_fd = in[0];
	r = floor_start(&p->floor, &b, err);
	if (r == 0) {
		printf("pid %d\n", b.pid);
		copy_output(out[0]);
		printf("== end\n");
		worker_wait_line();
	}
	/* Not before: the table of descriptors was the child's too. */
	fd_close(in[1]);
	if (r == 0)
		r = floor_wait(&b, false, err);
	if (floor_remove(&p->floor, &b, err) < 0)
		r = -EIO;
	fd_close(in[0]);
	fd_close(out[0]);
	fd_close(out[1]);
	return r;
}

/* -- idle boxes --------------------------------------------------------------------------------------------------------- */
static int end_held(struct program *p, struct floor_box *boxes, int n, struct err *err)
{
	int r = 0;

	for (int i = 0; i < n; i++)
		kill(boxes[i].pid, SIGKILL);
	for (int i = 0; i < n; i++)
		if (floor_wait(&boxes[i], true, err) < 0 || floor_remove(&p->floor, &boxes[i], err) < 0)
			r = -EIO;
	return r;
}

/* The shared page of each is the same: a child reads it before the next one is begun. */
static int hold(struct program *p, int count, struct err *err)
{
	struct floor_box *boxes = calloc((size_t)count, sizeof(*boxes));
	double start = clock_us();
	int n = 0, r = 0;

	while (boxes && r == 0 && n < count) {
		boxes[n] = (struct floor_box){ .opt.agent = true, .output_fd = -1, .input_fd = -1, .shared = &p->shared[0] };
		r = floor_start(&p->floor, &boxes[n], err);
		if (r == 0)
			r = floor_ask_agent(&boxes[n++], 0, err);
		if (r == 0)
			floor_release(&boxes[n - 1]);
	}
	printf("held %d in %.0f ms\n", n, (clock_us() - start) / 1e3);
	if (r == 0)
		worker_wait_line();
	start = clock_us();
	if (end_held(p, boxes, n, err) < 0)
		r = -EIO;
	printf("ended in %.0f ms\n", (clock_us() - start) / 1e3);
	free(boxes);
	return r;
}

static int other(void *arg, char **args, struct err *err)
{
	if (strcmp(args[0], "probe") == 0)
		return probe(arg, err);
	if (strcmp(args[0], "hold") == 0 && args[1])
		return hold(arg, (int)strtol(args[1], NULL, 10), err);
	return err_set(err, -EINVAL, "floor: do what?");
}

/* -- set-up ------------------------------------------------------------------------------------------------------------- */
static int open_uppers(struct floor *f, struct err *err)
{
	f->uppers[0] = f->host.sandboxes_dir;
	if (mkdir(FLOOR_MEMORY, 0711) < 0 && errno != EEXIST)
		return err_sys(err, "mkdir %s/%s", f->stage, FLOOR_MEMORY);
	if (mount("tmpfs", FLOOR_MEMORY, "tmpfs", 0, "mode=711") < 0)
		return err_sys(err, "mount the memory of upper folders");
	f->uppers[1] = open(FLOOR_MEMORY, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return f->uppers[1] < 0 ? err_sys(err, "open %s", FLOOR_MEMORY) : 0;
}

static int set_up(struct program *p, const char *root, const char *data, struct err *err)
{
	struct floor *f = &p->floor;
	const struct options opt = { .data = data, .init = "/proc/self/exe" }; /* disk limits as the product has them unless told otherwise */
	int r = host_init(&f->host, &opt, err);

	if (r < 0)
		return r;
	snprintf(f->root, sizeof(f->root), "%s", root);
	snprintf(f->stage, sizeof(f->stage), "%s/sandboxes/.stage", f->host.data);
	if (chdir(f->stage) < 0)
		return err_sys(err, "chdir %s", f->stage);
	f->home_net = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	if (f->home_net < 0)
		return err_sys(err, "open the host's net namespace");
	p->shared = mmap(NULL, 2 * sizeof(*p->shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	return p->shared == MAP_FAILED ? err_sys(err, "shared memory") : open_uppers(f, err);
}

static void remove_one(void *arg, const char *name)
{
	const struct floor *f = arg;

	if (cgroup_remove(&f->host.cg, name) < 0)
		fprintf(stderr, "floor: the cgroup %s could not be removed\n", name);
}

static void take_down(struct program *p)
{
	struct err err = ERR_INIT;

	if (p->lives && (floor_wait(&p->living, true, &err) < 0 || floor_remove(&p->floor, &p->living, &err) < 0))
		fprintf(stderr, "floor: %s\n", err.msg);
	floor_drop_pool(&p->floor);
	cgroups_each(&p->floor.host.cg, remove_one, &p->floor); /* pools of a rate's processes */
	umount2(FLOOR_MEMORY, MNT_DETACH);
	host_done(&p->floor.host);
}

int main(int argc, char **argv)
{
	static struct program p;
	const struct worker w = { .arg = &p, .once = once, .forked = forked, .other = other };
	struct err err = ERR_INIT;
	int r;

	if (argc != 3) {
		fprintf(stderr, "usage: floor ROOT DATA\n");
		return 2;
	}
	r = set_up(&p, argv[1], argv[2], &err);
	if (r < 0)
		printf("error %s\n", err.msg);
	else
		r = worker_loop(&w);
	take_down(&p);
	return r < 0 ? 1 : r;
}
