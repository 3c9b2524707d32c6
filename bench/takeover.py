"""kill -9 of the daemon with a thousand sandboxes: idle, with a /run in each that has been going for a while, and with a shell that has
just been started in each. How long it takes from the start of the next daemon until it answers what, and whether a command or its
result was lost, or one was run twice."""
import base64
import concurrent.futures
import json
import os
import re
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
# Most of a run's life, and most runs: it waits. Bash does, for a pipe that nobody writes to.
CALL = "echo begun >> /tmp/called; read -t 60 -u 3 3<> <(:); echo done"
DONE = base64.b64encode(b"done\n")
CALM, CALM_S = 0.9, 30 # of the processors' time that nobody uses, before the kill; seconds to wait for it
COUNT = "mapfile -t lines < {}; echo ${{#lines[@]}}"
IDLE, CALLED, STARTED = "idle", "a /run going on in each", "a shell starting in each"
FIRST = ("health", "ping", "create", "list", "run")  # of one each
SHOWN = {"health": "/health", "ping": "a ping", "create": "a new sandbox", "list": "the list of sandboxes",
         "run": "/run in one of them", "half": "the runs of half of them", "all": "the runs of all",
         "calls": "every /run that broke, taken up again"}


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


class Crowd:
    """One request to each sandbox, a connection for each, since one answers in order."""

    def __init__(self, world, requests):
        self.sel, self.got = selectors.DefaultSelector(), {}
        for sid, text in requests.items():
            s = socket.create_connection(("127.0.0.1", world.port), LIMIT_S)
            s.sendall(text)
            self.got[sid] = b""
            self.sel.register(s, selectors.EVENT_READ, sid)

    def read(self, is_told):
        """Until is_told(what a sandbox's has answered so far, whether that is all) is true of each; when it became so, in seconds of
        time.monotonic()."""
        told = {}
        while len(told) < len(self.got):
            ready = self.sel.select(LIMIT_S)
            if not ready:
                raise WorkerError(f"{len(self.got) - len(told)} of {len(self.got)} sandboxes gave no answer")
            for key, _ in ready:
                piece = key.fileobj.recv(65536)
                self.got[key.data] += piece
                if key.data not in told and is_told(self.got[key.data], not piece):
                    told[key.data] = time.monotonic()
                if not piece:
                    self.sel.unregister(key.fileobj)
                    key.fileobj.close()
        return sorted(told.values())

    def close(self):
        for key in list(self.sel.get_map().values()):
            key.fileobj.close()
        self.sel.close()


def ask_all(world, sids, runs, start):
    """Seconds from start until the runs of each sandbox are told, sorted."""
    def told(text, over):
        if over and (b"HTTP/1.1 200 " not in text or b'"total":%d' % runs not in text):
            raise WorkerError(f"the runs of a sandbox are not {runs}: {text[-300:]!r}")
        return over

    return [t - start for t in Crowd(world, {sid: request(world, sid) for sid in sids}).read(told)]


# -- runs that their callers wait for ------------------------------------------------------------------------------------
def call(world, sid, task):
    """A /run, or the same again by whom its connection broke."""
    body = json.dumps({"cmd": CALL, **({"task_id": task} if task else {})})
    return (f"POST /run HTTP/1.1\r\nHost: 127.0.0.1\r\nX-API-Key: {world.key}\r\nX-Session-ID: {sid}\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}").encode()


def task_of(text):
    found = re.search(rb"event: task_id\r?\ndata: (\S+)", text)
    return found.group(1).decode() if found else ""


class Calls:
    """A /run in each sandbox, by callers who repeat theirs when its connection breaks."""

    def __init__(self, world, sids):
        self.world = world
        self.crowd = Crowd(world, {sid: call(world, sid, "") for sid in sids})
        self.crowd.read(lambda text, over: task_of(text))
        self.tasks = {sid: task_of(text) for sid, text in self.crowd.got.items()}

    def again(self, start):
        """Seconds from start until the last of them is taken up again. Whoever asks before there is a daemon waits in the backlog."""
        self.crowd.close()
        self.crowd = Crowd(self.world, {sid: call(self.world, sid, task) for sid, task in self.tasks.items()})
        return self.crowd.read(lambda text, over: over or b"event: " in text)[-1] - start

    def end(self):
        """Each result arrives."""
        self.crowd.read(lambda text, over: over)
        lost = [text for text in self.crowd.got.values() if DONE not in text or b"event: end" not in text]
        if lost:
            raise WorkerError(f"the results of {len(lost)} of {len(self.tasks)} commands were lost: {lost[0][-300:]!r}")


