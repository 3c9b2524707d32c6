"""What root inside can take of memory without a process that has it, and of inodes: it is the sandbox's own that ends."""
import concurrent.futures
import contextlib
import json
import os
import time

import pytest

from orw import lines_of, settings
from test_escape import PRELUDE
from test_escape_limits import MIB, alive, init_of


@pytest.fixture(scope="module")
def box(platform):
    with platform.client() as client, client.sandbox(settings(machine_size="1:1")) as s:
        yield s


# Each prints how many MiB it holds, again and again, until it is refused or dies.
HOLD = r'''
which, held, mib = os.environ['WHAT'], [], 0
block = b'x' * (1 << 20)
def shm():
    held.append(os.open('/dev/shm/%d' % len(held), os.O_CREAT | os.O_RDWR)); assert os.write(held[-1], block) == len(block)
def memfd():
    held.append(os.memfd_create('x')); assert os.write(held[-1], block) == len(block)
def pipe():
    r, w = os.pipe(); held.extend((r, w)); os.set_blocking(w, False)
    try: fcntl.fcntl(w, 1031, 1 << 20)
    except OSError: pass  # root inside has no right to large pipes
    os.write(w, block)
def unix():
    a, b = socket.socketpair(); held.extend((a, b)); a.setblocking(False)
    a.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    try:
        for _ in range(16): a.send(block[:65536])
    except OSError: pass
server = socket.create_server(('127.0.0.1', 0), backlog=4096)
def tcp():
    c = socket.create_connection(server.getsockname(), 5); held.extend((c, server.accept()[0])); c.setblocking(False)
    try:
        for _ in range(200): c.send(block[:65536])
    except OSError: pass
while mib < 600:
    globals()[which](); mib += 1
    if mib % 16 == 0: print(mib, flush=True)
print('held', flush=True)
'''


def host_free_mib() -> int:
    return next(int(line.split()[1]) for line in lines_of("/proc/meminfo") if line.startswith("MemAvailable:")) // 1024


def charged_mib(sandbox) -> int:
    """What the kernel counts to it."""
    for line in lines_of(f"/proc/{init_of(sandbox)}/cgroup"):
        _, names, path = line.split(":", 2)
        for file in ((f"/sys/fs/cgroup/memory{path}/memory.usage_in_bytes",) if names == "memory" else (f"/sys/fs/cgroup{path}/memory.current",)):
            if os.path.exists(file):
                return int(lines_of(file)[0]) // MIB
    pytest.fail("no memory group")


def tcp_mib(sandbox) -> int:
    """The most that TCP's buffers took, where they are counted apart (cgroup v1), and then only if they have a limit."""
    for line in lines_of(f"/proc/{init_of(sandbox)}/cgroup"):
        _, names, path = line.split(":", 2)
        file = f"/sys/fs/cgroup/memory{path}/memory.kmem.tcp."
        if names == "memory" and os.path.exists(file + "limit_in_bytes"):
            assert int(lines_of(file + "limit_in_bytes")[0]) <= 512 * MIB
            return int(lines_of(file + "max_usage_in_bytes")[0]) // MIB
    return 0


@pytest.mark.parametrize("what", ["shm", "memfd", "pipe", "unix", "tcp"])
def test_memory_that_no_process_has(platform, box, client, what):
    """512 MiB is what it may use: what it holds in files in memory and in sockets' buffers counts."""
    with client.sandbox(settings(machine_size="0.5:0.5")) as s:
        s.run(f"cat > /tmp/h.py <<'E'\n{PRELUDE}{HOLD}\nE")
        out = s.run(f"(WHAT={what} timeout -s KILL 10 python3 /tmp/h.py > /tmp/held 2>&1); grep -v '[^0-9]' /tmp/held | tail -1; tail -1 /tmp/held", timeout=60)
        lines = out.output.split("\n")
        most = max([int(line) for line in lines if line.isdigit()], default=0)
        assert most >= 16, out.output  # the control: some of it may be had
        assert charged_mib(s) <= 520 and tcp_mib(s) <= 520
        if what in ("shm", "memfd"):
            assert most <= 512 and "held" not in lines, out.output
        alive(platform, box)
        s.run("rm -f /dev/shm/*")
        alive(platform, s)


