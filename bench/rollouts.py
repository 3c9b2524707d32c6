"""Rollouts: how many events a second are on disk, what pings of a session cost meanwhile, and what a page of a long list takes."""
import http.client
import json
import statistics
import threading
import time
import uuid

from gateway import ENVIRONMENT, Target, request_bytes
from workers import WorkerError

BATCH = 128
CONTENT = "It looks at the file, and then it says what it saw. " * 8  # 400 characters: what an agent says between two calls
PINGS = 500  # a second


def rollout_event(run, rid, task):
    return (f'{{"eventType":"rollout","eventId":"{rid}","timestamp":1700000000000,"runName":"{run}","rolloutName":"{rid[:8]}",'
            f'"environment":"{ENVIRONMENT}","split":"train","run_info":{{"model_name":"m","model_params":7}},'
            f'"rollout_info":{{"task_index":{task}}}}}')


def message_event(rid, i, content=CONTENT):
    return (f'{{"eventType":"message","eventId":"{uuid.uuid4()}","timestamp":1700000000000,"rolloutEventId":"{rid}","index":{i},'
            f'"type":"assistant_message","content":"{content}","reward":{i % 3}}}')


class Client:
    """One kept connection."""

    def __init__(self, port, key):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        self.headers = {"X-API-Key": key, "Content-Type": "application/json"}

    def ask(self, method, path, body=None):
        self.connection.request(method, path, body, self.headers)
        answer = self.connection.getresponse()
        data = answer.read()
        if answer.status != 200:
            raise WorkerError(f"{path}: {answer.status} {data[:300]!r}")
        return data

    def post(self, events):
        self.ask("POST", "/v1/rollouts", ('{"events":[' + ",".join(events) + "]}").encode())


def batches(run):
    """Batches of 128: four rollouts of 31 messages."""
    task = 0
    while True:
        events = []
        for _ in range(4):
            rid = str(uuid.uuid4())
            task = (task + 1) % 100
            events += [rollout_event(run, rid, task)] + [message_event(rid, i) for i in range(31)]
        yield events


class Load:
    """Posts from some connections for some seconds, at a rate of batches in all, or as fast as they are answered (0)."""

    def __init__(self, port, key, width, seconds, rate):
        self.done, self.failed, self.slowest = 0, "", 0.0
        self.start = self.last = time.monotonic()
        self.end, self.period = time.monotonic() + seconds, width / rate if rate else 0
        self.threads = [threading.Thread(target=self.body, args=(port, key, i * self.period / width)) for i in range(width)]

    def body(self, port, key, delay):
        client, due = Client(port, key), time.monotonic() + delay
        try:
            for events in batches("load"):
                time.sleep(max(0, due - time.monotonic()))
                if time.monotonic() >= self.end:
                    return
                start = time.monotonic()
                client.post(events)
                self.slowest = max(self.slowest, time.monotonic() - start)
                self.done += len(events)
                self.last = time.monotonic()
                due += self.period
        except (WorkerError, OSError, http.client.HTTPException) as e:
            self.failed = str(e)

    def __enter__(self):
        for t in self.threads:
            t.start()
        return self

    def __exit__(self, *_):
        for t in self.threads:
            t.join()
        if self.failed:
            raise WorkerError(self.failed)


class Rollouts:
    def __init__(self, world):
        with open(f"{world.data}/admin.key", encoding="ascii") as f:
            self.key = f.read().strip()
        if "load" not in world.workers:
            world.worker("load", f"{world.build}/bench/bench-load")
        self.load, self.rows, self.pages = world.workers["load"], [], []
        self.port = int(world.workers["http"].process.args[2])
        session = Target(world, "pinged", "", self.port, world.server.process.pid, {"X-API-Key": self.key, "X-Deployment": ENVIRONMENT})
        self.file = f"{world.dir}/request-ping"
        with open(self.file, "wb") as f:
            f.write(request_bytes("POST", "/ping", session.headers, b""))

    def pings(self, seconds):
        lines = self.load.do("calls", "kept", 16, seconds, PINGS, self.file, self.port, limit=seconds + 60)
        return [float(x) / 1000 for x in lines[-1].split()][1:]

    def ingest(self, label, seconds, width, rate):
        """Pings run while events are posted, and end before the events do."""
        with Load(self.port, self.key, width, seconds + 1, rate) as load:
            p50, p99 = self.pings(seconds)
        self.rows.append((label, load.done / (load.last - load.start), p50, p99, load.slowest * 1000))

    def seed(self, rollouts, messages):
        client = Client(self.port, self.key)
        ids = [str(uuid.uuid4()) for _ in range(rollouts)]
        for at in range(0, rollouts, 1000):
            events = []
            for i, rid in enumerate(ids[at:at + 1000]):
                events += [rollout_event("long", rid, (at + i) % 500), message_event(rid, 0, "short")]
            client.post(events)
        for at in range(0, messages, 2000):
            client.post([message_event(ids[0], i) for i in range(at, at + 2000)])
        return ids[0]

    def page(self, label, path, count=30):
        client, took = Client(self.port, self.key), []
        for _ in range(count):
            start = time.monotonic()
            client.ask("GET", path)
            took.append((time.monotonic() - start) * 1000)
        self.pages.append((label, statistics.median(took), max(took)))

    def measure_pages(self, rollouts, messages):
        rid = self.seed(rollouts, messages)
        client = Client(self.port, self.key)
        for label, path, n in (("rollouts of a run", "/v1/runs/long/rollouts", rollouts), ("messages of a rollout", f"/v1/rollouts/{rid}", messages)):
            for where, offset in (("first", 0), ("middle", n // 2), ("last", n - 100)):
                self.page(f"{label} of {n:,}, {where} 100, by offset", f"{path}?limit=100&offset={offset}")
            token = json.loads(client.ask("GET", f"{path}?limit=100&offset={n - 300}"))["nextPageToken"]
            self.page(f"{label} of {n:,}, 100 near the end, by token", f"{path}?limit=100&pageToken={token}")
        self.page("runs, by a search", "/v1/runs?search=on")
        self.page(f"task-difficulty of {rollouts:,} rollouts", f"/v1/environments/{ENVIRONMENT}/task-difficulty", 10)
        self.page("the same, one model and one split", f"/v1/environments/{ENVIRONMENT}/task-difficulty?model_name=m&split=train", 10)


def measure(world, quick, say):
    r, seconds = Rollouts(world), 3 if quick else 20
    r.rows.append(("no events", 0, *r.pings(seconds), 0))
    r.ingest("3,000 events/s", seconds, 8, 3000 / BATCH)
    r.ingest("as fast as they are answered, 4 connections", seconds, 4, 0)
    say("rollouts: events done")
    r.measure_pages(*(10000, 5000) if quick else (100000, 50000))
    return r


def tables(r, table, number):
    t = table("events in batches of 128, pings at 500/s beside", "events/s", "ping p50, ms", "ping p99, ms", "slowest batch, ms", "ping p99 < 50 ms")
    for label, rate, p50, p99, slowest in r.rows:
        t.add(label, number(rate), f"{p50:.2f}", f"{p99:.2f}", number(slowest), "yes" if p99 < 50 else "no")
    u = table("a page", "p50, ms", "slowest, ms", "< 20 ms")
    for label, p50, slowest in r.pages:
        u.add(label, f"{p50:.2f}", f"{slowest:.2f}", "yes" if p50 < 20 else "no")
    return "### Rollouts\n\n" + t.text() + "\n\n" + u.text()
