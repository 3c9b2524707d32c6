"""Commands: status, output, users, time-outs, background processes, durability."""
import base64
import contextlib
import hashlib
import itertools
import os
import random
import select
import signal
import subprocess
import time

import pytest

from harness import RUN_FETCH, RUN_MAIN, RUN_OUTPUT_FD, RUN_SCRIPT, TYPES, Failed, Sandbox, encode, receive


def memfd(data):
    fd = os.memfd_create("script")
    with os.fdopen(os.dup(fd), "wb") as f:
        f.write(data)
    os.lseek(fd, 0, 0)
    return fd


def script(box, data, **kw):
    fd = memfd(data)
    try:
        return box.run("/bin/bash", "/dev/fd/9", flags=RUN_SCRIPT, fds=[fd], **kw)
    finally:
        os.close(fd)


def processes(box):
    """Names of what lives inside, seen by a command, without itself and init."""
    m = box.run("/usr/bin/python3", "-c", "import os\nfor p in os.listdir('/proc'):\n"
                "  if not p.isdigit() or p == str(os.getpid()): continue\n"
                "  try:\n"
                "    name = open(f'/proc/{p}/cmdline').read().split(chr(0))[0]\n"
                "    if name != 'openreward-init': print(name, open(f'/proc/{p}/stat').read().split()[2])\n"
                "  except (FileNotFoundError, ProcessLookupError): pass")
    assert m.code == 0, m
    return m.text.splitlines()


@pytest.mark.parametrize("code", [0, 1, 7, 126, 127, 255])
def test_exit_code(box, code):
    assert box.sh(f"exit {code}").code == code


@pytest.mark.parametrize("sig", ["KILL", "TERM", "SEGV", "HUP", "PIPE"])
def test_signal(box, sig):
    assert box.sh(f"kill -{sig} $$").code == -getattr(signal, f"SIG{sig}")


def test_output_keeps_its_order(box):
    m = box.sh("for i in 1 2 3 4 5; do echo out $i; echo err $i >&2; done")
    assert m.text == "".join(f"out {i}\nerr {i}\n" for i in range(1, 6))


def test_binary_output(box):
    m = box.sh("for i in $(seq 0 255); do printf \"\\\\x$(printf %x $i)\"; done")
    assert m.output == bytes(range(256))


def test_stdin_is_empty(box):
    assert box.sh("cat; echo $?").text == "0\n"


def test_not_found(box):
    m = box.run("/no/such/program")
    assert m.code == 127 and "openreward: cannot run /no/such/program: No such file" in m.text
    assert box.run("no-such-program").code == 127


def test_not_executable(box):
    m = box.run("/etc/passwd")
    assert m.code == 126 and "ermission denied" in m.text


def test_path_is_searched_in_the_commands_environment(box):
    assert box.run("true", env=["PATH=/nowhere:/usr/bin"]).code == 0
    assert box.run("true", env=["PATH=/nowhere"]).code == 127


def test_a_missing_shell_becomes_sh(box):
    assert box.run("/opt/bin/bash", "-c", "echo $0").text == "/bin/sh\n"
    assert box.run("/opt/bin/python", "-c", "1").code == 127


def test_environment_is_exactly_what_was_sent(box):
    m = box.run("/usr/bin/env", env=["A=1", "B=x y=z", "HOME=/h", "PATH=/usr/bin"])
    assert m.text == "A=1\nB=x y=z\nHOME=/h\nPATH=/usr/bin\n"


def test_home_and_path_have_defaults(box):
    text = box.run("/usr/bin/env", user="agent").text
    assert "HOME=/home/agent\n" in text and "PATH=/usr/local/sbin:" in text


def test_working_directory(box):
    assert box.run("/bin/pwd", cwd="/home/agent").text == "/home/agent\n"
    m = box.run("/bin/pwd", cwd="/missing")
    assert m.code == 126 and "working directory /missing" in m.text


def test_working_directory_is_no_way_to_inits_descriptors(box):
    for fd in range(3, 10):
        assert box.run("/bin/ls", cwd=f"/proc/self/fd/{fd}").code == 126
    box.sh("ln -sfn /proc/self/fd/5 /tmp/trap")
    assert box.run("/bin/ls", cwd="/tmp/trap").code == 126


