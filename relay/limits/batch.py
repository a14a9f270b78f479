"""One question on its way to Redis: what went into it, and what its end means for the leases.

A lease that is short of what a call needs is turned in whole, and the call asks for all of its
cost: then Redis decides exactly, in the order of the claims.
"""

from typing import Final

from relay.limits.bucket import (
    KEYS_MAX,
    MINUTE_MS,
    BucketQuestion,
    BucketRefusal,
    BucketReply,
    BucketRequest,
    CallRequest,
    Rule,
)
from relay.limits.lease import Lease, Pairs
from relay.limits.scopes import PREFIX

CALLS_MAX: Final = 64
"""Calls of one batch: what keeps a script short, so that nobody waits long for another."""
CALL_KEYS_MAX: Final = 16
"""Buckets of one call in one group: five scopes, two measures, and some to spare."""
PROBE_RULE: Final = Rule(60_000, 1_000)


class Batch:
    """A question in the air.

    Args:
        group: Whose it is.
        question: What Redis is asked.
        leases: In the order of the bids; a probe's bid, the last one, has none.
        claims: What each call asks for, in the order of the claims after the forced one.
        turned: What the forced claim tells: debt (> 0) and what is given back (< 0).
        held: Until when an upstream has closed a bucket.
    """

    def __init__(
        self,
        group: str,
        question: BucketQuestion,
        leases: list[Lease],
        calls: list[Pairs],
        turned: dict[Lease, int],
        held: dict[Lease, float],
    ) -> None:
        self.group = group
        self.question = question
        self.leases = leases
        self.calls = calls
        self.turned = turned
        self.held = held

    def decisions(self, reply: BucketReply) -> tuple[BucketRefusal | None, ...]:
        """Return the decisions on the claims of calls."""
        return reply.decisions[len(reply.decisions) - len(self.calls) :]

    def land(self, reply: BucketReply, now_ms: float) -> None:
        """Give each lease what it was granted."""
        for lease, request, share in zip(
            self.leases, self.question.requests, reply.shares, strict=False
        ):
            lease.asked -= 1
            lease.hear(request.want, share.leased, share.used_ms, now_ms)

    def crash(self) -> list[Lease]:
        """Take the debts and holds back, which nobody may have heard of; return whose they are."""
        for lease in self.leases:
            lease.asked -= 1
            lease.hungry = False
        debts = [lease for lease, cost in self.turned.items() if cost > 0]
        for lease in debts:
            lease.balance -= self.turned[lease]
        for lease, until_ms in self.held.items():
            lease.hold_ms = max(lease.hold_ms, until_ms)
        return [*debts, *self.held]


class BatchDraft:
    """A batch that is being filled; the leases change as it is."""

    def __init__(self, now_ms: float) -> None:
        self._now_ms = now_ms
        self._places: dict[Lease, int] = {}
        self._turned: dict[Lease, int] = {}
        self._held: dict[Lease, float] = {}
        self._wants: dict[Lease, int] = {}
        self._exact: set[Lease] = set()
        self._calls: list[Pairs] = []

    @property
    def full(self) -> bool:
        """Whether one more call might not fit."""
        return len(self._places) > KEYS_MAX - CALL_KEYS_MAX - 1

    def call(self, pairs: Pairs) -> tuple[Pairs, Pairs]:
        """Add a call; return what it asks Redis for, and what the leases gave it."""
        asked: Pairs = []
        held: Pairs = []
        for lease, cost in pairs:
            if lease in self._exact or lease.balance < cost:
                self._turn_in(lease, lease.balance)
                self._exact.add(lease)
                self.feed(lease)
                asked.append((lease, cost))
            else:
                lease.balance -= cost
                held.append((lease, cost))
        if asked:
            self._calls.append(asked)
        return asked, held

    def owe(self, lease: Lease) -> None:
        """Tell the debt of a lease, or give back its surplus; tell until when it is closed."""
        if lease.hold_ms > self._now_ms:
            self._place(lease)
            self._held[lease] = lease.hold_ms
        lease.hold_ms = 0.0
        self._turn_in(lease, min(lease.balance, lease.surplus()))

    def feed(self, lease: Lease) -> None:
        """Ask for a lease, unless the bucket needs rest."""
        lease.measure(self._now_ms)
        lease.hungry = False
        wanted = lease.want() if self._now_ms >= lease.rest_until_ms else 0
        if wanted > 0:
            self._place(lease)
            lease.hungry = True
            self._wants[lease] = wanted

    def finish(self, group: str, *, probe: bool) -> Batch | None:
        """Return the batch; None where there is nothing to ask."""
        forced = [(self._place(lease), cost) for lease, cost in self._turned.items() if cost]
        calls = [
            CallRequest(tuple((self._place(lease), cost) for lease, cost in pairs))
            for pairs in self._calls
        ]
        requests = [
            BucketRequest(i.bucket.key, i.bucket.rule, self._wants.get(i, 0)) for i in self._places
        ]
        if probe:
            # A claim that writes: a replica or a full server reads as well as ever.
            forced.append((len(requests), 1))
            stem = f"{PREFIX}{group}:" if group else PREFIX
            requests.append(BucketRequest(f"{stem}probe", PROBE_RULE))
        if not requests:
            return None
        if forced:
            calls.insert(0, CallRequest(tuple(forced), force=True))
        if self._held:
            held = [(self._place(i), self._flow(i, until)) for i, until in self._held.items()]
            calls.insert(0, CallRequest(tuple(held), hold=True))
        for lease in self._places:
            lease.asked += 1
        question = BucketQuestion(tuple(requests), tuple(calls))
        return Batch(group, question, list(self._places), self._calls, self._turned, self._held)

    def _flow(self, lease: Lease, until_ms: float) -> int:
        """Return what flows into a bucket until then."""
        return int((until_ms - self._now_ms) * lease.bucket.rule.per_minute / MINUTE_MS)

    def _place(self, lease: Lease) -> int:
        return self._places.setdefault(lease, len(self._places))

    def _turn_in(self, lease: Lease, amount: int) -> None:
        if amount:
            lease.balance -= amount
            self._place(lease)
            self._turned[lease] = self._turned.get(lease, 0) - amount
