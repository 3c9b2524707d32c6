#!/usr/local/bin/python3
"""A tiny stand-in for systemd, where there is none: `services.py` as process 1 of a root runs services by their unit files; the same
file as `systemctl` asks it to. Only Python's own library: it runs inside the root.

It honours Type=notify, ExecStartPre, ExecStart, ExecReload, RuntimeDirectory, BindsTo (a start starts what a unit is bound to, a stop stops what
is bound to it), TimeoutStopSec, NoNewPrivileges, CapabilityBoundingSet and ProtectSystem=full. It starts nothing again that died, and
knows no other directive.
"""
import contextlib
import os
import re
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time

SOCKET = "/run/services.sock"
LOGS = "/var/log/services"
FOLDERS = ("/etc/systemd/system", "/lib/systemd/system")
WANTS = "/etc/systemd/system/multi-user.target.wants"
START_TIMEOUT_S = 120
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Failed(Exception):
    pass


class Unit:
    def __init__(self, name: str) -> None:
        self.name, self.pid = name, 0
        self.read()

    def read(self) -> None:
        self.path = next((p for p in (f"{d}/{self.name}" for d in FOLDERS) if os.path.exists(p)), None)
        self.settings: dict[str, list[str]] = {}
        if self.path:
            with open(self.path, encoding="utf-8") as f:
                for key, value in re.findall(r"^(\w+)=(.*)$", f.read(), re.M):
                    self.settings.setdefault(key, []).append(value)

    def get(self, key: str) -> str:
        return self.settings.get(key, [""])[-1]

    def words(self, key: str) -> list[str]:
        return " ".join(self.settings.get(key, [])).split()


def confined(unit: Unit, argv: list[str]) -> list[str]:
    """The command behind programs that take from it what the unit says, and then become it."""
    before = []
    if unit.get("ProtectSystem") == "full":
        before += ["unshare", "--mount", "sh", "-c", 'for d in /usr /boot /etc; do mount -o bind,ro "$d" "$d"; done; exec "$@"', "sh"]
    if unit.get("CapabilityBoundingSet"):
        kept = "".join(f",+{w[len('CAP_'):].lower()}" for w in unit.words("CapabilityBoundingSet"))
        before += ["setpriv", "--bounding-set", "-all" + kept]
    if unit.get("NoNewPrivileges") == "yes":
        before += ["setpriv", "--no-new-privs"]
    return before + argv


