"""What the flow asks for a call: may it run now, and what did it use.

decision = limiter.admit(scheme, costs)            # no await: local in the common case
if decision is None:
    decision = await limiter.wait(scheme, costs)   # at most WAIT_S; safe to cancel
if isinstance(decision, Denied):
    ...                                            # 429, 400 or 503 by decision.why
try:
    ...                                            # decision is a Grant: run the call
    limiter.settle(decision, costs)                # as often as usage is learned
finally:
    limiter.release(decision)                      # frees the seats; no await, so never lost
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final, Self

from relay import ports
from relay.limits.broker import Broker
from relay.limits.decision import ADMITTED, CROWDED_MS, Admitted, Denied, Ticket, Why
from relay.limits.headers import Standing
from relay.limits.scheme import Costs, Grant, Scheme
from relay.limits.slots import Seats, SeatTicket
from relay.limits.wish import Wish
from relay.store.bank import Bank
from relay.store.nodes import Nodes

SWEEP_S: Final = 0.25
WAIT_S: Final = 0.25
"""No call waits longer for the bank: a flight is bound by 50 ms, and a full queue is a few."""

_log = logging.getLogger(__name__)


class Limiter(ports.Limiter):
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
        wishes: list[list[list[Wish]]] = [[] for _ in self._banks]
        for group, asked in self._seats.leave().items():
            wishes[self._nodes.place_of(group)].append(asked)
        await asyncio.gather(*map(Bank.leave, self._banks, wishes))

    @property
    def fallback_ms(self) -> float:
        """How long this worker has lived on its share, in all."""
        return self._broker.lost_ms(self._now_ms())

    @property
    def lost(self) -> bool:
        """Whether a Redis cannot be asked now."""
        return any(bank.lost for bank in self._banks)

    @property
    def flights(self) -> int:
        """Round trips made."""
        return sum(bank.flights for bank in self._banks)

    @property
    def losses(self) -> int:
        """How often a Redis was lost."""
        return sum(bank.losses for bank in self._banks)

    def admit(self, scheme: Scheme, costs: Costs) -> Grant | Denied | None:
        """Take a seat in each room and the cost of each bucket, all or nothing.

        Returns:
            None: nothing was taken, the bank must be asked: `wait` does.
        """
        now_ms = self._now_ms()
        rooms = scheme.rooms
        if rooms:
            seated = self._seats.take(rooms, now_ms)
            if seated is not ADMITTED:
                return seated
        decision = self._broker.take(scheme, costs, now_ms)
        if decision is ADMITTED:
            return Grant(scheme, costs, seated=bool(rooms))
        if rooms:
            self._seats.release(rooms)
        return decision

    async def wait(self, scheme: Scheme, costs: Costs) -> Grant | Denied:
        """Take what `admit` could not decide on; if cancelled, it has taken nothing.

        To be awaited at once by the task that asked: a task made for it could be cancelled before
        it began, and nobody would hear the decision.
        """
        grant = Grant(scheme, costs, seated=False)
        if scheme.rooms:
            refusal = await self._heard(grant, self._seats.ask(scheme.rooms, self._now_ms()))
            if refusal is not None:
                return refusal
            grant.seated = True
        refusal = await self._heard(grant, self._broker.ask(scheme, costs, self._now_ms()))
        if refusal is not None:
            self.release(grant)
            return refusal
        return grant

    def foresee(self, scheme: Scheme, costs: Costs) -> Denied | None:
        """Return why a call would be denied now without asking anybody; takes nothing."""
        now_ms = self._now_ms()
        refusal = self._seats.foresee(scheme.rooms, now_ms) if scheme.rooms else None
        return refusal or self._broker.foresee(scheme, costs, now_ms)

    def settle(self, grant: Grant, costs: Costs) -> None:
        """Book what the call has used so far in place of what was booked before."""
        self._broker.settle(grant.scheme, grant.costs, costs, self._now_ms())
        grant.costs = costs

    def release(self, grant: Grant) -> None:
        """Free the call's seats; a second time does nothing."""
        if grant.seated:
            grant.seated = False
            self._seats.release(grant.scheme.rooms)

    def hold_back(self, scheme: Scheme, wait_ms: int) -> None:
        """Empty the buckets for `wait_ms`: an upstream has said that its own quota is spent."""
        self._broker.hold_back(scheme, wait_ms, self._now_ms())

    def standings(self, scheme: Scheme) -> list[Standing]:
        """Return how full a call's buckets are, for the headers of its answer."""
        return self._broker.leases.standings(scheme, self._now_ms())

    async def _heard(
        self, grant: Grant, decision: Admitted | Denied | Ticket | SeatTicket
    ) -> Denied | None:
        """Wait for a decision; None = admitted. Whoever waits too long is sent away."""
        if isinstance(decision, Denied):
            return decision
        if decision is ADMITTED:
            return None
        assert not isinstance(decision, Admitted)
        try:
            return await self._decided(decision)
        except asyncio.CancelledError:
            self._give_up(grant, decision)
            raise

    async def _decided(self, ticket: Ticket | SeatTicket) -> Denied | None:
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
                self.settle(grant, [0] * len(grant.costs))
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
