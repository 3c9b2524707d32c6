/* bench/hog.c: takes whatever it can get: forks, memory, disk or sockets. Static; runs in a sandbox until it is killed. Says
 * "begun" first. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define BLOCK (1u << 20)
#define PAIRS 4000

static void forks(void)
{
	for (;;)
		(void)!fork();
}

static void hoard(void)
{
	for (;;) {
		char *p = mmap(NULL, 64 * BLOCK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (p != MAP_FAILED)
			memset(p, 1, 64 * BLOCK);
	}
}

/* A child takes until it is killed; then the next one does. */
static void memory(void)
{
	for (;;) {
		pid_t pid = fork();
		if (pid == 0)
			hoard();
		if (pid > 0)
			waitpid(pid, NULL, 0);
	}
}

static void disk(void)
{
	static char block[BLOCK];

	memset(block, 'x', sizeof(block));
	for (;;) {
		int fd = open("/tmp/hog", O_WRONLY | O_CREAT | O_TRUNC, 0600);
		for (unsigned n = 0; n < 1024 && write(fd, block, sizeof(block)) > 0; n++)
			;
		close(fd);
		unlink("/tmp/hog");
	}
}

static void sockets(void)
{
	static char block[65536];
	static int held[PAIRS][2];

	for (size_t n = 0;; n++) {
		int *pair = held[n % PAIRS];
		if (n >= PAIRS) {
			close(pair[0]);
			close(pair[1]);
		}
		if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) == 0)
			(void)!write(pair[0], block, sizeof(block));
		else
			pair[0] = pair[1] = -1;
	}
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";

	puts("begun");
	fflush(stdout);
	if (strcmp(what, "forks") == 0)
		forks();
	else if (strcmp(what, "memory") == 0)
		memory();
	else if (strcmp(what, "disk") == 0)
		disk();
	else if (strcmp(what, "sockets") == 0)
		sockets();
	return 2;
}
