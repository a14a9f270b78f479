"""Debian's packages for peers: installed as root, else unpacked into a folder of the peer's own.

    root       apt-get update, apt-get install
    else       apt-get update into a folder of ours; what is missing of the package and of what it
               depends on: apt-get download, dpkg -x; its libraries are found by LD_LIBRARY_PATH

Nothing that a package would start is started: a peer runs while it is measured, and no longer.
"""

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

SYSTEM_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_UNPACKED: Final = "root"
_INSTALL_S: Final = 600.0
_POLICY: Final = Path("/usr/sbin/policy-rc.d")
_POLICY_TEXT: Final = "#!/bin/sh\nexit 101\n"
"""Asked by maintainer scripts before they start a service: 101 forbids it."""
_LOCK: Final = ("-o", "DPkg::Lock::Timeout=120")
_NEEDED: Final = re.compile(r"^Inst (\S+)", re.MULTILINE)


class Refused(Exception):
    """A package cannot be had this way; the text says why."""


def find(folder: Path, program: str) -> Path | None:
    """Return a program of the system, or one that was unpacked into `folder`; None = neither."""
    found = shutil.which(program, path=SYSTEM_PATH) or shutil.which(
        program, path=os.pathsep.join(str(folder / _UNPACKED / p[1:]) for p in _paths())
    )
    return Path(found) if found else None


def environment(folder: Path) -> dict[str, str]:
    """Return what a program that was unpacked needs to find its libraries; {} = nothing is."""
    root = folder / _UNPACKED
    libraries = [*root.glob("usr/lib/*-linux-gnu*"), *root.glob("lib/*-linux-gnu*")]
    if not libraries:
        return {}
    return {"LD_LIBRARY_PATH": os.pathsep.join(str(path) for path in libraries)}


def install(package: str, folder: Path) -> None:
    """Have a package: as root on the system, else in `folder`.

    Raises:
        Refused: Neither works; it says why of both.
    """
    if shutil.which("apt-get") is None:
        raise Refused("there is no apt-get here")
    reasons = []
    if os.geteuid() == 0:
        try:
            install_system(package)
        except Refused as refused:
            reasons.append(str(refused))
        else:
            return
    try:
        unpack(package, folder)
    except Refused as refused:
        raise Refused("; ".join([*reasons, str(refused)])) from refused


def install_system(package: str) -> None:
    """Install a package on the system, without starting it."""
    _run("apt-get", *_LOCK, "update")
    with _nothing_starts():
        _run("apt-get", *_LOCK, "install", "--yes", "--no-install-recommends", package)


def unpack(package: str, folder: Path) -> None:
    """Unpack a package, and what it needs that is not installed, below `folder`; no root needed."""
    state = folder / "apt"
    for name in ("lists/partial", "cache/archives/partial", "debs"):
        (state / name).mkdir(parents=True, exist_ok=True)
    own = (
        *("-o", f"Dir::State::Lists={state / 'lists'}", "-o", f"Dir::Cache={state / 'cache'}"),
        *("-o", "Debug::NoLocking=true", "-o", "APT::Sandbox::User="),
    )
    _run("apt-get", *own, "update")
    options = ("--simulate", "--no-install-recommends", "install", package)
    needed = _NEEDED.findall(_run("apt-get", *own, *options)) or [package]
    _run("apt-get", *own, "download", *needed, cwd=state / "debs")
    root = folder / _UNPACKED
    root.mkdir(exist_ok=True)
    for archive in sorted((state / "debs").glob("*.deb")):
        _run("dpkg", "-x", str(archive), str(root))
    shutil.rmtree(state)


@contextlib.contextmanager
def _nothing_starts() -> Iterator[None]:
    """Forbid maintainer scripts to start services; an existing policy stands."""
    if _POLICY.exists():
        yield
        return
    try:
        _POLICY.write_text(_POLICY_TEXT)
        _POLICY.chmod(0o755)
        yield
    finally:
        _POLICY.unlink(missing_ok=True)


def _paths() -> list[str]:
    return SYSTEM_PATH.split(os.pathsep)


def _run(program: str, *arguments: str, cwd: Path | None = None) -> str:
    """Run a command of the system's packages; return what it says.

    Raises:
        Refused: It failed, with the last line that it said.
    """
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    try:
        done = subprocess.run(
            [program, *arguments],
            cwd=cwd,
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            text=True,
            timeout=_INSTALL_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Refused(f"{program}: {error}") from error
    if done.returncode != 0:
        said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        action = next((one for one in arguments if one in _ACTIONS), "")
        last = said[-1].strip() if said else f"exit code {done.returncode}"
        raise Refused(f"{program} {action}: {last}".replace(" :", ":"))
    return done.stdout


_ACTIONS: Final = frozenset({"update", "install", "download", "-x"})
