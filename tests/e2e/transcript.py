"""Transcripts of `orwd`: commands with what they print, one file a subject (tests/e2e/orwd/*.txt).

    # platform: plain          the kind of platform that the file is for (test_orwd.py)
    # github acme/thing        a directive: something happens beside the commands
    $ orwd whoami -o json      a command
    < yes                      what is typed into it, a line each
    {"name": "local", ...}     what it prints,
    ! Error 404: ...           what it says of an error,
    [1]                        and its exit status, unless that is 0

Ids, times, addresses and folders are masked. In a command {run:NAME}, {deployment:ENV} and {id:ENV} stand for ids. With
OPENREWARD_GOLDEN=write in the environment the files are written anew instead of being compared: read the difference.
"""
import contextlib
import dataclasses
import io
import re
import shlex
import sys

UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
MASKS = [(r"\x1b\[[0-9;]*m", ""), (UUID, "<id>"), (r"\b[0-9a-f]{40}\b", "<commit>"),
         (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)", "<time>"), (r"\b\d{4}-\d\d-\d\d\b", "<date>"),
         (r"\b([0-9a-f]{12}|[0-9a-f]{8})\b", "<short>")]


@dataclasses.dataclass
class Step:
    """A directive (command None) or a command; lines is all that follows and belongs to it."""
    directive: str = ""
    command: str | None = None
    typed: list[str] = dataclasses.field(default_factory=list)
    lines: list[str] = dataclasses.field(default_factory=list)

    def words(self) -> list[str]:
        """Without the program."""
        return shlex.split(self.command)[1:]

    def failed(self) -> bool:
        return bool(self.lines) and re.fullmatch(r"\[\d+\]", self.lines[-1]) is not None


def read(text: str) -> list[Step]:
    steps: list[Step] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            steps.append(Step(command=line[2:]))
        elif line.startswith("# "):
            steps.append(Step(directive=line[2:]))
        elif line.startswith("< ") or line == "<":
            steps[-1].typed.append(line[2:])
        else:
            steps[-1].lines.append(line)
    return steps


def write(steps: list[Step]) -> str:
    lines = []
    for s in steps:
        lines.append(f"# {s.directive}" if s.command is None else f"$ {s.command}")
        lines += [f"< {t}".rstrip() for t in s.typed] + s.lines
    return "\n".join(lines) + "\n"


def mask(text: str, replace: dict[str, str]) -> str:
    for what, by in replace.items():
        text = text.replace(what, by)
    for pattern, by in MASKS:
        text = re.sub(pattern, by, text)
    return text


def run(words: list[str], typed: list[str]) -> tuple[int, str, str]:
    """(exit status, output, errors) of the SDK's command, in this process: starting one takes seconds."""
    from openreward import cli
    out, err, stdin = io.StringIO(), io.StringIO(), sys.stdin
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            sys.stdin = io.StringIO("".join(t + "\n" for t in typed))
            status = cli.main(words) or 0
        except SystemExit as e:
            status = e.code if isinstance(e.code, int) else int(e.code is not None)
            err.write(e.code + "\n" if isinstance(e.code, str) else "")
        except Exception as e:  # as the interpreter would: its last line
            status = 1
            err.write(f"{type(e).__name__}: {e}\n")
        finally:
            sys.stdin = stdin
    return status, out.getvalue(), err.getvalue()


def shown(status: int, out: str, err: str, replace: dict[str, str]) -> list[str]:
    lines = [line.rstrip() for line in mask(out, replace).splitlines()]
    lines += [("! " + line).rstrip() for line in mask(err, replace).splitlines()]
    return lines + ([f"[{status}]"] if status else [])


# -- what there is to be shown ------------------------------------------------------------------------------------------

@dataclasses.dataclass
class Help:
    """Of one command: its positionals, its options, and of these the choices."""
    positionals: list[str]
    options: dict[str, list[str]]

    def long(self, option: str) -> str:
        """-o is --output."""
        return {"-o": "--output", "-y": "--yes", "-h": "--help"}.get(option, option)


def commands() -> dict[str, Help]:
    """Every command of `orwd --help`, as its own --help page has it."""
    page = run(["--help"], [])[1]
    names = re.search(r"\{([a-z,-]+)\}", page).group(1).split(",")
    return {name: of_page(run([name, "--help"], [])[1]) for name in names}


def of_page(page: str) -> Help:
    head, _, options = page.partition("\noptions:\n")
    positionals = re.findall(r"^  ([a-z_]+)\b", head.partition("positional arguments:\n")[2], re.M)
    found = {}
    for line in re.findall(r"^  (-.*)$", options, re.M):
        long = re.search(r"--[a-z-]+", line).group()
        choices = re.search(r"\{([^}]*)\}", line)
        found[long] = choices.group(1).split(",") if choices else []
    del found["--help"]
    return Help(positionals, found)
