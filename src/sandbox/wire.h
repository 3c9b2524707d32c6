/* sandbox/wire.h: the protocols between the programs, over SOCK_SEQPACKET unix sockets.
 *
 *   daemon  <-> spawner   "make, end, list, take over, renew, run this job"   (spawner/: root; daemon: ordinary user)
 *   daemon  <-> init      exec, files, connections, one socket per sandbox
 *   init     -> egress    accepted connections and DNS queries, one socket per sandbox
 *   spawner  -> egress    "here is the socket of a new sandbox, and its policy"
 *   egress   -> daemon    connections to openreward.internal
 *
 * One message = one datagram = a head and fields. A field is a tag, a length and bytes, padded to 8; integers are u64
 * in host order (all ends are on one machine). Unknown tags are skipped, so a newer program may add fields; a program
 * speaks WIRE_VERSION and the one before. Descriptors ride beside a message (SCM_RIGHTS) in the order its comment gives.
 * Nothing here allocates; decoding never reads outside the datagram, whatever the bytes are (fuzzed: tests/fuzz).
 * Compiles in every program, the static ones too. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/macros.h"

#define WIRE_VERSION 1
#define WIRE_VERSION_MIN 1
#define WIRE_MAGIC 0x3153524fu   /* "ORS1" */
#define WIRE_MAX (128u * 1024)   /* bytes in one message; sockets get SO_SNDBUF of at least twice that */
#define WIRE_INLINE_MAX (60u * 1024) /* output that travels in a message; more comes as a descriptor */
#define WIRE_NOTE_MAX (120u * 1024)  /* bytes of a sandbox's note */
#define WIRE_LABEL_MAX 64            /* bytes of a run's label */
#define WIRE_RUN_ID_MAX 64           /* bytes of its id, with the NUL where it is a text */
#define WIRE_ITEMS_MAX 16384         /* ITEMs of one answer: as many as an init can have runs, and more than there are sandboxes */
/* After so long the spawner gives a start up. One takes milliseconds, but a minute where it shares two processors with a
 * thousand busy commands, and it is to wait there, not to fail. Whoever asks waits a little longer, to be told so. */
#define WIRE_START_MS 180000

/* Output of a run whose stdout and stderr are apart: pieces in the order of their arrival, each behind a head of
 * WIRE_FRAME_HEAD bytes: the stream, three zeros, the length of the piece as a big-endian number of 32 bits. */
#define WIRE_FRAME_HEAD 8
static inline uint32_t wire_frame_len(const unsigned char head[WIRE_FRAME_HEAD])
{
	return (uint32_t)head[4] << 24 | (uint32_t)head[5] << 16 | (uint32_t)head[6] << 8 | head[7];
}
enum wire_stream { WIRE_STREAM_OUT = 1, WIRE_STREAM_ERR = 2 };

struct wire_head {
	uint32_t magic;
	uint16_t version;
	uint16_t type;    /* enum wire_type */
	uint64_t request; /* chosen by the asker, repeated in the answer; 0 = an event that nobody asked for */
};

