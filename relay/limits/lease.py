"""One bucket as one worker sees it: what it has leased, what it needs, what it was told.

A lease is worth T of the worker's own demand, and only for a hot bucket, one that sees at least
four calls in 100 ms; a cold bucket is asked for each call, exactly. T is 100 ms, and 300 ms while
half of the bucket is free: a line below its limit is asked less often. Whatever a worker holds was
debited before, so in any window W all workers together admit at most R*W + burst + what was leased
when it began: LEASED_MS_MAX of their demand, which the sweep sees to.

Source: docs/limits.md, "Leases".
"""

import math
from typing import Final

from relay.limits.bucket import MINUTE_MS, Rule
from relay.limits.scopes import Bucket

LEASE_MS: Final = 100.0
ROOMY_LEASE_MS: Final = 300.0
ROOMY_SHARE: Final = 0.5
"""Leases are the longer ones while no more than this part of the bucket is used."""
LOW_MS: Final = 50.0
"""Below this the next lease is fetched, before anybody has to wait."""
HOT_CALLS: Final = 4.0
TAU_MS: Final = 500.0
"""Time constant of the measured demand."""
MEASURE_MS_MIN: Final = 1.0
DENY_MS_MIN: Final = 20.0
DENY_MS_MAX: Final = 100.0
"""How long a refusal is remembered, and not asked again for."""
REST_MS: Final = 100.0
"""After a lease that was cut short: the bucket is near empty, and asking more often gives smaller
pieces of the same. Meanwhile it refills, so that what everyone gets is what flows in."""
KEEP_LEASES: Final = 1.5
"""The sweep gives back what is above this many leases and the low-water mark."""
LEASED_MS_MAX: Final = KEEP_LEASES * ROOMY_LEASE_MS + LOW_MS
ALONE_SHARE: Final = 0.95
ALONE_SHARE_MIN: Final = 0.01
ALONE_BURST_MS: Final = 1_000


