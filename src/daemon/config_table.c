#include "daemon/config_table.h"

#include <string.h>

#include "base/str.h"

#define AT(member) offsetof(struct config, member)
#define ANY 0, UINT64_MAX
#define MS 1ull
#define SECOND 1000ull
#define MINUTE (60 * SECOND)
#define HOUR (60 * MINUTE)
#define DAY (24 * HOUR)
#define KIB 1024ull
#define MIB (1024 * KIB)
#define GIB (1024 * MIB)

const struct config_key config_keys[] = {
	{ "listen", CONFIG_LISTEN, AT(listen), "127.0.0.1:8080", ANY,
	  "Where the server listens: HOST:PORT, or a list of them. Port 0 takes any free one; DATA/run/address says which. With\n"
	  "tls.certificate it is HTTPS, but for an address that is written with http:// in front." },
	{ "insecure", CONFIG_BOOL, AT(insecure), "false", ANY,
	  "Plain HTTP also on other addresses than this machine's own, although whoever is on the way can read what passes." },
	{ "proxies", CONFIG_LIST, AT(proxies), NULL, ANY,
	  "Reverse proxies in front of the server: addresses and ranges (10.1.0.0/16). What they say of a client's address, scheme\n"
	  "and host (X-Forwarded-For, -Proto, -Host, Forwarded) is believed, and nobody else's word." },
	{ "data", CONFIG_PATH, AT(data), "/var/lib/openreward", ANY,
	  "The data directory (DATA): database, images, builds, logs. One daemon at a time may hold it." },
	{ "user", CONFIG_STR, AT(user), "openreward", ANY,
	  "The ordinary user that the daemon and egress run as." },
	{ "libexec", CONFIG_PATH, AT(libexec), "", ANY,
	  "Folder of openreward-spawner, openreward-egress and openreward-init. Empty: beside the program openreward, else\n"
	  "../libexec/openreward from there." },

	{ "log.level", CONFIG_LEVEL, AT(log_level), "info", ANY, "debug, info, warn or error." },
	{ "log.format", CONFIG_FORMAT, AT(log_format), "text", ANY, "text, or json: one object a line." },

	{ "http.header_bytes", CONFIG_SIZE, AT(http.header_bytes), "64KiB", KIB, 16 * MIB, "Request line and headers together." },
	{ "http.header_count", CONFIG_COUNT, AT(http.header_count), "100", 10, 10000, "Headers in one request." },
	{ "http.body", CONFIG_SIZE, AT(http.body_bytes), "64MiB", MIB, 16 * GIB, "A body that is read whole." },
	{ "http.upload", CONFIG_SIZE, AT(upload_max_bytes), "2GiB", MIB, 1024 * GIB,
	  "The folder that `openreward deploy` sends, as a tar." },
	{ "http.high_water", CONFIG_SIZE, AT(http.high_water_bytes), "256KiB", 4 * KIB, GIB,
	  "Unsent bytes of one answer above which its source is made to wait." },
	{ "http.max_connections", CONFIG_COUNT, AT(http.max_connections), "16000", 16, 1000000,
	  "Open connections; beyond it new ones wait to be accepted. Of a sandbox to the platform: a sixteenth." },
	{ "http.header_deadline", CONFIG_DURATION, AT(http.header_deadline_ms), "15s", 100 * MS, HOUR,
	  "A request's headers must be complete this long after their first byte." },
	{ "http.idle", CONFIG_DURATION, AT(http.idle_ms), "75s", 100 * MS, DAY, "A kept connection without a request is closed." },
	{ "http.body_stall", CONFIG_DURATION, AT(http.body_stall_ms), "1m", 100 * MS, DAY,
	  "A body of which no byte arrives for this long ends its connection." },
	{ "http.write_stall", CONFIG_DURATION, AT(http.write_stall_ms), "2m", 100 * MS, DAY,
	  "So does a client that takes no byte of its answer." },
	{ "http.h2", CONFIG_BOOL, AT(http.h2), "true", ANY,
	  "HTTP/2 for clients that choose it: with TLS by ALPN, in plain by how they begin." },
	{ "http.h2_streams", CONFIG_COUNT, AT(http.h2_streams), "128", 1, 10000, "Requests at once on one connection of it." },
	{ "http.h2_resets", CONFIG_COUNT, AT(http.h2_resets), "20", 1, 1000000,
	  "Requests that its client may cut short, or have cut short by what it sends, in a second; more end the connection." },
	{ "http.h2_resets_burst", CONFIG_COUNT, AT(http.h2_resets_burst), "200", 1, 1000000, "So many may come at once." },
	{ "http.h2_controls", CONFIG_COUNT, AT(http.h2_controls), "250", 10, 1000000,
	  "The same of frames that are neither a request nor a part of a body (SETTINGS, PING, PRIORITY, WINDOW_UPDATE, ...). Each\n"
	  "512 bytes of answers allow for one more." },
	{ "http.h2_controls_burst", CONFIG_COUNT, AT(http.h2_controls_burst), "1000", 10, 1000000, "So many may come at once." },

	{ "tls.certificate", CONFIG_PATH, AT(tls_certificate), "", ANY,
	  "PEM: the server's certificate and the chain behind it. This file and the key must be readable by `user`, also later:\n"
	  "SIGHUP reads both anew, for new connections. Empty: no TLS." },
	{ "tls.key", CONFIG_PATH, AT(tls_key), "", ANY, "PEM: its key, not encrypted." },
	{ "tls.handshake_deadline", CONFIG_DURATION, AT(http.handshake_ms), "10s", 100 * MS, HOUR,
	  "A handshake must be complete this long after the connection was accepted." },
	{ "tls.handshakes", CONFIG_COUNT, AT(http.handshakes), "1000", 16, 1000000,
	  "Under way at once; one more ends the oldest." },

	{ "restart.drain", CONFIG_DURATION, AT(restart_drain_ms), "20s", 0, HOUR,
	  "A server that leaves for a restart (SIGUSR2, or SIGTERM beside openreward-spawner.service) lets open requests finish\n"
	  "this long. What runs in sandboxes goes on." },

	{ "sessions.idle", CONFIG_DURATION, AT(session_idle_ms), "2m", SECOND, DAY,
		"Silence (no ping, no request) that ends one." },
	{ "sessions.lifetime", CONFIG_DURATION, AT(session_hard_ms), "24h", MINUTE, 365 * DAY, "The longest life of one." },
	{ "sessions.teardown_timeout", CONFIG_DURATION, AT(session_teardown_ms), "1m", SECOND, HOUR,
	  "How long its environment may clean up when it ends." },
	{ "sessions.ping_interval", CONFIG_DURATION, AT(session_ping_ms), "1m", SECOND, 10 * MINUTE,
	  "A client's pings reach the environment at most this often." },
	{ "sessions.max", CONFIG_COUNT, AT(session_max), "20000", 1, 1000000, "Open at once; more are answered with 429." },
	{ "sessions.remember_ended", CONFIG_DURATION, AT(session_ended_ms), "1h", SECOND, DAY,
	  "An ended one is answered with 410 and the reason for this long, then with 404." },
	{ "sessions.remember_max", CONFIG_COUNT, AT(session_ended_max), "200000", 1, 100000000,
	  "So many ended ones are remembered, the oldest are forgotten first; some 200 bytes each. As many sandboxes, but no fewer than\n"
	  "65536." },

	{ "keys.sessions", CONFIG_COUNT, AT(key_sessions), "0", 0, 1000000,
		"Sessions that one key may have open; more are answered with 429. 0 = no limit." },
	{ "keys.sandboxes", CONFIG_COUNT, AT(key_sandboxes), "0", 0, 1000000,
	  "Sandboxes likewise, those that its sessions' environments open included." },
	{ "keys.rate", CONFIG_COUNT, AT(key_rate), "0", 0, 1000000,
	  "Requests a second of one key, and twice as many after a pause; pings and deletes are not counted. 0 = no limit." },

	{ "sandboxes.max", CONFIG_COUNT, AT(room.sums.boxes), "0", 0, 1000000,
	  "Open at once, instances of environments included. 0: as many as there is room for." },
	{ "sandboxes.size", CONFIG_MACHINE, AT(sandbox_size), "1:1", ANY, "CPU:GIB when a request names no machine_size." },
	{ "sandboxes.idle", CONFIG_DURATION, AT(sandbox_idle_ms), "2m", SECOND, DAY, "Silence that ends one." },
	{ "sandboxes.lifetime", CONFIG_DURATION, AT(sandbox_hard_ms), "24h", MINUTE, 365 * DAY, "The longest life of one." },
	{ "sandboxes.pids", CONFIG_COUNT, AT(sandbox_pids), "4096", 16, 4194304, "Processes and threads in one." },
	{ "sandboxes.disk", CONFIG_SIZE, AT(sandbox_disk_bytes), "10GiB", 0, UINT64_MAX / 2,
	  "What one may write, /tmp included; beyond it writing fails for lack of space. 0: any amount. By project quota, where\n"
	  "the file system of DATA has it (ext4 and XFS mounted with prjquota), else on a file system of their own (btrfs in a\n"
	  "file; Linux 6.7, btrfs-progs); `openreward doctor` tells." },
	{ "sandboxes.disk_total", CONFIG_SIZE, AT(sandbox_disk_total), "0", 0, UINT64_MAX / 2,
	  "How large that file system of their own may become. It takes of the disk of DATA what is used, and grows.\n"
	  "0: nine tenths of what is free when the spawner starts." },
	{ "sandboxes.disk_reserve", CONFIG_SIZE, AT(sandbox_disk_reserve), "1GiB", 0, 1024 * GIB,
	  "It leaves as much of that disk free, for the database, images and buckets; in any case a quarter more than\n"
	  "admission.disk_free and builds.min_free." },
	{ "sandboxes.files", CONFIG_COUNT, AT(sandbox_files), "1000000", 0, 1000000000,
	  "Files and folders that one may make. 0: any number. On a file system of their own each one's `disk` bounds them." },
	{ "sandboxes.memory_upper", CONFIG_BOOL, AT(sandbox_memory_upper), "false", ANY,
	  "Keep what sandboxes write in memory, where it counts to each one's: made faster, the limit above always holds, and\n"
	  "nothing large fits." },
	{ "sandboxes.result_keep", CONFIG_DURATION, AT(sandbox_result_ms), "1m", SECOND, DAY,
	  "A command's result stays readable this long after it was first read." },
	{ "sandboxes.repeat_window", CONFIG_DURATION, AT(sandbox_repeat_ms), "30s", 0, HOUR,
	  "A command whose connection broke before the client had its task_id may be joined by its repetition this long." },
	{ "sandboxes.claim_window", CONFIG_DURATION, AT(sandbox_claim_ms), "2s", 0, MINUTE,
	  "After a kill of the server such a repetition first waits this long, where the client may have had its task_id, for\n"
	  "whoever comes with it." },
	{ "sandboxes.output", CONFIG_SIZE, AT(sandbox_result_bytes), "1GiB", 0, 1024 * GIB,
	  "Output kept of one command when max_bytes is null. 0: all of it." },
	{ "sandboxes.runs", CONFIG_COUNT, AT(sandbox_runs), "10000", 1, 15000,
	  "Background runs of one sandbox that are alive or remembered; beyond it the oldest that are over are forgotten." },
	{ "sandboxes.sidecars", CONFIG_COUNT, AT(sidecars), "8", 1, 64, "Containers beside one sandbox, in its network." },
	{ "sandboxes.sidecar_size", CONFIG_MACHINE, AT(sidecar_size), "1:1", ANY,
	  "CPU:GIB of a sidecar that names no machine_size; on top of its sandbox's." },
	{ "sandboxes.sidecar_log", CONFIG_SIZE, AT(sidecar_log_bytes), "1MiB", 64 * KIB, GIB,
	  "Of what a sidecar writes, as much is kept, the last of it." },
	{ "sandboxes.no_new_privs", CONFIG_BOOL, AT(sandbox_no_new_privs), "false", ANY,
	  "sudo and other set-user-id programs inside gain nothing." },
	{ "sandboxes.inherit_host", CONFIG_BOOL, AT(sandbox_inherit_host), "false", ANY,
	  "Give sandboxes and instances the package client configuration of this host (pip, npm, apt, cargo, proxies, CA\n"
	  "certificates), and let them reach what it names." },
	{ "sandboxes.env", CONFIG_ENV, AT(sandbox_env), NULL, ANY, "Variables for every sandbox: NAME: VALUE." },
	{ "sandboxes.mounts", CONFIG_MOUNTS, AT(sandbox_mounts), NULL, ANY,
	  "Files and folders of the host that every sandbox sees, read-only: SOURCE or SOURCE:TARGET." },

	{ "pools.max", CONFIG_COUNT, AT(pool_max), "64", 0, 4096,
	  "Sandboxes made before they are asked for, of the images and sizes of late. 0: none." },
	{ "pools.keep", CONFIG_DURATION, AT(pool_keep_ms), "10m", SECOND, DAY,
	  "How long after the last request for one of its image and size such a sandbox is kept." },
	{ "pools.memory", CONFIG_SIZE, AT(pool_bytes), "256MiB", 0, 1024 * GIB,
	  "Memory for them together, at 1 MiB each. When the machine gets short of memory, they go before." },
	{ "pools.blanks", CONFIG_COUNT, AT(pool_blanks), "4", 0, 64,
	  "Beside them, sandboxes made as far as that goes before their image and size are known, at less than 1 MiB each. 0: none." },

	{ "instances.size", CONFIG_MACHINE, AT(instance_size), "1:2", ANY, "CPU:GIB when a deployment names none." },
	{ "instances.start_timeout", CONFIG_DURATION, AT(instance_start_ms), "10m", SECOND, DAY,
		"Until its first healthy answer." },
	{ "instances.idle", CONFIG_DURATION, AT(instance_idle_ms), "10m", SECOND, 365 * DAY,
	  "One that no session used for this long ends; the last one too. An environment's own setting goes first." },
	{ "instances.log", CONFIG_SIZE, AT(instance_log_bytes), "16MiB", 64 * KIB, 1024 * GIB, "Kept of one instance's log." },
	{ "instances.env", CONFIG_ENV, AT(instance_env), NULL, ANY, "Variables for every instance: NAME: VALUE." },
	{ "instances.orwd_data_always", CONFIG_BOOL, AT(instance_data_always), "false", ANY,
	  "Show /orwd_data also where an environment has no files yet. Many servers prefer it to the data they came with." },
	{ "instances.orwd_data_writable", CONFIG_BOOL, AT(instance_data_writable), "true", ANY, "Let them write to it." },

	{ "admission.cpu_factor", CONFIG_COUNT, AT(room.sums.cpu_milli), "8", 0, 1000000,
	  "All sizes together may be this many times the machine's CPUs. 0: no limit, here and below." },
	{ "admission.memory_factor", CONFIG_COUNT, AT(room.sums.memory_bytes), "2", 0, 1000000,
	  "All sizes together may be this many times the machine's memory." },
	{ "admission.instances", CONFIG_COUNT, AT(room.instance_percent), "50", 0, 100,
	  "Percent of these, and of sandboxes.max, that instances may take, so that their sessions find room for sandboxes." },
	{ "admission.memory_pressure", CONFIG_COUNT, AT(room.memory_pressure), "20", 0, 100,
	  "Nothing new starts while something on the machine waited for memory this many percent of the last 10 seconds." },
	{ "admission.io_pressure", CONFIG_COUNT, AT(room.io_pressure), "80", 0, 100, "The same for its disks." },
	{ "admission.cpu_pressure", CONFIG_COUNT, AT(room.cpu_pressure), "0", 0, 100,
	  "The same for CPUs. Where they are overcommitted, something always waits for them." },
	{ "admission.memory_free", CONFIG_SIZE, AT(room.memory_free_bytes), "256MiB", 0, 1024 * GIB,
	  "Nothing new starts while less memory is available." },
	{ "admission.disk_free", CONFIG_SIZE, AT(room.disk_free_bytes), "256MiB", 0, 1024 * GIB,
	  "Nothing new starts while the disk of DATA has less left, or what sandboxes write to, with what that may grow by." },

	{ "queue.max", CONFIG_COUNT, AT(queue_max), "1000", 1, 1000000,
	  "Creates that wait in each queue, of sessions for an instance and of sandboxes for room; more are answered with 429." },
	{ "queue.share", CONFIG_COUNT, AT(queue_share), "4", 0, 1000000,
	  "One key may wait with so many times the places that are still free: alone with 4/5 of them all, with another as greedy with 4/9\n"
	  "each, so that the next one always finds some. 0 = one key may fill the queue." },

	{ "buckets.quota", CONFIG_SIZE, AT(bucket_quota_bytes), "100GiB", 0, UINT64_MAX / 2,
	  "Files of one environment, which it sees at /orwd_data. Uploads beyond it are refused. 0: as long as the disk has room." },
	{ "buckets.file", CONFIG_SIZE, AT(bucket_file_bytes), "50GiB", KIB, 1024 * 1024 * GIB, "One file." },
	{ "buckets.url_lifetime", CONFIG_DURATION, AT(bucket_url_ms), "6h", SECOND, 30 * DAY,
	  "An upload URL is valid this long; an upload that began in time may take longer." },

	{ "rollouts.events", CONFIG_COUNT, AT(rollout_events), "10000", 1, 1000000, "In one request." },
	{ "rollouts.pending", CONFIG_SIZE, AT(rollout_pending_bytes), "256MiB", MIB, 1024 * GIB,
	  "Requests whose events are not on disk yet, together; more wait." },
	{ "rollouts.difficulty", CONFIG_SIZE, AT(rollout_difficulty_bytes), "64MiB", 0, 1024 * GIB,
	  "Memory for what task-difficulty found, so that it looks only at what has changed." },
	{ "rollouts.keep_days", CONFIG_COUNT, AT(rollout_keep_days), "0", 0, 36500,
	  "A rollout without an event for so long is removed, the oldest first. 0: none is." },
	{ "rollouts.max_messages", CONFIG_COUNT, AT(rollout_max_messages), "0", 0, INT64_MAX,
	  "Messages that are kept of one namespace; beyond it its oldest rollouts are removed, whole. 0: all." },

	{ "audit.keep_days", CONFIG_COUNT, AT(audit_keep_days), "400", 0, 36500,
	  "Entries that are older are removed. 0: none is." },
	{ "audit.pending", CONFIG_COUNT, AT(audit_pending), "10000", 0, 10000000,
	  "Changes that wait in memory while the disk takes none; beyond it calls that leave an entry get a 507. 0: no limit." },

	{ "builds.concurrency", CONFIG_COUNT, AT(build_concurrency), "1", 1, 64,
	  "Builds at once; those of one environment always follow each other." },
	{ "builds.timeout", CONFIG_DURATION, AT(build_timeout_ms), "1h", SECOND, 7 * DAY, "Of one build." },
	{ "builds.memory", CONFIG_SIZE, AT(build_memory_bytes), "4GiB", 0, 1024 * GIB, "Of a RUN step; 0 = no limit." },
	{ "builds.disk", CONFIG_SIZE, AT(build_disk_bytes), "20GiB", 0, 1024 * GIB,
	  "What one build may write, layers and temporary files; beyond it the build is ended. 0 = no limit." },
	{ "builds.min_free", CONFIG_SIZE, AT(build_min_free_bytes), "256MiB", 0, 1024 * GIB,
	  "A build is ended before less is free where images lie. 0 = never." },
	{ "builds.keep_images", CONFIG_COUNT, AT(build_keep_images), "5", 1, 10000,
	  "Images of an environment that are kept for rollbacks, the newest first. An environment's own setting goes first." },
	{ "builds.log", CONFIG_SIZE, AT(build_log_bytes), "16MiB", 64 * KIB, GIB, "Kept of one build's log." },
	{ "builds.inherit_host", CONFIG_BOOL, AT(build_inherit_host), "true", ANY,
	  "Give RUN steps the package client configuration of this host, and let them reach what it names. Nothing of it\n"
	  "stays in the image." },
	{ "builds.env", CONFIG_ENV, AT(build_env), NULL, ANY, "Variables for every RUN step: NAME: VALUE." },
	{ "builds.mounts", CONFIG_MOUNTS, AT(build_mounts), NULL, ANY, "As sandboxes.mounts, for RUN steps." },

	{ "git.push", CONFIG_SIZE, AT(git_push_max_bytes), "1GiB", 64 * KIB, 1024 * GIB, "Of one push, as git packs it." },
	{ "git.time_limit", CONFIG_DURATION, AT(git_time_limit_ms), "1h", SECOND, DAY,
	  "Of one push or fetch; how long a pusher waits for the deployment is not counted." },
	{ "git.max_processes", CONFIG_COUNT, AT(git_max_processes), "64", 1, 10000,
		"Pushes and fetches at once; more are answered with 429." },

	{ "github.url", CONFIG_STR, AT(github_url), "https://github.com", ANY,
	  "Where repositories are cloned from: GitHub, or a GitHub Enterprise Server." },
	{ "github.api_url", CONFIG_STR, AT(github_api_url), "https://api.github.com", ANY,
	  "Its REST API; https://HOST/api/v3 for an Enterprise Server." },
	{ "github.token", CONFIG_SECRET, AT(github_token), "", ANY,
	  "A token that may read the repositories to be linked. Empty: no connection. Keep this file to root then." },
	{ "github.webhook_secret", CONFIG_SECRET, AT(github_webhook_secret), "", ANY,
	  "What GitHub signs its webhooks with, to /v1/github/webhook. Empty: webhooks are refused." },
	{ "github.namespaces", CONFIG_LIST, AT(github_namespaces), NULL, ANY,
	  "Namespaces whose members may link whatever the token can read. Admins always may." },

	{ "images.budget", CONFIG_SIZE, AT(image_budget_bytes), "0", 0, UINT64_MAX / 2,
	  "What the layers of all images may take. Beyond it those last used the longest ago are removed, imported ones too, but never\n"
	  "what anything runs from, a kept deployment has, or an alias leads to. 0: nothing is removed." },
	{ "images.timeout", CONFIG_DURATION, AT(image_timeout_ms), "1h", SECOND, 7 * DAY, "Of one pull, bootstrap or import." },
	{ "images.aliases", CONFIG_ALIASES, AT(image_aliases), NULL, ANY, "Names of images that stand for others: NAME: OTHER." },

	{ "egress.allow", CONFIG_LIST, AT(egress_allow), NULL, ANY,
	  "What sandboxes may reach although it is private or this host's own: names, addresses, ranges (10.1.0.0/16), each\n"
	  "with an optional :PORT." },
};
const size_t config_n_keys = ARRAY_LEN(config_keys);

