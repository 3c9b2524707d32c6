"""A platform used over HTTP/2: whole sessions with their event streams, many on one connection, bodies through an instance and a
sandbox, requests that are given up. The SDK beside it stays with HTTP/1.1."""
import asyncio
import concurrent.futures
import json
import os
import re
import socket
import subprocess
import threading

import httpx
import pytest

from orw import wait_until
from tinyenv import TinySession
from wire import Sandbox, events


class OverHttp2:
    """A platform's request(), as Platform has it, on one connection of HTTP/2. The client lives in one thread, whoever asks: of
    several, each may send what another one just took out of its buffer, or lose it."""

    def __init__(self, platform):
        self.platform = platform
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.client = httpx.AsyncClient(http1=False, http2=True, base_url=platform.url, limits=httpx.Limits(max_connections=1))

    def run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()

    def request(self, method, path, body=None, headers=None, key="", timeout_s=60):
        headers = {**(headers or {}), "X-API-Key": key or self.platform.key}
        answer = self.run(self.client.request(method, path, content=body, headers=headers, timeout=timeout_s))
        assert answer.http_version == "HTTP/2"
        return answer.status_code, {k.lower(): v for k, v in answer.headers.items()}, answer.content

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.run(self.client.aclose())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


@pytest.fixture
def over(platform):
    with OverHttp2(platform) as o:
        yield o


def counter(platform, name):
    return float(re.search(rf"^{name} (\S+)$", platform.request("GET", "/metrics")[2].decode(), re.M).group(1))


def test_a_whole_session(over, tiny):
    with TinySession(over, tiny) as s:
        assert s.about()
        assert s.ping()[0] == 200
        status, headers, _ = s.get("/list_environments")
        assert status == 200
        assert not {"connection", "transfer-encoding", "keep-alive"} & set(headers)
    assert over.request("POST", "/ping", b"", {"X-Session-ID": s.id, "X-Deployment": tiny})[0] in (404, 410)


def test_sessions_at_once_on_one_connection(platform, over, tiny):
    before = counter(platform, "openreward_http2_connections_total")

    def one(_):
        with TinySession(over, tiny, timeout_s=300) as s:
            return [bool(s.about()) for _ in range(3)]

    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        assert list(pool.map(one, range(20))) == [[True] * 3] * 20
    assert counter(platform, "openreward_http2_connections_total") <= before + 1


def test_curl_reads_the_events_of_a_call(platform, tiny):
    with TinySession(platform, tiny) as s:
        done = subprocess.run(
            ["curl", "-sS", "--max-time", "120", "--http2-prior-knowledge", "-w", "%{stderr}%{http_version}", "-H", f"X-API-Key: {platform.key}",
             "-H", f"X-Session-ID: {s.id}", "-H", f"X-Deployment: {tiny}", "--json", json.dumps({"name": "about", "input": {}}),
             platform.url + "/tiny/call"], capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0 and done.stderr == "2", done
    assert events(done.stdout.replace("\r\n", "\n").encode())[-1][0] == "end"


def test_a_sandbox(over, platform, base_images):
    """Pieces of a file, larger than any window, and runs whose results come as events."""
    sent = os.urandom(8 << 20)
    box = Sandbox(over)
    try:
        for at in range(0, len(sent), 4 << 20):
            assert box.call(f"/write_file?path=/tmp/big&offset={at}", sent[at:at + (4 << 20)])[0] == 200
        assert box.call(f"/write_file?path=/tmp/big&commit=1&size={len(sent)}")[0] == 200
        status, headers, got = box.call("/read_file?path=/tmp/big")
        assert (status, headers["x-file-size"]) == (200, str(len(sent))) and got == sent
        with concurrent.futures.ThreadPoolExecutor(10) as pool:
            runs = list(pool.map(lambda i: box.run(f"head -c {i * 100000} /tmp/big")["output"], range(10)))
        assert runs == [sent[:i * 100000] for i in range(10)]
    finally:
        assert box.delete()[0] == 200


def test_a_request_that_is_given_up_ends_alone(over, tiny):
    with TinySession(over, tiny) as s:
        with pytest.raises(httpx.ReadTimeout):
            s.post("/tiny/call", {"name": "sleep", "input": {"seconds": 600}}, timeout_s=2)
        assert s.about()


def test_keys_and_errors_are_the_same(over, platform):
    for path in ("/v1/environments", "/v1/nothing", "/v1/environments/no/such"):
        assert over.request("GET", path)[0] == platform.request("GET", path)[0]
    assert over.request("GET", "/v1/environments", key="wrong")[0] == 401


def test_the_sdk_stays_with_http_1(platform, client, tiny):
    before = counter(platform, "openreward_http2_connections_total")
    assert client.environments.get(tiny).list_splits()
    assert counter(platform, "openreward_http2_connections_total") == before


def test_what_an_abuser_does_is_counted(platform):
    before = counter(platform, "openreward_http2_refused_total")
    host, port = platform.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as s:
        s.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0" * 5000)
        while s.recv(65536):
            pass
    wait_until(lambda: counter(platform, "openreward_http2_refused_total") == before + 1)