@pytest.mark.parametrize("user,want", [
    ("", "0 0 0"), ("root", "0 0 0"), ("0", "0 0 0"), ("agent", "1000 1000 1000 2000 2001"), ("1000", "1000 1000 1000 2000 2001"),
    ("other", "1001 1001 1001 2000"), ("agent:extra", "1000 2000 2000"), ("1000:77", "1000 77 77"), ("4242", "4242 0 0"),
    ("4242:4343", "4242 4343 4343"),
])
def test_user(box, user, want):
    assert box.sh("echo $(id -u) $(id -g) $(id -G)", user=user).text.strip() == want


@pytest.mark.parametrize("user", ["nobody-here", "agent:no-group", "-1", "4294967295", "99999999999999999999"])
def test_unknown_user(box, user):
    with pytest.raises(Failed) as e:
        box.sh("id", user=user)
    assert e.value.stage == "user" and e.value.errno == 2


def test_a_uid_outside_the_range_cannot_start(box):
    m = box.sh("id", user="70000")
    assert m.code == 126 and "Invalid argument" in m.text


def test_status_of_a_command(box):
    text = box.sh("grep -E '^(Cap|NoNewPrivs|Seccomp:|SigBlk|SigIgn)' /proc/self/status; umask; ulimit -c; cat /proc/self/oom_score_adj").text
    for line in ("CapEff:\t00000000a80425fb", "CapPrm:\t00000000a80425fb", "CapBnd:\t00000000a80425fb", "CapInh:\t0000000000000000",
                 "CapAmb:\t0000000000000000", "NoNewPrivs:\t0", "Seccomp:\t2", "SigBlk:\t0000000000000000", "SigIgn:\t0000000000000000"):
        assert line + "\n" in text
    assert text.endswith("0022\n0\n500\n")


def test_a_user_has_no_capabilities(box):
    text = box.sh("grep -E '^Cap(Eff|Prm|Inh|Amb)' /proc/self/status", user="agent").text
    assert text.count("0000000000000000") == 4


def test_no_new_privileges():
    with Sandbox(flags="steer,nnp") as s:
        assert "NoNewPrivs:\t1" in s.sh("cat /proc/self/status").text


def test_descriptors_of_a_command(box):
    assert box.run("/bin/ls", "/proc/self/fd").text.split() == ["0", "1", "2", "3"]


def test_command_of_13_mb(box):
    payload = os.urandom(10 << 20)
    m = script(box, b"echo '" + base64.b64encode(payload) + b"' | base64 -d | sha256sum")
    assert m.text.split()[0] == hashlib.sha256(payload).hexdigest()


def test_script_as_an_ordinary_user(box):
    assert script(box, b"id -u; exit 3", user="agent").text == "1000\n"


def test_100_mb_of_output_with_a_limit(box):
    m = box.sh("head -c 100000000 /dev/zero | tr '\\0' x; echo done >&2", max_bytes=50_000)
    assert m.code == 0 and m.output == b"x" * 50_000 and m["DROPPED"] == 100_000_005 - 50_000


def test_limit_zero_and_none(box):
    m = box.sh("echo abc", max_bytes=0)
    assert m.output == b"" and m["DROPPED"] == 4
    assert box.sh("echo abc").text == "abc\n"


@pytest.mark.parametrize("size", [0, 1, 61439, 61440, 61441, 200_000, 20_000_000])
def test_output_sizes(box, size):
    m = box.sh(f"head -c {size} /dev/zero | tr '\\0' q")
    assert m["DROPPED"] == 0 and m.output == b"q" * size


def test_a_full_spool_loses_the_rest_but_stops_nobody():
    with Sandbox(spool_mb=1) as s:
        m = s.sh("head -c 5000000 /dev/zero; echo $? >/tmp/status")
        assert m.code == 0 and 60_000 < m["BYTES"] <= 1 << 20 and m["BYTES"] + m["DROPPED"] == 5_000_000
        assert m.output == b"\0" * m["BYTES"]
        assert m["DISK_FREE"] == 0 and "ERRNO" not in m
        assert s.sh("cat /tmp/status").text == "0\n"


