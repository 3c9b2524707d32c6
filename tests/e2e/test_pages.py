"""Pages behind the addresses that the SDK and orwd print: safe, without a key, and nothing private in them."""
import json
import uuid

import pytest

HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


def page(platform, path, headers=None, method="GET"):
    """Status, text; every page forbids whatever it does not need."""
    status, answer, body = platform.request(method, path, None, {**HTML, **(headers or {})}, key=None)
    assert answer["content-type"] == "text/html; charset=utf-8", (status, body)
    assert answer["content-security-policy"].startswith("default-src 'none';") and answer["x-content-type-options"] == "nosniff"
    assert "www-authenticate" not in answer and "set-cookie" not in answer
    text = body.decode()
    assert "<script" not in text and "<form" not in text
    return status, text


def made(platform, private, description):
    name = f"env-{uuid.uuid4().hex[:8]}"
    body = {"name": name, "namespace": "local", "description": description, "isPrivate": private}
    assert platform.request("POST", "/v1/environments", json.dumps(body).encode())[0] == 201
    return name


def test_a_rollout_says_how_it_is_seen(platform):
    there = f"r-{uuid.uuid4()}"
    event = {"eventType": "rollout", "eventId": there, "timestamp": 1, "runName": "secret-run", "rolloutName": "x"}
    assert platform.request("POST", "/v1/rollouts", json.dumps({"events": [event]}).encode())[0] == 200
    status, text = page(platform, f"/rollout/{there}")
    assert status == 200 and f"{platform.url}/v1/rollouts/{there}" in text and "secret-run" not in text
    absent = str(uuid.uuid4())
    assert page(platform, f"/rollout/{absent}") == (200, text.replace(there, absent)), "nobody learns which there are"
    assert page(platform, f"/rollout/{there}", method="HEAD")[0] == 200


@pytest.mark.parametrize("path", ["/rollout/", "/rollout/a%3Cb%3E", "/rollout/$(reboot)", "/rollout/a/b", "/rollout/a;b", "/rollout/" + "x" * 300,
                                  "/local/a%22b", "/a/b/c", "/settings/other/x"])
def test_no_page_repeats_what_it_does_not_know(platform, path):
    status, headers, body = platform.request("GET", path, None, HTML, key=None)
    assert status == 404 and headers["content-type"].startswith("application/json"), body


def test_keys(platform):
    status, text = page(platform, "/settings/api-keys")
    assert status == 200 and "openreward key create" in text and f"OPENREWARD_URL={platform.url}\n" in text
    assert platform.request("GET", "/settings/api-keys", None, {"Host": "x$(reboot)"}, key=None)[0] == 400
    assert page(platform, "/settings/github")[0] == 200


def test_environments(platform):
    name = made(platform, False, "<script>alert('\"&')</script>")
    status, text = page(platform, f"/local/{name}")
    assert status == 200 and "&lt;script&gt;alert(&#39;&quot;&amp;&#39;)&lt;/script&gt;" in text
    private = made(platform, True, "hush")
    status, hidden = page(platform, f"/local/{private}")
    assert status == 404 and "hush" not in hidden
    absent = f"env-{uuid.uuid4().hex[:8]}"
    assert page(platform, f"/local/{absent}") == (404, hidden.replace(private, absent))
    status, headers, body = platform.request("GET", f"/local/{name}", None, {"Accept": "application/json"}, key=None)
    assert status == 404 and b"X-Session-ID" in body, "programs are told as before"
    status, headers, body = platform.request("GET", f"/rollout/{name}", None, {**HTML, "X-Session-ID": str(uuid.uuid4())})
    assert status == 404 and headers["content-type"].startswith("application/json"), "what a session calls is the session's"
