"""What is measured: one-at-a-time cases, rates, and the rounds that interleave them."""
import base64
import json
import random
import time

import evidence
from workers import WorkerError, median, percentile
from world import COMMANDS

LABELS = {"static": "a static true", "dynamic": "/bin/true", "bash": "bash -c true"}
SHELL = {"static": "/true", "dynamic": "/bin/true", "bash": "true"}  # what bash is given over HTTP


class Case:
    """key names it in the table; base is the key of the case that its ratio is to; count is samples per round."""

    def __init__(self, key, group, label, worker, args, count, base=None, pause_ms=0, note=""):
        self.key, self.group, self.label, self.worker, self.args = key, group, label, worker, args
        self.count, self.base, self.pause_ms, self.note = count, base, pause_ms, note
        self.rounds = []  # lists of samples
        self.failed = ""

    def measure(self, world):
        self.rounds.append(world.workers[self.worker].batch(self.count, self.pause_ms, self.args))

    def totals(self):
        return [[sample[0] for sample in r] for r in self.rounds]

    def p(self, n):
        return median([percentile(r, n) for r in self.totals()])

    def first_parts(self, count):
        """p50 of the sum of so many of the parts."""
        return median([percentile([sum(s[1:1 + count]) for s in r], 50) for r in self.rounds])

    def per_second(self):
        return median([1e6 * len(r) / sum(r) for r in self.totals()])

    def parts(self):
        """Medians of the parts, of all samples."""
        samples = [s[1:] for r in self.rounds for s in r]
        return [median(column) for column in zip(*samples)] if samples and samples[0] else []


class Rate:
    def __init__(self, key, group, label, worker, width, args, base=None):
        self.key, self.group, self.label, self.worker = key, group, label, worker
        self.width, self.args, self.base = width, args, base
        self.rounds, self.failed = [], ""
        self.sustained = None  # per second, over a longer time

    def measure(self, world, seconds):
        self.rounds.append(world.workers[self.worker].rate(self.width, seconds, self.args))

    def measure_long(self, world, seconds):
        self.sustained = world.workers[self.worker].rate(self.width, seconds, self.args)

    def per_second(self):
        return median(self.rounds)


