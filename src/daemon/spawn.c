#include "daemon/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/str.h"
#include "base/strv.h"
#include "base/time.h"
#include "build/conf.h"
#include "build/hostconf.h"

#define START_TIMEOUT_MS 20000
#define STOP_TIMEOUT_MS 10000

bool spawn_is_listening(const char *socket_path)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };

	if (strlen(socket_path) >= sizeof(addr.sun_path))
		return false;
	memcpy(addr.sun_path, socket_path, strlen(socket_path) + 1);
	auto_fd fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	return fd >= 0 && connect(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0;
}

int spawn_write_build_conf(const struct config *c, struct err *err)
{
	struct build_conf bc;

	build_conf_init(&bc);
	build_conf_set(&bc, c->build_inherit_host, (const char *const *)c->build_env, (const char *const *)c->build_mounts,
		       c->image_aliases);
	bc.memory_bytes = c->build_memory_bytes;
	bc.disk_bytes = c->build_disk_bytes;
	bc.min_free_bytes = c->build_min_free_bytes;
	int r = build_conf_write(c->data, &bc, err);
	build_conf_done(&bc);
	return r;
}

/* -- arguments ------------------------------------------------------------------------------------------------- */

static void add_pair(struct strv *a, const char *option, const char *value)
{
	strv_add(a, xstrdup(option));
	strv_add(a, xstrdup(value));
}

static void add_number(struct strv *a, const char *option, unsigned long value)
{
	char text[24];

	snprintf(text, sizeof(text), "%lu", value);
	add_pair(a, option, text);
}

static void add_mounts(struct strv *a, char *const *mounts)
{
	for (; *mounts; mounts++) {
		auto_free char *source = xstrndup(*mounts, strcspn(*mounts, ":"));
		add_pair(a, "--mount", source);
	}
}

static void add_egress(struct strv *a, const char *option, const char *value)
{
	auto_free char *text = xasprintf("%s=%s", option, value);

	add_pair(a, "--egress-arg", text);
}

/* Registries on private addresses: builds may reach them by default, sandboxes where the operator says so. */
static void add_host_names(struct strv *a, const struct config *c)
{
	char **env = hostconf_snapshot();
	char **hosts = hostconf_hosts((const char *const *)env);

	for (char **h = hosts; h && *h; h++) {
		if (c->build_inherit_host)
			add_egress(a, "--build-allow", *h);
		if (c->sandbox_inherit_host)
			add_egress(a, "--allow", *h);
	}
	strv_free(hosts);
	strv_free(env);
}

/* What sandboxes write never keeps others from starting, nor builds. */
static void add_disk(struct strv *a, const struct config *c)
{
	uint64_t others = MAX(c->room.disk_free_bytes, c->build_min_free_bytes);

	add_number(a, "--disk-total", c->sandbox_disk_total);
	add_number(a, "--disk-reserve", MAX(c->sandbox_disk_reserve, others + others / 4));
}

static void add_all(struct strv *a, const struct launch *l, const struct config *c)
{
	strv_add(a, xasprintf("%s/openreward-spawner", l->libexec));
	add_pair(a, "--data", c->data);
	add_number(a, "--uid", l->uid);
	add_number(a, "--gid", l->gid);
	for (char *const *p = c->listen; *p; p++)
		add_pair(a, "--listen", config_listen_address(*p));
	add_pair(a, "--libexec", l->libexec);
	add_pair(a, "--program", l->self);
	add_mounts(a, c->sandbox_mounts);
	if (l->host_dir)
		add_pair(a, "--mount", l->host_dir);
	if (c->sandbox_disk_bytes)
		add_disk(a, c);
	if (c->log_format == LOG_JSON)
		add_pair(a, "--egress-arg", "--log-json");
	if (c->log_level == LOG_DEBUG)
		add_pair(a, "--egress-arg", "--debug");
	for (char *const *p = c->egress_allow; *p; p++)
		add_egress(a, "--allow", *p);
	add_host_names(a, c);
}

char **spawn_args(const struct launch *l, const struct config *c)
{
	struct strv a = { 0 };

	add_all(&a, l, c);
	return a.list;
}

/* -- the process ----------------------------------------------------------------------------------------------- */

static NORETURN void exec_spawner(char **argv)
{
	sigset_t none;
	int null = open("/dev/null", O_RDWR);

	setsid(); /* a Ctrl-C at the terminal is for the daemon, which then asks the spawner to end */
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if (null >= 0) {
		dup2(null, STDIN_FILENO);
		dup2(null, STDOUT_FILENO);
	}
	(void)syscall(SYS_close_range, 3u, ~0u, 4u /* CLOSE_RANGE_CLOEXEC */);
	execv(argv[0], argv);
	dprintf(STDERR_FILENO, "openreward: %s: %s\n", argv[0], strerror(errno));
	_exit(127);
}

/* Polling: the spawner's socket appears when all else that it does at its start is done, a few times in a life. */
static int wait_listening(struct launch *l, struct err *err)
{
	uint64_t deadline = time_now_ms() + START_TIMEOUT_MS;
	int status;

	while (time_now_ms() < deadline) {
		if (spawn_is_listening(l->spawner_socket))
			return 0;
		if (waitpid(l->spawner, &status, WNOHANG) == l->spawner) {
			l->spawner = 0;
			return err_set(err, -EIO, "openreward-spawner did not start; its reason stands above");
		}
		poll(NULL, 0, 5);
	}
	return err_set(err, -ETIME, "openreward-spawner did not listen on %s within %d s", l->spawner_socket,
		       START_TIMEOUT_MS / 1000);
}

int spawn_start(struct launch *l, const struct config *c, struct err *err)
{
	char **argv = spawn_args(l, c);

	/* Of a spawner that died without cleaning up: nobody accepts there, as was just seen. */
	unlink(l->spawner_socket);
	l->spawner = fork();
	if (l->spawner == 0)
		exec_spawner(argv);
	strv_free(argv);
	if (l->spawner < 0) {
		l->spawner = 0;
		return err_sys(err, "starting openreward-spawner");
	}
	return wait_listening(l, err);
}

int spawn_exec(const struct launch *l, const struct config *c, struct err *err)
{
	struct strv a = { 0 };

	add_all(&a, l, c);
	strv_add(&a, xstrdup("--keep"));
	execv(a.list[0], a.list);
	int r = err_sys(err, "running %s", a.list[0]);
	strv_free(a.list);
	return r;
}

void spawn_stop(struct launch *l)
{
	uint64_t deadline = time_now_ms() + STOP_TIMEOUT_MS;

	if (l->spawner <= 0)
		return;
	kill(l->spawner, SIGTERM);
	while (waitpid(l->spawner, NULL, WNOHANG) == 0) {
		if (time_now_ms() > deadline)
			kill(l->spawner, SIGKILL);
		poll(NULL, 0, 5);
	}
	l->spawner = 0;
}
