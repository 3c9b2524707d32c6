"""Speaks sandbox/wire.h to a real openreward-spawner, and to the inits that it hands over. Needs root.

A root file system for the sandboxes is made of this machine's own programs: a shell, a few tools, their libraries."""
import array
import atexit
import contextlib
import itertools
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import uuid

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from wire_format import HEAD, ROOT, TYPE_NAMES, VERSION, WIRE_MAX, decode_fields, encode  # noqa: E402

BUILD = os.environ.get("OPENREWARD_BUILD_DIR", os.path.join(ROOT, "build"))
UID = GID = 64321  # no user has it: the daemon's
BASE = []
IDS_TIMEOUT_S = 180
NO_IDS = "blocks of user ids are taken"


class Message:
    """fields: raw bytes by tag, in order; text() and number() read the first of a tag."""

    def __init__(self, data, fds):
        _, self.version, kind, self.request = HEAD.unpack_from(data)
        self.kind, self.fds, self.fields = TYPE_NAMES[kind], fds, {}
        for tag, value in decode_fields(data):
            self.fields.setdefault(tag, []).append(value)

    def text(self, tag):
        return self.fields[tag][0].rstrip(b"\0").decode() if tag in self.fields else None

    def number(self, tag):
        return struct.unpack("<Q", self.fields[tag][0])[0] if tag in self.fields else None

    def raw(self, tag):
        return self.fields[tag][0] if tag in self.fields else b""

    def __repr__(self):
        return f"{self.kind}({', '.join(f'{k}={v}' for k, v in self.fields.items())})"


class Peer:
    """One SEQPACKET connection: requests with answers, and events that come between."""

    def __init__(self, sock):
        self.sock, self.requests, self.events, self.answers = sock, itertools.count(1), [], {}

    def send(self, kind, *fields, fds=(), version=VERSION):
        number = next(self.requests)
        anc = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.sock.sendmsg([encode(kind, number, fields, version)], anc)
        return number

    def receive(self, timeout=60):
        self.sock.settimeout(timeout)
        data, fds, _, _ = socket.recv_fds(self.sock, WIRE_MAX, 16)
        if not data:
            raise EOFError("the peer closed")
        return Message(data, list(fds))

    def wait(self, request, timeout=60):
        end = time.monotonic() + timeout
        while request not in self.answers:
            m = self.receive(max(0.01, end - time.monotonic()))
            if m.request:
                self.answers.setdefault(m.request, []).append(m)
            else:
                self.events.append(m)
        found = self.answers[request].pop(0)
        if not self.answers[request]:
            del self.answers[request]
        return found

    def call(self, kind, *fields, timeout=60, **kw):
        return self.wait(self.send(kind, *fields, **kw), timeout)

    def event(self, kind, timeout=60):
        end = time.monotonic() + timeout
        while True:
            for i, m in enumerate(self.events):
                if m.kind == kind:
                    return self.events.pop(i)
            m = self.receive(max(0.01, end - time.monotonic()))
            (self.events if not m.request else self.answers.setdefault(m.request, [])).append(m)

    def close(self):
        self.sock.close()


