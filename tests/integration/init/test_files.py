"""Files on the daemon's behalf, also against somebody inside who wants init to touch other ones."""
import os
import re

import pytest

from harness import Failed

READ, STAGE, STAGE_MKDIRS = 0, 1, 2
EPERM, ENOENT, EACCES, ENOTDIR, EISDIR, EINVAL, ELOOP = 1, 2, 13, 20, 21, 22, 40


def read(box, path, user="", cwd=None):
    m = box.ask("OPEN", ("PATH", path), ("USER", user), ("OPEN_MODE", READ), *([("CWD", cwd)] if cwd else []))
    with os.fdopen(m.fds[0], "rb") as f:
        data = f.read()
    assert len(data) == m["SIZE"]
    return data


def stage(box, path, data, user="", mode=STAGE, tmp=None):
    m = box.ask("OPEN", ("PATH", path), ("USER", user), ("OPEN_MODE", mode), *([("TMP", tmp)] if tmp else []))
    with os.fdopen(m.fds[0], "r+b") as f:
        f.seek(0, 2)
        f.write(data)
    return m["TMP"]


def write(box, path, data, user="", mode=STAGE):
    tmp = stage(box, path, data, user, mode)
    box.ask("COMMIT", ("PATH", path), ("TMP", tmp), ("USER", user))


def errno_of(fn, *args, **kw):
    with pytest.raises(Failed) as e:
        fn(*args, **kw)
    return e.value.errno


def test_read(box):
    box.sh("echo hello > /tmp/a; head -c 5000000 /dev/zero > /tmp/big")
    assert read(box, "/tmp/a") == b"hello\n"
    assert len(read(box, "/tmp/big")) == 5_000_000
    assert read(box, "a", cwd="/tmp") == b"hello\n"
    assert read(box, "tmp/../tmp/./a") == b"hello\n"


def test_read_descriptor_is_read_only(box):
    box.sh("echo x > /tmp/ro")
    fd = box.ask("OPEN", ("PATH", "/tmp/ro"), ("OPEN_MODE", READ)).fds[0]
    with pytest.raises(OSError):
        os.write(fd, b"y")
    os.close(fd)


def test_what_is_no_regular_file(box):
    box.sh("ln -sf /etc/passwd /tmp/link; mkfifo /tmp/fifo; mkdir -p /tmp/dir; ln -sfn / /tmp/dirlink; python3 -c \"import socket; "
           "socket.socket(socket.AF_UNIX).bind('/tmp/sock')\"")
    for path, want in (("/tmp/link", ELOOP), ("/tmp/fifo", EINVAL), ("/tmp/dir", EISDIR), ("/dev/null", EINVAL), ("/tmp/dirlink", ELOOP),
                       ("/tmp/sock", EINVAL), ("/", EISDIR), ("/tmp/missing", ENOENT), ("/tmp/ro/x", ENOTDIR), ("/etc/passwd/", ENOTDIR)):
        if path == "/tmp/ro/x":
            box.sh("touch /tmp/ro")
        assert errno_of(read, box, path) == want, path
        if path not in ("/tmp/missing", "/dev/null", "/etc/passwd/", "/"):
            assert errno_of(stage, box, path, b"x") == want, path


def test_the_word_symlink_is_in_the_message(box):
    box.sh("ln -sf /etc/passwd /tmp/link")
    with pytest.raises(Failed) as e:
        read(box, "/tmp/link")
    assert "symlink" in e.value.text


def test_links_in_the_middle_are_followed(box):
    box.sh("mkdir -p /tmp/real && ln -sfn real /tmp/way && echo z > /tmp/real/f")
    assert read(box, "/tmp/way/f") == b"z\n"
    write(box, "/tmp/way/g", b"new")
    assert box.sh("cat /tmp/real/g").output == b"new"


@pytest.mark.parametrize("path", [
    "/proc/1/environ", "/proc/1/mem", "/proc/self/environ", "/proc/1/maps", "/proc/self/fd/3", "/proc/self/fd/5/x", "/proc/1/root/etc/passwd",
    "/proc/1/cwd/etc/passwd", "/proc/self/exe", "/proc/meminfo", "/proc/sys/kernel/hostname", "/dev/fd/5/x",
])
def test_nothing_of_proc(box, path):
    assert errno_of(read, box, path) in (EACCES, ELOOP, ENOENT)
    assert errno_of(stage, box, path, b"x") in (EACCES, ELOOP, ENOENT, EISDIR)
    assert errno_of(stage, box, path, b"x", mode=STAGE_MKDIRS) in (EACCES, ELOOP, ENOENT, EISDIR)


