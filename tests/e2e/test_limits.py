"""Limits of each key, and /metrics for who may look."""
import json

import pytest

from orw import settings, wait_until
from tinyenv import TinySession, deploy_tiny

CONFIG = """
keys:
  sessions: 2
  sandboxes: 1
"""


@pytest.fixture(scope="module")
def limited(base_images):
    with base_images.platform(CONFIG) as p:
        deploy_tiny(p)
        yield p


def made(platform, *argv: str) -> str:
    done = platform.cli("key", "create", *argv)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_sessions_and_sandboxes_of_one_key(limited):
    first, second = made(limited), made(limited)
    open_ones = [TinySession(limited, "local/tiny", create=False, key=first) for _ in range(2)]
    status, headers, answer = limited.request("POST", "/create_session", b"{}", {"X-Deployment": "local/tiny"}, key=first)
    assert status == 429 and int(headers["retry-after"]) >= 1 and b"keys.sessions" in answer
    TinySession(limited, "local/tiny", create=False, key=second).post("/delete_session", {})
    assert open_ones[0].post("/delete_session", {})[0] == 200
    open_ones.append(TinySession(limited, "local/tiny", create=False, key=first))
    with limited.client(first) as client, client.sandbox(settings()) as sandbox:
        assert sandbox.run("true").return_code == 0
        body = json.dumps({"image": "python:3.11-slim"}).encode()
        status, headers, answer = limited.request("POST", "/create_sandbox", body, key=first)
        assert status == 429 and int(headers["retry-after"]) >= 1 and b"keys.sandboxes" in answer
    with limited.client(first) as client, client.sandbox(settings()) as sandbox:
        assert sandbox.run("true").return_code == 0
    for session in open_ones[1:]:
        assert session.post("/delete_session", {})[0] == 200


def test_what_is_open_counts_after_a_restart(limited):
    key = made(limited)
    held = [TinySession(limited, "local/tiny", create=False, key=key) for _ in range(2)]
    with limited.client(key) as client, client.sandbox(settings()) as sandbox:
        assert sandbox.run("true").return_code == 0
        limited.process.kill()
        limited.process.wait()
        limited.listen = limited.url.split("//")[1]
        limited.start()
        assert limited.request("POST", "/create_session", b"{}", {"X-Deployment": "local/tiny"}, key=key)[0] == 429
        assert limited.request("POST", "/create_sandbox", b'{"image": "python:3.11-slim"}', key=key)[0] == 429
        assert sandbox.run("true").return_code == 0
    for session in held:
        assert session.post("/delete_session", {})[0] == 200
    TinySession(limited, "local/tiny", create=False, key=key).post("/delete_session", {})


def test_requests_a_second_of_one_key(base_images):
    with base_images.platform("keys:\n  rate: 1\n", images=False) as p:
        statuses = []
        def ask(path="/v1/keys/current", method="GET"):
            status, headers, answer = p.request(method, path)
            if status == 429:
                assert int(headers["retry-after"]) >= 1 and b"keys.rate" in answer
            return status
        wait_until(lambda: statuses.append(ask()) or 429 in statuses, 60, "a refusal")
        assert statuses[0] == 200
        assert ask("/ping", "POST") != 429 and ask("/delete_session", "POST") != 429
        wait_until(lambda: ask() == 200, 60, "the next one let through")


def test_metrics_from_elsewhere_need_an_operators_key(base_images):
    with base_images.platform("proxies: [127.0.0.1]\n", images=False) as p:
        p.cli("user", "create", "somebody")
        key = made(p, "--user", "somebody")
        from_elsewhere = {"X-Forwarded-For": "203.0.113.9"}
        for headers, asked_with, expected in [({}, None, 200), (from_elsewhere, None, 401), (from_elsewhere, key, 403),
                                              (from_elsewhere, "", 200), (from_elsewhere, "orw_wrong", 401)]:
            assert p.request("GET", "/metrics", headers=headers, key=asked_with)[0] == expected, (headers, asked_with)
        assert p.request("GET", "/health", headers=from_elsewhere, key=None)[0] == 200
