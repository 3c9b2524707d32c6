"""A platform whose sandboxes have short times, so that leases and retention are seen within seconds."""
import os
import sys

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "e2e"))
from orw import running  # noqa: E402

CONFIG = """
sandboxes:
  idle: 3s
  result_keep: 2s
  repeat_window: 2s
"""


@pytest.fixture(scope="session")
def platform():
    with running(CONFIG) as p:
        yield p
