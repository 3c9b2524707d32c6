"""More creates than there is room for: they wait in order, fair over keys; nobody is shed, nobody starves, nothing leaks."""
import concurrent.futures
import json
import os

import pytest

from creates import BODY, Create, burst, delete, metric, second_key, two_keys, waiting
from orw import ROOM_BY_NUMBER, Census, cgroup_name, nothing_new, wait_until
from tinyenv import TinySession, deploy_tiny
from wire import events

ROOM = 60
BURST = 300
CONFIG = f"""
sandboxes:
  max: {ROOM}
queue:
  max: {BURST}
  share: 0
pools:
  max: 0
  blanks: 0
""" + ROOM_BY_NUMBER


@pytest.fixture(scope="module")
def machine(base_images):
    """One platform; full and small say how much there is room for, so all tests of the one come before those of the other."""
    with base_images.platform(CONFIG) as p:
        yield p


def restart_with(p, config):
    if open(p.config_path, encoding="utf-8").read() != config:
        assert p.stop() == 0
        with open(p.config_path, "w", encoding="utf-8") as f:
            f.write(config)
        p.start()
    return p


@pytest.fixture
def full(machine):
    return restart_with(machine, CONFIG)


@pytest.fixture
def small(machine):
    """Room for three of anything, and for four in the queue."""
    return restart_with(machine, CONFIG.replace(f"max: {ROOM}", "max: 3").replace(f"max: {BURST}", "max: 4"))


def test_a_burst_sheds_nobody(full):
    """Of five times as many as fit, each gets its turn as soon as another has ended."""
    before = Census(full.data)
    burst(full, BURST)
    assert metric(full, "openreward_room_waited_total") > 0
    nothing_new(full, before)


def test_a_small_key_is_done_long_before_a_big_one(full):
    """Turn by turn: the 30 are done when about as many of the other's 270 are."""
    last = two_keys(full, ROOM, BURST - 30, 30)
    assert last < 2 * 30 + ROOM + 30, f"the last of the small key was number {last} of {BURST}"


def test_who_waits_is_told_and_leaves_at_once(small):
    before = Census(small.data)
    holders = [Create(small).result() for _ in range(3)]
    first, second, third = Create(small), Create(small), Create(small)
    assert ": waiting for room: 1 of " in first.until("waiting for room") and "all 3 places are in use" in first.lines[-1]
    third.until("waiting for room: 3 of 3")
    sid = second.id
    second.drop()
    wait_until(lambda: waiting(small) == 2, what="the end of its waiting")
    third.until("waiting for room: 2 of 2")
    again = Create(small, task_id=sid)  # as the SDK does when a stream breaks: anew, under the same id
    assert again.id == sid
    again.until("waiting for room: 3 of 3")
    assert small.request("POST", "/delete_session", b"", {"X-Session-ID": third.id})[0] == 200
    again.until("waiting for room: 2 of 2")
    delete(small, holders[0])
    delete(small, first.result())
    assert again.result() == sid
    for one in (sid, *holders[1:]):
        delete(small, one)
    nothing_new(small, before)


def test_one_key_leaves_places_in_the_queue_to_another(machine):
    """Room for three, four places in the queue, and a key's share is as many as are free: two wait, and the third of that key does not."""
    p = restart_with(machine, CONFIG.replace(f"max: {ROOM}", "max: 3").replace(f"max: {BURST}", "max: 4").replace("share: 0", "share: 1"))
    other = second_key(p)
    holders = [Create(p).result() for _ in range(3)]
    queued = [Create(p) for _ in range(2)]
    wait_until(lambda: waiting(p) == 2, what="two that wait")
    status, headers, data = p.request("POST", "/create_sandbox", json.dumps(BODY).encode())
    assert status == 429 and int(headers["retry-after"]) > 0, (status, headers, data)
    assert b"2 creates wait for room already, 2 of them of this key" in data, data
    queued.append(Create(p, other))
    wait_until(lambda: waiting(p) == 3, what="the other key's")
    for sid in holders:
        delete(p, sid)
    for create in queued:
        delete(p, create.result())


