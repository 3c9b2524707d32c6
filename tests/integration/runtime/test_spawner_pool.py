"""Spares (sandboxes made before they are asked for) and net namespaces that are used again: nothing of a former user stays."""
import os
import signal
import subprocess
import time

import pytest

from spawner_client import Box
from test_spawner_life import net_namespaces, settle

MIB = 1 << 20


def net_of(box):
    """Its cookie (SO_NETNS_COOKIE): unlike the number of a namespace it is never used twice."""
    return box.run("python3 -S -c 'import socket; print(socket.socket(socket.AF_UNIX).getsockopt(1, 71, 8))'")[1]


def spares(spawner):
    """How many are ready, as the answer to a MAKE tells; the sandbox is of a shape that never gets any."""
    b = spawner.make(kind=1)
    n = b.made.number("SPARES")
    spawner.end(b)
    return n


@pytest.fixture
def pool(spawner):
    spawner.daemon.send("POOL", ("POOL_MAX", 4), ("POOL_KEEP_MS", 60000), ("POOL_BYTES", 64 * MIB))
    yield spawner
    spawner.daemon.send("POOL", ("POOL_MAX", 0))
    assert settle(lambda: spares(spawner) == 0)


def warm(pool, **kw):
    """A sandbox that was a spare."""
    return pool.make_of("WARM", **kw)


# -- spares -------------------------------------------------------------------------------------------------------------
def test_nothing_is_prepared_unasked(spawner):
    for _ in range(3):
        b = spawner.make()
        assert not b.made.number("WARM")
        spawner.end(b)
        time.sleep(0.05)
    assert spares(spawner) == 0


def test_a_spare_is_what_was_asked_for(pool):
    pool.end(warm(pool))
    b = warm(pool)
    assert b.id in [m.text("ID") for m in listed(pool)]
    assert b.run("cat /proc/self/uid_map")[1].split()[2] == "65536"
    assert b.run("echo x > /tmp/mark; ls /tmp")[1] == "mark\n"
    pool.end(b)
    again = warm(pool)
    assert again.run("ls /tmp /dev/shm")[1].split() == ["/dev/shm:", "/tmp:"]
    pool.end(again)


def listed(pool):
    request, found = pool.daemon.send("LIST"), []
    while True:
        m = pool.daemon.wait(request)
        if m.kind == "OK":
            return found
        found.append(m)


def test_nobody_is_told_of_spares(pool):
    b = warm(pool)
    assert settle(lambda: spares(pool) > 0)
    assert [m.text("ID") for m in listed(pool)] == [b.id]
    assert pool.daemon.call("LEAKS").text("TEXT") == ""
    pool.end(b)


def test_limits_hold_right_after_the_take(pool):
    pool.end(warm(pool, pids_max=40))
    b = warm(pool, pids_max=40)
    code, _ = b.run("i=0; while [ $i -lt 60 ]; do sleep 5 & i=$((i+1)); done")
    assert code != 0
    pool.end(b)
    other = pool.make(pids_max=41)
    assert not other.made.number("WARM"), "a spare of another size was given"
    pool.end(other)


def test_times_begin_with_the_take(pool):
    b = warm(pool)
    pool.end(b)
    time.sleep(0.5)
    b = warm(pool, lease_ms=700)
    gone = pool.daemon.event("GONE", 60)
    assert (gone.text("ID"), gone.text("REASON")) == (b.id, "lease")
    b.close()


NAMES = "hostname; cat /etc/hostname /etc/resolv.conf /etc/hosts; ls -d /app/x; ls -a /etc"


