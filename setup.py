"""Compiles the hot modules, with RELAY_COMPILED=1 (`make compiled`); else there is nothing to do.

All else about the package is in pyproject.toml.
"""

import os
import runpy
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
COMPILED: dict[str, Any] = runpy.run_path(str(ROOT / "relay" / "compiled.py"))
MADE_FROM = COMPILED["made_from"]()
"""Taken before anything is read: a source that changes meanwhile makes the build one of others."""


class BuildAndNote(build_ext):
    """Notes what it was made from beside the library, for relay.compiled."""

    def run(self) -> None:
        """Build; while that runs nothing is there to be used."""
        note = COMPILED["FOLDER"] / COMPILED["NOTE"]
        mine = Path(self.build_lib).resolve() == note.parent  # else it is for a wheel
        if mine:
            note.unlink(missing_ok=True)
        super().run()
        if mine:
            note.write_text(MADE_FROM)


def extensions() -> list[Extension]:
    """Return what is to be compiled."""
    if os.environ.get("RELAY_COMPILED") != "1":
        return []
    from mypyc.build import mypycify

    files = [f"{name.replace('.', '/')}.py" for name in COMPILED["MODULES"]]
    return mypycify(
        files,
        group_name=COMPILED["GROUP"],
        target_dir="build/c",
        debug_level="0",
        opt_level="2",  # 3 takes the compiler more than twice as long, and no call less
    )


os.chdir(ROOT)
setup(ext_modules=extensions(), cmdclass={"build_ext": BuildAndNote})
