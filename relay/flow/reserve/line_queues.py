r"""Where calls wait that are over a limit, as long as their line lets them.

    pass_through   admitted at once --> Grant
         \--> over a limit --> a ticket in the line's queue --> its turn --> Grant
                                    | too late, or no room        --> Denied, with a true wait
                                    \ its client goes: gone at once, nothing is taken

One task for a line with a queue asks the limiter for whoever's turn it is; it ends with the queue.
Each worker has queues of its own: what all of them together are let is the limiter's to say.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from relay.clock import clock_s
from relay.limits.bucket import MINUTE_MS
from relay.limits.decision import Denied, Why
from relay.limits.fair_queue import FairQueue, Ticket
from relay.limits.limit_set import Costs, Grant, LimitSet
from relay.limits.scopes import Bucket, Measure, Scope
from relay.model import Line
from relay.ports import Limiter

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


class QueuedCall(Ticket):
    """A ticket with the call's side of it."""

    __slots__ = ("answer", "costs", "denied", "limit_set", "queued")

    def __init__(
        self, account_id: int, size: int, limit_set: LimitSet, costs: Costs, tokens: int
    ) -> None:
        super().__init__(account_id, tokens, size)
        self.limit_set = limit_set
        self.costs = costs
        self.denied = Denied(Why.EMPTY, 0)
        """What it was told last."""
        self.queued = False
        """It has waited in a queue."""
        self.answer: asyncio.Future[Grant | Denied] = asyncio.get_running_loop().create_future()

    def tell(self, decision: Grant | Denied) -> bool:
        """Tell the call; False: it has gone."""
        if self.answer.done():
            return False
        self.answer.set_result(decision)
        return True


class LineQueue:
    """The queue of one line, and the task that serves it."""

    def __init__(self, limiter: Limiter, on_end: "Callable[[LineQueue], None]") -> None:
        self.waiting = FairQueue(CALLS_MAX, BYTES_MAX)
        self._limiter = limiter
        self._on_end = on_end
        self._task = asyncio.get_running_loop().create_task(self._serve(), name="line queue")
        self._task.add_done_callback(self._note_end)

    def _note_end(self, task: asyncio.Task[None]) -> None:
        """Hear of a defect of ours too: those who come now need another queue."""
        self._on_end(self)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.critical("a line's queue stopped", exc_info=error)

    async def _serve(self) -> None:
        """Ask for whoever's turn it is, until nobody waits."""
        held_up: set[int] = set()
        served = 0
        await asyncio.sleep(0)  # the first ticket is put in behind us
        while (ticket := self.waiting.first()) is not None:
            assert isinstance(ticket, QueuedCall)
            decision = await self._ask(ticket)
            if decision is None:
                continue  # it left meanwhile
            if isinstance(decision, Grant) or decision.why is not Why.EMPTY:
                self.waiting.take(ticket)
                held_up.clear()
                served += 1
                if not ticket.tell(decision) and isinstance(decision, Grant):
                    self.give_back(decision)
                if not served % TURN_CALLS:
                    await asyncio.sleep(0)
                continue
            ticket.denied = decision
            wait_ms = min(max(decision.wait_ms, POLL_MS_MIN), POLL_MS_MAX)
            if decision.limit is None or decision.limit.scope is Scope.LINE:
                await asyncio.sleep(wait_ms / 1_000)  # nobody of the line can go now
                continue
            held_up.add(ticket.account_id)
            self.waiting.skip()
            if len(held_up) >= self.waiting.accounts:
                held_up.clear()
                await asyncio.sleep(wait_ms / 1_000)
        self._on_end(self)

    async def _ask(self, ticket: QueuedCall) -> Grant | Denied | None:
        decision = self._limiter.admit(ticket.limit_set, ticket.costs)
        if decision is not None:
            return decision
        decision = await self._limiter.wait(ticket.limit_set, ticket.costs)
        if ticket.waits:
            return decision
        if isinstance(decision, Grant):
            self.give_back(decision)
        return None

    def give_back(self, grant: Grant) -> None:
        """Put back what was granted to a call that has gone."""
        self._limiter.settle(grant, [0] * len(grant.costs))
        self._limiter.release(grant)


