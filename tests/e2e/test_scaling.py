"""Sessions and instances, with the tests' own environment server."""
import concurrent.futures
import http.client
import json
import re
import time

import pytest

from orw import wait_until
from tinyenv import TinySession, deploy_tiny


def metric(platform, name):
    page = platform.request("GET", "/metrics")[2].decode()
    return float(next(line.rsplit(" ", 1)[1] for line in page.splitlines() if line.startswith(name + " ")))


def started(platform):
    return metric(platform, "openreward_instances_started_total")


def change(platform, name, **settings):
    done = platform.cli("env", "set", name, *(f"{k}={v}" for k, v in settings.items()))
    assert done.returncode == 0, done.stderr


def decisions(platform, name):
    """What the autoscaler's log says of one environment: [(from, to, why)]."""
    found = re.findall(rf"autoscaler: replicas (\d+) -> (\d+) environment={name} why=\"?([^\"]*?)\"? input=\"sessions=", platform.log())
    return [(int(a), int(b), why) for a, b, why in found]


def replicas(platform, name):
    """Where its last decision led; None before the first."""
    found = decisions(platform, name)
    return found[-1][1] if found else None


def open_all(platform, name, count):
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda _: TinySession(platform, name), range(count)))


def instances_of(sessions):
    """How many sessions each instance has."""
    found = [s.about()["instance"] for s in sessions]
    return sorted(found.count(i) for i in set(found))


@pytest.fixture(scope="module")
def scaled(platform):
    """An environment whose instances hold four sessions and end after a second without any."""
    name = deploy_tiny(platform, "scaled", revision="one")
    change(platform, name, concurrency=4, max_scale=10, idle_timeout="1s")
    return name


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


def test_twenty_sessions_scale_up_and_then_to_nothing(platform, scaled):
    sessions = open_all(platform, scaled, 20)
    assert instances_of(sessions) == [4] * 5
    for s in sessions:
        s.close()
    wait_until(lambda: replicas(platform, scaled) == 0, what="a decision to run none")
    assert {"sessions and creates need them", "unused for the idle time"} <= {why for _, _, why in decisions(platform, scaled)}
    # Asleep: the next one wakes it, and its stream says what it waits for.
    with TinySession(platform, scaled) as s:
        assert ": starting an instance" in s.stream
        assert s.call("echo", text="awake") == "awake"


def test_never_more_than_max_scale(platform, scaled):
    change(platform, scaled, concurrency=1, max_scale=2)
    held = open_all(platform, scaled, 2)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        third = pool.submit(TinySession, platform, scaled)
        wait_until(lambda: metric(platform, 'openreward_sessions_waiting{for="place"}') == 1, what="a create that waits")
        with TinySession(platform, scaled, create=False) as listing:  # takes no place, and waits for none
            assert listing.get("/tiny/splits")[0] == 200
        assert not third.done()
        held.pop().close()
        session = third.result(timeout=60)
    assert instances_of([session, *held]) == [1, 1]
    assert max(to for _, to, _ in decisions(platform, scaled)[-3:]) <= 2
    for s in (session, *held):
        s.close()
    change(platform, scaled, concurrency=4, max_scale=10)


def test_min_scale_runs_although_nobody_asks(platform, scaled):
    with TinySession(platform, scaled):
        pass
    wait_until(lambda: replicas(platform, scaled) == 0, what="its sleep")
    change(platform, scaled, min_scale=2)
    wait_until(lambda: decisions(platform, scaled)[-1][1:] == (2, "min_scale"), what="min_scale")
    before = started(platform)
    with TinySession(platform, scaled) as s:
        assert s.call("echo", text="x") == "x"
    assert started(platform) <= before + 1  # the second may still be on its way
    change(platform, scaled, min_scale=0)
    wait_until(lambda: replicas(platform, scaled) == 0, what="the end of both")


def test_a_new_revision_rolls_over_several_instances(platform, scaled):
    change(platform, scaled, concurrency=2)
    old = open_all(platform, scaled, 5)
    assert instances_of(old) == [1, 2, 2]
    deploy_tiny(platform, "scaled", revision="two")
    new = open_all(platform, scaled, 3)
    assert {s.about()["revision"] for s in old} == {"one"} and {s.about()["revision"] for s in new} == {"two"}
    assert metric(platform, "openreward_instances_draining") >= 3
    for s in (*old, *new):
        assert s.close()[0] == 200
    wait_until(lambda: metric(platform, "openreward_instances_draining") == 0, what="the end of the old ones")


def test_a_crash_is_its_own_sessions_alone(platform, scaled):
    change(platform, scaled, concurrency=2)
    sessions = open_all(platform, scaled, 4)
    victim = sessions[0].about()["instance"]
    lost = [s for s in sessions if s.about()["instance"] == victim]
    kept = [s for s in sessions if s not in lost]
    with pytest.raises(http.client.IncompleteRead):
        lost[0].post("/tiny/call", {"name": "crash", "input": {"code": 9, "text": "gone"}})
    for s in lost:
        status, _, body = s.get("/tiny/prompt")
        assert status == 410 and b"code 9" in body and b"outcome infra" in body, (status, body)
    for s in kept:
        assert s.call("echo", text="alive") == "alive"
    with TinySession(platform, scaled) as more:
        assert more.call("echo", text="new") == "new"
    for s in kept:
        s.close()
    assert len(lost) == 2 and len(kept) == 2


def test_a_crash_is_410_with_its_last_line(platform):
    name = deploy_tiny(platform, "crasher")
    s = TinySession(platform, name)
    with pytest.raises(http.client.IncompleteRead):  # its event stream breaks off
        s.post("/tiny/call", {"name": "crash", "input": {"code": 3, "text": "out of ideas"}})
    status, _, body = s.get("/tiny/prompt")
    assert status == 410 and b"code 3" in body and b"out of ideas" in body, (status, body)
    with TinySession(platform, name) as again:
        assert again.call("echo", text="x") == "x"


def test_one_that_crashes_again_and_again_waits_longer_each_time(platform):
    """The first crash is answered at once, the next ones after 0.5, 1 and 2 s: never earlier, however idle the machine is."""
    name = deploy_tiny(platform, "relapse", TINY_EXIT_AFTER_S="0.5")
    seen = []

    def crashes():
        return metric(platform, "openreward_instances_crashed_total")

    before = crashes()
    change(platform, name, min_scale=1)
    for n in range(1, 6):
        wait_until(lambda count=n: crashes() >= before + count, timeout_s=60, what=f"crash {n}")
        seen.append(time.monotonic())
    change(platform, name, min_scale=0)
    assert [later - earlier >= wait for earlier, later, wait in zip(seen[1:], seen[2:], (0.5, 1, 2))] == [True] * 3, seen
    with TinySession(platform, name, create=False) as s:  # it still serves whoever asks
        assert s.get("/tiny/splits")[0] == 200
