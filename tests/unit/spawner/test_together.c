#include <criterion/criterion.h>
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/macros.h"
#include "spawner/together.h"

static bool is_open(int fd)
{
	return fcntl(fd, F_GETFD) >= 0;
}

/* More than there are helpers, fewer, one, none; -1 among them. The other end tells that it was the last one. */
Test(together, all_are_closed)
{
	static const size_t counts[] = { 100, 3, 1, 0 };

	for (size_t i = 0; i < ARRAY_LEN(counts); i++) {
		int fds[101], ends[100];
		char byte;

		for (size_t n = 0; n < counts[i]; n++) {
			int both[2];

			cr_assert_eq(pipe(both), 0);
			ends[n] = both[0];
			fds[n] = both[1];
		}
		fds[counts[i]] = -1;
		close_together(fds, counts[i] + 1);
		for (size_t n = 0; n < counts[i]; n++) {
			cr_assert_not(is_open(fds[n]));
			cr_assert_eq(read(ends[n], &byte, 1), 0);
			close(ends[n]);
		}
		cr_assert_eq(waitpid(-1, NULL, WNOHANG), -1, "a helper is left");
	}
}

/* In a child: what runs the tests has descriptors, too. */
Test(together, all_but_some)
{
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		int keep[] = { dup2(STDERR_FILENO, 40), -1, dup2(STDERR_FILENO, 20) };

		dup2(STDERR_FILENO, 19);
		dup2(STDERR_FILENO, 41);
		close_others(keep, ARRAY_LEN(keep));
		_exit(is_open(STDERR_FILENO) && is_open(20) && is_open(40) && !is_open(19) && !is_open(21) && !is_open(41) ? 0 : 1);
	}
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_assert_eq(status, 0);
}