class Lease:
    """The state of one bucket in one worker. Tokens are integers, times ms of one clock."""

    __slots__ = (
        "alone_ms",
        "alone_spent",
        "asked",
        "balance",
        "bucket",
        "calls",
        "calls_per_ms",
        "denied_gate",
        "denied_until_ms",
        "heard_ms",
        "hold_ms",
        "hungry",
        "lease_ms",
        "low",
        "measured_ms",
        "per_ms",
        "rest_until_ms",
        "spent",
        "used_ms",
        "wait_until_ms",
    )

    def __init__(self, bucket: Bucket, now_ms: float) -> None:
        self.bucket = bucket
        self.balance = 0
        """What may be spent without asking; below 0 it is usage that Redis has not heard of."""
        self.low = 0.0
        self.lease_ms = LEASE_MS
        self.hungry = False
        self.asked = 0
        """Questions on their way, and waiters that wait, which name this lease."""
        self.spent = 0
        self.calls = 0
        self.per_ms = 0.0
        self.calls_per_ms = 0.0
        self.measured_ms = now_ms
        self.rest_until_ms = -math.inf
        self.denied_until_ms = -math.inf
        self.denied_gate = 0
        self.wait_until_ms = -math.inf
        self.used_ms = 0.0
        self.heard_ms = now_ms
        self.alone_ms: float | None = None
        self.alone_spent = 0
        """What the worker's share gave since Redis was lost."""
        self.hold_ms = 0.0
        """Until when an upstream has closed the bucket, where Redis has to be told; else 0."""

    def hold(self, until_ms: float) -> None:
        """Take in that an upstream's own quota is spent until then; Redis is not asked before.

        What is leased of it is worth nothing.
        """
        self.balance = min(self.balance, 0)
        self.rest_until_ms = self.hold_ms = until_ms

    def count(self, cost: int) -> None:
        """Note demand: what was admitted, and what this very bucket refused."""
        self.spent += cost
        self.calls += 1

    def measure(self, now_ms: float) -> None:
        """Bring the measured demand and the low-water mark up to now."""
        past_ms = now_ms - self.measured_ms
        if past_ms < MEASURE_MS_MIN:
            return
        weight = -math.expm1(-past_ms / TAU_MS)
        self.per_ms += (self.spent / past_ms - self.per_ms) * weight
        self.calls_per_ms += (self.calls / past_ms - self.calls_per_ms) * weight
        self.spent = self.calls = 0
        self.measured_ms = now_ms
        hot = self.calls_per_ms * LEASE_MS >= HOT_CALLS
        self.low = self.per_ms * LOW_MS if hot else 0.0

    def want(self) -> int:
        """Return what to lease beside what calls need; 0 while the bucket is cold.

        It fills the balance up to one lease above the low-water mark. So the buckets of a call,
        filled up together, run low together, and are asked about in one batch again.
        """
        if self.low <= 0:
            return 0
        return max(0, int(self.per_ms * (self.lease_ms + LOW_MS)) - max(0, self.balance))

    def surplus(self) -> int:
        """Return what the worker holds beyond its keep."""
        keep_ms = KEEP_LEASES * self.lease_ms + LOW_MS
        return max(0, self.balance - int(keep_ms * self.per_ms))

    def bars(self, cost: int, now_ms: float) -> int:
        """Return 0 if Redis may be asked for this cost, else the ms after which a call may pass.

        A small call is not barred by the refusal of a larger one.
        """
        until_ms = -math.inf
        rule, gate = self.bucket.rule, self.bucket.rule.gate(cost)
        # A bucket at rest is leased no more of; what is known to be in it still serves calls.
        if self.hold_ms > 0 or rule.remaining(self.standing_ms(now_ms)) < gate:
            until_ms = self.rest_until_ms
        if now_ms < self.denied_until_ms and gate >= self.denied_gate:
            until_ms = max(until_ms, self.wait_until_ms)
        return math.ceil(until_ms - now_ms) if until_ms > now_ms else 0

    def deny(self, cost: int, wait_ms: int, now_ms: float) -> None:
        """Take in that Redis refused a call of this cost for `wait_ms`."""
        self.denied_gate = self.bucket.rule.gate(cost)
        self.wait_until_ms = now_ms + wait_ms
        self.denied_until_ms = now_ms + min(max(wait_ms, DENY_MS_MIN), DENY_MS_MAX)

    def hear(self, wanted: int, leased: int, used_ms: int, now_ms: float) -> None:
        """Take in what Redis said about this bucket."""
        self.balance += leased
        self.hungry = False
        self.used_ms = float(used_ms)
        self.heard_ms = now_ms
        roomy = used_ms <= self.bucket.rule.open_ms * ROOMY_SHARE
        self.lease_ms = ROOMY_LEASE_MS if roomy else LEASE_MS
        if leased < wanted:
            self.rest_until_ms = now_ms + REST_MS

    def standing_ms(self, now_ms: float) -> float:
        """Return how much of the bucket is used by now, if nobody else has spent since."""
        return max(0.0, self.used_ms - (now_ms - self.heard_ms))

    def idle(self, now_ms: float) -> bool:
        """Tell whether it can be forgotten: nothing held, owed, asked, remembered or in demand."""
        return (
            self.balance == 0
            and self.asked == 0
            and not self.hungry
            and self.spent == 0
            and self.per_ms < self.bucket.rule.per_minute / MINUTE_MS / 1_000
            and now_ms >= self.heard_ms + ALONE_BURST_MS
            and now_ms >= max(self.denied_until_ms, self.rest_until_ms)
        )

    def wait_alone_ms(self, cost: int, share: float, now_ms: float) -> int:
        """Return 0 if the worker's own share of the limit has room for the call, else the wait.

        The share starts empty: others may have spent the burst already.
        """
        if self.alone_ms is None:
            self.alone_ms = now_ms + ALONE_BURST_MS
        rule = _alone_rule(self.bucket.rule, share)
        gate = min(cost, rule.capacity)
        over_ms = max(self.alone_ms, now_ms) + gate * MINUTE_MS / rule.per_minute
        return max(0, math.ceil(over_ms - now_ms - ALONE_BURST_MS))

    def take_alone(self, cost: int, share: float, now_ms: float) -> None:
        """Debit a call to the worker's own share; what it lacks is debt of the share."""
        assert self.alone_ms is not None
        rule = _alone_rule(self.bucket.rule, share)
        self.alone_ms = max(self.alone_ms, now_ms) + cost * MINUTE_MS / rule.per_minute
        self.alone_spent += cost

    def come_back(self, share: float, now_ms: float) -> bool:
        """Owe what was spent on the share, as far as the bucket has filled up for it meanwhile.

        All workers are taken to have spent as this one did, so that each owes its part. Without it
        the bucket would give out what flowed in while it could not be asked a second time. What it
        could not hold is owed by nobody. Returns whether there is a debt.
        """
        spent = self.alone_spent
        self.alone_spent = 0
        if spent == 0:
            return False
        rule, part = self.bucket.rule, max(share, ALONE_SHARE_MIN)
        before_ms = self.used_ms - (now_ms - self.heard_ms)
        after_ms = before_ms + spent * MINUTE_MS / rule.per_minute / part
        owed_ms = min(after_ms, float(rule.burst_ms)) - max(before_ms, 0.0)
        self.balance -= max(0, int(owed_ms * part * rule.per_minute / MINUTE_MS))
        return self.balance < 0


Pairs = list[tuple[Lease, int]]


def pair_up(leases: list[Lease], costs: list[int]) -> Pairs:
    """Return each lease with what it is to give."""
    return list(zip(leases, costs, strict=True))


def put_back(leases: list[Lease], costs: list[int], short: Lease) -> None:
    """Return what a call had taken from the leases before the one that is short."""
    for lease, cost in zip(leases, costs, strict=True):
        if lease is short:
            return
        lease.balance += cost
        lease.spent -= cost
        lease.calls -= 1


def count(pairs: Pairs) -> None:
    """Note the demand of a call that is admitted."""
    for lease, cost in pairs:
        lease.count(cost)


def refund(pairs: Pairs) -> None:
    """Give back what a call had taken."""
    for lease, cost in pairs:
        lease.balance += cost


def _alone_rule(rule: Rule, share: float) -> Rule:
    """Return the part of a rule that a worker keeps to on its own."""
    part = max(share * ALONE_SHARE, ALONE_SHARE_MIN)
    return Rule(max(1, int(rule.per_minute * part)), ALONE_BURST_MS)
