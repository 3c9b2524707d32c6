/* init/boot.h: the hand-over from the spawner to openreward-init.
 *
 * The spawner's child has made everything that needs the host: user namespace (created as the range's first id), the
 * pid, mount, net, ipc, uts and cgroup namespaces, the root (overlay, /dev, /proc, /sys, /dev/shm, masks; pivot_root is
 * done, the old root is gone), cgroup membership and limits. It then executes init by descriptor, as pid 1, uid 0 and all
 * capabilities of the user namespace, with these descriptors and no others: */
#pragma once

enum boot_fd {
	BOOT_FD_CONTROL = 3, /* SEQPACKET to the daemon (the spawner keeps a dup of the daemon's end for take-over) */
	BOOT_FD_EGRESS = 4,  /* SEQPACKET to egress */
	BOOT_FD_CGROUP = 5,  /* O_DIRECTORY: a cgroup v2 folder delegated to the range's first id, empty: runs' cgroups go here */
	BOOT_FD_SPOOL = 6,   /* O_DIRECTORY on the host's disk, owned by the range's first id: O_TMPFILE files for output */
	BOOT_FD_READY = 7,   /* pipe to the spawner: init writes one byte 'R' when its listeners stand, then closes it;
			        a failure is "STAGE\0ERRNO\0" and exit */
	BOOT_FD_STATS = 8,   /* O_DIRECTORY: the sandbox's cgroup (v2) or its memory cgroup (v1), readable: oom and peak counters */
	BOOT_FD_PIDS = 9,    /* O_DIRECTORY: the same for pids (v1), or a dup of BOOT_FD_STATS */
	BOOT_FD_SCORE = 10,  /* init's own oom_score_adj, for reading and writing: /proc/1 is the host root's */
	BOOT_FD_GO = 11,     /* with "wait": SEQPACKET from the builder; see struct boot_go */
	BOOT_FD_END = 12,
};

/* argv[1]: flags, comma-separated: "steer" = hold the steering listeners and pass what arrives to egress; "nnp" = set
 * no_new_privs for commands; "nocore" = no core dump of a command, by a limit that it cannot change; "wait" = the root is still
 * being assembled, and BOOT_FD_SPOOL is none yet: init does what needs neither, and waits; "holder" = only hold listeners (the
 * net namespace of a build): no control socket, no exec, it ends when BOOT_FD_CONTROL reads end-of-file. */

/* With it comes the folder of BOOT_FD_SPOOL. From now on init's root and working directory are the sandbox's. A second message, of
 * one byte, says that the host's mounts are gone from its namespace; before it init runs nothing and is not ready. End of file
 * before either: there will be no sandbox. */
struct boot_go {
	unsigned char no_new_privs; /* as "nnp" */
};

/* Where the net namespace steers to (spawner/netns.c writes the rules, init listens). Ports of the sandbox's own
 * loopback that nothing else can then bind; documented in docs/PROTOCOL.md. */
#define STEER_TCP_PORT 65530 /* every outgoing TCP connect: 127.0.0.1 and ::1 */
#define STEER_DNS_PORT 65531 /* every outgoing UDP datagram to port 53: 127.0.0.1 and ::1 */
#define STEER_NAMESERVER "198.18.0.53" /* in /etc/resolv.conf; any other works too, all port 53 is steered */
#define STEER_PLATFORM_V4 "198.18.0.80" /* what openreward.internal and its sub-names resolve to inside */