class Manager:
    def __init__(self) -> None:
        self.units: dict[str, Unit] = {}

    def unit(self, name: str) -> Unit:
        name = name if "." in name else name + ".service"
        return self.units.setdefault(name, Unit(name))

    def bound_to(self, unit: Unit) -> list[Unit]:
        return [u for u in self.units.values() if unit.name in u.words("BindsTo")]

    def reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                for unit in self.units.values():
                    if unit.pid == found[0]:
                        unit.pid = 0
                        with open(f"{LOGS}/{unit.name}", "a", encoding="utf-8") as log:
                            log.write(f"== ended with {os.waitstatus_to_exitcode(found[1])}\n")

    def start(self, unit: Unit) -> None:
        unit.read()
        if not unit.path:
            raise Failed(f"Unit {unit.name} not found.")
        for name in unit.words("BindsTo"):
            self.start(self.unit(name))
        if unit.pid or unit.get("Type") != "notify":
            return
        for name in unit.words("RuntimeDirectory"):
            os.makedirs(f"/run/{name}", exist_ok=True)
        for command in unit.settings.get("ExecStartPre", []):
            subprocess.run(["sh", "-c", command], check=True, env={"PATH": PATH})
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
            told.bind(f"\0services-{unit.name}")
            self.spawn(unit)
            self.wait_ready(unit, told)

    def spawn(self, unit: Unit) -> None:
        env = {"PATH": PATH, "LANG": "C.UTF-8", "NOTIFY_SOCKET": f"@services-{unit.name}"}
        argv = confined(unit, unit.get("ExecStart").split())
        unit.pid = os.fork()
        if unit.pid == 0:
            try:
                log = os.open(f"{LOGS}/{unit.name}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
                os.setsid()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
                os.dup2(log, 1)
                os.dup2(log, 2)
                os.execvpe(argv[0], argv, env)
            finally:
                os._exit(127)

    def wait_ready(self, unit: Unit, told: socket.socket) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if select.select([told], [], [], 0.05)[0] and b"READY=1" in told.recv(4096):
                return
            self.reap()
            if not unit.pid:
                raise Failed(f"{unit.name} ended instead of becoming ready: see {LOGS}/{unit.name}")
        raise Failed(f"{unit.name} is not ready after {START_TIMEOUT_S} s")

    def stop(self, unit: Unit) -> list[Unit]:
        """Returns what ran and was stopped, the unit last."""
        stopped = [u for other in self.bound_to(unit) for u in self.stop(other)]
        if not unit.pid:
            return stopped
        os.kill(unit.pid, signal.SIGTERM)
        deadline = time.monotonic() + float(unit.get("TimeoutStopSec") or 90)
        while unit.pid and time.monotonic() < deadline:
            time.sleep(0.02)
            self.reap()
        if unit.pid:
            os.kill(unit.pid, signal.SIGKILL)
            raise Failed(f"{unit.name} did not end in its time")
        for name in unit.words("RuntimeDirectory"):
            shutil.rmtree(f"/run/{name}", ignore_errors=True)
        return stopped + [unit]

    def answer(self, action: str, names: list[str]) -> tuple[int, str]:
        units = [self.unit(n) for n in names]
        if action in ("start", "restart", "stop"):
            for unit in units:
                stopped = self.stop(unit) if action != "start" else []
                if action != "stop":
                    for again in [unit, *reversed(stopped)]:
                        self.start(again)
        elif action == "reload":
            for unit in units:
                command = unit.get("ExecReload").replace("${MAINPID}", str(unit.pid))
                argv = shlex.split(command.lstrip("+"))
                argv = argv if command.startswith("+") else confined(unit, argv)
                subprocess.run(argv, check=True, env={"PATH": PATH})
        elif action == "is-active":
            return (0, "active") if all(u.pid for u in units) else (3, "inactive")
        elif action == "show-pid":
            return 0, str(units[0].pid)
        elif action == "is-enabled":
            return (0, "enabled") if all(os.path.islink(f"{WANTS}/{u.name}") for u in units) else (1, "disabled")
        elif action == "preset":
            os.makedirs(WANTS, exist_ok=True)
            for unit in units:
                unit.read()
                if unit.path and not os.path.islink(f"{WANTS}/{unit.name}"):  # others are users' units
                    os.symlink(unit.path, f"{WANTS}/{unit.name}")
        elif action != "daemon-reload":
            return 1, f"services.py cannot {action}"
        return 0, ""

    def serve_one(self, listening: socket.socket) -> None:
        with listening.accept()[0] as s:
            action, *names = s.recv(4096).decode().split()
            try:
                status, text = self.answer(action, names)
            except Exception as e:  # whoever asked is told; process 1 goes on
                status, text = 1, repr(e)
            with contextlib.suppress(OSError):
                s.sendall(f"{status} {text}".encode())


def manage() -> None:
    """Process 1: what is orphaned is its child, and when it ends, everything here does."""
    os.makedirs(LOGS, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    manager = Manager()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(SOCKET)
        listening.listen()
        while True:
            if select.select([listening], [], [], 0.1)[0]:
                manager.serve_one(listening)
            manager.reap()


def ask(words: list[str]) -> int:
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(SOCKET)
        s.sendall(" ".join(w for w in words if not w.startswith("-")).encode())
        status, _, text = s.makefile().read().partition(" ")
    if text and "--quiet" not in words:
        print(text)
    return int(status)


if __name__ == "__main__":
    if os.path.basename(sys.argv[0]) == "systemctl":
        sys.exit(ask(sys.argv[1:]))
    manage()
