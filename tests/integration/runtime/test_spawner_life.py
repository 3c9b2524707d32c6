"""The spawner's protocol, leases, jobs, deaths."""
import contextlib
import errno
import itertools
import os
import re
import resource
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid

import pytest

from spawner_client import BUILD, UID, Box, Peer, Spawner, census, children, encode


NOTHING = dict(cgroups=0, mounts=0, processes=0, nets=0)
GONE = FileNotFoundError, ProcessLookupError  # what /proc says of a process that ends before its file is opened, and before it is read


def settle(what, seconds=20):
    """Waits until what() is true: cleaning goes in batches, after the answer."""
    end = time.monotonic() + seconds
    while not (reached := what()) and time.monotonic() < end:
        time.sleep(0.05)
    return reached


def descriptors(pid):
    """What they lead to."""
    links = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(*GONE):
            links.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
    return links


def net_namespaces(pid):
    """How many a spawner holds: those that it keeps for later, and those that are to be closed soon."""
    return sum(x.startswith("net:[") for x in descriptors(pid))


def open_files(pid):
    """How many descriptors a process has, but for net namespaces."""
    return sum(not x.startswith("net:[") for x in descriptors(pid))


def cpu_s(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii") as f:
        return sum(int(n) for n in f.read().rsplit(")", 1)[1].split()[11:13]) / os.sysconf("SC_CLK_TCK")


def alive(pid):
    """Not so: a process that waits for the machine's own pid 1 to reap it, because its parent was killed."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as f:
            return f.read().rsplit(")", 1)[1].split()[0] != "Z"
    except GONE:
        return False


# -- the protocol -----------------------------------------------------------------------------------------------------
def test_hello_comes_first(spawner):
    peer = spawner.connect(hello=False)
    assert peer.call("LIST").number("ERRNO") == 71  # EPROTO
    peer.close()


def test_another_version_is_refused(spawner):
    peer = spawner.connect(hello=False)
    peer.send("HELLO", version=99)
    m = peer.receive()
    assert m.kind == "FAILED" and "version" in m.text("TEXT")
    with pytest.raises(EOFError):
        peer.receive()
    peer.close()


@pytest.mark.parametrize("junk", [b"x", b"\0" * 16, encode("HELLO", 1, [])[:-4], encode("HELLO", 1, []) + b"\1" * 8,
                                  encode("LIST", 1, []) + b"\xff" * 4096])
def test_junk_ends_the_connection_only(spawner, junk):
    peer = spawner.connect(hello=False)
    peer.sock.send(junk)
    with pytest.raises(EOFError):
        peer.receive()
        peer.receive()
    peer.close()
    assert spawner.connect().call("LIST").kind == "OK"


def test_other_users_are_refused(spawner):
    code = ("import os, socket, sys\n"
            f"os.setgroups([{UID}]); os.setgid({UID}); os.setuid(4321)\n"
            "s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
            f"s.connect('{spawner.data}/run/spawner.sock')\n"
            "s.settimeout(5); sys.exit(0 if s.recv(10) == b'' else 1)")
    assert subprocess.run(["/usr/bin/python3", "-c", code], check=False, timeout=60).returncode == 0


def test_make_list_take_end(spawner):
    b = spawner.make(kind=1, lease_ms=50_000)
    n = spawner.daemon.send("LIST")
    items = []
    while (m := spawner.daemon.wait(n)).kind == "ITEM":
        items.append(m)
    item = [i for i in items if i.text("ID") == b.id][0]
    assert m.kind == "OK" and item.number("KIND") == 1 and 40_000 < item.number("LEASE_MS") <= 50_000
    taken = spawner.daemon.call("TAKE", ("ID", b.id))
    other = Box(taken)
    b.close()
    assert other.pid == b.pid and other.run("echo taken")[1] == "taken\n"
    spawner.end(other)
    assert spawner.daemon.call("TAKE", ("ID", b.id)).number("ERRNO") == 2


def test_unknown_ids(spawner):
    for kind in ("END", "TAKE", "JOB_CANCEL"):
        assert spawner.daemon.call(kind, ("ID", str(uuid.uuid4()))).number("ERRNO") == 2


def test_one_id_once(spawner):
    b = spawner.make()
    m = spawner.daemon.call("MAKE", *spawner.plan(id=b.id))
    assert m.kind == "FAILED" and m.number("ERRNO") == 17
    spawner.end(b)


@pytest.mark.parametrize("change, word", [
    (dict(id="../../etc"), "id"), (dict(hostname="Bad_Name"), "hostname"), (dict(layers=()), "layers"),
    (dict(layers=("../x",)), "layer"), (dict(layers=("/etc",)), "layer"), (dict(net=7), "net"),
    (dict(memory_bytes=1), "memory_bytes"), (dict(mounts=(("/etc", "/proc/x", 0),)), "/proc"),
    (dict(mounts=(("/etc", "/a/../b", 0),)), "target"),
])
def test_bad_plans_name_the_field(spawner, change, word):
    m = spawner.daemon.call("MAKE", *spawner.plan(**change))
    assert m.kind == "FAILED" and m.number("ERRNO") == 22 and word in m.text("TEXT"), m


def test_layers_stay_below_images(spawner):
    os.symlink("/etc", f"{spawner.data}/images/link")
    os.symlink("/", f"{spawner.data}/images/base-root") if not os.path.lexists(f"{spawner.data}/images/base-root") else None
    for layer in ("link", "base-root/etc", "missing", "base/etc/passwd"):
        m = spawner.daemon.call("MAKE", *spawner.plan(layers=(layer,)))
        assert m.kind == "FAILED" and m.text("PATH") == layer and m.text("STAGE") == "mount an id-mapped layer", m
    assert settle(lambda: spawner.leaks() == "" and len(os.listdir(f"{spawner.data}/sandboxes")) == 1)


def test_several_layers(spawner):
    names = []
    for i in range(60):
        os.makedirs(f"{spawner.data}/images/many/l{i}/d", exist_ok=True)
        with open(f"{spawner.data}/images/many/l{i}/who", "w", encoding="ascii") as f:
            f.write(str(i))
        with open(f"{spawner.data}/images/many/l{i}/d/f{i}", "w", encoding="ascii") as f:
            f.write(str(i))
        names.append(f"many/l{i}")
    b = spawner.make(layers=names + ["base"])
    assert b.run("cat /who; ls /d | wc -l")[1].split() == ["060"] or b.run("cat /who; echo; ls /d | wc -l")[1].split() == \
        ["0", "60"]
    spawner.end(b)


def test_links_in_the_image_lead_nowhere(spawner):
    """proc, sys and dev of the image are links out; what the spawner mounts must land inside."""
    top = f"{spawner.data}/images/linked"
    os.makedirs(top, exist_ok=True)
    for name, to in (("proc", "../../../../../../var/tmp"), ("sys", "/tmp"), ("dev", "/etc")):
        if not os.path.lexists(f"{top}/{name}"):
            os.symlink(to, f"{top}/{name}")
    m = spawner.daemon.call("MAKE", *spawner.plan(layers=("linked", "base")))
    if m.kind == "MADE":
        spawner.end(Box(m))
    with open("/proc/1/mountinfo", encoding="utf-8") as f:
        assert spawner.data + "/sandboxes" not in f.read()


def test_configured_mounts(own):
    where = tempfile.mkdtemp(dir="/var/tmp")
    os.chmod(where, 0o755)
    with open(f"{where}/ca.pem", "w", encoding="ascii") as f:
        f.write("certificate\n")
    try:
        s = own(args=["--mount", f"{where}/ca.pem", "--mount", where])
        b = s.make(mounts=((f"{where}/ca.pem", "/etc/ssl/deep/ca.pem", 1), (where, "/opt/x", 1)))
        assert b.run("cat /etc/ssl/deep/ca.pem /opt/x/ca.pem")[1] == "certificate\n" * 2
        assert b.run("echo x >/etc/ssl/deep/ca.pem")[0] != 0 and b.run("touch /opt/x/y")[0] != 0
        s.end(b)
        m = s.daemon.call("MAKE", *s.plan(mounts=(("/etc", "/opt/x", 1),)))
        assert m.kind == "FAILED" and m.number("ERRNO") == 1 and m.text("PATH") == "/etc"
    finally:
        shutil.rmtree(where)


# -- leases -----------------------------------------------------------------------------------------------------------
def test_silence_ends_it(spawner):
    b = spawner.make(lease_ms=300)
    t = time.monotonic()
    gone = spawner.daemon.event("GONE", 60)
    assert (gone.text("ID"), gone.text("REASON")) == (b.id, "lease") and time.monotonic() - t < 30
    b.close()


def test_renewing_keeps_it_and_the_deadline_does_not_care(spawner):
    b = spawner.make(lease_ms=2000, hard_ms=7000)
    t = time.monotonic()
    for _ in range(8):
        spawner.daemon.send("RENEW", ("ID", b.id), ("LEASE_MS", 2000))
        time.sleep(0.4)
    assert b.run("echo lives")[1] == "lives\n"
    spawner.daemon.send("RENEW", ("ID", b.id), ("LEASE_MS", 60_000))
    gone = spawner.daemon.event("GONE", 60)
    assert gone.text("REASON") == "deadline" and 6.5 < time.monotonic() - t < 30
    b.close()


def test_sandboxes_outlive_the_daemon(own):
    s = own()
    b, c = s.make(lease_ms=60_000), s.make(lease_ms=4000)
    boot = s.welcome.text("BOOT")
    s.daemon.close()
    b.init.close()
    time.sleep(0.3)
    s.daemon = s.connect()
    assert s.welcome.text("BOOT") == boot and len(s.welcome.fds) == 2
    again = Box(s.daemon.call("TAKE", ("ID", b.id)))
    assert again.run("echo back")[1] == "back\n"
    assert s.daemon.event("GONE").text("ID") == c.id
    s.end(again)
    assert settle(lambda: s.leaks() == "")


def test_notes_are_for_whoever_takes_over(own):
    s, note, large = own(), b"a\0note", os.urandom(100_000)
    b = Box(s.daemon.call("MAKE", *s.plan(), ("NOTE", note)))
    assert not b.made.raw("NOTE")
    s.daemon.close()
    s.daemon = s.connect()
    assert s.daemon.call("TAKE", ("ID", b.id)).raw("NOTE") == note
    s.daemon.send("NOTE", ("ID", b.id), ("NOTE", large))
    s.daemon.send("NOTE", ("ID", str(uuid.uuid4())), ("NOTE", b"of nobody"))
    assert s.daemon.call("TAKE", ("ID", b.id)).raw("NOTE") == large


def test_what_a_dead_daemon_has_asked_for_is_in_the_list_of_the_next(own):
    s, ids = own(), [str(uuid.uuid4()) for _ in range(20)]
    s.process.send_signal(signal.SIGSTOP)
    for box_id in ids:
        s.daemon.send("MAKE", *s.plan(id=box_id))
    s.daemon.close()
    s.daemon = s.connect(hello=False)
    s.daemon.send("HELLO", ("PROGRAM_VERSION", "test"))
    n, listed = s.daemon.send("LIST"), []
    s.process.send_signal(signal.SIGCONT)
    while (m := s.daemon.wait(n)).kind == "ITEM":
        listed.append(m.text("ID"))
    assert m.kind == "OK" and sorted(listed) == sorted(ids)
    for box_id in ids:
        assert s.daemon.call("END", ("ID", box_id), ("REASON", "deleted")).kind == "ENDED"
    assert settle(lambda: s.leaks() == "")


def test_one_that_is_starting_is_taken_when_it_is_ready(own):
    s, box_id = own(), str(uuid.uuid4())
    s.daemon.send("MAKE", *s.plan(id=box_id))
    s.daemon.close()
    s.daemon = s.connect()
    assert settle(lambda: s.daemon.call("LIST").kind == "ITEM")
    assert Box(s.daemon.call("TAKE", ("ID", box_id))).run("echo here")[1] == "here\n"


def test_no_sandbox_outlives_a_killed_spawner(own):
    """Not even while a daemon still holds its socket."""
    s = own()
    b = s.make()
    s.kill()
    assert select.select([b.pidfd], [], [], 2)[0]


# -- without descriptors ----------------------------------------------------------------------------------------------
def numbers(s):
    return {int(n) for n in os.listdir(f"/proc/{s.process.pid}/fd")}


@contextlib.contextmanager
def starved(s, limit=0):
    """A spawner that cannot open one more."""
    used = numbers(s)
    limit = limit or next(n for n in itertools.count() if n not in used)
    soft, hard = resource.prlimit(s.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(s.process.pid, resource.RLIMIT_NOFILE, (limit, hard))
    yield
    resource.prlimit(s.process.pid, resource.RLIMIT_NOFILE, (soft, hard))


def builders_and_inits(s):
    return [pid for pid in children(s.process.pid) if lines(f"/proc/{pid}/comm") not in ([], ["openreward-egre"])]


def test_an_init_that_cannot_be_held_is_killed(own):
    """Its builder is done and gone when the spawner hears of it, and for a pidfd there is no descriptor."""
    s = own()
    s.end(s.make())
    kinds = []
    while "FAILED" not in kinds and len(kinds) < 30:  # it may have heard of it before it was stopped
        assert settle(lambda: not builders_and_inits(s))
        fields = s.plan()
        made = s.daemon.send("MAKE", *fields)
        end = time.monotonic() + 10
        while not builders_and_inits(s):
            assert time.monotonic() < end
        os.kill(s.process.pid, signal.SIGSTOP)
        try:
            time.sleep(0.5)
            with starved(s):
                os.kill(s.process.pid, signal.SIGCONT)
                m = s.daemon.wait(made)
        finally:
            os.kill(s.process.pid, signal.SIGCONT)
        kinds.append(m.kind)
        assert m.kind == "MADE" or m.text("STAGE") == "open a pidfd", m
        end = s.daemon.call("END", ("ID", fields[0][1]), ("REASON", "deleted"))
        assert end.kind == "ENDED" or end.number("ERRNO") == errno.ENOENT, end
    assert "FAILED" in kinds
    assert settle(lambda: not builders_and_inits(s) and s.leaks() == "")


def test_answers_that_wait_need_no_descriptor(own):
    """Of a daemon that does not read: what it is handed waits with the sandbox, and is refused where that has ended meanwhile."""
    s = own()
    b, c = s.make(), s.make()
    for x in (b, c):
        s.daemon.send("NOTE", ("ID", x.id), ("NOTE", os.urandom(100_000)))
    slow = s.connect()
    with starved(s):
        asked = [(x, slow.send("TAKE", ("ID", x.id))) for x in (b, c) * 15]
        time.sleep(0.5)  # all are read: the answers to the first fill the socket
    s.end(c)
    got = [(x, slow.wait(request)) for x, request in asked]
    assert all(m.kind == "MADE" and len(m.fds) == 2 for x, m in got if x is b)
    made = [m.kind == "MADE" and len(m.fds) == 2 for x, m in got if x is c]
    assert made == sorted(made, reverse=True) and not made[-1]
    assert all(m.number("ERRNO") == 2 for x, m in got if x is c and m.kind != "MADE")
    assert Box(got[-2][1]).run("echo here")[1] == "here\n"
    for _, m in got:
        for fd in m.fds:
            with contextlib.suppress(OSError):
                os.close(fd)
    assert slow.call("LIST").kind == "ITEM"


def test_without_a_descriptor_for_it_a_request_is_refused(own, programs):
    s = own(libexec=programs, args=["--egress-arg", f"{programs}/log"])
    with starved(s), open("/dev/null", encoding="ascii") as f:
        m = s.daemon.call("JOB", ("ID", "x"), ("JOB_KIND", "pull"), ("ARG", "ok"), fds=[f.fileno()])
        assert m.kind == "FAILED" and m.number("ERRNO") == 24 and "no descriptor" in m.text("TEXT"), m
    assert s.daemon.call("LIST").kind == "OK"
    _, m = job(s, "ok")
    assert m.kind == "JOB_STARTED", m
    os.close(m.fds[0])
    assert s.daemon.event("JOB_DONE")


def test_without_a_descriptor_for_it_a_connection_waits(own):
    s = own()
    with starved(s):
        late = s.connect(hello=False)
        request = late.send("HELLO", ("PROGRAM_VERSION", "test"))
        before = cpu_s(s.process.pid)
        time.sleep(1)
        assert cpu_s(s.process.pid) - before < 0.3, "it asks again and again"
        assert not select.select([late.sock], [], [], 0)[0]
    assert late.wait(request).kind == "WELCOME"


# -- deaths -----------------------------------------------------------------------------------------------------------
def test_shutdown_leaves_nothing(own):
    s = own()
    boxes = [s.make() for _ in range(5)]
    s.daemon.send("MAKE", *s.plan())  # one on its way
    m = s.daemon.call("SHUTDOWN", timeout=30)
    assert m.kind == "OK" and s.process.wait(60) == 0
    assert os.listdir(f"{s.data}/sandboxes") == [] and not os.path.exists(f"{s.data}/run/spawner.sock")
    assert not any(os.path.exists(f"/proc/{b.pid}") for b in boxes)
    assert census(s.name(), s.data) == NOTHING
    tops = [d for _, dirs, _ in os.walk("/sys/fs/cgroup") for d in dirs]
    assert s.name() not in tops


def test_sigterm_leaves_nothing(own):
    s = own()
    b = s.make()
    s.process.send_signal(signal.SIGTERM)
    assert s.process.wait(60) == 0 and not os.path.exists(f"/proc/{b.pid}")
    assert os.listdir(f"{s.data}/sandboxes") == []


def test_the_next_one_clears_up_after_a_kill(own):
    s = own()
    boxes = [s.make() for _ in range(3)]
    pids = [b.pid for b in boxes]
    s.kill()
    assert {b.id for b in boxes} <= set(os.listdir(f"{s.data}/sandboxes")), "nothing is left over, so this is no test"
    t = own(data=s.data)
    assert settle(lambda: os.listdir(f"{t.data}/sandboxes") == [".stage"])
    assert not any(alive(p) for p in pids)
    assert settle(lambda: t.leaks() == "")


def test_leaks_are_seen(own):
    s = own()
    os.mkdir(f"{s.data}/sandboxes/stray")
    assert s.leaks() == f"folder {s.data}/sandboxes/stray\n"
    os.rmdir(f"{s.data}/sandboxes/stray")
    name = [p for p in os.listdir("/sys/fs/cgroup/unified" if os.path.isdir("/sys/fs/cgroup/unified") else "/sys/fs/cgroup")
            if p.startswith("orw-")]
    assert name and s.leaks() == ""


def test_one_spawner_for_a_data(own):
    s = own()
    t = Spawner(data=s.data, listen=())
    assert not t.ready and t.process.returncode == 1 and "another spawner runs" in t.stderr()
    assert s.connect().call("LIST").kind == "OK"


def test_a_taken_port_is_told(own):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = "127.0.0.1:%d" % taken.getsockname()[1]
        s = own(listen=(address,))
        assert not s.ready and s.process.returncode == 1
        assert s.stderr() == f"openreward-spawner: listen {address}: address already in use\n"


@pytest.mark.parametrize("args, word", [(["--nonsense"], "unknown option"), (["--uid", "x"], "--uid"),
                                        (["--job-env", "X"], "NAME=VALUE"), (["--listen", "nowhere"], "HOST:PORT")])
def test_bad_arguments(args, word):
    r = subprocess.run([f"{BUILD}/openreward-spawner", "--data", "/var/tmp/orw-none", "--uid", "1", "--gid", "1", "--libexec",
                        "/nowhere"] + args, capture_output=True, text=True, check=False, timeout=60)
    assert r.returncode == 1 and word in r.stderr and r.stderr.count("\n") == 1
    assert not os.path.exists("/var/tmp/orw-none")


def test_two_daemons_do_not_meet(own):
    s, t = own(), own()
    a, b = s.make(), t.make()
    first = [int(open(f"/proc/{x.pid}/uid_map", encoding="ascii").read().split()[1]) for x in (a, b)]
    assert abs(first[0] - first[1]) >= 4096 * 65536 or first[0] // (4096 * 65536) != first[1] // (4096 * 65536)
    assert s.leaks() == "" and t.leaks() == ""
    s.stop()
    assert b.run("echo lives")[1] == "lives\n"


def test_a_handed_over_listener_accepts(own):
    s = own()
    listener = socket.socket(fileno=s.welcome.fds[0])
    listener.settimeout(60)
    with socket.create_connection(listener.getsockname(), 60):
        listener.accept()[0].close()
    listener.close()


# -- many -------------------------------------------------------------------------------------------------------------
def test_many_at_a_time(own):
    s = own()
    flying = [s.daemon.send("MAKE", *s.plan()) for _ in range(40)]
    boxes = [Box(s.daemon.wait(n, 60)) for n in flying]
    assert len({b.pid for b in boxes}) == 40
    assert all(b.run("echo ok")[1] == "ok\n" for b in boxes[::8])
    for n in [s.daemon.send("END", ("ID", b.id), ("REASON", "deleted")) for b in boxes]:
        assert s.daemon.wait(n).kind == "ENDED"
    assert settle(lambda: s.leaks() == "" and os.listdir(f"{s.data}/sandboxes") == [".stage"])


def test_ended_while_starting(own):
    s = own()
    for _ in range(30):
        plan = s.plan()
        made, ended = s.daemon.send("MAKE", *plan), s.daemon.send("END", ("ID", plan[0][1]), ("REASON", "deleted"))
        m = s.daemon.wait(made)
        assert m.kind in ("MADE", "FAILED") and s.daemon.wait(ended).kind == "ENDED"
        for fd in m.fds:
            os.close(fd)
    assert settle(lambda: s.leaks() == "" and os.listdir(f"{s.data}/sandboxes") == [".stage"])


def test_cycles_leak_nothing(own):
    s = own()
    b = s.make()
    assert census(s.name(), s.data)["processes"] in (1, 2) and census(s.name(), s.data)["cgroups"] >= 2
    s.end(b)
    settle(lambda: os.listdir(f"{s.data}/sandboxes") == [".stage"])
    fds = open_files(s.process.pid)
    assert census(s.name(), s.data) == NOTHING
    for _ in range(100):
        s.end(s.make())
    assert settle(lambda: os.listdir(f"{s.data}/sandboxes") == [".stage"])
    assert settle(lambda: open_files(s.process.pid) == fds and net_namespaces(s.process.pid) <= 64)
    assert s.leaks() == "" and census(s.name(), s.data) == NOTHING


# -- egress and jobs: programs of our own in a libexec ------------------------------------------------------------------
FAKE_EGRESS = """#!/usr/bin/python3
import os, socket, sys
s = socket.socket(fileno=3)
s.setblocking(True)
with open(sys.argv[1], "ab", 0) as log:
    log.write(b"start %d %d\\n" % (os.getuid(), os.getpid()))
    while True:
        data, fds, _, _ = socket.recv_fds(s, 131072, 8)
        if not data: sys.exit(0)
        log.write(b"register %d %s\\n" % (len(fds), data[24:60]))
"""
FAKE_PROGRAM = """#!/bin/sh
shift
k=$1; shift 3; set -- "$k" "$@"
case "$1 $2" in
"pull ok") echo "out $@"; echo err >&2; env; ls /proc/self/fd; exit 3;;
"pull slow") (trap '' TERM; setsid sleep 1000) & echo started; sleep 1000;;
"pull signal") kill -11 $$;;
"pull orphan") (setsid sleep 1000 >/dev/null 2>&1 &) ; exit 0;;
"build net") readlink /proc/self/fd/3; exec nsenter --net=/proc/self/fd/3 cat /proc/net/dev;;
esac
"""


@pytest.fixture
def programs():
    top = tempfile.mkdtemp(dir="/var/tmp")
    os.chmod(top, 0o777)
    for name, text in (("openreward-egress", FAKE_EGRESS), ("openreward", FAKE_PROGRAM)):
        with open(f"{top}/{name}", "w", encoding="ascii") as f:
            f.write(text)
        os.chmod(f"{top}/{name}", 0o755)
    yield top
    shutil.rmtree(top)


def lines(path):
    try:
        with open(path, encoding="ascii") as f:
            return f.read().splitlines()
    except GONE:
        return []


def test_egress_is_told_and_told_again(own, programs):
    log = f"{programs}/log"
    s = own(libexec=programs, args=["--egress-arg", log])
    a, b = s.make(), s.make()
    assert settle(lambda: len(lines(log)) == 3), lines(log)
    uid, pid = map(int, lines(log)[0].split()[1:])
    assert uid == UID and lines(log)[1].startswith("register 1") and a.id in lines(log)[1]
    s.end(a)
    os.kill(pid, signal.SIGKILL)
    assert settle(lambda: len(lines(log)) == 5), lines(log)
    assert b.id in lines(log)[4] and int(lines(log)[3].split()[2]) != pid
    pid = int(lines(log)[3].split()[2])
    s.process.send_signal(signal.SIGTERM)
    assert s.process.wait(60) == 0 and not os.path.exists(f"/proc/{pid}")


def test_an_egress_that_lived_long_starts_again_at_once(own, programs):
    """However often it has died before, in a life of months."""
    log = f"{programs}/log"
    s = own(libexec=programs, args=["--egress-arg", log])

    def dies(n):
        assert settle(lambda: len(lines(log)) == n), lines(log)
        os.kill(int(lines(log)[n - 1].split()[2]), signal.SIGKILL)
        assert settle(lambda: s.stderr().count("egress ended") == n)
        return s.stderr().splitlines()[-1]

    assert "again in 100 ms" in dies(1) and "again in 200 ms" in dies(2) and "again in 400 ms" in dies(3)
    assert settle(lambda: len(lines(log)) == 4)
    time.sleep(10.5)
    assert "again in 100 ms" in dies(4) and "again in 200 ms" in dies(5)


def job(s, *args, kind="pull", **kw):
    id = uuid.uuid4().hex
    fields = [("ID", id), ("JOB_KIND", kind)] + [("ARG", a) for a in args] + [(k.upper(), v) for k, v in kw.items()]
    m = s.daemon.call("JOB", *fields)
    return id, m


def test_jobs(own, programs):
    env = dict(os.environ, OPENREWARD_SECRET="hidden", HTTPS_PROXY="http://proxy")
    s = own(libexec=programs, args=["--job-env", "X_A=b", "--egress-arg", f"{programs}/log"], env=env)
    id, m = job(s, "ok", "docker.io/library/x:1")
    assert m.kind == "JOB_STARTED"
    with os.fdopen(m.fds[0]) as f:
        out = f.read()
    done = s.daemon.event("JOB_DONE")
    assert done.text("ID") == id and os.waitstatus_to_exitcode(done.number("STATUS")) == 3 and done.text("REASON") is None
    assert "out pull ok docker.io/library/x:1" in out and "err" in out and "X_A=b" in out and "HOME=/root" in out
    assert "HTTPS_PROXY=http://proxy" in out and "OPENREWARD" not in out
    assert re.search(r"\n0\n1\n2\n3\n$", out), out  # 3 is ls' own

    _, m = job(s, "signal")
    os.close(m.fds[0])
    assert os.waitstatus_to_exitcode(s.daemon.event("JOB_DONE").number("STATUS")) == -11
    _, m = job(s, "orphan")
    os.close(m.fds[0])
    assert s.daemon.event("JOB_DONE").number("STATUS") == 0
    assert settle(lambda: s.leaks() == "")


def test_job_cancel_and_timeout_kill_all_of_it(own, programs):
    s = own(libexec=programs, args=["--egress-arg", f"{programs}/log"])
    for reason in ("cancelled", "timeout"):
        id, m = job(s, "slow", timeout_ms=3000 if reason == "timeout" else 0)
        assert os.read(m.fds[0], 100) == b"started\n"
        if reason == "cancelled":  # twice: nobody is left without an answer
            asked = [s.daemon.send("JOB_CANCEL", ("ID", id)) for _ in range(2)]
            assert s.daemon.wait(asked[1]).number("ERRNO") in (errno.EBUSY, errno.ENOENT)
            assert s.daemon.wait(asked[0]).kind == "OK"
        done = s.daemon.event("JOB_DONE")
        assert done.text("REASON") == reason and os.waitstatus_to_exitcode(done.number("STATUS")) == -9
        assert os.read(m.fds[0], 100) == b""  # nobody holds the pipe any more
        os.close(m.fds[0])
    id, m = job(s, "slow")
    s.daemon.close()  # without a daemon nobody would learn of its end
    assert os.read(m.fds[0], 100) in (b"started\n", b"")
    assert settle(lambda: os.read(m.fds[0], 100) == b"")
    s.daemon = s.connect()
    assert settle(lambda: s.leaks() == "")


def test_a_job_keeps_nothing_of_the_spawner(own, programs):
    """Not its sockets, nor what belongs to sandboxes: those that end meanwhile would live on in it."""
    s = own(libexec=programs, args=["--egress-arg", f"{programs}/log"])
    b = s.make()
    id, m = job(s, "slow")
    assert m.kind == "JOB_STARTED" and os.read(m.fds[0], 100) == b"started\n"

    def reapers():
        return [pid for pid in children(s.process.pid) if lines(f"/proc/{pid}/comm") == ["openreward-spaw"]]

    assert settle(lambda: len(reapers()) == 1)  # the sandbox' builder may not have ended yet
    assert [x for x in descriptors(reapers()[0]) if x.startswith(("socket:", "anon_inode:", "mnt:", "net:"))] == []
    assert s.daemon.call("JOB_CANCEL", ("ID", id)).kind == "OK"
    os.close(m.fds[0])
    s.end(b)


def test_build_gets_a_steered_network(own, programs):
    s = own(libexec=programs, args=["--egress-arg", f"{programs}/log"])
    _, m = job(s, "net", kind="build")
    assert m.kind == "JOB_STARTED", m
    with os.fdopen(m.fds[0]) as f:
        out = f.read()
    done = s.daemon.event("JOB_DONE")
    assert out.startswith("net:[") and "lo:" in out and "eth" not in out and done.number("STATUS") == 0, out
    assert settle(lambda: any("register 1" in line for line in lines(f"{programs}/log")))
    assert settle(lambda: s.leaks() == "")


@pytest.mark.parametrize("args, kw", [(["-rf"], {}), (["a..b"], {}), (["a b"], {}), (["$(x)"], {}), (["x" * 256], {}),
                                      (["x"], dict(kind="shell")), ([""], {})])
def test_job_arguments_are_checked(spawner, args, kw):
    _, m = job(spawner, *args, **kw)
    assert m.kind == "FAILED" and m.number("ERRNO") == 22, m


# -- sidecars ---------------------------------------------------------------------------------------------------------
def test_beside_another_in_its_network(spawner):
    owner = spawner.make()
    beside = spawner.make(beside=owner.id)
    net = "readlink /proc/self/ns/net"
    assert owner.run(net) == beside.run(net) and owner.run("readlink /proc/self/ns/ipc") != beside.run("readlink /proc/self/ns/ipc")
    m = spawner.daemon.call("MAKE", *spawner.plan(beside=beside.id))
    assert m.kind == "FAILED" and m.number("ERRNO") == 22, m
    spawner.end(owner)
    # ENDED was the answer, so nothing of either is alive.
    assert not os.path.exists(f"/proc/{owner.pid}") and not os.path.exists(f"/proc/{beside.pid}")
    gone = spawner.daemon.event("GONE", 60)
    assert (gone.text("ID"), gone.text("REASON")) == (beside.id, "beside")
    beside.close()
    m = spawner.daemon.call("MAKE", *spawner.plan(beside=owner.id))
    assert m.kind == "FAILED" and m.number("ERRNO") == 2, m
    assert settle(lambda: spawner.leaks() == "")


def test_one_beside_another_ends_alone(spawner):
    owner = spawner.make()
    for end in ("asked", "killed"):
        beside = spawner.make(beside=owner.id)
        if end == "asked":
            spawner.end(beside)
        else:
            os.kill(beside.pid, signal.SIGKILL)
            assert spawner.daemon.event("GONE", 60).text("ID") == beside.id
            beside.close()
        assert owner.run("echo alive")[1] == "alive\n"
    beside = spawner.make(beside=owner.id)
    os.kill(owner.pid, signal.SIGKILL)
    assert [spawner.daemon.event("GONE", 60).text("ID") for _ in range(2)] == [beside.id, owner.id]
    owner.close()
    beside.close()
    assert settle(lambda: spawner.leaks() == "")

# -- a file system of their own ---------------------------------------------------------------------------------------
def test_volumes_of_their_own(own):
    s = own(args=["--disk-total", str(4 << 30)])
    if "is not limited" in s.stderr():
        pytest.skip("nothing limits the disk on this machine")
    b, c = s.make(disk_bytes=32 << 20), s.make(disk_bytes=32 << 20)
    assert b.run("head -c 64M /dev/zero > /big")[0] != 0
    assert 20 << 20 <= int(b.run("stat -c %s /big")[1]) <= 32 << 20
    assert c.run("head -c 20M /dev/zero > /big && echo done")[1] == "done\n"
    assert b.run("rm /big && echo x > /small && cat /small")[1] == "x\n"
    if os.path.exists(f"{s.data}/sandboxes/{b.id}"):
        return  # by project quota: there is no other file system
    # Nothing of it is seen outside, and a spawner that is killed leaves nothing mounted nor attached.
    assert os.listdir(f"{s.data}/sandboxes") == []
    assert s.leaks() == ""
    s.end(b)
    folders = f"/proc/{s.process.pid}/root{s.data}/sandboxes"
    assert settle(lambda: s.leaks() == "" and sorted(os.listdir(folders)) == [".going", ".stage", c.id])
    assert os.listdir(f"{folders}/.going") == []
    loops = s.loops()
    assert len(loops) == 1
    s.kill()
    c.close()
    assert settle(lambda: not os.path.exists(f"/sys/block/{loops[0]}/loop/backing_file"))


def test_groups_that_somebody_removed_are_made_again(own):
    """As a manager of the host's v1 hierarchies does to what is empty and not its own."""
    s = own()

    def tops():
        return [f"{top}/{d}" for top, dirs, _ in os.walk("/sys/fs/cgroup") for d in dirs if d == s.name()]

    def limit(path, name):
        with open(f"{path}/{name}", encoding="ascii") as f:
            return f.read().strip()

    all_of_them = {t: limit(t, "pids.max") for t in tops() if os.path.exists(f"{t}/pids.max")}
    assert all_of_them and "max" not in all_of_them.values()
    before = sorted(tops())
    for _ in range(2):
        s.end(s.make())
        assert settle(lambda: census(s.name(), s.data)["cgroups"] == 0)
        for top in tops():
            os.rmdir(top)
        b = s.make()
        assert b.run("echo here")[1] == "here\n"
        assert sorted(tops()) == before
        assert {t: limit(t, "pids.max") for t in all_of_them} == all_of_them, "the limit of all of them, too"
        with open(f"/proc/{b.pid}/cgroup", encoding="ascii") as f:
            assert sum(s.name() in line for line in f) == len(before)
        s.end(b)
    assert s.leaks() == ""
