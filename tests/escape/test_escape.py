"""What root inside a sandbox, with any program it likes, must not be able to do: one attempt each, beside a control that shows
that the attempt as such works where it may. Attempts are batched in few sandboxes, as a sandbox is cheap and a run is cheaper."""
import contextlib
import fcntl
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time

import pytest

from orw import command_of, lines_of, pids, settings, wait_until
from table import attempts_of

# Prelude of every program inside. attempt() prints one JSON line: what came back, the error's name, or that the attempt itself is broken.
PRELUDE = r'''
import ctypes, errno, fcntl, json, os, resource, signal, socket, struct, sys, time
libc = ctypes.CDLL(None, use_errno=True)
def call(*a):
    ctypes.set_errno(0)
    r = libc.syscall(*[ctypes.c_long(x) if isinstance(x, int) else x for x in a])
    if r < 0: raise OSError(ctypes.get_errno(), '')
    return r
def create(path):
    """Where a name is not, an attempt is to make it. Some file systems (/proc) make nothing by any name: there the folder is touched, which
    shows whether it lies on a mount that may be written to."""
    try: return os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    except FileNotFoundError:
        folder = os.path.dirname(path)
        while not os.path.isdir(folder): folder = os.path.dirname(folder)
        os.utime(folder)
        raise
def write(path, text):
    fd = create(path)
    try: return os.write(fd, text if isinstance(text, bytes) else text.encode())
    finally: os.close(fd)
def read(path, n=200):
    fd = os.open(path, os.O_RDONLY)
    try: return os.read(fd, n).decode(errors='replace')
    finally: os.close(fd)
def attempt(name, fn):
    try: r = ['done', fn()]
    except TimeoutError: r = ['refused', 'ETIMEDOUT']
    except OSError as e: r = ['refused', errno.errorcode[e.errno]] if e.errno in errno.errorcode else ['broken', repr(e)]
    except Exception as e: r = ['broken', repr(e)]
    print(json.dumps([name] + r, default=str), flush=True)
'''


def inside(sandbox, program, timeout=60):
    """{attempt: (verdict, detail)} of a Python program inside."""
    sandbox.run(f"cat > /tmp/attack.py <<'END-OF-IT'\n{PRELUDE}{program}\nEND-OF-IT")
    out = sandbox.run("python3 /tmp/attack.py 2>&1", timeout=timeout).output
    found = {}
    for line in out.splitlines():
        try:
            name, verdict, detail = json.loads(line)
        except ValueError:
            pytest.fail(f"the attack itself is broken: {out[-2000:]}")
        found[name] = (verdict, detail)
    assert found, out
    return found


def judge(found, own=()):
    """Names beginning with '+' are controls and must have worked; all others must have been refused by the kernel, and are in README.md's
    table for the test that calls this. own: parts of names that only this machine has."""
    assert any(name.startswith("+") for name in found), "no control ran"
    broken = {n: v for n, v in found.items() if n.startswith("+") and v[0] != "done"}
    assert not broken, f"controls failed: {broken}"
    escaped = {n: v for n, v in found.items() if not n.startswith("+") and v[0] != "refused"}
    assert not escaped, escaped
    absent = [n for n, v in found.items() if n.startswith("write ") and v[1] == "ENOENT"]
    assert not absent, f"what is not there refuses nothing: {absent}"
    test = os.environ["PYTEST_CURRENT_TEST"].split("::")[1].split(" ")[0].split("[")[0]
    tried = {n for n in found if not n.startswith("+") and not any(part in n for part in own)}
    assert tried == attempts_of(test), f"not in README.md: {tried - attempts_of(test)}; not tried: {attempts_of(test) - tried}"


@pytest.fixture(scope="module")
def box(platform):
    from openreward import OpenReward
    with OpenReward() as client, client.sandbox(settings()) as s:
        yield s


# -- process 1 --------------------------------------------------------------------------------------------------------

