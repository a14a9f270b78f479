"""What the flow asks for a call: may it run now, and what did it use.

    decision = limiter.admit(draws, rooms)       # no await: local in the common case
    if isinstance(decision, Waiting):
        decision = await limiter.wait(decision)  # at most WAIT_S; safe to cancel
    if isinstance(decision, Denied):
        ...                                      # 429, 400 or 503 by decision.why
    try:
        ...                                      # decision is a Grant: run the call
        limiter.settle(decision, (input, cached, output))   # as often as usage is learned
    finally:
        limiter.release(decision)                # frees the seats; no await, so never lost

A call that failed before any upstream took it settles (0, 0, 0): its tokens come back, and its
request still counts.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final, Self

from relay.limits.broker import Broker, Draws
from relay.limits.bucket import MINUTE_MS
from relay.limits.decision import ADMITTED, CROWDED_MS, Admitted, Denied, Ticket, Why
from relay.limits.headers import Standing
from relay.limits.scopes import Bucket, Measure, Room
from relay.limits.slots import Seats, SeatTicket
from relay.store.bank import Bank
from relay.store.nodes import Nodes

SWEEP_S: Final = 0.25
WAIT_S: Final = 0.25
"""No call waits longer for the bank: a flight is bound by 50 ms, and a full queue is a few."""

_log = logging.getLogger(__name__)


class Grant:
    """What a running call has taken; to be settled and released by the one who was given it."""

    __slots__ = ("draws", "rooms", "seated")

    def __init__(self, draws: Draws, rooms: Sequence[Room]) -> None:
        self.draws = draws
        self.rooms = rooms
        self.seated = False


class Waiting:
    """A call that nobody could decide without asking."""

    __slots__ = ("grant", "ticket")

    def __init__(self, grant: Grant, ticket: Ticket | SeatTicket) -> None:
        self.grant = grant
        self.ticket = ticket


class Limiter:
    """The limits of one worker. An async context manager: it flies and sweeps while it is open.

    Args:
        nodes: Where the limits live. On one Redis a call's buckets are checked together.
        worker: Name of this worker, unlike any other's, over all hosts.
        now_ms: A monotonic clock.
    """

    def __init__(self, nodes: Nodes, worker: str, now_ms: Callable[[], float]) -> None:
        self._nodes = nodes
        self._now_ms = now_ms
        self._broker = Broker(lambda bucket: nodes.group_of(bucket.tag), self._due)
        self._seats = Seats(lambda room: nodes.group_of(room.tag), self._due)
        self._banks = [
            Bank(locate, worker, self._broker, self._seats, now_ms, tag=nodes.tag_at(place))
            for place, locate in enumerate(nodes.locates)
        ]
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._sweep_forever(), name="limiter-sweep"),
            *(loop.create_task(bank.run(), name="limiter-bank") for bank in self._banks),
        ]
        for task in self._tasks:
            task.add_done_callback(_tell_if_it_failed)
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def fallback_ms(self) -> float:
        """How long this worker has lived on its share, in all."""
        return self._broker.lost_ms(self._now_ms())

    @property
    def flights(self) -> int:
        """Round trips made."""
        return sum(bank.flights for bank in self._banks)

    @property
    def losses(self) -> int:
        """How often a Redis was lost."""
        return sum(bank.losses for bank in self._banks)

    def admit(self, draws: Draws, rooms: Sequence[Room] = ()) -> Grant | Denied | Waiting:
        """Take a seat in each room and the cost of each bucket, all or nothing."""
        grant = Grant(draws, rooms)
        if rooms:
            seated = self._seats.take(rooms, self._now_ms())
            if isinstance(seated, Denied):
                return seated
            if isinstance(seated, SeatTicket):
                return Waiting(grant, seated)
            grant.seated = True
        return self._admit_seated(grant)

    async def wait(self, waiting: Waiting) -> Grant | Denied:
        """Return the decision on a call; if cancelled, it has taken nothing.

        To be awaited at once by the task that asked: a task made for it could be cancelled before
        it began, and nobody would hear the decision.
        """
        grant, ticket = waiting.grant, waiting.ticket
        try:
            if isinstance(ticket, SeatTicket):
                refusal = await self._decided(ticket)
                if refusal is not None:
                    return refusal
                grant.seated = True
                decision = self._admit_seated(grant)
                if not isinstance(decision, Waiting):
                    return decision
                ticket = decision.ticket
            refusal = await self._decided(ticket)
        except asyncio.CancelledError:
            self._give_up(grant, ticket)
            raise
        if refusal is not None:
            self.release(grant)
            return refusal
        return grant

    def settle(self, grant: Grant, tokens: tuple[int, int, int]) -> None:
        """Book what the call has used so far in place of what was booked before.

        Args:
            grant: Of the call.
            tokens: (input, cached part of the input, output), counted or reported.
        """
        settled: list[tuple[Bucket, int]] = []
        changes: list[tuple[Bucket, int]] = []
        for bucket, booked in grant.draws:
            cost = bucket.weights.cost(*tokens) if bucket.measure is Measure.TOKENS else booked
            settled.append((bucket, cost))
            if cost != booked:
                changes.append((bucket, cost - booked))
        grant.draws = settled
        self._broker.settle(changes, self._now_ms())

    def release(self, grant: Grant) -> None:
        """Free the call's seats; a second time does nothing."""
        if grant.seated:
            grant.seated = False
            self._seats.release(grant.rooms)

    def hold_back(self, buckets: Sequence[Bucket], wait_ms: int) -> None:
        """Book what flows in for `wait_ms`: an upstream has said that its own quota is spent."""
        spent = [(b, b.rule.per_minute * wait_ms // MINUTE_MS) for b in buckets]
        self._broker.settle(spent, self._now_ms())

    def standings(self, draws: Draws) -> list[Standing]:
        """Return how full a call's buckets are, for the headers of its answer."""
        return self._broker.standings(draws, self._now_ms())

    def _admit_seated(self, grant: Grant) -> Grant | Denied | Waiting:
        decision = self._broker.try_admit(grant.draws, self._now_ms())
        if decision is ADMITTED:
            return grant
        if isinstance(decision, Ticket):
            return Waiting(grant, decision)
        self.release(grant)
        assert isinstance(decision, Denied)
        return decision

    async def _decided(self, ticket: Ticket | SeatTicket) -> Denied | None:
        """Wait for a ticket's decision; None = admitted. Whoever waits too long is sent away."""
        if ticket.decision is None:
            decided = asyncio.Event()
            ticket.decide = decided.set
            try:
                async with asyncio.timeout(WAIT_S):
                    await decided.wait()
            except TimeoutError:
                self._drop(ticket)
        decision: Admitted | Denied | None = ticket.decision
        if decision is None:
            return Denied(Why.CROWDED, CROWDED_MS)
        return decision if isinstance(decision, Denied) else None

    def _give_up(self, grant: Grant, ticket: Ticket | SeatTicket) -> None:
        """Return what a cancelled call has taken, decided or not."""
        if ticket.decision is ADMITTED:
            if isinstance(ticket, SeatTicket):
                grant.seated = True
            else:
                self._broker.settle([(b, -cost) for b, cost in grant.draws], self._now_ms())
        self._drop(ticket)
        self.release(grant)

    def _drop(self, ticket: Ticket | SeatTicket) -> None:
        if isinstance(ticket, SeatTicket):
            self._seats.drop(ticket)
        else:
            self._broker.drop(ticket)

    def _due(self, group: str) -> None:
        self._banks[self._nodes.place_of(group)].due(group)

    async def _sweep_forever(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            now_ms = self._now_ms()
            self._broker.sweep(now_ms)
            self._seats.sweep(now_ms)


def _tell_if_it_failed(task: asyncio.Task[None]) -> None:
    """Log a defect of ours at once: without its tasks the limiter sends every waiting call away."""
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.critical("limiter stopped", exc_info=error)
