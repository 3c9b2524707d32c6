"""What crosses the wire for a sandbox: event streams, task ids, broken connections, leases, files, errors. The SDK's own
calls are in tests/e2e."""
import base64
import concurrent.futures
import hashlib
import json
import os
import signal
import time

import pytest

from wire import Sandbox, events, result


@pytest.fixture
def sandbox(platform):
    s = Sandbox(platform)
    yield s
    s.delete()


# -- runs ------------------------------------------------------------------------------------------------------------

def test_a_result_says_more_than_clients_need(sandbox):
    r = sandbox.run("echo out; echo err >&2; exit 3", timeout_s=None, max_bytes=None)
    assert (r["return_code"], r["timed_out"], r["output"]) == (3, False, b"out\nerr\n")
    assert (r["outcome"], r["trainable"], r["output_bytes"], r["dropped_bytes"]) == ("exited", True, 8, 0)
    assert len(r["task_id"]) == 32


@pytest.mark.parametrize("size", [0, 1, 2, 3, 61439, 61440, 61441, 9216 * 3, 5_000_000])
def test_output_of_every_length_is_one_base64_text(sandbox, size):
    r = sandbox.run(f"head -c {size} /dev/zero | tr '\\0' x")
    assert r["output"] == b"x" * size


def test_max_bytes_cuts_and_counts(sandbox):
    r = sandbox.run("head -c 3000000 /dev/zero", max_bytes=1000)
    assert (len(r["output"]), r["dropped_bytes"]) == (1000, 2_999_000)


@pytest.mark.parametrize("cmd,timeout_s,outcome", [("kill -9 $$", 30, "signalled"), ("sleep 9", 2, "timeout"),
                                                   ("python3 -c 'bytearray(3 << 30)'", 60, "oom")])
def test_outcomes(sandbox, cmd, timeout_s, outcome):
    assert sandbox.run(cmd, timeout_s=timeout_s)["outcome"] == outcome


def break_before_the_answer(sandbox, body):
    """A request whose client is gone before the daemon can say a word: a quick answer would be acknowledged otherwise."""
    request, s = sandbox.raw("/run", body)
    daemon = sandbox.platform.process.pid
    os.kill(daemon, signal.SIGSTOP)
    try:
        s.sendall(request)
        s.close()
    finally:
        os.kill(daemon, signal.SIGCONT)


