"""The fixtures of the end-to-end tests, and their helpers. README.md has the table of what is tried."""
import importlib.util
import os
import sys

E2E = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "e2e")
sys.path.insert(0, E2E)
spec = importlib.util.spec_from_file_location("e2e_fixtures", os.path.join(E2E, "conftest.py"))
fixtures = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fixtures)
platform, base_images, client, tiny = fixtures.platform, fixtures.base_images, fixtures.client, fixtures.tiny
