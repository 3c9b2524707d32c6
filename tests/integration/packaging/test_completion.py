"""Completion for bash and zsh: everything that `openreward help` and its verbs' help have, and the names of a server."""
import os
import re
import shutil

import pytest

from installed import COMPLETION, OPENREWARD, options, run, verbs

# Answers as a server's would be, and the program itself for everything else; it writes down what it was asked with.
STAND_IN = """#!/bin/sh
echo "$*" >>"$0.asked"
case "$1 $2" in
"env ls") printf 'local/hello\\tready\\nlocal/terminal\\tnever deployed\\n' ;;
"sandbox ls") printf 'ID  STATE\\n0f0f-one  ready\\n0a0a-two  ready\\n' ;;
"image ls") printf 'NAME  DIGEST\\nlocal/image  sha\\n' ;;
"key ls") printf 'ID  NAME\\n1234-key  mine\\n' ;;
"user ls" | "org ls") printf 'NAME  ID\\nsomebody  5678\\n' ;;
"runs "*) [ "$2" = --help ] && exec {program} "$@"; printf 'ID  NAME\\nrun-one  first\\n' ;;
*) exec {program} "$@" ;;
esac
"""
BASH = """
source {script}
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
_openreward
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
# What zsh's own functions would show is printed instead.
ZSH = """
compadd() {{ print -rl -- ${{(P)2}} }}
_describe() {{ local w; for w in ${{(P)2}}; do print -r -- ${{w%%:*}}; done }}
_files() {{ print -r -- FILES }}
_path_files() {{ print -r -- FOLDERS }}
words=("$@") CURRENT=$#
set --
source {script} || :
"""


@pytest.fixture(scope="module", params=["bash", "zsh"])
def complete(request, tmp_path_factory):
    """complete(WORD...): what stands behind the last word, "" included; the shell filters for zsh, the function for bash."""
    folder = tmp_path_factory.mktemp(request.param)
    program = folder / "openreward"
    program.write_text(STAND_IN.format(program=OPENREWARD))
    program.chmod(0o755)
    assert shutil.which(request.param), f"{request.param} is missing: tools/install-deps test"
    script = os.path.join(COMPLETION, "openreward.bash" if request.param == "bash" else "_openreward")
    text, plain = (BASH, ["bash", "--norc", "-c"]) if request.param == "bash" else (ZSH, ["zsh", "-f", "-c"])
    env = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}

    def ask(*words):
        return {w for w in run(*plain, text.format(script=script), "complete", "openreward", *words, env=env).split("\n") if w}

    ask.shell = request.param
    ask.asked = folder / "openreward.asked"
    return ask


def test_every_verb(complete):
    assert complete("") == set(verbs()) and len(verbs()) > 10
    if complete.shell == "bash":
        assert complete("roll") == {"rollback", "rollouts"}


def test_every_option(complete):
    for verb in verbs():
        assert options(verb) <= complete(verb, "--"), verb


def test_words_of_verbs(complete):
    assert {"ls", "show", "set", "unset", "rm"} <= complete("env", "")
    assert {"ls", "show", "cancel"} == complete("deployment", "")
    assert {"run", "ls", "top", "inspect", "rm", "exec", "shell", "logs"} == complete("sandbox", "")
    assert {"ls", "pull", "bootstrap", "import", "rm"} <= complete("image", "")


def test_names_that_the_server_knows(complete):
    environments = {"local/hello", "local/terminal"}
    for words in (("env", "show"), ("env", "set"), ("env", "rm"), ("rollback",), ("logs",), ("deployment", "ls")):
        assert complete(*words, "") == environments, words
    for words in (("inspect",), ("rm",), ("exec",), ("shell",), ("logs", "-f")):
        assert complete("sandbox", *words, "") == {"0f0f-one", "0a0a-two"}, words
    assert complete("sandbox", "run", "") == {"local/image"} == complete("image", "rm", "")
    assert complete("export", "") == {"run-one"} == complete("rollouts", "")
    assert complete("key", "revoke", "") == {"1234-key"}
    assert complete("user", "show", "") == {"somebody"} == complete("org", "members", "")
    complete("env", "show", "--data", "/some/where", "")
    assert re.search(r"^env ls --data /some/where$", complete.asked.read_text(), re.M)


def test_files(complete, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    folders = {"FOLDERS"} if complete.shell == "zsh" else {f"{tmp_path}/folder"}
    files = {"FILES"} if complete.shell == "zsh" else {f"{tmp_path}/folder", f"{tmp_path}/file"}
    assert complete("deploy", f"{tmp_path}/") == folders == complete("env", "ls", "--data", f"{tmp_path}/")
    assert complete("serve", "--config", f"{tmp_path}/") == files == complete("restore", f"{tmp_path}/")


def test_nobody_there(complete, tmp_path):
    """A server that does not run makes no noise, and what another program is given is its own."""
    assert complete("deployment", "cancel", "") == set()
    assert complete("sandbox", "exec", "0f0f-one", "--", "l") == set()
