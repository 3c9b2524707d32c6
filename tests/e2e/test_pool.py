"""Sandboxes that are made before anybody asks, seen through the SDK and /metrics."""
import re
import time

import pytest

from orw import nothing_new, running, settings


@pytest.fixture(scope="module")
def warm_platform():
    with running("pools:\n  max: 8\n  memory: 64MiB\n") as p:
        yield p


def figure(platform, name):
    status, _, body = platform.request("GET", "/metrics")
    assert status == 200
    return float(re.search(rf"^openreward_{name} ([0-9.e+]+)$", body.decode(), re.M).group(1))


def use(client, **changes):
    with client.sandbox(settings(**changes)) as s:
        return s.run("cat /etc/hostname; hostname; echo x > /tmp/mark; ls /tmp; id -u; grep -c $(hostname) /etc/hosts").output.split()


def test_the_second_of_a_kind_is_prepared(warm_platform):
    names, before = set(), figure(warm_platform, "boxes_warm_total")
    with warm_platform.client() as client:
        for _ in range(12):
            name, own, mark, uid, known = use(client)
            assert (own, mark, uid, known) == (name, "mark", "0", "1")
            names.add(name)
            time.sleep(0.3)
    assert len(names) == 12, "two sandboxes had one name"
    assert figure(warm_platform, "boxes_warm_total") > before
    assert warm_platform.leaks() == ""


def test_a_prepared_one_keeps_its_name_and_other_hosts_over_a_killed_daemon(warm_platform):
    aliases = [{"ip": "10.1.2.3", "hostnames": ["db", "cache.local"]}]
    names = "echo $HOSTNAME; hostname; cat /etc/hostname; grep -c $HOSTNAME /etc/hosts; grep '^10' /etc/hosts; pwd"
    with warm_platform.client() as client:
        for _ in range(10):
            before = figure(warm_platform, "boxes_warm_total")
            with client.sandbox(settings(host_aliases=aliases)) as s:
                found = s.run(names).output.split("\n")
                assert found[0] == found[1] == found[2] and found[3:5] == ["1", "10.1.2.3 db cache.local"], found
                if figure(warm_platform, "boxes_warm_total") == before:
                    time.sleep(0.3)
                    continue
                warm_platform.process.kill()
                warm_platform.process.wait()
                warm_platform.start()
                assert s.run(names).output.split("\n") == found
                return
    raise AssertionError("none was prepared")


def test_the_first_of_a_kind_is_begun(warm_platform):
    before = figure(warm_platform, "boxes_begun_total")
    with warm_platform.client() as client:
        use(client)
        for n, size in enumerate(("0.5:1", "0.5:0.5", "1:1", "0.5:2", "2:2")):  # as nobody has asked for yet
            time.sleep(0.5 * 2 ** n)  # it may take a while where others are busy
            name, own, mark, uid, known = use(client, machine_size=size)
            assert (own, mark, uid, known) == (name, "mark", "0", "1")
            if figure(warm_platform, "boxes_begun_total") > before:
                break
    assert figure(warm_platform, "boxes_begun_total") > before
    assert warm_platform.leaks() == ""


def test_the_end_of_the_daemon_is_that_of_what_was_prepared():
    with running("pools:\n  max: 4\n") as p:
        with p.client() as client:
            use(client)
        time.sleep(0.5)
    nothing_new(p)
