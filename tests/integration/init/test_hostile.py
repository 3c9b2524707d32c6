"""What must not be possible from inside."""
import os
import time

import pytest

from harness import Sandbox


def python(box, code, **kw):
    return box.run("/usr/bin/python3", "-c", code, **kw)


CALL = "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\ndef call(*a):\n  r = libc.syscall(*a)\n  return ctypes.get_errno() if r < 0 else 0\n"


@pytest.mark.parametrize("user", ["", "agent"])
@pytest.mark.parametrize("path", ["mem", "environ", "maps", "fd/3", "fd/5/", "cwd/", "root/etc/passwd", "exe", "auxv", "syscall", "stack"])
def test_process_1_cannot_be_read(box, user, path):
    m = box.sh(f"{'ls' if path.endswith('/') else 'cat'} /proc/1/{path} 2>&1", user=user)
    assert m.code != 0 and ("denied" in m.text or "permitted" in m.text or "No such" in m.text), m.text


@pytest.mark.parametrize("user", ["", "agent"])
def test_process_1_cannot_be_traced(box, user):
    m = python(box, CALL + "print(call(101, 16, 1, 0, 0), call(101, 0x4206, 1, 0, 0))", user=user)  # ATTACH, SEIZE
    assert m.text == "1 1\n"
    m = python(box, CALL + "print(call(310, 1, ctypes.create_string_buffer(64), 1, 0, 0, 0))", user=user)
    assert m.text.strip() in ("1", "14", "22", "3") and m.text.strip() != "0"
    m = python(box, CALL + "fd = os.pidfd_open(1)\nprint([call(438, fd, n, 0) for n in range(3, 10)])", user=user)  # pidfd_getfd
    assert m.text == "[1, 1, 1, 1, 1, 1, 1]\n"


def test_process_1_ignores_signals(fresh):
    for user in ("", "agent"):
        fresh.sh("for s in $(seq 1 31) 34 64; do kill -$s 1; done; kill -STOP 1; kill -9 1", user=user)
    python(fresh, "import os\nfor i in range(200000):\n  os.kill(1, 17)")
    assert fresh.sh("echo alive").text == "alive\n"


def test_killing_everything_kills_only_commands(fresh):
    fresh.sh("sleep 100 >/dev/null 2>&1 &")
    fresh.sh("kill -9 -1")
    assert fresh.sh("echo alive").text == "alive\n"


def test_a_child_that_is_stopped_before_it_runs_stops_nobody_else(fresh):
    """Somebody of the same user stops every process he sees, all the time."""
    fresh.sh("python3 -c '\nimport os, time\nend = time.time() + 20\nme = os.getpid()\nwhile time.time() < end:\n  for p in os.listdir(\"/proc\"):\n"
             "    if p.isdigit() and int(p) not in (1, me):\n      try: os.kill(int(p), 19)\n      except OSError: pass\n' >/dev/null 2>&1 &", user="agent")
    runs = [fresh.begin("/bin/true", user="agent") for _ in range(20)]
    start = time.monotonic()
    assert fresh.sh("echo root is fine").text == "root is fine\n"
    assert time.monotonic() - start < 10
    for r in runs:
        fresh.ask("KILL", ("RUN_ID", r))
        fresh.wait(r)


@pytest.mark.parametrize("delegated", [True, False])
@pytest.mark.parametrize("how", ["timeout", "KILL"])
def test_a_zombie_that_another_run_traces_does_not_hold_up_its_end(how, delegated):
    """Only its tracer can reap it, or let it be reaped, and that one never waits."""
    seize = CALL + "import glob\nimport time\nfound = []\nwhile not found:\n  time.sleep(0.01)\n" \
        "  found = [p for p in glob.glob('/proc/[0-9]*') if open(p + '/comm').read() == 'sleep\\n']\n" \
        "print(call(101, 0x4206, int(found[0][6:]), 0, 0), flush=True)\nwhile True:\n  time.sleep(100)"
    with Sandbox(delegated=delegated) as box:
        tracer = box.begin("/usr/bin/python3", "-c", seize, user="agent")
        traced = box.begin("/bin/sleep", "100", user="agent", timeout_ms=1000 if how == "timeout" else 0)
        start = time.monotonic()
        time.sleep(0.5)
        if how == "KILL":
            box.ask("KILL", ("RUN_ID", traced))
        box.control.settimeout(8)
        m = box.wait(traced)
        assert m["TIMED_OUT" if how == "timeout" else "KILLED"] == 1 and m.code == -9
        assert time.monotonic() - start < 4
        assert box.sh("echo alive").text == "alive\n"
        box.ask("KILL", ("RUN_ID", tracer))
        assert box.wait(tracer).text == "0\n"


