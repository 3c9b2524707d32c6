"""How a command begins (src/init/lend.h): in memory that init lends while it is alone, in a copy of init else."""
import time

import pytest

from harness import Failed, write

STOPPER = "import os, signal, time\nos.write(1, b'ready')\nend = time.monotonic() + 60\nwhile time.monotonic() < end:\n" \
    "  try: os.kill(-1, signal.SIGSTOP)\n  except OSError: pass\n"


def faults(box):
    """Pages that init had to take or to copy so far; a copy of it leaves the pages that it writes next shared."""
    return int(open(f"/proc/{box.pid}/stat").read().rsplit(")", 1)[1].split()[7])


def for_each(box, n):
    before = faults(box)
    for _ in range(n):
        assert box.run("/bin/true").code == 0
    return (faults(box) - before) / n


def background(box, script, ready):
    """A run whose process goes on when it has written so much."""
    run = box.begin("/usr/bin/python3", "-c", script, flags=128)
    deadline = time.monotonic() + 60
    while box.ask("READ", ("RUN_ID", run), ("OFFSET", 0))["STORED"] < ready and time.monotonic() < deadline:
        time.sleep(0.02)
    return run


def test_memory_is_lent_while_init_is_alone(fresh):
    for_each(fresh, 5)
    assert for_each(fresh, 40) < 1
    fresh.sh("sleep 600 >/dev/null 2>&1 &")
    assert for_each(fresh, 40) > 2
    fresh.sh("pkill sleep")
    deadline = time.monotonic() + 60
    while for_each(fresh, 20) > 1 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert for_each(fresh, 40) < 1


def test_a_command_cannot_tell(fresh):
    """Environment, folder, arguments, script, descriptors, signals, session: also of one that is too long to be lent to."""
    look = "echo $V $PWD $1 ${#2} $(ls /proc/self/fd | wc -l) $(cat /proc/self/oom_score_adj) $(cut -d' ' -f5,6 /proc/$$/stat | sed s/$$/own/g); " \
        "grep -E 'Sig|Cap|Seccomp:|Groups|[UG]id' /proc/self/status; umask; exit 7"
    for user in ("", "agent", "1:2"):
        texts = []
        for pad in (0, 20000):
            m = fresh.run("/bin/bash", "-c", look, "sh", "one two", "x" * pad, env=["V=v", "PATH=/usr/bin:/bin"], cwd="/tmp", user=user)
            assert m.text.startswith(f"v /tmp one two {pad} 4 500 own own\n") and m.code == 7
            texts.append(m.text.split("\n", 1)[1])
        assert texts[0] == texts[1]


def test_process_1_goes_last_whatever_came_of_the_clone(fresh):
    """It shares the score of its commands while they are being born, which none of them may see."""
    def scores():
        with open(f"/proc/{fresh.pid}/oom_score_adj") as own:
            return int(own.read()), int(fresh.sh("cat /proc/self/oom_score_adj").text)

    before = scores()
    assert before[0] < 500 and before[1] == 500
    write(f"{fresh.dirs.get('pids', fresh.v2)}/pids.max", 1)
    with pytest.raises(Failed):
        fresh.run("true")
    write(f"{fresh.dirs.get('pids', fresh.v2)}/pids.max", "max")
    for before_it in ("true", "sleep 600 >/dev/null 2>&1 &"):  # in lent memory, as a copy
        fresh.sh(before_it)
        for _ in range(20):
            assert fresh.run("/bin/cat", "/proc/1/oom_score_adj").text == f"{before[0]}\n"
    assert scores() == before


def test_what_cannot_be_run_says_so(fresh):
    for _ in range(3):
        assert "cannot run /no/such" in fresh.run("/no/such").text and fresh.run("/no/such").code == 127
        assert fresh.run("/etc/passwd").code == 126
        assert fresh.run("true", cwd="/no/such").code == 126
        assert fresh.run("true").code == 0


def test_whoever_stops_everybody_does_not_stop_init(fresh):
    """root inside may stop a command that has just begun, and each after it; init answers, and ends them in their time."""
    background(fresh, STOPPER, 5)
    for n in range(20):
        run = fresh.begin("/bin/echo", "stopped", timeout_ms=50)
        assert fresh.ask("STATUS")["N_RUNS"] >= 1
        m = fresh.wait(run)
        assert m["TIMED_OUT"] == 1 or m.text == "stopped\n"


def test_with_a_terminal_input_and_two_outputs(fresh):
    for _ in range(2):
        m = fresh.run("/bin/bash", "-c", "echo out; echo err >&2", flags=32)
        assert b"out\n" in m["OUTPUT"] and b"err\n" in m["OUTPUT"] and m["OUTPUT"].count(b"\x01\0\0\0") == 1
        assert fresh.run("/bin/bash", "-c", "tty && tty <&1", flags=16).text.count("/dev/pts/") == 2


def test_a_command_that_closes_its_output_is_over_when_it_ends(fresh):
    """init holds the pipe's other end open as long: the end of the process is what counts."""
    m = fresh.sh("exec >&- 2>&-; sleep 0.3; exit 5")
    assert m.code == 5 and m["DURATION_US"] >= 300000 and m.text == ""


def test_what_a_background_process_holds_open_stays_open(fresh):
    m = fresh.sh("(sleep 0.5; echo late; echo $? >/tmp/wrote) & echo early")
    assert m.text == "early\n"
    deadline = time.monotonic() + 60
    while fresh.sh("cat /tmp/wrote").text != "0\n" and time.monotonic() < deadline:
        time.sleep(0.1)
    assert fresh.sh("cat /tmp/wrote").text == "0\n"
