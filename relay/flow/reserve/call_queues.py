r"""Where calls wait for room, as long as their line lets them; what room is, a Search knows.

    enter  too late, or too many wait --> refused, with a true wait
      \--> a ticket in the line's queue --> its turn, and there is room --> it goes
                                        | it has waited long enough     --> refused, likewise
                                        \ its client goes: gone at once, nothing is taken

Fair by account, bounded in calls and bytes (relay.limits.fair_queue). One task for a line with a
queue looks for room for whoever's turn it is; it ends with the queue. Each worker has queues of its
own: what all of them together are let is the limiter's to say.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final, Protocol

from relay.clock import clock_s
from relay.limits.bucket import MINUTE_MS
from relay.limits.decision import Denied, Why
from relay.limits.fair_queue import FairQueue, Ticket
from relay.model import Line

CALLS_MAX: Final = 1_000
"""Calls of one line that wait at one worker."""
BYTES_MAX: Final = 128 * 1024 * 1024
"""What their bodies take."""
POLL_MS_MIN: Final = 5
POLL_MS_MAX: Final = 100
"""Between two looks whether there is room: what was freed elsewhere is heard of so late at most."""
TURN_CALLS: Final = 32
"""Calls let go in one turn of the loop: others have theirs."""

_log = logging.getLogger(__name__)


class WaitingCall(Ticket):
    """A ticket with the call's side of it.

    Args:
        account_id, tokens, size: See Ticket.
        denied: What the call was told before it came here.
        speak: Called every so often while it waits.
    """

    __slots__ = ("answer", "denied", "queued", "speak")

    def __init__(
        self, account_id: int, tokens: int, size: int, denied: Denied, speak: Callable[[], None]
    ) -> None:
        super().__init__(account_id, tokens, size)
        self.denied = denied
        """What it was told last."""
        self.speak = speak
        self.queued = False
        """It has waited in a queue."""
        self.answer: asyncio.Future[Denied | None] = asyncio.get_running_loop().create_future()
        """None: it may go, with what was found for it."""

    def tell(self, denied: Denied | None) -> bool:
        """Tell the call; False: it has gone."""
        if self.answer.done():
            return False
        self.answer.set_result(denied)
        return True


class Search(Protocol):
    """How the calls of one queue find room; made anew with each queue."""

    __slots__ = ()

    async def look(self, ticket: WaitingCall) -> Denied | None:
        """Take room for a call, kept with its ticket, or return why there is none.

        Returns:
            None: looking on is of no use; it has what there is for it.
        """
        ...

    def stand(self, ticket: WaitingCall) -> None:
        """Note that a call begins to wait: who comes now is behind it."""
        ...

    def give_back(self, ticket: WaitingCall) -> None:
        """Put back what was taken for a call that has gone, if anything was."""
        ...

    def helps(self, denied: Denied) -> bool:
        """Tell whether waiting helps against what a call was told."""
        ...

    async def must_rest(self, queue: "CallQueue", ticket: WaitingCall) -> bool:
        """Serve those behind who do without what `ticket` lacks; True: nobody can go on now."""
        ...

    def pace(self, ticket: WaitingCall) -> int:
        """Return about how many tokens a minute the queue of a call moves by; 0 = unknown."""
        ...

    def end(self) -> None:
        """Note that nobody waits any more."""
        ...


class CallQueue:
    """The queue of one line, and the task that serves it.

    Args:
        search: How its calls find room.
        on_end: Told when nobody waits any more.
    """

    def __init__(self, search: Search, on_end: "Callable[[CallQueue], None]") -> None:
        self.waiting = FairQueue(CALLS_MAX, BYTES_MAX)
        self.search = search
        self._on_end = on_end
        self._served = 0
        self._task = asyncio.get_running_loop().create_task(self._serve(), name="line queue")
        self._task.add_done_callback(self._note_end)

    def _note_end(self, task: asyncio.Task[None]) -> None:
        """Hear of a defect of ours too: those who come now need another queue."""
        self._on_end(self)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.critical("a line's queue stopped", exc_info=error)

    async def _serve(self) -> None:
        """Look for room for whoever's turn it is, until nobody waits."""
        await asyncio.sleep(0)  # the first ticket is put in behind us
        while (ticket := self.waiting.first()) is not None:
            assert isinstance(ticket, WaitingCall)
            wait_ms = await self.serve(ticket)
            if wait_ms and await self.search.must_rest(self, ticket):
                await asyncio.sleep(min(wait_ms, POLL_MS_MAX) / 1_000)
        self._on_end(self)

    async def serve(self, ticket: WaitingCall) -> int:
        """Let a call go if there is room; return for how long there is none, 0 if it went."""
        denied = await self.search.look(ticket)
        if not ticket.waits:
            self.search.give_back(ticket)  # it left meanwhile
            return 0
        if denied is not None and self.search.helps(denied):
            ticket.denied = denied
            return max(denied.wait_ms, POLL_MS_MIN)
        self.waiting.take(ticket)
        if not ticket.tell(denied):
            self.search.give_back(ticket)
        self._served += 1
        if not self._served % TURN_CALLS:
            await asyncio.sleep(0)
        return 0