def test_what_a_full_spool_does_not_take_the_memory_does():
    with Sandbox(spool_mb=1) as s:
        for _ in range(2):  # the first one's file stays
            run = s.begin("/bin/bash", "-c", "head -c 3000000 /dev/zero", flags=RUN_FETCH)
            m = s.wait(run, ack=False)
        assert m["STORED"] == 4096 and m["DISK_FREE"] == 0
        assert s.ask("READ", ("RUN_ID", run), ("OFFSET", 0))["OUTPUT"] == b"\0" * 4096


GO = "until [ -e /tmp/go ]; do sleep 0.02; done"


def go(box):
    """From outside: init may have no descriptor for a command."""
    subprocess.run(["nsenter", "--user", "--target", str(box.pid), "touch", f"/proc/{box.pid}/root/tmp/go"], check=True)


def test_output_that_found_no_descriptor_is_told_of(fresh):
    run = fresh.begin("/bin/bash", "-c", f"{GO}; head -c 200000 /dev/zero")
    no_descriptors(fresh)
    go(fresh)
    m = fresh.wait(run)
    limit(fresh, "nofile", 1024)
    assert (m.code, m["BYTES"], m["DROPPED"], m["ERRNO"]) == (0, 61440, 200000 - 61440, 24)
    assert m["DISK_FREE"] > 0


def test_output_to_a_passed_descriptor(box):
    r, w = os.pipe()
    run = box.begin("/bin/bash", "-c", "echo log line; echo oops >&2", flags=RUN_OUTPUT_FD, fds=[w])
    os.close(w)
    m = box.wait(run)
    assert m["BYTES"] == 0 and os.read(r, 100) == b"log line\noops\n"
    os.close(r)


def test_flags_without_descriptors_are_refused(box):
    with pytest.raises(Failed) as e:
        box.run("/bin/true", flags=RUN_SCRIPT)
    assert e.value.errno == 22


def test_timeout_kills_the_tree(fresh):
    tree = "trap '' TERM HUP INT; (setsid bash -c 'trap \"\" TERM; sleep 1000' &) ; setsid sleep 1001 & nohup sleep 1002 & echo partial; sleep 1003"
    start = time.monotonic()
    m = fresh.sh(tree, timeout_ms=3000)
    assert m["TIMED_OUT"] == 1 and m.code == -9 and m.text == "partial\n" and 2.99 < time.monotonic() - start < 13
    assert processes(fresh) == []


def test_timeout_of_a_fork_bomb(fresh):
    """Processes that are forked while the kill goes on die too."""
    m = fresh.sh("f() { sleep 0.01; f & f & }; for i in 1 2 3 4; do f & done; sleep 100", timeout_ms=400)
    assert m["TIMED_OUT"] == 1
    assert processes(fresh) == []


def test_without_a_delegated_cgroup_the_process_group_dies():
    with Sandbox(delegated=False) as s:
        m = s.sh("trap '' TERM; sleep 1000 & echo partial; sleep 1001", timeout_ms=2000)
        assert m["TIMED_OUT"] == 1 and m.text == "partial\n"
        assert processes(s) == []


def test_no_timeout_when_it_ends_in_time(box):
    assert box.sh("true", timeout_ms=20_000)["TIMED_OUT"] == 0


@contextlib.contextmanager
def without_processor(box):
    """init, as on a host that is far too busy."""
    signal.pidfd_send_signal(box.pidfd, signal.SIGSTOP)
    try:
        yield
    finally:
        signal.pidfd_send_signal(box.pidfd, signal.SIGCONT)


def test_an_end_in_time_that_init_sees_late_is_no_timeout(fresh):
    run = fresh.begin("/bin/bash", "-c", "sleep 1000 >/dev/null 2>&1 & sleep 0.5; echo done; exit 3", timeout_ms=1000)
    with without_processor(fresh):
        time.sleep(1.5)
    m = fresh.wait(run)
    assert (m.code, m["TIMED_OUT"], m.text) == (3, 0, "done\n")
    assert processes(fresh) == ["sleep S"]


def test_a_kill_that_comes_after_the_end_kills_no_command(fresh):
    run = fresh.begin("/bin/bash", "-c", "sleep 0.3; exit 3")
    with without_processor(fresh):
        kill = fresh.post("KILL", ("RUN_ID", run), ("SIGNAL", 9))
        time.sleep(0.8)
    m = fresh.wait(run)
    assert (m.code, m["KILLED"]) == (3, 0)
    assert fresh.take(lambda m: m.request == kill).kind == "OK"