# What was asked of the kernel is answered into each socket's queue, which nobody reads. 8 MiB is what one may hold here.
UNREAD = r'''
ask, held = struct.pack('=IHHIIBBHiII', 32, 18, 1, 1, 0, 0, 0, 0, 1, 0, 0), []
for i in range(400):
    held.append(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0))
    held[-1].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 26)
    held[-1].bind((0, 0))
    try:
        for _ in range(5000): held[-1].send(ask)
    except OSError: pass
    if i % 10 == 0: print(i, flush=True)
print('held', flush=True); __import__('time').sleep(20)
'''


def unread_mib(pid) -> int:
    with contextlib.suppress(OSError):
        return sum(int(line.split()[4]) for line in lines_of(f"/proc/{pid}/net/netlink")[1:]) // MIB
    return 0


def test_memory_of_netlink_queues(platform, box, client):
    """It is in nobody's limit. Who takes the host's so ends, whatever it had of its own."""
    with client.sandbox(settings(machine_size="0.5:0.5")) as s, concurrent.futures.ThreadPoolExecutor(1) as beside:
        pid, free, most = init_of(s), host_free_mib(), 0
        s.run(f"cat > /tmp/u.py <<'E'\nimport struct\n{PRELUDE}{UNREAD}\nE")
        filled = beside.submit(s.run, "python3 /tmp/u.py", timeout=60)
        while not filled.done():
            most = max(most, unread_mib(pid))
            time.sleep(0.05)
        with pytest.raises(Exception, match="netlink"):
            filled.result()
        assert 16 <= most < 3000 and free - host_free_mib() < 1000, most  # the control: some of it may be had
        with pytest.raises(Exception, match="netlink"):
            s.run("true")
        alive(platform, box)


# -- inodes -------------------------------------------------------------------------------------------------------------

INODES = r'''
def fill(folder, limit):
    n = 0
    os.makedirs(folder, exist_ok=True)
    while n < limit: open(f'{folder}/{n}', 'w').close(); n += 1
    return n
attempt('+a thousand files', lambda: fill('/tmp/few', 1000))
attempt('+a thousand files in memory', lambda: fill('/dev/shm/few', 1000))
attempt('three million files', lambda: fill('/dev/shm/many', 3000000))
'''


def fill(sandbox, program):
    """{attempt: verdict}; what died of it is not in it."""
    sandbox.run(f"cat > /tmp/i.py <<'E'\n{PRELUDE}{program}\nE")
    out = sandbox.run("python3 /tmp/i.py 2>&1", timeout=300).output
    return {json.loads(line)[0]: json.loads(line)[1] for line in out.splitlines() if line.startswith("[")}


def test_inodes_in_memory(platform, box, client):
    with client.sandbox(settings(machine_size="0.5:0.5")) as s:
        free = host_free_mib()
        found = fill(s, INODES)
        assert found["+a thousand files"] == found["+a thousand files in memory"] == "done", found
        assert found.get("three million files", "killed") in ("refused", "killed"), found
        assert charged_mib(s) <= 520 and free - host_free_mib() < 4096
        alive(platform, box)
        s.run("rm -rf /dev/shm/few /dev/shm/many", timeout=120)
        alive(platform, s)


@pytest.fixture(scope="module")
def few_files(base_images):
    with base_images.platform("sandboxes:\n  disk: 32MiB\n  files: 3000\n") as p:
        if "is not limited" in p.log():
            pytest.skip("nothing limits the disk on this machine")
        yield p


def test_inodes_of_the_disk(few_files):
    def free():
        return os.statvfs(few_files.data).f_favail

    with few_files.client() as client, client.sandbox(settings()) as s, client.sandbox(settings()) as beside:
        before = free()
        program = INODES.replace("'/dev/shm/many', 3000000", "'/tmp/many', 3000000")
        found = fill(s, program)
        assert found["+a thousand files"] == "done" and found["three million files"] == "refused", found
        assert before - free() < 200000
        alive(few_files, beside)
        assert beside.run("touch /tmp/one && echo yes").output == "yes"
