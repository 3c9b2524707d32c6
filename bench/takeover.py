"""kill -9 of the daemon with a thousand sandboxes, idle and with a shell that has just been started in each: how long it takes from
the start of the next daemon until it answers what, and whether a command was lost or run twice."""
import base64
import concurrent.futures
import json
import os
import resource
import selectors
import socket
import threading
import time

import crowd
from noisy import Client
from workers import WorkerError

GOAL_S = 2
LIMIT_S = 120
# Some 50 ms of a processor each: so many of them are starting for longer than all of this takes.
SHELL = "echo begun >> /tmp/begun; for ((i = 0; i < 20000; i++)); do :; done; exec /true hold"
COUNT = "mapfile -t lines < /tmp/begun; echo ${#lines[@]}"
FIRST = ("health", "ping", "create", "list", "run")  # of one each
SHOWN = {"health": "/health", "ping": "a ping", "create": "a new sandbox", "list": "the list of sandboxes",
         "run": "/run in one of them", "half": "the runs of half of them", "all": "the runs of all"}


def each(world, sids, fn):
    """fn(client, sid) for all of them, on some connections."""
    def some(part):
        client = Client(world.port, world.key)
        return [fn(client, sid) for sid in part]

    with concurrent.futures.ThreadPoolExecutor(crowd.CONNECTIONS) as pool:
        return [r for part in pool.map(some, [sids[i::crowd.CONNECTIONS] for i in range(crowd.CONNECTIONS)]) for r in part]


# -- what is asked of the next daemon ------------------------------------------------------------------------------------
def ask(world, what, sid):
    client = Client(world.port, world.key)
    client.http.timeout = LIMIT_S
    if what == "health":
        client.ask("GET", "/health")
    elif what == "ping":
        client.ask("POST", "/ping", {}, sid)
    elif what == "create":
        client.create()
    elif what == "list":
        client.ask("GET", "/v1/sandboxes?limit=1000")
    else:
        text = client.ask("POST", "/run", {"cmd": "echo here"}, sid)
        if b"event: end" not in text:
            raise WorkerError(f"a run after kill -9 failed: {text[-200:]!r}")


def request(world, sid):
    return (f"GET /v1/sandboxes/{sid}/runs HTTP/1.1\r\nHost: 127.0.0.1\r\nX-API-Key: {world.key}\r\nConnection: close\r\n\r\n").encode()


def ask_all(world, sids, runs, start):
    """Seconds from start until the runs of each sandbox are told, sorted; a connection for each, since one answers in order."""
    sel, left, took = selectors.DefaultSelector(), {}, []
    for sid in sids:
        s = socket.create_connection(("127.0.0.1", world.port), LIMIT_S)
        s.sendall(request(world, sid))
        left[s] = b""
        sel.register(s, selectors.EVENT_READ)
    while left:
        ready = sel.select(LIMIT_S)
        if not ready:
            raise WorkerError(f"of {len(sids)} sandboxes the runs of {len(left)} were not told")
        for key, _ in ready:
            s = key.fileobj
            piece = s.recv(65536)
            left[s] += piece
            if piece:
                continue
            if b"HTTP/1.1 200 " not in left[s] or b'"total":%d' % runs not in left[s]:
                raise WorkerError(f"the runs of a sandbox are not {runs}: {left[s][-300:]!r}")
            took.append(time.monotonic() - start)
            sel.unregister(s)
            s.close()
            del left[s]
    return sorted(took)


def first_answers(world, sids, runs):
    """Seconds from the start of the next daemon, for each question; they are asked at once, and wait in the backlog."""
    took, errors = {}, []

    def one(what, sid):
        try:
            ask(world, what, sid)
            took[what] = time.monotonic() - start
        except (OSError, WorkerError) as e:
            errors.append(f"{what}: {e}")

    def others():
        try:
            each_took = ask_all(world, sids[len(FIRST):], runs, start)
            took["half"], took["all"] = each_took[len(each_took) // 2], each_took[-1]
        except (OSError, WorkerError) as e:
            errors.append(str(e))

    world.server.process.kill()
    world.server.process.wait()
    start = time.monotonic()
    world.start_daemon()
    threads = [threading.Thread(target=one, args=(what, sids[i])) for i, what in enumerate(FIRST)]
    threads.append(threading.Thread(target=others))
    for t in threads:
        t.start()
    load = os.getloadavg()[0]
    for t in threads:
        t.join()
    if errors:
        raise WorkerError("after kill -9: " + "; ".join(errors))
    return took, load


# -- the two cases -------------------------------------------------------------------------------------------------------
def start_shell(client, sid):
    client.ask("POST", f"/v1/sandboxes/{sid}/runs", {"cmd": SHELL, "max_bytes": 1000})


def begun(client, sid):
    """How often the shell of a sandbox has begun."""
    client.http.timeout = LIMIT_S
    end = time.monotonic() + LIMIT_S
    while True:
        text = client.ask("POST", "/run", {"cmd": COUNT + " 2>&1"}, sid).decode()
        data = [line[6:] for line in text.split("\n") if line.startswith("data: ")]
        n = base64.b64decode(json.loads(data[-1])["output"]).decode().strip()
        if n.isdigit() and n != "0" or time.monotonic() > end:
            return n


def measure(world, quick, say):
    count, found = 50 if quick else 1000, []
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    sids = crowd.make(world, count)
    for name, runs in (("idle", 0), ("a shell starting in each", 1)):
        if runs:
            each(world, sids, start_shell)
        took, load = first_answers(world, sids, runs)
        say(f"kill -9 with {count} sandboxes, {name}: " + ", ".join(f"{w} {s:.2f} s" for w, s in sorted(took.items(), key=lambda x: x[1])))
        found.append((name, took, load))
    wrong = [n for n in each(world, sids, begun) if n != "1"]
    if wrong:
        raise WorkerError(f"{len(wrong)} of {count} commands were lost or run twice: they began {wrong[:5]} times")
    crowd.delete(world, sids)
    return {"count": count, "cases": found}


def tables(found, table, number):
    t = table(f"kill -9 with {found['count']:,} sandboxes: seconds until", *[name for name, _, _ in found["cases"]], "goal")
    for what in (*FIRST, "half", "all"):
        t.add(SHOWN[what], *[f"{took[what]:.2f}" for _, took, _ in found["cases"]], f"≤ {GOAL_S}" if what in FIRST else "")
    return "### The next daemon\n\n" + t.text()
