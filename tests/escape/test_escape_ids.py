"""Ids of the host, the protocol of process 1, and calls that meet the end of their sandbox."""
import http.client
import json
import os
import socket
import threading
import time

import pytest

from orw import Census, lines_of, nothing_new, settings, wait_until
from test_escape import file_call, inside, judge, on_the_host
from test_escape_limits import init_of


@pytest.fixture(scope="module")
def box(platform):
    with platform.client() as client, client.sandbox(settings(machine_size="1:1")) as s:
        yield s


# -- id maps ------------------------------------------------------------------------------------------------------------

IDS = r'''
def child(fn):
    """In a process of its own: what it becomes, it does not come back from."""
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 0
        try: fn()
        except OSError as e: code = e.errno
        except BaseException: code = 255  # no error of the kernel's
        os.write(w, bytes([code])); os._exit(0)
    os.wait()
    code = os.read(r, 1)[0]
    if code: raise OSError(code, '')
    return 1
open('/tmp/own', 'w').close()
def acl(id_):
    entries = [(1, 7, 0xffffffff), (2, 7, id_), (4, 5, 0xffffffff), (16, 7, 0xffffffff), (32, 5, 0xffffffff)]
    os.setxattr('/tmp/own', 'system.posix_acl_access', struct.pack('<I', 2) + b''.join(struct.pack('<HHI', *e) for e in entries))
def capability(*root):
    os.setxattr('/tmp/own', 'security.capability', struct.pack('<IIIII', 0x03000001 if root else 0x02000001, 1 << 10, 0, 0, 0) + struct.pack('<I', *root) if root else
                struct.pack('<IIIII', 0x02000001, 1 << 10, 0, 0, 0))
attempt('+become another user of the sandbox', lambda: child(lambda: os.setuid(1000)))
attempt('+give a file to another user of the sandbox', lambda: os.chown('/tmp/own', 1000, 1000))
attempt('+the last id of the range', lambda: child(lambda: os.setuid(65534)))
attempt('+a capability of the file for the own root', lambda: capability())
attempt('+read the map', lambda: read('/proc/self/uid_map'))
for n in (65536, 100000, 0x80000000, 0xfffffffe):
    attempt(f'setuid {n}', lambda: child(lambda: call(105, n)))
    attempt(f'setgid {n}', lambda: child(lambda: call(106, n)))
    attempt(f'setgroups {n}', lambda: child(lambda: os.setgroups([n])))
    attempt(f'setresuid {n}', lambda: child(lambda: call(117, -1, -1, n)))
    attempt(f'chown {n}', lambda: call(92, b'/tmp/own', n, -1))
    attempt(f'file rights for user {n}', lambda: acl(n))
    attempt(f'capability of a file for the root {n}', lambda: capability(n))
for n in (65536, 0xfffffffe): attempt(f'setfsuid {n}', lambda: call(122, n) == 0 and call(122, n) == n or os.open('/nothing', 0))
for name in ('uid_map', 'gid_map', 'projid_map'):
    if name != 'projid_map': attempt(f'write the own {name}', lambda: write(f'/proc/self/{name}', '0 0 1\n'))
    attempt(f'write {name} of process 1', lambda: write(f'/proc/1/{name}', '0 0 4294967295\n'))
attempt('allow setgroups again', lambda: write('/proc/self/setgroups', 'deny'))
attempt('a user namespace with a map of the host', lambda: child(lambda: [call(272, 0x10000000), write('/proc/self/uid_map', '0 0 1\n')]))
attempt('enter the user namespace of process 1', lambda: child(lambda: call(308, os.open('/proc/1/ns/user', 0), 0x10000000)))
try: write('/proc/self/projid_map', '0 0 1\n')  # anybody may, and it helps nothing
except OSError: pass
attempt('another project', lambda: fcntl.ioctl(os.open('/tmp/own', 0), 0x401c5820, struct.pack('<IIIII8x', 0, 0, 0, 7, 0)))
pair = socket.socketpair()
def credentials(id_): return pair[0].sendmsg([b'x'], [(1, 2, struct.pack('iII', os.getpid(), id_, id_))])
attempt('+message credentials of its own', lambda: credentials(0))
attempt('message credentials of the host', lambda: credentials(65536))
'''


def test_id_maps(platform, box):
    judge(inside(box, IDS))
    box.run("touch /tmp/of-root; install -m 4755 /bin/true /tmp/suid; cp /bin/true /tmp/b; chown 1000 /tmp/b; mknod /tmp/pipe p")
    first = int(lines_of(f"/proc/{init_of(box)}/uid_map")[0].split()[1])
    assert first >= 65536, "the control: the range is none of the host's own"
    found = 0
    for name in ("of-root", "suid", "b", "pipe"):
        st = os.stat(f"/proc/{init_of(box)}/root/tmp/{name}")
        assert first <= st.st_uid < first + 65536 and first <= st.st_gid < first + 65536, (name, st)
        found += 1
    assert found == 4


