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

COUNT = 1000  # half-open at a time: the server's default of tls.handshakes
RATES = {"held": 100, "renewed": 500}  # others in their places, a second: as the server ends each after 10 s, and five times that
GOAL = 2      # times the p99 without them


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
    """COUNT connections that have sent a greeting, read what answers it and say no more; `rate` times a second the oldest goes and
    another comes, as it does for each that the server ends."""

    def __init__(self, port, rate):
        self.port, self.rate, self.hello, self.poll, self.open = port, rate, greeting(), select.epoll(), {}
        self.due, self.full, self.begun = time.monotonic(), False, 0

    def begin(self):
        s = socket.create_connection(("127.0.0.1", self.port), 30)
        s.sendall(self.hello)
        s.setblocking(False)
        self.open[s.fileno()] = s
        self.poll.register(s, select.EPOLLIN | select.EPOLLRDHUP)
        self.begun += 1

    def end(self, fd):
        self.poll.unregister(fd)
        self.open.pop(fd).close()

    def fill(self):
        while self.due <= time.monotonic():
            if len(self.open) >= COUNT:
                self.full = True
                self.end(next(iter(self.open)))
            self.begin()
            self.due = max(self.due, time.monotonic() - 0.1) + 1 / (self.rate if self.full else max(RATES.values()))

    def turn(self):
        for fd, _ in self.poll.poll(max(0.001, self.due - time.monotonic())):
            try:
                if self.open[fd].recv(65536):
                    continue
            except BlockingIOError:
                continue
            except OSError:
                pass
            self.end(fd)

    def run(self):
        """Until standard input ends. Behind all that is measured: strangers have processors of their own, so theirs must not be ours."""
        if os.environ.get("REALTIME"):
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(5))
        else:
            os.nice(19)
        said = False
        while not select.select([sys.stdin], [], [], 0)[0]:
            self.fill()
            self.turn()
            if self.full and not said:
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
        self.samples = collections.defaultdict(lambda: collections.defaultdict(list))  # kind -> calm or a rate's name -> rounds
        self.renewed = collections.defaultdict(list)  # a rate's name -> strangers a second that others took the place of, by round
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

    def keep(self, name, took):
        for kind, seconds in took.items():
            self.samples[kind][name].append(seconds)

    def beside(self, name, count):
        crowd = Worker("strangers", [sys.executable, os.path.abspath(__file__), str(self.tls), str(RATES[name])], self.world.log)
        try:
            hurry(self.world.server.process.pid)  # the thread that answers greetings is there now
            self.pace(10)
            before = self.ended()
            self.keep(name, self.pace(count))
            self.renewed[name].append((self.ended()[0] - before[0]) / (time.monotonic() - before[1]))
            if self.metric("open") < COUNT * 0.9:
                raise WorkerError(f"{self.metric('open')} handshakes were half-open, expected some {COUNT}")
        finally:
            crowd.close()
        end = time.monotonic() + 30
        while self.metric("open") and time.monotonic() < end:
            time.sleep(0.05)

    def round(self, count):
        self.keep("calm", self.pace(count))
        for name in RATES:
            self.beside(name, count)


def family(pid):
    """A process and all that come of it."""
    parents = {}
    for n in (int(n) for n in os.listdir("/proc") if n.isdigit()):
        try:
            with open(f"/proc/{n}/stat", encoding="ascii", errors="replace") as f:
                parents[n] = int(f.read().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
    found = [pid]
    for n in found:
        found += [child for child, parent in parents.items() if parent == n]
    return found


def to_realtime(task):
    os.sched_setscheduler(task, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(10))


def hurry(pid):
    """REALTIME=1: what is measured runs before all else, strangers next, so that others' work is not in the figures. Kernels that share
    real time out to cgroups have none for an instance's: it goes where there is some."""
    for n in family(pid) if os.environ.get("REALTIME") else []:
        for task in map(int, os.listdir(f"/proc/{n}/task")):
            try:
                to_realtime(task)
            except PermissionError:
                with open("/sys/fs/cgroup/cpu/tasks", "w", encoding="ascii") as f:
                    f.write(str(task))
                to_realtime(task)


def measure(world, quick, say):
    s = Others(world)
    hurry(os.getpid())
    hurry(world.server.process.pid)
    s.pace(10)
    for n in range(3 if quick else 7):
        s.round(300 if quick else 1000)
        say(f"strangers, round {n + 1}")
    return s


def times(of):
    """The median of the rounds' ratios, for each rate."""
    return [sorted(percentile(b, 99) / percentile(c, 99) for c, b in zip(of["calm"], of[name]))[len(of["calm"]) // 2] for name in RATES]


def tables(others, table, number):
    columns = [f"{name} {n}" for name in ("calm", *RATES) for n in ("p50", "p99")]
    t = table(f"beside {COUNT:,} half-open handshakes, µs", *columns, *(f"p99 {name}, times" for name in RATES), "goal", "reached")
    for kind, of in others.samples.items():
        cells = [number(percentile(sum(of[name], []), n) * 1e6) for name in ("calm", *RATES) for n in (50, 99)]
        ratios = times(of)
        t.add(kind, *cells, *(f"{x:.2f}" for x in ratios), f"≤ {GOAL}", "yes" if max(ratios) <= GOAL else "no")
    renewed = "; ".join(f"{name}: " + ", ".join(number(r) for r in of) for name, of in others.renewed.items())
    return f"### Strangers' handshakes\n\n{t.text()}\n\nRenewed a second, by round: {renewed}."


if __name__ == "__main__":
    Crowd(int(sys.argv[1]), int(sys.argv[2])).run()
