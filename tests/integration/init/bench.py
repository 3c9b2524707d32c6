"""Latency of one run through init: python3 bench.py [RUNS]. Needs gcc and musl-gcc; pins nothing unless PIN=1."""
import os
import subprocess
import sys
import tempfile

from harness import ROOT, Sandbox

SRC = f"{ROOT}/src"


def main():
    n = sys.argv[1] if len(sys.argv) > 1 else "2000"
    with tempfile.TemporaryDirectory() as tmp:
        base = [f"{SRC}/base/{f}.c" for f in "fd buf err mem str strcodec random time".split()]
        subprocess.run(["gcc", "-O2", "-D_GNU_SOURCE", f"-I{SRC}", "-o", f"{tmp}/bench", f"{os.path.dirname(__file__) or '.'}/bench_run.c",
                        f"{SRC}/sandbox/wire.c", *base], check=True)
        with open(f"{tmp}/true.c", "w") as f:
            f.write("int main(void) { return 0; }\n")
        subprocess.run(["musl-gcc", "-static", "-Os", "-o", f"{tmp}/true", f"{tmp}/true.c"], check=True)
        if os.environ.get("PIN"):
            os.sched_setaffinity(0, {0})
        with Sandbox() as s:
            fd = s.ask("OPEN", ("PATH", "/tmp/true"), ("OPEN_MODE", 1))
            with open(f"{tmp}/true", "rb") as f, os.fdopen(fd.fds[0], "wb") as out:
                out.write(f.read())
            s.ask("COMMIT", ("PATH", "/tmp/true"), ("TMP", fd["TMP"]))
            s.sh("chmod 755 /tmp/true")
            s.control.settimeout(None)  # a timeout means O_NONBLOCK, for the other process too
            for argv in (["/tmp/true"], ["/bin/true"], ["/bin/bash", "-c", "true"], ["/bin/bash", "-c", "/bin/true"]):
                out = subprocess.run([f"{tmp}/bench", str(s.control.fileno()), n, *argv], pass_fds=[s.control.fileno()],
                                     capture_output=True, text=True, check=True, timeout=120).stdout
                print(f"{' '.join(argv):28} {out.strip()}")


if __name__ == "__main__":
    main()
