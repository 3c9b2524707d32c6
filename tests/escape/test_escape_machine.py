"""What the kernel counts for the whole machine, or for a user: one sandbox that takes all it can leaves a neighbour what it needs."""
import pytest

from orw import settings
from test_escape import PRELUDE, inside
from test_escape_limits import alive

TAKE = r'''
held = []
libc.mq_open.restype = ctypes.c_int
def terminal(): held.append(os.openpty())
def watch(): held.append(call(294, 0))
def queue(): held.append(call(68, 0, 0o1600))
def semaphores(): held.append(call(64, 0, 250, 0o1600))
def segment(): held.append(call(29, 0, 4096, 0o1600))
def posix_queue():
    held.append(libc.mq_open(b'/q%d' % len(held), os.O_CREAT | os.O_RDWR, 0o600, None))
    if held[-1] < 0: raise OSError(ctypes.get_errno(), '')
def epoll():
    e = held[-1] if held else None
    held.append(call(291, 0))
def timer(): held.append(call(222, 1, None, ctypes.byref(ctypes.c_int())))
def lock():
    if not held: held.append(os.open('/tmp/locks', os.O_RDWR | os.O_CREAT))
    held.append(fcntl.lockf(held[0], fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 2 * len(held)))
def neighbour():
    s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); s.setblocking(False)
    try: s.sendto(b'x', ('2001:db8::%x' % (len(held) + 1), 9))
    except OSError: pass
    s.close(); held.append(1)
def take(fn, most):
    n = 0
    try:
        while n < most: fn(); n += 1
    except OSError: pass
    return n
'''
KINDS = {"terminal": 5000, "watch": 5000, "queue": 50000, "semaphores": 50000, "segment": 20000, "posix_queue": 5000, "epoll": 15000, "timer": 50000, "lock": 20000,
         "neighbour": 5000}


@pytest.fixture(scope="module")
def two(platform):
    with platform.client() as client, client.sandbox(settings(machine_size="0.5:0.5")) as greedy, client.sandbox(settings(machine_size="0.5:0.5")) as beside:
        yield greedy, beside


@pytest.mark.parametrize("what", KINDS)
def test_what_the_machine_counts(platform, two, what):
    greedy, beside = two
    one = f"attempt('+one', lambda: {what}())\n"
    assert inside(beside, TAKE + one)["+one"][0] == "done"  # the control: it can be had
    program = f"{PRELUDE}{TAKE}\nprint(take({what}, {KINDS[what]}), flush=True)\nopen('/tmp/has', 'w').close()\ntime.sleep(600)\n"
    greedy.run(f"rm -f /tmp/has; cat > /tmp/take.py <<'E'\n{program}\nE")
    greedy.run("(python3 /tmp/take.py > /tmp/taken 2>&1 & echo $! > /tmp/pid); until [ -e /tmp/has ] || ! kill -0 $(cat /tmp/pid); do sleep 0.1; done", timeout=300)
    try:
        taken = int(greedy.run("cat /tmp/taken || true").output or 0)
        assert taken > 5, "the control: it took what it could"
        assert inside(beside, TAKE + one)["+one"][0] == "done", f"{taken} were taken beside"
        assert what != "terminal" or taken <= 128
        alive(platform, beside)
    finally:
        greedy.run("kill -9 $(cat /tmp/pid); ipcrm --all 2>/dev/null; rm -f /dev/mqueue/*; true", timeout=60)
    alive(platform, greedy)
