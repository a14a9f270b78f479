"""Goal: install.sh installs beside what is there, switches in one step, and goes back by itself.

Method: the real script below a folder of its own; Python, systemctl and the relay are stand-ins
that note how they were called, so that a test takes a moment; one slow test does it all for real.
"""

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.deploy.programs import fresh, needs

DEPLOY = Path(__file__).parents[2] / "deploy"
SCRIPT = DEPLOY / "install.sh"

PYTHON = """#!/bin/sh
# A stand-in for Python: makes "virtual environments" with a pip and a relay in them.
echo "python $*" >> {log}
case "$*" in
"-m venv "*)
    mkdir -p "$3/bin"
    printf '#!/bin/sh\\necho "pip $*" >> {log}\\n[ ! -e {folder}/pip-fails ]\\n' > "$3/bin/pip"
    printf '#!/bin/sh\\n[ "$1" != check ] || [ ! -e {folder}/check-fails ]\\n' > "$3/bin/relay"
    printf '#!/bin/sh\\ncat > /dev/null\\n' > "$3/bin/python"
    chmod +x "$3"/bin/*
    ;;
esac
"""
SYSTEMCTL = """#!/bin/sh
echo "systemctl $*" >> {log}
"""


class Host:
    """A folder that stands for a host's root, and the stand-ins."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        self.folder = fresh(folder / "programs")
        self.log = self.folder / "log"
        self.log.touch()
        self.wheel = self.folder / "relay-9.9.9-py3-none-any.whl"
        self.wheel.write_bytes(b"one")
        for name, text in (("python", PYTHON), ("systemctl", SYSTEMCTL)):
            file = self.folder / name
            file.write_text(text.format(log=self.log, folder=self.folder))
            file.chmod(0o755)

    @property
    def releases(self) -> Path:
        return self.root / "opt/relay/releases"

    @property
    def current(self) -> str:
        link = self.root / "opt/relay/current"
        return link.readlink().name if link.is_symlink() else ""

    def run(self, *words: str, code: int = 0, start: bool = True) -> str:
        """Run the script; return what it said."""
        extra = {"RELAY_INSTALL_START": "1"} if start else {}
        command: list[str | Path] = ["sh", SCRIPT, "--root", self.root, "--wheel", self.wheel]
        done = subprocess.run(
            [*command, "--python", self.folder / "python", *words],
            env={**os.environ, "SYSTEMCTL": str(self.folder / "systemctl"), **extra},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def install(self, release: str, code: int = 0) -> str:
        return self.run("--release", release, code=code)

    def calls(self, program: str) -> list[str]:
        return [line for line in self.log.read_text().splitlines() if line.startswith(program)]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_a_first_installation(host: Host) -> None:
    said = host.install("one")
    assert host.current == "one"
    assert "current is one" in said
    for file in (
        "etc/relay/relay.toml", "etc/systemd/system/relay.service",
        "etc/systemd/system/relay.socket", "etc/systemd/system/relay-admin.socket",
        "etc/systemd/system/relay-refuse.service",
        "usr/lib/sysusers.d/relay.conf", "usr/lib/tmpfiles.d/relay.conf",
        "usr/lib/sysctl.d/60-relay.conf", "usr/local/bin/relay", "opt/relay/current/bin/relay",
    ):  # fmt: skip
        assert (host.root / file).is_file(), file
    pip = host.calls("pip")
    assert any("--require-hashes" in call and "requirements.lock" in call for call in pip)
    assert any("--no-deps --no-index" in call for call in pip), "nothing is fetched unpinned"
    units = host.calls("systemctl")
    assert any(call.startswith("systemctl enable") and "relay.socket" in call for call in units)
    assert units.index("systemctl start relay.socket relay-admin.socket") < units.index(
        "systemctl restart relay.service"
    )


def test_doing_it_again_changes_nothing(host: Host) -> None:
    host.install("one")
    toml = host.root / "etc/relay/relay.toml"
    toml.write_text("# mine\n")
    before = {file: file.stat().st_mtime_ns for file in host.releases.rglob("*")}
    pip = len(host.calls("pip"))
    assert "release one is there" in host.install("one")
    assert {file: file.stat().st_mtime_ns for file in host.releases.rglob("*")} == before
    assert len(host.calls("pip")) == pip
    assert toml.read_text() == "# mine\n", "what an operator wrote stays"


def test_a_dry_run_does_nothing(host: Host) -> None:
    said = host.run("--dry-run", "--release", "one")
    assert not host.root.exists()
    assert host.calls("pip") == []
    assert host.calls("systemctl") == []
    for step in ("venv", "--require-hashes", "relay.service", "relay check", "current"):
        assert step in said


@pytest.mark.parametrize("words", [(), ("--embedded",)], ids=["alone", "embedded"])
def test_parquet_is_installed_beside_the_rest(host: Host, words: tuple[str, ...]) -> None:
    host.run("--release", "one", *words)
    assert not any("requirements-parquet.lock" in call for call in host.calls("pip"))
    host.run("--release", "two", "--parquet", *words)
    (asked,) = [call for call in host.calls("pip") if "requirements-parquet.lock" in call]
    assert "--require-hashes" in asked
    assert ("requirements-embedded.lock" in asked) is bool(words)
    assert ("requirements.lock" in asked) is (not words)


def test_an_upgrade_and_the_way_back(host: Host) -> None:
    host.install("one")
    host.install("two")
    assert host.current == "two"
    assert host.run("list").splitlines() == ["one (previous)", "two (current)"]
    host.run("rollback")
    assert host.current == "one"
    host.run("rollback", "two")
    assert host.current == "two"
    host.run("rollback", "three", code=1)
    assert host.current == "two"


def test_a_release_that_does_not_become_ready_is_left(host: Host) -> None:
    host.install("one")
    bad = fresh(host.releases / "two")
    (bad / "bin").mkdir()
    (bad / "bin/relay").symlink_to(host.releases / "one/bin/relay")
    (bad / "bin/python").write_text("#!/bin/sh\ncat > /dev/null\nexit 1\n")
    (bad / "bin/python").chmod(0o755)
    (bad / ".complete").touch()
    said = host.install("two", code=1)
    assert "rolled back to one, which serves" in said
    assert host.current == "one"
    restarts = [call for call in host.calls("systemctl") if "restart" in call]
    assert len(restarts) == 3, "one, two, and one again"
    assert host.run("list").splitlines() == ["one (current)", "two"]


def test_a_release_that_refuses_the_configuration_is_never_switched_to(host: Host) -> None:
    host.install("one")
    (host.folder / "check-fails").touch()
    said = host.install("two", code=1)
    assert "does not take" in said
    assert host.current == "one"
    assert len([call for call in host.calls("systemctl") if "restart" in call]) == 1


def test_an_installation_that_was_cut_short_is_begun_anew(host: Host) -> None:
    (host.folder / "pip-fails").touch()
    host.install("one", code=1)
    assert host.current == ""
    (host.folder / "pip-fails").unlink()
    rest = host.releases / "one/left-over"
    rest.touch()
    host.install("one")
    assert host.current == "one"
    assert not rest.exists()


def test_old_releases_are_removed_but_not_those_in_use(host: Host) -> None:
    for number in range(6):
        host.install(f"r{number}")
        os.utime(host.releases / f"r{number}", (number, number))
    host.run("--keep", "1", "--release", "r5")
    left = {place.name for place in host.releases.iterdir()}
    assert {"r4", "r5"} <= left
    assert "r0" not in left
    assert len(left) <= 3


def test_uninstalling_keeps_configuration_and_data(host: Host) -> None:
    host.install("one")
    state = host.root / "var/lib/relay/journal"
    state.mkdir(parents=True)
    (state / "x").touch()
    said = host.run("uninstall")
    left = {str(file.relative_to(host.root)) for file in host.root.rglob("*") if file.is_file()}
    assert left == {"etc/relay/relay.toml", "var/lib/relay/journal/x"}
    assert "kept" in said
    assert any("disable --now" in call for call in host.calls("systemctl"))
    host.install("one")
    assert host.current == "one"


def test_another_prefix_is_written_into_the_unit(host: Host) -> None:
    host.run("--release", "one", "--prefix", "/srv/relay")
    unit = (host.root / "etc/systemd/system/relay.service").read_text()
    assert "ExecStart=/srv/relay/current/bin/relay serve" in unit
    assert "/opt/relay" not in unit
    assert (host.root / "srv/relay/current/bin/relay").is_file()


def test_below_a_root_nothing_is_started_by_itself(host: Host) -> None:
    host.run("--release", "one", start=False)
    assert host.current == "one"
    assert host.calls("systemctl") == []


@pytest.mark.parametrize(
    "words",
    [
        ["--release", "../x"],
        ["--keep", "x"],
        ["--prefix", "opt"],
        ["--what"],
        ["--compiled", "maybe"],
    ],
    ids=" ".join,
)
def test_what_makes_no_sense_is_refused_before_anything_happens(
    host: Host, words: list[str]
) -> None:
    host.run(*words, code=1)
    assert host.calls("pip") == []
    assert not host.releases.exists()


def test_a_python_that_cannot_make_environments_is_named(host: Host) -> None:
    (host.folder / "python").write_text('#!/bin/sh\ncase "$*" in *ensurepip*) exit 1 ;; esac\n')
    assert "apt install python3-venv" in host.run("--release", "one", code=1)


def test_the_help_is_the_head_of_the_script() -> None:
    done = subprocess.run(["sh", SCRIPT, "--help"], capture_output=True, text=True, check=True)
    options = set(re.findall(r"--[a-z-]+", done.stdout))
    assert {"--dry-run", "--root", "--prefix", "--wheel", "--compiled", "--keep"} <= options


@needs("shellcheck")
@pytest.mark.parametrize("name", ["install.sh", "backup.sh", "relay-command"])
def test_shellcheck_finds_nothing(name: str) -> None:
    done = subprocess.run(
        ["shellcheck", "-s", "sh", DEPLOY / name], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
