"""Blanks: sandboxes that are made as far as that goes before it is known what they are to be."""
import contextlib
import errno
import os
import signal
import time

import pytest

from test_spawner_life import NOTHING, alive, descriptors, settle
from spawner_client import census, children

KEEP = ("POOL_KEEP_MS", 60000)


def count(spawner):
    """As the answer to a MAKE tells; beside another one, none is taken."""
    owner = spawner.make()
    b = spawner.make(beside=owner.id)
    assert not b.made.number("BLANK")
    n = b.made.number("BLANKS")
    spawner.end(b)
    spawner.end(owner)
    return n


@pytest.fixture
def blanks(spawner):
    spawner.daemon.send("POOL", ("POOL_BLANKS", 3), KEEP)
    yield spawner
    spawner.daemon.send("POOL", ("POOL_BLANKS", 0))


def begun(spawner, **kw):
    """A sandbox that was a blank."""
    return spawner.make_of("BLANK", **kw)


def builders(spawner):
    """Those that wait for a plan: the spawner's own program, as its child, in a sandbox's cgroup."""
    found = []
    for pid in children(spawner.process.pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ends meanwhile
            with open(f"/proc/{pid}/comm", encoding="ascii") as comm, open(f"/proc/{pid}/cgroup", encoding="ascii") as cgroup:
                if comm.read() == "openreward-spaw\n" and spawner.name() in cgroup.read():
                    found.append(pid)
    return found


def wait_for(spawner, n):
    """As many builders that wait: one whose sandbox has just become ready is there for a moment, too, and there is the same number."""
    for _ in range(100):
        found = builders(spawner)
        time.sleep(0.1)
        if len(found) == n and builders(spawner) == found:
            return found
    raise AssertionError(f"{len(found)} builders, expected {n}")


def test_none_is_begun_unasked(spawner):
    for _ in range(3):
        b = spawner.make()
        assert not b.made.number("BLANK") and not b.made.number("BLANKS")
        spawner.end(b)
    assert settle(lambda: not builders(spawner))


@pytest.mark.parametrize("kind", [0, 1])
def test_one_becomes_whatever_is_asked_for(blanks, kind):
    plan = dict(hostname="some-name", memory_bytes=96 << 20, pids_max=77, shm_bytes=3 << 20, kind=kind)
    b = begun(blanks, **plan)
    assert b.run("hostname; cat /proc/sys/kernel/hostname")[1].split() == ["some-name"] * 2
    assert b.run("cat /proc/self/uid_map")[1].split()[2] == "65536"
    assert b.run("df -k /dev/shm | tail -1")[1].split()[1] == "3072"
    assert b.run("echo x > /tmp/mark; ls /tmp; ls -d /dev/pts /proc/self/fd /sys/class; pwd")[1].split() == [
        "mark", "/dev/pts", "/proc/self/fd", "/sys/class", "/"]
    assert limits_of(b.pid) == {"memory": 96 << 20, "pids": 77}
    blanks.end(b)


def limits_of(pid):
    """From outside, where the process is, on v1 or v2."""
    found = {}
    with open(f"/proc/{pid}/cgroup", encoding="ascii") as f:
        for line in f:
            _, controllers, path = line.strip().split(":", 2)
            for what, v1, v2 in (("memory", "memory.limit_in_bytes", "memory.max"), ("pids", "pids.max", "pids.max")):
                file = f"/sys/fs/cgroup/{controllers}{path}/{v1 if controllers else v2}"
                if (what in controllers.split(",") or not controllers) and os.path.exists(file):
                    with open(file, encoding="ascii") as limit:
                        text = limit.read().strip()
                    found[what] = 0 if text == "max" or int(text) > 1 << 60 else int(text)
    return found


def cgroup_of(pid):
    with open(f"/proc/{pid}/cgroup", encoding="ascii") as f:
        return next(line for line in f if line.startswith("0:")).strip().split("/")[2]


@pytest.mark.parametrize("field", ["BLANK", "WARM"])
def test_the_name_it_keeps_is_nobody_elses(own, field):
    s = own()
    s.daemon.send("POOL", ("POOL_BLANKS", 3 if field == "BLANK" else 0), ("POOL_MAX", 4), ("POOL_BYTES", 64 << 20), KEEP)
    b = s.make_of(field, kind=int(field == "BLANK"))
    name = cgroup_of(b.pid)
    assert name != b.id
    s.daemon.send("POOL", ("POOL_BLANKS", 0), ("POOL_MAX", 0))  # else the next MAKE is given one that has a name already
    m = s.daemon.call("MAKE", *s.plan(id=name))
    assert m.kind == "FAILED" and m.number("ERRNO") == errno.EEXIST, m
    assert b.run("echo alive")[1] == "alive\n"
    s.end(b)
    assert s.stop() == 0


def test_limits_hold_right_after_the_take(blanks):
    b = begun(blanks, pids_max=40)
    code, _ = b.run("i=0; while [ $i -lt 60 ]; do sleep 5 & i=$((i+1)); done")
    assert code != 0
    blanks.end(b)


def limited(blanks, memory, pids):
    wait_for(blanks, 3)
    b = blanks.make(cpu_milli=500, memory_bytes=memory, pids_max=pids)
    assert limits_of(b.pid) == {"memory": memory, "pids": pids}
    assert b.run("echo x")[1] == "x\n"
    blanks.end(b)
    return b.made.number("BLANK")


def test_limits_that_were_expected_become_those_asked_for(blanks):
    """Those that wait have the limits of the last one that was asked for; the next may want the same, more, less or none."""
    blanks.end(begun(blanks))
    for memory, pids in ((64 << 20, 50), (64 << 20, 50), (256 << 20, 500), (32 << 20, 40)):
        assert limited(blanks, memory, pids)
    assert not limited(blanks, 0, 0)  # it gets another one
    assert limited(blanks, 0, 0) and limited(blanks, 64 << 20, 50)
    assert blanks.leaks() == ""


def test_no_new_privs_is_asked_for_or_not(blanks):
    for want in (1, 0):
        b = begun(blanks, no_new_privs=want)
        assert b.run("grep NoNewPrivs /proc/self/status")[1].split()[1] == str(want)
        blanks.end(b)


def test_nobody_is_told_of_blanks(blanks):
    b = begun(blanks)
    wait_for(blanks, 3)
    request, listed = blanks.daemon.send("LIST"), []
    while (m := blanks.daemon.wait(request)).kind != "OK":
        listed.append(m.text("ID"))
    assert listed == [b.id]
    assert blanks.leaks() == ""
    blanks.end(b)


def test_one_that_waits_holds_nothing_of_others(blanks):
    b = begun(blanks)
    own = {x for x in descriptors(b.pid) if x.startswith("socket:")}
    for pid in wait_for(blanks, 3):
        links = descriptors(pid)
        assert not own & set(links)
        assert len(links) < 40 and not any("spawner.lock" in x or x.startswith("net:[") for x in links), links
    blanks.end(b)


def test_the_root_of_init_is_the_sandboxs(blanks):
    b = begun(blanks)
    for link in ("root", "cwd"):
        assert os.readlink(f"/proc/{b.pid}/{link}") == "/"
        assert os.stat(f"/proc/{b.pid}/{link}").st_dev != os.stat("/").st_dev
    null = os.stat(f"/proc/{b.pid}/root/dev/null")
    for fd in (0, 1, 2):
        st = os.stat(f"/proc/{b.pid}/fd/{fd}")
        assert (st.st_dev, st.st_ino) == (null.st_dev, null.st_ino)
    assert not [x for x in descriptors(b.pid) if "/sandboxes/" in x or x.startswith("/var")]
    blanks.end(b)


def test_one_that_died_is_not_given(blanks):
    b = begun(blanks)
    for pid in wait_for(blanks, 3):
        os.kill(pid, signal.SIGKILL)
    assert settle(lambda: not builders(blanks))
    again = blanks.make()
    assert again.run("echo alive")[1] == "alive\n"
    blanks.end(again)
    blanks.end(b)
    assert blanks.leaks() == ""


def test_they_go_when_nobody_asks(own):
    s = own()
    s.daemon.send("POOL", ("POOL_BLANKS", 3), ("POOL_KEEP_MS", 1500))
    s.end(begun(s))
    assert settle(lambda: not builders(s))
    assert settle(lambda: s.leaks() == "" and census(s.name(), s.data)["processes"] == 0)
    assert s.stop() == 0


def test_they_go_when_none_may_be(own):
    s = own()
    s.daemon.send("POOL", ("POOL_BLANKS", 3), KEEP)
    s.end(begun(s))
    wait_for(s, 3)
    assert count(s) in (2, 3)  # the owner of the one that tells was one of them
    s.daemon.send("POOL", ("POOL_BLANKS", 0))
    assert settle(lambda: not builders(s))
    assert s.stop() == 0


def test_the_end_of_the_spawner_is_theirs(own):
    s = own()
    s.daemon.send("POOL", ("POOL_BLANKS", 3), KEEP)
    s.end(begun(s))
    wait_for(s, 3)
    assert s.stop() == 0
    assert census(s.name(), s.data) == NOTHING


def test_kill_of_the_spawner_leaves_none(own):
    s = own()
    s.daemon.send("POOL", ("POOL_BLANKS", 3), KEEP)
    s.end(begun(s))
    wait_for(s, 3)
    pids = children(s.process.pid)
    s.kill()
    assert settle(lambda: not any(alive(p) for p in pids), 5)
    after = own(data=s.data)
    assert after.leaks() == ""
    assert settle(lambda: census(after.name(), after.data) == NOTHING)