PROCESS_1 = r'''
class Limit(ctypes.Structure): _fields_ = [('soft', ctypes.c_ulong), ('hard', ctypes.c_ulong)]
def limit(pid, which, value):
    new = Limit(value, value)
    return call(302, pid, which, ctypes.byref(new), None)
here = ctypes.create_string_buffer(b'secret')
def peek(pid):
    there = ctypes.create_string_buffer(6)
    iov = [(ctypes.c_ulong * 2)(ctypes.addressof(b), 6) for b in (there, here)]
    return call(310, pid, iov[0], 1, iov[1], 1, 0)
child = os.fork()
if child == 0: time.sleep(30); os._exit(0)
me = os.getpid()
for name, pid, sign in (('child', child, '+'), ('process 1', 1, '')):
    attempt(f'{sign}limit files of {name}', lambda: limit(pid, 7, 64))
    attempt(f'{sign}limit processor time of {name}', lambda: limit(pid, 0, 1000))
    attempt(f'{sign}limit address space of {name}', lambda: limit(pid, 9, 1 << 40))
    attempt(f'{sign}limit processes of {name}', lambda: limit(pid, 6, 500))
    attempt(f'{sign}make {name} the first that the kernel kills', lambda: write(f'/proc/{pid}/oom_score_adj', '1000'))
    attempt(f'{sign}write coredump_filter of {name}', lambda: write(f'/proc/{pid}/coredump_filter', '1'))
    attempt(f'{sign}write clear_refs of {name}', lambda: write(f'/proc/{pid}/clear_refs', '1'))
    attempt(f'{sign}read the environment of {name}', lambda: read(f'/proc/{pid}/environ'))
    attempt(f'{sign}read the memory map of {name}', lambda: read(f'/proc/{pid}/maps'))
    attempt(f'{sign}open the memory of {name}', lambda: os.close(os.open(f'/proc/{pid}/mem', os.O_RDWR)))
    attempt(f'{sign}see a descriptor of {name}', lambda: os.readlink(f'/proc/{pid}/fd/0'))
    attempt(f'{sign}open a descriptor of {name}', lambda: os.close(os.open(f'/proc/{pid}/fd/0', 0)))
    attempt(f'{sign}copy memory of {name}', lambda: peek(pid))
    attempt(f'{sign}see the root of {name}', lambda: os.listdir(f'/proc/{pid}/root/'))
    attempt(f'{sign}see the program of {name}', lambda: os.readlink(f'/proc/{pid}/exe'))
    attempt(f'{sign}take a descriptor of {name}', lambda: os.close(call(438, os.pidfd_open(pid), 0, 0)))
    attempt(f'{sign}seize {name}', lambda: call(101, 0x4206, pid, 0, 0))
    attempt(f'{sign}set the nice value of {name}', lambda: os.setpriority(os.PRIO_PROCESS, pid, 19))
    attempt(f'{sign}move {name} to one processor', lambda: os.sched_setaffinity(pid, [0]))
os.kill(child, 9)
child = 0
for sig in list(range(1, 32)) + [34, 64]: os.kill(1, sig)
for _ in range(20000): os.kill(1, signal.SIGCHLD)
'''


def test_process_1_is_out_of_reach(box):
    judge(inside(box, PROCESS_1))
    assert box.run("echo alive; seq 1 100000 | tail -1").output == "alive\n100000"


VICTIM = r'''
import ctypes, os, sys, time
here = ctypes.create_string_buffer(b'secret')
print(ctypes.addressof(here), flush=True)
os.fork()
time.sleep(600)
'''
NEIGHBOUR = r'''
PIDS, AT, MARK = %r, %r, '-'.join(%r)
here = ctypes.create_string_buffer(b'secret')
def copy(number, pid, at):
    mine = ctypes.create_string_buffer(b'copied')
    iov = [(ctypes.c_ulong * 2)(a, 6) for a in (ctypes.addressof(mine), at)]
    return call(number, pid, iov[0], 1, iov[1], 1, 0)
def attach(request, pid):
    call(101, request, pid, 0, 0)
    if request == 0x4206: call(101, 0x4207, pid, 0, 0)
    os.waitpid(pid, 0x40000000)
    call(101, 17, pid, 0, 0)
def seen(words):
    """Whose command line has these words, among all processes that there are."""
    for p in filter(str.isdigit, os.listdir('/proc')):
        try: shown = open(f'/proc/{p}/cmdline', 'rb').read()
        except OSError: continue
        if words.encode() in shown: return int(p)
    raise OSError(errno.ESRCH, '')
def any_of(pids, fn):
    """It works on one of them; or each answers that there is no such process, or none for us."""
    for pid in pids:
        try: return fn(pid) or pid
        except OSError as e:
            if e.errno not in (errno.ESRCH, errno.EPERM): return f'{pid}: {e}'
            last = e
    raise last
child = os.fork()
if child == 0: time.sleep(60); os._exit(0)
for name, pids, at, words, sign in (('an own child', [child], ctypes.addressof(here), 'python', '+'),
                                    ('a neighbour', PIDS, AT, MARK, '')):
    attempt(f'{sign}see {name}', lambda: seen(words))
    attempt(f'{sign}attach to {name}', lambda: any_of(pids, lambda pid: attach(16, pid)))
    attempt(f'{sign}seize {name}', lambda: any_of(pids, lambda pid: attach(0x4206, pid)))
    attempt(f'{sign}copy memory of {name}', lambda: any_of(pids, lambda pid: copy(310, pid, at)))
    attempt(f'{sign}change memory of {name}', lambda: any_of(pids, lambda pid: copy(311, pid, at)))
    attempt(f'{sign}a descriptor of {name}', lambda: any_of(pids, lambda pid: os.close(os.pidfd_open(pid))))
    attempt(f'{sign}stop {name}', lambda: any_of(pids, lambda pid: os.kill(pid, signal.SIGSTOP)))
    attempt(f'{sign}kill {name}', lambda: any_of(pids, lambda pid: os.kill(pid, signal.SIGKILL)))
'''


