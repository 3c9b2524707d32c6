#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "spawner/box.h"

/* Both ends can hold two of the largest messages, else a sender could never send one. */
static int socket_pair(int ret[2], struct err *err)
{
	const int size = 2 * WIRE_MAX;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ret) < 0)
		return err_sys(err, "socketpair");
	for (int i = 0; i < 2; i++)
		if (setsockopt(ret[i], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)) < 0) {
			int r = err_sys(err, "SO_SNDBUF");

			ret[0] = fd_close(ret[0]);
			ret[1] = fd_close(ret[1]);
			return r;
		}
	return 0;
}

static int watched_pipe(struct box *b, struct source *s, int *ret_write, struct err *err)
{
	int p[2], r;

	if (pipe2(p, O_CLOEXEC) < 0)
		return err_sys(err, "pipe");
	r = fd_set_nonblock(p[0], true);
	if (r == 0)
		r = events_watch(&b->sp->ev, s, p[0], EPOLLIN);
	if (r < 0) {
		fd_close(p[0]);
		fd_close(p[1]);
		return err_sys_code(err, r, "watch a pipe");
	}
	*ret_write = p[1];
	return 0;
}

/* The builder has nothing else to wait for. */
static int plan_channel(struct box *b, struct box_inner *in, struct err *err)
{
	int plan[2], r = socket_pair(plan, err);

	if (r < 0)
		return r;
	b->plan_fd = plan[0];
	in->plan = plan[1];
	r = fd_set_nonblock(plan[1], false);
	return r < 0 ? err_sys_code(err, r, "the plan's socket") : 0;
}

int box_channels(struct box *b, struct box_inner *in, struct err *err)
{
	int control[2], egress[2];
	int r = socket_pair(control, err);

	if (r < 0)
		return r;
	b->control_fd = control[0];
	in->control = control[1];
	r = socket_pair(egress, err);
	if (r < 0)
		return r;
	b->egress_fd = egress[0];
	in->egress = egress[1];
	r = watched_pipe(b, &b->ready, &in->ready, err);
	if (r == 0)
		r = watched_pipe(b, &b->report, &in->report, err);
	return r < 0 || !b->blank ? r : plan_channel(b, in, err);
}

int box_send_config(const struct box *b, const struct plan *p, const char *hostname)
{
	struct wire_out o;

	conn_begin(b->sp, &o, WIRE_CONFIG, (struct waiter){ 0, 0 });
	plan_put_config(hostname, p->hosts, p->workdir, &o);
	return wire_send(b->control_fd, &o, NULL, 0);
}

int box_send_plan(const struct box *b, const struct plan *p)
{
	struct wire_out o;
	size_t len = 0;
	int r;

	conn_begin(b->sp, &o, WIRE_MAKE, (struct waiter){ 0, 0 });
	plan_encode(p, &o);
	r = wire_end(&o, &len);
	return r < 0 ? r : fd_send(b->plan_fd, o.buf, len, NULL, 0);
}
