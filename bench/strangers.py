"""Strangers that begin handshakes of TLS and never finish them: how much longer the others wait for their answers meanwhile."""
import collections
import http.client
import os
import re
import select
import socket
import ssl
import sys
import time

sys.dont_write_bytecode = True
from gateway import Target, request_bytes  # noqa: E402
from workers import Worker, WorkerError, percentile  # noqa: E402
from world import ENVIRONMENT  # noqa: E402

COUNT = 1000   # half-open at a time: the server's default of tls.handshakes
RENEWED = 500  # a second at most; the server ends each after 10 s, so some 100 are
GOAL = 2       # times the p99 without them


# -- the strangers: a process of their own ------------------------------------------------------------------------------

def greeting():
    """A client's first bytes: the same for all of them, so that they cost it nothing."""
    out = ssl.MemoryBIO()
    session = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), out, server_hostname="localhost")
    try:
        session.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return out.read()


class Crowd:
    """COUNT connections that have sent a greeting, read what answers it and say no more; for each that the server ends, another."""

    def __init__(self, port):
        self.port, self.hello, self.poll, self.open = port, greeting(), select.epoll(), {}
        self.due = time.monotonic()

    def fill(self):
        while len(self.open) < COUNT and self.due <= time.monotonic():
            s = socket.create_connection(("127.0.0.1", self.port), 30)
            s.sendall(self.hello)
            s.setblocking(False)
            self.open[s.fileno()] = s
            self.poll.register(s, select.EPOLLIN | select.EPOLLRDHUP)
            self.due = max(self.due, time.monotonic() - 0.1) + 1 / RENEWED

    def turn(self):
        for fd, _ in self.poll.poll(0.002 if len(self.open) < COUNT else 0.1):
            try:
                if self.open[fd].recv(65536):
                    continue
            except BlockingIOError:
                continue
            except OSError:
                pass
            self.poll.unregister(fd)
            self.open.pop(fd).close()

    def run(self):
        """Until standard input ends. Behind what is measured: strangers have processors of their own."""
        if os.environ.get("REALTIME"):
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(5))
        else:
            os.nice(5)
        said = False
        while not select.select([sys.stdin], [], [], 0)[0]:
            self.fill()
            self.turn()
            if len(self.open) == COUNT and not said:
                said = True
                print("ready", flush=True)


# -- the others ---------------------------------------------------------------------------------------------------------

class Peer:
    """A connection with a request on it, in plain or over TLS."""

    def __init__(self, port, request, context=None):
        self.port, self.request, self.context, self.socket = port, request, context, None

    def connect(self):
        s = socket.create_connection(("127.0.0.1", self.port), 30)
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = self.context.wrap_socket(s, server_hostname="127.0.0.1") if self.context else s

    def close(self):
        if self.socket:
            self.socket.close()
        self.socket = None

    def ask(self):
        """Seconds until its answer is whole; those of connecting, where it has to, are in it."""
        start = time.monotonic()
        if not self.socket:
            self.connect()
        self.socket.sendall(self.request)
        data = b""
        while not is_whole(data):
            part = self.socket.recv(65536)
            if not part:
                raise WorkerError(f"the answer broke off: {data[:200]!r}")
            data += part
        if not data.startswith(b"HTTP/1.1 200"):
            raise WorkerError(f"not a 200: {data[:300]!r}")
        return time.monotonic() - start


def is_whole(data):
    head, end, body = data.partition(b"\r\n\r\n")
    length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.I)
    return bool(end) and (len(body) >= int(length.group(1)) if length else body.endswith(b"0\r\n\r\n"))