def processes_of(sandbox):
    """As the host numbers them, and their command lines."""
    return {p: command_of(p) for p in pids() if any(sandbox.sid in line for line in lines_of(f"/proc/{p}/cgroup"))}


def test_processes_of_a_neighbour_are_out_of_reach(client):
    """By the host's numbers, and by all that can be seen; root of the host reaches them by the same numbers."""
    words = ("victim", str(os.getpid()))
    mark, small = "-".join(words), settings(machine_size="0.5:0.5")
    with client.sandbox(small) as mine, client.sandbox(small) as neighbour:
        neighbour.run(f"cat > /tmp/v.py <<'E'\n{VICTIM}\nE\npython3 /tmp/v.py {mark} >/tmp/where 2>&1 &")
        wait_until(lambda: neighbour.run("cat /tmp/where").output.strip().isdigit(), what="the neighbour's processes")
        at = int(neighbour.run("cat /tmp/where").output)
        wait_until(lambda: len([c for c in processes_of(neighbour).values() if mark in c]) == 2, what="both of them")
        there = processes_of(neighbour)
        numbers = sorted(there, key=lambda p: mark not in there[p])
        program = NEIGHBOUR % (numbers, at, words)
        assert int(mine.run("echo $$").output) + 100 < min(numbers), "the control: no number is one of its own, too"
        judge(inside(mine, program))
        for p in numbers[:2]:
            status = dict(line.split(":\t", 1) for line in lines_of(f"/proc/{p}/status"))
            assert status["State"].startswith("S") and status["TracerPid"] == "0", status
        reached = on_the_host(program)
        assert len(reached) == 16 and all(verdict == "done" for verdict, _ in reached.values()), reached
        wait_until(lambda: numbers[0] not in pids(), what="the end of what the host killed")


def test_no_memory_trick_ends_process_1(client):
    """Memory that belongs to no process (System V segments) fills the sandbox: commands die, the sandbox does not."""
    program = PRELUDE + r'''
libc.shmat.restype = ctypes.c_void_p
for i in range(12):
    at = libc.shmat(libc.shmget(0, 64 << 20, 0o1666), None, 0)
    if os.fork() == 0:
        ctypes.memset(at, 1, 64 << 20)
        os._exit(0)
    os.wait()
    print(i, flush=True)
'''
    with client.sandbox(settings(machine_size="0.5:0.5")) as s:
        result = s.run(f"cat > /tmp/a.py <<'E'\n{program}\nE\npython3 /tmp/a.py", timeout=60)
        assert "3" in result.output.split() and "11" not in result.output.split(), result
        # What is left over is next to nothing: a command may die of it, but it is told apart from a fault of ours.
        assert s.run("ipcrm --all=shm; echo alive").output.endswith("alive")


# -- the kernel -------------------------------------------------------------------------------------------------------

