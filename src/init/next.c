#include "init/next.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/time.h"
#include "init/init.h"

#define MESSAGE_MAX (16 * 1024) /* bytes of a RUN that travel; a longer one is cloned for */
#define RECEIPT_US 100000 /* how long init waits to hear that one was read */
/* After a run: one that is followed at once is faster with a clone than with waiting for what is being prepared, and a sandbox of
 * one command is over by then. */
#define PAUSE_US 2000

/* What it is told. The descriptors come beside: output, then those that are said to. */
struct letter {
	struct user user;
	bool error, input, terminal, script;
	size_t len; /* bytes of message */
	_Alignas(8) char message[MESSAGE_MAX]; /* the RUN */
};

static struct letter letter; /* written by init, and in the child's own memory by what it receives */

void next_init(struct next *n)
{
	*n = (struct next){ .sock = -1 };
}

/* -- in the child ---------------------------------------------------------------------------------------------- */
static int take_fd(const int *fds, size_t n_fds, size_t *at, bool wanted)
{
	return wanted && *at < n_fds ? fds[(*at)++] : -1;
}

static NORETURN void become_command(const int *fds, size_t n_fds)
{
	struct command c = { .user = letter.user, .terminal = letter.terminal, .cgroup = -1 };
	struct wire_in msg;
	size_t at = 0;

	if (wire_parse(&msg, letter.message, letter.len) < 0)
		_exit(126);
	c.msg = &msg;
	c.cwd = command_cwd(&msg);
	c.output = take_fd(fds, n_fds, &at, true);
	c.error = letter.error ? take_fd(fds, n_fds, &at, true) : c.output;
	c.input = take_fd(fds, n_fds, &at, letter.input);
	c.script = take_fd(fds, n_fds, &at, letter.script);
	command_become(&c);
}

static NORETURN void wait_for_letter(int sock)
{
	int fds[FD_PASS_MAX];
	size_t len = 0, n_fds = 0;

	(void)prctl(PR_SET_NAME, "openreward-next", 0, 0, 0); /* for whoever looks at a list of processes */
	letter.len = 0; /* its first page is the child's own from now on */
	/* The socket to a number below those of descriptors that come with the letter, of which none may be
	 * COMMAND_SCRIPT_FD. */
	if (command_isolate(sock) < 0)
		_exit(126);
	if (fd_recv(COMMAND_SOCKET_FD, &letter, sizeof(letter), &len, fds, ARRAY_LEN(fds), &n_fds) < 0 ||
	    len < offsetof(struct letter, message))
		_exit(126); /* nobody wants it any more */
	/* init may have been tired of waiting. */
	(void)!fd_send(COMMAND_SOCKET_FD, "r", 1, NULL, 0);
	become_command(fds, n_fds);
}

/* -- in init --------------------------------------------------------------------------------------------------- */
static void forget(struct init *in)
{
	in->next.pid = 0;
	in->next.sock = fd_close(in->next.sock);
	in->next.group = NULL;
}

/* A clone that the limit refused counts as an event of the sandbox, but not as one of its commands. */
static void excuse(struct init *in)
{
	list_foreach(&in->runs.alive, struct run, link, run)
		run->base.pids_hits++;
}

static int clone_into(struct init *in, struct group *g)
{
	const struct timeval patience = { .tv_usec = RECEIPT_US };
	int pair[2];
	long pid;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	pid = setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) < 0 ||
			      setsockopt(pair[0], SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)) < 0
		      ? -errno
		      : command_clone(g->fd);
	if (pid == 0)
		wait_for_letter(pair[1]);
	fd_close(pair[1]);
	if (pid < 0) {
		fd_close(pair[0]);
		return (int)pid;
	}
	in->next.pid = (pid_t)pid;
	in->next.sock = pair[0];
	in->next.group = g;
	return 0;
}

void next_prepare(struct init *in)
{
	struct group *g = NULL;
	int r;

	in->next.due_us = 0;
	if (in->next.pid || in->runs.over_us || group_take(in, &g) < 0 || !g)
		return;
	r = clone_into(in, g);
	if (r == -EAGAIN)
		excuse(in);
	if (r < 0)
		group_put(in, g);
}

static size_t write_letter(const struct command *c, int *ret_fds)
{
	size_t n = 0;

	letter.user = c->user;
	letter.error = c->error != c->output;
	letter.input = c->input >= 0;
	letter.terminal = c->terminal;
	letter.script = c->script >= 0;
	letter.len = c->msg->len;
	memcpy(letter.message, c->msg->buf, c->msg->len);
	ret_fds[n++] = c->output;
	if (letter.error)
		ret_fds[n++] = c->error;
	if (letter.input)
		ret_fds[n++] = c->input;
	if (letter.script)
		ret_fds[n++] = c->script;
	return n;
}

/* Whether it is the command's from now on: one that is being killed takes a letter, but never says so. One that says nothing
 * for long is stopped, or gets no processor: it has begun, too. */
static bool was_read(int sock)
{
	char receipt;
	ssize_t n = recv(sock, &receipt, sizeof(receipt), 0);

	return n > 0 || (n < 0 && errno == EAGAIN);
}

bool next_start(struct init *in, struct run *run, const struct command *c)
{
	int fds[4];
	size_t n;

	if (!in->next.pid || c->msg->len > MESSAGE_MAX)
		return false;
	n = write_letter(c, fds);
	if (fd_send(in->next.sock, &letter, offsetof(struct letter, message) + letter.len, fds, n) < 0 || !was_read(in->next.sock))
		return false; /* it will be reaped */
	run->pid = in->next.pid;
	run->group = in->next.group;
	forget(in);
	return true;
}

void next_run_ended(struct init *in)
{
	if (!in->next.pid && in->groups.usable)
		in->next.due_us = time_now_us() + PAUSE_US;
}

bool next_reaped(struct init *in, pid_t pid)
{
	struct group *g = in->next.group;

	if (pid != in->next.pid)
		return false;
	forget(in);
	group_put(in, g);
	return true;
}

uint64_t next_due_us(const struct init *in)
{
	return in->next.due_us ? in->next.due_us : UINT64_MAX;
}

void next_tick(struct init *in, uint64_t now_us)
{
	if (in->next.due_us && now_us >= in->next.due_us)
		next_prepare(in);
}