class CallQueues:
    """The queues of one worker, by line; a line that nobody waits for has none.

    Args:
        search: Makes the search of a line's queue.
        speak_s: Between two times that those who wait speak.
    """

    def __init__(self, search: Callable[[int], Search], speak_s: float) -> None:
        self._search = search
        self._speak_s = speak_s
        self._queues: dict[int, CallQueue] = {}

    def waiting(self) -> int:
        """Return how many calls wait."""
        return sum(len(queue.waiting) for queue in self._queues.values())

    def is_busy(self, line: Line) -> bool:
        """Tell whether calls of a line wait: who comes now is behind them."""
        return line.id in self._queues

    async def enter(self, line: Line, ticket: WaitingCall) -> Denied | None:
        """Wait until it is a call's turn and there is room, or return why it may not go.

        Args:
            line: Whose queue it is; it says how long.
            ticket: The call.

        Raises:
            asyncio.CancelledError: Its client has gone; nothing is taken.
        """
        queue = self._queues.get(line.id)
        search = queue.search if queue is not None else self._search(line.id)
        refused = _refused(search, queue, ticket)
        if refused.wait_ms > line.wait_ms:
            return refused
        if queue is None:
            queue = self._queues[line.id] = CallQueue(
                search, lambda ended: self._forget(line.id, ended)
            )
        gone = queue.waiting.push(ticket)
        if gone is None:
            return refused
        for other in gone:
            assert isinstance(other, WaitingCall)
            other.tell(_refused(search, queue, other))
        ticket.queued = True
        search.stand(ticket)
        try:
            return await self._wait(line, queue, ticket)
        finally:
            queue.waiting.drop(ticket)

    async def _wait(self, line: Line, queue: CallQueue, ticket: WaitingCall) -> Denied | None:
        answer, ends_s = ticket.answer, clock_s() + line.wait_ms / 1_000
        try:
            while not answer.done() and (left_s := ends_s - clock_s()) > 0:
                await asyncio.wait([answer], timeout=min(left_s, self._speak_s))
                if not answer.done() and clock_s() < ends_s:
                    ticket.speak()
        except asyncio.CancelledError:
            if answer.done():
                queue.search.give_back(ticket)
            answer.cancel()
            raise
        if answer.done():
            return answer.result()
        answer.cancel()
        return _refused(queue.search, queue, ticket)

    def _forget(self, line_id: int, queue: CallQueue) -> None:
        if self._queues.get(line_id) is queue:
            del self._queues[line_id]
            queue.search.end()


def _refused(search: Search, queue: CallQueue | None, ticket: WaitingCall) -> Denied:
    """Return what a call is told that does not wait, or no more: when its turn would be."""
    ahead_ms = 0
    per_minute = search.pace(ticket)
    if queue is not None and per_minute:
        cost = 0 if ticket.waits else ticket.cost
        ahead_ms = queue.waiting.ahead(ticket.account_id, cost) * MINUTE_MS // per_minute
    wait_ms = max(ticket.denied.wait_ms + ahead_ms, POLL_MS_MIN)
    return Denied(Why.EMPTY, wait_ms, ticket.denied.limit)
