#include "spawner/ids.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"

#define BLOCK_FIRST 0x80000000u
#define BLOCK_SIZE (IDS_RANGES * IDS_PER_RANGE)

/* 1 = another daemon holds it. */
static int lock_block(const char *lock_dir, unsigned int block, int *ret, struct err *err)
{
	char path[256];
	auto_fd fd = -1;

	if ((size_t)snprintf(path, sizeof(path), "%s/ids-%u.lock", lock_dir, block) >= sizeof(path))
		return err_set(err, -ENAMETOOLONG, "lock of id block %u: path too long", block);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return err_sys(err, "open %s", path);
	if (flock(fd, LOCK_EX | LOCK_NB) < 0)
		return errno == EWOULDBLOCK ? 1 : err_sys(err, "lock %s", path);
	*ret = fd_steal(&fd);
	return 0;
}

int ids_init(struct ids *ids, const char *lock_dir, uint32_t hash, struct err *err)
{
	*ids = (struct ids){ .lock_fd = -1 };
	if (mkdir(lock_dir, 0755) < 0 && errno != EEXIST)
		return err_sys(err, "mkdir %s", lock_dir);
	for (unsigned int i = 0; i < IDS_BLOCKS; i++) {
		unsigned int block = (hash + i) % IDS_BLOCKS;
		int r = lock_block(lock_dir, block, &ids->lock_fd, err);

		ids->base = BLOCK_FIRST + block * BLOCK_SIZE;
		if (r <= 0)
			return r;
	}
	return err_set(err, -EUSERS, "all %u blocks of user ids are taken by other daemons on this host", IDS_BLOCKS);
}

void ids_done(struct ids *ids)
{
	ids->lock_fd = fd_close(ids->lock_fd);
}

int ids_take(struct ids *ids, uid_t *ret)
{
	for (uint32_t i = 0; i < IDS_RANGES; i++) {
		uint32_t n = (ids->next + i) % IDS_RANGES;

		if (ids->used[n / 64] & (1ull << (n % 64)))
			continue;
		ids->used[n / 64] |= 1ull << (n % 64);
		ids->next = (n + 1) % IDS_RANGES;
		*ret = ids->base + n * IDS_PER_RANGE;
		return 0;
	}
	return -EUSERS;
}

void ids_give(struct ids *ids, uid_t first)
{
	uint32_t n = (first - ids->base) / IDS_PER_RANGE;

	ids->used[n / 64] &= ~(1ull << (n % 64));
}

bool ids_ours(const struct ids *ids, uid_t id)
{
	return id >= ids->base && id - ids->base < BLOCK_SIZE;
}

bool ids_taken(const struct ids *ids, uid_t id)
{
	uint32_t n = (id - ids->base) / IDS_PER_RANGE;

	return ids_ours(ids, id) && (ids->used[n / 64] & (1ull << (n % 64)));
}
