"""A machine full of idle sandboxes: how many descriptors they take, and how long it takes until all of them are deleted."""
import concurrent.futures
import os
import selectors
import socket
import time

from figures import descendants
from noisy import Client
from workers import WorkerError

GOAL_S = 3
CONNECTIONS = 8
PROGRAMS = ("openreward-egress", "openreward-spawner")
DELETING = 500  # connections: one answers its requests one after the other


def open_descriptors(pids):
    """By name of the program."""
    found = {}
    for pid in pids:
        try:
            with open(f"/proc/{pid}/comm", encoding="ascii") as f:
                name = f.read().strip()
            name = next((p for p in PROGRAMS if p[:15] == name), name)  # the kernel keeps so much of it
            found[name] = found.get(name, 0) + len(os.listdir(f"/proc/{pid}/fd"))
        except OSError:
            pass  # it has just ended
    return found


def make(world, count):
    def some(n):
        client = Client(world.port, world.key)
        return [client.create() for _ in range(n)]

    with concurrent.futures.ThreadPoolExecutor(CONNECTIONS) as pool:
        shares = [count // CONNECTIONS + (i < count % CONNECTIONS) for i in range(CONNECTIONS)]
        return [sid for sids in pool.map(some, shares) for sid in sids]


def request(world, sid):
    return (f"POST /delete_session HTTP/1.1\r\nHost: 127.0.0.1\r\nX-API-Key: {world.key}\r\nX-Session-ID: {sid}\r\n"
            "Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}").encode()


def delete(world, sids):
    """Seconds until every delete is answered, which is when nothing of it lives. All are asked for at once, one behind the other on
    many connections: the client is not to be what is measured."""
    sel, left = selectors.DefaultSelector(), {}
    for i in range(min(DELETING, len(sids))):
        s = socket.create_connection(("127.0.0.1", world.port), 60)
        left[s] = [b"".join(request(world, sid) for sid in sids[i::DELETING]), len(sids[i::DELETING])]
        sel.register(s, selectors.EVENT_READ | selectors.EVENT_WRITE)
    start = time.monotonic()
    while left:
        ready = sel.select(60)
        if not ready:
            raise WorkerError(f"{sum(n for _, n in left.values())} of {len(sids)} deletes got no answer within 60 s")
        for key, events in ready:
            s = key.fileobj
            if events & selectors.EVENT_WRITE:
                left[s][0] = left[s][0][s.send(left[s][0][:65536]):]
                if not left[s][0]:
                    sel.modify(s, selectors.EVENT_READ)
            if events & selectors.EVENT_READ:
                take(s, left, sel)
    return time.monotonic() - start


def take(s, left, sel):
    text = s.recv(262144)
    good, answers = text.count(b"HTTP/1.1 200 "), text.count(b"HTTP/1.1 ")
    if good != answers or not text:
        raise WorkerError(f"a delete was refused: {text[:300]!r}")
    left[s][1] -= good
    if left[s][1] == 0:
        sel.unregister(s)
        s.close()
        del left[s]


def measure(world, quick, say):
    count = 200 if quick else 4000
    pids = [world.server.process.pid]
    before = open_descriptors(descendants(pids[0]))
    start = time.monotonic()
    sids = make(world, count)
    made = time.monotonic() - start
    after = open_descriptors(descendants(pids[0]))
    took = delete(world, sids)
    say(f"{count} idle sandboxes: made in {made:.1f} s, deleted in {took:.2f} s")
    each = {name: (n - before.get(name, 0)) / count for name, n in after.items() if name.startswith("openreward")}
    return {"count": count, "made": made, "took": took, "each": each, "most": max(after.values())}


def tables(found, table, number):
    t = table("idle sandboxes", "number", "goal", "reached")
    count, took = found["count"], found["took"]
    t.add(f"{count:,} of them, seconds to make", number(found["made"]), "", "")
    for name, each in sorted(found["each"].items()):
        t.add(f"descriptors of {name}, for each", f"{each:.2f}", "", "")
    t.add(f"{count:,} of them, all deleted: seconds", f"{took:.2f}", f"≤ {GOAL_S}" if count >= 4000 else "",
          "" if count < 4000 else "yes" if took <= GOAL_S else "no")
    return "### A full machine\n\n" + t.text()
