"""How much memory a worker may use, and what it does with what it frees.

What bodies may take is cut to what the control group or the machine has: else a small one runs out
of it before any bound is reached, and the kernel takes a worker with all its streams.

Of what is freed a bounded part stays, for the next body. A prompt of 300 KB passes through half a
dozen blocks of its size. Left to itself, glibc gives each of them back to the kernel and asks for
it anew, page by page, for the next call: in process that takes 650 us of a call with 300 KB instead
of 98, and 2,330 instead of 330 with 1 MB.
"""

import contextlib
import ctypes
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from relay.config import Server

M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3
"""Source: mallopt(3), malloc.h."""
KEPT_BYTES_MAX: Final = 32 * 1024 * 1024
"""Free memory at the end of the heap that stays a worker's; what is beyond it goes back."""
BLOCK_BYTES_MAX: Final = 4 * 1024 * 1024
"""Larger blocks, which few calls need, come from the kernel and go back to it."""
BODY_COST: Final = 3
"""Bytes of memory for a byte of a body that is held: 2.1 where its upstream reads nothing (measured
with bodies of 8 MiB), and what it passes through."""
WORKER_BYTES: Final = 96 * 1024 * 1024
"""A worker without a call, and the spare one."""
OTHERS_BYTES: Final = 256 * 1024 * 1024
"""Supervisor, control process and console."""
GROUPS: Final = Path("/sys/fs/cgroup")
OWN_GROUPS: Final = Path("/proc/self/cgroup")

_log = logging.getLogger(__name__)


def keep_freed_memory() -> bool:
    """Have this process keep what it frees, within KEPT_BYTES_MAX; False where nobody can be told.

    Only glibc knows how: with another C library its own way is left alone.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):
        return False
    kept = library.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES_MAX)
    return bool(kept and library.mallopt(M_MMAP_THRESHOLD, BLOCK_BYTES_MAX))


def fit_bodies(server: Server, memory_bytes: int) -> Server:
    """Return the settings with a `buffered_bytes_max` that fits; where that is less, it is said.

    One body of `body_bytes_max` is within an account's share of it in any case.

    Args:
        server: As configured.
        memory_bytes: What all processes of the relay may use together.
    """
    workers = server.workers or len(os.sched_getaffinity(0))
    left = memory_bytes - OTHERS_BYTES - (workers + 1) * WORKER_BYTES
    least = int(server.body_bytes_max / server.buffered_share_max)
    fits = max(left // workers // BODY_COST, least)
    if fits >= server.buffered_bytes_max:
        return server
    _log.warning(
        "the memory here allows fewer bytes of bodies than buffered_bytes_max",
        extra={"bytes": fits, "count": workers},
    )
    return msgspec.structs.replace(server, buffered_bytes_max=fits)


def memory_bytes(own_groups: Path = OWN_GROUPS, groups: Path = GROUPS) -> int:
    """Return what this process's control groups allow, or the machine has, whichever is less.

    Source: cgroups(7), /proc/PID/cgroup; memory.max of version 2, memory.limit_in_bytes of 1.
    """
    found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for file in _bounds(own_groups, groups):
        with contextlib.suppress(OSError, ValueError):  # not there, or "max"
            found = min(found, int(file.read_text()))
    return found


def _bounds(own_groups: Path, groups: Path) -> Iterator[Path]:
    """Yield the files that may bound this process's memory: of its groups, and of those above."""
    with contextlib.suppress(OSError):
        for line in own_groups.read_text().splitlines():
            number, controllers, path = line.split(":", 2)
            place, name = groups, "memory.max"
            if number != "0":
                place, name = groups / "memory", "memory.limit_in_bytes"
            if number == "0" or "memory" in controllers.split(","):
                yield place / name
                for part in Path(path).parts[1:]:
                    place /= part
                    yield place / name
