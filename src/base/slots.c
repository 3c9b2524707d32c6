#include "base/slots.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/str.h"

#define MAGIC "ORWSLOT"
#define VERSION 1
#define HEADER_BYTES 4096
#define FIRST 512 /* records at the start; doubled whenever all are taken */

struct header {
	char magic[8], kind[8];
	uint32_t version, record_bytes, count;
	char life[SLOTS_LIFE_MAX];
};

struct slots {
	int fd;
	char *map;
	size_t map_bytes; /* of address space: most of it may lie past the file's end */
	uint32_t record_bytes, max, count;
	uint32_t *ring;   /* of max: free slots, the longest free one first */
	uint32_t head, n_free;
	bool sealed;
};

static struct header *header(const struct slots *s)
{
	return (struct header *)s->map;
}

static char *record(const struct slots *s, uint32_t slot)
{
	return s->map + HEADER_BYTES + (size_t)slot * s->record_bytes;
}

static void push_free(struct slots *s, uint32_t slot)
{
	s->ring[(s->head + s->n_free++) % s->max] = slot;
}

/* The file's blocks are there before anybody writes to them: a store into a hole on a full disk would be a SIGBUS. */
static int grow(struct slots *s, uint32_t count)
{
	int r = posix_fallocate(s->fd, 0, (off_t)(HEADER_BYTES + (size_t)count * s->record_bytes));

	if (r)
		return -r;
	for (uint32_t i = s->count; i < count; i++)
		push_free(s, i);
	s->count = count;
	header(s)->count = count;
	return 0;
}

static bool is_ours(const struct slots *s, const struct slots_spec *spec, off_t size)
{
	const struct header *h = header(s);

	if (size < HEADER_BYTES || memcmp(h->magic, MAGIC, sizeof(MAGIC)) || strncmp(h->kind, spec->kind, sizeof(h->kind)) ||
	    h->version != VERSION || h->record_bytes != spec->record_bytes || h->count > spec->max)
		return false;
	return (size_t)size >= HEADER_BYTES + (size_t)h->count * spec->record_bytes;
}

static int begin(struct slots *s, const struct slots_spec *spec)
{
	struct header *h = header(s);
	int r = ftruncate(s->fd, 0) < 0 ? -errno : -posix_fallocate(s->fd, 0, HEADER_BYTES);

	if (r < 0)
		return r;
	snprintf(h->kind, sizeof(h->kind), "%s", spec->kind);
	h->version = VERSION;
	h->record_bytes = spec->record_bytes;
	memcpy(h->magic, MAGIC, sizeof(MAGIC));
	return grow(s, MIN(spec->max, (uint32_t)FIRST));
}

/* What is there: the free ones are known again. */
static void go_on(struct slots *s)
{
	s->count = header(s)->count;
	for (uint32_t i = 0; i < s->count; i++) {
		uint32_t state;

		memcpy(&state, record(s, i), sizeof(state));
		if (!state)
			push_free(s, i);
	}
}

static int open_file(struct slots *s, const struct slots_spec *spec, struct stat *ret_st)
{
	s->fd = open(spec->path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (s->fd < 0 || fstat(s->fd, ret_st) < 0)
		return -errno;
	s->map_bytes = HEADER_BYTES + (size_t)spec->max * spec->record_bytes;
	s->map = mmap(NULL, s->map_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, s->fd, 0);
	if (s->map == MAP_FAILED) {
		s->map = NULL;
		return -errno;
	}
	return 0;
}

int slots_open(struct slots **ret, const struct slots_spec *spec, bool *ret_same, struct err *err)
{
	AUTO(slots_freep) struct slots *s = NEW(struct slots);
	struct stat st = { 0 };
	int r;

	*s = (struct slots){ .fd = -1, .record_bytes = spec->record_bytes, .max = spec->max };
	s->ring = xcalloc(spec->max, sizeof(*s->ring));
	r = open_file(s, spec, &st);
	if (r == 0 && is_ours(s, spec, st.st_size))
		go_on(s);
	else if (r == 0)
		r = begin(s, spec);
	if (r < 0)
		return err_sys_code(err, r, "%s", spec->path);
	*ret_same = str_eq(header(s)->life, spec->life);
	snprintf(header(s)->life, SLOTS_LIFE_MAX, "%s", spec->life);
	*ret = STEAL(s);
	return 0;
}

void slots_seal(struct slots *s)
{
	if (s)
		s->sealed = true;
}

struct slots *slots_close(struct slots *s)
{
	if (!s)
		return NULL;
	if (s->map)
		munmap(s->map, s->map_bytes);
	fd_close(s->fd);
	free(s->ring);
	free(s);
	return NULL;
}

uint32_t slots_take(struct slots *s)
{
	uint32_t slot;

	if (!s || s->sealed)
		return SLOTS_NONE;
	if (!s->n_free && (s->count == s->max || grow(s, (uint32_t)MIN((uint64_t)s->max, 2ull * s->count)) < 0))
		return SLOTS_NONE;
	slot = s->ring[s->head];
	s->head = (s->head + 1) % s->max;
	s->n_free--;
	memset(record(s, slot), 0, s->record_bytes);
	return slot;
}

void slots_give(struct slots *s, uint32_t slot)
{
	uint32_t *state = slots_at(s, slot);

	if (!state)
		return;
	slots_publish(state, 0);
	push_free(s, slot);
}

void *slots_at(const struct slots *s, uint32_t slot)
{
	return s && !s->sealed && slot < s->count ? record(s, slot) : NULL;
}

uint32_t slots_count(const struct slots *s)
{
	return s ? s->count : 0;
}
