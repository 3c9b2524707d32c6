"""Create, ready, destroyed, through a real spawner: bench_spawner.py [COUNT]. Prints p50/p90/p99 in µs, and per second with
eight in flight. Run alone: figures of a busy machine say nothing."""
import itertools
import statistics
import sys
import time

from spawner_client import Box, Spawner


def show(name, values):
    q = statistics.quantiles(values, n=100)
    print(f"{name:34} p50 {q[49]:8.0f}  p90 {q[89]:8.0f}  p99 {q[98]:8.0f} µs")


def sequential(s, n, pause=0.0):
    made, ended, inside = [], [], []
    for _ in range(n):
        t0 = time.perf_counter()
        box = s.make()
        t1 = time.perf_counter()
        s.end(box)
        t2 = time.perf_counter()
        made.append((t1 - t0) * 1e6)
        ended.append((t2 - t1) * 1e6)
        inside.append(box.made.number("DURATION_US"))
        time.sleep(pause)
    what = f"quiet {pause * 1000:.0f} ms" if pause else "back to back"
    show(f"{what}: make (client)", made)
    show(f"{what}: make (spawner)", inside)
    show(f"{what}: end (client)", ended)


def parallel(s, n, width):
    flying, todo = {}, itertools.count()
    t0, done = time.perf_counter(), 0

    def launch():
        if next(todo) < n:
            flying[s.daemon.send("MAKE", *s.plan())] = None

    for _ in range(width):
        launch()
    while flying:
        m = s.daemon.receive()
        if m.kind == "MADE":
            box = Box(m)
            del flying[m.request]
            flying[s.daemon.send("END", ("ID", box.id), ("REASON", "deleted"))] = box
        elif m.kind == "ENDED":
            flying.pop(m.request).close()
            done += 1
            launch()
        elif m.request:
            raise RuntimeError(m)
    print(f"{width} in flight: {done / (time.perf_counter() - t0):.0f} create+destroy a second")


def main():
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    s = Spawner()
    try:
        sequential(s, n)
        sequential(s, min(n, 50), 0.1)
        parallel(s, n, 8)
    finally:
        s.stop()


if __name__ == "__main__":
    main()
