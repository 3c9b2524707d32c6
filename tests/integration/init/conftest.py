import os

import pytest

from harness import Sandbox


def pytest_collection_modifyitems(items):
    if os.geteuid() != 0:
        for item in items:
            item.add_marker(pytest.mark.skip(reason="needs root: it makes namespaces and cgroups"))


@pytest.fixture(scope="module")
def box():
    """One sandbox for a file's tests that leave nothing behind."""
    with Sandbox() as s:
        yield s


@pytest.fixture
def fresh():
    with Sandbox() as s:
        yield s
