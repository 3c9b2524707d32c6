"""A sandbox by plain HTTP, to see and to break what crosses the wire; the SDK hides it."""
import base64
import json
import socket
import urllib.parse


class Sandbox:
    def __init__(self, platform, **settings):
        self.platform = platform
        body = {"environment": "local/none", "image": "python:3.11-slim", "machine_size": "0.5:1", **settings}
        status, _, self.answer = platform.request("POST", "/create_sandbox", json.dumps(body).encode())
        assert status == 200, self.answer
        found = events(self.answer)
        assert found[-1][0] == "end", found
        self.id = found[0][1]

    def call(self, path, body=b"", **kw):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.platform.request("POST", path, data, {"X-Session-ID": self.id}, **kw)

    def run(self, cmd, **kw):
        status, _, data = self.call("/run", {"cmd": cmd, **kw})
        assert status == 200, data
        return result(data)

    def raw(self, path, body):
        """The bytes of a request, and a connection."""
        return self.request(self.platform, path, body, f"X-Session-ID: {self.id}\r\n")

    @staticmethod
    def request(platform, path, body, headers=""):
        host, port = urllib.parse.urlsplit(platform.url).netloc.split(":")
        data = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nX-API-Key: {platform.key}\r\n{headers}Content-Length: {len(data)}\r\n\r\n"
        return head.encode() + data, socket.create_connection((host, int(port)))

    def delete(self):
        return self.call("/delete_session")


def events(data):
    """[(event, data)] of a stream, comments left out."""
    found = []
    for block in data.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if line and not line.startswith(":"))
        if fields:
            found.append((fields["event"], fields["data"]))
    return found


def result(data):
    found = events(data)
    assert found[0][0] == "task_id" and found[-1][0] == "end", found[:3]
    value = json.loads("".join(d for e, d in found if e in ("chunk", "end")))
    value["output"] = base64.b64decode(value["output"], validate=True)
    value["task_id"] = found[0][1]
    return value
