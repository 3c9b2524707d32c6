"""A neighbour that takes all it can get: how much longer /run takes in a sandbox beside it than in a calm machine."""
import http.client
import json
import time

from stolen import Compared, Timer
from workers import WorkerError, percentile
from world import IMAGE

HOGS = ("forks", "memory", "disk", "sockets")
GOAL = 3  # times the calm p99
ONSET = 200  # runs: the first quarter of a second, in which a bomb grows and is found


class Client:
    def __init__(self, port, key):
        self.http, self.key = http.client.HTTPConnection("127.0.0.1", port, timeout=60), key

    def ask(self, method, path, body=None, sid=None):
        headers = {"X-API-Key": self.key, "Content-Type": "application/json", **({"X-Session-ID": sid} if sid else {})}
        self.http.request(method, path, json.dumps(body) if body is not None else None, headers)
        answer = self.http.getresponse()
        text = answer.read()
        if answer.status >= 300:
            raise WorkerError(f"{method} {path}: {answer.status} {text[:200]!r}")
        return text

    def create(self):
        text = self.ask("POST", "/create_sandbox", {"environment": "local/none", "image": IMAGE, "machine_size": "1:1"}).decode()
        fields = [line.split(": ", 1)[1] for line in text.split("\n") if line.startswith("data: ")]
        if "event: end" not in text:
            raise WorkerError(f"no sandbox: {text[-300:]}")
        return fields[0]

    def delete(self, sid):
        self.ask("POST", "/delete_session", {}, sid)

    def run(self, sid):
        """A command that does nothing."""
        if b"event: end" not in self.ask("POST", "/run", {"cmd": "true"}, sid):
            raise WorkerError("a run failed")

    def pace(self, sid, count, timer=None):
        timer = timer or Timer()
        for _ in range(count):
            timer.time("run", lambda: self.run(sid))
        return timer

    def begin(self, sid, hog):
        """A run in the background, once it is at it; its path."""
        runs = f"/v1/sandboxes/{sid}/runs"
        run = f"{runs}/{json.loads(self.ask('POST', runs, {'cmd': f'exec /hog {hog}', 'max_bytes': 65536}))['id']}"
        end = time.monotonic() + 30
        while b"begun" not in self.ask("GET", f"{run}/output"):
            if time.monotonic() > end:
                raise WorkerError(f"the hog of {hog} did not begin within 30 s")
            time.sleep(0.01)
        return run


def measure(world, quick, say):
    """[(hog, calm, beside, onset)]: Timers, and seconds. Calm and noise alternate, so that both see the same machine."""
    count, rounds, out = (80, 2, []) if quick else (4000, 5, [])
    client = Client(world.port, world.key)
    quiet, noisy = client.create(), client.create()
    client.pace(quiet, 10)
    for hog in HOGS:
        calm, beside, onset = Timer(), Timer(), []
        for _ in range(rounds):
            client.pace(quiet, count // rounds, calm)
            run = client.begin(noisy, hog)
            first = len(beside.took)
            client.pace(quiet, count // rounds, beside)
            onset += beside.of("run")[1][first:first + ONSET]
            if json.loads(client.ask("GET", run))["state"] != "running":
                raise WorkerError(f"the hog of {hog} ended while it was measured")
            client.ask("DELETE", run)
            client.delete(noisy)
            noisy = client.create()
            time.sleep(0.2)  # what it left is cleared
        say(f"beside a hog of {hog}: {len(beside.took)} runs")
        out.append((hog, calm, beside, onset))
    client.delete(quiet)
    client.delete(noisy)
    return out


def tables(found, table, number):
    t = table("/run of true, ms", *Compared.HEADS, "p99 of the onset")
    for hog, calm, beside, onset in found:
        t.add(f"beside a hog of {hog}", *Compared(calm, beside, "run").cells(number, GOAL), number(1000 * percentile(onset, 99)))
    return "### A noisy neighbour\n\n" + t.text()
