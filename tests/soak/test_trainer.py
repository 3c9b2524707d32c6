"""A trainer's load for SOAK_SECONDS (60): every reward right, nothing lost, nothing leaked, whatever dies meanwhile.

SOAK_SESSIONS (128; 512 when it runs for longer than two minutes) are open at once, from processes of which one is killed every
few seconds and replaced. The short form is part of the suite, the long one is `make soak`."""
import collections
import json
import os
import random
import subprocess
import sys
import threading
import time

import pytest

from orw import Census, nothing_new, running, wait_until
from tinyenv import deploy_tiny

SECONDS = int(os.environ.get("SOAK_SECONDS") or 60)
SEED = int(os.environ.get("SOAK_SEED") or 0)
AT_ONCE = int(os.environ.get("SOAK_SESSIONS") or (128 if SECONDS <= 120 else 512))
PROCESSES = 4
DEATH_S = 10  # a trainer dies about so often
TRAINER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "trainer.py")
CONFIG = """
sessions:
  idle: 15s
sandboxes:
  idle: 15s
"""

pytestmark = pytest.mark.timeout(SECONDS + 600)


class Worker:
    """One trainer process and what it said."""

    def __init__(self, platform, name, seconds, seed):
        env = {**os.environ, **platform.env}
        self.process = subprocess.Popen([sys.executable, TRAINER, name, str(AT_ONCE // PROCESSES), str(seconds), seed], env=env,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.lines, self.errors, self.killed = [], [], False
        self.readers = [threading.Thread(target=self.read, args=a, daemon=True)
                        for a in ((self.process.stdout, self.lines), (self.process.stderr, self.errors))]
        for r in self.readers:
            r.start()

    @staticmethod
    def read(stream, lines):
        for line in stream:
            lines.append(line)

    def kill(self):
        self.killed = True
        self.process.kill()

    def end(self, timeout_s):
        try:
            self.process.wait(timeout_s)
        finally:
            self.process.kill()
            self.process.wait()
            for r in self.readers:
                r.join(10)

    def results(self):
        found = [json.loads(line) for line in self.lines if line.endswith("\n")]
        assert self.killed or (found and found[-1].get("over")), "a trainer ended early:\n" + "".join(self.errors[-20:])
        return [r for r in found if not r.get("over")]


class Team:
    """Trainer processes, some of which die, and whatever else chaos does, for so long."""

    def __init__(self, platform, name, seconds, chaos=()):
        self.platform, self.name, self.until = platform, name, time.monotonic() + seconds
        self.dice = random.Random(SEED)
        self.all, self.living, self.done = [], [], collections.Counter()
        self.chaos = [self.trainer_dies, *chaos]

    def start_one(self):
        w = Worker(self.platform, self.name, max(self.until - time.monotonic(), 1), f"{SEED} {len(self.all)}")
        self.all.append(w)
        self.living.append(w)

    def trainer_dies(self):
        w = self.living.pop(self.dice.randrange(len(self.living)))
        w.kill()
        self.start_one()

    def run(self):
        for _ in range(PROCESSES):
            self.start_one()
        while True:
            pause = self.dice.uniform(DEATH_S / 2, DEATH_S * 3 / 2)
            if time.monotonic() + pause > self.until - 5:
                break
            time.sleep(pause)
            what = self.dice.choice(self.chaos)
            what()
            self.done[what.__name__] += 1
        time.sleep(max(self.until - time.monotonic(), 0))
        for w in self.all:
            w.end(120)
        return [r for w in self.all for r in w.results()]


def summary(results, team):
    seconds = sorted(r["seconds"] for r in results if "seconds" in r)
    return (f"{len(results)} rollouts, {sum(r.get('calls', 0) for r in results)} calls, "
            f"median {seconds[len(seconds) // 2]:.1f} s; {dict(team.done)}")


def all_right(results):
    lost = [r for r in results if "error" in r]
    wrong = [r for r in results if "error" not in r and r["reward"] != r["expected"]]
    assert not lost and not wrong, f"{len(lost)} lost, {len(wrong)} wrong of {len(results)}: {(lost + wrong)[:5]}"


def figures(platform):
    status, _, text = platform.request("GET", "/metrics")
    assert status == 200
    return {k: float(v) for k, v in (line.rsplit(" ", 1) for line in text.decode().splitlines() if line[:1] != "#")}


def all_ended(platform):
    values = figures(platform)
    return all(values[f'openreward_{what}{{state="open"}}'] == 0 for what in ("sandboxes", "sessions"))


def test_trainer():
    with running(CONFIG) as platform:
        name = deploy_tiny(platform, "trainer", TINY_TASKS=40)
        Team(platform, name, 6).run()  # what is made once is made before the count
        wait_until(lambda: all_ended(platform), 90, "every session and sandbox ended")
        before = Census(platform.data)
        team = Team(platform, name, SECONDS)
        results = team.run()
        print(f"\n{AT_ONCE} at once for {SECONDS} s, seed {SEED}: {summary(results, team)}")
        all_right(results)
        assert len(results) > SECONDS
        wait_until(lambda: all_ended(platform), 90, "every session and sandbox ended")
        nothing_new(platform, before)
        assert platform.leaks() == ""
