"""A sandbox that keeps a processor to itself weighs a tenth beside others, as long as it does (src/spawner/weights.c)."""
import contextlib
import ctypes
import os
import platform
import signal
import struct
import threading
import time

import pytest

from test_spawner_life import alive

BURN = "pass"
FORK = "os.fork() or os._exit(0)\n    os.wait()"  # as a script of many small commands does
HALF = "time.monotonic() % 0.05 < 0.02 or time.sleep(0.03)"
LITTLE = "sum(range(300000)) and time.sleep(0.09)"  # some 2 to 5 ms of 95
FULL = {"cpu.shares": 307, "cpu.weight": 30}  # of 300 thousandths of a processor
TENTH = {"cpu.shares": 30, "cpu.weight": 3}


def weight(box):
    """The kernel's name for it, and how much."""
    for top, _, files in os.walk("/sys/fs/cgroup"):
        for name in FULL:
            if top.endswith("/" + box.id) and name in files:
                with open(f"{top}/{name}", encoding="ascii") as file:
                    return name, int(file.read())
    raise AssertionError("no weight")


def weighs(box, weights):
    name, n = weight(box)
    return n == weights[name]


def wait_for(what, seconds, holds):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, what()
        time.sleep(0.01)


def becomes(box, weights, within):
    wait_for(lambda: f"still {weight(box)}", within, lambda: weighs(box, weights))


