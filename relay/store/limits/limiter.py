"""What the flow asks for a call: may it run now, and what did it use.

decision = limiter.admit(limit set, costs)            # no await: local in the common case
if decision is None:
    decision = await limiter.wait(limit set, costs)   # at most WAIT_S; safe to cancel
if isinstance(decision, Denied):
    ...                                            # 429, 400 or 503 by decision.why
try:
    ...                                            # decision is a Grant: run the call
    limiter.settle(decision, costs)                # as often as usage is learned
finally:
    limiter.release(decision)                      # frees the permits; no await, so never lost
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final, Self

from relay import ports
from relay.limits.broker import Broker
from relay.limits.decision import ADMITTED, CROWDED_MS, Admitted, Denied, PermitRequest, Waiter, Why
from relay.limits.limit_set import Costs, Grant, LimitSet
from relay.limits.permits import SWEEP_MS, Permits, PermitWaiter
from relay.limits.rate_headers import BucketLevel
from relay.store.limits.nodes import Nodes
from relay.store.limits.redis_driver import RedisDriver

WAIT_S: Final = 2.0
"""No call waits longer for Redis. A batch is bound by 50 ms, and a full queue is many batches: a
busy worker needs longer for them, which is no reason to send calls away that may run."""

SHORT_MS: Final = 200
"""While Redis is lost, what a worker's share lacks for so short a time is waited for."""