def pause(sandbox, seconds):
    """Not in silence, which would end it."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(0.5, left))
        assert sandbox.call("/ping")[0] == 200


def test_a_broken_request_runs_once(sandbox):
    body = {"cmd": "echo x >> /tmp/n; sleep 0.5; wc -l < /tmp/n", "timeout_s": 10}
    break_before_the_answer(sandbox, body)
    time.sleep(0.2)
    assert sandbox.run(**body)["output"] == b"1\n"
    # Whoever joined knew the id; the next equal request is one of its own.
    assert sandbox.run(**body)["output"] == b"2\n"


def test_a_twin_comes_in_time_or_not_at_all(sandbox):
    body = {"cmd": "echo x >> /tmp/n; wc -l < /tmp/n"}
    break_before_the_answer(sandbox, body)
    pause(sandbox, 2.5)
    assert sandbox.run(**body)["output"] == b"2\n"


def test_a_client_that_knew_the_id_means_another_run(sandbox):
    body = {"cmd": "echo x >> /tmp/n; sleep 0.5; wc -l < /tmp/n"}
    request, s = sandbox.raw("/run", body)
    s.sendall(request)
    while b"task_id" not in s.recv(4096):
        pass
    time.sleep(0.1)
    s.close()
    assert sandbox.run(**body)["output"] == b"2\n"


def test_equal_commands_at_once_are_as_many_runs(sandbox):
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: sandbox.run("echo x >> /tmp/n; sleep 0.2"), range(8)))
    assert sandbox.run("wc -l < /tmp/n")["output"] == b"8\n"


def lost_run(sandbox, cmd):
    request, s = sandbox.raw("/run", {"cmd": cmd})
    s.sendall(request)
    data = b""
    while b"task_id" not in data or not data.endswith(b"\n\n\r\n"):
        data += s.recv(4096)
    s.close()
    return data.split(b"data: ")[1].split()[0].decode()


def test_a_result_waits_for_its_reader_and_then_goes(sandbox):
    task = lost_run(sandbox, "sleep 0.3; echo later")
    pause(sandbox, 2.6)
    assert sandbox.run("", task_id=task)["output"] == b"later\n"
    assert sandbox.run("", task_id=task)["output"] == b"later\n"
    pause(sandbox, 2.5)
    status, _, data = sandbox.call("/run", {"cmd": "", "task_id": task})
    assert (status, events(data)) == (200, [("error", "unknown task_id")])


def test_a_task_belongs_to_its_sandbox(platform, sandbox):
    task = lost_run(sandbox, "echo mine")
    other = Sandbox(platform)
    assert events(other.call("/run", {"cmd": "", "task_id": task})[2]) == [("error", "unknown task_id")]
    other.delete()


def test_a_run_is_told_when_its_sandbox_is_deleted(sandbox):
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        answer = pool.submit(sandbox.call, "/run", {"cmd": "sleep 60"})
        time.sleep(0.3)
        assert sandbox.delete()[0] == 200
        assert events(answer.result()[2])[-1][0] == "error"


@pytest.mark.parametrize("body,field", [({}, "cmd"), ({"cmd": 7}, "cmd"), ({"cmd": "x", "timeout_s": -1}, "timeout_s"),
                                        ({"cmd": "x", "timeout_s": "1"}, "timeout_s"), ({"cmd": "x", "max_bytes": 1.5}, "max_bytes"),
                                        ({"cmd": "x", "shell": []}, "shell"), ({"cmd": "x", "task_id": 1}, "task_id")])
def test_bad_runs_name_the_field(sandbox, body, field):
    status, _, data = sandbox.call("/run", body)
    answer = json.loads(data)
    assert status == 400 and answer["detail"].startswith(field + ":") and answer["message"] == answer["detail"]


def test_a_body_that_is_no_json(sandbox):
    status, _, data = sandbox.call("/run", b"{]")
    assert status == 400 and "line 1, column" in json.loads(data)["detail"]


# -- life ------------------------------------------------------------------------------------------------------------

def test_creation_can_be_taken_up_again(sandbox):
    for _ in range(2):
        data = sandbox.call("/create_sandbox", {"image": "x", "task_id": sandbox.id})[2]
        assert events(data) == [("task_id", sandbox.id), ("end", json.dumps({"sid": sandbox.id}))]
    assert events(sandbox.call("/create_sandbox", {"image": "x", "task_id": "nobody"})[2]) == [("error", "unknown task_id")]


def test_silence_ends_it(sandbox):
    for _ in range(5):
        time.sleep(1)
        assert sandbox.call("/ping")[::2] == (200, b'{"status": "ok"}')
    time.sleep(7)
    status, _, data = sandbox.call("/ping")
    assert status == 410 and "no ping" in json.loads(data)["detail"]
    assert sandbox.call("/run", {"cmd": "x"})[0] == 410
    assert sandbox.delete()[0] == 200


def test_an_open_request_keeps_it(sandbox):
    assert sandbox.run("sleep 9; echo still here")["output"] == b"still here\n"


def test_ids_of_others_and_of_nobody(platform, sandbox):
    assert platform.request("POST", "/run", b"{}", {"X-Session-ID": "nobody"})[0] == 404
    assert platform.request("POST", "/run", b"{}")[0] == 400
    assert sandbox.call("/run", {"cmd": "x"}, key=None)[0] == 401
    assert sandbox.call("/ping", key="orw_" + "x" * 43)[0] == 401


@pytest.mark.parametrize("change,field", [({"machine_size": "64:1"}, "machine_size"), ({"machine_size": "nvidia-l4"}, "machine_size"),
                                          ({"machine_size": "x"}, "machine_size"), ({"network": {}}, "network"),
                                          ({"sidecars": {"name": "a"}}, "sidecars"),
                                          ({"bucket_config": {"mount_path": "/b"}}, "bucket_config"), ({"image": None}, "image")])
def test_bad_settings_name_the_field(platform, change, field):
    body = {"image": "python:3.11-slim", **change}
    status, _, data = platform.request("POST", "/create_sandbox", json.dumps(body).encode())
    assert status == 400 and json.loads(data)["detail"].startswith(field + ":")


def test_variables_and_aliases(platform):
    secrets = base64.b64encode(json.dumps({"TOKEN": {"value": "t0"}, "api_key": {"value": platform.key}}).encode()).decode()
    body = {"image": "python:3.11-slim", "env": {"A": "b c"}, "host_aliases": [{"ip": "127.0.0.9", "hostnames": ["nine"]}]}
    data = platform.request("POST", "/create_sandbox", json.dumps(body).encode(), {"X-Secrets": secrets})[2]
    s = Sandbox.__new__(Sandbox)
    s.platform, s.id = platform, events(data)[0][1]
    output = s.run("env; getent hosts nine")["output"].decode()
    s.delete()
    assert "A=b c\n" in output and "TOKEN=t0\n" in output and "127.0.0.9" in output
    assert platform.key not in output


# -- files -----------------------------------------------------------------------------------------------------------

def test_a_file_in_pieces(sandbox):
    sandbox.run("echo old > /tmp/f; chmod 640 /tmp/f")
    data = os.urandom(3_000_000)
    assert sandbox.call("/write_file?path=/tmp/f&offset=0&mkdirs=1", data[:2_000_000])[0] == 200
    assert sandbox.call("/write_file?path=/tmp/f&offset=2000000", data[2_000_000:])[0] == 200
    assert sandbox.run("cat /tmp/f")["output"] == b"old\n"
    assert sandbox.call("/write_file?path=/tmp/f&commit=1&size=5")[0] == 409
    for _ in range(2):  # a repetition is harmless
        status, _, answer = sandbox.call(f"/write_file?path=/tmp/f&commit=1&size={len(data)}")
        assert status == 200 and json.loads(answer)["sha256"] == hashlib.sha256(data).hexdigest()
    status, headers, got = sandbox.call("/read_file?path=/tmp/f&offset=2999990&length=100")
    assert (status, headers["x-file-size"], got) == (200, "3000000", data[-10:])
    assert sandbox.call("/read_file?path=/tmp/f&offset=3000001")[0] == 416
    assert sandbox.call("/read_file?path=/tmp/f")[2] == data
    assert sandbox.run("stat -c %a /tmp/f; ls -A /tmp")["output"] == b"640\nf\n"


def test_an_upload_that_is_begun_again_forgets_the_first(sandbox):
    sandbox.call("/write_file?path=/tmp/g&offset=0", b"a much longer beginning")
    sandbox.call("/write_file?path=/tmp/g&offset=0", b"short")
    assert sandbox.call("/write_file?path=/tmp/g&commit=1&size=5")[0] == 200
    assert sandbox.run("cat /tmp/g")["output"] == b"short"


def test_what_is_no_file(sandbox):
    sandbox.run("ln -s /etc/passwd /tmp/link; mkfifo /tmp/fifo")
    for path, status in [("/tmp/link", 400), ("/tmp/fifo", 400), ("/tmp", 400), ("/dev/null", 400), ("/tmp/none", 404)]:
        got, _, data = sandbox.call(f"/stat_file?path={path}")
        assert got == status, (path, data)
        assert ("symlink" in json.loads(data)["detail"]) == (path == "/tmp/link")
        assert sandbox.call(f"/read_file?path={path}")[0] == status
    assert sandbox.call("/stat_file")[0] == 400
    assert sandbox.call("/stat_file?path=/proc/self/status")[2] == b'{"size": 0}'


def test_pieces_that_are_none(sandbox):
    assert sandbox.call("/write_file?path=/tmp/h&offset=9", b"x")[0] == 409
    assert sandbox.call("/write_file?path=/tmp/h&commit=1&size=1")[0] == 409
    assert sandbox.call("/write_file?path=/tmp/h&commit=1")[0] == 400
    assert sandbox.call("/write_file?path=/tmp/h&offset=-1", b"x")[0] == 400
    assert sandbox.call("/write_file?path=/no/such/h&offset=0", b"x")[0] == 404
    assert sandbox.call("/write_file?path=/tmp/h&offset=0", b"x" * (4 * 1024 * 1024 + 1))[0] == 413
    assert sandbox.call("/write_file?path=/proc/h&offset=0", b"x")[0] == 403


def test_many_uploads_of_one_path_at_once(sandbox):
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda i: sandbox.call("/write_file?path=/tmp/same&offset=0", bytes([65 + i]) * 100_000)[0], range(8)))
    assert done == [200] * 8
    assert sandbox.call("/write_file?path=/tmp/same&commit=1&size=100000")[0] == 200
    r = sandbox.run("fold -w1 /tmp/same | sort | uniq -c | wc -l; ls -A /tmp")
    assert r["output"] == b"1\nsame\n"
