"""The third pattern: a program that uses a sandbox directly, with no environment in between.

Needs OPENREWARD_URL, OPENREWARD_SESSION_URL and OPENREWARD_API_KEY: `openreward client-env` prints them.
"""
import time

from openreward import OpenReward, SandboxSettings


def main() -> None:
    settings = SandboxSettings(environment="local/none", image="python:3.11-slim", machine_size="0.5:1", block_network=True)
    with OpenReward() as client:
        started = time.monotonic()
        with client.sandbox(settings) as sandbox:
            print(f"sandbox {sandbox.sid} after {(time.monotonic() - started) * 1000:.1f} ms")
            started = time.monotonic()
            output, code = sandbox.run("id -un; uname -sr; python3 -c 'print(6 * 7)'")
            print(f"{output}\nexit code {code}, {(time.monotonic() - started) * 1000:.1f} ms")


if __name__ == "__main__":
    main()
