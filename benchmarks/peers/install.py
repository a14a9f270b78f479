"""Sets up the peers that can be had, each in a folder of its own below .venv/peers.

Never in the relay's own environment: what a peer depends on is none of our business.
"""

import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Final

from benchmarks.peers import debian
from benchmarks.peers.table import PEERS, Peer

ROOT: Final = Path(__file__).parents[2]
FOLDER: Final = ROOT / ".venv" / "peers"
_INSTALL_S: Final = 900.0
_PIP_OPTIONS: Final = ("install", "--quiet", "--disable-pip-version-check")

Say = Callable[[str], None]


def find(peer: Peer) -> str | None:
    """Return a peer's program as a path; None where it is not installed."""
    if peer.source == "debian":
        found = debian.find(FOLDER / peer.name, peer.program)
        return str(found) if found else None
    if peer.source == "own":
        return sys.executable
    if peer.source == "npm":
        return _node() if _is_installed(peer) else None
    program = FOLDER / peer.name / peer.program
    return str(program) if _is_installed(peer) and program.exists() else None


def environment(peer: Peer) -> dict[str, str]:
    """Return what a peer's program needs around it because of how it was installed."""
    return debian.environment(FOLDER / peer.name) if peer.source == "debian" else {}


def missing(peer: Peer) -> str:
    """Say how a peer that is not there could be had, or why it cannot."""
    if peer.not_to_be_had:
        return f"not to be had: {peer.not_to_be_had}"
    place = "Debian" if peer.source == "debian" else peer.source
    return f"not installed: relay bench peers --install (from {place}: {peer.package})"


def install(names: tuple[str, ...], say: Say) -> dict[str, str]:
    """Set up the peers that are not there yet; return those that cannot be had, with the reason."""
    absent = {}
    for peer in (PEERS[name] for name in names):
        if find(peer) is not None:
            continue
        if peer.not_to_be_had:
            reason = missing(peer)
        else:
            say(f"{peer.name}: installing {peer.package} from {peer.source}")
            reason = _install(peer)
        if reason:
            absent[peer.name] = reason
            say(f"{peer.name}: NOT installed: {reason}")
    return absent


def _install(peer: Peer) -> str:
    """Install one peer; return why not, "" where it went well."""
    folder = FOLDER / peer.name
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if peer.source == "debian":
            debian.install(peer.package, folder)
        elif peer.source == "npm":
            _install_npm(peer, folder)
        else:
            venv.create(folder, with_pip=True)
            _run([str(folder / "bin/pip"), *_PIP_OPTIONS, *peer.package.split()])
    except subprocess.CalledProcessError as error:
        return _last_line(error.stderr) or f"exit code {error.returncode}"
    except (OSError, subprocess.TimeoutExpired, debian.Refused) as error:
        return str(error)
    _stamp(peer).write_text(peer.package)
    return "" if find(peer) is not None else f"{peer.program} is not in the package"


def _install_npm(peer: Peer, folder: Path) -> None:
    npm = str(Path(sys.executable).parent / "npm")
    options = ("--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
    _run([npm, "install", "--prefix", str(folder), *options, peer.package])


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=_INSTALL_S)


def _last_line(text: str | None) -> str:
    lines = [line for line in (text or "").splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""


def _stamp(peer: Peer) -> Path:
    return FOLDER / peer.name / ".installed"


def _is_installed(peer: Peer) -> bool:
    stamp = _stamp(peer)
    return stamp.exists() and stamp.read_text() == peer.package


def _node() -> str | None:
    program = Path(sys.executable).parent / "node"
    return str(program) if program.exists() else None