class Box:
    """A sandbox: its init's control socket and its pidfd."""

    def __init__(self, made):
        self.id, self.pid, self.made = made.text("ID"), made.number("PID"), made
        self.init = Peer(socket.socket(fileno=made.fds[0]))
        self.pidfd = made.fds[1]

    def run(self, script, user="0:0", timeout=30):
        run_id = str(uuid.uuid4())
        r = self.init.call("RUN", ("RUN_ID", run_id), ("ARG", "/bin/sh"), ("ARG", "-c"), ("ARG", script), ("CWD", "/"),
                           ("ENV", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"), ("USER", user),
                           ("TIMEOUT_MS", timeout * 1000), ("MAX_BYTES", 1 << 20), ("FLAGS", 0))
        assert r.kind == "STARTED", r
        done = self.init.event("DONE", timeout + 5)
        self.init.send("ACK", ("RUN_ID", run_id))
        status = done.number("STATUS")
        return os.waitstatus_to_exitcode(status), done.raw("OUTPUT").rstrip(b"\0").decode(errors="replace")

    def close(self):
        self.init.close()
        os.close(self.pidfd)


def copy_program(path, root):
    """The program and what it is linked with."""
    out = subprocess.run(["ldd", path], capture_output=True, text=True, check=False).stdout
    for f in [path] + re.findall(r"(/\S+) \(0x", out):
        to = root + f
        os.makedirs(os.path.dirname(to), exist_ok=True)
        shutil.copy2(os.path.realpath(f), to)


def copy_python(root):
    """What the interpreter needs to start, and ctypes."""
    lib = "/usr/lib/" + os.path.basename(os.path.realpath("/usr/bin/python3"))
    skip = shutil.ignore_patterns("__pycache__", "test", "tests", "idlelib", "lib2to3", "config-*", "ensurepip", "pydoc*",
                                  "lib-dynload", "asyncio", "xml", "email", "unittest", "distutils", "multiprocessing")
    shutil.copytree(lib, root + lib, ignore=skip)
    for name in os.listdir(f"{lib}/lib-dynload"):
        if name.startswith("_ctypes."):
            copy_program(f"{lib}/lib-dynload/{name}", root)


def base_layer(path):
    """Made once in a test process, then hard-linked: layers are read-only."""
    if not BASE:
        BASE.append(tempfile.mkdtemp(prefix="orw-base-", dir="/var/tmp"))
        atexit.register(shutil.rmtree, BASE[0], ignore_errors=True)
        make_layer(f"{BASE[0]}/base")
    subprocess.run(["cp", "-al", f"{BASE[0]}/base", path], check=True)


def make_layer(path):
    """A layer as an image would have it: owned by root, with a device node that must not work."""
    names = ["sh", "ls", "cat", "id", "mount", "umount", "stat", "mkdir", "rm", "mv", "ln", "cp", "touch", "chmod", "chown",
             "sleep", "head", "dd", "env", "grep", "find", "readlink", "mknod", "hostname", "python3", "unshare", "su",
             "true", "ps", "df", "kill", "seq", "tr", "wc", "nsenter", "tail"]
    for name in names:
        found = shutil.which(name, path="/usr/bin:/bin:/usr/sbin:/sbin")
        if found:
            copy_program(found, path)
            if not os.path.exists(f"{path}/bin/{name}"):
                os.makedirs(f"{path}/bin", exist_ok=True)
                os.symlink(found, f"{path}/bin/{name}")
    copy_python(path)
    for d in ("etc", "tmp", "root", "home", "usr", "var/tmp"):
        os.makedirs(f"{path}/{d}", exist_ok=True)
    os.chmod(f"{path}/tmp", 0o1777)
    with open(f"{path}/etc/passwd", "w", encoding="ascii") as f:
        f.write("root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home:/bin/sh\n")
    with open(f"{path}/etc/group", "w", encoding="ascii") as f:
        f.write("root:x:0:\ntty:x:5:\nuser:x:1000:\n")
    os.mknod(f"{path}/disk", 0o666 | 0o020000, os.makedev(1, 3))
    shutil.copy2(os.path.realpath("/usr/bin/id"), f"{path}/suid-id")
    os.chmod(f"{path}/suid-id", 0o4755)


class Spawner:
    """A real spawner on a DATA of its own. base: DATA/images/base, made if it is not given."""

    def __init__(self, data=None, args=(), env=None, listen=("127.0.0.1:0",), libexec=BUILD):
        self.data = data or tempfile.mkdtemp(prefix="orw-test-", dir="/var/tmp")
        os.makedirs(f"{self.data}/images", exist_ok=True)
        if not os.path.exists(f"{self.data}/images/base"):
            base_layer(f"{self.data}/images/base")
        argv = [f"{BUILD}/openreward-spawner", "--data", self.data, "--uid", str(UID), "--gid", str(GID), "--libexec",
                libexec, "--init", f"{BUILD}/openreward-init"]
        for address in listen:
            argv += ["--listen", address]
        self.start(argv + list(args), env)
        deadline = time.monotonic() + IDS_TIMEOUT_S  # others of this host are tests, too, and end
        while not self.ready and NO_IDS in self.stderr() and time.monotonic() < deadline:
            time.sleep(0.5)
            os.truncate(f"{self.data}/stderr", 0)
            self.start(argv + list(args), env)
        if self.ready:
            self.daemon = self.connect()

    def start(self, argv, env):
        r, w = os.pipe()
        with open(f"{self.data}/stderr", "ab") as log:
            self.process = subprocess.Popen(argv + ["--ready-fd", str(w)], pass_fds=[w], env=env, stdin=subprocess.DEVNULL, stderr=log)
        os.close(w)
        with os.fdopen(r, "rb") as f:
            self.ready = f.read() == b"ready\n"
        if not self.ready:
            self.process.wait(60)

    def name(self):
        """The prefix of what this one makes outside DATA: orw- and FNV-1a of the path."""
        h = 2166136261
        for byte in os.path.realpath(self.data).encode():
            h = (h ^ byte) * 16777619 & 0xFFFFFFFF
        return f"orw-{h:08x}"

    def loops(self):
        """The names of loop devices on files of DATA."""
        found = []
        for d in os.listdir("/sys/block"):  # those without a file have no such entry, and one that is detached loses it
            with contextlib.suppress(OSError), open(f"/sys/block/{d}/loop/backing_file", encoding="utf-8") as f:
                if self.data in f.read():
                    found.append(d)
        return found

    def stderr(self):
        with open(f"{self.data}/stderr", encoding="utf-8") as f:
            return f.read()

    def connect(self, hello=True):
        s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        s.connect(f"{self.data}/run/spawner.sock")
        peer = Peer(s)
        if hello:
            self.welcome = peer.call("HELLO", ("PROGRAM_VERSION", "test"))
            assert self.welcome.kind == "WELCOME", self.welcome
        return peer

    @staticmethod
    def plan(id=None, layers=("base",), **kw):
        names = dict(hostname="box", cpu_milli=1000, memory_bytes=256 << 20, pids_max=256, lease_ms=120_000, hard_ms=0, net=0,
                     kind=0, shm_bytes=0, no_new_privs=0)
        names.update(kw)
        user = names.pop("bucket_user", None)
        mounts = names.pop("mounts", ())
        fields = [("ID", id or str(uuid.uuid4()))] + [("LAYER", name) for name in layers]
        fields += [(k.upper(), v) for k, v in names.items()]
        fields += [("USER", user)] if user is not None else []
        for source, target, flags in mounts:
            fields += [("MOUNT_SOURCE", source), ("MOUNT_TARGET", target), ("MOUNT_FLAGS", flags)]
        return fields

    def make(self, **kw):
        m = self.daemon.call("MAKE", *self.plan(**kw), timeout=40)
        assert m.kind == "MADE", m
        return Box(m)

    def make_of(self, field, **kw):
        """A sandbox that was prepared, as this field of its MADE tells."""
        for _ in range(50):
            b = self.make(**kw)
            if b.made.number(field):
                return b
            self.end(b)
            time.sleep(0.1)
        raise AssertionError(f"no {field} within fifty sandboxes")

    def end(self, box, daemon=None):
        m = (daemon or self.daemon).call("END", ("ID", box.id), ("REASON", "deleted"))
        assert m.kind == "ENDED", m
        box.close()

    def leaks(self):
        return self.daemon.call("LEAKS").text("TEXT")

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self, sig=signal.SIGTERM):
        """Ends it and removes DATA; returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(sig)
        try:
            status = self.process.wait(40)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            status = "hung"
        shutil.rmtree(self.data, ignore_errors=True)
        return status


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as f:
        return [int(p) for p in f.read().split()]


def census(name, data):
    """What the machine has of one spawner's, counted from outside: not what the product says of itself. The net
    namespaces are those of its processes."""
    cgroups = [f"{top}/{d}" for top, dirs, _ in os.walk("/sys/fs/cgroup") for d in dirs if f"/{name}/" in f"{top}/{d}"]
    with open("/proc/1/mountinfo", encoding="utf-8") as f:
        mounts = sum(data in line for line in f)
    processes, nets = 0, set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cgroup", encoding="ascii") as f:
                if name not in f.read():
                    continue
            processes += 1
            nets.add(os.readlink(f"/proc/{pid}/ns/net"))
        except OSError:
            pass
    return dict(cgroups=len(cgroups), mounts=mounts, processes=processes, nets=len(nets))