ERRNO = dict(EPERM=1, ENOSYS=38, EAFNOSUPPORT=97)


@pytest.mark.parametrize("name,args,want", [
    ("io_uring_setup", "425, 1, 0", "EPERM"), ("bpf", "321, 0, 0, 0", "EPERM"), ("userfaultfd", "323, 0", "EPERM"),
    ("kexec_load", "246, 0, 0, 0, 0", "EPERM"), ("kexec_file_load", "320, 0, 0, 0, 0, 0", "EPERM"), ("keyctl", "250, 0, 0", "EPERM"),
    ("add_key", "248, 0, 0, 0, 0, 0", "EPERM"), ("request_key", "249, 0, 0, 0, 0", "EPERM"),
    ("perf_event_open", "298, 0, 0, 0, 0, 0", "EPERM"), ("init_module", "175, 0, 0, 0", "EPERM"), ("finit_module", "313, 0, 0, 0", "EPERM"),
    ("delete_module", "176, 0, 0", "EPERM"), ("mount", "165, 0, 0, 0, 0, 0", "EPERM"), ("umount2", "166, b'/tmp', 2", "EPERM"),
    ("pivot_root", "155, 0, 0", "EPERM"), ("fsopen", "430, b'tmpfs', 0", "EPERM"), ("open_tree", "428, -100, b'/', 1", "EPERM"),
    ("move_mount", "429, 0, 0, 0, 0, 0", "EPERM"), ("mount_setattr", "442, 0, 0, 0, 0, 0", "EPERM"), ("setns", "308, 0, 0", "EPERM"),
    ("unshare user", "272, 0x10000000", "EPERM"), ("clone newuser", "56, 0x10000000 | 17, 0, 0, 0, 0", "EPERM"),
    ("clone newnet", "56, 0x40000000 | 17, 0, 0, 0, 0", "EPERM"), ("clone3", "435, 0, 0", "ENOSYS"), ("syslog", "103, 3, 0, 0", "EPERM"),
    ("reboot", "169, 0, 0, 0, 0", "EPERM"), ("swapon", "167, 0, 0", "EPERM"), ("settimeofday", "164, 0, 0", "EPERM"),
    ("iopl", "172, 3", "EPERM"), ("open_by_handle_at", "304, 0, 0, 0", "EPERM"), ("sethostname", "170, b'x', 1", "EPERM"),
    ("personality randomize off", "135, 0x40000", "EPERM"), ("quotactl", "179, 0, 0, 0, 0", "EPERM"), ("lookup_dcookie", "212, 0, 0, 0", "EPERM"),
    ("socket vsock", "41, 40, 1, 0", "EAFNOSUPPORT"), ("socket alg", "41, 38, 5, 0", "EAFNOSUPPORT"),
    ("an unknown number", "500, 0", "ENOSYS"), ("an x32 number", "0x40000000 | 39", "ENOSYS"), ("fanotify_init", "300, 0, 0", "EPERM"),
])
def test_blocked_calls(box, name, args, want):
    assert python(box, CALL + f"print(call({args}))").text == f"{ERRNO[want]}\n"


def test_allowed_calls(box):
    m = python(box, CALL + "print(call(135, 0xffffffff), call(135, 8), call(41, 1, 1, 0), call(41, 2, 1, 0), call(41, 10, 2, 0), call(41, 16, 3, 0), "
               "call(319, b'm', 0), call(324, 0, 0))\nimport threading\nt = threading.Thread(target=lambda: print('thread'))\nt.start(); t.join()")
    assert m.text.splitlines()[0].split()[:7] == ["0"] * 7 and "thread" in m.text


