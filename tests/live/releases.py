"""Releases of the relay side by side, as deploy/install.sh lays them out, made of this checkout.

FOLDER/releases/NAME    a virtual environment with a copy of the sources, changed where asked for
FOLDER/current          a link to one of them
"""

import shutil
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path

SOURCES = Path(__file__).parents[2] / "relay"
MIGRATION = """
CREATE TABLE next_release (n integer);
ALTER TABLE accounts ADD COLUMN next_release text NOT NULL DEFAULT '';
"""
_SCRIPT = """#!{python} -P
import sys
from relay.cli.root import main
sys.exit(main())
"""


class Releases:
    """The releases of one host."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.program = str(folder / "current" / "bin" / "relay")

    def make(self, name: str, change: Callable[[Path], None] | None = None) -> None:
        """Make a release; `change` gets the folder of its sources."""
        place = self._folder / "releases" / name
        venv.create(place, symlinks=True, with_pip=False)
        packages = place / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
        shutil.copytree(SOURCES, packages / "relay", ignore=shutil.ignore_patterns("__pycache__"))
        (packages / "others.pth").write_text(sysconfig.get_path("purelib"))
        script = place / "bin" / "relay"
        script.write_text(_SCRIPT.format(python=place / "bin" / "python"))
        script.chmod(0o755)
        if change is not None:
            change(packages / "relay")

    def point(self, name: str) -> None:
        """Make a release the current one, in one step."""
        draft = self._folder / ".current"
        draft.unlink(missing_ok=True)
        draft.symlink_to(Path("releases", name))
        draft.replace(self._folder / "current")


def with_migration(sources: Path) -> None:
    """Have a release bring a migration along."""
    (sources / "store" / "schema" / "9001_next_release.sql").write_text(MIGRATION)


def not_importable(sources: Path) -> None:
    """Have a release that cannot even be loaded."""
    worker = sources / "process" / "worker.py"
    worker.write_text("import no_such_module\n" + worker.read_text())


def never_ready(sources: Path) -> None:
    """Have a release whose workers load, and fail when they are to serve."""
    worker = sources / "process" / "worker.py"
    text = worker.read_text()
    planted = 'settings, listener = lifeline.receive_settings()\n    raise RuntimeError("planted")'
    assert "settings, listener = lifeline.receive_settings()" in text
    worker.write_text(text.replace("settings, listener = lifeline.receive_settings()", planted, 1))


def release_of(pid: int) -> str:
    """Return the release that a process runs, by the interpreter it was started with."""
    command = Path("/proc", str(pid), "cmdline").read_bytes().split(b"\0")[0].decode()
    return Path(command).parent.parent.name
