#include "egress/egress.h"

#include <errno.h>
#include <string.h>
#include <sys/resource.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "egress/sandbox.h"

#define FEW 16 /* descriptors of a sandbox that may take of the second half */

struct egress_config egress_config_default(void)
{
	return (struct egress_config){
		.platform_name = "openreward.internal",
		.resolv_conf = "/etc/resolv.conf",
		.hosts = "/etc/hosts",
		.max_connections = 1024,
		.max_dns = 64,
		.dial_ms = 30000,
		.half_close_ms = 600000,
	};
}

/* -- descriptors ------------------------------------------------------------------------------------------------- */
static bool refuse_fds(struct egress *e)
{
	if (!e->warned_fds)
		log_warn("egress", "%zu of %zu descriptors are in use: new connections are refused", e->n_fds, e->max_fds);
	e->warned_fds = true;
	return false;
}

bool egress_fds_take(struct egress *e, size_t n)
{
	if (e->n_fds + n > e->max_fds)
		return refuse_fds(e);
	e->n_fds += n;
	return true;
}

bool egress_fds_take_more(struct egress *e, size_t held, size_t n)
{
	size_t coming = e->max_fds / 4, keep = held + n > FEW ? e->max_fds / 2 : coming - MIN(coming, e->n_sandboxes);

	return e->n_fds + n + keep <= e->max_fds ? egress_fds_take(e, n) : refuse_fds(e);
}

void egress_fds_give(struct egress *e, size_t n)
{
	e->n_fds -= n;
	if (e->n_fds < e->max_fds / 2 - e->max_fds / 8)
		e->warned_fds = false;
}

/* -- to the daemon ----------------------------------------------------------------------------------------------- */
int egress_send_platform(struct egress *e, const char *id, uint64_t number, uint16_t port, int fd)
{
	struct wire_out o;

	if (e->daemon_fd < 0)
		return -ENOTCONN;
	wire_begin(&o, e->message, WIRE_MAX, WIRE_PLATFORM, 0);
	wire_put_str(&o, WIRE_T_ID, id);
	wire_put_u64(&o, WIRE_T_NUMBER, number);
	wire_put_u64(&o, WIRE_T_PORT, port);
	int r = wire_send(e->daemon_fd, &o, &fd, 1);
	if (r < 0 && !e->warned_daemon)
		log_warn("egress", "connections to the platform are refused: the daemon does not take them: %s",
			 strerror(-r));
	e->warned_daemon = r < 0;
	return r;
}

void egress_send_denied(struct egress *e, const char *id, const char *text)
{
	struct wire_out o;

	if (e->daemon_fd < 0)
		return;
	wire_begin(&o, e->message, WIRE_MAX, WIRE_DENIED, 0);
	wire_put_str(&o, WIRE_T_ID, id);
	wire_put_str(&o, WIRE_T_TEXT, text);
	int r = wire_send(e->daemon_fd, &o, NULL, 0);
	if (r < 0)
		log_debug("egress", "a refusal was not told to the daemon: %s", strerror(-r));
}

/* -- from the spawner -------------------------------------------------------------------------------------------- */
static void register_sandbox(struct egress *e, const struct wire_in *in, int fd)
{
	struct err err = ERR_INIT;
	const char *id = wire_get_str(in, WIRE_T_ID, 0);
	uint64_t net = wire_get_u64(in, WIRE_T_NET, PLAN_NET_BLOCKED);

	if (!id || fd < 0 || net > PLAN_NET_BUILD) {
		log_warn("egress", "a registration without a valid id, policy or socket was passed over");
		fd_close(fd);
		return;
	}
	int r = egress_sandbox_new(e, id, wire_get_u64(in, WIRE_T_NUMBER, 0), (enum plan_net)net, fd, &err);
	if (r < 0)
		log_event(LOG_ERROR, "egress", LOG_KV("sandbox", id), "not registered: %s", err.msg);
}

static void on_spawner(struct loop_io *io, uint32_t events, void *arg)
{
	struct egress *e = arg;
	struct wire_in in;
	int fd = -1;
	size_t len = 0, n_fds = 0;

	(void)events;
	int r = fd_recv(io->fd, e->message, WIRE_MAX, &len, &fd, 1, &n_fds);
	if (r == -EAGAIN || r == -EMSGSIZE || r == -EMFILE)
		return;
	if (r < 0 || len == 0) {
		loop_stop(e->loop, r < 0 ? 1 : 0);
		return;
	}
	if (n_fds == 0)
		fd = -1;
	if (wire_parse(&in, e->message, len) < 0 || in.type != WIRE_REGISTER) {
		log_warn("egress", "a message of the spawner was not understood");
		fd_close(fd);
		return;
	}
	register_sandbox(e, &in, fd);
}

/* -- life -------------------------------------------------------------------------------------------------------- */
/* The soft limit goes up to the hard one, which may be as low as 20,000 and cannot be raised. */
static size_t descriptor_budget(void)
{
	struct rlimit l = { .rlim_cur = 1024, .rlim_max = 1024 };

	if (getrlimit(RLIMIT_NOFILE, &l) == 0 && l.rlim_cur < l.rlim_max) {
		l.rlim_cur = l.rlim_max;
		(void)setrlimit(RLIMIT_NOFILE, &l);
		(void)getrlimit(RLIMIT_NOFILE, &l);
	}
	return l.rlim_cur > 2 * EGRESS_FD_RESERVE ? l.rlim_cur - EGRESS_FD_RESERVE : EGRESS_FD_RESERVE;
}

int egress_init(struct egress *e, struct loop *loop, const struct egress_config *config, int spawner_fd, int daemon_fd,
		struct err *err)
{
	*e = (struct egress){ .loop = loop, .config = *config, .spawner_fd = spawner_fd, .daemon_fd = daemon_fd };
	e->local.fd = -1;
	list_init(&e->sandboxes);
	e->max_fds = descriptor_budget();
	e->message = xmalloc(WIRE_MAX);
	e->scratch = xmalloc(EGRESS_BUFFER_BYTES);
	egress_resolver_init(&e->resolver, loop, config->resolv_conf);

	int r = fd_set_nonblock(spawner_fd, true);
	if (r == 0 && daemon_fd >= 0)
		r = fd_set_nonblock(daemon_fd, true);
	if (r < 0)
		err_sys_code(err, r, "prepare the inherited sockets");
	if (r == 0)
		r = egress_local_init(&e->local, loop, err);
	if (r == 0)
		r = loop_io_open(&e->spawner_io, loop, spawner_fd, EPOLLIN, on_spawner, e, err);
	if (r < 0)
		egress_done(e);
	return r;
}

void egress_done(struct egress *e)
{
	list_foreach(&e->sandboxes, struct egress_sandbox, node, s)
		egress_sandbox_end(s);
	loop_io_close(&e->spawner_io);
	e->spawner_fd = fd_close(e->spawner_fd);
	e->daemon_fd = fd_close(e->daemon_fd);
	egress_local_done(&e->local);
	egress_rules_done(&e->config.allow);
	egress_rules_done(&e->config.build);
	free(e->message);
	free(e->scratch);
	e->message = e->scratch = NULL;
}
