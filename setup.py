"""Compiles the hot modules, with RELAY_COMPILED=1 (`make compiled`); else there is nothing to do.

All else about the package is in pyproject.toml.
"""

import hashlib
import os
import runpy
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
COMPILED: dict[str, Any] = runpy.run_path(str(ROOT / "relay" / "compiled.py"))
MADE_FROM = COMPILED["made_from"]()
"""Taken before anything is read: a source that changes meanwhile makes the build one of others."""
C_FOLDER = Path("build/c")


class BuildAndNote(build_ext):
    """Compiles on every core what has changed, and notes for relay.compiled what it was made of."""

    def finalize_options(self) -> None:
        """Use every core that is ours, unless the command says how many."""
        super().finalize_options()
        self.parallel = self.parallel or len(os.sched_getaffinity(0))

    def run(self) -> None:
        """Build; while that runs nothing is there to be used."""
        note = COMPILED["FOLDER"] / COMPILED["NOTE"]
        mine = Path(self.build_lib).resolve() == note.parent  # else it is for a wheel
        if mine:
            note.unlink(missing_ok=True)
        super().run()
        if mine:
            note.write_text(MADE_FROM)

    def build_extensions(self) -> None:
        """Build; setuptools itself would compile the files of one library one after the other."""
        headers = hashlib.blake2b()
        for header in sorted(C_FOLDER.glob("**/*.h")):
            headers.update(header.read_bytes())
        self.compiler.compile = partial(self._compile_each, self.compiler.compile, headers.digest())
        super().build_extensions()

    def _compile_each(
        self, compile_some: Any, headers: bytes, sources: list[str], **options: Any
    ) -> list[str]:
        """Compile what has changed of the files of a library; return the objects of all."""

        def compile_one(source: str) -> str:
            (made,) = self.compiler.object_filenames([source], output_dir=options["output_dir"])
            note = Path(f"{made}.made_from")
            digest = hashlib.blake2b(headers + Path(source).read_bytes())
            digest.update(repr(options).encode())
            if not (Path(made).is_file() and _says(note, digest.hexdigest())):
                note.unlink(missing_ok=True)
                compile_some([source], **options)
                note.write_text(digest.hexdigest())
            return str(made)

        with ThreadPoolExecutor(self.parallel) as pool:
            return list(pool.map(compile_one, sources))


def _says(note: Path, digest: str) -> bool:
    return note.is_file() and note.read_text() == digest


def extensions() -> list[Extension]:
    """Return what is to be compiled."""
    if os.environ.get("RELAY_COMPILED") != "1":
        return []
    from mypyc.build import mypycify

    files = [f"{name.replace('.', '/')}.py" for name in COMPILED["MODULES"]]
    made: list[Extension] = mypycify(
        files,
        group_name=COMPILED["GROUP"],
        target_dir=str(C_FOLDER),
        debug_level="0",
        opt_level="2",  # 3 takes the compiler more than twice as long, and no call less
        multi_file=True,
    )
    for extension in made:
        # One module's functions are called by others within the library only: directly, then.
        extension.extra_compile_args.append("-fvisibility=hidden")
    return made


os.chdir(ROOT)
setup(ext_modules=extensions(), cmdclass={"build_ext": BuildAndNote})
