"""A sandbox with hundreds of processes weighs a tenth beside others, until some time after they are gone (src/spawner/crowds.c)."""
import os
import time

CROWD = "for i in $(seq 190); do sleep 77 & done >/dev/null 2>&1"
END = "for p in /proc/[0-9]*; do read -r name <$p/comm; [ $name != sleep ] || kill ${p#/proc/}; done"
WEIGHTS = {"cpu.shares": (512, 51), "cpu.weight": (50, 5)}


def weight(box):
    for top, _, files in os.walk("/sys/fs/cgroup"):
        for f in WEIGHTS:
            if top.endswith("/" + box.id) and f in files:
                with open(f"{top}/{f}", encoding="ascii") as file:
                    return WEIGHTS[f].index(int(file.read()))  # 0 = full, 1 = a tenth
    raise AssertionError("no weight")


def becomes(box, which, within):
    end = time.monotonic() + within
    while weight(box) != which:
        assert time.monotonic() < end, f"still {weight(box)}"
        time.sleep(0.01)


def test_a_crowd_weighs_less_and_later_as_before(spawner):
    crowded, other = [spawner.make(cpu_milli=500, pids_max=256) for _ in range(2)]
    assert [weight(b) for b in (crowded, other)] == [0, 0]
    crowded.run(CROWD, timeout=30)
    becomes(crowded, 1, 2)
    assert weight(other) == 0
    crowded.run(END, timeout=30)
    assert weight(crowded) == 1, "one that was a bomb a moment ago may be one again"
    becomes(crowded, 0, 15)
    for b in (crowded, other):
        spawner.end(b)


def test_some_processes_are_no_crowd(spawner):
    box = spawner.make(cpu_milli=500, pids_max=256)
    box.run(CROWD.replace("190", "100"), timeout=30)
    time.sleep(0.5)
    assert weight(box) == 0
    spawner.end(box)


def test_a_crowd_that_an_instance_is_weighs_the_same(spawner):
    box = spawner.make(cpu_milli=500, pids_max=256, kind=1)
    box.run(CROWD, timeout=30)
    time.sleep(0.5)
    assert weight(box) == 0
    spawner.end(box)
