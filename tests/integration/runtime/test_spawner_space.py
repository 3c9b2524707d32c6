"""The file system that sandboxes write to lies on a disk that becomes full: they are told so, and nothing else happens to anybody.

Each test has a small disk of its own, a file system in a sparse file. Sandboxes allocate more than they write: it counts the same, and
takes no time."""
import os
import shutil
import signal
import subprocess
import tempfile
import time

import pytest

from spawner_client import Spawner, make_layer

MIB = 1 << 20
RESERVE = 128 * MIB
# Takes room until there is none: by allocation down to single MiB, the rest by real writes. Prints MiB and the error's name.
FILL = r"""
import errno, os, sys
path, most = sys.argv[1], int(sys.argv[2])
f = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
n, step, name = 0, 64, ""
while n < most and step:
    try:
        os.posix_fallocate(f, n << 20, step << 20)
        n += step
    except OSError as e:
        name = errno.errorcode[e.errno]
        step //= 8
try:
    while n < most:
        os.pwrite(f, b"x" * (1 << 20), n << 20)
        n += 1
    os.fsync(f)
except OSError as e:
    name = errno.errorcode[e.errno]
print(n, name)
"""


@pytest.fixture
def small():
    """Makes file systems of so many MiB; their folders."""
    made = []

    def make(mib):
        folder = tempfile.mkdtemp(prefix="orw-space-", dir="/var/tmp")
        image, mount = f"{folder}/image", f"{folder}/mnt"
        os.mkdir(mount)
        with open(image, "wb") as f:
            f.truncate(mib * MIB)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1", image], check=True, timeout=60)
        done = subprocess.run(["mount", "-o", "loop", image, mount], capture_output=True, text=True, timeout=60, check=False)
        if done.returncode != 0:
            pytest.skip(f"no loop mounts on this machine: {done.stderr.strip()}")
        made.append(folder)
        return mount

    yield make
    for folder in made:
        for _ in range(49):  # what was killed may hold it for a moment
            if subprocess.run(["umount", f"{folder}/mnt"], capture_output=True, timeout=60, check=False).returncode == 0:
                break
            time.sleep(0.2)
        else:
            subprocess.run(["umount", f"{folder}/mnt"], check=True, timeout=60)
        shutil.rmtree(folder)


def start(data):
    """Waits where other tests have all that there is of user ids."""
    deadline = time.monotonic() + 180
    while True:
        s = Spawner(data=data, args=["--disk-total", "0", "--disk-reserve", str(RESERVE)])
        if s.ready:
            return s
        assert "blocks of user ids" in s.stderr() and time.monotonic() < deadline, s.stderr()
        os.unlink(f"{data}/stderr")
        time.sleep(1)


@pytest.fixture
def begin(small):
    """A spawner on a small disk; the program that fills is in its base layer."""
    made = []

    def make(mib):
        data = f"{small(mib)}/data"
        make_layer(f"{data}/images/base")  # linking it, as others do, needs one file system
        s = start(data)
        made.append(s)
        if "is not limited" in s.stderr():
            pytest.skip("nothing limits the disk on this machine")
        return s

    yield make
    for s in made:
        assert s.stop() in (0, -signal.SIGKILL)


def free(s):
    v = os.statvfs(s.data)
    return v.f_bavail * v.f_frsize


def look(s):
    """What the spawner said last: size, free, more in bytes, and whether it has failed."""
    s.daemon.call("LIST")
    while any(m.kind == "SPACE" for m in s.daemon.events):
        m = s.daemon.event("SPACE")
        s.told = [m.number(k) for k in ("DISK_SIZE", "DISK_FREE", "DISK_MORE", "STATE")]
    return getattr(s, "told", [0, 0, 0, 0])


def wait(s, good, what, timeout=60):
    deadline = time.monotonic() + timeout
    while not good(*look(s)):
        assert time.monotonic() < deadline, (what, look(s), free(s), s.stderr())
        time.sleep(0.05)


