"""A server per test, or with limits of its own."""
import pytest

from http_harness import Server


@pytest.fixture
def server():
    s = Server()
    yield s
    s.stop()


@pytest.fixture
def make_server():
    made = []

    def make(**limits):
        made.append(Server(*(f"{k}={v}" for k, v in limits.items())))
        return made[-1]

    yield make
    for s in made:
        s.stop()
