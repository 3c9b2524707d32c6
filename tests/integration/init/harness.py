"""A sandbox made by plain system calls, to test openreward-init without the spawner: what init/boot.h promises it, and
nothing more. Needs root. The root file system is the machine's /usr, read-only, with folders of its own around it."""
import array
import contextlib
import ctypes
import fcntl
import itertools
import os
import select
import signal
import socket
import struct
import sys
import tempfile
import time

BASE = 1_500_000_000 + (os.getpid() % 1000) * 65536
RANGE = 65536
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from wire_format import HEAD, MAGIC, ROOT, TYPE_NAMES, TYPES, decode_fields, encode  # noqa: E402,F401

TEXTS = {"STAGE", "TEXT", "TMP", "RUN_ID"}
BYTES = {"OUTPUT", "ADDR", "CLIENT", "LABEL"}

RUN_SCRIPT, RUN_OUTPUT_FD, RUN_MAIN = 1, 2, 4
RUN_INPUT, RUN_TTY, RUN_SEPARATE, RUN_TAIL, RUN_FETCH = 8, 16, 32, 64, 128
NEW = dict(NS=0x20000, CGROUP=0x2000000, UTS=0x4000000, IPC=0x8000000, USER=0x10000000, PID=0x20000000, NET=0x40000000)
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18

libc = ctypes.CDLL(None, use_errno=True)


def check(r, what):
    if r < 0:
        raise OSError(ctypes.get_errno(), what)
    return r


def mount(src, dst, kind=None, flags=0, data=None):
    enc = lambda s: s.encode() if s else None
    check(libc.mount(enc(src), enc(dst), enc(kind), ctypes.c_ulong(flags), enc(data)), f"mount {dst}")


def program():
    path = os.path.join(os.environ.get("OPENREWARD_BUILD_DIR", os.path.join(ROOT, "build")), "openreward-init")
    if not os.path.exists(path):
        raise FileNotFoundError(f"{path}: build it, or set OPENREWARD_BUILD_DIR")
    return path


class Message(dict):
    """Fields by name; .kind, .request, .fds."""


def decode(raw):
    magic, _, kind, request = HEAD.unpack_from(raw)
    assert magic == MAGIC
    m = Message()
    m.kind, m.request, m.fds = TYPE_NAMES.get(kind, kind), request, []
    for name, data in decode_fields(raw):
        m[name] = data if name in BYTES else data.rstrip(b"\0").decode(errors="replace") if name in TEXTS else struct.unpack("<Q", data)[0]
    return m


def receive(sock):
    raw, anc, _, _ = sock.recvmsg(131072, socket.CMSG_SPACE(32))
    if not raw:
        raise EOFError("init has closed its socket")
    m = decode(raw)
    for level, kind, data in anc:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds = array.array("i")
            fds.frombytes(data[:len(data) - len(data) % 4])
            m.fds += list(fds)
    return m


def send(sock, raw, fds=()):
    sock.sendmsg([raw], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else [])


class Failed(Exception):
    def __init__(self, message):
        super().__init__(f"{message.get('STAGE')}: {message.get('TEXT')}")
        self.errno, self.stage, self.text = message["ERRNO"], message.get("STAGE"), message.get("TEXT")