@pytest.mark.parametrize("target", ["/proc/self/fd/5", "/proc/1/fd/6", "/proc/self/cwd", "/proc/1/root"])
def test_a_link_to_a_magic_link_leads_nowhere(box, target):
    box.sh(f"ln -sfn {target} /tmp/magic")
    for mode in (STAGE, STAGE_MKDIRS):
        assert errno_of(stage, box, "/tmp/magic/sub/f", b"x", mode=mode) in (ELOOP, ENOENT)
        assert errno_of(stage, box, "/tmp/magic/f", b"x", mode=mode) == ELOOP
    assert errno_of(read, box, "/tmp/magic/etc/passwd") == ELOOP
    assert os.listdir(box.spool) == [] and "sub" not in os.listdir(f"{box.v2}/runs")


def test_write(box):
    write(box, "/tmp/new", b"content")
    assert box.sh("stat -c '%a %u %g' /tmp/new; cat /tmp/new; ls -A /tmp | grep orw").text == "644 0 0\ncontent"


def test_write_in_pieces(box):
    tmp = stage(box, "/tmp/pieces", b"one ")
    assert re.fullmatch(r"\.orw-stage-[0-9a-f]{16}", tmp)
    assert stage(box, "/tmp/pieces", b"two", tmp=tmp) == tmp
    assert box.sh("test -e /tmp/pieces").code == 1
    box.ask("COMMIT", ("PATH", "/tmp/pieces"), ("TMP", tmp))
    assert read(box, "/tmp/pieces") == b"one two"


def test_the_old_file_is_untouched_until_commit_and_keeps_mode_and_owner(box):
    box.sh("echo old > /tmp/keep; chmod 751 /tmp/keep; chown agent:extra /tmp/keep")
    tmp = stage(box, "/tmp/keep", b"new")
    assert read(box, "/tmp/keep") == b"old\n"
    box.ask("COMMIT", ("PATH", "/tmp/keep"), ("TMP", tmp))
    assert box.sh("stat -c '%a %U %G' /tmp/keep; cat /tmp/keep").text == "751 agent extra\nnew"


def test_set_id_bits_do_not_survive(box):
    box.sh("echo old > /tmp/suid; chmod 6755 /tmp/suid")
    write(box, "/tmp/suid", b"new")
    assert box.sh("stat -c %a /tmp/suid").text == "755\n"


def test_discard(box):
    tmp = stage(box, "/tmp/gone", b"x")
    box.ask("DISCARD", ("PATH", "/tmp/gone"), ("TMP", tmp))
    assert box.sh(f"test -e /tmp/{tmp}").code == 1
    assert errno_of(box.ask, "COMMIT", ("PATH", "/tmp/gone"), ("TMP", tmp)) == ENOENT


def test_an_upload_is_found_again_by_its_path(box):
    """By a daemon that takes over and does not know the staged file's name."""
    tmp = stage(box, "/tmp/again", b"one ")
    assert stage(box, "/tmp/again", b"two") == tmp and stage(box, "/tmp/../tmp/again2", b"") != tmp
    box.ask("COMMIT", ("PATH", "/tmp/again"), ("TMP", tmp))
    assert box.sh("cat /tmp/again").text == "one two"


def test_two_spellings_of_a_path_are_two_uploads(box):
    """To the daemon they are: pieces of the one must not come into the file of the other."""
    tmps = [box.ask("OPEN", ("PATH", path), ("OPEN_MODE", STAGE), ("CWD", "/tmp")) for path in ("twice", "/tmp/twice", "./twice", "twice")]
    for m in tmps:
        os.close(m.fds[0])
    names = [m["TMP"] for m in tmps]
    assert len(set(names)) == 3 and names[0] == names[3]
    for path, tmp in zip(("/tmp/twice", "./twice"), names[1:3]):
        box.ask("DISCARD", ("PATH", path), ("CWD", "/tmp"), ("TMP", tmp))
    box.ask("COMMIT", ("PATH", "twice"), ("CWD", "/tmp"), ("TMP", names[0]))


def test_only_staged_names_are_touched(box):
    box.sh("echo precious > /tmp/precious")
    for tmp in ("precious", "../etc/passwd", ".orw-stage-", ".orw-stage-../../x", ".orw-stage-ABCDEFABCDEFABCD", ".orw-stage-0123456789abcdef/x"):
        for kind in ("COMMIT", "DISCARD"):
            assert errno_of(box.ask, kind, ("PATH", "/tmp/x"), ("TMP", tmp)) == EINVAL
        assert errno_of(stage, box, "/tmp/x", b"", tmp=tmp) == EINVAL
    assert read(box, "/tmp/precious") == b"precious\n"


