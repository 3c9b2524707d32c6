/* daemon/config.h: everything an operator can set, and the only place where defaults are written (config.c, one table).
 * docs/openreward.yaml.example shows every key with its default; a test compares the two.
 *
 * Reading is strict: an unknown key is an error that names its line and the nearest known key; a wrong value names key,
 * value and what was expected. Durations are written "250ms", "30s", "15m", "24h"; sizes "50000", "64KiB", "2GiB".
 * Owned by the daemon, immutable after config_load(); strings and lists are never NULL, lists end in NULL. Modules below
 * daemon/ do not include this: wiring hands each what it needs. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/log.h"
#include "http/server.h"
#include "image/image.h"
#include "sandbox/admit.h"

struct config {
	/* the daemon */
	char *data;             /* DATA; absolute */
	char **listen;          /* [http://|https://]HOST:PORT, at least one; port 0 = any */
	char *tls_certificate, *tls_key; /* paths; both or neither "" */
	bool insecure;          /* other addresses than this machine's own may be listened on in plain */
	char **proxies;         /* http_server_trust() */
	char *user;             /* whom the daemon and egress run as */
	char *libexec;          /* folder of the other programs; "" = beside this one, else ../libexec/openreward */
	enum log_level log_level;
	enum log_format log_format;
	struct http_limits http; /* http.* */
	uint64_t restart_drain_ms;     /* a daemon that leaves lets open requests finish this long */
	uint64_t upload_max_bytes; /* http.upload: tar of a deployment */

	/* sessions: between clients and environments */
	uint64_t session_idle_ms;      /* silence that ends one */
	uint64_t session_hard_ms;      /* longest life */
	uint64_t session_teardown_ms;  /* an ending session's environment has this long to clean up */
	uint64_t session_max;          /* open at once; beyond it 429 */
	uint64_t session_ping_ms;      /* pings are passed on at most this often */
	uint64_t session_ended_ms;     /* an ended one is remembered (410) this long */
	uint64_t session_ended_max;    /* and so many of them */

	/* keys: struct auth_limits */
	uint64_t key_sessions, key_sandboxes, key_rate; /* of each key; 0 = no limit */

	/* sandboxes */
	char *sandbox_size;            /* "CPU:GIB" when a request names none */
	uint64_t sandbox_idle_ms;      /* silence that ends one */
	uint64_t sandbox_hard_ms;      /* longest life */
	uint64_t sandbox_disk_reserve; /* what that one leaves free of the disk */
	uint64_t sandbox_disk_total;   /* of the file system that they get where there is no quota; 0 = by what is free */
	uint64_t sandbox_files;        /* that one may make */
	uint64_t sandbox_disk_bytes;   /* struct plan; 0 = no limit */
	/* Sandboxes prepared before they are asked for: struct local_settings. */
	uint64_t pool_max, pool_keep_ms, pool_bytes, pool_blanks;
	uint64_t sandbox_pids;         /* processes and threads in one */
	uint64_t sandbox_result_ms;    /* a result that was read is kept this long */
	uint64_t sandbox_claim_ms;     /* after a restart: how long that repetition waits for those who know their task_id */
	uint64_t sandbox_repeat_ms;    /* how long a broken /run may be joined by its repetition */
	uint64_t sandbox_result_bytes; /* most of one run's output when max_bytes is null; 0 = no limit */
	uint64_t sandbox_runs;         /* background runs of one that are kept */
	uint64_t sidecars;             /* beside one sandbox */
	char *sidecar_size;            /* as sandbox_size */
	uint64_t sidecar_log_bytes;    /* kept of what one wrote */
	bool sandbox_memory_upper;
	bool sandbox_no_new_privs;
	bool sandbox_inherit_host;     /* give them the host's package client configuration */
	char **sandbox_env;            /* "K=V" */
	char **sandbox_mounts;         /* "SOURCE[:TARGET]", read-only inside */

	/* instances: running environment servers */
	char *instance_size;           /* "CPU:GIB" when a deployment names none */
	uint64_t instance_start_ms;    /* until its first healthy answer */
	uint64_t instance_idle_ms;     /* without a session */
	uint64_t queue_max;            /* waiting creates; beyond it 429 */
	uint64_t queue_share;          /* of one key, in times what is free of it */
	uint64_t instance_log_bytes;   /* of one instance's log; the oldest half goes first */
	char **instance_env;           /* "K=V" */
	bool instance_data_always;     /* /orwd_data, although there are no files */
	bool instance_data_writable;

	/* buckets: files of environments */
	uint64_t bucket_quota_bytes;   /* of one environment, unless it has a quota of its own; 0 = no limit */
	uint64_t bucket_file_bytes;    /* of one file */
	uint64_t bucket_url_ms;        /* an upload URL is valid this long */

	/* admission: struct local_settings */
	struct admit_limits room;      /* sandboxes.max is sums.boxes */

	/* rollouts: what agents did */
	uint64_t rollout_events;        /* of one request */
	uint64_t rollout_pending_bytes; /* requests that are not on disk yet; more wait */
	uint64_t rollout_difficulty_bytes; /* answers of task-difficulty that are kept */
	uint64_t rollout_keep_days;     /* without an event; 0 = for ever */
	uint64_t rollout_max_messages;  /* of one namespace; 0 = no limit */

	uint64_t audit_keep_days;       /* 0 = for ever */
	uint64_t audit_pending;         /* changes that wait while nothing can be written; 0 = no limit */

	/* builds */
	uint64_t build_concurrency;
	uint64_t build_timeout_ms;
	uint64_t build_memory_bytes;   /* of a RUN step; 0 = no limit */
	uint64_t build_disk_bytes;     /* what one build may write; 0 = no limit */
	uint64_t build_min_free_bytes; /* a build ends before less is free; 0 = never */
	uint64_t build_keep_images;    /* of an environment */
	uint64_t build_log_bytes;
	bool build_inherit_host;       /* give RUN steps the host's package client configuration */
	char **build_env;              /* "K=V" */
	char **build_mounts;           /* "SOURCE[:TARGET]" */

	/* git */
	uint64_t git_push_max_bytes;   /* of one push, packed */
	uint64_t git_time_limit_ms;    /* of one push or fetch, without a push's waiting for its deployment */
	uint64_t git_max_processes;    /* pushes and fetches at once; beyond it 429 */

	/* github */
	char *github_url;              /* for people and for cloning; no slash at its end */
	char *github_api_url;
	char *github_token;            /* "" = no connection; printed as "(set)" */
	char *github_webhook_secret;   /* "" = no webhooks */
	char **github_namespaces;      /* whose members may use the token; admins always may */

	/* images */
	uint64_t image_budget_bytes;   /* of all layers; 0 = no limit */
	uint64_t image_timeout_ms;     /* of one pull, bootstrap or import */
	struct image_alias *image_aliases; /* ends with a NULL from */

	/* egress */
	char **egress_allow;           /* names, addresses, ranges, each with an optional :PORT, let through although private */
};

