"""Programs that some tests of deploy/ need and not every machine has."""

import os
import shutil
from pathlib import Path

import pytest

ADMIN_FOLDERS = ("/usr/sbin", "/sbin")
"""Where Debian keeps servers' programs, out of a plain user's PATH."""


def find(program: str) -> str | None:
    """Return where a program is, None where it is not installed."""
    folders = (os.environ.get("PATH", ""), *ADMIN_FOLDERS)
    return shutil.which(program, path=os.pathsep.join(folders))


def needs(*programs: str) -> pytest.MarkDecorator:
    """Skip a test on a machine without these programs: they are no part of the relay."""
    missing = [program for program in programs if find(program) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


def fresh(folder: Path) -> Path:
    """Make a folder, and return it."""
    folder.mkdir(parents=True)
    return folder