class Others:
    """The others' requests, all for one session of an environment, and what they took."""

    def __init__(self, world):
        self.world, self.plain, self.tls = world, world.port, world.tls_port
        self.samples = collections.defaultdict(lambda: ([], []))  # kind -> rounds of (calm, beside)
        self.renewed = []  # strangers a second that others took the place of, a figure for each round
        session = Target(world, "others", "", self.plain, 0, {"X-API-Key": world.key, "X-Deployment": ENVIRONMENT})
        ping = request_bytes("POST", "/ping", session.headers, b"")
        with open(session.files["call"], "rb") as f:
            call = f.read()
        context = ssl.create_default_context(cafile=world.certificate)
        self.kept = {"ping, in plain": Peer(self.plain, ping), "ping, TLS": Peer(self.tls, ping, context),
                     "/call and its events, in plain": Peer(self.plain, call), "/call and its events, TLS": Peer(self.tls, call, context)}
        self.fresh = {"ping, in plain, a connection for each": Peer(self.plain, ping),
                      "ping, TLS, a connection for each": Peer(self.tls, ping, context)}

    def metric(self, name):
        connection = http.client.HTTPConnection("127.0.0.1", self.plain, timeout=30)
        connection.request("GET", "/metrics", headers={"X-API-Key": self.world.key})
        text = connection.getresponse().read().decode()
        connection.close()
        return float(re.search(rf"^openreward_tls_handshakes_{name} (\S+)", text, re.M).group(1))

    def ended(self):
        """How many strangers the server has sent away, and when it was asked."""
        return self.metric("failed_total") + self.metric("dropped_total"), time.monotonic()

    def pace(self, count):
        took = collections.defaultdict(list)
        for _ in range(count):
            for kind, peer in {**self.kept, **self.fresh}.items():
                took[kind].append(peer.ask())
                if kind in self.fresh:
                    peer.close()
        return took

    def round(self, count):
        calm = self.pace(count)
        crowd = Worker("strangers", [sys.executable, os.path.abspath(__file__), str(self.tls)], self.world.log)
        try:
            hurry(self.world.server.process.pid)  # the thread that answers greetings is there now
            self.pace(10)
            before = self.ended()
            beside = self.pace(count)
            self.renewed.append((self.ended()[0] - before[0]) / (time.monotonic() - before[1]))
            if self.metric("open") < COUNT * 0.9:
                raise WorkerError(f"{self.metric('open')} handshakes were half-open, expected some {COUNT}")
        finally:
            crowd.close()
        end = time.monotonic() + 30
        while self.metric("open") and time.monotonic() < end:
            time.sleep(0.05)
        for kind in calm:
            for of_rounds, took in zip(self.samples[kind], (calm[kind], beside[kind])):
                of_rounds.append(took)


def hurry(pid):
    """REALTIME=1: the measured processes run before all else and the strangers next, so that others' work is not in the figures. Instances
    cannot."""
    if not os.environ.get("REALTIME"):
        return
    for task in os.listdir(f"/proc/{pid}/task"):
        os.sched_setscheduler(int(task), os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(10))


def measure(world, quick, say):
    s = Others(world)
    hurry(os.getpid())
    hurry(world.server.process.pid)
    s.pace(10)
    for n in range(3 if quick else 7):
        s.round(300 if quick else 1000)
        say(f"strangers, round {n + 1}")
    return s


def tables(others, table, number):
    t = table(f"beside {COUNT:,} half-open handshakes, µs", "calm p50", "calm p99", "beside p50", "beside p99", "p99, times", "goal", "reached")
    for kind, (calm, beside) in others.samples.items():
        cells = [number(percentile(sum(x, []), n) * 1e6) for x in (calm, beside) for n in (50, 99)]
        times = sorted(percentile(b, 99) / percentile(c, 99) for c, b in zip(calm, beside))[len(calm) // 2]
        t.add(kind, *cells, f"{times:.2f}", f"≤ {GOAL}", "yes" if times <= GOAL else "no")
    renewed = ", ".join(number(r) for r in others.renewed)
    return f"### Strangers' handshakes\n\n{t.text()}\n\nRenewed a second, by round: {renewed}."


if __name__ == "__main__":
    Crowd(int(sys.argv[1])).run()