def test_kill(fresh):
    run = fresh.begin("/bin/bash", "-c", "trap '' TERM; echo a; setsid bash -c 'touch /tmp/up; sleep 1000' & sleep 1000")
    fresh.sh("until [ -e /tmp/up ]; do sleep 0.01; done")
    fresh.ask("KILL", ("RUN_ID", run), ("SIGNAL", 9))
    m = fresh.wait(run)
    assert m["KILLED"] == 1 and m["TIMED_OUT"] == 0 and m.code == -9 and m.text == "a\n"
    assert processes(fresh) == []


def test_kill_with_another_signal(fresh):
    run = fresh.begin("/bin/bash", "-c", "trap 'echo got; exit 5' USR1; touch /tmp/up; while :; do sleep 0.05; done")
    fresh.sh("until [ -e /tmp/up ]; do sleep 0.01; done")
    fresh.ask("KILL", ("RUN_ID", run), ("SIGNAL", int(signal.SIGUSR1)))
    m = fresh.wait(run)
    assert m.code == 5 and m["KILLED"] == 0 and "got\n" in m.text


def test_kill_of_an_unknown_run(box):
    with pytest.raises(Failed) as e:
        box.ask("KILL", ("RUN_ID", "nobody"))
    assert e.value.errno == 2


def test_a_background_child_neither_blocks_nor_dies(fresh):
    start = time.monotonic()
    m = fresh.sh("(while :; do echo noise; sleep 0.01; done) & echo first; echo $! > /tmp/pid")
    assert time.monotonic() - start < 10 and "first\n" in m.text
    time.sleep(0.3)
    assert fresh.sh("kill -0 $(cat /tmp/pid)").code == 0


def test_a_noisy_background_child_cannot_hold_up_the_end(fresh):
    start = time.monotonic()
    m = fresh.sh("yes & yes & yes & sleep 0.1; exit 3", max_bytes=1000)
    assert m.code == 3 and time.monotonic() - start < 10
    assert fresh.sh("grep -lax yes /proc/[0-9]*/comm | wc -l").text == "3\n"


def test_background_children_of_a_killed_run_die_and_of_others_live(fresh):
    fresh.sh("sleep 2000 >/dev/null 2>&1 &")
    fresh.sh("sleep 2001 >/dev/null 2>&1 & sleep 2002", timeout_ms=200)
    assert processes(fresh) == ["sleep S"]


def test_64_at_once(fresh):
    start = time.monotonic()
    runs = [fresh.begin("/bin/bash", "-c", f"sleep 0.5; echo {i}; exit {i}") for i in range(64)]
    for i, run in enumerate(runs):
        m = fresh.wait(run)
        assert m.code == i and m.text == f"{i}\n"
    assert time.monotonic() - start < 15
    assert fresh.ask("STATUS")["N_RUNS"] == 0


def test_a_duplicate_runs_once(fresh):
    run = fresh.begin("/bin/bash", "-c", "echo x >> /tmp/once; sleep 0.3")
    again = fresh.begin("/bin/bash", "-c", "echo x >> /tmp/once; sleep 0.3", run_id=run)
    assert again == run
    fresh.wait(run, ack=False)
    fresh.begin("/bin/bash", "-c", "echo x >> /tmp/once", run_id=run)
    time.sleep(0.3)
    assert fresh.sh("cat /tmp/once").text == "x\n"


def test_a_result_stays_until_acknowledged(fresh):
    run = fresh.begin("/bin/bash", "-c", "sleep 0.2; head -c 100000 /dev/zero; exit 4")
    assert fresh.ask("RESULT", ("RUN_ID", run)).kind == "OK"
    first = fresh.wait(run, ack=False)
    for _ in range(3):
        again = fresh.finish(fresh.ask("RESULT", ("RUN_ID", run)))
        assert again.kind == "DONE" and again.code == 4 and again.output == first.output
    fresh.post("ACK", ("RUN_ID", run))
    with pytest.raises(Failed) as e:
        fresh.ask("RESULT", ("RUN_ID", run))
    assert e.value.errno == 2