#define WIRE_TYPES(X)                                                                                                    \
	/* daemon -> spawner; the answer has the same request number. Every failure is WIRE_FAILED. */                   \
	X(HELLO, 1)        /* PROGRAM_VERSION. First on every connection. */                                             \
	X(WELCOME, 2)      /* PID, BOOT (uuid of this spawner's life), FLAGS (enum wire_welcome_flag). fds: listening        \
			      sockets..., see N_FDS; then the channel to egress (last). */                               \
	X(MAKE, 3)         /* a plan (sandbox/plan.h), NOTE? */                                                          \
	X(MADE, 4)         /* ID, DURATION_US, PID of init on the host, WARM (1 = was a spare), BLANK (1 = was a blank), \
			      SPARES (ready now), BLANKS (there now), HOSTNAME? (CONFIG is done, and this is its name: a \
			      spare's own, else the plan's); to TAKE also NOTE?.                                       \
			      fds: init's control socket, process pidfd */                                               \
	X(END, 5)          /* ID, REASON. Answered when the last process is dead. */                                     \
	X(ENDED, 6)        /* ID. Mounts, cgroups and files follow in batches. */                                        \
	X(LIST, 7)         /* answered by one ITEM per sandbox, then OK, after all that closed connections have left */  \
	X(ITEM, 8)         /* ID, KIND, PID (0 = it is starting), LEASE_MS left; of RUNS: see there */                    \
	X(TAKE, 9)         /* ID -> MADE, of one that is starting as soon as it is ready: hands over an existing         \
			      sandbox's control socket (a dup). Nobody else may read that any more. */                   \
	X(RENEW, 10)       /* ID, LEASE_MS from now. Not answered. */                                                    \
	X(JOB, 11)         /* ID, JOB_KIND, ARG... -> JOB_STARTED. fds: its standard input, or none */                  \
	X(JOB_STARTED, 12) /* ID. fds: read end of the job's stdout and stderr */                                        \
	X(JOB_DONE, 13)    /* event: ID, STATUS as waitpid gives it, REASON (timeout, cancelled) or none */             \
	X(JOB_CANCEL, 14)  /* ID -> OK when nothing of it is left alive */                                               \
	X(SHUTDOWN, 15)    /* ends everything; answered by OK just before the spawner exits */                           \
	X(GONE, 16)        /* event: ID, REASON ("lease", "killed", "deadline", "netlink"): it ended by itself */        \
	X(OK, 17)                                                                                                        \
	X(FAILED, 18)      /* STAGE ("mount overlay"), ERRNO, PATH?, TEXT? */                                            \
	X(LEAKS, 19)       /* -> OK with TEXT: one line per thing of ours that no living object owns; "" = none */       \
	X(NOTE, 20)        /* ID, NOTE: up to WIRE_NOTE_MAX bytes that mean nothing to the spawner, kept with the sandbox \
			      for whoever takes it over, in place of an earlier one. Not answered. */                    \
	X(POOL, 21)        /* POOL_MAX, POOL_KEEP_MS, POOL_BYTES: how many sandboxes may be prepared before they are asked   \
			      for, for how long, and with how much memory; POOL_BLANKS: how many may be begun before it is known \
			      what they are to be. None until then. Not answered. */                                     \
	X(SPACE, 22)       /* event, after WELCOME and when it changes, where sandboxes write to a file system of their own: its  \
			      DISK_SIZE, DISK_FREE, DISK_MORE that it may grow by, all in bytes; STATE 1 = it has failed */    \
	/* daemon -> init */                                                                                             \
	X(CONFIG, 40)      /* HOSTNAME?, HOSTS? (file text), RESOLV? (file text), DIR* (made if missing) -> OK. Of the spawner, \
			      without an answer: read before init says that it is ready; later, a failure is init's end */ \
	X(RUN, 41)         /* RUN_ID, ARG* (argv), ENV* ("K=V"), CWD, USER ("", "name", "uid", "u:g"), TIMEOUT_MS (0 =   \
			      none), MAX_BYTES (UINT64_MAX = all), FLAGS (enum wire_run_flag), LABEL? (kept for RUNS).   \
			      fds: the script (RUN_SCRIPT), then the output target (RUN_OUTPUT_FD) -> STARTED */         \
	X(STARTED, 42)     /* RUN_ID, PID inside; or FAILED. RUN_QUIET: DONE in its place where that comes within 5 ms */    \
	X(DONE, 43)        /* event, repeated after RESULT: RUN_ID, STATUS (waitpid), TIMED_OUT, KILLED, BYTES kept,     \
			      DROPPED, DURATION_US, CPU_US, PEAK_BYTES, OOM_KILLS, PIDS_HITS, LIMIT_HITS, OUTPUT (when it fits \
			      WIRE_INLINE_MAX), STORED (BYTES and the heads of frames), FLAGS of the RUN, DISK_FREE (0 also when \
			      output found no room), ERRNO? (why less output was kept than MAX_BYTES; never that). fds: the \
			      output's spool otherwise (offset 0, STORED long). Neither for RUN_FETCH */                 \
	X(RESULT, 44)      /* RUN_ID -> DONE when it has ended, OK when it runs, FAILED ENOENT */                         \
	X(ACK, 45)         /* RUN_ID: its result is no longer needed. Not answered. */                                   \
	X(KILL, 46)        /* RUN_ID, SIGNAL: to every process of the run; FOREGROUND 1: to its terminal's foreground -> OK */ \
	X(CONNECT, 47)     /* PORT -> OK with fd: a connection to 127.0.0.1:PORT (then ::1) inside */                    \
	X(OPEN, 48)        /* PATH, USER, OPEN_MODE -> OK with fd, SIZE, FILE_MODE, TMP (name, for OPEN_STAGE) */         \
	X(COMMIT, 49)      /* PATH, TMP, USER: rename the staged file into place -> OK */                                \
	X(DISCARD, 50)     /* PATH, TMP, USER: remove a staged file -> OK */                                             \
	X(STATUS, 51)      /* -> OK: N_RUNS, N_PROCS, CPU_US, MEMORY... */                                                       \
	X(RUNS, 60)        /* of a daemon that has just taken over -> one ITEM per run that is not acknowledged (RUN_ID,  \
			      STATE: 0 alive, 1 over; AGE_MS since its start, LABEL?), then OK with CONFIGURED (1 = a    \
			      CONFIG succeeded); the DONE of all that are over follow, sent before or not. */            \
	X(READ, 100)       /* RUN_ID, OFFSET, WATCH, FLOW, NEED, HAVE: output of a run, under way or over -> OK: STORED (offset   \
			      of its end), FIRST (oldest offset that is still there), OUTPUT (from OFFSET on, what fits  \
			      WIRE_INLINE_MAX) while it is in memory. fds: its spool otherwise, unless HAVE is 1.        \
			      WATCH 1: a MORE when there is more than STORED. FLOW > 0: the command has to wait when     \
			      it is this many bytes ahead of OFFSET, or of STORED where that is less, and RUN_TAIL forgets  \
			      nothing from NEED on (from OFFSET where there is none); 0: it never waits. All until the next \
			      READ, or RUNS */                                                                           \
	X(MORE, 101)       /* event: RUN_ID, STORED */                                                                   \
	X(INPUT, 102)      /* RUN_ID -> OK with fd: the write end of its stdin (RUN_INPUT), or its terminal */            \
	X(INPUT_END, 103)  /* RUN_ID: init gives its own write end up -> OK */                                           \
	X(RESIZE, 104)     /* RUN_ID, ROWS, COLS: of its terminal -> OK */                                               \
	/* init -> egress, egress -> init */                                                                             \
	X(CONN, 70)        /* FAMILY (4, 6), ADDR (4 or 16 bytes), PORT = the original destination. fds: the connection */ \
	X(DNS, 71)         /* CLIENT (opaque, returned), OUTPUT (the query) */                                           \
	X(DNS_REPLY, 72)   /* CLIENT, OUTPUT */                                                                          \
	/* spawner -> egress */                                                                                          \
	X(REGISTER, 80)    /* ID, NUMBER, NET (enum plan_net). fds: the socket whose other end init holds */             \
	/* egress -> daemon */                                                                                           \
	X(PLATFORM, 90)    /* ID, NUMBER, PORT. fds: a connection that wants the platform itself */                      \
	X(DENIED, 91)      /* ID, TEXT "host:port reason": for the audit */