def test_who_waits_while_the_server_is_killed_waits_again(small):
    """What is there is taken over and takes its room; a create that waited begins anew, under the id that its client has."""
    holders = [Create(small).result() for _ in range(3)]
    sid = Create(small).id
    small.process.kill()
    small.process.wait()
    small.start()
    again = Create(small, task_id=sid)
    assert again.id == sid
    assert "all 3 places are in use" in again.until("waiting for room: 1 of 1")
    delete(small, holders.pop())
    assert again.result() == sid
    for one in (sid, *holders):
        delete(small, one)


def test_instances_wait_too_and_are_not_starved(small):
    """A full machine: a session's instance waits, its stream says so, and it goes in turns with sandboxes."""
    name = deploy_tiny(small, "waiter")
    holders = [Create(small).result() for _ in range(2)]
    with TinySession(small, name):
        pass
    wait_until(lambda: metric(small, "openreward_instances ") == 1)
    # Nobody uses it: a sandbox that waits gets its room.
    holders.append(Create(small).result())
    assert metric(small, "openreward_instances ") == 0
    queue = [Create(small) for _ in range(3)]
    for c in queue:
        c.until("waiting for room")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        opening = pool.submit(TinySession, small, name)
        wait_until(lambda: waiting(small, "instance") == 1, what="an instance that waits")
        assert not opening.done()
        delete(small, holders.pop())
        delete(small, holders.pop())
        session = opening.result(timeout=60)
        assert ": waiting for room: 1 of 1" in session.stream
        assert sum(c.answer.isclosed() for c in queue) == 0
        with session:
            assert session.call("echo", text="x") == "x"
        for c in queue:
            delete(small, c.result())
    for sid in holders:
        delete(small, sid)


def test_sessions_beyond_the_queue_are_429_at_once(small):
    name = deploy_tiny(small, "one")
    done = small.cli("env", "set", name, "concurrency=1", "max_scale=1")
    assert done.returncode == 0, done.stderr
    holder = TinySession(small, name)
    others = [TinySession(small, name, create=False) for _ in range(5)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(s.post, "/create", {"task_spec": {"id": 1}}) for s in others[:4]]
        wait_until(lambda: metric(small, 'openreward_sessions_waiting{for="place"}') == 4, what="a full queue")
        status, headers, data = others[4].post("/create", {"task_spec": {"id": 1}})
        assert status == 429 and int(headers["retry-after"]) > 0 and b"4 sessions wait" in data, (status, headers, data)
        holder.close()
        for n in range(4):
            wait_until(lambda n=n: sum(c.done() for c in calls) == n + 1, what="the next one's turn")
            one = next(s for s, c in zip(others, calls) if c.done() and s.id)
            assert one.close()[0] == 200
            one.id = ""
    assert all(c.result()[0] == 200 for c in calls)
    others[4].close()


def test_short_of_memory_on_the_host_is_infra(small):
    """The limit above all sandboxes stands for the machine's own: whoever is killed by it has done nothing wrong."""
    groups = [d for d in (f"/sys/fs/cgroup/memory/{cgroup_name(small.data)}", f"/sys/fs/cgroup/{cgroup_name(small.data)}")
              if os.path.isdir(d)]
    if not groups:
        pytest.skip("no cgroup of memory to limit")
    limit = next(p for p in (f"{groups[0]}/memory.limit_in_bytes", f"{groups[0]}/memory.max") if os.path.exists(p))
    before = open(limit, encoding="ascii").read()
    sid = Create(small, body={"machine_size": "1:0.25"}).result()
    hog = {"cmd": "exec python3 -c 'b = bytearray(200 << 20); print(len(b))'", "timeout_s": 60}

    def run():
        status, _, data = small.request("POST", "/run", json.dumps(hog).encode(), {"X-Session-ID": sid})
        assert status == 200, data
        return json.loads("".join(d for e, d in events(data) if e in ("chunk", "end")))

    try:
        with open(limit, "w", encoding="ascii") as f:
            f.write(str(160 << 20))
        result = run()
        assert result["outcome"] == "infra" and not result["trainable"] and result["return_code"] == 137, result
    finally:
        with open(limit, "w", encoding="ascii") as f:
            f.write("-1" if before.strip().isdigit() else before)
    assert run()["outcome"] == "exited"
    hog["cmd"] = hog["cmd"].replace("200", "400")
    assert run()["outcome"] == "oom"
    delete(small, sid)