def test_debugging_ones_own_children_works(box):
    code = CALL + "p = os.fork()\nif p == 0:\n  libc.ptrace(0, 0, 0, 0); os.kill(os.getpid(), 19); os._exit(3)\n" \
        "os.waitpid(p, 0x40000000 | 2); libc.ptrace(7, p, 0, 0); print(os.waitstatus_to_exitcode(os.waitpid(p, 0)[1]))"
    assert python(box, code, user="agent").text == "3\n"


def test_32_bit_calls_end_the_process(box):
    # mov $20, %eax; int $0x80; ret
    code = "import ctypes, mmap\nm = mmap.mmap(-1, 4096, prot=7)\nm.write(b'\\xb8\\x14\\0\\0\\0\\xcd\\x80\\xc3')\n" \
        "print(ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m)))())"
    assert python(box, code).code == -31


def test_setuid_programs_gain_the_sandboxs_root(box):
    box.sh("cp /bin/bash /tmp/rootbash && chmod 4755 /tmp/rootbash")
    m = box.run("/tmp/rootbash", "-p", "-c", "grep -E 'Uid|CapEff' /proc/self/status", user="agent")
    assert "Uid:\t1000\t0\t0\t0" in m.text and "CapEff:\t00000000a80425fb" in m.text


def test_with_no_new_privileges_they_gain_nothing():
    with Sandbox(flags="nnp") as s:
        s.sh("cp /bin/bash /tmp/rootbash && chmod 4755 /tmp/rootbash")
        assert "Uid:\t1000\t1000" in s.run("/tmp/rootbash", "-p", "-c", "grep Uid /proc/self/status", user="agent").text


CORES = """import resource as r
for limit in ((0, 0), (-1, -1), (1 << 20, -1)):
    r.setrlimit(r.RLIMIT_CORE, limit)
    print(*r.getrlimit(r.RLIMIT_CORE))
r.setrlimit(r.RLIMIT_NOFILE, (64, 64))
print(r.getrlimit(r.RLIMIT_NOFILE)[0])
"""


def test_no_core_dump_where_a_program_of_the_host_would_get_it():
    """The kernel starts that program whatever the limit is, but for 1: so nobody inside may make it another."""
    with Sandbox(flags="nocore") as s:
        assert s.run("/usr/bin/python3", "-c", CORES).text.split() == ["1", "1"] * 3 + ["64"]
    with Sandbox(flags="") as s:  # where it is written to the sandbox's own disk
        lower = "import resource as r; r.setrlimit(r.RLIMIT_CORE, (0, 0)); print(*r.getrlimit(r.RLIMIT_CORE))"
        assert s.run("/usr/bin/python3", "-c", lower).text.split() == ["0", "0"]


def test_memory_of_an_idle_init(fresh):
    for _ in range(30):
        fresh.sh("head -c 60000 /dev/zero")
    time.sleep(0.2)
    rollup = dict(line.split(":") for line in open(f"/proc/{fresh.pid}/smaps_rollup").read().splitlines()[1:])
    private = int(rollup["Private_Dirty"].split()[0])
    assert private < 300, rollup


def test_a_passwd_of_gigabytes_or_a_fifo_is_harmless(fresh):
    fresh.sh("truncate -s 3G /etc/group; rm /etc/passwd; mkfifo /etc/passwd")
    start = time.monotonic()
    assert fresh.run("/bin/echo", "hi").text == "hi\n"
    assert time.monotonic() - start < 10
    fresh.run("/bin/rm", "/etc/passwd")  # no shell: bash itself would read the FIFO
    fresh.sh("ln -s /proc/1/environ /etc/passwd")
    assert fresh.sh("id -u", user="5").text == "5\n"
    fresh.sh("rm -rf /etc/passwd; mkdir /etc/passwd")
    assert fresh.sh("id -u", user="5:6").text == "5\n"
