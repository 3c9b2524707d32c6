"""The server under test as a process, and raw sockets to talk to it."""
import json
import os
import socket
import subprocess
import time

ROOT = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", "..", ".."))
BUILD = os.environ.get("OPENREWARD_BUILD_DIR", os.path.join(ROOT, "build"))
HOST = b"Host: h\r\n"


class Server:
    def __init__(self, *limits):
        self.process = subprocess.Popen([os.path.join(BUILD, "http_echo_server"), *limits],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.port = int(self.process.stdout.readline())

    def connect(self, rcvbuf=None):
        s = socket.socket()
        if rcvbuf:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        s.settimeout(60)
        s.connect(("127.0.0.1", self.port))
        return s

    def ask(self, request, half_close=True):
        """Sends bytes, shuts down the sending side, returns everything up to the end."""
        with self.connect() as s:
            s.sendall(request)
            if half_close:
                s.shutdown(socket.SHUT_WR)
            return read_all(s)

    def get(self, target):
        answer = self.ask(b"GET " + target.encode() + b" HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n")
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        return body.decode()

    def stats(self):
        return json.loads(self.get("/stats"))

    def sanitized(self):
        """Built with AddressSanitizer, which keeps freed memory for a while: what is resident then says nothing."""
        with open(f"/proc/{self.process.pid}/exe", "rb") as f:
            return b"__asan_init" in f.read()

    def rss_kb(self):
        """0 of a sanitized build. Exact, where /proc/PID/statm may be off by what the processors have not added up yet."""
        if self.sanitized():
            return 0
        with open(f"/proc/{self.process.pid}/smaps_rollup", encoding="ascii") as f:
            return next(int(line.split()[1]) for line in f if line.startswith("Rss:"))

    def cpu_s(self):
        with open(f"/proc/{self.process.pid}/stat", encoding="ascii") as f:
            fields = f.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def reset_peak(self):
        with open(f"/proc/{self.process.pid}/clear_refs", "w", encoding="ascii") as f:
            f.write("5")

    def peak_kb(self):
        """The most that was resident since reset_peak(), 0 of a sanitized build. (What getrusage says includes the parent before exec.)"""
        if self.sanitized():
            return 0
        with open(f"/proc/{self.process.pid}/status", encoding="ascii") as f:
            return next(int(line.split()[1]) for line in f if line.startswith("VmHWM:"))

    def closes(self, count, timeout_s=60):
        """How the noted requests ended, once there are so many."""
        end = time.monotonic() + timeout_s
        while True:
            lines = self.get("/closes").splitlines()
            if len(lines) >= count or time.monotonic() > end:
                return lines
            time.sleep(0.02)

    def stop(self):
        try:
            self.process.stdin.close()
            assert self.process.wait(60) == 0
        finally:
            self.process.kill()
            self.process.wait()


def read_all(s):
    data = bytearray()
    while True:
        piece = s.recv(1 << 20)
        if not piece:
            return bytes(data)
        data += piece


def read_until(s, end):
    data = bytearray()
    while not data.endswith(end):
        piece = s.recv(65536)
        assert piece, f"the connection ended after {bytes(data[-200:])}"
        data += piece
    return bytes(data)
