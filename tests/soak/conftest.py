import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))

# Its short form is tests/e2e/test_queue.py.
collect_ignore = [] if int(os.environ.get("SOAK_SECONDS") or 60) > 120 else ["test_burst.py"]