def test_mkdirs(box):
    assert errno_of(write, box, "/tmp/d1/d2/f", b"x") == ENOENT
    write(box, "/tmp/d1/d2/f", b"x", user="agent", mode=STAGE_MKDIRS)
    assert box.sh("stat -c '%a %U' /tmp/d1 /tmp/d1/d2 /tmp/d1/d2/f").text == "755 agent\n755 agent\n644 agent\n"


def test_a_user_has_a_users_rights(box):
    box.sh("echo s > /tmp/secret; chmod 600 /tmp/secret; mkdir -p /root/own; echo g > /tmp/group; chown root:extra /tmp/group; chmod 640 /tmp/group; "
           "echo r > /home/agent/rootfile; chmod 644 /home/agent/rootfile")
    assert errno_of(read, box, "/tmp/secret", user="agent") == EACCES
    assert errno_of(write, box, "/etc/x", b"x", user="agent") == EACCES
    assert errno_of(write, box, "/root/own/x/y", b"x", user="agent", mode=STAGE_MKDIRS) == EACCES
    assert errno_of(write, box, "/home/agent/rootfile", b"x", user="agent") == EACCES
    assert read(box, "/tmp/group", user="agent") == b"g\n"
    assert errno_of(read, box, "/tmp/group", user="agent:agent") == EACCES
    assert read(box, "/tmp/secret") == b"s\n", "and root is root again"
    write(box, "/home/agent/mine", b"m", user="agent")
    assert box.sh("stat -c '%U %G' /home/agent/mine").text == "agent agent\n"


def test_root_may_write_where_nobody_else_may(box):
    box.sh("echo a > /home/agent/private; chmod 000 /home/agent/private; chown agent /home/agent/private")
    write(box, "/home/agent/private", b"b")
    assert read(box, "/home/agent/private") == b"b"


def test_a_staged_file_swapped_for_a_hard_link(box):
    """The folder is somebody else's: he puts a second name of a file that only root may write in the staged one's place."""
    box.sh("install -d -o agent /tmp/evil; echo root-owned > /tmp/victim; chmod 600 /tmp/victim")
    tmp = stage(box, "/tmp/evil/f", b"x")
    box.sh(f"rm -f /tmp/evil/{tmp} && ln /tmp/victim /tmp/evil/{tmp}")
    assert errno_of(stage, box, "/tmp/evil/f", b"owned", tmp=tmp) == EPERM
    assert errno_of(box.ask, "COMMIT", ("PATH", "/tmp/evil/f"), ("TMP", tmp)) == EPERM
    assert read(box, "/tmp/victim") == b"root-owned\n" if box.sh(f"rm /tmp/evil/{tmp}").code == 0 else False


def test_a_staged_file_swapped_for_a_link_or_another_users_file(box):
    box.sh("install -d -o agent /tmp/evil2; echo v > /tmp/victim2")
    for trick, want in ((f"ln -s /tmp/victim2", ELOOP), ("mkfifo", EINVAL), ("mkdir", EISDIR), ("touch", EPERM)):
        tmp = stage(box, "/tmp/evil2/f", b"x")
        box.sh(f"rm -f {tmp}; {trick} {tmp}", user="agent", cwd="/tmp/evil2")
        assert errno_of(stage, box, "/tmp/evil2/f", b"owned", tmp=tmp) in (want, EINVAL, EPERM)
        assert errno_of(box.ask, "COMMIT", ("PATH", "/tmp/evil2/f"), ("TMP", tmp)) in (want, EINVAL, EPERM)
    assert read(box, "/tmp/victim2") == b"v\n"


def test_commit_onto_what_became_a_link(box):
    box.sh("echo v > /tmp/victim3; rm -f /tmp/late")
    tmp = stage(box, "/tmp/late", b"x")
    box.sh("ln -s /tmp/victim3 /tmp/late")
    assert errno_of(box.ask, "COMMIT", ("PATH", "/tmp/late"), ("TMP", tmp)) == ELOOP
    assert read(box, "/tmp/victim3") == b"v\n"


def test_odd_paths(box):
    for path in ("", "/" + "x" * 5000, "/tmp/" + "y" * 300):
        assert errno_of(read, box, path) in (EINVAL, 36)
    for path in ("/tmp/", "/", "/tmp/..", "/tmp/."):
        assert errno_of(stage, box, path, b"x") == EISDIR
    assert errno_of(read, box, "x", cwd="relative") == EINVAL
    write(box, "/tmp/ünï code \n name", b"ok")
    assert read(box, "/tmp/ünï code \n name") == b"ok"
    with pytest.raises(Failed) as e:
        box.ask("OPEN", ("PATH", "/tmp/a"), ("OPEN_MODE", 9))
    assert e.value.errno == EINVAL
