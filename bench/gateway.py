"""The gateway beside nginx and beside an environment's own Python server: processor time, latency, sessions, memory."""
import contextlib
import ctypes
import http.client
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import time

from workers import Server, WorkerError, cpu_us
from world import ENVIRONMENT

BODY = b'{"name": "bash", "input": {"command": "true"}}'
PYTHON_SERVER = '''
import logging
from openreward.environments import Environment, JSONObject, Server, Split, TextBlock, ToolOutput, tool
from pydantic import BaseModel
logging.disable(logging.CRITICAL)
class Params(BaseModel):
    command: str
class Bench(Environment):
    @tool
    async def bash(self, params: Params) -> ToolOutput:
        return ToolOutput(blocks=[TextBlock(text="x" * 800)], reward=0.5, finished=False)
    def get_prompt(self):
        return [TextBlock(text="bench")]
    @classmethod
    def list_splits(cls):
        return [Split(name="train", type="train")]
    @classmethod
    def list_tasks(cls, split):
        return [{}]
if __name__ == "__main__":
    Server([Bench]).run(port=PORT)
'''
NGINX = """
daemon off; worker_processes 1; pid %(dir)s/nginx.pid; error_log %(dir)s/nginx.log error; worker_rlimit_nofile 30000;
events { worker_connections 14000; }
http {
  access_log off; client_body_temp_path %(dir)s/nginx-body; proxy_temp_path %(dir)s/nginx-proxy;
  fastcgi_temp_path %(dir)s/nginx-1; uwsgi_temp_path %(dir)s/nginx-2; scgi_temp_path %(dir)s/nginx-3;
  keepalive_requests 1000000000; client_max_body_size 0;
  upstream u { server 127.0.0.1:8080; keepalive 64; keepalive_requests 1000000000; }
  server {
    listen 127.0.0.1:%(port)d backlog=4096;
    location / { proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; }
  }
}
"""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for_port(port, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise WorkerError(f"nothing listens on port {port} after {seconds} s")


def first_child(pid, seconds):
    """nginx listens before it has its worker."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as f:
            children = f.read().split()
        if children:
            return int(children[0])
        time.sleep(0.01)
    raise WorkerError(f"process {pid} has no child after {seconds} s")


def instance_pid():
    """The upstream in the instance that the daemon had started; a daemon that was killed is among its parents no more."""
    for pid in (int(n) for n in os.listdir("/proc") if n.isdigit()):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                found = f.read() == b"/upstream\0"
            if found and os.getpid() in parents(pid):
                return pid
        except (FileNotFoundError, ProcessLookupError):
            pass
    raise WorkerError("no process of the instance was found")


def enter_net(fd):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(fd, 0x40000000) < 0:  # CLONE_NEWNET
        raise OSError(ctypes.get_errno(), "setns")


def parents(pid):
    while pid > 1:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as f:
            pid = int(f.read().rsplit(")", 1)[1].split()[1])
        yield pid


def request_bytes(method, path, headers, body):
    """As the Python client sends it."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1:8080", *(f"{k}: {v}" for k, v in headers.items()), "Accept: */*",
             "Accept-Encoding: gzip, deflate", "User-Agent: Python/3.11 aiohttp/3.9.1", f"Content-Length: {len(body)}",
             "Content-Type: application/json"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def post(port, path, headers, body=b"{}"):
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    c.request("POST", path, body, {**headers, "Content-Type": "application/json"})
    r = c.getresponse()
    text = r.read().decode()
    c.close()
    if r.status != 200:
        raise WorkerError(f"{path} on port {port}: {r.status} {text[:300]}")
    return text


class Target:
    """Something that answers /call: its port, the process whose processor time counts, and one session of it."""

    def __init__(self, world, name, label, port, pid, headers=None, sessions=True, env=""):
        self.name, self.label, self.port, self.pid, self.rounds = name, label, port, pid, {}
        headers = dict(headers or {})
        if sessions:
            headers["X-Session-ID"] = re.search(r"data: ([0-9a-f-]{36})", post(port, "/create_session", headers)).group(1)
            post(port, "/create", headers, b'{"split": "train", "index": 0}')
        self.headers = headers
        self.files = {}
        for kind, method, path, body in (("call", "POST", f"{env}/call", BODY), ("big", "GET", "/big?400", b""),
                                         ("upload", "POST", "/upload", b"")):
            self.files[kind] = f"{world.dir}/request-{name}-{kind}"
            with open(self.files[kind], "wb") as f:
                data = request_bytes(method, path, headers, body)
                f.write(data.replace(b"Content-Length: 0", b"Content-Length: %d" % (400 << 20)) if kind == "upload" else data)

    def note(self, case, *values):
        self.rounds.setdefault(case, []).append(values)

    def median(self, case, i):
        return statistics.median(v[i] for v in self.rounds[case]) if self.rounds.get(case) else None


CPU_CASES = {
    "kept": "CPU per /call, kept connection", "new": "CPU per /call, a connection for each",
    "kept-one": "the same on one processor, kept", "new-one": "the same on one processor, a connection for each",
}


class Gateway:
    def __init__(self, world):
        self.world, self.targets, self.idle, self.memory = world, [], {}, {}
        self.nginx, self.ratios = None, {}  # of each start: the median of its rounds
        world.worker("load", f"{world.build}/bench/bench-load")
        with open(f"{world.data}/admin.key", encoding="ascii") as f:
            self.key = f.read().strip()
        self.load = world.workers["load"]

    def serve(self, *argv, **kw):
        s = Server(list(argv), f"{self.world.dir}/{os.path.basename(argv[0])}.log", **kw)
        self.world.servers.append(s)
        return s.process.pid

    def add(self, target):
        """One that was started anew goes on with the rounds of the one before."""
        for i, t in enumerate(self.targets):
            if t.name == target.name:
                target.rounds = t.rounds
                self.targets[i] = target
                return
        self.targets.append(target)

    def start(self, first):
        if not first:
            self.world.server.process.kill()
            self.world.server.process.wait()
            self.world.start_daemon()
        self.start_ours()
        self.world.try_part("nginx", self.start_nginx)
        if first:
            self.start_direct()
            self.world.try_part("the SDK's Python server", self.start_python)

    def start_ours(self):
        headers = {"X-API-Key": self.key, "X-Deployment": ENVIRONMENT, "X-User-Id": "local", "X-Organisation-Id": "local"}
        self.ours = Target(self.world, "ours", "OpenReward", int(self.world.workers["http"].process.args[2]),
                           self.world.server.process.pid, {k: headers[k] for k in ("X-API-Key", "X-Deployment")})
        self.add(self.ours)

    def start_direct(self):
        port, program = free_port(), f"{self.world.dir}/upstream"
        shutil.copy2(f"{self.world.build}/bench/bench-upstream", program)
        pid = self.serve(program, str(port))
        wait_for_port(port, 5)
        self.add(Target(self.world, "direct", "the upstream asked directly", port, pid, self.ours.headers, sessions=False))

    def start_nginx(self):
        """In the net namespace of the instance that ours passes calls to, so that both have the very same behind them; its
        listening socket is the host's, handed to it as to a binary that takes over from the one before."""
        nginx, d, instance = shutil.which("nginx") or "/usr/sbin/nginx", self.world.dir, instance_pid()
        with socket.socket() as listener, open(f"/proc/{instance}/ns/net", "rb") as net:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", 0))
            listener.listen(4096)
            port = listener.getsockname()[1]
            with open(f"{d}/nginx.conf", "w", encoding="ascii") as f:
                f.write(NGINX % {"dir": d, "port": port})
            if self.nginx:
                self.nginx.stop()
            master = self.serve(nginx, "-p", d, "-c", f"{d}/nginx.conf", "-e", f"{d}/nginx.log", pass_fds=(listener.fileno(),),
                                env={**os.environ, "NGINX": f"{listener.fileno()};"}, preexec_fn=lambda: enter_net(net.fileno()))
            self.nginx = self.world.servers[-1]
            worker = first_child(master, 10)
        self.add(Target(self.world, "nginx", "nginx", port, worker, self.ours.headers, sessions=False))

    def start_python(self):
        port = free_port()
        path = f"{self.world.dir}/python_server.py"
        with open(path, "w", encoding="ascii") as f:
            f.write(PYTHON_SERVER.replace("PORT", str(port)))
        python = f"{self.world.build}/venv/bin/python"
        pid = self.serve(python if os.path.exists(python) else sys.executable, path,
                         env={**os.environ, "OPENREWARD_DISABLE_UPDATE_CHECK": "1"})
        wait_for_port(port, 60)
        self.add(Target(self.world, "python", "the SDK's Python server asked directly", port, pid, env="/bench"))

    # -- rounds ----------------------------------------------------------------------------------------------------
    def calls(self, t, case, mode, width, seconds, rate):
        before = cpu_us(t.pid)
        lines = self.load.do("calls", mode, width, seconds, rate, t.files["call"], t.port)
        n, p50, p99 = (float(x) for x in lines[-1].split())
        if n:
            t.note(case, (cpu_us(t.pid) - before) / n, p50, p99, n / seconds)

    def round(self, seconds, turn):
        """Each case with all targets, one right after the other, and another one first each time."""
        turn %= len(self.targets)
        order = self.targets[turn:] + self.targets[:turn]
        for case in ("kept", "new"):
            for t in order:
                self.calls(t, case, case, 4 if t.name == "python" else 8, seconds, 0)
        for t in [t for t in order if t.name != "python"]:
            self.calls(t, "rate", "kept", 16, seconds, 1000)
        with self.on_one_processor():
            for case in ("kept", "new"):
                for t in [t for t in order if t.name in ("ours", "nginx")]:
                    self.calls(t, f"{case}-one", case, 8, seconds, 0)
        self.sessions(seconds)

    @contextlib.contextmanager
    def on_one_processor(self):
        """Those that a call passes: then nobody waits for another processor to wake up."""
        pids = [t.pid for t in self.targets if t.name in ("ours", "nginx")] + [self.load.process.pid, instance_pid()]
        everywhere = os.sched_getaffinity(0)
        try:
            for pid in pids:
                run_on(pid, {max(everywhere)})
            yield
        finally:
            for pid in pids:
                run_on(pid, everywhere)

    def end_start(self, rounds):
        nginx = [t for t in self.targets if t.name == "nginx"]
        for case in CPU_CASES if nginx else ():
            self.ratios.setdefault(case, []).append(paired(self.ours, nginx[0], case, 0, rounds))

    def sessions(self, seconds):
        before = cpu_us(self.ours.pid)
        lines = self.load.do("sessions", 8, seconds, self.key, ENVIRONMENT, self.ours.port)
        n, p50, p99 = (float(x) for x in lines[-1].split())
        self.ours.note("sessions", (cpu_us(self.ours.pid) - before) / n, p50, p99, n / seconds)

    # -- memory ----------------------------------------------------------------------------------------------------
    def measure_idle(self, count, seconds):
        pid = self.ours.pid
        before = resident_kib(pid)
        self.load.say("do", "idle", count, seconds, self.key, ENVIRONMENT, self.ours.port)
        self.load.read_until(lambda line: line == "opened", 120)
        opened = resident_kib(pid)
        cpu = cpu_us(pid)
        self.load.say("")
        n, p50, p99 = (float(x) for x in self.load.read_until(lambda line: line[:1].isdigit(), seconds + 60)[-1].split())
        self.idle = {"count": count, "pings": n, "p50": p50, "p99": p99, "kib": (opened - before) / count,
                     "kib_after": (resident_kib(pid) - before) / count, "cpu": (cpu_us(pid) - cpu) / n}
        self.load.say("")
        self.load.read_until(lambda line: line == "ok", 120)

    def measure_bodies(self, mb=400):
        """How far the daemon's peak rises above what it had, while a long body passes."""
        for t in [t for t in self.targets if t.name in ("ours", "nginx")]:
            for case, kind in (("slow", "big"), ("upload", "upload")):
                with open(f"/proc/{t.pid}/clear_refs", "w", encoding="ascii") as f:
                    f.write("5")
                before = resident_kib(t.pid)
                self.load.do(case, mb, t.files[kind], t.port, limit=120)
                self.memory[t.name, case] = (resident_kib(t.pid, "VmHWM") - before) / 1024


def run_on(pid, processors):
    for task in os.listdir(f"/proc/{pid}/task"):
        try:
            os.sched_setaffinity(int(task), processors)
        except ProcessLookupError:
            pass  # a thread that has ended


def resident_kib(pid, what="VmRSS"):
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as f:
        return int(re.search(rf"^{what}:\s+(\d+)", f.read(), re.M).group(1))


def measure(world, starts, rounds, seconds, count, say):
    g = Gateway(world)
    for n in range(starts):
        begin = time.monotonic()
        g.start(n == 0)
        for r in range(rounds):
            g.round(seconds, n * rounds + r)
        g.end_start(rounds)
        say(f"gateway, start {n + 1} of {starts}: {time.monotonic() - begin:.1f} s")
    world.try_part("idle sessions", lambda: g.measure_idle(count, 2 * max(seconds, 10)))
    world.try_part("long bodies", g.measure_bodies)
    return g


# -- the table ---------------------------------------------------------------------------------------------------------
def paired(a, b, case, i, last):
    """Rounds put both side by side, so that the ratio of a round survives a busy machine, and a median of them the rest."""
    return statistics.median(x[i] / y[i] for x, y in zip(a.rounds[case][-last:], b.rounds[case][-last:]))


def rows(g):
    """(what, goal, ours, nginx, unit, reached[, ratios]): goals in the unit of what; None = nothing to compare."""
    by = {t.name: t for t in g.targets}
    ours, nginx, direct = g.ours, by.get("nginx"), by.get("direct")

    def pair(case):
        a, b = ours.median(case, 0), nginx.median(case, 0) if nginx else None
        r = g.ratios.get(case)
        return (CPU_CASES[case], "≤ 0.9 × nginx", a, b, "µs", bool(r) and statistics.median(r) <= 0.9, r)

    def added(what, i, limit):
        a, d = ours.median("rate", i), direct.median("rate", i) if direct else 0
        b = nginx.median("rate", i) - d if nginx else None
        return (what, f"≤ {limit} µs", a - d, b, "µs", a - d <= limit)

    out = [*(pair(case) for case in CPU_CASES), added("added latency at 1,000 calls/s, p50", 1, 50),
           added("added latency at 1,000 calls/s, p99", 2, 1000)]
    rate = ours.median("sessions", 3)
    out.append(("create_session + delete_session", "≥ 5,000/s", rate, None, "/s", rate >= 5000))
    if g.idle:
        i = g.idle
        out += [(f"{i['count']:,} idle sessions, each with a connection: ping p99", "≤ 50 ms", i["p99"] / 1000, None, "ms",
                 i["p99"] <= 50000),
                ("the same: resident in the daemon, each", "≤ 3 KiB", i["kib"], None, "KiB", i["kib"] <= 3)]
    for case, what in (("slow", "400 MB answer to a slow reader: more resident"), ("upload", "400 MB upload: more resident")):
        if ("ours", case) in g.memory:
            out.append((what, "≤ 2 MB", g.memory["ours", case], g.memory.get(("nginx", case)), "MB", g.memory["ours", case] <= 2))
    return out


def spread(ratios):
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


def tables(g, table, number):
    t = table("the gateway", "goal", "OpenReward", "nginx", "ratio (least-most of the starts)", "reached")
    for what, goal, ours, nginx, unit, ok, *ratios in rows(g):
        t.add(what, goal, f"{number(ours)} {unit}", f"{number(nginx)} {unit}" if nginx is not None else "",
              spread(ratios[0]) if ratios and ratios[0] else "", "yes" if ok else "no")
    u = table("a /call of 1 KiB in three events", "CPU µs, kept", "CPU µs, new", "per second, kept", "per second, new", "p50 / p99 µs at 1,000/s")
    for x in g.targets:
        cells = [number(x.median(c, i)) for c, i in (("kept", 0), ("new", 0), ("kept", 3), ("new", 3))]
        u.add(x.label, *cells, f"{number(x.median('rate', 1))} / {number(x.median('rate', 2))}" if x.rounds.get("rate") else "")
    return "### The gateway\n\n" + t.text() + "\n\n" + u.text()
