/* gateway/session.h: one agent's conversation with one environment, and the table of all of them.
 * Owned by the gateway; loop thread only.
 *
 *   OPENING <-> READY -> ENDING -> CLOSED
 *      |                   ^
 *      +-------------------+
 *
 *   OPENING  POST /create_session is answered by a stream; an instance is waited for. The stream may break and be
 *            taken up again with the session's id as task_id; meanwhile it waits for nothing. gateway_create_session()
 *   READY    holds one use of a healthy instance; everything is passed through to it. Until its first /create it is a
 *            visitor, which takes no place; with that it takes one, maybe in another instance, and stays there. One whose
 *            instance is gone while it waits for its place is OPENING again.
 *                                                                  on_instance(), place_taken(), on_instance_gone()
 *   ENDING   no request is accepted any more. The instance gets /delete unless it had it (its teardown may still use the
 *            session's sandboxes), for at most teardown_ms.                           session_end()
 *   CLOSED   its sandboxes are dead, the use of the instance is given back; id and reason are remembered for an hour, or
 *            until remember_max more have ended, and answered with 410.               session_close()
 *
 * A lease is kept by use: every request renews it when it starts and when it ends, and an open request or creation
 * stream holds it. lease_ms of silence end the session, hard_ms end it whatever happens. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/tally.h"
#include "http/router.h"
#include "http/server.h"
#include "loop/loop.h"

struct auth;
struct envs;
struct store;
struct store_environment;
struct sandboxes; /* api/sandbox/sandbox.h: through the interface below, since it lies above */
struct gateway;

enum session_state { SESSION_OPENING, SESSION_READY, SESSION_ENDING, SESSION_CLOSED };

struct gateway_settings {
	uint64_t lease_ms;          /* 120,000 */
	uint64_t hard_ms;           /* 86,400,000 */
	uint64_t teardown_ms;       /* 60,000 */
	uint64_t remember_ms;       /* how long an ended id is answered with 410; 3,600,000 */
	size_t remember_max;        /* so many of them, the newest; 0 = 200,000 */
	uint64_t open_ms;           /* OPENING lasts at most this long; 0 = 1,800,000, as long as clients wait */
	uint64_t ping_forward_ms;   /* a client's ping reaches the instance at most this often; 60,000 */
	size_t sessions_max;        /* open at once; beyond it 429; 20,000 */
	struct share queue;         /* who may wait for an instance; beyond it 429; 0 = 1,000 */
	size_t idle_upstreams_max;  /* kept connections per instance; 64 */
	uint64_t upstream_idle_ms;  /* the instance's own server closes after 60 s; 30,000 */
	struct http_limits http;    /* for connections to instances */
	const char *state_dir;      /* for the file of sessions; NULL = they end with the daemon */
	const char *life;           /* of the instances: records of another are of sessions that are lost */
};

/* What the gateway needs of the sandboxes that sessions own. All members are set. */
struct gateway_sandboxes {
	/* Ends every sandbox that the session owns; done once the last process is dead. */
	void (*end_owned)(void *arg, const char *sid, void (*done)(void *done_arg), void *done_arg);
	/* Answers a request whose session id is a sandbox's, live or remembered; false = not one of mine, unanswered. */
	bool (*ping)(void *arg, struct http_req *req, const char *sid);
	bool (*remove)(void *arg, struct http_req *req, const char *sid);
	void *arg;
};

MUST_CHECK int gateway_new(struct gateway **ret, struct loop *l, struct auth *auth, struct store *store, struct envs *envs,
			   const struct gateway_sandboxes *sandboxes, const struct gateway_settings *settings, struct err *err);
/* After the HTTP server (its requests look at sessions) and before the environments. Open sessions are dropped. */
struct gateway *gateway_free(struct gateway *g);

/* Sessions of a former daemon, after envs_resume() and before envs_taken_over(): see table.c. Before anybody is served. */
void gateway_take_over(struct gateway *g);

/* Registers /create_session, /ping, /delete, /delete_session and the pass-through fallback. */
void gateway_routes(struct gateway *g, struct http_router *r);
/* Passes a request of a session through to its instance, as the fallback does: for routes that others registered but that
 * belong to the instance when X-Session-ID is there. arg is the gateway. */
void gateway_pass(struct http_req *req, void *arg);

/* Ends every session (with teardown); done when the last is closed. New ones are refused with 503 from the call on. */
void gateway_shutdown(struct gateway *g, const char *reason, void (*done)(void *arg), void *arg);

/* The environment that an open session talks to, NULL = there is no such session. arg is the gateway. */
struct store_environment *gateway_session_environment(void *arg, const char *sid);

struct gateway_counts {
	size_t open, opening;
	uint64_t refused_total; /* with 429: the queue, or sessions_max */
	uint64_t sessions_total, proxied_total, upstream_errors_total, expired_total;
	/* Calls that look like a repeat: a /call of the same length, in the same session, within 30 s of one whose connection
	 * broke before the client had a byte of its answer. Bodies are not parsed, so it is an estimate. */
	uint64_t resent_calls_total;
	uint64_t adopted_total; /* of a former daemon */
};
void gateway_counts(const struct gateway *g, struct gateway_counts *ret);
