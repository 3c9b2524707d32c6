/* gateway/private.h: the objects behind gateway/session.h. Included by src/gateway only. */
#pragma once

#include "auth/auth.h"
#include "auth/sid.h"
#include "base/list.h"
#include "base/map.h"
#include "base/slots.h"
#include "base/strv.h"
#include "env/env.h"
#include "gateway/session.h"
#include "gateway/upstream.h"
#include "http/client.h"
#include "http/sse.h"
#include "json/json.h"

struct gateway {
	struct loop *loop;
	struct auth *auth;
	struct store *store;
	struct envs *envs;
	struct gateway_sandboxes sandboxes;
	struct gateway_settings settings;
	struct map *sessions;   /* by id: struct session, until CLOSED */
	struct map *ended;      /* by the bytes of the id: struct ended, for remember_ms */
	struct map *reasons;    /* by its text: struct ended_reason */
	struct list by_use;     /* struct session.use_node: least recently used first; not those with an open request */
	struct list by_age;     /* struct session.age_node: oldest first */
	struct list ended_list; /* struct ended.node: oldest first */
	struct list recorded;   /* struct ended.recorded: those that have a record, oldest first */
	struct loop_timer sweep;
	struct slots *records;  /* table.c; NULL = none are kept */
	bool same_life;
	struct gateway_counts counts;
	bool shutting_down;
	void (*shutdown_done)(void *arg);
	void *shutdown_arg;
};

struct session {
	struct gateway *g;
	char id[SID_LEN];
	uint32_t slot;                      /* of its record; SLOTS_NONE = none */
	enum session_state state;
	const char *namespace_id;           /* of the key that opened it: the store's, as env is */
	struct store_key *opener;           /* that key; NULL = it is known no more */
	const char *key_id;                 /* its id, or "" */
	struct store_environment *env;
	struct env_wait *wait;              /* OPENING */
	struct instance *instance;          /* a use of it; NULL while OPENING and when CLOSED */
	struct env_wait *place_wait;        /* its /create waits for a place; the proxy's, which cancels it */
	bool placed;                        /* and a place in it: from its first /create on */
	char **vars;                        /* "K=V" for an instance of its own, NULL-terminated; NULL = none */
	struct sse *stream;                 /* the open creation stream, NULL = none */
	struct create *stream_of;           /* its request, until that is closed */
	struct loop_timer opening;          /* how long OPENING may last */
	unsigned open_requests;             /* these hold the lease */
	bool created;                       /* a /create succeeded and no /delete was sent since: pings are passed on */
	bool may_exist;                     /* a /create was sent, and no /delete succeeded since: owes a teardown */
	bool awaits_vars;                   /* OPENING, of a former daemon: the client has to send "env" again */
	bool creating;                      /* a /create is under way; others wait their turn */
	bool create_open;                   /* a /create was sent and is not answered */
	bool create_unsure;                 /* nor was the last one, to its client, whose connection broke or whose daemon died */
	int64_t create_length;              /* of that one's body */
	unsigned creations;                 /* that succeeded */
	struct list create_queue;           /* struct proxy.queue_node */
	struct list proxies;                /* struct proxy.session_node: exchanges under way */
	uint64_t last_use_ms, opened_ms;    /* CLOCK_MONOTONIC */
	uint64_t last_forwarded_ping_ms;
	char *end_reason;                   /* from ENDING on */
	struct list removals;               /* struct removal: requests that wait for CLOSED */
	struct list owns;                   /* struct own: requests of ours under way */
	struct own *own_delete;             /* ENDING: the /delete that we send ourselves */
	void (*after_delete)(struct session *s);
	bool pinging;                       /* a ping is passed on just now */
	bool closing;                       /* its sandboxes are being ended: session_close() comes next */
	unsigned refs;                      /* exchanges that still look at it; CLOSED and 0 = freed */
	char key[AUTH_KEY_LEN];             /* the session's own, once its instance was given one; "" before */
	int64_t lost_call_length;           /* of the last /call that broke before its client had a byte of the answer */
	uint64_t lost_call_ms;              /* when; 0 = none */
	struct list use_node, age_node;
};

/* A session that is over: ended.c. */
struct ended {
	struct list node, recorded;
	unsigned char id[SID_BYTES];
	uint32_t slot; /* of its record; SLOTS_NONE = none */
	const char *namespace_id; /* the store's */
	struct ended_reason *reason;
	uint64_t until_ms;
};

/* A request that is answered with {"sid"} when the session is CLOSED. */
struct removal {
	struct list node;
	struct http_req *req;  /* NULL = its peer is gone */
	struct removal **back; /* in the request's memory: NULL once this is freed */
};

/* session.c */
struct session *session_new(struct gateway *g, const struct auth_caller *caller, struct store_environment *env);
/* One of a former daemon, OPENING, with its record; whoever calls it says how it goes on. */
struct session *session_restore(struct gateway *g, const char *id, uint32_t slot, const char *namespace_id,
				struct store_key *opener,
				struct store_environment *env);
