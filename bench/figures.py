"""Figures that stand alone: processor time per ping and per GiB, how long a start and a push take."""
import statistics
import time

from workers import cpu_us, percentile
from world import ENVIRONMENT, run


def descendants(pid):
    """The process and all below it that live: the daemon, the spawner, egress, the inits and what they run."""
    found = [pid]
    for p in found:
        try:
            with open(f"/proc/{p}/task/{p}/children", encoding="ascii") as f:
                found += [int(c) for c in f.read().split()]
        except OSError:
            pass  # it has just ended
    return found


def cpu_of(pids):
    total = 0
    for p in pids:
        try:
            total += cpu_us(p)
        except OSError:
            pass
    return total


def ping(world, rounds, count):
    """Daemon's processor time per ping of an idle sandbox, µs."""
    http, pid, out = world.workers["http"], world.server.process.pid, []
    http.batch(1, 0, ["ping"])
    for _ in range(rounds):
        before = cpu_us(pid)
        http.batch(count, 0, ["ping"])
        out.append((cpu_us(pid) - before) / (count + 1))  # one more does not count as a sample
    return statistics.median(out)


def files(world, mb):
    """Processor time of all our processes for a file of a GiB, in seconds: written, read and hashed."""
    http, out = world.workers["http"], []
    for what in ("write", "read"):
        pids = descendants(world.server.process.pid)
        before = cpu_of(pids)
        http.do(what, mb, limit=120)
        out.append((cpu_of(pids) - before) / 1e6 * 1024 / mb)
    return out


def cold(world, rounds, count):
    """What the first session of an environment waits for whose server starts at once, ms."""
    http = world.workers["http"]
    return statistics.median(percentile([s[1] for s in http.batch(count, 0, ["cold"])], 50) for _ in range(rounds)) / 1000


def push(world, rounds):
    """Seconds of a deploy in which one file changed: layers are cached, and it ends when the new instance is healthy."""
    folder, out = f"{world.dir}/environment", []
    for n in range(rounds):
        with open(f"{folder}/upstream", "ab") as f:
            f.write(b"%d" % n)
        start = time.monotonic()
        run([f"{world.build}/openreward", "deploy", folder, "--name", ENVIRONMENT, "--data", world.data])
        out.append(time.monotonic() - start)
    return statistics.median(out)


def measure(world, quick):
    """[(what, value, goal, unit)], less is better; a part that fails is left out, and the report says why."""
    rows, rounds = [], 3 if quick else 5

    def part(what, fn):
        world.try_part(what, lambda: rows.extend(fn()))

    def of_files():
        mb = 64 if quick else 1024
        w, r = files(world, mb)
        return [("1 GiB through write_file, processor time of all", w, 1.5, "s"),
                ("1 GiB through read_file, with its hash", r, 1.5, "s")]

    if "http" in world.workers:
        part("pings", lambda: [("daemon's processor time per ping of an idle sandbox", ping(world, rounds, 500), 20, "µs")])
        part("files", of_files)
    if world.has_upstream:
        part("cold starts", lambda: [("an instance that is started for a session, p50", cold(world, rounds, 5), 50, "ms")])
        part("a push", lambda: [("deploy with one file changed, until ready", push(world, rounds), 5, "s")])
    return rows
