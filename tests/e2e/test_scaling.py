"""Sessions and instances, with the tests' own environment server."""
import http.client
import json

import pytest

from orw import wait_until
from tinyenv import TinySession, deploy_tiny


def started(platform):
    _, _, page = platform.request("GET", "/metrics")
    return int(next(line.split()[1] for line in page.decode().splitlines()
                    if line.startswith("openreward_instances_started_total")).split(".")[0])


def test_listings_do_not_scale_up(platform, tiny):
    TinySession(platform, tiny).close()
    before = started(platform)
    for _ in range(30):
        with TinySession(platform, tiny, create=False) as s:
            assert s.get("/tiny/splits")[0] == 200
    assert started(platform) == before


def test_variables_bring_an_instance_of_ones_own(platform, tiny):
    with TinySession(platform, tiny) as plain, TinySession(platform, tiny, body={"env": {"ANY": "thing"}}) as own:
        about, other = own.about(), plain.about()
        assert about["env"]["ANY"] == "thing" and "ANY" not in other["env"]
        assert about["instance"] != other["instance"]
        plain_still = plain.about()["instance"]
    assert plain_still == other["instance"]
    wait_until(lambda: b"openreward_instances_own 0" in platform.request("GET", "/metrics")[2], what="its instance's end")


def test_a_variable_that_cannot_be(platform, tiny):
    for env, word in (({"A=": "b"}, b"env"), ({"A": 1}, b"env.A"), ({"PORT": "1"}, b"env.PORT")):
        status, _, body = platform.request("POST", "/create_session", json.dumps({"env": env}).encode(), {"X-Deployment": tiny})
        assert status == 400 and word in body, body


def test_a_crash_is_410_with_its_last_line(platform):
    name = deploy_tiny(platform, "crasher")
    s = TinySession(platform, name)
    with pytest.raises(http.client.IncompleteRead):  # its event stream breaks off
        s.post("/tiny/call", {"name": "crash", "input": {"code": 3, "text": "out of ideas"}})
    status, _, body = s.get("/tiny/prompt")
    assert status == 410 and b"code 3" in body and b"out of ideas" in body, (status, body)
    with TinySession(platform, name) as again:
        assert again.call("echo", text="x") == "x"
