/* daemon/server.h: the running daemon: owns every module's object, makes them in the order of their layers, ends them in
 * the opposite one. One per process, on the loop's thread. Everything that one module must know of another and may not
 * include is wired here (tables of functions, callbacks).
 *
 *   STARTING -> SERVING -> ENDING -> gone
 *                      \-> LEAVING -> gone
 *
 *   STARTING  modules are being made, what a former daemon left is taken over; nothing is accepted: clients wait in
 *             the backlog of the sockets that the spawner holds.                             daemon_run()
 *   SERVING   the listening sockets are open, READY=1 was told.                              daemon_serve()
 *   ENDING    SIGTERM or SIGINT, and the spawner is ours: nothing new is accepted; sessions end with their teardown, then
 *             the spawner ends all that runs. A second signal, or END_TIMEOUT_MS, ends the waiting.  daemon_end()
 *   LEAVING   SIGUSR2, or SIGTERM where the spawner is a service of its own: nothing new is accepted, open requests
 *             finish, for restart.drain at most; everything that runs stays for the next daemon.     daemon_leave()
 *
 * A lost spawner ends the daemon with an error at once: its sandboxes are dead, and only a new start brings others. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "api/api.h"
#include "api/common/metrics.h"
#include "base/strv.h"
#include "daemon/config.h"
#include "daemon/launch.h"
#include "engine/engine.h"
#include "http/origin.h"
#include "sandbox/link.h"

struct buckets;
struct builds;
struct difficulty;
struct engine;
struct gateway;
struct git;
struct github;
struct http_tls;
struct recorder;
struct sandboxes;

struct daemon {
	const struct config *config; /* borrowed */
	const struct launch *launch; /* borrowed */
	struct loop *loop;
	struct link *link;           /* the spawner's other end */
	struct loop_timer watch;     /* looks whether the spawner is still there */
	unsigned away;               /* looks in a row that did not find it */
	struct store *store;
	struct auth *auth;
	struct images *images;
	struct buckets *buckets;
	struct builds *builds;
	struct engine *engine;
	struct envs *envs;
	struct git *git;
	struct github *github;
	struct recorder *recorder;
	struct difficulty *difficulty;
	struct sandboxes *sandboxes;
	struct gateway *gateway;
	struct http_router *router;
	struct http_server *http;
	struct api_metrics *metrics;
	struct api api;              /* what the handlers of the control plane see */
	char *state_dir;             /* DATA/run */
	struct strv instance_env;    /* for every environment server; see modules.c */
	struct strv sandbox_env;
	struct strv mount_texts;     /* "SOURCE[:TARGET]", for every box; what `mounts` points into */
	struct engine_mount *mounts; /* ends with a NULL source */
	uint64_t platform_total, denied_total; /* connections from inside: to the platform; refused */
	uint64_t told_dropped_ms;    /* when the log was told of one that was dropped; 0 = never */
	struct http_tls *tls;        /* NULL = no TLS */
	char address[HTTP_SOCKADDR_TEXT]; /* HOST:PORT for programs of this machine: a plain one of loopback, else the first */
	bool address_tls;
	void (*ended)(void *arg);    /* whom modules_end() tells */
	void *ended_arg;
	bool serving, ending;
	bool leaving;                /* ending, and everything stays */
	struct loop_timer drain;     /* LEAVING: looks whether all requests are over */
	uint64_t drain_until_ms;
	struct err start_err;        /* why serving could not begin */
	bool stopping;               /* sessions have ended, or were not waited for */
	bool lost;                   /* the spawner is gone */
};

/* Runs the daemon to its end; after launch(). Returns 0 for an end that somebody asked for, DAEMON_LEFT when the spawner and
 * all that it holds stay for the next daemon. */
#define DAEMON_LEFT 1
MUST_CHECK int daemon_run(const struct config *c, const struct launch *l, struct err *err);

/* -- modules.c: everything between the store and HTTP ------------------------------------------------------------ */
MUST_CHECK int modules_open(struct daemon *d, struct err *err);
void modules_routes(struct daemon *d);
/* What a former daemon left becomes ours; done when that is settled, before anybody is served. */
void modules_take_over(struct daemon *d, void (*done)(void *arg), void *arg);
/* Ends sessions; done when nothing of theirs runs any more. */
void modules_end(struct daemon *d, void (*done)(void *arg), void *arg);
void modules_close(struct daemon *d); /* harmless when half open */

/* -- listeners.c: the sockets that clients come by ---------------------------------------------------------------- */
/* Reads certificate and key, where the configuration names them; before listeners_open(). */
MUST_CHECK int listeners_open_tls(struct daemon *d, struct err *err);
/* Takes the sockets of the spawner, once; writes DATA/run/address and prints the addresses. */
MUST_CHECK int listeners_open(struct daemon *d, struct err *err);
void listeners_reload_tls(struct daemon *d); /* says in the log what came of it */
void listeners_forget(struct daemon *d);     /* removes DATA/run/address */

/* -- figures.c ----------------------------------------------------------------------------------------------------- */
void figures_register(struct daemon *d); /* collectors for /metrics */