def stays(box, weights, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert weighs(box, weights), weight(box)
        time.sleep(0.02)


@contextlib.contextmanager
def running(box, what, seconds):
    """Does that again and again meanwhile."""
    found = []
    script = f"import os, time\nend = time.monotonic() + {seconds}\nwhile time.monotonic() < end:\n    {what}"
    t = threading.Thread(target=lambda: found.append(box.run(f"python3 -S -c '{script}'", timeout=60)))
    t.start()
    yield
    t.join()
    assert found[0][0] == 0, found


@pytest.mark.parametrize("what", [BURN, FORK], ids=["burn", "fork"])
def test_one_that_takes_all_weighs_less_as_long_as_it_does(spawner, what):
    taker, other = [spawner.make(cpu_milli=300) for _ in range(2)]
    assert weighs(taker, FULL)
    with running(taker, what, 6):
        becomes(taker, TENTH, 4)
        stays(taker, TENTH, 1)
        assert weighs(other, FULL)
    becomes(taker, FULL, 5)
    for b in (taker, other):
        spawner.end(b)


def test_half_a_processor_is_not_all(spawner):
    box = spawner.make(cpu_milli=1000)
    full = dict([weight(box)])
    with running(box, HALF, 3):
        stays(box, full, 2)
    spawner.end(box)


def test_what_was_taken_long_ago_does_not_count(spawner):
    """While all take little nobody looks at each. When one begins to take all, the others have not."""
    taker, modest = spawner.make(cpu_milli=300), spawner.make(cpu_milli=1000)  # LITTLE at once is never 45 ms, stolen time included
    full = dict([weight(modest)])
    with running(taker, BURN, 0.5):  # for 5 s from now on a look is for 50 ms, not 250
        pass
    with running(modest, LITTLE, 8):
        time.sleep(4)
        with running(taker, BURN, 2):
            stays(modest, full, 2)
    for b in (taker, modest):
        spawner.end(b)


def test_an_instance_weighs_the_same(spawner):
    box = spawner.make(cpu_milli=300, kind=1)
    with running(box, BURN, 3):
        stays(box, FULL, 2)
    spawner.end(box)


@contextlib.contextmanager
def burning(box, command, count=1):
    """So many of it in the background, which end with the context, and one that does nothing; their processes."""
    before = processes(box)
    status = box.run(f"for i in {' '.join(map(str, range(count)))}; do {command} & done >/dev/null 2>&1 </dev/null; sleep 300 &")[0]
    assert status == 0
    mine = processes(box) - before
    assert len(mine) >= count + 1
    try:
        yield mine
    finally:
        for p in processes(box) - before:
            with contextlib.suppress(ProcessLookupError):
                os.kill(p, signal.SIGKILL)


def processes(box):
    """All of it but init."""
    found = set()
    for top, _, _ in os.walk("/sys/fs/cgroup"):
        if f"/{box.id}/runs/" in f"{top}/":
            with contextlib.suppress(OSError), open(f"{top}/cgroup.procs", encoding="ascii") as f:
                found |= {int(p) for p in f}
    return found


def run_by(pids):
    """The processors that may run them, a set for each."""
    found = []
    for p in pids:
        with contextlib.suppress(ProcessLookupError):
            found.append(frozenset(os.sched_getaffinity(p)))
    return set(found)


ALL = frozenset(os.sched_getaffinity(0))
SPIN = "python3 -S -c 'while True: pass'"
FORKS = "import os, signal, time\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\nwhile True:\n    os.fork() or (time.sleep(.05), os._exit(0))"
SCHED_GETATTR = {"x86_64": 315}.get(platform.machine(), 275)
confines = pytest.mark.skipif(len(ALL) < 2, reason="with one processor there is none to set aside")


@confines
def test_one_that_takes_a_processor_gets_one_of_its_own(spawner):
    taker, other = [spawner.make(cpu_milli=300) for _ in range(2)]
    with burning(other, "sleep 300") as calm:
        with burning(taker, SPIN, 2) as mine:
            wait_for(lambda: run_by(mine), 20, lambda: len(run_by(mine)) == 1 and len(next(iter(run_by(mine)))) == 1)
            assert next(iter(run_by(mine))) < ALL
            assert run_by(calm) == {ALL}
            status, out, *_ = taker.run("echo still answers")
            assert (status, out) == (0, "still answers\n")
            spinning = {p for p in mine if b"-S" in cmdline(p)}
            for p in spinning:
                os.kill(p, signal.SIGKILL)
            wait_for(lambda: run_by(mine - spinning), 20, lambda: run_by(mine - spinning) == {ALL})
    for b in (taker, other):
        spawner.end(b)


@confines
def test_what_it_forks_stays_there(spawner):
    box = spawner.make(cpu_milli=300)
    with burning(box, f"python3 -S -c '{FORKS}'", 2):
        wait_for(lambda: run_by(processes(box)), 20, lambda: len(run_by(processes(box))) == 1 and run_by(processes(box)) != {ALL})
        for _ in range(50):
            assert run_by(processes(box)) != {ALL} or weighs(box, FULL), "as long as it takes that much"
            time.sleep(0.02)
    spawner.end(box)


@confines
def test_who_has_chosen_keeps_its_choice(spawner):
    box, first = spawner.make(cpu_milli=300), min(ALL)
    with burning(box, f"python3 -S -c 'import os\nos.sched_setaffinity(0, [{first}])\nwhile True: pass'") as mine:
        wait_for(lambda: run_by(mine), 20, lambda: any(s not in (ALL, {first}) for s in run_by(mine)) and {first} in run_by(mine))
        time.sleep(0.5)
        assert {first} in run_by(mine)
    becomes(box, FULL, 8)
    spawner.end(box)


@confines
def test_who_chooses_meanwhile_keeps_that_and_gets_its_slice_back(spawner):
    box, first = spawner.make(cpu_milli=300), min(ALL)
    with burning(box, SPIN) as mine:
        wait_for(lambda: run_by(mine), 20, lambda: ALL not in run_by(mine))
        spinner, sleeper = [next(p for p in mine if word in cmdline(p)) for word in (b"-S", b"sleep")]
        long = slice_ns(spinner)
        os.sched_setaffinity(sleeper, {first})
        os.kill(spinner, signal.SIGKILL)
        with burning(box, "sleep 300") as later:
            wait_for(lambda: run_by(later), 20, lambda: run_by(later) == {ALL})
        wait_for(lambda: slice_ns(sleeper), 20, lambda: slice_ns(sleeper) == slice_ns(os.getpid()))
        assert run_by([sleeper]) == {frozenset({first})}
        assert long in (100_000_000, slice_ns(sleeper))  # before Linux 6.12 there is but one
    spawner.end(box)


@confines
def test_who_changes_its_mind_again_and_again_keeps_no_mover_busy(own):
    spawner = own()
    box, last = spawner.make(cpu_milli=300), max(ALL)
    with burning(box, SPIN) as mine:
        wait_for(lambda: run_by(mine), 20, lambda: run_by(mine) == {frozenset({last})})
        toggle = f"import os, time\nwhile True:\n    os.sched_setaffinity(0, [{last}])\n    time.sleep(.02)"
        with burning(box, f"python3 -S -c '{toggle}'", 4):
            for p in mine:
                if b"-S" in cmdline(p):
                    os.kill(p, signal.SIGKILL)
            wait_for(lambda: run_by(mine), 20, lambda: run_by(mine) <= {ALL})
            wait_for(lambda: movers(spawner), 20, lambda: not movers(spawner))
    spawner.end(box)


@confines
def test_who_may_use_more_than_half_of_the_machine_is_let_run(spawner):
    box = spawner.make(cpu_milli=1000 * len(ALL))
    full = dict([weight(box)])
    with burning(box, SPIN, len(ALL)) as mine:
        wait_for(lambda: weight(box), 20, lambda: not weighs(box, full))
        time.sleep(0.5)
        assert run_by(mine) == {ALL}
    spawner.end(box)


@confines
def test_no_mover_is_left(own):
    """Neither by a sandbox that ends while it is confined, nor by a spawner that is killed."""
    spawner = own()
    box = spawner.make(cpu_milli=300)
    with burning(box, SPIN) as mine:
        wait_for(lambda: run_by(mine), 20, lambda: run_by(mine) != {ALL})
        assert len(movers(spawner)) >= 1
        spawner.end(box)
    wait_for(lambda: movers(spawner), 20, lambda: not movers(spawner))
    box = spawner.make(cpu_milli=300)
    with burning(box, SPIN) as mine:
        wait_for(lambda: run_by(mine), 20, lambda: run_by(mine) != {ALL})
        left = movers(spawner)
        spawner.kill()
        wait_for(lambda: left, 20, lambda: not any(alive(p) for p in left))


def movers(spawner):
    """Children of the spawner that bear its command line; builders of spares do, too, but are none for long."""
    found = []
    for p in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{p}/stat", encoding="utf-8", errors="replace") as f:
            if int(f.read().rpartition(")")[2].split()[1]) == spawner.process.pid and b"openreward-spawner" in cmdline(int(p)):
                found.append(int(p))
    return found


def slice_ns(pid):
    attr = ctypes.create_string_buffer(48)
    assert ctypes.CDLL(None, use_errno=True).syscall(SCHED_GETATTR, pid, attr, 48, 0) == 0
    return struct.unpack_from("Q", attr, 24)[0]


def cmdline(pid):
    with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as f:
        return f.read()
    return b""
