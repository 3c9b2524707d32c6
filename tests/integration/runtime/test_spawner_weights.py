"""A sandbox that keeps a processor to itself weighs a tenth beside others, as long as it does (src/spawner/weights.c)."""
import contextlib
import os
import threading
import time

import pytest

BURN = "pass"
FORK = "os.fork() or os._exit(0)\n    os.wait()"  # as a script of many small commands does
HALF = "time.monotonic() % 0.05 < 0.02 or time.sleep(0.03)"
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


def becomes(box, weights, within):
    end = time.monotonic() + within
    while not weighs(box, weights):
        assert time.monotonic() < end, f"still {weight(box)}"
        time.sleep(0.01)


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


def test_an_instance_weighs_the_same(spawner):
    box = spawner.make(cpu_milli=300, kind=1)
    with running(box, BURN, 3):
        stays(box, FULL, 2)
    spawner.end(box)
