"""How many workers share the limits, on this host's disk: for those who start without Redis.

A worker that cannot ask lives on its part of each limit, and learns from the others how large that
is. One that starts then has heard of nobody: it takes the number that was last heard.
"""

from pathlib import Path
from typing import Final

import msgspec

from relay.errors import NotFound
from relay.store.outage import checked

NAME: Final = "fleet"


def copy_path(data_dir: Path) -> Path:
    """Return where the copy is."""
    return data_dir / "copies" / NAME


def write_fleet(path: Path, workers: int) -> None:
    """Write the number of workers on all hosts.

    Raises:
        OSError: The disk does not take it.
    """
    checked.write(path, msgspec.msgpack.encode(workers))


def read_fleet(path: Path, own: int) -> int:
    """Return the number that was last heard, `own` at least: the workers of this host."""
    try:
        return max(msgspec.msgpack.decode(checked.read(path).content, type=int), own)
    except (NotFound, msgspec.MsgspecError):
        return own
