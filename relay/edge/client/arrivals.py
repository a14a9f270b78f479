"""Requests that come all at once: begun in slices, so that what is under way goes on between them.

    the first of a turn of the loop  --> begun at once
    the rest                         --> kept; a slice of them a turn, in their order
    of dedicated lines               --> are counted by themselves, so they pass those of others
    those sent ahead of their answer --> kept; a slice of them a turn, one of each connection

One read of the kernel's list of sockets may tell of a thousand requests. Begun one after the other
they would take the loop for 50 to 100 ms, and each event of each stream would come that much later.
Large ones take longer, so they count for several. No loop tells when a turn of it begins, and no
clock does either: a worker may have been waiting for a processor. So whoever makes the count reach
AT_ONCE asks the loop to call when its turn is over; until then who comes waits. That costs a call
of the loop in AT_ONCE requests.

What a client sends ahead of its answers, as no SDK does, is nobody's first request: it waits in a
queue of its own, which however many connections are in it has a slice a turn and holds up no other.

In overload (`strict`, edge.overload) who came last goes first: its client still waits for it.
Whoever it is then is looked at once more, and gets a no where there is no room.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from relay.clock import clock_s

AT_ONCE: Final = 32
"""So many are begun before others have their turn: 1 ms, or 3 where nothing is compiled."""
REQUEST_BYTES: Final = 20_000
"""A request counts once more for each of these: joining and reading them takes as long."""
SLICE_S: Final = 0.001
"""How long a turn begins those that had to wait."""


class Arrivals:
    """The requests of one listener that wait for a turn of the loop."""

    def __init__(self) -> None:
        self.strict = False
        """In overload."""
        self.begun_late = 0
        """Of those that had to wait; the door begins anew at each beat."""
        self._begun = 0
        """Requests since the loop last called, those that had to wait as well."""
        self._waiting: deque[Callable[[], None]] = deque()
        self._resting = False
        """What was begun last is done by a task, so its turn is what the slice has to leave."""
        self._ahead: deque[Callable[[], None]] = deque()
        self._called_ahead = False
        """Whether the loop has been asked to call for those."""

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def crowded(self, size: int = 0) -> bool:
        """Count a request, or a body, of so many bytes; tell whether it has to wait."""
        before = self._begun
        self._begun = begun = before + 1 + size // REQUEST_BYTES
        if before < AT_ONCE <= begun:
            asyncio.get_running_loop().call_soon(self._begin_some)
        return before >= AT_ONCE

    def count(self, requests: int) -> None:
        """Count requests: where one read brought many, all of them had to be parsed."""
        before = self._begun
        self._begun = begun = before + requests
        if before < AT_ONCE <= begun:
            asyncio.get_running_loop().call_soon(self._begin_some)

    def wait(self, begin: Callable[[], None]) -> None:
        """Have a request begun when all that came before it are; only where it is crowded."""
        self._waiting.append(begin)

    async def turn(self) -> None:
        """Wait for the turn of a task, which has one of the loop for itself; only where crowded."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def begin() -> None:
            if not turn.done():
                turn.set_result(None)
                self._resting = True

        self._waiting.append(begin)
        await turn

    def wait_ahead(self, begin: Callable[[], None]) -> None:
        """Have a connection's next request begun, which was sent ahead of the last one's answer."""
        self._ahead.append(begin)
        if not self._called_ahead:
            self._called_ahead = True
            asyncio.get_running_loop().call_soon(self._begin_ahead)

    def _begin_some(self) -> None:
        """Begin those that have waited longest; where none is left, a new count begins.

        In overload those that have waited least.
        """
        ends_s = clock_s() + SLICE_S
        waiting = self._waiting
        self._resting = False
        try:
            while waiting:
                self.begun_late += 1
                (waiting.pop if self.strict else waiting.popleft)()()
                if self._resting or clock_s() > ends_s:
                    break
        finally:  # whatever became of one, the others have their turn
            if waiting:
                asyncio.get_running_loop().call_soon(self._begin_some)
            else:
                self._begun = 0

    def _begin_ahead(self) -> None:
        """Begin one of each connection, as far as a slice goes: its next one waits behind them."""
        ends_s = clock_s() + SLICE_S
        ahead = self._ahead
        left = len(ahead)
        try:
            while left > 0:
                left -= 1
                ahead.popleft()()
                if clock_s() > ends_s:
                    break
        finally:
            self._called_ahead = bool(ahead)
            if ahead:
                asyncio.get_running_loop().call_soon(self._begin_ahead)
