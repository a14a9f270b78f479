"""A limiter that is one bucket in memory, whatever is asked for, with a rate of its own."""

import asyncio

from relay.clock import clock_s
from relay.limits.decision import Denied, Why
from relay.limits.limit_set import Costs, Grant, LimitSet
from relay.limits.rate_headers import BucketLevel


class OneBucket:
    """Tokens that flow in at a rate; asking always takes a moment of the loop.

    A relay.ports.Limiter by its methods only: no class of a test can inherit from a compiled one.
    """

    def __init__(self, per_s: float, tokens: float = 0.0, *, foresees: bool = False) -> None:
        self.foresees = foresees
        self.per_s = per_s
        self.tokens = tokens
        self.taken = 0.0
        self.granted: list[int] = []
        """What was granted, in this order."""
        self._at_s = clock_s()

    def admit(self, limit_set: LimitSet, costs: Costs) -> Grant | Denied | None:
        now_s = clock_s()
        flowed = (now_s - self._at_s) * self.per_s
        self.tokens = min(self.tokens + flowed, self.per_s * 0.05 or 1e6)
        self._at_s = now_s
        cost = max(costs, default=0)
        if cost > self.tokens:
            wait_ms = int((cost - self.tokens) / self.per_s * 1_000) + 1 if self.per_s else 50
            return Denied(Why.EMPTY, wait_ms, limit_set.buckets[0])
        self.tokens -= cost
        self.taken += cost
        self.granted.append(cost)
        return Grant(limit_set, costs, has_permits=False)

    async def wait(self, limit_set: LimitSet, costs: Costs) -> Grant | Denied:
        await asyncio.sleep(0)
        decision = self.admit(limit_set, costs)
        assert decision is not None
        return decision

    def foresee(self, limit_set: LimitSet, costs: Costs) -> Denied | None:
        if not self.foresees:
            return None
        decision = self.admit(limit_set, costs)
        if isinstance(decision, Grant):
            self.settle(decision, [0] * len(costs))
            self.granted.pop()
            return None
        return decision

    def settle(self, grant: Grant, costs: Costs) -> None:
        before, now = max(grant.costs, default=0), max(costs, default=0)
        self.tokens += before - now
        self.taken += now - before
        grant.costs = costs

    def release(self, grant: Grant) -> None:
        grant.has_permits = False

    def hold_back(self, limit_set: LimitSet, wait_ms: int) -> None:
        raise AssertionError(wait_ms)

    def standings(self, limit_set: LimitSet) -> list[BucketLevel]:
        return []