BROKER_SWEEPS: Final = 2
"""Leases are swept every other time: every 250 ms."""

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
        self._permits = Permits(lambda concurrency: nodes.group_of(concurrency.tag), self._due)
        self._banks = [
            RedisDriver(
                locate, worker, self._broker, self._permits, now_ms, tag=nodes.tag_at(place)
            )
            for place, locate in enumerate(nodes.locates)
        ]
        self._tasks: list[asyncio.Task[None]] = []
        self._asked = asyncio.Event()
        """Somebody has asked Redis: there may be something to sweep."""

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
        requests: list[list[list[PermitRequest]]] = [[] for _ in self._banks]
        for group, asked in self._permits.leave().items():
            requests[self._nodes.place_of(group)].append(asked)
        await asyncio.gather(*map(RedisDriver.leave, self._banks, requests))

    def assume_fleet(self, workers: int) -> None:
        """Take this worker for one of so many, until it has heard of the others."""
        self._broker.share_default = self._permits.share = 1 / max(workers, 1)

    @property
    def fleet(self) -> int:
        """How many workers share the limits, as far as this one has heard."""
        return round(1 / self._permits.share) if self._permits.share else 0

    @property
    def fallback_ms(self) -> float:
        """How long this worker has lived on its share, in all."""
        return self._broker.lost_ms(self._now_ms())

    @property
    def lost(self) -> bool:
        """Whether a Redis cannot be asked now."""
        return any(bank.lost for bank in self._banks)

    @property
    def batches(self) -> int:
        """Round trips made."""
        return sum(bank.batches for bank in self._banks)

    @property
    def losses(self) -> int:
        """How often a Redis was lost."""
        return sum(bank.losses for bank in self._banks)

    def admit(self, limit_set: LimitSet, costs: Costs) -> Grant | Denied | None:
        """Take a permit in each concurrency limit and the cost of each bucket, all or nothing.

        Returns:
            None: nothing was taken, Redis must be asked: `wait` does.
        """
        now_ms = self._now_ms()
        concurrencies = limit_set.concurrencies
        if concurrencies:
            has_permits = self._permits.take(concurrencies, now_ms)
            if has_permits is not ADMITTED:
                return has_permits
        decision = self._broker.take(limit_set, costs, now_ms)
        if decision is ADMITTED:
            return Grant(limit_set, costs, has_permits=bool(concurrencies))
        if concurrencies:
            self._permits.release(concurrencies)
        return None if self._passes_soon(decision) else decision

    async def wait(self, limit_set: LimitSet, costs: Costs) -> Grant | Denied:
        """Take what `admit` could not decide on; if cancelled, it has taken nothing.

        To be awaited at once by the task that asked: a task made for it could be cancelled before
        it began, and nobody would hear the decision.
        """
        self._asked.set()
        grant = Grant(limit_set, costs, has_permits=False)
        if limit_set.concurrencies:
            refusal = await self._heard(
                grant, self._permits.ask(limit_set.concurrencies, self._now_ms())
            )
            if refusal is not None:
                return refusal
            grant.has_permits = True
        until_ms = self._now_ms() + SHORT_MS
        while True:
            refusal = await self._heard(grant, self._broker.ask(limit_set, costs, self._now_ms()))
            if refusal is None:
                return grant
            if not self._passes_soon(refusal, until_ms - self._now_ms()):
                self.release(grant)
                return refusal
            await self._rest(grant, refusal.wait_ms)

    def foresee(self, limit_set: LimitSet, costs: Costs) -> Denied | None:
        """Return why a call would be denied now without asking anybody; takes nothing."""
        now_ms = self._now_ms()
        refusal = (
            self._permits.foresee(limit_set.concurrencies, now_ms)
            if limit_set.concurrencies
            else None
        )
        return refusal or self._broker.foresee(limit_set, costs, now_ms)

    def settle(self, grant: Grant, costs: Costs) -> None:
        """Book what the call has used so far in place of what was booked before."""
        self._broker.settle(grant.limit_set, grant.costs, costs, self._now_ms())
        grant.costs = costs

    def release(self, grant: Grant) -> None:
        """Free the call's permits; a second time does nothing."""
        if grant.has_permits:
            grant.has_permits = False
            self._permits.release(grant.limit_set.concurrencies)

    def hold_back(self, limit_set: LimitSet, wait_ms: int) -> None:
        """Empty the buckets for `wait_ms`: an upstream has said that its own quota is spent."""
        self._broker.hold_back(limit_set, wait_ms, self._now_ms())

    def standings(self, limit_set: LimitSet) -> list[BucketLevel]:
        """Return how full a call's buckets are, for the headers of its answer."""
        return self._broker.leases.standings(limit_set, self._now_ms())

    def _passes_soon(self, decision: Denied | None, within_ms: float = SHORT_MS) -> bool:
        """Tell whether a call lacks what its worker's share will have in a moment.

        A share is empty when Redis is lost, for others may have spent the burst: whoever comes just
        then is not to be refused for some milliseconds.
        """
        return (
            decision is not None
            and decision.why is Why.EMPTY
            and 0 < decision.wait_ms <= within_ms
            and self.lost
        )

    async def _rest(self, grant: Grant, wait_ms: int) -> None:
        try:
            await asyncio.sleep(wait_ms / 1_000)
        except asyncio.CancelledError:
            self.release(grant)
            raise

    async def _heard(
        self, grant: Grant, decision: Admitted | Denied | Waiter | PermitWaiter
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

    async def _decided(self, waiter: Waiter | PermitWaiter) -> Denied | None:
        if waiter.decision is None:
            decided = asyncio.Event()
            waiter.decide = decided.set
            try:
                async with asyncio.timeout(WAIT_S):
                    await decided.wait()
            except TimeoutError:
                self._drop(waiter)
        decision: Admitted | Denied | None = waiter.decision
        if decision is None:
            return Denied(Why.CROWDED, CROWDED_MS)
        return decision if isinstance(decision, Denied) else None

    def _give_up(self, grant: Grant, waiter: Waiter | PermitWaiter) -> None:
        """Return what a cancelled call has taken, decided or not."""
        if waiter.decision is ADMITTED:
            if isinstance(waiter, PermitWaiter):
                grant.has_permits = True
            else:
                self.settle(grant, [0] * len(grant.costs))
        self._drop(waiter)
        self.release(grant)

    def _drop(self, waiter: Waiter | PermitWaiter) -> None:
        if isinstance(waiter, PermitWaiter):
            self._permits.drop(waiter)
        else:
            self._broker.drop(waiter)

    def _due(self, group: str) -> None:
        self._banks[self._nodes.place_of(group)].due(group)

    async def _sweep_forever(self) -> None:
        while True:
            if not len(self._broker.leases) and not len(self._permits):
                self._asked.clear()  # nothing is leased, and only who asks can change that
                await self._asked.wait()
            for _ in range(BROKER_SWEEPS):
                await asyncio.sleep(SWEEP_MS / 1_000)
                self._permits.sweep(self._now_ms())
            self._broker.sweep(self._now_ms())


def _tell_if_it_failed(task: asyncio.Task[None]) -> None:
    """Log a defect of ours at once: without its tasks the limiter sends every waiting call away."""
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.critical("limiter stopped", exc_info=error)
