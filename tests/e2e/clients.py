"""Runs clients that nobody here wrote, each in a Python environment of its own, against a platform and a model server."""
import os
import subprocess

from orw import ROOT

HERE = os.path.dirname(os.path.abspath(__file__))


def client_program(venv: str, program: str) -> str:
    """The path of a program of tests/clients.txt's VENV, which is installed where it is not yet."""
    subprocess.run([os.path.join(ROOT, "tools", "client-venv"), venv], check=True, timeout=1500)
    return os.path.join(ROOT, "build", "clients", venv, "bin", program)


def claude_code() -> str:
    """The folder with the command `claude`, which npm has: firehorse's agent of that name starts it."""
    folder = os.path.join(ROOT, "build", "clients", "npm")
    package = os.path.join(folder, "node_modules", "@anthropic-ai", "claude-code")
    if not os.path.exists(os.path.join(package, ".complete")):
        os.makedirs(folder, exist_ok=True)
        subprocess.run(["npm", "install", "--no-audit", "--no-fund", "--prefix", folder, "@anthropic-ai/claude-code"], check=True, timeout=600)
        subprocess.run(["node", "install.cjs"], cwd=package, check=True, timeout=300)  # newer npms do not run what packages bring
        with open(os.path.join(package, ".complete"), "w", encoding="utf-8"):
            pass
    return os.path.join(folder, "node_modules", ".bin")


def run_client(platform, argv, models=None, cwd=None, timeout_s: float = 300, **env) -> subprocess.CompletedProcess:
    """Ends well, or the assertion has what it said. The variables are the platform's, the models' and env's."""
    variables = {**os.environ, **platform.env, **(models.env if models else {}), **env}
    done = subprocess.run(argv, cwd=cwd, env=variables, text=True, capture_output=True, timeout=timeout_s, stdin=subprocess.DEVNULL,
                          check=False)
    assert done.returncode == 0, f"{argv[0]}: {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-5000:]}"
    return done


