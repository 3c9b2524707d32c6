"""Streams of a run: output while it is made, stdout and stderr apart, stdin, terminals."""
import os
import select
import signal
import struct
import time

import pytest

from harness import RUN_FETCH, RUN_INPUT, RUN_SEPARATE, RUN_TAIL, RUN_TTY, Failed


def read(box, run_id, offset=0, **kw):
    """(bytes from offset, the answer)."""
    m = box.ask("READ", ("RUN_ID", run_id), ("OFFSET", offset), *kw.items())
    if not m.fds:
        return m.get("OUTPUT", b""), m
    with os.fdopen(m.fds[0], "rb") as f:
        f.seek(max(offset, m["FIRST"]))
        return f.read(m["STORED"] - f.tell()), m


def more(box, run_id):
    return box.take(lambda m: m.kind == "MORE" and m["RUN_ID"] == run_id)


def news(box, run_id):
    """Waits for more output or the end, which stays to be waited for."""
    m = box.take(lambda m: m.kind in ("MORE", "DONE") and m.get("RUN_ID") == run_id)
    if m.kind == "DONE":
        box.events.append(m)


def until(box, run_id, want, timeout_s=10):
    """Output from the beginning, once want is in it."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        data, m = read(box, run_id, WATCH=1)
        if want in data:
            return data
        if not data or not any(m.kind == "DONE" for m in box.events):
            news(box, run_id)
    raise AssertionError((want, data))


def frames(data):
    """[(stream, payload)]"""
    found = []
    while data:
        stream, size = struct.unpack(">B3xI", data[:8])
        assert len(data) >= 8 + size
        found.append((stream, data[8:8 + size]))
        data = data[8 + size:]
    return found


def joined(data, *streams):
    return b"".join(p for s, p in frames(data) if s in streams)


def input_of(box, run_id):
    return box.ask("INPUT", ("RUN_ID", run_id)).fds[0]


def sh(box, command, flags, **kw):
    return box.begin("/bin/bash", "-c", command, flags=flags, **kw)


def test_output_is_read_while_it_is_made(box):
    run = sh(box, "echo one; read x; echo two $x", RUN_FETCH | RUN_INPUT)
    assert until(box, run, b"one\n") == b"one\n"
    fd = input_of(box, run)
    os.write(fd, b"in\n")
    os.close(fd)
    m = box.wait(run, ack=False)
    assert m.code == 0 and m.output is None and m["STORED"] == m["BYTES"] == 11
    assert read(box, run)[0] == b"one\ntwo in\n"
    assert read(box, run, 4)[0] == b"two in\n"
    assert read(box, run, 11)[0] == read(box, run, 1 << 40)[0] == b""


def test_a_more_comes_once_per_watch(box):
    run = sh(box, "for i in 1 2 3; do read x; echo $x; done", RUN_FETCH | RUN_INPUT)
    fd = input_of(box, run)
    read(box, run, WATCH=1)
    os.write(fd, b"a\n")
    assert more(box, run)["STORED"] == 2
    os.write(fd, b"b\n")
    assert until(box, run, b"b\n") == b"a\nb\n"
    assert not [m for m in box.events if m.kind == "MORE" and m["RUN_ID"] == run]
    os.close(fd)
    box.ask("INPUT_END", ("RUN_ID", run))
    assert box.wait(run).code == 0


def test_input_ends_when_both_ends_are_given_up(box):
    run = sh(box, "wc -c", RUN_INPUT)
    fd = input_of(box, run)
    os.write(fd, b"x" * 1000)
    os.close(fd)
    time.sleep(0.1)
    fd = input_of(box, run)  # as a daemon that takes over would
    os.write(fd, b"y" * 500)
    os.close(fd)
    box.ask("INPUT_END", ("RUN_ID", run))
    with pytest.raises(Failed) as e:
        input_of(box, run)
    assert e.value.errno == 32
    assert box.wait(run).text == "1500\n"


def test_a_command_that_does_not_read_fills_its_pipe_and_nothing_else(box):
    run = sh(box, "sleep 1000", RUN_INPUT)
    fd = input_of(box, run)
    os.set_blocking(fd, False)
    with pytest.raises(BlockingIOError):
        while True:
            os.write(fd, b"x" * 65536)
    os.close(fd)
    assert box.sh("echo fine").text == "fine\n"
    box.ask("KILL", ("RUN_ID", run), ("SIGNAL", 9))
    assert box.wait(run)["KILLED"] == 1


def test_stdout_and_stderr_apart(box):
    m = box.sh("echo out; sleep 0.5; echo err >&2; sleep 0.5; printf last", flags=RUN_SEPARATE)
    assert frames(m.output) == [(1, b"out\n"), (2, b"err\n"), (1, b"last")]
    assert (m["BYTES"], m["STORED"]) == (12, 12 + 24)


def test_apart_and_large(box):
    m = box.sh("(head -c 3000000 /dev/zero | tr '\\0' o) & (head -c 2000000 /dev/zero | tr '\\0' e >&2); wait", flags=RUN_SEPARATE)
    assert joined(m.output, 1) == b"o" * 3000000 and joined(m.output, 2) == b"e" * 2000000


@pytest.mark.parametrize("limit", [0, 1, 10, 70000])
def test_apart_with_a_limit(box, limit):
    m = box.sh("head -c 100000 /dev/zero; echo end >&2", flags=RUN_SEPARATE, max_bytes=limit)
    assert len(joined(m.output, 1, 2)) == m["BYTES"] == limit and m["DROPPED"] == 100004 - limit


def test_the_last_bytes_are_kept(box):
    run = sh(box, "for i in $(seq 1 200000); do echo line $i; done", RUN_FETCH | RUN_TAIL, max_bytes=100000)
    m = box.wait(run, ack=False)
    data, answer = read(box, run)
    assert answer["FIRST"] > 0 and 100000 <= len(data) <= 400000
    assert data.endswith(b"line 199999\nline 200000\n")
    assert m["BYTES"] == len(data) and m["BYTES"] + m["DROPPED"] == answer["STORED"]


def test_the_last_frames_are_whole(box):
    run = sh(box, "for i in $(seq 1 5000); do printf %0100d $i; printf %0100d $i >&2; done", RUN_FETCH | RUN_TAIL | RUN_SEPARATE,
             max_bytes=70000)
    box.wait(run, ack=False)
    data, answer = read(box, run)
    assert answer["FIRST"] > 0
    assert joined(data, 1).endswith(b"%0100d" % 5000) and joined(data, 2).endswith(b"%0100d" % 5000)


@pytest.mark.parametrize("max_bytes", [1 << 20, 1 << 16])
def test_a_reader_holds_the_command_up(box, max_bytes):
    run = sh(box, "until [ -e /tmp/go ]; do sleep 0.01; done; head -c 50000000 /dev/zero; echo done", RUN_FETCH | RUN_TAIL, max_bytes=max_bytes)
    read(box, run, FLOW=100000)  # until then it would write as it likes
    box.sh("touch /tmp/go")
    time.sleep(0.5)
    data, m = read(box, run, FLOW=100000)
    assert 100000 <= m["STORED"] < 800000 and m["FIRST"] == 0
    got = len(data)
    while got < 50000005:
        data, m = read(box, run, got, FLOW=1 << 20, WATCH=1)
        assert m["FIRST"] <= got, "nothing is lost to a reader that holds the command up"
        got += len(data)
        if not data:
            news(box, run)
    assert got == 50000005


def test_without_a_reader_nobody_waits(box):
    run = sh(box, "head -c 5000000 /dev/zero", RUN_FETCH)
    read(box, run, FLOW=1000)
    time.sleep(0.2)
    read(box, run)
    assert box.wait(run, ack=False)["BYTES"] == 5000000


def test_who_reads_from_far_behind_the_end_does_not_let_the_command_run_on(box):
    run = sh(box, "head -c 5000000 /dev/zero", RUN_FETCH)
    read(box, run, FLOW=100000)
    time.sleep(0.3)
    box.ask("READ", ("RUN_ID", run), ("OFFSET", 10**12), ("FLOW", 1), ("NEED", 0), ("HAVE", 1))
    time.sleep(0.5)
    assert read(box, run, FLOW=1)[1]["STORED"] < 1000000
    read(box, run)
    assert box.wait(run)["STORED"] == 5000000


def test_a_reader_that_went_with_its_daemon_holds_nobody_up(box):
    run = sh(box, "head -c 5000000 /dev/zero; echo done", RUN_FETCH)
    read(box, run, FLOW=100000, WATCH=1)
    time.sleep(0.3)
    assert read(box, run, FLOW=100000)[1]["STORED"] < 5000000
    items, _ = box.listed()
    assert run in [i["RUN_ID"] for i in items]
    assert box.wait(run, ack=False)["BYTES"] == 5000005
    assert read(box, run)[0].endswith(b"done\n")


def terminal(box, command, **kw):
    return sh(box, command, RUN_FETCH | RUN_TTY, extra=[("ROWS", 33), ("COLS", 111)], **kw)


def test_a_terminal(box):
    run = terminal(box, "tty; stty size; test -t 0 && test -t 1 && test -t 2 && echo all; echo hi > $(tty); id -u; echo err >&2")
    m = box.wait(run, ack=False)
    assert m.code == 0
    assert read(box, run)[0] == b"/dev/pts/0\r\n33 111\r\nall\r\nhi\r\n0\r\nerr\r\n"


def test_a_terminal_of_a_user(box):
    run = terminal(box, "id -u; echo works > $(tty); stat -c %U:%a $(tty)", user="agent")
    assert box.wait(run, ack=False).code == 0
    assert read(box, run)[0] == b"1000\r\nworks\r\nagent:620\r\n"


def test_keys_and_a_resize(box):
    run = terminal(box, "trap 'stty size' WINCH; echo ready; while read x; do echo got $x; done; echo bye")
    fd = input_of(box, run)
    until(box, run, b"ready\r\n")
    os.write(fd, b"abc\n")
    until(box, run, b"got abc\r\n")
    box.ask("RESIZE", ("RUN_ID", run), ("ROWS", 50), ("COLS", 200))
    os.write(fd, b"def\n")
    until(box, run, b"50 200\r\n")
    os.write(fd, b"\x04")
    m = box.wait(run, ack=False)
    assert m.code == 0 and read(box, run)[0].endswith(b"bye\r\n")
    os.close(fd)


def test_control_c_reaches_the_foreground_alone(box):
    run = terminal(box, "set -m; (trap 'exit 5' INT; echo ready; while sleep 0.05; do :; done); echo after $?")
    fd = input_of(box, run)
    until(box, run, b"ready")
    os.write(fd, b"\x03")
    assert b"after 5" in until(box, run, b"after 5")
    os.close(fd)
    m = box.wait(run)
    assert m.code == 0 and m["KILLED"] == 0


def test_a_signal_to_the_foreground(box):
    run = terminal(box, "set -m; sleep 1003; echo after $?")
    box.sh("until grep -qxz '100[3]' /proc/[0-9]*/cmdline 2>/dev/null; do sleep 0.02; done")  # once it is a program it is in front
    box.ask("KILL", ("RUN_ID", run), ("SIGNAL", int(signal.SIGTERM)), ("FOREGROUND", 1))
    assert b"after 143" in until(box, run, b"after")
    assert box.wait(run)["KILLED"] == 0


def test_a_daemon_that_closes_its_end_hangs_nobody_up(box):
    run = terminal(box, "echo ready; sleep 0.5; echo still; read x; echo $x")
    os.close(input_of(box, run))
    until(box, run, b"still\r\n")
    fd = input_of(box, run)
    os.write(fd, b"here\n")
    until(box, run, b"here\r\nhere\r\n")
    os.close(fd)
    assert box.wait(run).code == 0


def test_all_output_of_a_terminal_arrives(box):
    for _ in range(20):
        run = terminal(box, "head -c 30000 /dev/zero | tr '\\0' x; echo; echo END")
        box.wait(run, ack=False)
        assert read(box, run)[0] == b"x" * 30000 + b"\r\nEND\r\n"


def test_a_terminal_outlived_by_a_background_process(box):
    run = terminal(box, "(trap '' HUP; sleep 1000 & ) ; echo over")
    assert box.wait(run).code == 0
    assert box.sh("echo fine").text == "fine\n"


def test_what_is_not_there(box):
    run = sh(box, "sleep 1000", 0)
    for kind, fields in (("RESIZE", [("ROWS", 1), ("COLS", 1)]), ("INPUT", [])):
        with pytest.raises(Failed):
            box.ask(kind, ("RUN_ID", run), *fields)
        with pytest.raises(Failed) as e:
            box.ask(kind, ("RUN_ID", "nobody"), *fields)
        assert e.value.errno == 2
    with pytest.raises(Failed) as e:
        sh(box, "true", RUN_TTY | RUN_SEPARATE)
    assert e.value.errno == 22


def test_thousands_of_ended_runs(box):
    runs = [box.begin("/bin/true", flags=RUN_FETCH) for _ in range(5000)]
    done = set()
    while len(done) < 5000:
        done.add(box.take(lambda m: m.kind == "DONE")["RUN_ID"])
    assert read(box, runs[0])[0] == b""
    for run in runs:
        box.post("ACK", ("RUN_ID", run))
    assert box.sh("echo fine").text == "fine\n"
    with pytest.raises(Failed):
        read(box, runs[0])