def build_root(root, shm_mb):
    """In the sandbox's namespaces, as its root."""
    mount(None, "/", None, MS_REC | MS_PRIVATE)
    mount("tmpfs", root, "tmpfs", MS_NODEV, "mode=755,size=512m")
    for d in "usr etc proc dev tmp root home var run sys old".split():
        os.mkdir(f"{root}/{d}")
    os.chmod(f"{root}/tmp", 0o1777)
    for link in "bin sbin lib lib64".split():
        os.symlink(f"usr/{link}", f"{root}/{link}")
    mount("/usr", f"{root}/usr", None, MS_BIND | MS_REC)
    mount("proc", f"{root}/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    mount("tmpfs", f"{root}/dev", "tmpfs", MS_NOSUID, "mode=755")
    for dev in "null zero full random urandom".split():
        open(f"{root}/dev/{dev}", "w").close()
        mount(f"/dev/{dev}", f"{root}/dev/{dev}", None, MS_BIND)
    os.symlink("/proc/self/fd", f"{root}/dev/fd")
    os.mkdir(f"{root}/dev/pts")
    mount("devpts", f"{root}/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,gid=5,mode=620,ptmxmode=666")
    os.mkdir(f"{root}/dev/shm", 0o1777)
    mount("tmpfs", f"{root}/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, f"mode=1777,size={shm_mb}m")
    with open(f"{root}/etc/passwd", "w") as f:
        f.write("root:x:0:0:root:/root:/bin/bash\nagent:x:1000:1000::/home/agent:/bin/bash\nother:x:1001:1001::/home/other:/bin/sh\n")
    with open(f"{root}/etc/group", "w") as f:
        f.write("root:x:0:\nagent:x:1000:\nother:x:1001:\nextra:x:2000:other,agent\nmore:x:2001:agent\n")
    for name, uid in (("agent", 1000), ("other", 1001)):
        os.mkdir(f"{root}/home/{name}", 0o755)
        os.chown(f"{root}/home/{name}", uid, uid)
    os.chdir(root)
    check(libc.syscall(155, b".", b"old"), "pivot_root")
    os.chdir("/")
    check(libc.umount2(b"/old", 2), "umount the old root")
    os.rmdir("/old")


def write(path, text):
    with open(path, "w") as f:
        f.write(str(text))


class Sandbox:
    """With-statement: a running init. .control and .egress are our ends of its sockets."""

    counter = itertools.count(1)

    def __init__(self, flags="steer", memory_mb=0, pids=0, shm_mb=64, spool_mb=0, delegated=True):
        self.flags, self.shm_mb = flags, shm_mb
        self.name = f"orw-init-test-{os.getpid()}-{next(self.counter)}"
        self.requests = itertools.count(1)
        self.events, self.runs = [], itertools.count(1)
        self.cgroups, self.pid, self.stack = [], 0, contextlib.ExitStack()
        self.limits = dict(memory=memory_mb, pids=pids)
        self.spool_mb, self.delegated = spool_mb, delegated

    # -- making

    def make_cgroups(self):
        unified = next(d for d in ("/sys/fs/cgroup/unified", "/sys/fs/cgroup") if os.path.exists(f"{d}/cgroup.procs"))
        top = f"{unified}/{self.name}"
        # init itself is in the upper one, as with the spawner: with nsdelegate, which systemd mounts with, nobody clones into
        # a group that is not below the root of his cgroup namespace.
        for d in (top, f"{top}/runs"):
            os.mkdir(d)
            self.cgroups.append(d)
            if d == top:
                write(f"{d}/cgroup.max.descendants", 16384 + 1024)
            for f in ("", "cgroup.procs", "cgroup.threads"):
                os.chown(f"{d}/{f}", BASE, BASE)
        self.v2, self.dirs = top, {}
        for controller in ("memory", "pids"):
            d = f"/sys/fs/cgroup/{controller}/{self.name}"
            if os.path.isdir(os.path.dirname(d)):
                os.mkdir(d)
                self.cgroups.append(d)
                self.dirs[controller] = d
        if self.limits["memory"] and "memory" in self.dirs:
            write(f"{self.dirs['memory']}/memory.limit_in_bytes", self.limits["memory"] << 20)
        elif self.limits["memory"]:
            write(f"{top}/memory.max", self.limits["memory"] << 20)
        if self.limits["pids"]:
            write(f"{self.dirs.get('pids', top)}/pids.max", self.limits["pids"])

    def make_spool(self):
        self.spool = self.stack.enter_context(tempfile.TemporaryDirectory(prefix="orw-init-spool-"))
        if self.spool_mb:
            mount("tmpfs", self.spool, "tmpfs", 0, f"size={self.spool_mb}m")
            self.stack.callback(lambda: libc.umount2(self.spool.encode(), 2))
        os.chown(self.spool, BASE, BASE)
        os.chmod(self.spool, 0o700)

    def child(self, fds, sync, root):
        """Becomes the sandbox's pid 1."""
        os.setgroups([])
        os.setresgid(BASE, BASE, BASE)
        os.setresuid(BASE, BASE, BASE)
        libc.prctl(4, 1)
        check(libc.unshare(NEW["USER"]), "unshare user")
        sync.send(b"u")
        sync.recv(1)
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        check(libc.unshare(sum(NEW.values()) - NEW["USER"]), "unshare")
        maker = os.pidfd_open(os.getpid())
        if os.fork():
            os._exit(0)
        select.select([maker], [], [])  # init asks to die with its parent: this one has to be dead before it does
        os.close(maker)
        build_root(root, self.shm_mb)
        self.lo_up()
        binary = fds.pop("binary")
        fds[10] = os.open("/proc/self/oom_score_adj", os.O_RDWR)
        high = {k: os.dup2(fd, 100 + k) for k, fd in fds.items()}
        binary = os.dup2(binary, 120)
        for k, fd in high.items():
            os.dup2(fd, k, inheritable=True)
        os.execve(binary, ["openreward-init", self.flags], {})

    @staticmethod
    def lo_up():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            fcntl.ioctl(s, 0x8914, struct.pack("16sH14x", b"lo", 0x49))

    def __enter__(self):
        with self.stack:
            self.stack.callback(self.remove_cgroups)
            self.make_cgroups()
            self.make_spool()
            self.stack.callback(self.end)
            self.start()
            self.stack = self.stack.pop_all()
        return self

    def start(self):
        root = self.stack.enter_context(tempfile.TemporaryDirectory(prefix="orw-init-root-"))
        os.chown(root, BASE, BASE)
        self.control, control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.egress, egress = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for s in (self.control, control, self.egress, egress):
            s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 19)
        sync, theirs = socket.socketpair()
        ready_r, ready_w = os.pipe()
        fds = {3: control.fileno(), 4: egress.fileno(), 5: os.open(f"{self.v2}/runs" if self.delegated else "/dev/null", os.O_RDONLY),
               6: os.open(self.spool, os.O_RDONLY), 7: ready_w,
               8: os.open(self.dirs.get("memory", self.v2), os.O_RDONLY), 9: os.open(self.dirs.get("pids", self.v2), os.O_RDONLY),
               "binary": os.open(program(), os.O_RDONLY)}
        own = [fds[k] for k in (5, 6, 7, 8, 9, "binary")]
        maker = os.fork()
        if maker == 0:
            try:
                for d in (self.v2, *self.dirs.values()):
                    write(f"{d}/cgroup.procs", os.getpid())
                os.close(ready_r)
                self.control.close()
                self.egress.close()
                self.child(fds, theirs, root)
            except BaseException as e:
                os.write(2, f"harness: {e!r}\n".encode())
            os._exit(99)
        theirs.close()
        control.close()
        egress.close()
        for fd in own:
            os.close(fd)
        assert sync.recv(1) == b"u", "the maker died"
        for f in ("uid_map", "gid_map"):
            write(f"/proc/{maker}/{f}", f"0 {BASE} {RANGE}")
        sync.send(b"m")
        os.waitpid(maker, 0)
        self.ready = b""
        while chunk := os.read(ready_r, 100):
            self.ready += chunk
        os.close(ready_r)
        sync.close()
        procs = open(f"{self.v2}/cgroup.procs").read().split()
        self.pid = int(procs[0]) if procs else 0
        if self.pid:
            self.pidfd = os.pidfd_open(self.pid)
        self.control.settimeout(30)
        self.egress.settimeout(10)
        assert self.ready == b"R", f"init said {self.ready!r}"

    def __exit__(self, *exc):
        self.stack.close()

    def end(self):
        if not self.pid:
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        select.select([self.pidfd], [], [], 10)
        os.close(self.pidfd)
        self.control.close()
        self.egress.close()

    def remove_cgroups(self):
        runs = f"{self.v2}/runs"
        todo = [f"{runs}/{d}" for d in os.listdir(runs) if d.startswith("run-")] + self.cgroups[::-1]
        deadline = time.monotonic() + 5
        while todo and time.monotonic() < deadline:
            try:
                os.rmdir(todo[0])
                todo.pop(0)
            except OSError:
                time.sleep(0.01)
        assert not todo, f"cgroups stay: {todo}"

    # -- talking

    def post(self, kind, *fields, fds=(), request=None):
        request = next(self.requests) if request is None else request
        send(self.control, encode(kind, request, fields), fds)
        return request

    def take(self, want):
        """The next message for which want() holds; others wait in .events."""
        for i, m in enumerate(self.events):
            if want(m):
                return self.events.pop(i)
        while True:
            m = receive(self.control)
            if want(m):
                return m
            self.events.append(m)

    def ask(self, kind, *fields, fds=()):
        request = self.post(kind, *fields, fds=fds)
        m = self.take(lambda m: m.request == request)
        if m.kind == "FAILED":
            raise Failed(m)
        return m

    def begin(self, *argv, env=(), cwd="/", user="", timeout_ms=0, max_bytes=None, flags=0, fds=(), run_id=None,
              label=None, extra=()):
        run_id = run_id or f"run {next(self.runs)}"
        fields = [("RUN_ID", run_id), *(("ARG", a) for a in argv), *(("ENV", e) for e in env), ("CWD", cwd), ("USER", user),
                  ("TIMEOUT_MS", timeout_ms), ("FLAGS", flags), *extra]
        if max_bytes is not None:
            fields.append(("MAX_BYTES", max_bytes))
        if label is not None:
            fields.append(("LABEL", label))
        self.ask("RUN", *fields, fds=fds)
        return run_id

    def wait(self, run_id, ack=True):
        m = self.take(lambda m: m.kind == "DONE" and m["RUN_ID"] == run_id)
        if ack:
            self.post("ACK", ("RUN_ID", run_id))
        return self.finish(m)

    def listed(self, pause_s=0):
        """The answer to RUNS: its items, and the message behind them."""
        request, items = self.post("RUNS"), []
        time.sleep(pause_s)
        while True:
            m = self.take(lambda m: m.request == request)
            if m.kind != "ITEM":
                return items, m
            items.append(m)

    @staticmethod
    def finish(m):
        m.output = m.get("OUTPUT")
        if m.output is None and m.fds:
            with os.fdopen(m.fds[0], "rb") as f:
                m.output = f.read()
        assert m.output is None or len(m.output) == m["STORED"]
        m.code = os.waitstatus_to_exitcode(m["STATUS"])
        m.text = (m.output or b"").decode(errors="replace")
        return m

    def run(self, *argv, **kw):
        return self.wait(self.begin(*argv, **kw))

    def sh(self, command, **kw):
        return self.run("/bin/bash", "-c", command, **kw)