def test_a_spare_has_its_files_and_its_name_already(pool):
    """Nobody sends CONFIG; the lines of other hosts, which no spare can have, are there before the first command, too."""
    plan = dict(dir="/app/x", hostname="asked-for", pids_max=50)
    pool.end(warm(pool, **plan))
    seen = set()
    for hosts in ({}, dict(hosts="10.1.2.3 db cache.local\n"), {}):
        b = warm(pool, **plan, **hosts)
        given = b.made.text("HOSTNAME")
        _, text = b.run(NAMES)
        lines = text.splitlines()
        assert lines[:2] == [given, given] and given.startswith("box-"), text
        assert lines[2:4] == ["nameserver 198.18.0.53", "options timeout:5 attempts:2"]
        assert lines[4:7] == ["127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback", f"127.0.0.1\t{given}"]
        assert lines[7:9] == (["10.1.2.3 db cache.local", "/app/x"] if hosts else ["/app/x", "."])
        assert not [line for line in lines if line.startswith(".orw")]
        taken = Box(pool.daemon.call("TAKE", ("ID", b.id)))
        assert taken.made.text("HOSTNAME") == given
        assert taken.init.call("RUNS").number("CONFIGURED") == 1
        taken.close()
        seen.add(given)
        pool.end(b)
    assert len(seen) == 3


@pytest.mark.parametrize("field", ["", "BLANK"])
def test_what_is_not_prepared_is_configured_before_it_is_told_of(pool, field):
    if field:
        pool.daemon.send("POOL", ("POOL_MAX", 0), ("POOL_BLANKS", 2))
    plan = dict(dir="/app/x", hostname="asked-for", hosts="10.1.2.3 db\n", kind=1)
    b = pool.make_of(field, **plan) if field else pool.make(**plan)
    assert b.made.text("HOSTNAME") == "asked-for"
    lines = b.run(NAMES)[1].splitlines()
    assert lines[:2] == ["asked-for"] * 2 and lines[6:9] == ["127.0.0.1\tasked-for", "10.1.2.3 db", "/app/x"]
    pool.end(b)
    if field:
        pool.daemon.send("POOL", ("POOL_BLANKS", 0))


def odd_layer(pool, name, make):
    """An image whose /etc is made by make()."""
    path = f"{pool.data}/images/{name}"
    os.makedirs(path)
    make(f"{path}/etc")
    for folder in ("bin", "usr", "lib", "lib64", "disk"):
        if os.path.lexists(f"{pool.data}/images/base/{folder}"):
            subprocess.run(["cp", "-al", f"{pool.data}/images/base/{folder}", f"{path}/{folder}"], check=True)
    return (name,)


def test_without_a_folder_etc(pool):
    """What init can't write is why the sandbox can't be made, each time anew, and no spare of it is ever given."""
    def a_file(path):
        with open(path, "w", encoding="ascii"):
            pass
    layers = odd_layer(pool, "etc-file", a_file)
    for _ in range(3):
        m = pool.daemon.call("MAKE", *pool.plan(layers=layers, dir="/"))
        assert m.kind == "FAILED" and m.number("ERRNO") == 20 and "/etc" in m.text("TEXT"), m
        time.sleep(0.1)
    for ms in range(1, 9):  # also where the spawner comes to it late, and init is dead by then
        number = pool.daemon.send("MAKE", *pool.plan(layers=layers, dir="/"))
        time.sleep(ms / 1000)
        os.kill(pool.process.pid, signal.SIGSTOP)
        time.sleep(0.2)
        os.kill(pool.process.pid, signal.SIGCONT)
        m = pool.daemon.wait(number)
        assert m.kind == "FAILED" and m.number("ERRNO") == 20 and "/etc" in m.text("TEXT"), (ms, m)
    layers = odd_layer(pool, "etc-none", lambda path: None)
    b = pool.make(layers=layers, dir="/", hostname="asked-for")
    assert b.run("cat /etc/hostname; ls /etc")[1].split() == ["asked-for", "hostname", "hosts", "resolv.conf"]
    pool.end(b)


def test_links_of_the_image_are_replaced_in_a_spare(pool):
    def links(path):
        os.makedirs(path)
        for name in ("hosts", "hostname", "resolv.conf"):
            os.symlink("/tmp/elsewhere", f"{path}/{name}")
    plan = dict(layers=odd_layer(pool, "etc-links", links), dir="/")
    pool.end(warm(pool, **plan))
    b = warm(pool, **plan)
    assert b.run("stat -c '%F %a %u' /etc/hosts /etc/hostname /etc/resolv.conf; ls -d /tmp/* 2>/dev/null")[1].splitlines() == [
        "regular file 644 0"] * 3
    pool.end(b)