def test_a_run_that_is_acknowledged_while_it_lives_is_forgotten_at_its_end(fresh):
    run = fresh.begin("/bin/bash", "-c", f"{GO}; head -c 100000 /dev/zero; sleep 1000 & exit 4")
    fresh.post("ACK", ("RUN_ID", run))
    assert fresh.ask("RESULT", ("RUN_ID", run)).kind == "OK" and fresh.listed()[0] == []
    go(fresh)
    deadline = time.monotonic() + 30
    while fresh.ask("STATUS")["N_RUNS"]:
        assert time.monotonic() < deadline, "it is kept"
        time.sleep(0.05)
    with pytest.raises(Failed) as e:
        fresh.ask("RESULT", ("RUN_ID", run))
    assert e.value.errno == 2 and not fresh.events
    assert processes(fresh) == ["sleep S"]


def test_a_daemon_that_does_not_read_loses_nothing(fresh):
    """The socket fills up with ends of runs and answers; all arrive when it is read again."""
    n = 40
    for i in range(n):
        fresh.post("RUN", ("RUN_ID", f"r{i}"), ("ARG", "/bin/bash"), ("ARG", "-c"), ("ARG", f"head -c 50000 /dev/zero; exit {i}"))
    time.sleep(3)
    for i in range(n):
        assert fresh.wait(f"r{i}").code == i


def test_end_of_file_on_the_control_socket_is_the_end(fresh):
    """The spawner holds the other end for as long as it lives: nobody is left who could take over."""
    fresh.begin("/bin/bash", "-c", "sleep 1000")
    fresh.control.close()
    assert select.select([fresh.pidfd], [], [], 5)[0]


def test_runs_are_listed_for_a_daemon_that_takes_over(fresh):
    label = bytes(range(40))
    fresh.begin("/bin/bash", "-c", "sleep 1000", run_id="long", label=label)
    done = fresh.wait(fresh.begin("/bin/bash", "-c", "echo x; exit 3", run_id="short"), ack=False)
    items, last = fresh.listed()
    assert {i["RUN_ID"]: i["STATE"] for i in items} == {"long": 0, "short": 1}
    assert [i.get("LABEL") for i in items] == [label, None] and all(i["AGE_MS"] < 60000 for i in items)
    assert last["CONFIGURED"] == 0
    again = fresh.wait("short")  # its DONE comes again by itself
    assert again.code == 3 and again.output == done.output
    fresh.ask("CONFIG")
    items, last = fresh.listed()
    assert [i["RUN_ID"] for i in items] == ["long"] and last["CONFIGURED"] == 1


def test_a_long_list_of_runs_is_told_whole(fresh):
    """More than the socket holds, to a daemon that does not read at once."""
    runs = [f"run-{i:050d}" for i in range(600)]
    for run in runs:
        fresh.wait(fresh.begin("/bin/true", run_id=run, label=bytes(64)), ack=False)
    items, _ = fresh.listed(pause_s=0.5)
    assert [i["RUN_ID"] for i in items] == runs
    for run in runs:
        assert fresh.wait(run).code == 0


def test_main_run_ends_the_sandbox():
    with Sandbox() as s:
        s.sh("sleep 1000 >/dev/null 2>&1 &")
        assert s.run("/bin/bash", "-c", "exit 7", flags=RUN_MAIN).code == 7
        assert select.select([s.pidfd], [], [], 5)[0]


def test_figures(box):
    m = box.run("/usr/bin/python3", "-c", "import time\nx = bytearray(50_000_000)\nt = time.process_time()\nwhile time.process_time() - t < 0.3: pass")
    assert 300_000 <= m["CPU_US"] < 3_000_000 and m["PEAK_BYTES"] > 50_000_000 and m["DURATION_US"] >= 300_000
    assert m["OOM_KILLS"] == 0 and m["PIDS_HITS"] == 0 and m["DISK_FREE"] > 0


def test_cpu_of_children_that_nobody_waited_for(box):
    m = box.sh("timeout 0.4 bash -c 'while :; do :; done' & disown; sleep 0.6")
    assert m["CPU_US"] > 50_000  # it competes with whatever else runs


def test_out_of_memory_kills_the_command_not_the_sandbox():
    with Sandbox(memory_mb=64) as s:
        m = s.run("/usr/bin/python3", "-c", "x = bytearray(300_000_000)")
        assert m.code == -9 and m["OOM_KILLS"] >= 1
        assert s.sh("echo alive").text == "alive\n"
        assert s.sh("true")["OOM_KILLS"] == 0


