"""A thousand creates on a machine that holds two hundred: the long form of tests/e2e/test_queue.py."""
import resource

import pytest

from creates import burst, metric, two_keys
from orw import ROOM_BY_NUMBER, Census, nothing_new, running

ROOM, BURST = 200, 1000
CONFIG = f"""
sandboxes:
  max: {ROOM}
queue:
  max: {BURST}
  share: 0
""" + ROOM_BY_NUMBER


@pytest.fixture(scope="module")
def platform():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        with running(CONFIG) as p:
            yield p
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_thousand_creates(platform):
    before = Census(platform.data)
    burst(platform, BURST)
    assert metric(platform, "openreward_room_waited_total") > 0
    nothing_new(platform, before, 60)


def test_nine_hundred_of_one_key_and_a_hundred_of_another(platform):
    last = two_keys(platform, ROOM, 900, 100)
    assert last < 2 * 100 + ROOM + 50, f"the last of the small key was number {last}"
    assert metric(platform, "openreward_boxes ") == 0