KERNEL = r'''
attempt('+openat', lambda: os.close(os.open('/etc/passwd', 0)))
attempt('+memfd_create', lambda: os.close(os.memfd_create('x')))
fifo = '/tmp/fifo-%d' % os.getpid()
attempt('+mknod of a FIFO', lambda: [os.mkfifo(fifo), os.unlink(fifo)] and 1)
attempt('+chroot', lambda: 0 if os.fork() == 0 and (os.chroot('/tmp') or os._exit(0)) else os.wait() and 1)
for name, args in {
    'mount': (165, b'none', b'/tmp', b'tmpfs', 0, None), 'umount2': (166, b'/proc/sys', 2), 'pivot_root': (155, b'/', b'/tmp'),
    'fsopen': (430, b'tmpfs', 0), 'open_tree': (428, -100, b'/', 1), 'move_mount': (429, -1, b'', -1, b'', 0),
    'mount_setattr': (442, -100, b'/proc/sys', 0, ctypes.create_string_buffer(32), 32),
    'unshare user': (272, 0x10000000), 'unshare mount': (272, 0x20000), 'unshare net': (272, 0x40000000), 'clone3': (435, None, 0),
    'clone user': (56, 0x10000011, None, None, None, None), 'setns': (308, os.open('/proc/self/ns/pid', 0), 0),
    'bpf': (321, 0, None, 0), 'bpf, a program': (321, 5, ctypes.create_string_buffer(120), 120), 'perf_event_open': (298, None, 0, -1, -1, 0), 'userfaultfd': (323, 0), 'userfaultfd, user only': (323, 1),
    'io_uring_setup': (425, 1, ctypes.create_string_buffer(120)), 'io_uring_enter': (426, 0, 0, 0, 0, None), 'keyctl': (250, 0, -3, 0),
    'add_key': (248, b'user', b'x', b'y', 1, -3), 'request_key': (249, b'user', b'x', None, -3), 'init_module': (175, None, 0, b''),
    'finit_module': (313, 0, b'', 0), 'delete_module': (176, b'x', 0), 'kexec_load': (246, 0, 0, None, 0), 'kexec_file_load': (320, -1, -1, 0, None, 0),
    'syslog': (103, 3, ctypes.create_string_buffer(64), 64), 'syslog size': (103, 10, None, 0), 'reboot': (169, 0xfee1dead, 672274793, 0x89abcdef, None),
    'swapon': (167, b'/tmp/x', 0), 'acct': (163, b'/tmp/acct'), 'settimeofday': (164, ctypes.create_string_buffer(16), None),
    'clock_settime': (227, 0, ctypes.create_string_buffer(16)), 'sethostname': (170, b'x', 1), 'setdomainname': (171, b'x', 1),
    'iopl': (172, 3), 'ioperm': (173, 0, 1, 1), 'open_by_handle_at': (304, -100, ctypes.create_string_buffer(64), 0), 'quotactl': (179, 0, None, 0, None),
    'fanotify_init': (300, 0, 0), 'vhangup': (153,), 'lookup_dcookie': (212, 0, None, 0), 'personality': (135, 0x40000),
    'kcmp': (312, os.getpid(), os.getpid(), 0, 0, 0),
    'io_setup': (206, 1, ctypes.byref(ctypes.c_ulong())), 'io_submit': (209, 0, 0, None),
    'mknod of a disk': (133, b'/tmp/disk', 0o60600, 0x800), 'mknod of memory': (133, b'/tmp/mem', 0o20600, 0x101),
}.items():
    if ONLY and name not in ONLY: continue
    attempt(name, lambda: call(*args))
for family, kind, protocol in ((1, 1, 0), (2, 1, 0), (10, 2, 0), (16, 3, 0)):
    attempt(f'+socket {family}', lambda: socket.socket(family, kind, protocol).close())
for name, family, kind, protocol in (('vsock', 40, 1, 0), ('alg', 38, 5, 0), ('raw', 2, 3, 1), ('raw of all', 2, 3, 255), ('packet', 17, 3, 0x300),
                                     ('bluetooth', 31, 3, 1), ('xdp', 44, 3, 0), ('kcm', 41, 5, 0), ('rds', 21, 5, 0), ('tipc', 30, 1, 0)):
    attempt(f'socket {name}', lambda: socket.socket(family, kind, protocol).close())
def rtnetlink():
    s = socket.socket(16, 3, 0)
    s.send(struct.pack('IHHIIBBHiII', 32, 16, 5, 1, 0, 0, 0, 0, 1, 0, 1))
    code = struct.unpack_from('i', s.recv(200), 16)[0]
    if code: raise OSError(-code, '')
attempt('take the loopback down', rtnetlink)
'''
# Without effect where they are let through: to root of the host the kernel gives an answer of its own, another than the filter's.
LET_THROUGH = {"mount", "fsopen", "open_tree", "bpf", "bpf, a program", "perf_event_open", "userfaultfd", "io_uring_setup",
               "io_uring_enter", "keyctl", "add_key", "syslog size", "open_by_handle_at", "fanotify_init", "kcmp", "personality",
               "unshare mount", "io_setup", "socket raw", "socket packet"}
POLICY = {"EPERM", "ENOSYS", "EAFNOSUPPORT", "EPROTONOSUPPORT", "EACCES"}


def on_the_host(program: str, *wrapper: str) -> dict:
    """The same attempts by root of the host, in namespaces of its own."""
    out = subprocess.run([*wrapper, sys.executable, "-c", PRELUDE + program], capture_output=True, text=True, timeout=60, check=False)
    return {name: (verdict, detail) for name, verdict, detail in map(json.loads, out.stdout.splitlines())}


