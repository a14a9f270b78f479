"""How a command asks the relay that runs for a secret that its own shell does not have.

    DATA_DIR/run/desk/secrets.sock     the folder is the owner's alone, mode 0700
    command -> relay   {"reference": "cred:pepper"}
    relay -> command   {"secret": "..."}, or {"refusal": "..."}

The kernel says who asks (SO_PEERCRED): root, or the user that the relay runs as, who could read the
same secrets where the relay has them. Nobody else gets an answer.
"""

import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

NAME: Final = "secrets.sock"
VARIABLE: Final = "RELAY_SECRETS_FROM"
"""In a command's environment: the data dir of the relay to ask."""
ANSWER_S: Final = 10.0
BYTES_MAX: Final = 128 * 1024
BACKLOG: Final = 16
_PEER: Final = struct.Struct("3i")
"""Source: unix(7), struct ucred: pid, uid, gid."""


class Question(msgspec.Struct, frozen=True):
    """What a command wants to know."""

    reference: str


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What it is told."""

    secret: str = ""
    refusal: str = ""


def folder_of(data_dir: Path) -> Path:
    """Return the folder that holds the socket."""
    return data_dir / "run" / "desk"


def listen(data_dir: Path) -> socket.socket:
    """Return the listening socket; one of before is replaced.

    Raises:
        OSError: The data dir cannot be used.
    """
    folder = folder_of(data_dir)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    with contextlib.suppress(FileNotFoundError):
        (folder / NAME).unlink()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with _opened(folder) as place:
        sock.bind(f"{place}/{NAME}")
    sock.listen(BACKLOG)
    sock.settimeout(0)
    return sock


def may_ask(sock: socket.socket) -> bool:
    """Return whether the kernel knows the other side as root, or as our own user."""
    packed = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    _, uid, _ = _PEER.unpack(packed)
    return uid in (0, os.geteuid())


def ask(data_dir: Path, reference: str) -> str:
    """Return what a relay that runs on this data dir has for a reference; "": nothing, or none."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with contextlib.suppress(OSError, msgspec.MsgspecError), sock:
        sock.settimeout(ANSWER_S)
        with _opened(folder_of(data_dir)) as place:
            sock.connect(f"{place}/{NAME}")
        sock.sendall(msgspec.json.encode(Question(reference)) + b"\n")
        said = b""
        while not said.endswith(b"\n") and len(said) < BYTES_MAX:
            part = sock.recv(BYTES_MAX)
            if not part:
                break
            said += part
        return msgspec.json.decode(said, type=Answer).secret
    return ""


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[str]:
    """Give a short path to a folder: a socket's address holds 107 bytes."""
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)
