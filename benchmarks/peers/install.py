"""Sets up the peers that can be had, each in a folder of its own below .venv/peers.

Never in the relay's own environment: what a peer depends on is none of our business.
"""

import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Final

from benchmarks.peers.table import PEERS, Peer

ROOT: Final = Path(__file__).parents[2]
FOLDER: Final = ROOT / ".venv" / "peers"
_INSTALL_S: Final = 900.0
_SYSTEM_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

Say = Callable[[str], None]


def find(peer: Peer) -> str | None:
    """Return a peer's program as a path; None where it is not installed."""
    if peer.source == "debian":
        return shutil.which(peer.program, path=_SYSTEM_PATH)
    if peer.source == "own":
        return sys.executable
    if peer.source == "npm":
        return _node() if _is_installed(peer) else None
    program = FOLDER / peer.name / peer.program
    return str(program) if _is_installed(peer) and program.exists() else None


def missing(peer: Peer) -> str:
    """Say how a peer that is not there could be had."""
    if peer.source == "debian":
        return f"not installed: apt-get install {peer.package}"
    return f"not installed: relay bench peers --install (from {peer.source}: {peer.package})"


def install(names: tuple[str, ...], say: Say) -> dict[str, str]:
    """Set up the peers that are not there yet; return those that cannot be had, with the reason."""
    absent = {}
    for peer in (PEERS[name] for name in names):
        if find(peer) is not None:
            continue
        say(f"{peer.name}: installing {peer.package} from {peer.source}")
        reason = _install(peer)
        if reason:
            absent[peer.name] = reason
    return absent


def _install(peer: Peer) -> str:
    """Install one peer; return why not, "" where it went well."""
    folder = FOLDER / peer.name
    if peer.source == "debian":
        return missing(peer)
    try:
        if peer.source == "npm":
            _install_npm(peer, folder)
        else:
            venv.create(folder, with_pip=True)
            _run([str(folder / "bin/pip"), *_PIP_OPTIONS, *peer.package.split()])
    except subprocess.CalledProcessError as error:
        return _last_line(error.stderr) or f"exit code {error.returncode}"
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    _stamp(peer).write_text(peer.package)
    return "" if find(peer) is not None else f"{peer.program} is not in the package"


_PIP_OPTIONS: Final = ("install", "--quiet", "--disable-pip-version-check")


def _install_npm(peer: Peer, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
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
