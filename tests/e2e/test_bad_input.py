"""Every wrong request gets an error that names the field, the value and what was expected; the platform lives on."""
import json

import pytest

from orw import settings

SANDBOX = {"image": "python:3.11-slim", "machine_size": "1:2", "environment": "local/none"}


def create(platform, **changes):
    body = json.dumps({**SANDBOX, **changes}).encode()
    status, _, answer = platform.request("POST", "/create_sandbox", body, headers={"Content-Type": "application/json"})
    return status, answer.decode()


def errors_of(answer):
    """Both spellings of the message: the session clients read `detail`, the command line reads `message`."""
    parsed = json.loads(answer)
    assert parsed["detail"] == parsed["message"] != ""
    return parsed["detail"]


@pytest.mark.parametrize("changes,words", [
    ({"machine_size": "huge"}, ["machine_size", "huge"]),
    ({"machine_size": "0:1"}, ["machine_size", "0:1"]),
    ({"machine_size": "1:2:3"}, ["machine_size"]),
    ({"machine_size": 5}, ["machine_size"]),
    ({"machine_size": "1000:4000"}, ["machine_size", "1000:4000"]),
    ({"machine_size": "nvidia-l4"}, ["machine_size", "nvidia-l4"]),
    ({"image": ""}, ["image"]),
    ({"image": 7}, ["image"]),
    ({"image": "bad image name!"}, ["image", "bad image name!"]),
    ({"env": {"A": 1}}, ["env"]),
    ({"env": {"A=B": "x"}}, ["env"]),
    ({"block_network": "yes"}, ["block_network"]),
    ({"network": {"rules": []}}, ["network"]),
    ({"sidecars": [{"name": "db"}]}, ["sidecars[0]", "image"]),
    ({"sidecars": [{"name": "main", "image": "x"}]}, ["sidecars[0]", "name", "main"]),
    ({"sidecars": [{"name": "a", "image": "x"}] * 2}, ["sidecars[1]", "name"]),
    ({"sidecars": "x"}, ["sidecars"]),
    ({"bucket_config": {"mount_path": "/data"}}, ["bucket_config"]),
    ({"host_aliases": [{"ip": "not-an-ip", "hostnames": ["x"]}]}, ["host_aliases"]),
])
def test_create_sandbox_names_the_field(platform, changes, words):
    status, answer = create(platform, **changes)
    assert status == 400, answer
    for word in words:
        assert word in errors_of(answer), answer


def test_unknown_keys_are_ignored(platform):
    status, answer = create(platform, some_future_key={"x": 1})
    assert status == 200 and "event: end" in answer
    sid = json.loads(answer.split("event: end")[1].split("data:")[1].strip().splitlines()[0])["sid"]
    assert platform.request("POST", "/delete_session", b"", headers={"X-Session-ID": sid})[0] == 200


def test_unknown_image_says_why(platform, client):
    with pytest.raises(RuntimeError) as raised:
        with client.sandbox(settings(image="localhost:1/no/such:image")):
            pass
    assert "is not here and could not be pulled" in str(raised.value)


def test_malformed_json_has_its_position(platform):
    status, _, body = platform.request("POST", "/create_sandbox", b'{"image": \n  nope}')
    assert status == 400 and "line 2" in errors_of(body)


@pytest.mark.parametrize("body", [b"[]", b'{"image": "a", "image": "b"}', b'{"image": "\xff"}', b"", b"null", b'{"a":' * 2000])
def test_other_wrong_bodies(platform, body):
    status, _, answer = platform.request("POST", "/create_sandbox", body)
    assert status == 400 and errors_of(answer)


def test_wrong_method_has_allow(platform):
    status, headers, body = platform.request("GET", "/create_sandbox")
    assert status == 405 and "POST" in headers["allow"] and errors_of(body)


def test_unknown_session_and_missing_header(platform):
    for path in ("/run", "/stat_file?path=/x", "/prompt", "/ping"):
        method = "GET" if path == "/prompt" else "POST"
        body = None if method == "GET" else b'{"cmd": "true"}'
        status, _, answer = platform.request(method, path, body, headers={"X-Session-ID": "00000000-0000-8000-8000-000000000000"})
        assert status == 404 and errors_of(answer), path
        status, _, answer = platform.request(method, path, body)
        assert status in (400, 404) and "X-Session-ID" in errors_of(answer), path


@pytest.mark.parametrize("key", [None, "wrong", "orw_" + "A" * 43])
def test_without_a_valid_key(platform, key):
    for method, path in (("POST", "/create_session"), ("POST", "/create_sandbox"), ("GET", "/v1/environments"),
                         ("POST", "/run"), ("GET", "/v1/namespace/current?type=user")):
        status, _, answer = platform.request(method, path, b"{}" if method == "POST" else None, key=key,
                                             headers={"X-Session-ID": "x", "X-Deployment": "local/x"})
        assert status == 401 and errors_of(answer), path


