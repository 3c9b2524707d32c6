#include "worker.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LINE_MAX_BYTES 65536
#define WIDTH_MAX 128

double clock_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

void sample_begin(struct sample *s)
{
	s->n_parts = 0;
	s->last_us = clock_us();
}

void sample_part(struct sample *s)
{
	double now = clock_us();

	if (s->n_parts < WORKER_PARTS_MAX)
		s->part[s->n_parts++] = now - s->last_us;
	s->last_us = now;
}

static void pause_ms(long ms)
{
	struct timespec t = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000 };

	while (ms > 0 && nanosleep(&t, &t) < 0 && errno == EINTR)
		;
}

static void print_sample(FILE *f, const struct sample *s)
{
	double total = 0;

	for (int i = 0; i < s->n_parts; i++)
		total += s->part[i];
	fprintf(f, " %.1f", total);
	for (int i = 0; s->n_parts > 1 && i < s->n_parts; i++)
		fprintf(f, "/%.1f", s->part[i]);
}

/* Values are kept back until all are there: writing between iterations would be measured, too. */
static int batch(const struct worker *w, char **args, struct err *err)
{
	long count = strtol(args[0], NULL, 10), pause = args[1] ? strtol(args[1], NULL, 10) : 0;
	char *text = NULL;
	size_t len = 0;
	FILE *f;
	int r = 0;

	if (count < 1 || !args[1] || !args[2])
		return err_set(err, -EINVAL, "expected COUNT PAUSE_MS CASE");
	f = open_memstream(&text, &len);
	if (!f)
		return err_sys(err, "memory stream");
	for (long i = -1; r == 0 && i < count; i++) {
		struct sample s = { .n_parts = 0 };

		pause_ms(i < 0 ? 0 : pause);
		r = w->once(w->arg, args + 2, &s, err);
		if (r == 0 && i >= 0)
			print_sample(f, &s);
	}
	fclose(f);
	if (r == 0)
		printf("ok%s\n", text);
	free(text);
	return r;
}

/* -- rates ------------------------------------------------------------------------------------------------------------ */
struct shared {
	double done[WIDTH_MAX];
	struct err err[WIDTH_MAX];
};

static void rate_child(const struct worker *w, int number, double until_us, char **args, struct shared *shared)
{
	struct err *err = &shared->err[number];
	int r = w->forked ? w->forked(w->arg, number, err) : 0;

	while (r == 0 && clock_us() < until_us) {
		struct sample s = { .n_parts = 0 };

		r = w->once(w->arg, args, &s, err);
		shared->done[number] += r == 0;
	}
	_exit(r == 0 ? 0 : 1);
}

static int collect(const struct shared *shared, const pid_t *pids, int width, double *ret_done, struct err *err)
{
	int r = 0;

	for (int i = 0; i < width; i++) {
		int status = 0;

		if (pids[i] > 0 && waitpid(pids[i], &status, 0) == pids[i] && status == 0) {
			*ret_done += shared->done[i];
			continue;
		}
		if (r == 0)
			r = err_set(err, -EIO, "one of %d: %s", width, shared->err[i].msg);
	}
	return r;
}

static int rate_by_children(const struct worker *w, int width, double until_us, char **args, double *ret_done,
			    struct err *err)
{
	struct shared *shared =
		mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t pids[WIDTH_MAX];
	int r;

	if (shared == MAP_FAILED)
		return err_sys(err, "shared memory");
	fflush(stdout);
	for (int i = 0; i < width; i++) {
		pids[i] = fork();
		if (pids[i] == 0)
			rate_child(w, i, until_us, args, shared);
	}
	r = collect(shared, pids, width, ret_done, err);
	munmap(shared, sizeof(*shared));
	return r;
}

static int rate(const struct worker *w, char **args, struct err *err)
{
	int width = args[1] ? (int)strtol(args[1], NULL, 10) : 0, r;
	double seconds = width && args[2] ? strtod(args[2], NULL) : 0, start = clock_us(), done = 0;

	if (width < 1 || width > WIDTH_MAX || seconds <= 0 || !args[3])
		return err_set(err, -EINVAL, "expected rate WIDTH (at most %d) SECONDS CASE", WIDTH_MAX);
	if (w->rate)
		r = w->rate(w->arg, width, seconds, args + 3, &done, err);
	else
		r = rate_by_children(w, width, start + seconds * 1e6, args + 3, &done, err);
	if (r == 0)
		printf("ok %.1f\n", done * 1e6 / (clock_us() - start));
	return r;
}

/* -- the loop ---------------------------------------------------------------------------------------------------------- */
static int other(const struct worker *w, char **args, struct err *err)
{
	int r = w->other && args[1] ? w->other(w->arg, args + 1, err) : err_set(err, -EINVAL, "unknown request");

	if (r == 0)
		printf("ok\n");
	return r;
}

static void split(char *line, char **args)
{
	size_t n = 0;

	line[strcspn(line, "\n")] = 0;
	for (char *p = line; p && n < WORKER_ARGS_MAX; p = p ? p + 1 : NULL) {
		args[n++] = p;
		p = strchr(p, '\t');
		if (p)
			*p = 0;
		else
			break;
	}
	args[n] = NULL;
}

void worker_wait_line(void)
{
	char line[256];

	fflush(stdout);
	if (!fgets(line, sizeof(line), stdin))
		return; /* the end of input: nobody will ever tell */
}

int worker_loop(const struct worker *w)
{
	static char line[LINE_MAX_BYTES];
	char *args[WORKER_ARGS_MAX + 1];

	printf("ready\n");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		struct err err = ERR_INIT;
		int r;

		split(line, args);
		if (strcmp(args[0], "rate") == 0)
			r = rate(w, args, &err);
		else if (strcmp(args[0], "do") == 0)
			r = other(w, args, &err);
		else
			r = batch(w, args, &err);
		if (r < 0)
			printf("error %s\n", err.msg);
		fflush(stdout);
	}
	return 0;
}
