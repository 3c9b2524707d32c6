"""POST /create_sandbox by hand: many at once, their streams looked at while they wait, or dropped."""
import concurrent.futures
import http.client
import json
import os
import socket
import threading
import urllib.parse

from orw import wait_until
from wire import events

BODY = {"image": "python:3.11-slim", "machine_size": "0.1:0.1", "block_network": True}


class Create:
    """One, with its event stream."""

    def __init__(self, platform, key="", body=None, task_id=None):
        text = json.dumps({**BODY, **(body or {}), **({"task_id": task_id} if task_id else {})})
        url = urllib.parse.urlsplit(platform.url)
        self.socket = socket.create_connection((url.hostname, url.port), timeout=120)
        self.socket.sendall((f"POST /create_sandbox HTTP/1.1\r\nHost: x\r\nX-API-Key: {key or platform.key}\r\nConnection: close\r\n"
                             f"Content-Length: {len(text)}\r\n\r\n{text}").encode())
        self.answer = http.client.HTTPResponse(self.socket)
        self.answer.begin()
        self.lines = []

    @property
    def id(self):
        while not any(line.startswith("data: ") for line in self.lines):
            self.read_line()
        return next(line for line in self.lines if line.startswith("data: "))[6:]

    def read_line(self):
        line = self.answer.readline()
        assert line, f"the stream ended: {self.lines}"
        self.lines.append(line.decode().strip())
        return self.lines[-1]

    def until(self, text):
        while text not in self.read_line():
            pass
        return self.lines[-1]

    def result(self):
        """The id of a sandbox that is there."""
        found = events("".join(line + "\n" for line in self.lines).encode() + self.answer.read())
        assert found[-1][0] == "end", found
        self.socket.close()
        return json.loads(found[-1][1])["sid"]

    def drop(self):
        self.answer.close()
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


def delete(platform, sid):
    assert platform.request("POST", "/delete_session", b"", {"X-Session-ID": sid})[0] == 200


def metric(platform, name):
    page = platform.request("GET", "/metrics")[2].decode()
    return float(next(line.rsplit(" ", 1)[1] for line in page.splitlines() if line.startswith(name)))


def waiting(platform, kind="sandbox"):
    return metric(platform, f'openreward_room_waiting{{for="{kind}"}}')


def second_key(platform):
    """Another key than the one that it has from now on: a start without the file makes a new one beside the old one."""
    first = platform.key
    assert platform.stop() == 0
    os.unlink(os.path.join(platform.data, "admin.key"))
    platform.start()
    return first


def two_keys(platform, room, big, small):
    """A full machine of `room` places, `big` creates of one key and then `small` of another; then all of it ends, one by one.
    Returns which of all creates, counted from 1, was the last of the small key's. None is shed."""
    other, done, lock = second_key(platform), [], threading.Lock()

    def one(key):
        sid = Create(platform, key).result()
        with lock:
            done.append(key)
        delete(platform, sid)

    holders = [Create(platform).result() for _ in range(room)]
    with concurrent.futures.ThreadPoolExecutor(big + small) as pool:
        calls = [pool.submit(one, platform.key) for _ in range(big)]
        wait_until(lambda: waiting(platform) == big, 60, "the big key's queue")
        calls += [pool.submit(one, other) for _ in range(small)]
        wait_until(lambda: waiting(platform) == big + small, 60, "the whole queue")
        status, headers, data = platform.request("POST", "/create_sandbox", json.dumps(BODY).encode())
        assert status == 429 and int(headers["retry-after"]) > 0, (status, headers)
        assert f"{big + small} creates wait" in json.loads(data)["detail"], data
        for sid in holders:
            delete(platform, sid)
        for call in calls:
            call.result()
    assert len(done) == big + small
    return max(n for n, key in enumerate(done) if key == other) + 1


def burst(platform, count):
    """So many at once, each deleted as soon as it is there: none is shed."""
    before = [metric(platform, f"openreward_sandboxes_{what}_total") for what in ("failed", "refused", "created")]
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        list(pool.map(lambda _: delete(platform, Create(platform).result()), range(count)))
    after = [metric(platform, f"openreward_sandboxes_{what}_total") for what in ("failed", "refused", "created")]
    assert [b - a for a, b in zip(before, after)] == [0, 0, count]
