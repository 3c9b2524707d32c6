"""What the machine's own host takes: a virtual machine may stand still for a while, all its processors at once, where its host
limits what it may use (seen here: 28 ms of each 100 while both are busy and the disk transfers). The kernel counts it as steal
(proc_stat(5)); what was timed meanwhile says nothing about anybody in this machine."""
import os
import time

from workers import percentile

def ticks():
    """Of all processors together, since the start."""
    with open("/proc/stat", encoding="ascii") as f:
        fields = f.readline().split()
    return int(fields[8]) if len(fields) > 8 else 0


def said(before, seconds):
    """Of a measurement that took so long."""
    taken = (ticks() - before) / os.sysconf("SC_CLK_TCK") / os.cpu_count()
    return f"The machine's own host held it up for {taken:.1f} of {seconds:.0f} s."


class Timer:
    """Times what is done one after the other. The kernel counts at its next tick, which may be when the next is on its way: one that
    was held up, and the one before it, are told apart."""

    def __init__(self):
        self.took = []  # (what, seconds, ticks before, ticks after)

    def time(self, what, do):
        before, start = ticks(), time.monotonic()
        answer = do()
        self.took.append((what, time.monotonic() - start, before, ticks()))
        return answer

    def of(self, what):
        """([seconds] of those that were left alone, [seconds] of all)."""
        alone = []
        for n, (name, seconds, before, _) in enumerate(self.took):
            if name == what and before == self.took[min(n + 1, len(self.took) - 1)][3]:
                alone.append(seconds)
        return alone, [seconds for name, seconds, _, _ in self.took if name == what]


class Compared:
    """What is timed in a calm machine and beside something: p50 and p99 in ms of what was left alone, and how many were not."""

    HEADS = ("calm p50", "calm p99", "beside p50", "beside p99", "p99, times", "goal", "reached", "held up by the host", "times, of all")

    def __init__(self, calm, beside, what):
        (a, every_a), (b, every_b) = calm.of(what), beside.of(what)
        if not a or not b:
            a, b = every_a, every_b  # a machine that is never left alone
        self.calm50, self.calm99, self.beside50, self.beside99 = (1000 * percentile(v, p) for v in (a, b) for p in (50, 99))
        self.times = self.beside99 / self.calm99
        self.times_of_all = percentile(every_b, 99) / percentile(every_a, 99)
        self.taken = len(every_a) - len(a) + len(every_b) - len(b)

    def cells(self, number, goal):
        return (number(self.calm50), number(self.calm99), number(self.beside50), number(self.beside99), f"{self.times:.2f}", f"≤ {goal}",
                "yes" if self.times <= goal else "no", self.taken, f"{self.times_of_all:.2f}")