def wait_for(good, what, timeout=60):
    deadline = time.monotonic() + timeout
    while not good():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def fill(box, path="/tmp/full", most=100000):
    status, out = box.run(f"python3 - {path} {most} <<'E'\n{FILL}\nE\n", timeout=60)
    assert status == 0, out
    n, name = (out.split() + [""])[:2]
    return int(n), name


def box_and_fill(s, mib):
    """A sandbox that takes so much, when there is as much."""
    wait(s, lambda size, left, more, bad: left >= (mib + 64) * MIB, "there is room for it")
    box = s.make()
    assert fill(box, most=mib) == (mib, "")
    return box


def fill_all(s, box):
    """Until it cannot grow any more. For allocating room nobody waits, so it may be full before it has grown."""
    n, name = fill(box, "/tmp/full")
    assert name == "ENOSPC" and n > 400, (n, name)
    for i in range(100):
        _, left, more, bad = look(s)
        assert not bad, s.stderr()
        if left + more < 64 * MIB:
            return
        box.run(f"python3 - /tmp/full{i} 100000 <<'E'\n{FILL}\nE\n")
        time.sleep(0.2)
    raise AssertionError(("it is not full", look(s), free(s)))


def test_a_full_disk(begin):
    s = begin(1600)
    a, b = s.make(), s.make()
    fill_all(s, a)
    assert RESERVE * 0.8 < free(s) < RESERVE + 80 * MIB, "the reserve is left, and not more"
    # The neighbour is told the same, and goes on.
    status, out = b.run("head -c 80000000 /dev/zero > /tmp/x; echo alive; mkdir /tmp/d || echo none")
    assert status == 0 and "alive" in out and "No space left" in out and "Read-only" not in out, out
    assert s.daemon.call("LIST").kind in ("ITEM", "OK")
    # What is removed can be had again, by others too, and by new ones.
    assert a.run("rm -r /tmp/*; echo gone") == (0, "gone\n")
    wait(s, lambda size, left, more, bad: left > 400 * MIB, "there is room again")
    assert b.run("head -c 8000000 /dev/zero > /tmp/x && echo good") == (0, "good\n")
    # So can what is left by one that has ended. Even a folder needs room: either there is some, or the answer is the reason.
    fill_all(s, a)
    made = s.daemon.call("MAKE", *s.plan(), timeout=40)
    assert made.kind == "MADE" or made.number("ERRNO") == 28, made
    s.end(a)
    box_and_fill(s, 320)
    assert look(s)[3] == 0, s.stderr()


def test_many_small_files_until_it_is_full(begin):
    """What is needed for names and the like is not taken by data for good."""
    s = begin(800)
    a, b = s.make(), s.make()
    fill(a)
    script = "i=0; while mkdir /tmp/d$i && touch /tmp/d$i/1 /tmp/d$i/2; do i=$((i+1)); [ $i = 300 ] && break; done 2>/dev/null; echo $i"
    assert b.run(script)[0] == 0
    assert a.run("rm /tmp/full && echo gone") == (0, "gone\n")
    wait(s, lambda size, left, more, bad: left > 200 * MIB, "there is room again")
    assert b.run("mkdir -p /tmp/after/that && touch /tmp/after/that/x && echo good") == (0, "good\n")
    assert fill(b, most=128) == (128, "")
    assert look(s)[3] == 0


def test_it_grows_with_what_is_written_and_starts_small(begin):
    s = begin(6000)
    before = free(s)
    wait(s, lambda size, left, more, bad: 0 < size <= 1024 * MIB and more > 3000 * MIB, "it is small at first")
    boxes = [box_and_fill(s, 320) for _ in range(7)]
    assert look(s)[0] > 2240 * MIB and before - free(s) > 1000 * MIB
    assert boxes[0].run("dd if=/dev/zero of=/tmp/full bs=1M count=50 conv=notrunc,fsync 2>/dev/null && echo good") == (0, "good\n")
    grown = free(s)
    s.kill()
    wait_for(lambda: free(s) - grown > 1000 * MIB, "the file of the one that was killed goes with it")
    again = start(s.data)
    try:
        wait(again, lambda size, left, more, bad: 0 < size <= 1024 * MIB, "it is small")
        box_and_fill(again, 320)
    finally:
        assert again.stop() == 0