/* The defaults. */
struct config *config_new(void);
struct config *config_free(struct config *c); /* NULL is allowed; returns NULL */
DEFINE_FREEP(config, config_free)

/* Reads YAML over what c holds. name is for messages ("/etc/openreward.yaml"). */
MUST_CHECK int config_parse(struct config *c, const char *name, const char *text, size_t len, struct err *err);
MUST_CHECK int config_load(struct config *c, const char *path, struct err *err);
/* Sets one key as if it stood in a file: command-line flags. */
MUST_CHECK int config_set(struct config *c, const char *key, const char *value, struct err *err);
/* The rules between keys, and paths made absolute; after the last change. */
MUST_CHECK int config_check(struct config *c, struct err *err);
/* -- an element of `listen` -- */
const char *config_listen_address(const char *listen); /* its HOST:PORT */
char *config_listen_host(const char *address);           /* HOST of a HOST:PORT, without brackets; the caller frees */
bool config_listen_is_tls(const struct config *c, const char *listen);
bool config_listen_is_loopback(const char *address); /* HOST:PORT; a name other than localhost is not */
/* -EINVAL, with what to do, for a HOST:PORT in plain that others can reach and `insecure` does not allow. config_check() asks it
 * of every address as it is written; who has the sockets asks again, with what they are bound to. */
MUST_CHECK int config_refuse_open(const struct config *c, const char *address, struct err *err);
/* Every key with its value as YAML, in the order of the example; for tests and `serve --print-config`. */
MUST_CHECK int config_print(const struct config *c, struct buf *ret);
