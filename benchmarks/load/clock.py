"""A timer of the loop that is precise to some microseconds: loops count in milliseconds.

An open loop starts calls at intended times; a timer that rounds up to the next millisecond would
add that to every latency. Linux has timerfd, which a loop can wait for as for a socket. Python
wraps it from 3.13 on; before that it is called by its C name.

Source: timerfd_create(2), struct itimerspec.
"""

import asyncio
import contextlib
import ctypes
import os
import struct
from collections.abc import Callable
from typing import Final

_CLOCK_MONOTONIC: Final = 1
_ABSOLUTE: Final = 1
_NONBLOCK_CLOEXEC: Final = 0o2004000
_ITIMERSPEC: Final = struct.Struct("@llll")
_NS: Final = 1_000_000_000

_libc = ctypes.CDLL(None, use_errno=True)


class Alarm:
    """Calls `on_ring` once at each moment it is set to, on CLOCK_MONOTONIC.

    Args:
        on_ring: Called in the loop; it may set the alarm again.
    """

    def __init__(self, on_ring: Callable[[], None]) -> None:
        self._on_ring = on_ring
        self._loop = asyncio.get_running_loop()
        self._fd: int = _libc.timerfd_create(_CLOCK_MONOTONIC, _NONBLOCK_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._loop.add_reader(self._fd, self._ring)

    def set(self, at_ns: int) -> None:
        """Ring at `at_ns` of time.monotonic_ns(); at once where that has passed."""
        at_ns = max(at_ns, 1)  # 0 would disarm it
        spec = _ITIMERSPEC.pack(0, 0, at_ns // _NS, at_ns % _NS)
        if _libc.timerfd_settime(self._fd, _ABSOLUTE, spec, None) < 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime")

    def close(self) -> None:
        """Ring no more."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _ring(self) -> None:
        with contextlib.suppress(BlockingIOError):  # set anew since the loop was woken
            os.read(self._fd, 8)
            self._on_ring()