def take(s, f, leave):
    """Others take the disk but for so many bytes, without a write."""
    while (n := free(s) - leave) > 0:
        step = min(n, 256 * MIB) if n > MIB else n
        try:
            os.posix_fallocate(f.fileno(), f.seek(0, 2), step)
        except OSError:
            if n <= 256 * MIB:
                return


def still_good(s, box):
    """Real writes, with nothing left of the disk below."""
    script = "dd if=/dev/zero of=/tmp/x bs=1M count=200 conv=fsync 2>/dev/null && for i in $(seq 300); do mkdir /tmp/d$i || break; done; echo $i"
    assert box.run(script, timeout=120) == (0, "300\n")
    assert fill(box)[1] == "ENOSPC"
    assert box.run("rm /tmp/x /tmp/full && head -c 50000000 /dev/zero > /tmp/y && echo good") == (0, "good\n")
    assert look(s)[3] == 0, s.stderr()


def test_others_fill_the_disk(begin):
    """To the last byte: what the file system of sandboxes has stays good."""
    s = begin(2000)
    a = s.make()
    wait(s, lambda size, left, more, bad: size > 0, "it is told")
    with open(f"{s.data}/filler", "wb") as f:
        take(s, f, 0)
        still_good(s, a)
        s.end(a)


def test_others_fill_a_disk_that_had_plenty(begin):
    """The file has holes as long as the disk has more: before that ends, it is allocated."""
    s = begin(14000)
    a = s.make()
    wait(s, lambda size, left, more, bad: size > 5000 * MIB, "it is large at once")
    assert free(s) > 12000 * MIB, "and takes nothing"
    assert fill(a, most=4096) == (4096, "")
    with open(f"{s.data}/filler", "wb") as f:
        take(s, f, look(s)[0] + 1500 * MIB)
        wait_for(lambda: free(s) < 2000 * MIB, "it is allocated")
        take(s, f, 0)
        still_good(s, a)
        assert fill(a, "/tmp/more")[1] == "ENOSPC"
        s.end(a)


def test_others_take_the_room_of_holes_at_once(begin):
    """Then it becomes smaller, as nobody's is where it ends."""
    s = begin(20000)
    a = s.make()
    wait(s, lambda size, left, more, bad: size > 8 * 1024 * MIB, "it is large at once")
    with open(f"{s.data}/filler", "wb") as f:
        os.kill(s.process.pid, signal.SIGSTOP)  # it looks 20 ms to 1 s apart: all is taken between two looks
        take(s, f, 4096 * MIB)
        os.kill(s.process.pid, signal.SIGCONT)
        wait(s, lambda size, left, more, bad: 0 < size < 4096 * MIB, "it is as large as the disk allows")
        take(s, f, 0)
        still_good(s, a)
        s.end(a)


# -- what is not written to the disk ---------------------------------------------------------------------------------
def written(s):
    [loop] = s.loops()
    with open(f"/sys/block/{loop}/stat", encoding="ascii") as f:
        return int(f.read().split()[6]) * 512


def figure(s, name):
    [loop] = s.loops()
    of = next(d for d in os.listdir("/sys/fs/btrfs") if os.path.exists(f"/sys/fs/btrfs/{d}/devices/{loop}"))
    with open(f"/sys/fs/btrfs/{of}/allocation/mixed/{name}", encoding="ascii") as f:
        return int(f.read())


def test_what_is_soon_removed_is_not_written(begin):
    """btrfs writes early once it ran short of chunks: all of them are there from the start."""
    s = begin(20000)
    a = s.make(memory_bytes=1024 * MIB)  # what is written is in it until then
    assert figure(s, "total_bytes") > 8 * 1024 * MIB and figure(s, "bytes_used") < 100 * MIB
    before = written(s)
    for _ in range(10):
        assert a.run("head -c 300M /dev/zero > /tmp/x; rm /tmp/x; echo gone", timeout=60) == (0, "gone\n")
    assert written(s) - before < 600 * MIB
    s.end(a)