struct session *session_find(struct gateway *g, const char *id); /* NULL = unknown or CLOSED */
/* The caller's own session by X-Session-ID, or an answered request and NULL: 400, 401, 404, 410. */
struct session *session_of_request(struct gateway *g, struct http_req *req, const struct auth_caller **ret_caller);
/* Of the caller's namespace; for a reader: of its own key. */
bool session_is_of(const struct session *s, const struct auth_caller *c);
void session_hold(struct session *s);    /* a request begins */
void session_unhold(struct session *s);  /* and ends: both renew the lease */
void session_touch(struct session *s);
void session_retain(struct session *s);  /* keeps the memory, not the lease */
void session_release(struct session *s);
void session_end(struct session *s, const char *reason); /* harmless to repeat */
void session_crashed(struct session *s, const char *reason); /* its instance is gone: no teardown */
void on_sweep(struct loop_timer *t, void *arg);
void reply_sid(struct http_req *req, const char *sid);

void session_discard(struct session *s); /* the gateway ends: gives everything back, tells nobody */

/* ended.c */
void ended_init(struct gateway *g); /* settings are there */
void ended_done(struct gateway *g);
/* namespace_id is the store's; reason is copied. Forgets the oldest where there are remember_max. NULL = that is no id. */
struct ended *ended_add(struct gateway *g, const char *id, const char *namespace_id, const char *reason);
/* One of the caller's namespace; NULL = there is none, or it is forgotten. */
const struct ended *ended_find(const struct gateway *g, const char *id, const struct auth_caller *c);
const char *ended_reason(const struct ended *e);
void ended_sweep(struct gateway *g, uint64_t now);

/* overrides.c */
/* Variables of a session's own instance, from the body's "env": "K=V"; NULL = none. The environment's owner may set any,
 * everybody else those that name a model's provider. -EINVAL names the variable. The caller frees with strv_erase(). */
MUST_CHECK int overrides_read(char ***ret, json_t *env, const struct auth_caller *caller, const struct store_environment *of,
			      struct err *err);
/* table.c: all harmless where no records are kept */
MUST_CHECK int table_open(struct gateway *g, struct err *err);
uint32_t table_take(struct gateway *g);
void table_add(const struct session *s);
void table_save(const struct session *s); /* after a change of state, instance, created, may_exist */
void table_key(const struct session *s, const unsigned char hash[AUTH_HASH_LEN], enum store_role role);
void table_call(const struct session *s, int64_t length, bool open);
void table_ended(struct session *s, struct ended *e); /* the session's record becomes e's */

/* create.c */
void session_open(struct session *s);                       /* waits for an instance */
void session_ready(struct session *s, struct instance *i, bool placed); /* i is used for it */
struct create;
void create_session_handler(struct http_req *req, void *gateway);

/* place.c: which instance a session is with */
/* Before its first /create: a place in an instance, which may be another than the visited one; it waits for it in the
 * environment's queue. done gets a place and a use, to be given to place_taken(). */
struct env_wait *place_take(struct session *s, env_instance_fn *done, void *arg);
void place_cancel(struct session *s); /* before done */
void place_taken(struct session *s, struct instance *i);
void place_enter(struct session *s, struct instance *i); /* i's use is the session's from now on */
void place_leave(struct session *s);                     /* gives all back; harmless without */
/* Answers with 429 where one more would wait and the queue, or the key's share of it, is at its bound. */
bool queue_is_full(struct gateway *g, struct http_req *req, const char *key, struct store_environment *env, enum env_want want);

/* proxy.c */
struct proxy;
void proxy_start(struct session *s, struct http_req *req, const struct auth_caller *caller);
void proxies_abort(struct session *s); /* the instance is gone */
void proxies_refuse_queued(struct session *s); /* those that did not begin yet: the session is ending */

/* bare.c: paths without the name of an environment */
/* The first name of a JSON list of names; malloc'ed. NULL where it is not such a list, or a name is not one for a path. */
char *bare_first_environment(const char *list, size_t len);
/* The target for a request with such a path, in its memory; NULL = as it came. env NULL = not known. */
const char *bare_target(struct http_req *req, const char *env);

/* own.c: requests of ours to the instance */
void own_list(struct session *s);     /* once per instance: asks for its environments */
void own_ping(struct session *s);     /* 404 ends the session */
struct own;
/* done once, at the latest after teardown_ms. While a /create is under way it waits for own_create_over(): a server in
 * the middle of a constructor takes a /delete for one of a session that it does not have. */
void own_delete(struct session *s, void (*done)(struct session *s));
void own_create_over(struct session *s);
void own_delete_cancel(struct session *s);
/* Whether the instance has the session (its /ping says so). done runs once, unless own_forget() comes first. */
typedef void own_exists_fn(void *arg, bool exists);
struct own *own_exists(struct session *s, own_exists_fn *done, void *arg);
void own_forget(struct own *o); /* of own_exists() */
void owns_abort(struct session *s); /* before the instance is given back; their done runs */

/* secrets.c */
/* X-Secrets as the instance gets it: the platform's own key is replaced by one that is good for this session only. A
 * malloc'ed value, or NULL to pass the client's unchanged. */
char *secrets_for_instance(struct session *s, const struct auth_caller *caller, const char *header);
