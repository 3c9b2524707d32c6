"""init inside a sandbox that the real spawner made: what depends on both."""
import os
import time

import pytest


def start(box, *argv, run_id, user="0:0", timeout_ms=0, max_bytes=1 << 20):
    r = box.init.call("RUN", ("RUN_ID", run_id), *(("ARG", a) for a in argv), ("CWD", "/"), ("ENV", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"),
                      ("USER", user), ("TIMEOUT_MS", timeout_ms), ("MAX_BYTES", max_bytes), ("FLAGS", 0))
    assert r.kind == "STARTED", r


def finish(box, run_id):
    done = box.init.event("DONE", 30)
    box.init.send("ACK", ("RUN_ID", run_id))
    return done


def python(box, code, **kw):
    start(box, "/bin/python3", "-c", code, run_id="py", **kw)
    done = finish(box, "py")
    return done, done.raw("OUTPUT").decode(errors="replace")


def processes(box):
    """Without init."""
    code, out = box.run("for p in /proc/[0-9]*; do read -r -d '' name <$p/cmdline; echo $name; done 2>/dev/null; true")
    assert code == 0
    return len([name for name in out.split() if name != "openreward-init"])


@pytest.mark.parametrize("user", ["0:0", "1000:1000"])
def test_process_1_is_out_of_reach(box, user):
    for path in ("environ", "mem", "maps", "fd/3", "root/etc/passwd", "cwd/etc/passwd", "auxv"):
        code, out = box.run(f"cat /proc/1/{path}", user=user)
        assert code != 0 and "denied" in out, (path, out)
    done, out = python(box, "import ctypes, os\nc = ctypes.CDLL(None, use_errno=True)\n"
                       "print(c.ptrace(16, 1, 0, 0), ctypes.get_errno(), c.ptrace(0x4206, 1, 0, 0), ctypes.get_errno())", user=user)
    assert out == "-1 1 -1 1\n"
    box.run("kill -9 1; kill -STOP 1; kill -9 -1", user=user)
    assert box.run("echo alive") == (0, "alive\n")


def test_commands_go_before_init_when_memory_runs_out(box):
    """Though /proc/1 is read-only here: whether they begin in lent memory or, with something in the background, as a copy."""
    with open("/proc/self/oom_score_adj", encoding="ascii") as f:
        own = int(f.read())
    for before in ("true", "sleep 600 >/dev/null 2>&1 &"):
        box.run(before)
        assert box.run("cat /proc/self/oom_score_adj /proc/1/oom_score_adj") == (0, f"{max(own, 500)}\n{own}\n")
    box.run("pkill sleep")


def test_capabilities_and_filter(box):
    _, out = box.run("grep -E '^(CapEff|CapBnd|Seccomp):' /proc/self/status")
    assert out == "CapEff:\t00000000a80425fb\nCapBnd:\t00000000a80425fb\nSeccomp:\t2\n"
    done, out = python(box, "import ctypes\nc = ctypes.CDLL(None, use_errno=True)\n"
                       "for nr in (435, 272, 165, 425, 321, 323, 250, 298, 170): print(c.syscall(nr, 0x10000000, 0, 0, 0, 0, 0), ctypes.get_errno())")
    assert out == "-1 38\n" + "-1 1\n" * 8


def test_a_run_has_a_cgroup_of_its_own_and_dies_with_it(box):
    _, a = box.run("cat /proc/self/cgroup | grep ^0:")
    assert "run-" in a
    before = processes(box)
    start(box, "/bin/sh", "-c", "trap '' TERM; (trap '' TERM; sleep 1000) & sleep 1001 & echo partial; sleep 1002", run_id="t", timeout_ms=3000)
    done = finish(box, "t")
    assert done.number("TIMED_OUT") == 1 and done.raw("OUTPUT") == b"partial\n" and done.number("DURATION_US") < 60_000_000
    assert processes(box) == before


def test_background_children_live_on(box):
    start_time = time.monotonic()
    assert box.run("(while :; do echo noise; sleep 0.05; done) & echo $! > /tmp/bg")[0] == 0
    assert time.monotonic() - start_time < 60
    time.sleep(0.3)
    assert box.run("kill -0 $(cat /tmp/bg)")[0] == 0


def test_out_of_memory_is_counted_and_survived(spawner):
    box = spawner.make(memory_bytes=64 << 20)
    done, _ = python(box, "x = bytearray(300_000_000)")
    assert os.waitstatus_to_exitcode(done.number("STATUS")) == -9 and done.number("OOM_KILLS") >= 1
    assert done.number("LIMIT_HITS") >= 1, "its own limit, not the host's: that is what tells oom from infra"
    assert box.run("echo alive") == (0, "alive\n")
    spawner.end(box)


def test_process_limit_is_counted_and_survived(spawner):
    box = spawner.make(pids_max=20)
    start(box, "/bin/sh", "-c", "for i in $(seq 40); do sleep 100 & done; wait", run_id="bomb", timeout_ms=3000)
    done = finish(box, "bomb")
    assert done.number("PIDS_HITS") > 0
    assert box.run("echo alive") == (0, "alive\n")
    spawner.end(box)


def test_long_output_is_spooled_to_disk(box):
    start(box, "/bin/sh", "-c", "head -c 3000000 /dev/zero", run_id="big", max_bytes=2_000_000)
    done = finish(box, "big")
    assert done.number("BYTES") == 2_000_000 and done.number("DROPPED") == 1_000_000
    with os.fdopen(done.fds[0], "rb") as f:
        assert f.read() == bytes(2_000_000)


def test_files_on_the_overlay(box):
    path = ("PATH", "/etc/passwd")
    m = box.init.call("OPEN", path, ("OPEN_MODE", 1))
    assert m.kind == "OK", m
    with os.fdopen(m.fds[0], "wb") as f:
        f.write(b"root:x:0:0:replaced:/root:/bin/sh\n")
    assert "replaced" not in box.run("cat /etc/passwd")[1]
    assert box.init.call("COMMIT", path, ("TMP", m.text("TMP"))).kind == "OK"
    assert box.run("cat /etc/passwd; stat -c '%u %a' /etc/passwd")[1] == "root:x:0:0:replaced:/root:/bin/sh\n0 644\n"
    for bad in ("/proc/1/environ", "/proc/self/fd/3", "/sys/kernel/notes", "/dev/null"):
        assert box.init.call("OPEN", ("PATH", bad), ("OPEN_MODE", 0)).kind == "FAILED"


def test_connect_to_a_server_inside(box):
    import socket
    start(box, "/bin/python3", "-c", "import socket\ns = socket.socket(); s.bind(('127.0.0.1', 80)); s.listen()\nc, _ = s.accept(); c.send(b'hi')", run_id="srv")
    for _ in range(100):
        m = box.init.call("CONNECT", ("PORT", 80))
        if m.kind == "OK":
            break
        time.sleep(0.05)
    with socket.socket(fileno=m.fds[0]) as s:
        s.setblocking(True)
        assert s.recv(10) == b"hi"
    finish(box, "srv")


def test_configuration(box):
    assert box.init.call("CONFIG", ("HOSTNAME", "other"), ("HOSTS", "127.0.0.1 localhost\n"), ("RESOLV", "nameserver 198.18.0.53\n"),
                         ("DIR", "/app/x")).kind == "OK"
    assert box.run("hostname; cat /etc/hosts /etc/resolv.conf /etc/hostname; ls -d /app/x")[1] == (
        "other\n127.0.0.1 localhost\nnameserver 198.18.0.53\nother\n/app/x\n")
