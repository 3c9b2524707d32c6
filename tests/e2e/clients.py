"""Runs clients that nobody here wrote, each in a Python environment of its own, against a platform and a model server; and keeps the
table of what was run, in which version, and how it ended."""
import glob
import importlib.metadata
import json
import os
import subprocess
import urllib.parse

from orw import BUILD, ROOT

HERE = os.path.dirname(os.path.abspath(__file__))


def installed(name: str) -> str:
    """The folder of what tests/clients.txt has for the name, which is installed where it is not yet."""
    subprocess.run([os.path.join(ROOT, "tools", "client-venv"), name], check=True, timeout=1500)
    return os.path.join(ROOT, "build", "clients", name)


def client_program(venv: str, program: str) -> str:
    return os.path.join(installed(venv), "bin", program)


def npm_commands() -> str:
    """The folder with the commands that firehorse's agents start."""
    return os.path.join(installed("npm"), "node_modules", ".bin")


def run_client(platform, argv, models=None, cwd=None, timeout_s: float = 300, **env) -> subprocess.CompletedProcess:
    """Ends well, or the assertion has what it said. The variables are the platform's, the models' and env's."""
    variables = {**os.environ, **platform.env, **(models.env if models else {}), **env}
    done = subprocess.run(argv, cwd=cwd, env=variables, text=True, capture_output=True, timeout=timeout_s, stdin=subprocess.DEVNULL,
                          check=False)
    assert done.returncode == 0, f"{argv[0]}: {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-5000:]}"
    return done




def at_localhost(platform, argv: list[str], folder, models=None, **env) -> subprocess.CompletedProcess:
    """run_client for those that pass on OPENREWARD_URL alone and call api.HOST and sessions.HOST: where these names are this machine,
    as libnss-myhostname has them."""
    hosts = os.path.join(folder, "hosts")
    with open(hosts, "w", encoding="ascii") as f:
        f.write("127.0.0.1 localhost api.localhost sessions.localhost\n")
    return run_client(platform, ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"', hosts, *argv], models, cwd=folder,
                      OPENREWARD_URL=f"http://localhost:{urllib.parse.urlsplit(platform.url).port}", **env)


# -- the table ---------------------------------------------------------------------------------------------------------

DOCUMENT, BEGIN, END = os.path.join(ROOT, "docs", "clients.md"), "<!-- written by make clients -->\n", "<!-- to here -->\n"


def version(package: str) -> str:
    """Of what was installed last, "" where it was not."""
    clients = os.path.join(ROOT, "build", "clients")
    for path in glob.glob(os.path.join(clients, "npm", "node_modules", package, "package.json")):
        with open(path, encoding="utf-8") as f:
            return json.load(f)["version"]
    for folder in glob.glob(os.path.join(clients, "*", "lib", "python3*", "site-packages")):
        for found in importlib.metadata.distributions(name=package, path=[folder]):
            return found.version
    return importlib.metadata.version(package) if package == "openreward" else ""


def write_table(results: list[tuple[tuple[str, ...], str, str]]) -> str:
    """[(packages, test, outcome)] as build/clients.md, whose path it returns, and with OPENREWARD_GOLDEN=write into the document."""
    kind = "pinned" if os.environ.get("CLIENTS") == "pinned" else "newest"
    rows = [f"| {', '.join(f'{p} {version(p)}' for p in packages)} | `{test}` | {outcome} |" for packages, test, outcome in results]
    text = f"| {kind} | test | result |\n|---|---|---|\n" + "\n".join(rows) + "\n"
    path = os.path.join(BUILD, "clients.md")
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)
    if os.environ.get("OPENREWARD_GOLDEN") == "write":
        with open(DOCUMENT, encoding="utf-8") as f:
            before, _, rest = f.read().partition(BEGIN)
        with open(DOCUMENT, "w", encoding="utf-8") as f:
            f.write(before + BEGIN + "\n" + text + "\n" + END + rest.partition(END)[2])
    return path