def create_cases(world, n):
    out = []
    for name, argv in COMMANDS.items():
        base = f"floor-{name}"
        group = f"create, run {LABELS[name]}, destroy"
        out.append(Case(base, group, "floor", "floor", ["create", "-", *argv], n))
        if name == "static":
            out += [Case("floor-memory", group, "floor, upper in memory", "floor", ["create", "memory", *argv], n, base),
                    Case("floor-prepared", group, "floor, net namespace and cgroups prepared", "floor",
                         ["create", "prepared", *argv], n, base),
                    Case("floor-prepared-memory", group, "floor, the same, upper in memory", "floor",
                         ["create", "memory,prepared", *argv], n, base),
                    Case("floor-least", group, "floor, the same, the least that is a container", "floor",
                         ["create", "memory,prepared,least", *argv], n, base)]
        out.append(Case(f"runtime-{name}", group, "OpenReward, runtime", "runtime", ["create", *argv], n, base))
        if name == "static":
            out += [Case("memory-static", group, "OpenReward, runtime, upper in memory", "memory", ["create", *argv], n, base),
                    Case("begun-static", group, "OpenReward, runtime, begun ahead", "begun", ["create", *argv], n, base),
                    Case("begun-paced", group, "OpenReward, runtime, begun ahead, 20 ms apart", "begun",
                         ["create", *argv], n // 2, base, 20),
                    Case("paced-static", group, "OpenReward, runtime, 20 ms apart", "runtime", ["create", *argv], n // 2, base, 20),
                    Case("pool-static", group, "OpenReward, runtime, from the pool", "pool", ["create", *argv], n // 2, base, 20)]
        if "http" in world.workers:
            out.append(Case(f"http-{name}", group, http_label(name), "http", ["create", SHELL[name]], n, base))
        if name != "dynamic":
            out += peer_cases(world, name, argv, group, n, base)
    group, few = "the same of a static true after 50 ms of quiet", max(3, n // 10)
    out += [Case("floor-quiet", group, "floor", "floor", ["create", "-", "/true"], few, None, 50),
            Case("runtime-quiet", group, "OpenReward, runtime", "runtime", ["create", "/true"], few, "floor-quiet", 50)]
    return out


def peer_cases(world, name, argv, group, n, base):
    unshare = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount", "--ipc", "--uts", "--net", "--cgroup"]
    bwrap = ["bwrap", "--unshare-all", "--bind", world.root, "/", "--proc", "/proc", "--dev", "/dev", "--die-with-parent"]
    few, note = max(2, n // 2), "no cgroup, filter or overlay"
    out = [Case(f"unshare-{name}", group, "unshare", "peers", ["exec", *unshare, f"--root={world.root}", *argv], few, base,
                note=note),
           Case(f"bwrap-{name}", group, "bubblewrap", "peers", ["exec", *bwrap, *argv], few, base, note=note)]
    for program in ("crun", "runc"):
        if getattr(world, f"has_{program}"):
            out.append(Case(f"{program}-{name}", group, f"{program} run", "peers",
                            ["exec", *world.oci(program, "run", "--bundle", f"{world.dir}/bundle-{name}", "once")], max(2, n // 5), base,
                            note="no user namespace or overlay"))
    if world.has_podman:
        out.append(Case(f"podman-{name}", group, "podman run --rm, network none", "peers",
                        ["exec", *world.podman("run", "--rm", "--rootfs", world.root, *argv)], max(1, n // 30), base,
                        note="no user namespace or overlay"))
    return out


def exec_cases(world, n):
    out = []
    for i, (name, argv) in enumerate(COMMANDS.items()):
        base, group = f"floor-exec-{name}", f"{LABELS[name]} in a living sandbox"
        out += [Case(f"bare-{name}", group, "no sandbox at all", "command", ["chroot", world.root, *argv], n, base),
                Case(base, group, "floor (agent inside)", "floor", ["agent", i], n),
                Case(f"runtime-exec-{name}", group, "OpenReward, runtime", "runtime", ["run", *argv], n, base)]
        if name == "static":  # as the sandboxes from the pool are asked for
            out.append(Case("floor-exec-paced", group, "floor (agent inside), 20 ms apart", "floor", ["agent", i], n // 2, base, 20))
        if "http" in world.workers:
            out.append(Case(f"http-exec-{name}", group, http_label(name), "http", ["run", SHELL[name]], n, base))
        if name == "dynamic":
            continue
        if world.has_crun:
            args = ["exec", *world.oci("crun", "exec", "living", *argv)]
            out.append(Case(f"crun-exec-{name}", group, "crun exec", "peers", args, max(2, n // 10), base))
        if world.has_podman:
            args = ["exec", *world.podman("exec", "living", *argv)]
            out.append(Case(f"podman-exec-{name}", group, "podman exec", "peers", args, max(1, n // 40), base))
    return out


def http_label(name):
    """/run always has a shell execute its command."""
    return "OpenReward, HTTP" + ("" if name == "bash" else " (by bash)")


def rates(world):
    group, base = "create, run a static true, destroy: per second", "rate-floor-8"
    out = [Rate(base, group, "floor, 8 at a time", "floor", 8, ["create", "-", "/true"]),
           Rate("rate-floor-memory-8", group, "floor, upper in memory, 8 at a time", "floor", 8,
                ["create", "memory", "/true"], base)]
    for name in ("runtime", "memory", "http"):
        label = "OpenReward, " + {"memory": "runtime, upper in memory", "http": "HTTP"}.get(name, name)
        out += [Rate(f"rate-{name}-{width}", group, f"{label}, {width} at a time", name, width, ["create", "/true"], base)
                for width in (8, 64) if name in world.workers]
    for p in peer_cases(world, "static", ["/true"], group, 1, None):
        if p.label in ("bubblewrap", "crun run"):
            # `once` would be the name of eight: the shell gives each its own.
            args = ["exec", "sh", "-c", "exec \"$@\" $$", "sh", *p.args[1:-1]] if p.label == "crun run" else p.args
            out.append(Rate(f"rate-{p.key}-8", group, f"{p.label}, 8 at a time", "peers", 8, args, base))
    return out


def attempt(case, fn, *args):
    """What fails once is left out from then on, and the report has a line for it."""
    if case.failed:
        return
    try:
        fn(*args)
    except (WorkerError, OSError) as e:
        case.failed = str(e)


def check(world):
    """That what is measured is a sandbox: after each round, with a fresh one of each."""
    for name, judge in (("floor", evidence.check_local), ("runtime", evidence.check_local), ("memory", evidence.check_local),
                        ("pool", evidence.check_local), ("begun", evidence.check_local), ("http", evidence.check_http)):
        if name in world.workers:
            try:
                world.workers[name].probe(judge)
            except evidence.NotASandbox as e:
                raise evidence.NotASandbox(f"{name}: {e}") from e
            world.checked[name] = world.checked.get(name, 0) + 1


def check_repeats(world, times=20):
    """That a command is run as often as it is sent: a server that answered from what it knows would look very fast."""
    if "http" not in world.workers:
        return
    result = json.loads(world.workers["http"].do("repeat", times)[0][5:])
    ran = base64.b64decode(result["output"]).decode()
    if ran != str(times):
        world.wrong = f"one command was sent {times} times over HTTP, one after the other, and ran {ran} times"
        world.skipped["runs of equal commands"] = world.wrong


def measure_all(world, cases, rate_list, rounds, seconds, sustained, say):
    """Each round does everything once, in an order of its own, so that no case always follows the same other. At last, what is to
    last: our own rates for so many seconds."""
    rng = random.Random(1)
    for r in range(rounds):
        start = time.monotonic()
        order = list(cases)
        rng.shuffle(order)
        for c in order:
            attempt(c, c.measure, world)
        for c in rng.sample(rate_list, len(rate_list)):
            attempt(c, c.measure, world, seconds)
        check(world)
        say(f"round {r + 1} of {rounds}: {time.monotonic() - start:.1f} s")
    for c in (c for c in rate_list if c.worker in ("runtime", "memory", "http")):
        attempt(c, c.measure_long, world, sustained)
        say(f"{c.label}, for {sustained} s: {'failed' if c.failed else format(c.sustained, '.0f')} a second")
