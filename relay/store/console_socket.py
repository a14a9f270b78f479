"""The socket file between the admin listener and the console's operator side.

    data dir/run/console/operator.sock      the folder is the owner's alone, mode 0700

A path may be longer than a socket address can be, so both sides go by the open folder.
"""

import contextlib
import os
import socket
from pathlib import Path
from typing import Final

NAME: Final = "operator.sock"
BACKLOG: Final = 128


def folder_of(data_dir: Path) -> Path:
    """Return the folder that holds the socket."""
    return data_dir / "run" / "console"


def listen(data_dir: Path) -> socket.socket:
    """Return the listening socket; one of before is replaced."""
    folder = folder_of(data_dir)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    with contextlib.suppress(FileNotFoundError):
        (folder / NAME).unlink()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    opened = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sock.bind(f"/proc/self/fd/{opened}/{NAME}")
    finally:
        os.close(opened)
    sock.listen(BACKLOG)
    sock.setblocking(False)  # noqa: FBT003
    return sock


def open_folder(data_dir: Path) -> int:
    """Return a descriptor of the folder, for a client; made if it is not there."""
    folder = folder_of(data_dir)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