def test_kernel_calls(box):
    found = inside(box, "ONLY = ()\n" + KERNEL)
    judge(found)
    assert {n: v for n, v in found.items() if not n.startswith("+") and v[1] not in POLICY} == {}, "refused for another reason than that it is"
    program = f"ONLY = {sorted(LET_THROUGH)}\n" + KERNEL.partition("def rtnetlink")[0]
    free = on_the_host(program, "unshare", "--mount", "--propagation", "private")
    refused = {n: free[n] for n in LET_THROUGH if free[n][0] == "broken" or free[n][1] in POLICY and free[n] not in lacking(n)}
    assert not refused, f"the control: these refuse anybody: {refused}"


def lacking(name):
    """What a kernel says that was built or set to have no such call for anybody."""
    found = [("refused", "ENOSYS")]
    if name.startswith("socket "):
        found.append(("refused", "EAFNOSUPPORT"))
    with contextlib.suppress(OSError), open("/proc/sys/kernel/io_uring_disabled", encoding="ascii") as f:
        if name == "io_uring_setup" and f.read().strip() == "2":
            found.append(("refused", "EPERM"))
    return found


FILES = r'''
attempt('+write below /tmp', lambda: open('/tmp/mine', 'w').write('x'))
attempt('+read /proc/sys', lambda: read('/proc/sys/kernel/core_pattern'))
attempt('+read /sys', lambda: os.listdir('/sys/class'))
for path in ('/proc/sys/kernel/core_pattern', '/proc/sys/kernel/hostname', '/proc/sys/kernel/modprobe', '/proc/sys/vm/overcommit_memory',
             '/proc/sys/fs/file-max', '/proc/sys/net/ipv4/ip_forward', '/proc/sys/net/ipv4/conf/all/route_localnet', '/proc/sys/kernel/ns_last_pid',
             '/proc/sys/fs/binfmt_misc/register', '/proc/sysrq-trigger', '/proc/irq/default_smp_affinity', '/proc/bus/x', '/proc/1/uid_map',
             '/sys/kernel/uevent_helper', '/sys/power/state', '/sys/kernel/mm/transparent_hugepage/enabled', '/sys/class/net/lo/mtu', '/sys/x',
             '/sys/kernel/debug/x', '/sys/fs/cgroup/cgroup.procs', '/sys/fs/cgroup/release_agent', '/dev/x', '/dev/null/x', '/dev/kmsg', '/dev/mem', '/dev/port',
             '/dev/sda', '/dev/vda', '/dev/fuse', '/dev/net/tun', '/dev/kvm', '/dev/loop-control', '/dev/console', '/run/openreward-host/x'):
    attempt(f'write {path}', lambda: write(path, '0'))
for path in ('/proc/kcore', '/proc/kmsg', '/proc/keys', '/proc/key-users', '/proc/timer_list', '/proc/1/environ', '/sys/firmware/dmi/tables/DMI'):
    attempt(f'read {path}', lambda: read(path) or os.open('/nothing', 0))
def addresses():
    if any(int(line.split()[0], 16) for line in open('/proc/kallsyms').readlines()[:2000]): return 'addresses are shown'
    raise OSError(1, '')
attempt('addresses of the kernel', addresses)
attempt('change the time stamps of a device', lambda: os.utime('/dev/null'))
attempt('change the mode of a device', lambda: os.chmod('/dev/null', 0o777))
attempt('give a file to a user of the host', lambda: os.chown('/tmp/mine', 1 << 20, 1 << 20))
attempt('+give a file to a user of the sandbox', lambda: os.chown('/tmp/mine', 1000, 1000))
attempt('trusted attribute', lambda: os.setxattr('/tmp/mine', 'trusted.overlay.redirect', b'/etc'))
attempt('+user attribute', lambda: os.setxattr('/tmp/mine', 'user.x', b'y'))
def inject(own):
    """By a process that has a terminal, without which the kernel looks no further."""
    mine, other, (r, w) = os.openpty(), os.openpty(), os.pipe()
    if os.fork() == 0:
        code = 255
        try:
            os.setsid(); fcntl.ioctl(mine[1], 0x540e, 0); os.close(os.open('/dev/tty', os.O_RDWR))
            try: code = fcntl.ioctl((mine if own else other)[1], 0x5412, b'x') and 0
            except OSError as e: code = e.errno
        finally:
            os.write(w, bytes([code])); os._exit(0)
    os.wait()
    code = os.read(r, 1)[0]
    for fd in (*mine, *other, r, w): os.close(fd)
    if code and not (own and code == errno.EIO): raise OSError(code, '')  # EIO: dev.tty.legacy_tiocsti is 0, nobody may
attempt('+push input into the own terminal', lambda: inject(True))
attempt('push input into a terminal that is not ours', lambda: inject(False))
def neighbours():
    mine = set(os.listdir('/proc'))
    if any(p.isdigit() and b'openreward-spawner' in open(f'/proc/{p}/cmdline', 'rb').read() for p in mine): return 'the spawner is visible'
    raise OSError(1, '')
attempt('see processes of the host', neighbours)
def cgroup():
    v2 = [line.split(':')[2].strip() for line in open('/proc/self/cgroup') if line.startswith('0::')][0]
    if '..' in v2 or 'orw-' in v2: return v2
    raise OSError(1, '')
attempt('see the groups of the host', cgroup)
'''