enum wire_type {
#define X(name, value) WIRE_##name = value,
	WIRE_TYPES(X)
#undef X
};

#define WIRE_TAGS(X)                                                                                              \
	X(ID, 1) X(KIND, 2) X(PID, 3) X(REASON, 4) X(LEASE_MS, 5) X(HARD_MS, 6) X(STAGE, 7) X(ERRNO, 8) X(PATH, 9) \
	X(TEXT, 10) X(PROGRAM_VERSION, 11) X(BOOT, 12) X(DURATION_US, 13) X(STATUS, 14) X(JOB_KIND, 15)           \
	X(ARG, 16) X(ENV, 17) X(CWD, 18) X(USER, 19) X(RUN_ID, 20) X(TIMEOUT_MS, 21) X(MAX_BYTES, 22)             \
	X(FLAGS, 23) X(TIMED_OUT, 24) X(KILLED, 25) X(BYTES, 26) X(DROPPED, 27) X(CPU_US, 28) X(PEAK_BYTES, 29)   \
	X(OOM_KILLS, 30) X(PIDS_HITS, 31) X(OUTPUT, 32) X(SIGNAL, 33) X(PORT, 34) X(OPEN_MODE, 35) X(SIZE, 36)    \
	X(FILE_MODE, 37) X(TMP, 38) X(HOSTNAME, 39) X(HOSTS, 40) X(RESOLV, 41) X(DIR, 42) X(FAMILY, 43)           \
	X(ADDR, 44) X(CLIENT, 45) X(NUMBER, 46) X(NET, 47) X(N_RUNS, 48) X(N_PROCS, 49) X(MEMORY, 50)             \
	X(N_FDS, 51) X(MEMORY_PEAK, 52) X(DISK_FREE, 53) X(LIMIT_HITS, 54)                                         \
	/* of a plan */                                                                                           \
	X(LAYER, 60) X(CPU_MILLI, 61) X(MEMORY_BYTES, 62) X(PIDS_MAX, 63) X(MOUNT_SOURCE, 64)                     \
	X(MOUNT_TARGET, 65) X(MOUNT_FLAGS, 66) X(NO_NEW_PRIVS, 67) X(SHM_BYTES, 68) X(DISK_BYTES, 69)             \
	X(BUCKET, 70) X(BUCKET_DIR, 71) X(UID, 72) X(GID, 73) X(BUCKET_TARGET, 74) X(BUCKET_FLAGS, 75)            \
	/* of what outlives the daemon */                                                                         \
	X(NOTE, 80) X(LABEL, 81) X(AGE_MS, 82) X(STATE, 83) X(CONFIGURED, 84)                                     \
	/* of streams */                                                                                          \
	X(OFFSET, 100) X(STORED, 101) X(FIRST, 102) X(WATCH, 103) X(FLOW, 104) X(HAVE, 105) X(ROWS, 106)          \
	X(COLS, 107) X(FOREGROUND, 108) X(NEED, 109) \
	/* of what is prepared */                                                                                 \
	X(POOL_MAX, 90) X(POOL_KEEP_MS, 91) X(POOL_BYTES, 92) X(WARM, 93) X(SPARES, 94) X(POOL_BLANKS, 96) \
	X(BLANK, 97) X(BLANKS, 98)                                                                                 \
	X(MEMORY_UPPER, 95)                                                                                        \
	/* of sidecars */                                                                                         \
	X(BESIDE, 110) X(DISK_FILES, 111)                                                                          \
	/* of the disk */                                                                                         \
	X(DISK_SIZE, 112) X(DISK_MORE, 113)

