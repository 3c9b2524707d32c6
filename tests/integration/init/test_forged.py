"""Messages to process 1 that do not come from the daemon: what root inside finds of its sockets, and what happens to those who
write its protocol into whatever answers."""
import os
import textwrap

from harness import encode

# Everything that a program inside can reach of a socket: its own descriptors and those of everybody, unix sockets by name, in the
# abstract space and in the file system, whatever listens on loopback. It sends FORGED into each and prints what it found.
SEARCH = r'''
import array, contextlib, glob, json, os, socket, stat, struct, ctypes
FORGED = bytes.fromhex('%s')
libc = ctypes.CDLL(None, use_errno=True)
found = {k: 0 for k in ('processes', 'fd of 1', 'taken of 1', 'traced 1', 'inherited', 'abstract', 'named', 'ports', 'sent', 'answers')}
def talk(s):
    """Both as one message with a descriptor and as a stream."""
    s.settimeout(0.3)
    for rights in ([], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [0]))]):
        with contextlib.suppress(OSError):
            s.sendmsg([FORGED], rights); found['sent'] += 1
    with contextlib.suppress(OSError):
        if FORGED[:4] in s.recv(65536): found['answers'] += 1
def connect(family, kind, address):
    with contextlib.suppress(OSError):
        s = socket.socket(family, kind); s.settimeout(1); s.connect(address); talk(s); return 1
    return 0
for pid in filter(str.isdigit, os.listdir('/proc')):
    found['processes'] += 1
    for n in range(64):
        with contextlib.suppress(OSError):
            fd = os.open(f'/proc/{pid}/fd/{n}', os.O_RDWR); found['fd of 1'] += pid == '1'
        with contextlib.suppress(OSError):
            fd = libc.syscall(438, os.pidfd_open(int(pid)), n, 0)
            if fd < 0: continue
            found['taken of 1'] += pid == '1'
            if stat.S_ISSOCK(os.fstat(fd).st_mode) and int(pid) != os.getpid(): found['inherited'] += 1; talk(socket.socket(fileno=fd))
for request in (16, 0x4206):
    found['traced 1'] += libc.ptrace(request, 1, None, None) == 0
for line in open('/proc/net/unix').read().splitlines()[1:]:
    words = line.split()
    if len(words) > 7 and words[7] != '@own':
        for kind in (1, 2, 5):
            found['abstract' if words[7][0] == '@' else 'named'] += connect(socket.AF_UNIX, kind, words[7].replace('@', '\0'))
for folder, _, files in os.walk('/'):
    if folder.startswith(('/proc', '/sys', '/usr')): continue
    for f in files:
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.lstat(f'{folder}/{f}').st_mode) and f != 'own':
                for kind in (1, 2, 5): found['named'] += connect(socket.AF_UNIX, kind, f'{folder}/{f}')
for path, family, host in (('/proc/net/tcp', 2, '127.0.0.1'), ('/proc/net/tcp6', 10, '::1')):
    for line in open(path).read().splitlines()[1:]:
        words = line.split()
        if words[3] == '0A': found['ports'] += connect(family, 1, (host, int(words[1].rpartition(':')[2], 16)))
for port in (65530, 65531, 53):
    with contextlib.suppress(OSError):
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(('127.0.0.1', port)); talk(s)
print(json.dumps(found))
'''


def forged(path, count):
    """A RUN that touches path."""
    fields = [("RUN_ID", f"forged {count}"), ("ARG", "/usr/bin/touch"), ("ARG", path), ("CWD", "/"), ("USER", ""), ("TIMEOUT_MS", 0), ("FLAGS", 0)]
    return encode("RUN", 1 << 40, fields)


def search(box, message, user=""):
    text = box.run("/usr/bin/python3", "-c", SEARCH % message.hex(), user=user, timeout_ms=60000).text
    return eval(text.splitlines()[-1]), text  # what json wrote


def test_what_root_finds_of_process_1(fresh):
    """The control comes last: the very bytes run a command when they come over the socket that they are for."""
    message = forged("/tmp/forged", 1)
    for user in ("", "agent"):
        found, text = search(fresh, message, user)
        assert found["processes"] >= 2 and found["sent"] >= 2, text  # it did see and send: to its own steering, say
        assert not [k for k in ("fd of 1", "taken of 1", "traced 1", "inherited", "abstract", "named", "answers") if found[k]], text
    assert fresh.sh("ls /tmp/forged 2>&1").code != 0
    items, _ = fresh.listed()
    assert not items, "process 1 took up a run"
    fresh.control.send(message)
    assert fresh.take(lambda m: m.request == 1 << 40).kind == "STARTED"
    fresh.wait("forged 1")
    assert fresh.sh("ls /tmp/forged").text == "/tmp/forged\n"


def test_the_search_finds_what_may_be_found(fresh):
    """The same program, with sockets that somebody inside did leave open: the search as such works."""
    server = textwrap.dedent('''
        import os, socket, time
        a = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); a.bind("\\0left"); a.listen()
        n = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); n.bind("/tmp/left"); n.listen()
        t = socket.create_server(("127.0.0.1", 0))
        pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        print("ready", flush=True)
        for s in (a, n):
            c = s.accept()[0]
            print(c.recv(100)[:4].hex(), flush=True); c.send(c.recv(100)[:4])
        time.sleep(30)
        ''')
    fresh.sh(f"python3 -c '{server}' > /tmp/server.out 2>&1 & until grep -q ready /tmp/server.out; do sleep 0.05; done")
    found, text = search(fresh, forged("/tmp/x", 2))
    assert found["abstract"] and found["named"] and found["ports"] and found["inherited"] and found["answers"], text
    assert fresh.sh("grep -c 4f525331 /tmp/server.out").text == "2\n"
    assert os.path.exists(f"/proc/{fresh.pid}"), "and process 1 is none the worse"
