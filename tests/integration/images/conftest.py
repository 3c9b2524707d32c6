import os
import shutil

import pytest

from jobs import BASE, Data

TOOLS = ("buildah", "skopeo", "runc", "mmdebstrap")


def pytest_collection_modifyitems(items):
    missing = [t for t in TOOLS if not shutil.which(t, path=os.environ["PATH"] + ":/usr/sbin:/sbin")]
    reason = "needs root" if os.geteuid() else f"not installed: {', '.join(missing)}" if missing else None
    for item in items:
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """A DATA with the base image in it; made once, about half a minute."""
    d = Data(tmp_path_factory.mktemp("images"))
    r = d.job("bootstrap", "python:3.11-slim")
    assert r.status == 0, r
    assert d.record(BASE)["cmd"] == ["python3"]
    yield d
    shutil.rmtree(d.path)
