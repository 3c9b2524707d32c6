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


def test_a_keys_own_limits(limited):
    """What a key carries goes before the configuration's 2 sessions, wider or narrower, and may be changed while it is used."""
    key = made(limited, "--user", "carol") if limited.cli("user", "create", "carol").returncode == 0 else ""
    own = json.loads(limited.request("GET", "/v1/keys/current", key=key)[2])
    assert (own["max_sessions"], own["max_sandboxes"], own["max_rate"]) == (None, None, None)

    def opened():
        status, headers, answer = limited.request("POST", "/create_session", b"{}", {"X-Deployment": "local/tiny"}, key=key)
        return status, answer

    held = [TinySession(limited, "local/tiny", create=False, key=key) for _ in range(2)]
    assert opened()[0] == 429
    shown = limited.cli("key", "limit", own["id"][:8], "--max-sessions", "3", "--json")
    assert json.loads(shown.stdout)["max_sessions"] == 3, shown.stderr
    held.append(TinySession(limited, "local/tiny", create=False, key=key))
    status, answer = opened()
    assert status == 429 and b"own limit is 3" in answer
    assert limited.cli("key", "limit", own["id"], "--max-sessions", "0", "--max-sandboxes", "default").returncode == 0
    held.append(TinySession(limited, "local/tiny", create=False, key=key))
    limited.process.kill()
    limited.process.wait()
    limited.listen = limited.url.split("//")[1]
    limited.start()
    assert json.loads(limited.request("GET", "/v1/keys/current", key=key)[2])["max_sessions"] == 0
    for session in held:
        assert session.post("/delete_session", {})[0] == 200
    # Who is limited makes no wider key, and widens none; what it makes has its limits.
    assert limited.cli("key", "limit", own["id"], "--max-sessions", "1").returncode == 0
    as_own = {"OPENREWARD_API_KEY": key}
    child = json.loads(limited.cli("key", "create", "--json", env=as_own).stdout)
    assert child["max_sessions"] == 1
    for argv in (["create", "--max-sessions", "2"], ["create", "--max-sessions", "0"], ["limit", child["id"], "--max-sessions", "default"],
                 ["limit", own["id"], "--max-sessions", "2"]):
        done = limited.cli("key", *argv, env=as_own)
        assert done.returncode == 1 and "maxSessions" in done.stderr, (argv, done.stderr)
    # And both together have no more than the one: nobody gets more by making keys.
    held = TinySession(limited, "local/tiny", create=False, key=child["key"])
    status, answer = opened()
    assert status == 429 and b"own limit is 1" in answer
    assert held.post("/delete_session", {})[0] == 200
    held = TinySession(limited, "local/tiny", create=False, key=key)
    limited.process.kill()
    limited.process.wait()
    limited.start()
    status, _, answer = limited.request("POST", "/create_session", b"{}", {"X-Deployment": "local/tiny"}, key=child["key"])
    assert status == 429 and own["id"][:8].encode() in answer and b"limit is 1" in answer
    assert held.post("/delete_session", {})[0] == 200
    for value, told in (("-1", "maxRate"), ("x", "maxRate"), ("1000001", "maxRate")):
        done = limited.cli("key", "limit", own["id"], "--max-rate", value)
        assert done.returncode == 1 and told in done.stderr
    assert limited.cli("key", "limit", own["id"]).returncode == 1
    assert "MAX SESSIONS" in limited.cli("key", "ls").stdout
    assert limited.cli("key", "limit", own["id"], "--max-rate", "1").returncode == 0
    statuses = []
    wait_until(lambda: statuses.append(limited.request("GET", "/v1/keys/current", key=key)[0]) or 429 in statuses, 60, "a refusal")


def test_metrics_from_elsewhere_need_an_operators_key(base_images):
    with base_images.platform("proxies: [127.0.0.1]\n", images=False) as p:
        p.cli("user", "create", "somebody")
        key = made(p, "--user", "somebody")
        from_elsewhere = {"X-Forwarded-For": "203.0.113.9"}
        for headers, asked_with, expected in [({}, None, 200), (from_elsewhere, None, 401), (from_elsewhere, key, 403),
                                              (from_elsewhere, "", 200), (from_elsewhere, "orw_wrong", 401)]:
            assert p.request("GET", "/metrics", headers=headers, key=asked_with)[0] == expected, (headers, asked_with)
        assert p.request("GET", "/health", headers=from_elsewhere, key=None)[0] == 200
