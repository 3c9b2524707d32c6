"""What is taken down behind the answer: whose work it is, and that it is not left for long."""
import contextlib
import errno
import os
import signal
import time

import pytest

from spawner_client import children
from test_spawner_life import alive, descriptors, lines, numbers, settle, starved


def mount_namespaces(pid):
    return [x for x in descriptors(pid) if x.startswith("mnt:[")]


def removers(pid):
    """Those that remove what is left."""
    return [child for child in children(pid) if lines(f"/proc/{child}/comm") == ["openreward-rm"]]


def wait_for_child(pid, seconds=10):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := removers(pid):
            return found[0]
    raise AssertionError("nothing is removed")


def test_mounts_go_after_the_ends_that_somebody_waits_for(own):
    s = own()
    pid = s.process.pid
    boxes = [s.make() for _ in range(80)]
    ends = [s.daemon.send("END", ("ID", b.id), ("REASON", "deleted")) for b in boxes]
    held = []
    for number in ends:
        assert s.daemon.wait(number).kind == "ENDED"
        held.append(len(mount_namespaces(pid)))
    assert max(held) > 32
    assert settle(lambda: os.listdir(f"{s.data}/sandboxes") == [".stage"] and not removers(pid))
    assert mount_namespaces(pid) == []
    for b in boxes:
        b.close()
    assert s.leaks() == "" and s.stop() == 0


def test_the_end_takes_the_mounts_of_all_along(own):
    """SIGTERM as many end: what was put off is gone before the spawner is, and nobody waits until none has ended for a moment."""
    s = own()
    boxes = [s.make() for _ in range(70)]
    for b in boxes:
        s.daemon.send("END", ("ID", b.id), ("REASON", "deleted"))
    assert s.stop() == 0
    for b in boxes:
        b.close()


def test_what_is_mounted_does_not_wait_for_a_large_tree(own):
    s = own()  # without a file system of its own, in which a tree goes at once
    pid = s.process.pid
    a, b = s.make(), s.make()
    a.run("python3 -S -c \"for i in range(100000): open(f'/tmp/{i}', 'w').close()\"", timeout=120)  # seconds to remove
    s.end(a)
    child = wait_for_child(pid)
    os.kill(child, signal.SIGSTOP)
    try:
        assert a.id in os.listdir(f"{s.data}/sandboxes")
        s.end(b)
        assert settle(lambda: mount_namespaces(pid) == [] and removers(pid) == [child])
        assert b.id in os.listdir(f"{s.data}/sandboxes")
    finally:
        os.kill(child, signal.SIGCONT)
    assert settle(lambda: os.listdir(f"{s.data}/sandboxes") == [".stage"], 60)
    assert s.leaks() == "" and s.stop() == 0


def session_nice(pid):
    with open(f"/proc/{pid}/autogroup", encoding="ascii") as f:
        return int(f.read().split()[-1])


@pytest.mark.skipif(not os.path.exists("/proc/self/autogroup"), reason="this kernel does not group processes by session")
def test_removing_disturbs_nobody_before_somebody_may_wait_for_it(own):
    s = own()
    a = s.make()
    a.run("python3 -S -c \"for i in range(100000): open(f'/tmp/{i}', 'w').close()\"", timeout=120)  # seconds to remove
    s.end(a)
    child = wait_for_child(s.process.pid)
    assert settle(lambda: session_nice(child) == 19)
    os.kill(child, signal.SIGSTOP)
    try:
        assert session_nice(s.process.pid) == 0
        time.sleep(1)
        assert session_nice(child) == 19
        assert settle(lambda: session_nice(child) == 0)
    finally:
        os.kill(child, signal.SIGCONT)
    assert settle(lambda: os.listdir(f"{s.data}/sandboxes") == [".stage"], 60)
    assert s.leaks() == "" and s.stop() == 0


def test_nothing_is_mounted_on_a_process(box):
    """Else whoever waits for init takes the mount away first, behind a grace period. Its files are the host root's all the same."""
    assert box.run("grep ' /proc/1' /proc/self/mountinfo") == (1, "")
    assert box.run("stat -c %u /proc/1/oom_score_adj /proc/1/uid_map /proc/1/coredump_filter /proc/1/task/1/oom_score_adj")[1].split() == ["65534"] * 4
    for name in ("oom_score_adj", "oom_adj", "coredump_filter", "loginuid", "clear_refs", "task/1/oom_score_adj"):
        code, out = box.run(f"test ! -e /proc/1/{name} && exit 9; echo 15 > /proc/1/{name}")
        assert code == 9 or (code != 0 and "denied" in out), (name, code, out)


# -- what can't be removed ---------------------------------------------------------------------------------------------------

def v2_group(s, box):
    return next(top for top, _, files in os.walk("/sys/fs/cgroup") if top.endswith(f"/{s.name()}/{box.id}") and "cgroup.kill" in files)


def test_one_that_stays_keeps_nothing_of_others(own):
    s = own()
    a, b = s.make(), s.make()
    put(os.path.dirname(v2_group(s, a)) + "/cgroup.max.depth", "max")
    deep = [v2_group(s, a) + "/x" * n for n in range(1, 12)]  # deeper than anybody goes
    for path in deep:
        os.mkdir(path)
    for number in [s.daemon.send("END", ("ID", box.id), ("REASON", "deleted")) for box in (a, b)]:
        assert s.daemon.wait(number).kind == "ENDED"
    assert settle(lambda: "cannot remove what is left of " + a.id in s.stderr(), 20)
    assert settle(lambda: not removers(s.process.pid))
    again = s.make(id=b.id)
    s.end(again)
    for path in reversed(deep):
        os.rmdir(path)
    assert settle(lambda: s.leaks() == ""), "it is tried again"
    assert s.stderr().count("cannot remove") == 1 and s.stop() == 0


