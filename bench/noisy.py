"""A neighbour that takes all it can get: how much longer /run takes in a sandbox beside it than in a calm machine."""
import http.client
import json
import time

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

    def pace(self, sid, count):
        """Seconds of each run of a command that does nothing."""
        took = []
        for _ in range(count):
            start = time.monotonic()
            if b"event: end" not in self.ask("POST", "/run", {"cmd": "true"}, sid):
                raise WorkerError("a run beside a hog failed")
            took.append(time.monotonic() - start)
        return took

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
    """[(hog, calm, beside, onset)], samples in seconds. Calm and noise alternate, so that both see the same machine."""
    count, rounds, out = (80, 2, []) if quick else (4000, 5, [])
    client = Client(world.port, world.key)
    quiet, noisy = client.create(), client.create()
    client.pace(quiet, 10)
    for hog in HOGS:
        calm, beside, onset = [], [], []
        for n in range(rounds):
            calm += client.pace(quiet, count // rounds)
            run = client.begin(noisy, hog)
            found = client.pace(quiet, count // rounds)
            beside += found
            onset += found[:ONSET]
            if json.loads(client.ask("GET", run))["state"] != "running":
                raise WorkerError(f"the hog of {hog} ended while it was measured")
            client.ask("DELETE", run)
            client.delete(noisy)
            noisy = client.create()
            time.sleep(0.2)  # what it left is cleared
        say(f"beside a hog of {hog}: {len(beside)} runs")
        out.append((hog, calm, beside, onset))
    client.delete(quiet)
    client.delete(noisy)
    return out


def tables(found, table, number):
    t = table("/run of true, ms", "calm p50", "calm p99", "beside p50", "beside p99", "p99, times", "goal", "reached",
              "p99 of the onset")
    for hog, calm, beside, onset in found:
        c, b, o = [sorted(s * 1000 for s in x) for x in (calm, beside, onset)]
        times = percentile(b, 99) / percentile(c, 99)
        t.add(f"beside a hog of {hog}", number(percentile(c, 50)), number(percentile(c, 99)), number(percentile(b, 50)),
              number(percentile(b, 99)), f"{times:.2f}", f"≤ {GOAL}", "yes" if times <= GOAL else "no", number(percentile(o, 99)))
    return "### A noisy neighbour\n\n" + t.text()
