"""What the tests of packaging share: where things are, and what the program says of itself."""
import os
import re
import subprocess

ROOT = os.path.realpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", ".."))
BUILD = os.environ.get("OPENREWARD_BUILD_DIR", os.path.join(ROOT, "build"))
OPENREWARD = os.path.join(BUILD, "openreward")
COMPLETION = os.path.join(ROOT, "packaging", "completion")


def run(*argv, timeout_s: float = 120, **kw) -> str:
    """Its standard output; a failure shows both streams."""
    done = subprocess.run(argv, text=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=timeout_s, check=False, **kw)
    assert done.returncode == 0, f"{argv}: {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def verbs() -> list[str]:
    return re.findall(r"^  ([a-z][a-z-]*) +\S", run(OPENREWARD, "help"), re.M)


def options(verb: str) -> set[str]:
    """The long options that the verb's own help names."""
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", run(OPENREWARD, verb, "--help"))) if verb != "help" else set()
