"""Requests that come all at once: begun in slices, so that what is under way goes on between them.

    the first of a turn of the loop --> begun at once
    the rest                        --> kept; a slice of them a turn, in their order

One read of the kernel's list of sockets may tell of a thousand requests. Begun one after the other
they would take the loop for 50 to 100 ms, and each event of each stream would come that much later.
No loop tells when a turn of it begins, and no clock does either: a worker may have been waiting for
a processor. So of each AT_ONCE requests the last one asks the loop to call when its turn is over;
until then who comes waits. That costs a call of the loop in AT_ONCE requests.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from relay.clock import clock_s

AT_ONCE: Final = 64
"""So many are begun before others have their turn: 2 ms, or 6 where nothing is compiled."""
SLICE_S: Final = 0.002
"""How long a turn begins those that had to wait."""


class Arrivals:
    """The requests of one listener that wait for a turn of the loop."""

    def __init__(self) -> None:
        self._begun = 0
        """Requests since the loop last called, those that had to wait as well."""
        self._waiting: deque[Callable[[], None]] = deque()

    def crowded(self) -> bool:
        """Count a request that comes; tell whether it has to wait."""
        self._begun += 1
        if self._begun == AT_ONCE:
            asyncio.get_running_loop().call_soon(self._begin_some)
        return self._begun > AT_ONCE

    def wait(self, begin: Callable[[], None]) -> None:
        """Have a request begun when all that came before it are; only where it is crowded."""
        self._waiting.append(begin)

    def _begin_some(self) -> None:
        """Begin those that have waited longest; where none is left, a new count begins."""
        ends_s = clock_s() + SLICE_S
        waiting = self._waiting
        while waiting:
            waiting.popleft()()
            if clock_s() > ends_s:
                break
        if waiting:
            asyncio.get_running_loop().call_soon(self._begin_some)
        else:
            self._begun = 0
