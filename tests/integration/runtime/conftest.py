"""A spawner per file of tests, or per test where the test ends it. After each, the machine must be as before."""
import os

import pytest

from spawner_client import Spawner


def pytest_collection_modifyitems(items):
    if os.geteuid() != 0:
        for item in items:
            item.add_marker(pytest.mark.skip(reason="needs root: it makes namespaces and cgroups"))


@pytest.fixture(scope="module")
def spawner():
    s = Spawner()
    yield s
    assert s.stop() == 0


@pytest.fixture
def own():
    """Makes spawners with arguments of the test's own."""
    made = []

    def make(**kw):
        made.append(Spawner(**kw))
        return made[-1]

    yield make
    for s in made:
        s.stop()


@pytest.fixture
def box(spawner):
    b = spawner.make()
    yield b
    if spawner.daemon.call("END", ("ID", b.id), ("REASON", "deleted")).kind == "ENDED":
        b.close()

