"""A platform whose sandboxes have short times, so that leases and retention are seen within seconds."""
import os
import shutil
import subprocess
import sys

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "e2e"))
from orw import Platform, image_here  # noqa: E402

CONFIG = """
sandboxes:
  idle: 3s
  result_keep: 2s
  repeat_window: 2s
"""


@pytest.fixture(scope="session")
def platform():
    if os.geteuid() != 0:
        pytest.skip("needs root: the spawner makes namespaces and mounts")
    p = Platform(CONFIG)
    try:
        made = os.environ.get("OPENREWARD_TEST_IMAGES")  # DATA/images of another platform, to save its making
        if made:
            target = os.path.join(p.data, "images")
            subprocess.run(["cp", "-a", made, target], check=True)
            shutil.rmtree(os.path.join(target, "env"), ignore_errors=True)
        p.start()
        image_here(p)
        yield p
    finally:
        status = p.stop()
        p.remove()
    assert status == 0
