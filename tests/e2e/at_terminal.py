"""A verb of the command line at a terminal of the test's own."""
import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time

from orw import OPENREWARD


class Terminal:
    """`openreward sandbox ...` at a terminal of ours."""

    def __init__(self, platform, *argv):
        self.master, slave = pty.openpty()
        self.resize(30, 100)
        self.process = subprocess.Popen([OPENREWARD, "sandbox", *argv], env={**os.environ, **platform.env}, stdin=slave,
                                        stdout=slave, stderr=slave, start_new_session=True)
        os.close(slave)
        self.seen = b""

    def resize(self, rows, cols):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))

    def type(self, data):
        os.write(self.master, data)

    def expect(self, want, timeout_s=60):
        deadline = time.monotonic() + timeout_s
        while want not in self.seen:
            assert select.select([self.master], [], [], max(0, deadline - time.monotonic()))[0], self.seen
            self.seen += os.read(self.master, 65536)
        self.seen = self.seen.partition(want)[2]

    def look(self, timeout_s):
        """What came meanwhile is in .seen."""
        if select.select([self.master], [], [], timeout_s)[0]:
            self.seen += os.read(self.master, 65536)

    def insist(self, data, want, timeout_s=60):
        """Types it each second until it has been answered."""
        deadline = time.monotonic() + timeout_s
        while want not in self.seen and time.monotonic() < deadline:
            self.type(data)
            self.look(1)
        self.expect(want, 0)

    def end(self):
        status = self.process.wait(60)
        os.close(self.master)
        return status