# -- the protocol of process 1 --------------------------------------------------------------------------------------------

# What is there, and where: the host's root reaches it with the very same lines.
SOCKETS = r'''
DATA, ABSTRACT = %r, %r
def head(kind, body=b''): return struct.pack('<4sHHIQ', b'ORS1', 1, kind, 0, 7) + body
def seqpacket(name):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.settimeout(5); s.connect(name); s.send(head(5))
for name, path in (("the spawner's socket", DATA + '/run/spawner.sock'), ('an abstract socket of the host', '\0' + ABSTRACT)):
    attempt(f'connect to {name}', lambda: seqpacket(path))
'''
FORGED = r'''
def descriptors():
    for n in range(3, 4096):
        try: os.write(n, head(5)); return n
        except OSError: pass
    raise OSError(errno.EBADF, '')
attempt('a message on a descriptor that was left', descriptors)
pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
attempt('+a socket of the same kind', lambda: pair[0].send(head(5)))
attempt('+an own listener by name', lambda: [socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).bind('/tmp/sock-%d' % os.getpid())])
for name in ('/proc/1/fd/3', '/proc/1/fd/4'): attempt(f'connect to {name!r}', lambda: seqpacket(name))
attempt('open the control socket', lambda: os.open('/proc/1/fd/3', os.O_RDWR))
attempt('take the control socket', lambda: call(438, os.pidfd_open(1), 3, 0))
attempt('write into the control socket from outside', lambda: write('/proc/1/fd/3', head(5)))
def answer(port, data, family=socket.AF_INET):
    s = socket.socket(family); s.settimeout(10); s.connect(('127.0.0.1' if family == socket.AF_INET else '::1', port)); s.sendall(data); s.shutdown(socket.SHUT_WR)
    return s.recv(100) or os.open('/nothing', 0)
for port in (65530, 65531):
    attempt(f'a message to port {port}', lambda: answer(port, head(1) * 50))
    attempt(f'a message to port {port} of ::1', lambda: answer(port, head(1) * 50, socket.AF_INET6))
    attempt(f'take port {port}', lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM if port == 65530 else socket.SOCK_DGRAM).bind(('127.0.0.1', port)))
def sockets():
    """What the kernel tells of unix sockets by netlink: none of process 1's may be seen with its peer."""
    s = socket.socket(16, 3, 4)
    s.send(struct.pack('<IHHII', 40, 20, 0x301, 1, 0) + struct.pack('<BBHIIIQ', 1, 0, 0, 0xffffffff, 0, 0x3f, 0))
    seen = s.recv(65536)
    if b'spawner' in seen or b'/var/' in seen: return seen
    raise OSError(errno.ENOENT, '')
attempt('find sockets of the host by netlink', sockets)
attempt('call process 1 as its parent would', lambda: os.kill(0, 0) or os.waitid(os.P_PID, 1, os.WNOHANG))
'''


def test_forged_messages(platform, box):
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as of_host:
        of_host.bind(f"\0openreward-forged-{os.getpid()}")
        of_host.listen()
        sockets = SOCKETS % (platform.data, of_host.getsockname().decode().lstrip("\0"))
        judge(inside(box, sockets + FORGED))
        reached = on_the_host(sockets)
    assert len(reached) == 2 and all(verdict == "done" for verdict, _ in reached.values()), reached
    name = "python3 -c \"import urllib.request as u; print(u.urlopen('http://openreward.internal/health', timeout=20).status)\""
    assert box.run(name, timeout=60).output == "200"
    assert platform.request("GET", "/health")[0] == 200


# -- calls that meet a delete -----------------------------------------------------------------------------------------------

def calls(platform, s, run):
    """(name, request) of everything that a sandbox answers, but its end."""
    sid = {"X-Session-ID": s.sid}
    base = f"/v1/sandboxes/{s.sid}"
    return {
        "a run": ("POST", "/run", b'{"cmd": "sleep 0.01; echo mine"}', sid), "a read": ("POST", "/read_file?path=/tmp/mine", b"", sid),
        "a piece of an upload": ("POST", "/write_file?path=/tmp/up&offset=0", b"x" * 100000, sid), "a digest": ("POST", "/stat_file?path=/tmp/mine&sha256=1", b"", sid),
        "a commit": ("POST", "/write_file?path=/tmp/up&commit=1&size=100000", b"", sid), "a ping": ("POST", "/ping", b"", sid),
        "a background run": ("POST", f"{base}/runs", b'{"cmd": "echo mine"}', {}), "output of one": ("GET", f"{base}/runs/{run}/output?follow=1", None, {}),
        "a wait": ("POST", f"{base}/runs/{run}/wait?timeout_s=60", b"", {}), "a signal": ("POST", f"{base}/runs/{run}/signal", b'{"signal": "CONT"}', {}),
        "an input": ("POST", f"{base}/runs/{run}/stdin", b"y" * 100000, {}), "a look": ("GET", base, None, {}), "a second delete": ("POST", "/delete_session", b"", sid),
    }