def idle_share(seconds):
    def read():
        with open("/proc/stat", encoding="ascii") as f:
            words = [int(w) for w in f.readline().split()[1:9]]
        return words[3] + words[4], sum(words)

    before = read()
    time.sleep(seconds)
    after = read()
    return (after[0] - before[0]) / (after[1] - before[1])


def wait_for_calm():
    """Nobody is measured against what has just been started; on a machine with other work it is never calm."""
    end = time.monotonic() + CALM_S
    while idle_share(0.5) < CALM and time.monotonic() < end:
        pass


# -- from the kill on ----------------------------------------------------------------------------------------------------
def first_answers(world, sids, runs, calls):
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

    def callers():
        try:
            took["calls"] = calls.again(start)
        except (OSError, WorkerError) as e:
            errors.append(f"calls: {e}")

    world.server.process.kill()
    world.server.process.wait()
    start = time.monotonic()
    world.start_daemon()
    threads = [threading.Thread(target=one, args=(what, sids[i])) for i, what in enumerate(FIRST)]
    threads.append(threading.Thread(target=others))
    if calls:
        threads.append(threading.Thread(target=callers))
    for t in threads:
        t.start()
    load = os.getloadavg()[0]
    for t in threads:
        t.join()
    if errors:
        raise WorkerError("after kill -9: " + "; ".join(errors))
    return took, load


# -- the cases -----------------------------------------------------------------------------------------------------------
def start_shell(client, sid):
    client.ask("POST", f"/v1/sandboxes/{sid}/runs", {"cmd": SHELL, "max_bytes": 1000})


def begun(client, sid, file):
    """How often the command of a sandbox has begun that notes it in a file."""
    client.http.timeout = LIMIT_S
    end = time.monotonic() + LIMIT_S
    while True:
        text = client.ask("POST", "/run", {"cmd": COUNT.format(file) + " 2>&1"}, sid).decode()
        data = [line[6:] for line in text.split("\n") if line.startswith("data: ")]
        n = base64.b64decode(json.loads(data[-1])["output"]).decode().strip()
        if n.isdigit() and n != "0" or time.monotonic() > end:
            return n


def check_begun(world, sids, file):
    wrong = [n for n in each(world, sids, lambda client, sid: begun(client, sid, file)) if n != "1"]
    if wrong:
        raise WorkerError(f"{len(wrong)} of {len(sids)} commands were lost or run twice: they began {wrong[:5]} times")


def one_case(world, sids, name, say):
    calls = Calls(world, sids) if name == CALLED else None
    if name == STARTED:
        each(world, sids, start_shell)
    else:
        wait_for_calm()
    took, load = first_answers(world, sids, 1 if name == STARTED else 0, calls)
    say(f"kill -9 with {len(sids)} sandboxes, {name}: " + ", ".join(f"{w} {s:.2f} s" for w, s in sorted(took.items(), key=lambda x: x[1])))
    if calls:
        calls.end()
        check_begun(world, sids, "/tmp/called")
    return name, took, load


def measure(world, quick, say):
    count = 50 if quick else 1000
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    sids = crowd.make(world, count)
    found = [one_case(world, sids, name, say) for name in (IDLE, CALLED, STARTED)]
    check_begun(world, sids, "/tmp/begun")
    crowd.delete(world, sids)
    return {"count": count, "cases": found}


def tables(found, table, number):
    t = table(f"kill -9 with {found['count']:,} sandboxes: seconds until", *[name for name, _, _ in found["cases"]], "goal")
    for what in SHOWN:
        goal = f"≤ {GOAL_S}" if what in (*FIRST, "calls") else f"≤ {GOAL_S}, but for shells starting"
        t.add(SHOWN[what], *[f"{took[what]:.2f}" if what in took else "" for _, took, _ in found["cases"]], goal)
    return "### The next daemon\n\n" + t.text()