class LineQueues:
    """The queues of one worker, by line; a line that nobody waits for has none."""

    def __init__(self, limiter: Limiter, speak_s: float) -> None:
        self._limiter = limiter
        self._speak_s = speak_s
        self._queues: dict[int, LineQueue] = {}

    def waiting(self) -> int:
        """Return how many calls wait."""
        return sum(len(queue.waiting) for queue in self._queues.values())

    def is_busy(self, line: Line) -> bool:
        """Tell whether calls of a line wait: who comes now is behind them."""
        return line.id in self._queues

    async def pass_through(
        self, line: Line, ticket: QueuedCall, speak: Callable[[], None]
    ) -> Grant | Denied:
        """Return the decision on a call, as soon as it is its turn and there is room.

        Args:
            line: Whose queue it is.
            ticket: The call.
            speak: Called every so often while it waits.

        Raises:
            asyncio.CancelledError: Its client has gone; nothing is taken.
        """
        if line.id not in self._queues:
            decision = await self._limiter.wait(ticket.limit_set, ticket.costs)
            if isinstance(decision, Grant) or not may_wait(line, decision):
                return decision
            ticket.denied = decision
        queue = self._queues.get(line.id)
        refused = self._refused(queue, ticket)
        if refused.wait_ms > line.wait_ms:
            return refused
        if queue is None:
            queue = self._queues[line.id] = LineQueue(
                self._limiter, lambda ended: self._forget(line.id, ended)
            )
        gone = queue.waiting.push(ticket)
        if gone is None:
            return refused
        for other in gone:
            assert isinstance(other, QueuedCall)
            other.tell(self._refused(queue, other))
        ticket.queued = True
        try:
            return await self._wait(line, queue, ticket, speak)
        finally:
            queue.waiting.drop(ticket)

    async def _wait(
        self, line: Line, queue: LineQueue, ticket: QueuedCall, speak: Callable[[], None]
    ) -> Grant | Denied:
        answer, ends_s = ticket.answer, clock_s() + line.wait_ms / 1_000
        try:
            while not answer.done() and (left_s := ends_s - clock_s()) > 0:
                await asyncio.wait([answer], timeout=min(left_s, self._speak_s))
                if not answer.done() and clock_s() < ends_s:
                    speak()
        except asyncio.CancelledError:
            if answer.done() and isinstance(grant := answer.result(), Grant):
                queue.give_back(grant)
            answer.cancel()
            raise
        if answer.done():
            return answer.result()
        answer.cancel()
        return self._refused(queue, ticket)

    def _forget(self, line_id: int, queue: LineQueue) -> None:
        if self._queues.get(line_id) is queue:
            del self._queues[line_id]

    def _refused(self, queue: LineQueue | None, ticket: QueuedCall) -> Denied:
        """Return what a call is told that does not wait, or no more: when its turn would be."""
        bucket = _line_bucket(ticket.limit_set)
        ahead_ms = 0
        if bucket is not None and queue is not None:
            cost = 0 if ticket.waits else ticket.cost
            ahead = queue.waiting.ahead(ticket.account_id, cost)
            ahead_ms = ahead * MINUTE_MS // bucket.rule.per_minute
        wait_ms = max(ticket.denied.wait_ms + ahead_ms, POLL_MS_MIN)
        return Denied(Why.EMPTY, wait_ms, ticket.denied.limit or bucket)


def may_wait(line: Line, denied: Denied) -> bool:
    """Tell whether a call that was denied so may wait for better."""
    return denied.why is Why.EMPTY and denied.wait_ms <= line.wait_ms


def _line_bucket(limit_set: LimitSet) -> Bucket | None:
    """Return the line's own bucket of tokens, by whose rate a queue moves."""
    for bucket in limit_set.buckets:
        if bucket.scope is Scope.LINE and bucket.measure is Measure.TOKENS:
            return bucket
    return None