def test_files_of_the_kernel(box):
    judge(inside(box, FILES))


def test_descriptors_of_a_command_are_its_own(box):
    """And that of the folder that is listed."""
    listed = [line.split(" -> ")[1] for line in box.run("exec ls -l /proc/self/fd").output.splitlines() if " -> " in line]
    assert sorted(re.sub(r"\d+", "N", to) for to in listed) == ["/dev/null", "/proc/N/fd", "pipe:[N]", "pipe:[N]"], listed


# -- the host and the neighbours --------------------------------------------------------------------------------------

@contextlib.contextmanager
def services_of_the_host():
    """A TCP service on every address, and one on an abstract unix socket."""
    with socket.create_server(("0.0.0.0", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(f"\0openreward-test-{os.getpid()}")
        unix.listen()
        over = threading.Event()

        def serve():
            tcp.settimeout(0.1)
            while not over.is_set():
                with contextlib.suppress(OSError):
                    tcp.accept()[0].sendall(b"a service of the host")

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            with socket.create_connection(tcp.getsockname(), 5) as s:
                assert s.recv(100) == b"a service of the host"
            with socket.socket(socket.AF_UNIX) as s:
                s.connect(unix.getsockname())
            yield tcp.getsockname()[1], unix.getsockname().decode().lstrip("\0")
        finally:
            over.set()
            thread.join()


NETWORK = r'''
PORT, UNIX = %d, %r
def reach(host, port):
    family = socket.AF_INET6 if ':' in host else socket.AF_INET
    s = socket.socket(family); s.settimeout(5); s.connect((host, port)); s.sendall(b'GET / HTTP/1.0\r\n\r\n')
    return s.recv(100).decode(errors='replace') or os.open('/nothing', 0)
def abstract():
    s = socket.socket(socket.AF_UNIX); s.connect('\0' + UNIX)
def platform(request):
    s = socket.create_connection(('openreward.internal', 80), 5); s.settimeout(5); s.sendall(request); s.shutdown(socket.SHUT_WR)
    text = b''
    while True:
        part = s.recv(65536)
        if not part: break
        text += part
    return int(text.split(b' ')[1])
def must(request, wanted):
    got = platform(request)
    if got != wanted: raise OSError(errno.EBADMSG, str(got))
    return got
attempt('+the platform by its name', lambda: reach('openreward.internal', 80))
own = socket.create_server(('0.0.0.0', 0))
attempt('+own service', lambda: socket.create_connection(('127.0.0.1', own.getsockname()[1]), 5).close())
attempt('+own abstract socket', lambda: [socket.socket(socket.AF_UNIX).bind('\0mine')] and 1)
for host in %r + ['127.0.0.1', '0.0.0.0', '::1', '::', '::ffff:127.0.0.1', '::7f00:1', '64:ff9b::7f00:1', '2002:7f00:1::1', '169.254.169.254',
             'fd00:ec2::254', '10.0.0.1', '::ffff:10.0.0.1', '192.168.0.1', '172.17.0.1', '100.100.100.200', 'fe80::1', 'fec0::1', '198.18.0.1', '198.18.0.81']:
    attempt(f'reach {host}', lambda: reach(host, PORT))
attempt('abstract socket of the host', abstract)
for host in ('openreward.internal', 'localhost', '127.0.0.1', 'x'):
    h = host.encode()
    attempt(f'+no key, Host {host}', lambda: must(b'GET /v1/environments?owner=local HTTP/1.1\r\nHost: %%s\r\nX-Forwarded-For: 127.0.0.1\r\nConnection: close\r\n\r\n' %% h, 401))
    attempt(f'+no run, Host {host}', lambda: must(b'POST /run HTTP/1.1\r\nHost: %%s\r\nX-Session-ID: %s\r\nConnection: close\r\nContent-Length: 12\r\n\r\n{"cmd":"id"}' %% h, 401))
attempt('+no figures', lambda: must(b'GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n', 403))
attempt('+no proxy', lambda: must(b'CONNECT 127.0.0.1:%%d HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n' %% PORT, 405))
attempt('+no forwarding', lambda: must(b'GET http://127.0.0.1:%%d/ HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n' %% PORT, 404))
'''


def test_host_neighbours_and_private_addresses(box, client):
    addresses = []
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.connect(("192.0.2.1", 9))
        addresses += [s.getsockname()[0], "::ffff:" + s.getsockname()[0]]
    with services_of_the_host() as (port, unix), client.sandbox(settings()) as neighbour:
        neighbour.run(f"python3 -m http.server {port} >/dev/null 2>&1 &")
        fetch = f"python3 -c \"import urllib.request as u; print(u.urlopen('http://127.0.0.1:{port}/').status)\""
        wait_until(lambda: neighbour.run(fetch).output == "200", what="the neighbour's server")
        judge(inside(box, NETWORK % (port, unix, addresses, neighbour.sid)), own=addresses)


# -- file calls -------------------------------------------------------------------------------------------------------

def file_call(platform, sandbox, op, query, body=b"", timeout_s=30):
    return platform.request("POST", f"/{op}?{query}", body, headers={"X-Session-ID": sandbox.sid}, timeout_s=timeout_s)


def upload(platform, sandbox, path, body=b"hostile"):
    status, _, answer = file_call(platform, sandbox, "write_file", f"path={path}&offset=0", body)
    if status == 200:
        status, _, answer = file_call(platform, sandbox, "write_file", f"path={path}&commit=1&size={len(body)}")
    return status, answer


def test_uploads_and_downloads_stay_on_the_disk_of_the_sandbox(platform, box):
    box.run("mkdir -p /tmp/f; cd /tmp/f; echo x > plain; ln -s /proc/1/environ link; ln -s /proc dir; ln -s /proc/1/root root; ln -s ../../../.. up;"
            "ln -s /dev/null null; mkfifo fifo; ln -s /proc/self/fd/3 fd; ln -s /proc/self/cwd cwd; ln -s loop loop")
    assert upload(platform, box, "/tmp/f/plain") == (200, upload(platform, box, "/tmp/f/plain")[1])
    assert file_call(platform, box, "read_file", "path=/tmp/f/plain")[::2] == (200, b"hostile")
    hostile = ["/tmp/f/link", "/tmp/f/dir/1/environ", "/tmp/f/dir/sys/kernel/hostname", "/tmp/f/root/etc/passwd", "/tmp/f/null", "/tmp/f/fifo", "/tmp/f/fd",
               "/tmp/f/cwd/etc/passwd", "/tmp/f/loop", "/proc/self/mem", "/proc/1/fd/3", "/proc/1/environ", "/proc/sys/kernel/hostname", "/proc/self/fd/5",
               "/sys/kernel/uevent_seqnum", "/dev/null", "/dev/zero", "/dev/pts/ptmx", "/dev/shm", "/"]
    for path in hostile:
        start = time.monotonic()
        status, _, answer = file_call(platform, box, "read_file", f"path={path}")
        assert 400 <= status < 500, (path, status, answer[:200])
        status, answer = upload(platform, box, path)
        assert 400 <= status < 500, (path, status, answer[:200])
        assert time.monotonic() - start < 40, path
    # '..' ends at the sandbox's own root.
    inside_text = box.run("cat /etc/passwd").output
    status, _, answer = file_call(platform, box, "read_file", "path=/tmp/f/up/../../../etc/passwd")
    assert status == 200 and answer.decode().strip() == inside_text.strip()


def test_a_file_of_terabytes_holds_up_nobody(platform, box, client):
    """A sparse file costs nothing: hashing it must leave room for others, and end with its sandbox or its client."""
    with client.sandbox(settings()) as s:
        s.run("truncate -s 8T /tmp/huge; echo small > /tmp/small")

        def ask():
            with contextlib.suppress(OSError):
                file_call(platform, s, "stat_file", "path=/tmp/huge&sha256=1", timeout_s=4)
        askers = [threading.Thread(target=ask) for _ in range(12)]
        for t in askers:
            t.start()
        time.sleep(0.5)
        start = time.monotonic()
        for sandbox in (s, box):
            assert upload(platform, sandbox, "/tmp/beside")[0] == 200
            assert file_call(platform, sandbox, "stat_file", "path=/tmp/beside&sha256=1")[0] == 200
        assert time.monotonic() - start < 60
        for t in askers:
            t.join()
    used = cpu_of(platform)
    time.sleep(1)
    assert cpu_of(platform) - used < 0.5, "the daemon still hashes"


def cpu_of(platform):
    with open(f"/proc/{platform.process.pid}/stat", encoding="utf-8", errors="replace") as f:
        fields = f.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


LEASES = r'''
def lease(path):
    fd = os.open(path, os.O_RDONLY | os.O_CREAT)
    fcntl.fcntl(fd, 1024, fcntl.F_WRLCK)
attempt('+ask for a lease', lambda: fcntl.fcntl(os.open('/etc/group', 0), 1025))
attempt('+lock a file', lambda: fcntl.flock(os.open('/etc/group', 0), 2))
for path in ('/tmp/leased', '/dev/shm/leased', '/etc/group'): attempt(f'lease {path}', lambda: lease(path))
'''


def test_leases(box, tmp_path):
    """Others' open() would wait for it up to 45 s: process 1's, and, on a file of a bucket, everybody's."""
    judge(inside(box, LEASES))
    with open(tmp_path / "free", "w", encoding="utf-8") as f, open(tmp_path / "free", encoding="utf-8") as g:
        f.close()
        fcntl.fcntl(g, fcntl.F_SETLEASE, fcntl.F_WRLCK)  # the control: it works outside
        fcntl.fcntl(g, fcntl.F_SETLEASE, fcntl.F_UNLCK)


# -- exhaustion -------------------------------------------------------------------------------------------------------

EXHAUST = r'''
def until_refused(fn, limit=3000000):
    n = 0
    try:
        while n < limit: fn(); n += 1
    except OSError: pass
    return n
held = []
which = os.environ['WHAT']
if which == 'processes':
    def forker():
        if os.fork() == 0:
            os._exit(0)  # and is counted as before, since nobody waits for it; alive, so many would fill the memory first
    print(until_refused(forker, 100000), flush=True)
elif which == 'descriptors':
    print(until_refused(lambda: held.append(os.open('/dev/null', 0))), flush=True)
elif which == 'pipes':
    def pipe():
        r, w = os.pipe(); held.append((r, w)); os.set_blocking(w, False); os.write(w, b'x' * 65536)
    print(until_refused(pipe), flush=True)
elif which == 'ports':
    def listener():
        s = socket.socket(); s.bind(('127.0.0.1', 2000 + len(held))); s.listen(4096); held.append(s)
    print(until_refused(listener, 30000), flush=True)
elif which == 'questions':
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.setblocking(False)
    def ask(i):
        try: return s.sendto(struct.pack('>HHHHHH', i & 65535, 256, 1, 0, 0, 0) + b'\x01x\x07invalid\0\0\1\0\1', ('192.0.2.53', 53)) > 0
        except OSError: return False
    print(sum(ask(i) for i in range(20000)), flush=True)
    while True: ask(0)
elif which == 'connections':
    for i in range(3000):
        try:
            s = socket.socket(); s.setblocking(False); s.connect_ex(('192.0.2.9', 80)); held.append(s)
        except OSError: break
    print(len(held), flush=True)
while True: signal.pause()
'''
LEAST = {"processes": 1000, "descriptors": 10000, "pipes": 1000, "ports": 10000, "questions": 1000, "connections": 1000}


@contextlib.contextmanager
def exhausted(platform, sandbox, what):
    """Something in it holds all of this that can be had, the whole time."""
    runs = f"/v1/sandboxes/{sandbox.sid}/runs"
    status, _, answer = platform.request("POST", runs, json.dumps({"cmd": f"WHAT={what} exec python3 /tmp/e.py"}).encode())
    assert status == 201, answer
    run = f"{runs}/{json.loads(answer)['id']}"

    def said():
        return platform.request("GET", f"{run}/output")[2].decode()

    def lives():
        return json.loads(platform.request("GET", run)[2])["state"] == "running"
    wait_until(lambda: said().endswith("\n") or not lives(), 120, f"as many {what} as can be had")
    assert lives() and int(said()) >= LEAST[what], (what, said())
    yield
    assert lives(), f"nobody held {what} any more"
    assert platform.request("DELETE", run)[0] == 200


def test_a_greedy_sandbox_starves_no_neighbour(client, box, platform):
    def beside():
        start = time.monotonic()
        assert box.run("echo beside", timeout=60).output == "beside"
        assert platform.request("GET", "/health")[0] == 200
        assert time.monotonic() - start < 30
    with client.sandbox(settings(machine_size="0.5:0.5")) as s:
        s.run(f"cat > /tmp/e.py <<'E'\n{PRELUDE}{EXHAUST}\nE")
        for what in LEAST:
            with exhausted(platform, s, what):
                beside()
        beside()
        assert s.run("echo alive").output == "alive"
        name = "python3 -c \"import socket; print(socket.gethostbyname('openreward.internal'))\""
        for sandbox in (s, box):
            assert sandbox.run(name).output == "198.18.0.80"
