"""A busy disk: creates and runs of others while 1.5 GB are written elsewhere on it and a sandbox of 200,000 files is being deleted."""
import os
import subprocess
import time

from noisy import Client
from stolen import Compared, Timer
from workers import WorkerError

GOAL = 2  # times the calm p99
BLOCK = 1 << 20


def fill(client, files):
    """A sandbox that holds so many."""
    sid = client.create()
    text = client.ask("POST", "/run", {"cmd": f"for ((i = 0; i < {files}; i++)); do : > /tmp/$i; done", "timeout_s": 300}, sid)
    if b"event: end" not in text or b'"return_code":0' not in text.replace(b" ", b""):
        raise WorkerError(f"{files} files could not be made: {text[-300:]}")
    return sid


def one(client, living, timer):
    """A sandbox and its end, then a run in one that lives."""
    timer.time("create", lambda: client.delete(client.create()))
    client.pace(living, 1, timer)


def measure(world, quick, say):
    """(calm, beside): Timers. They alternate, so that both see the same machine."""
    rounds, files, megabytes, count = (1, 20000, 150, 40) if quick else (5, 200000, 1536, 100)
    client, calm, beside = Client(world.port, world.key), Timer(), Timer()
    living, path = client.create(), f"{world.dir}/dirty"
    client.pace(living, 10)
    for n in range(rounds):
        full = fill(client, files)
        os.sync()
        for _ in range(count):
            one(client, living, calm)
        writer = subprocess.Popen(["dd", "if=/dev/zero", f"of={path}", f"bs={BLOCK}", f"count={megabytes}"], stderr=subprocess.DEVNULL,
                                  start_new_session=True)  # else the kernel has it share the client's part of the processors
        client.delete(full)
        try:
            busy(client, living, beside, f"{world.data}/sandboxes/{full}", writer, count)
        finally:
            writer.kill()
            writer.wait()
            os.unlink(path)
        say(f"beside a busy disk: round {n + 1} of {rounds}, {len(beside.took) // 2} creates")
    client.delete(living)
    return calm, beside


def busy(client, living, timer, folder, writer, count):
    """As long as it is being deleted, and at least so often."""
    end, n = time.monotonic() + 60, 0
    while n < count or os.path.exists(folder) or writer.poll() is None:
        if time.monotonic() > end:
            raise WorkerError(f"{folder} is still there after 60 s")
        one(client, living, timer)
        n += 1


def tables(found, table, number):
    t = table("ms", *Compared.HEADS)
    for label, what in (("create and delete", "create"), ("/run of true", "run")):
        t.add(label, *Compared(*found, what).cells(number, GOAL))
    return "### A busy disk: 1.5 GB dirty elsewhere, and a sandbox of 200,000 files being deleted\n\n" + t.text()