static const struct {
	const char *name, *comment;
} sections[] = {
	{ "log", "What the daemon writes to its standard error." },
	{ "http", "Limits of the HTTP server." },
	{ "tls", "HTTPS: TLS 1.2 and 1.3 (docs/http.md)." },
	{ "restart", "A planned restart of the server; sandboxes and sessions live on." },
	{ "sessions", "Conversations of agents with environments." },
	{ "keys", "Limits of each API key: docs/control.md." },
	{ "sandboxes", "Temporary containers." },
	{ "pools", "What is prepared before it is asked for." },
	{ "instances", "Running servers of environments." },
	{ "admission", "How many sandboxes and instances there may be at once. Beyond it creates wait: docs/scaling.md." },
	{ "queue", "Who waits when everything is in use." },
	{ "buckets", "Files of environments." },
	{ "rollouts", "What agents did, as clients log it: see docs/rollouts.md." },
	{ "audit", "Who changed what, when, from where: docs/control.md." },
	{ "builds", "From a folder with a Dockerfile to an image." },
	{ "git", "Repositories that are pushed to this server." },
	{ "github", "Repositories that are linked: see docs/git.md." },
	{ "images", "Container images." },
	{ "egress", "What leaves a sandbox." },
};

const struct config_key *config_find_key(const char *name)
{
	for (size_t i = 0; i < config_n_keys; i++)
		if (str_eq(config_keys[i].name, name))
			return &config_keys[i];
	return NULL;
}