def test_a_fork_bomb_is_held_and_survived():
    with Sandbox(pids=64) as s:
        m = s.sh("b() { b | b & }; b; sleep 0.5", timeout_ms=1500)
        hits = m["PIDS_HITS"]
        assert hits > 0
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:  # what was left in the background lives on in its run's group: kill that
            try:
                if s.sh("echo alive").text == "alive\n":
                    break
            except Failed as e:
                assert e.errno == 11
            time.sleep(0.1)
        else:
            run = s.begin("/bin/true")
            s.wait(run)


def test_run_at_the_process_limit_says_so():
    with Sandbox(pids=8) as s:
        run = s.begin("/bin/bash", "-c", "for i in 1 2 3 4 5 6 7 8 9; do sleep 100 & done 2>/dev/null; sleep 100")
        time.sleep(0.5)
        with pytest.raises(Failed) as e:
            for _ in range(8):
                s.begin("/bin/sleep", "100")
        assert e.value.errno == 11 and "process limit" in e.value.text
        s.ask("KILL", ("RUN_ID", run))
        assert s.wait(run)["KILLED"] == 1


def test_a_kill_does_not_wait_for_each_command_before_it():
    """Commands wait for a killed run's processes to go; of those that do not go one learns, and not each after the other."""
    with Sandbox(pids=24) as s:
        run = s.begin("/bin/bash", "-c", "trap '' TERM; for i in $(seq 40); do sleep 100 & done 2>/dev/null; while :; do sleep 1; done")
        deadline = time.monotonic() + 30
        while s.ask("STATUS")["N_PROCS"] < 24 and time.monotonic() < deadline:
            time.sleep(0.05)
        s.ask("KILL", ("RUN_ID", run), ("SIGNAL", 15))
        began = time.monotonic()
        commands = [s.post("RUN", ("RUN_ID", f"command {i}"), ("ARG", "/bin/true"), ("CWD", "/"), ("USER", "")) for i in range(4)]
        kill = s.post("KILL", ("RUN_ID", run))
        assert s.take(lambda m: m.request == kill).kind == "OK"
        assert time.monotonic() - began < 9
        assert [s.take(lambda m: m.request == c)["ERRNO"] for c in commands] == [11] * 4
        assert s.sh("echo alive").text == "alive\n"  # which may wait again, for what dies now
        assert s.wait(run)["KILLED"] == 1