@pytest.mark.parametrize("body,word", [
    ({}, "cmd"), ({"cmd": 5}, "cmd"), ({"cmd": "true", "timeout_s": "soon"}, "timeout_s"), ({"cmd": "true", "timeout_s": -1}, "timeout_s"),
    ({"cmd": "true", "max_bytes": -5}, "max_bytes"), ({"cmd": "true", "max_bytes": 1.5}, "max_bytes"), ({"cmd": "true", "shell": []}, "shell"),
])
def test_run_names_the_field(platform, sandbox, body, word):
    status, _, answer = platform.request("POST", "/run", json.dumps(body).encode(), headers={"X-Session-ID": sandbox.sid})
    assert status == 400 and word in errors_of(answer)
    assert sandbox.run("echo alive").output == "alive"


@pytest.mark.parametrize("query,word", [("", "path"), ("?path=", "path"), ("?path=/a&offset=x", "offset"), ("?path=/a&offset=-1", "offset"),
                                        ("?path=/a%00b", "path")])
def test_read_file_names_the_field(platform, sandbox, query, word):
    status, _, answer = platform.request("POST", "/read_file" + query, b"", headers={"X-Session-ID": sandbox.sid})
    assert status == 400 and word in errors_of(answer)


@pytest.mark.parametrize("env", ['{"A=B": "1"}', '{"X": 1}', '["X"]', '"X"'])
def test_session_variables_are_checked(platform, hello, env):
    body = b'{"env": %s}' % env.encode()
    status, _, answer = platform.request("POST", "/create_session", body, headers={"X-Deployment": hello})
    assert status == 400 and "env" in errors_of(answer)


def test_set_network_is_not_supported_yet(platform, sandbox):
    status, _, answer = platform.request("POST", "/set_network", b'{"rules": []}', headers={"X-Session-ID": sandbox.sid})
    assert status in (400, 409) and "network" in errors_of(answer)


def test_environment_calls(platform, hello):
    status, _, answer = platform.request("GET", "/v1/environments/local/nope", None)
    assert status == 404 and errors_of(answer)
    status, _, answer = platform.request("GET", f"/v1/environments/{hello}", None)
    found = json.loads(answer)
    assert status == 200 and (found["owner"], found["name"], found["is_private"]) == ("local", "hello", False)
    assert set(found["compute_config"]) >= {"cpu_count", "mem_gb"}
    status, _, answer = platform.request("GET", "/v1/environments?owner=local&limit=1", None)
    assert status == 200 and json.loads(answer)["total"] >= 1 and len(json.loads(answer)["environments"]) == 1
    status, _, answer = platform.request("GET", "/v1/environments?limit=-1", None)
    assert status == 400 and "limit" in errors_of(answer)
    status, _, answer = platform.request("GET", f"/v1/environments/{hello}/required-secrets", None)
    assert (status, json.loads(answer)) == (200, {"secrets": []})


def test_a_description_that_is_too_long_makes_nothing(platform):
    def ask(method, path, body=None):
        status, _, answer = platform.request(method, path, None if body is None else json.dumps(body).encode())
        return status, json.loads(answer)

    status, answer = ask("POST", "/v1/environments", {"name": "described", "description": "x" * 65000})
    assert status == 400 and answer["message"] == "description: a text of 65000 bytes: expected at most 8192"
    assert ask("GET", "/v1/environments/local/described")[0] == 404
    assert ask("POST", "/v1/environments", {"name": "described", "description": "\x01" * 8192})[0] == 201
    status, answer = ask("PUT", "/v1/environments/local/described/details", {"new_description": "é" * 4097, "new_name": "other"})
    assert status == 400 and "new_description: a text of 8194 bytes" in answer["message"]
    assert ask("GET", "/v1/environments/local/described")[1]["description"] == "\x01" * 8192


def test_a_name_that_no_image_could_have_is_refused(platform):
    def create(name):
        status, _, answer = platform.request("POST", "/v1/environments", json.dumps({"name": name}).encode())
        return status, answer.decode()

    status, answer = create("a" * 65)
    assert status == 400 and "name: " in errors_of(answer) and "1 to 64" in errors_of(answer)
    assert create("a" * 64)[0] == 201
    status, _, answer = platform.request("POST", f"/v1/environments/local/{'b' * 65}/deployments", b"")
    assert status == 400 and "1 to 64" in errors_of(answer)


def test_task_of_another_sandbox_is_unknown(platform, client):
    with client.sandbox(settings()) as a, client.sandbox(settings()) as b:
        _, _, answer = platform.request("POST", "/run", b'{"cmd": "echo mine"}', headers={"X-Session-ID": a.sid})
        task = answer.decode().split("event: task_id")[1].split("data:")[1].strip().splitlines()[0]
        body = json.dumps({"cmd": "echo mine", "task_id": task}).encode()
        _, _, same = platform.request("POST", "/run", body, headers={"X-Session-ID": a.sid})
        assert "event: end" in same.decode()
        _, _, other = platform.request("POST", "/run", body, headers={"X-Session-ID": b.sid})
        assert "unknown task_id" in other.decode() and "event: error" in other.decode()