def test_calls_that_meet_a_delete(platform, client):
    """Each from a thread of its own, again and again, while the end comes: an answer each time, none of them a 5xx, nothing left."""
    before = Census(platform.data)
    for n in range(4):
        with client.sandbox(settings(machine_size="0.5:0.5")) as s:
            s.run("printf mine > /tmp/mine")
            status, _, body = platform.request("POST", f"/v1/sandboxes/{s.sid}/runs", b'{"cmd": "cat; sleep 100", "stdin": true}')
            assert status == 201, body
            all_of_them = calls(platform, s, json.loads(body)["id"])
            if n == 0:  # the control: all of them work while it lives
                for name, request in all_of_them.items():
                    if name not in ("output of one", "a wait", "a second delete"):
                        status, _, body = platform.request(*request)
                        assert status in (200, 201), (name, status, body[:200])
            over, bad, ended = threading.Event(), [], []

            def again(name, request):
                while True:
                    last = over.is_set()
                    try:
                        status, _, body = platform.request(*request, timeout_s=120)
                    except (OSError, http.client.HTTPException) as e:
                        if name != "output of one":  # an answer that has begun is cut
                            bad.append((name, repr(e)))
                        status, body = 410, b""
                    if status >= 500 or (status == 200 and name in ("a read",) and body != b"mine"):
                        bad.append((name, status, body[:200]))
                    if last:
                        ended.append((name, status))
                        return

            threads = [threading.Thread(target=again, args=item) for item in all_of_them.items() if item[0] != "a second delete" or n % 2]
            for t in threads:
                t.start()
            time.sleep(0.1 * n)
            assert platform.request("POST", "/delete_session", b"", {"X-Session-ID": s.sid}, timeout_s=120)[0] == 200
            over.set()
            for t in threads:
                t.join()
            assert bad == []
            assert {status for name, status in ended if name != "a second delete"} == {410}, ended
            assert not [p for p in os.listdir("/proc") if p.isdigit() and any(s.sid in line for line in lines_of(f"/proc/{p}/cgroup"))]
    nothing_new(platform, before, timeout_s=60)
    wait_until(lambda: s.sid not in os.listdir(platform.data + "/sandboxes"), 60, "the end of its files")


def test_commits_that_wait_for_one_another_are_told_of_the_end(platform, client):
    """Calls of one path run one after the other: those that have not begun are answered, too."""
    with client.sandbox(settings(machine_size="0.5:0.5")) as s:
        sid, size, answers = {"X-Session-ID": s.sid}, 4 << 30, []
        for offset in (0, size - 1):  # with a hole, so that the commit reads it all
            assert platform.request("POST", f"/write_file?path=/tmp/up&offset={offset}", b"x", sid)[0] == 200

        def commit():
            answers.append(platform.request("POST", f"/write_file?path=/tmp/up&commit=1&size={size}", b"", sid, timeout_s=60)[0])

        threads = [threading.Thread(target=commit) for _ in range(3)]
        for t in threads:
            t.start()
        time.sleep(0.5)
        assert answers == [], "the control: the first one reads, the others wait for it"
        assert platform.request("POST", "/delete_session", b"", sid, timeout_s=60)[0] == 200
        for t in threads:
            t.join()
        assert answers == [410, 410, 410]


def test_an_end_amid_file_calls_of_others(platform, box, client):
    """What a deleted sandbox had open is nobody else's afterwards: same paths, another sandbox, its own content."""
    box.run("printf box > /tmp/same")
    for n in range(4):
        with client.sandbox(settings(machine_size="0.5:0.5")) as s:
            s.run(f"printf {n} > /tmp/same")
            own, answers = (200, str(n).encode()), []

            def read():
                answers.append(file_call(platform, s, "read_file", "path=/tmp/same")[::2])

            read()
            assert answers == [own]  # the control
            threads = [threading.Thread(target=read) for _ in range(8)]
            for t in threads:
                t.start()
        assert file_call(platform, box, "read_file", "path=/tmp/same")[::2] == (200, b"box")
        assert file_call(platform, s, "read_file", "path=/tmp/same")[0] == 410
        for t in threads:
            t.join()
        assert len(answers) == 9 and all(a == own or a[0] == 410 for a in answers), answers