const char *config_section_comment(const char *section)
{
	for (size_t i = 0; i < ARRAY_LEN(sections); i++)
		if (str_eq(sections[i].name, section))
			return sections[i].comment;
	return NULL;
}

#define DISTANCE_MAX 63

/* Levenshtein, on names of at most DISTANCE_MAX bytes. */
static unsigned distance(const char *a, const char *b)
{
	unsigned row[DISTANCE_MAX + 1];
	size_t la = MIN(strlen(a), (size_t)DISTANCE_MAX), lb = MIN(strlen(b), (size_t)DISTANCE_MAX);

	for (size_t j = 0; j <= lb; j++)
		row[j] = (unsigned)j;
	for (size_t i = 1; i <= la; i++) {
		unsigned diagonal = row[0];
		row[0] = (unsigned)i;
		for (size_t j = 1; j <= lb; j++) {
			unsigned replaced = diagonal + (a[i - 1] != b[j - 1]);
			diagonal = row[j];
			row[j] = MIN(replaced, MIN(row[j], row[j - 1]) + 1);
		}
	}
	return row[lb];
}

const char *config_nearest_key(const char *name)
{
	const char *best = config_keys[0].name;
	unsigned least = UINT32_MAX;

	for (size_t i = 0; i < config_n_keys; i++) {
		unsigned d = distance(name, config_keys[i].name);
		if (d < least) {
			least = d;
			best = config_keys[i].name;
		}
	}
	return best;
}