def test_orphans_are_reaped(fresh):
    fresh.sh("for i in $(seq 200); do (sleep 0.2 &) ; done")
    deadline = time.monotonic() + 30
    while (left := processes(fresh)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []
    assert fresh.ask("STATUS")["N_PROCS"] == 1


def test_cgroups_of_ended_runs_go(fresh):
    for i in range(20):
        fresh.sh("sleep 0.3 >/dev/null 2>&1 &")
    time.sleep(2)
    fresh.sh("true")
    assert len([d for d in os.listdir(f"{fresh.v2}/runs") if d.startswith("run-")]) <= 3


def test_descriptors_do_not_leak(fresh):
    def count():
        return len(os.listdir(f"/proc/{fresh.pid}/fd"))
    for _ in range(5):  # the groups that take turns are there
        fresh.sh("true")
    before = count()
    for i in range(50):
        fresh.sh("head -c 70000 /dev/zero")
        fresh.run("/no/such")
    deadline = time.monotonic() + 30  # the last one's are closed when its group is empty
    while count() > before + 1:
        assert time.monotonic() < deadline, (count(), before)
        time.sleep(0.05)


def test_bad_requests(box):
    for fields in ([("ARG", "/bin/true")], [("RUN_ID", b""), ("ARG", "/bin/true")], [("RUN_ID", "x" * 70), ("ARG", "/bin/true")], [("RUN_ID", "x")],
                   [("RUN_ID", "x"), ("ARG", b"no NUL")]):
        with pytest.raises(Failed) as e:
            box.ask("RUN", *fields)
        assert e.value.errno == 22
    box.control.send(b"garbage that is no message")
    box.control.send(os.urandom(4096))
    assert box.sh("echo still here").text == "still here\n"


def test_mangled_requests_change_nothing(fresh):
    """Every kind of request with bytes changed, cut and repeated: answered or ignored, never the end of init."""
    rng = random.Random(1)
    kinds = [("RUN", [("RUN_ID", "fuzz"), ("ARG", "/bin/true"), ("ENV", "A=b"), ("CWD", "/"), ("USER", "agent"), ("TIMEOUT_MS", 50), ("FLAGS", 0)]),
             ("CONFIG", [("HOSTS", "x\n"), ("DIR", "/tmp/fuzz")]), ("KILL", [("RUN_ID", "fuzz"), ("SIGNAL", 9)]), ("ACK", [("RUN_ID", "fuzz")]),
             ("RESULT", [("RUN_ID", "fuzz")]), ("CONNECT", [("PORT", 80)]), ("STATUS", []),
             ("OPEN", [("PATH", "/tmp/f"), ("USER", "agent"), ("OPEN_MODE", 1), ("TMP", ".orw-stage-0123456789abcdef")]),
             ("COMMIT", [("PATH", "/tmp/f"), ("TMP", ".orw-stage-0123456789abcdef")])]
    fresh.control.setblocking(False)
    for i in range(4000):
        raw = bytearray(encode(*rng.choice([(k, 7, f) for k, f in kinds])))
        for _ in range(rng.randrange(4)):
            raw[rng.randrange(16 if rng.random() < 0.7 else 0, len(raw)) if len(raw) > 16 else 0] = rng.randrange(256)
        try:
            fresh.control.send(raw[:rng.randrange(1, len(raw) + 1)] if rng.random() < 0.1 else raw)
        except BlockingIOError:
            time.sleep(0.005)
        try:
            while True:
                for fd in receive(fresh.control).fds:
                    os.close(fd)
        except BlockingIOError:
            pass
    time.sleep(0.5)
    fresh.control.settimeout(10)
    fresh.events.clear()
    assert fresh.sh("echo alive").text == "alive\n"


def test_configuration(fresh):
    fresh.sh("ln -s /etc/passwd /etc/resolv.conf; ln -s /proc/self/fd/5 /tmp/out")
    fresh.ask("CONFIG", ("HOSTNAME", "sand-box"), ("HOSTS", "127.0.0.1 localhost sand-box\n"), ("RESOLV", "nameserver 198.18.0.53\n"),
              ("DIR", "/app/deep/er"), ("DIR", "/tmp"))
    assert fresh.sh("hostname; cat /etc/hostname /etc/hosts /etc/resolv.conf; ls -ld /app/deep/er | cut -c1-10; head -c 4 /etc/passwd").text == (
        "sand-box\nsand-box\n127.0.0.1 localhost sand-box\nnameserver 198.18.0.53\ndrwxr-xr-x\nroot")
    with pytest.raises(Failed):
        fresh.ask("CONFIG", ("DIR", "/tmp/out/x"))
    assert not os.path.exists(f"{fresh.v2}/runs/x")


def test_a_configuration_that_nobody_waits_for_holds_or_init_ends():
    with Sandbox() as s:
        s.post("CONFIG", ("HOSTNAME", "sand-box"), request=0)
        assert s.sh("hostname").text == "sand-box\n" and not s.events
        s.post("CONFIG", ("DIR", "/etc/passwd"), request=0)
        assert select.select([s.pidfd], [], [], 10)[0], "init lives"


def test_unknown_request(box):
    TYPES["NEWER"] = 999
    with pytest.raises(Failed) as e:
        box.ask("NEWER")
    assert e.value.errno == 38


def test_who_a_user_is_may_change_between_two_runs(fresh):
    """By the run before, by a file call, by what a run left in the background: though nothing is read for each run."""
    def home():
        return fresh.run("/bin/sh", "-c", "echo $HOME").text.strip()

    def remembered():
        before = home()
        time.sleep(2.5)
        assert [home() for _ in range(3)] == [before] * 3
        return before

    fresh.sh("sed -i s,:/root:,:/first:, /etc/passwd")
    assert home() == "/first" and remembered() == "/first"
    staged = fresh.ask("OPEN", ("PATH", "/etc/passwd"), ("OPEN_MODE", 1))
    with os.fdopen(staged.fds[0], "w") as f:
        f.write("root:x:0:0::/second:/bin/sh\n")
    fresh.ask("COMMIT", ("PATH", "/etc/passwd"), ("TMP", staged["TMP"]))
    assert home() == "/second" and remembered() == "/second"
    fresh.sh("(sleep 0.3; sed -i s/second/third/ /etc/passwd) >/dev/null 2>&1 &")
    time.sleep(1.5)
    assert home() == "/third"


def limit(box, what, soft):
    """Of init's. From its own user namespace: root outside may lack the privilege."""
    subprocess.run(["nsenter", "--user", "--target", str(box.pid), "prlimit", "--pid", str(box.pid), f"--{what}={soft}:"], check=True)


def no_descriptors(box):
    used = {int(n) for n in os.listdir(f"/proc/{box.pid}/fd")}
    limit(box, "nofile", next(n for n in itertools.count() if n not in used))


def test_a_result_waits_for_the_descriptor_of_its_output(fresh):
    run = fresh.begin("/bin/bash", "-c", f"head -c 200000 /dev/zero; {GO}")
    while fresh.ask("READ", ("RUN_ID", run), ("OFFSET", 0), ("HAVE", 1))["STORED"] < 200000:
        time.sleep(0.02)
    limit(fresh, "nofile", 3)
    go(fresh)
    with pytest.raises(Failed) as e:
        while fresh.ask("RESULT", ("RUN_ID", run)).kind == "OK":
            time.sleep(0.02)
    assert e.value.errno == 24 and not fresh.events
    limit(fresh, "nofile", 1024)
    assert fresh.wait(run).output == b"\0" * 200000


def test_a_result_that_waits_for_a_descriptor_holds_up_no_other(fresh):
    large = fresh.begin("/bin/bash", "-c", f"head -c 200000 /dev/zero; {GO}")
    small = fresh.begin("/bin/bash", "-c", f"{GO}; sleep 0.3; echo small")
    while fresh.ask("READ", ("RUN_ID", large), ("OFFSET", 0), ("HAVE", 1))["STORED"] < 200000:
        time.sleep(0.02)
    limit(fresh, "nofile", 3)
    go(fresh)
    assert fresh.wait(small).text == "small\n"
    limit(fresh, "nofile", 1024)
    assert fresh.wait(large).output == b"\0" * 200000


def without_memory(box, kept):
    """READs into a socket that is full, of an init that can allocate nothing more: beside a few results it has none to spare."""
    runs = [box.begin("/usr/bin/head", "-c", "50000", "/dev/zero") for _ in range(kept)]
    for r in runs:
        box.wait(r, ack=False)
    with open(f"/proc/{box.pid}/statm") as f:
        size = int(f.read().split()[0]) * 4096
    limit(box, "as", size)
    asked = [box.post("READ", ("RUN_ID", runs[0]), ("OFFSET", 0)) for _ in range(40)]
    time.sleep(0.5)  # it has answered as long as there was room
    answers = {m.request: m for m in (box.take(lambda m: m.request in asked) for _ in asked)}
    assert sorted(answers) == asked
    limit(box, "as", "unlimited")
    for r in runs:
        box.post("ACK", ("RUN_ID", r))
    return [m for m in answers.values() if m.kind == "FAILED"], [m for m in answers.values() if m.kind == "OK"]


def test_an_answer_that_cannot_be_kept_is_a_failure(fresh):
    """How much its memory has left over in pieces is the allocator's business: some number of results leaves none."""
    for kept in range(1, 12):
        failed, good = without_memory(fresh, kept)
        if failed:
            break
    assert failed and good and all(len(m["OUTPUT"]) == 50000 for m in good)
    assert {(m["STAGE"], m["ERRNO"]) for m in failed} == {("answer", 12)}, failed
    assert fresh.sh("echo fine").text == "fine\n"


def test_without_a_descriptor_for_it_a_request_is_refused(fresh):
    no_descriptors(fresh)
    fd = memfd(b"echo here")
    request = fresh.post("RUN", ("RUN_ID", "x"), ("ARG", "/bin/bash"), ("ARG", "/dev/fd/9"), ("FLAGS", RUN_SCRIPT), fds=[fd])
    m = fresh.take(lambda m: m.request == request)
    assert (m.kind, m["STAGE"], m["ERRNO"]) == ("FAILED", "descriptors", 24), m
    limit(fresh, "nofile", 1024)
    assert fresh.run("/bin/bash", "/dev/fd/9", flags=RUN_SCRIPT, fds=[fd]).text == "here\n"
    os.close(fd)