def test_whoever_sends_config_itself_gets_one_that_was_not(pool):
    """A daemon of before does not say where its commands begin."""
    pool.end(warm(pool))
    b = warm(pool)
    assert b.made.text("HOSTNAME") is None
    assert b.init.call("RUNS").number("CONFIGURED") == 0
    pool.end(b)


def test_one_id_is_one_sandbox(pool):
    pool.end(warm(pool))
    b = warm(pool)
    with pytest.raises(AssertionError):
        pool.make(id=b.id)
    pool.end(b)


def test_a_spare_that_dies_is_not_given(pool):
    b = warm(pool)
    assert settle(lambda: spares(pool) > 0)
    children = [int(p) for p in os.listdir("/proc") if p.isdigit() and parent(p) == pool.process.pid and name(p) == "openreward-init"]
    for pid in children:
        if pid != b.pid:
            os.kill(pid, 9)
    time.sleep(0.2)
    again = pool.make()
    assert again.run("echo alive")[1] == "alive\n"
    pool.end(again)
    pool.end(b)


def parent(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as f:
            return int(f.read().rsplit(")", 1)[1].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def name(pid):
    try:
        with open(f"/proc/{pid}/comm", encoding="ascii") as f:
            return f.read().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def test_removing_images_ends_the_spares(pool):
    pool.end(warm(pool))
    assert settle(lambda: spares(pool) > 0)
    pool.daemon.call("JOB", ("ID", "pool-prune"), ("JOB_KIND", "prune"))
    pool.daemon.event("JOB_DONE", 30)
    assert spares(pool) == 0


def test_spares_go_when_nobody_asks(own):
    s = own()
    s.daemon.send("POOL", ("POOL_MAX", 4), ("POOL_KEEP_MS", 1500), ("POOL_BYTES", 64 * MIB))
    s.end(warm(s))
    # Twice none, a while apart: just after the last one was taken there is none either.
    assert settle(lambda: spares(s) == 0 and not time.sleep(1) and spares(s) == 0)
    assert s.stop() == 0


def test_the_memory_given_is_the_limit(own):
    s = own()
    s.daemon.send("POOL", ("POOL_MAX", 64), ("POOL_KEEP_MS", 60000), ("POOL_BYTES", 2 * MIB))
    for _ in range(12):
        s.end(s.make())
    time.sleep(1)
    assert spares(s) <= 2
    assert s.stop() == 0


@pytest.mark.parametrize("less", [dict(POOL_MAX=1), dict(POOL_BYTES=MIB)])
def test_less_than_there_are_ends_those_over(own, less):
    s = own()
    s.daemon.send("POOL", ("POOL_MAX", 8), ("POOL_KEEP_MS", 60000), ("POOL_BYTES", 64 * MIB))
    boxes = [s.make() for _ in range(6)]
    assert settle(lambda: spares(s) >= 3)
    s.daemon.send("POOL", *less.items())
    if spares(s) > 1:  # as some that were in the making are seen to a moment later; far less than what fades in that time
        time.sleep(1.2)
        assert spares(s) <= 1
    for b in boxes:
        s.end(b)
    assert s.stop() == 0


# -- net namespaces -----------------------------------------------------------------------------------------------------
def test_a_net_namespace_without_a_packet_is_used_again(spawner):
    b = spawner.make()
    first = net_of(b)
    b.run("true")
    spawner.end(b)
    b = spawner.make()
    assert net_of(b) == first
    assert b.run("cat /proc/net/sockstat")[1].startswith("sockets: used ")
    spawner.end(b)


USES = {
    "a packet": "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.sendto(b'x', ('127.0.0.1', 9))",
    "a connection": "import socket; l = socket.create_server(('127.0.0.1', 0)); socket.create_connection(l.getsockname())",
    "a refused connection": "import socket; socket.socket().connect_ex(('10.1.2.3', 80))",
    "a name": "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.sendto(b'x' * 20, ('8.8.8.8', 53))",
}


@pytest.mark.parametrize("what", USES)
def test_one_that_was_used_is_not(spawner, what):
    b = spawner.make()
    first = net_of(b)
    b.run(f"python3 -S -c \"{USES[what]}\"")
    spawner.end(b)
    seen = []
    for _ in range(4):  # others may wait
        seen.append(spawner.make())
    assert first not in [net_of(x) for x in seen]
    for x in seen:
        spawner.end(x)


def test_namespaces_go_after_the_ends_that_somebody_waits_for(own):
    """Of eighty sandboxes that end at once, 64 namespaces are kept, one is closed because it was used, all behind the answers."""
    s = own()
    boxes = [s.make() for _ in range(80)]
    boxes[0].run(f"python3 -S -c \"{USES['a packet']}\"")
    used = net_of(boxes[0])
    ends = [s.daemon.send("END", ("ID", b.id), ("REASON", "deleted")) for b in boxes]
    held = []
    for number in ends:
        assert s.daemon.wait(number).kind == "ENDED"
        held.append(net_namespaces(s.process.pid))
    assert max(held) > 64
    assert settle(lambda: net_namespaces(s.process.pid) == 64)
    for b in boxes:
        b.close()
    again = [s.make() for _ in range(66)]
    assert used not in [net_of(b) for b in again]
    assert s.stop() == 0


def test_an_abstract_socket_does_not_reach_the_next(spawner):
    b = spawner.make()
    b.run("python3 -S -c \"import socket, time; s = socket.socket(socket.AF_UNIX); s.bind(chr(0) + 'left'); s.listen(); time.sleep(60)\" &")
    spawner.end(b)
    b = spawner.make()
    assert "left" not in b.run("cat /proc/net/unix")[1]
    spawner.end(b)


# -- the disk -----------------------------------------------------------------------------------------------------------
def test_an_upper_in_memory_ends_at_its_limit(spawner):
    b, other = (spawner.make(memory_upper=1, disk_bytes=8 * MIB, memory_bytes=256 * MIB) for _ in range(2))
    code, text = b.run("dd if=/dev/zero of=/tmp/big bs=1M count=32 2>&1; ls -s --block-size=M /tmp/big")
    assert "No space left on device" in text, (code, text)
    full = b.run("echo more > /more")
    assert full[0] != 0, full
    assert other.run("dd if=/dev/zero of=/tmp/own bs=1M count=4 2>/dev/null && echo fine")[1] == "fine\n"
    assert b.run("rm /tmp/big; echo x > /more && cat /more")[1] == "x\n"
    spawner.end(b)
    spawner.end(other)


def test_an_upper_in_memory_counts_to_the_sandbox(spawner):
    b = spawner.make(memory_upper=1, memory_bytes=32 * MIB)
    assert b.run("dd if=/dev/zero of=/tmp/big bs=1M count=64 2>/dev/null && echo all")[1] != "all\n"
    spawner.end(b)


def test_a_limit_on_the_disk_is_no_obstacle_without_quota(spawner):
    b = spawner.make(disk_bytes=64 * MIB)
    assert b.run("dd if=/dev/zero of=/tmp/some bs=1M count=4 2>/dev/null && echo fine")[1] == "fine\n"
    spawner.end(b)


# -- process ids --------------------------------------------------------------------------------------------------------
def test_all_together_leave_the_host_process_ids(spawner):
    with open("/proc/sys/kernel/pid_max", encoding="ascii") as f:
        most = int(f.read())
    found = [f"{top}/pids.max" for top, dirs, files in os.walk("/sys/fs/cgroup") if top.endswith("/" + spawner.name()) and "pids.max" in files]
    assert found
    for path in found:
        with open(path, encoding="ascii") as f:
            assert int(f.read()) <= most - 2048
