"""The process that is prepared for the next command (src/init/next.h): who gets it, and what those inside can do to it."""
import os
import signal
import time

import pytest

from test_hostile import CALL


def waiting(box):
    """Host pid and inner pid of the prepared process, once there is one."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for pid in open(f"/proc/{box.pid}/task/{box.pid}/children").read().split():
            try:
                if open(f"/proc/{pid}/cmdline").read().startswith("openreward-init"):
                    status = dict(line.split(":\t", 1) for line in open(f"/proc/{pid}/status").read().splitlines() if ":\t" in line)
                    return int(pid), int(status["NSpid"].split()[-1])
            except OSError:
                pass  # it has just become a command
        time.sleep(0.01)
    raise AssertionError("no process was prepared")


def test_the_next_command_is_the_prepared_process(fresh):
    for user in ("", "agent", ""):
        pid = waiting(fresh)[1]
        assert fresh.sh("echo $$", user=user).text == f"{pid}\n"


def test_it_holds_nothing_of_inits(fresh):
    fresh.sh("true")
    pid = waiting(fresh)[0]
    deadline = time.monotonic() + 30
    while len(fds := sorted(os.listdir(f"/proc/{pid}/fd"), key=int)) != 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    links = [os.readlink(f"/proc/{pid}/fd/{n}") for n in fds]
    assert fds == ["0", "1", "2", "3"] and all(link.endswith("/null") for link in links[:3]) and links[3].startswith("socket:"), links


def test_what_a_command_gets_is_the_same(fresh):
    """Environment, folder, arguments, script, descriptors, group: also of one that is too long to be told."""
    for pad in (0, 20000):
        waiting(fresh)
        m = fresh.run("/bin/bash", "-c", "echo $V $PWD $1 ${#2} $(ls /proc/self/fd | wc -l) $(cat /proc/self/oom_score_adj); exit 7",
                      "sh", "one two", "x" * pad, env=["V=v", "PATH=/usr/bin:/bin"], cwd="/tmp")
        assert m.text == f"v /tmp one two {pad} 4 500\n" and m.code == 7


@pytest.mark.parametrize("user", ["", "agent"])
def test_nobody_inside_reads_traces_or_limits_it(fresh, user):
    look = "import ctypes, os, time\nend = time.time() + 60\nfound = []\ndef name(p):\n  try: return open(f'/proc/{p}/cmdline').read()\n" \
        "  except OSError: return ''\nwhile not found and time.time() < end:\n" \
        "  found = [p for p in map(int, filter(str.isdigit, os.listdir('/proc'))) if p > 1 and name(p).startswith('openreward-init')]\n" \
        "p = found[0]\nout = [p > 1]\nfor f in ('mem', 'environ', 'maps', 'fd/3', 'exe', 'cwd'):\n" \
        "  try: os.readlink(f'/proc/{p}/{f}') if f in ('exe', 'cwd', 'fd/3') else open(f'/proc/{p}/{f}', 'rb').read(1); out.append(f)\n  except OSError: pass\n" \
        "fd = os.pidfd_open(p)\nout += [call(101, 16, p, 0, 0), call(101, 0x4206, p, 0, 0), call(438, fd, 3, 0)]\n" \
        "limit = (ctypes.c_ulong * 2)(0, 0)\nout.append(call(302, p, 7, limit, 0))\nprint(out)\n"
    # In the background: one is prepared when a run is over.
    fresh.run("/bin/bash", "-c", 'python3 -c "$1" >/tmp/looked 2>&1 & true', "sh", CALL + look, user=user)
    deadline, text = time.monotonic() + 60, ""
    while not text and time.monotonic() < deadline:
        time.sleep(0.3)
        text = fresh.sh("cat /tmp/looked").text
    assert text == "[True, 1, 1, 1, 1]\n"


def test_killed_by_root_inside_another_takes_its_place(fresh):
    for _ in range(3):
        pid, inner = waiting(fresh)
        os.kill(pid, signal.SIGKILL)
        assert fresh.sh("echo alive").text == "alive\n"
    assert fresh.sh("echo alive").text == "alive\n"


def test_one_that_is_late_to_say_that_it_read_is_the_command(fresh):
    pid = waiting(fresh)[0]
    os.kill(pid, signal.SIGSTOP)
    run = fresh.begin("/bin/echo", "late")  # answered when init has given up waiting
    os.kill(pid, signal.SIGCONT)
    assert fresh.wait(run).text == "late\n"


def test_stopped_by_root_inside_its_run_times_out(fresh):
    """As any command that is stopped when it has just begun. What comes after is well."""
    os.kill(waiting(fresh)[0], signal.SIGSTOP)
    m = fresh.sh("echo never", timeout_ms=300)
    assert m["TIMED_OUT"] == 1 and m.text == ""
    assert fresh.sh("echo alive").text == "alive\n"


def test_nobody_inside_who_is_not_root_may_signal_it(fresh):
    fresh.sh("true")
    pid, inner = waiting(fresh)
    m = fresh.sh("sleep 0.1; for p in /proc/[0-9]*; do p=${p#/proc/}; [ $p -gt $$ ] && kill -9 $p 2>/dev/null && echo killed; done; true", user="agent")
    assert "killed" not in m.text
    assert waiting(fresh)


def test_a_sandbox_of_one_command_has_prepared_nothing_in_vain(fresh):
    """It counts nowhere: not as a process, not as a run."""
    waiting(fresh)
    m = fresh.ask("STATUS")
    assert m["N_PROCS"] == 1 and m["N_RUNS"] == 0


def test_with_a_terminal_input_and_two_outputs(fresh):
    """Descriptors reach it in their order."""
    waiting(fresh)
    m = fresh.run("/bin/bash", "-c", "echo out; echo err >&2", flags=32)
    assert b"out\n" in m["OUTPUT"] and b"err\n" in m["OUTPUT"] and m["OUTPUT"].count(b"\x01\0\0\0") == 1
    waiting(fresh)
    assert fresh.run("/bin/bash", "-c", "tty && tty <&1", flags=16).text.count("/dev/pts/") == 2