def test_groups_that_are_hidden_or_deep(own):
    """Whoever got into an init can make them."""
    s = own()
    a, b = s.make(), s.make()
    group = v2_group(s, a)
    os.makedirs(f"{group}/runs/.x/.y")
    for n in range(1, 9):
        os.mkdir(group + "/.d" * n)
    with pytest.raises(OSError) as e:
        os.mkdir(group + "/.d" * 9)
    assert e.value.errno == errno.EAGAIN
    for number in [s.daemon.send("END", ("ID", box.id), ("REASON", "deleted")) for box in (a, b)]:
        assert s.daemon.wait(number).kind == "ENDED"
    assert settle(lambda: os.listdir(f"{s.data}/sandboxes") == [".stage"], 3) and not os.path.exists(group)
    assert s.leaks() == "" and s.stop() == 0


def make_groups(folder, uid, limit):
    """As this user, until it is refused or there are so many; the errno, or 0."""
    pid = os.fork()
    if pid == 0:
        failed = 0
        try:
            os.chdir(folder)
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            for n in range(limit):
                os.mkdir(f"x{n}")
        except OSError as e:
            failed = e.errno
        finally:
            os._exit(failed)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_groups_that_init_makes_are_bounded(own):
    """Whoever got into an init has no more of them, and can't have controllers below."""
    s = own()
    a = s.make()
    group = v2_group(s, a)
    owner = os.stat(f"{group}/runs").st_uid
    assert owner and {os.stat(f"{group}/{d}cgroup.subtree_control").st_uid for d in ("", "runs/")} == {0}
    assert make_groups(f"{group}/runs", owner, 16384) == 0, "init may have so many runs"
    assert make_groups(group, owner, 1024) == errno.EAGAIN
    s.end(a)
    assert settle(lambda: not os.path.exists(group), 60)
    assert s.leaks() == "" and s.stop() == 0


def test_removing_needs_no_descriptor_of_the_spawner(own):
    s = own()
    s.end(s.make())  # what is kept of it is there
    assert settle(lambda: os.listdir(f"{s.data}/sandboxes") == [".stage"])
    before = numbers(s)
    a = s.make()
    a.run("mkdir -p /tmp/a/b/c/d")
    with starved(s, min(numbers(s) - before)):  # so that its end gives none that could be used
        s.end(a)
        assert settle(lambda: os.listdir(f"{s.data}/sandboxes") == [".stage"])
    assert s.leaks() == "" and "cannot" not in s.stderr()


def stop_without(pid, begins, end):
    """Stops it, if it has given up what it was born with; else it goes on, to do so."""
    os.kill(pid, signal.SIGSTOP)
    if not [x for x in descriptors(pid) if x.startswith(begins) or x.endswith(end)]:
        return True
    os.kill(pid, signal.SIGCONT)
    return False


def test_who_removes_ends_with_the_spawner(own):
    """It would keep the next one from its locks and its sockets. And what is left is told."""
    s = own()
    pid = s.process.pid
    a = s.make()
    b = s.make()
    a.run("python3 -S -c \"for i in range(20000): open(f'/tmp/{i}', 'w').close()\"")
    s.end(a)
    child = wait_for_child(pid)
    assert settle(lambda: stop_without(child, ("socket:", "anon_inode:", "net:"), ".lock"))
    s.process.terminate()
    assert s.process.wait(60) == 1 and "could not be removed" in s.stderr()
    assert settle(lambda: not alive(child))
    b.close()
    t = own(data=s.data)
    assert settle(lambda: os.listdir(f"{t.data}/sandboxes") == [".stage"] and t.leaks() == "")


@contextlib.contextmanager
def without_forks(pid):
    """No process can be made meanwhile, as on a machine that has no more of them."""
    top = next((p for p in ("/sys/fs/cgroup/pids", "/sys/fs/cgroup") if os.path.exists(f"{p}/cgroup.procs")), None)
    group = f"{top}/test-{pid}"
    os.mkdir(group)
    try:
        if not os.path.exists(f"{group}/pids.max"):
            pytest.skip("no limit of processes to be had")
        put(f"{group}/cgroup.procs", pid)
        put(f"{group}/pids.max", 1)
        yield
    finally:
        put(f"{top}/cgroup.procs", pid)
        os.rmdir(group)


def put(path, what):
    with open(path, "w", encoding="ascii") as f:
        f.write(str(what))


def test_what_could_not_be_begun_is_begun_again(own):
    s = own()
    boxes = [s.make() for _ in range(3)]
    with without_forks(s.process.pid):
        for b in boxes:
            s.end(b)
        time.sleep(2)
        assert b.id in os.listdir(f"{s.data}/sandboxes")
    assert settle(lambda: os.listdir(f"{s.data}/sandboxes") == [".stage"])
    s.end(s.make(id=boxes[0].id))
    assert "cannot remove" not in s.stderr() and s.stop() == 0
