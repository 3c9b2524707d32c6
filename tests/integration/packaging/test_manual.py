"""Manual pages: that they are well-formed, and that nothing of the programs is missing in them."""
import os
import re
import shutil
import subprocess

import pytest

from installed import OPENREWARD, ROOT, options, run, verbs

EXAMPLE = os.path.join(ROOT, "docs", "openreward.yaml.example")
MAN = os.path.join(ROOT, "packaging", "man")
PROGRAMS = ("openreward-spawner", "openreward-egress", "openreward-init")


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Every page as it is installed, by name."""
    folder = tmp_path_factory.mktemp("man")
    manual = os.path.join(ROOT, "tools", "manual")
    found = {"openreward.1": run(manual, "verbs", OPENREWARD, os.path.join(MAN, "openreward.1.in"), "9.9"),
             "openreward.yaml.5": run(manual, "keys", EXAMPLE, os.path.join(MAN, "openreward.yaml.5.in"), "9.9")}
    for name in PROGRAMS:
        with open(os.path.join(MAN, name + ".8"), encoding="utf-8") as f:
            found[name + ".8"] = f.read()
    for name, text in found.items():
        with open(folder / name, "w", encoding="utf-8") as f:
            f.write(text)
    return folder


def rendered(path) -> str:
    """As a terminal shows it, without bold and underline."""
    assert shutil.which("mandoc"), "mandoc is missing: tools/install-deps test"
    return re.sub(".\b", "", run("mandoc", "-Tutf8", "-Owidth=500", str(path))).replace("\N{NO-BREAK SPACE}", " ")


def test_well_formed(pages):
    names = sorted(os.listdir(pages))
    assert len(names) == 2 + len(PROGRAMS)
    done = subprocess.run(["mandoc", "-Tlint", "-Wwarning", *names], cwd=pages, text=True, capture_output=True, timeout=60, check=False)
    assert done.stdout + done.stderr == ""


def test_every_verb_and_option_is_in_openreward_1(pages):
    text = rendered(pages / "openreward.1")
    assert len(verbs()) > 10
    for verb in verbs():
        found = re.search(rf"^   {re.escape(verb)}$(.*?)(?=^   \S|^\S)", text, re.M | re.S)
        assert found, f"openreward.1 lacks the verb {verb}"
        for option in options(verb):
            assert option in found.group(1), f"openreward.1 lacks {option} of {verb}"


def test_every_key_is_in_openreward_yaml_5(pages):
    text = rendered(pages / "openreward.yaml.5")
    shown = run(OPENREWARD, "serve", "--print-config")
    keys, section = [], ""
    for indent, name, value in re.findall(r"^( *)([a-z_]+):(.*)$", shown, re.M):
        if not indent and not value.strip():
            section = name
        else:
            keys.append(f"{section}.{name}" if indent else name)
    assert len(keys) > 50
    for key in keys:
        assert re.search(rf"^ +{re.escape(key)} \(", text, re.M), f"openreward.yaml.5 lacks {key}"


def test_every_option_of_egress_is_in_its_page(pages):
    text = rendered(pages / "openreward-egress.8")
    helped = run(os.path.join(os.path.dirname(OPENREWARD), "openreward-egress"), "--help")
    found = set(re.findall(r"--[a-z][a-z-]*", helped))
    assert len(found) > 5 and not [o for o in found if o not in text]


def test_every_option_of_the_spawner_is_in_its_page(pages):
    text = rendered(pages / "openreward-spawner.8")
    with open(os.path.join(ROOT, "src", "spawner", "options.c"), encoding="utf-8") as f:
        found = re.findall(r'\{ "([a-z-]+)", (?:required|no)_argument', f.read())
    assert len(found) > 10 and not [o for o in found if f"--{o}" not in text]
