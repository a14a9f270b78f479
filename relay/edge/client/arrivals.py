"""Requests that come all at once: begun in slices, so that what is under way goes on between them.

    one after the other, for a moment --> begun at once
                      for longer      --> kept; a slice of them a turn of the loop, in their order

One read of the kernel's list of sockets may tell of a thousand requests. Begun one after the other
they would take the loop for 50 to 100 ms, and each event of each stream would come that much later.
No loop tells when a turn of it began, so the pauses between requests are looked at: where there are
none for long, whether it is one turn or many, the next request goes by the queue once.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from relay.clock import clock_s

PAUSE_S: Final = 0.005
"""So long without a request, and others had their turn: to begin one takes less."""
BEGUN_S: Final = 0.004
"""So long requests are begun without a pause: some hundred of them."""
SLICE_S: Final = 0.002
"""How long a turn begins those that had to wait."""


class Arrivals:
    """The requests of one listener that wait for a turn of the loop."""

    def __init__(self) -> None:
        self._since_s = 0.0
        """Since when they come without a pause."""
        self._last_s = 0.0
        self._waiting: deque[Callable[[], None]] = deque()

    def crowded(self) -> bool:
        """Tell whether a request that comes now has to wait."""
        if self._waiting:
            return True
        now_s = clock_s()
        if now_s - self._last_s > PAUSE_S:
            self._since_s = now_s
        self._last_s = now_s
        return now_s - self._since_s > BEGUN_S

    def wait(self, begin: Callable[[], None]) -> None:
        """Have a request begun when all that came before it are."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._begin_some)
        self._waiting.append(begin)

    def _begin_some(self) -> None:
        """Begin those that have waited longest, at least one."""
        ends_s = clock_s() + SLICE_S
        waiting = self._waiting
        while waiting:
            waiting.popleft()()
            now_s = clock_s()
            if now_s > ends_s:
                break
        if waiting:
            asyncio.get_running_loop().call_soon(self._begin_some)
        else:
            self._since_s = self._last_s = now_s
