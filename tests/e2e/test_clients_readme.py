"""The two minutes of README.md, word by word: from `orwd new` and a push to the first rollout that `orwd rollouts` shows."""
import os
import re
import subprocess
import sys

from orw import ROOT


def commands() -> str:
    """The indented lines of the section from `orwd new` on, up to `orwd rollouts`."""
    with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as f:
        section = f.read().partition("\n## Your own environment\n")[2].partition("\n## ")[0]
    lines = [line[4:] for line in section.splitlines() if line.startswith("    ")]
    begin = next(i for i, line in enumerate(lines) if line.startswith("orwd new"))
    end = next(i for i, line in enumerate(lines) if line.startswith("orwd rollouts"))
    return "\n".join(lines[begin:end + 1]) + "\n"


def test_from_nothing_to_a_rollout(base_images, tmp_path):
    with base_images.platform() as p:
        env = {**os.environ, **p.env, "PATH": os.path.dirname(sys.executable) + ":" + os.environ["PATH"], "HOME": str(tmp_path)}
        done = subprocess.run(["bash", "-eu"], input=commands(), cwd=tmp_path, env=env, text=True, capture_output=True, timeout=800, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        assert "remote: deployed: local/hello serves this commit" in done.stderr
        assert "What is 2+2?\n" in done.stdout
        assert re.search(r"^\S+ +local/hello +1\.000 +1 +\S+Z$", done.stdout, re.M), done.stdout
        assert done.stdout.endswith("Showing 1 of 1 rollouts\n")
