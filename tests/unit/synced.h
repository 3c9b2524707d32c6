/* What a test's program syncs, by its path. Included once by a test. */
#pragma once

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static pthread_mutex_t synced_lock = PTHREAD_MUTEX_INITIALIZER;
static char synced_paths[64][256];
static size_t n_synced;

/* In the place of the C library's. */
int fsync(int fd)
{
	char link[32];
	ssize_t n;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	pthread_mutex_lock(&synced_lock);
	if (n_synced < sizeof(synced_paths) / sizeof(synced_paths[0])) {
		n = readlink(link, synced_paths[n_synced], sizeof(synced_paths[0]) - 1);
		n_synced += n > 0;
	}
	pthread_mutex_unlock(&synced_lock);
	return (int)syscall(SYS_fsync, fd);
}

/* How many of them came before this path was; SIZE_MAX = it never was. */
static inline size_t synced_at(const char *path)
{
	size_t at = SIZE_MAX;

	pthread_mutex_lock(&synced_lock);
	for (size_t i = 0; i < n_synced && at == SIZE_MAX; i++)
		if (!strcmp(synced_paths[i], path))
			at = i;
	pthread_mutex_unlock(&synced_lock);
	return at;
}