enum wire_tag {
#define X(name, value) WIRE_T_##name = value,
	WIRE_TAGS(X)
#undef X
};

enum wire_welcome_flag {
	WIRE_WELCOME_KEPT = 1,  /* this spawner is a service of its own: the end of a daemon is not its end */
	WIRE_WELCOME_INPUT = 2, /* JOB may bring a standard input */
};

enum wire_run_flag {
	WIRE_RUN_SCRIPT = 1,    /* fds[0] is a memfd with the command; it is at descriptor 9 of the first process, and ARG
				   already says "/dev/fd/9" where the shell is to read it. */
	WIRE_RUN_OUTPUT_FD = 2, /* the next descriptor takes stdout and stderr instead of init: for instances' logs */
	WIRE_RUN_MAIN = 4,      /* the sandbox ends when this run does */
	WIRE_RUN_INPUT = 8,     /* stdin is a pipe whose write end INPUT gives, instead of /dev/null */
	WIRE_RUN_TTY = 16,      /* a terminal of ROWS and COLS is stdin, stdout, stderr and controls the session */
	WIRE_RUN_SEPARATE = 32, /* stdout and stderr by two pipes, the output in frames; not with TTY or OUTPUT_FD */
	WIRE_RUN_TAIL = 64,     /* the last MAX_BYTES of the output are kept, instead of the first */
	WIRE_RUN_FETCH = 128,   /* DONE comes without the output: READ gives it */
	WIRE_RUN_QUIET = 256,   /* a run that ends within a moment is not STARTED: its DONE is the answer */
	WIRE_RUN_LOG = 512,     /* with OUTPUT_FD: it is a log, which init itself writes to (init/logfile.h) */
};

enum wire_open_mode {
	WIRE_OPEN_READ = 0,  /* an existing regular file, read only; refuses links (ELOOP), directories (EISDIR), others (EINVAL) */
	WIRE_OPEN_STAGE = 1, /* a new file beside PATH under a hidden name, read-write; TMP in the request continues one */
	WIRE_OPEN_STAGE_MKDIRS = 2, /* the same after making missing parents */
};

/* -- encoding -------------------------------------------------------------------------------------------------- */
/* The buffer is the caller's, 8-aligned, of WIRE_MAX bytes at most. The first overflow sticks: wire_end() gives it. */
struct wire_out {
	char *buf;
	size_t cap, len;
	int error;
};

void wire_begin(struct wire_out *o, void *buf, size_t cap, enum wire_type type, uint64_t request);
void wire_put(struct wire_out *o, enum wire_tag tag, const void *p, size_t len);
void wire_put_u64(struct wire_out *o, enum wire_tag tag, uint64_t v);
void wire_put_str(struct wire_out *o, enum wire_tag tag, const char *s); /* NULL puts nothing; the NUL travels too */
MUST_CHECK int wire_end(struct wire_out *o, size_t *ret_len); /* -EMSGSIZE when it did not fit */
/* wire_end and fd_send in one. */
MUST_CHECK int wire_send(int sock, struct wire_out *o, const int *fds, size_t n_fds);

/* -- decoding -------------------------------------------------------------------------------------------------- */
struct wire_in {
	const char *buf; /* must outlive the use of every string taken from it */
	size_t len;
	enum wire_type type;
	uint16_t version;
	uint64_t request;
};

/* Checks head and framing of every field. -EPROTO, or -EPROTONOSUPPORT for a version that is not spoken. */
MUST_CHECK int wire_parse(struct wire_in *ret, const void *buf, size_t len);
/* The n-th (from 0) field of a tag; NULL = absent. */
const void *wire_get(const struct wire_in *in, enum wire_tag tag, size_t n, size_t *ret_len);
/* NUL-terminated text without NUL inside, or NULL. */
const char *wire_get_str(const struct wire_in *in, enum wire_tag tag, size_t n);
/* A u64 field, or fallback. */
uint64_t wire_get_u64(const struct wire_in *in, enum wire_tag tag, uint64_t fallback);
size_t wire_count(const struct wire_in *in, enum wire_tag tag);
const char *wire_type_name(enum wire_type type);
