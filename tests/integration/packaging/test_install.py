"""`meson install` to a DESTDIR: everything at its place, and nothing of the operator's is overwritten."""
import os
import re
import stat

import pytest

from installed import BUILD, run

PROGRAMS = {"bin/openreward", "libexec/openreward/openreward-spawner", "libexec/openreward/openreward-egress",
            "libexec/openreward/openreward-init"}
FILES = PROGRAMS | {
    "lib/systemd/system/openreward.service", "lib/systemd/system/openreward-spawner.service", "lib/sysusers.d/openreward.conf",
    "lib/sysctl.d/50-openreward.conf", "lib/modules-load.d/openreward.conf", "etc/openreward/openreward.yaml", "share/man/man1/openreward.1",
    "share/man/man5/openreward.yaml.5", "share/man/man8/openreward-spawner.8", "share/man/man8/openreward-egress.8",
    "share/man/man8/openreward-init.8", "share/bash-completion/completions/openreward", "share/zsh/site-functions/_openreward",
    "share/doc/openreward/README.md", "share/doc/openreward/docs/openreward.yaml.example"}


@pytest.fixture
def installed(tmp_path):
    if not os.path.isdir(os.path.join(BUILD, "packaging")):
        pytest.skip("a build with sanitizers is not to be installed")

    def install():
        run("meson", "install", "-C", BUILD, "--no-rebuild", "--quiet", env={**os.environ, "DESTDIR": str(tmp_path)})
        return tmp_path / "usr" / "local"
    return install


def test_everything_has_its_place(installed):
    prefix = installed()
    found = {os.path.relpath(os.path.join(d, n), prefix) for d, _, names in os.walk(prefix) for n in names}
    assert FILES <= found, FILES - found
    others = {f for f in found - FILES if not f.startswith("share/doc/openreward/")}
    assert not others
    assert all(os.access(prefix / p, os.X_OK) for p in PROGRAMS)
    assert run(str(prefix / "bin/openreward"), "version").startswith("openreward ")


def test_units_name_what_is_installed(installed):
    prefix = installed()
    for unit in ("openreward.service", "openreward-spawner.service"):
        text = (prefix / "lib/systemd/system" / unit).read_text()
        assert "@" not in re.sub(r"@system-service", "", text)
        program, config = re.search(r"^ExecStart=(\S+) \S+ --config (\S+)$", text, re.M).groups()
        assert program == "/usr/local/bin/openreward" and config == "/usr/local/etc/openreward/openreward.yaml"


def test_the_first_configuration_is_a_good_one_and_stays(installed):
    prefix = installed()
    config = prefix / "etc/openreward/openreward.yaml"
    assert stat.S_IMODE(config.stat().st_mode) == 0o640
    program = str(prefix / "bin/openreward")
    assert run(program, "serve", "--config", str(config), "--print-config") == run(program, "serve", "--print-config")
    config.write_text("queue: {max: 7}\n")
    assert "max: 7" in run(program, "serve", "--config", str(installed() / "etc/openreward/openreward.yaml"), "--print-config")
