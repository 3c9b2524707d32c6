"""The measuring programs (worker.h) and their long-lived processes."""
import os
import re
import signal
import statistics
import subprocess
import threading
import time


class WorkerError(Exception):
    pass


class Worker:
    """One program that answers line by line. A request that takes longer than its limit kills it: nothing here may hang."""

    def __init__(self, name, argv, log):
        self.name = name
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                                        bufsize=1)
        self.read_until(lambda line: line == "ready", 20)

    def read_until(self, last, limit):
        """Lines before the one that `last` accepts."""
        lines, timer = [], threading.Timer(limit, self.process.kill)
        timer.start()
        try:
            for line in self.process.stdout:
                line = line.rstrip("\n")
                if line.startswith("error "):
                    raise WorkerError(f"{self.name}: {line[6:]}")
                if last(line):
                    return lines + [line]
                lines.append(line)
        finally:
            timer.cancel()
        raise WorkerError(f"{self.name} ended (or took longer than {limit} s) after {lines[-3:]}")

    def say(self, *fields):
        self.process.stdin.write("\t".join(str(f) for f in fields) + "\n")

    def batch(self, count, pause_ms, args):
        """Samples: lists of microseconds, the total first and then its parts."""
        self.say(count, pause_ms, *args)
        answer = self.read_until(lambda line: line.startswith("ok"), 60)[-1]
        return [[float(part) for part in sample.split("/")] for sample in answer.split()[1:]]

    def rate(self, width, seconds, args):
        self.say("rate", width, seconds, *args)
        return float(self.read_until(lambda line: line.startswith("ok"), seconds + 40)[-1].split()[1])

    def do(self, *args, limit=60):
        self.say("do", *args)
        return self.read_until(lambda line: line == "ok", limit)[:-1]

    def probe(self, look):
        """The probe's report; look(report lines) is called while what it came from lives."""
        self.say("do", "probe")
        lines = self.read_until(lambda line: line == "== end", 30)
        try:
            return look(lines)
        finally:
            self.say("")
            self.read_until(lambda line: line == "ok", 30)

    def close(self):
        if self.process.poll() is None:
            self.process.stdin.close()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class Server:
    """A program of the platform, started with its own log; ended by SIGTERM, and waited for."""

    def __init__(self, argv, log_path, **kw):
        self.log_path = log_path
        with open(log_path, "ab") as log:
            self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **kw)

    def wait_for(self, pattern, seconds):
        """The match of a pattern in the log."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with open(self.log_path, encoding="utf-8", errors="replace") as f:
                text = f.read()
            m = re.search(pattern, text)
            if m:
                return m
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        raise WorkerError(f"{self.log_path}: no {pattern!r}: {text[-600:]}")

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def cpu_us(pid):
    """Processor time of a process, all its threads that live, in microseconds."""
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        try:
            with open(f"/proc/{pid}/task/{task}/schedstat", encoding="ascii") as f:
                total += int(f.read().split()[0])
        except (FileNotFoundError, ProcessLookupError):
            pass
    if total:
        return total / 1000
    # A kernel without CONFIG_SCHED_INFO: clock ticks will have to do.
    with open(f"/proc/{pid}/stat", encoding="ascii") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) * 1e6 / os.sysconf("SC_CLK_TCK")


def percentile(values, p):
    """Nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-len(ordered) * p // 100) - 1))]


def median(values):
    return statistics.median(values) if values else None
