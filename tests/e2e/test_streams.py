"""`openreward sandbox` whose streams are disturbed: signals, readers that leave, refusals, a connection that is down."""
import os
import signal
import subprocess
import time

from orw import OPENREWARD
from test_runs import Runs, box, cli  # noqa: F401


def start(platform, *argv, **streams):
    return subprocess.Popen([OPENREWARD, "sandbox", *argv], env={**os.environ, **platform.env}, stdout=subprocess.PIPE, **streams)


def test_a_reader_that_is_interrupted_leaves_the_run_alone(platform, box):  # noqa: F811
    run = box.start("echo up; sleep 1000", separate=True)
    with start(platform, "logs", "-f", box.id, run) as reader:
        assert reader.stdout.readline() == b"up\n"
        reader.send_signal(signal.SIGINT)
        try:
            assert reader.wait(20) == 130
        finally:
            reader.kill()
    assert box.call("GET", f"/runs/{run}")["state"] == "running"


def test_a_sandbox_whose_reader_leaves_is_removed(platform):
    before = cli(platform, "ls").stdout
    words = ["run", "python:3.11-slim", "--", "head", "-c", "1000000", "/dev/zero"]
    with start(platform, *words, stderr=subprocess.PIPE) as writer:
        writer.stdout.close()
        assert writer.wait(60) == 1
        assert b"write the output: Broken pipe" in writer.stderr.read()
    assert cli(platform, "ls").stdout.count(b"\n") == before.count(b"\n")
