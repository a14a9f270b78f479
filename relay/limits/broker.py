"""Decides calls over many leases, all or nothing, and says what to ask Redis. No IO.

    take --> ADMITTED         everything is leased already: the common case
         --> Denied           a bucket said no a moment ago, or can never hold the call
         --> None --> ask --> Waiter   short: the next batch asks for it
    take batch --> Batch --> (Redis) --> land | lose --> waiters decided

A group of buckets has one batch in the air at a time. With one Redis all are one group; in a
Redis Cluster each hash tag is one, and a call that draws on several is admitted when all have
granted it: what some had granted before another refused goes back into the leases.
"""

from collections.abc import Callable
from typing import Final

from relay.limits.batch import CALLS_MAX, Batch, BatchDraft
from relay.limits.bucket import BucketRefusal, BucketReply
from relay.limits.decision import (
    ADMITTED,
    CROWDED_MS,
    LOST_MS,
    Admitted,
    BucketGroup,
    Denied,
    Waiter,
    Why,
)
from relay.limits.lease import ALONE_SHARE_MIN, Lease, Pairs, count, pair_up, put_back, refund
from relay.limits.leases import Leases
from relay.limits.limit_set import Costs, LimitSet
from relay.limits.scopes import Bucket
from relay.model import OnLoss
from relay.units import PPM

WAITING_MAX: Final = 4_096
"""Calls of a worker that wait for Redis; beyond it the newest is sent away."""


class Broker:
    """All leases of one worker.

    Args:
        group_of: Names the group of a bucket.
        on_due: Called with a group when there is something to ask; may be called often.
    """

    def __init__(self, group_of: Callable[[Bucket], str], on_due: Callable[[str], None]) -> None:
        self._group_of = group_of
        self._on_due = on_due
        self.leases = Leases()
        """For the heartbeat and for operators too; not to be changed by them."""
        self._groups: dict[str, BucketGroup] = {}
        self._waiting = 0
        self._lost_ms = 0.0
        self.shares: dict[str, float] = {}
        """By bucket name: this worker's part of all workers' demand, from the heartbeat."""
        self.share_default = ALONE_SHARE_MIN

    def take(self, limit_set: LimitSet, costs: Costs, now_ms: float) -> Admitted | Denied | None:
        """Take all costs from what is leased already, or none; None = Redis must be asked."""
        leases = limit_set.leases
        if limit_set.epoch != self.leases.epoch:
            leases = self.leases.drawn_on(limit_set, now_ms)
        for place, lease in enumerate(leases):
            cost = costs[place]
            left = lease.balance - cost
            if left < 0:
                put_back(leases, costs, lease)
                return self._deny(pair_up(leases, costs), now_ms)
            lease.balance = left
            lease.spent += cost
            lease.calls += 1
            if left < lease.low and not lease.hungry:
                self._feed(leases)
        return ADMITTED

    def ask(self, limit_set: LimitSet, costs: Costs, now_ms: float) -> Admitted | Denied | Waiter:
        """Take all costs, or none; what the leases lack is asked of Redis."""
        decision = self.take(limit_set, costs, now_ms)
        if decision is not None:
            return decision
        return self._queue(pair_up(self.leases.drawn_on(limit_set, now_ms), costs), now_ms)

    def foresee(self, limit_set: LimitSet, costs: Costs, now_ms: float) -> Denied | None:
        """Return why these costs would be denied without asking; takes and counts nothing."""
        pairs = pair_up(self.leases.drawn_on(limit_set, now_ms), costs)
        return self._worst(pairs, now_ms)[0]

    def settle(self, limit_set: LimitSet, booked: Costs, costs: Costs, now_ms: float) -> None:
        """Book costs in place of what was booked before, without a check.

        No question of its own: it changes the leases, and rides on the next batch.
        """
        leases = limit_set.leases
        if limit_set.epoch != self.leases.epoch:
            leases = self.leases.settled_on(limit_set, now_ms)
        for place, lease in enumerate(leases):
            before, cost = booked[place], costs[place]
            if cost != before:
                lease.balance += before - cost
                if lease.balance < 0:
                    self._group(lease.bucket).owed[lease] = None

    def hold_back(self, limit_set: LimitSet, wait_ms: int, now_ms: float) -> None:
        """Close buckets for a while, for all workers: an upstream's own quota is spent."""
        for lease in self.leases.settled_on(limit_set, now_ms):
            lease.hold(now_ms + wait_ms)
            self._group(lease.bucket).owed[lease] = None
            self._on_due(self._group_of(lease.bucket))

    def drop(self, waiter: Waiter) -> None:
        """Give up a waiter whose call has gone; what it was granted goes into the leases."""
        if waiter.decision is None:
            self._close(waiter, Denied(Why.CROWDED, CROWDED_MS))

    def sweep(self, now_ms: float) -> None:
        """Measure all leases, find what is owed, forget the idle ones. Every 250 ms."""
        for lease in self.leases:
            lease.measure(now_ms)
            if lease.balance < 0 or lease.surplus() > 0:
                self._group(lease.bucket).owed[lease] = None
            elif lease.idle(now_ms):
                self.leases.forget(lease)
        for name, group in self._groups.items():
            if group.owed:
                self._on_due(name)

    def take_batch(self, name: str, now_ms: float, *, probe: bool = False) -> Batch | None:
        """Return what to ask for a group now; None if nothing, or if a batch is in the air.

        Args:
            name: The group.
            now_ms: The worker's clock.
            probe: Ask at least for nothing, to see whether Redis is there.
        """
        group = self._groups.setdefault(name, BucketGroup())
        if group.flying or (group.lost_since_ms is not None and not probe):
            return None
        draft = BatchDraft(now_ms)
        waiters: list[Waiter] = []
        while group.waiting and len(waiters) < CALLS_MAX and not draft.full:
            waiter = group.waiting.popleft()
            if waiter.decision is not None:
                continue
            asked, held = draft.call([p for p in waiter.pairs if self._is_in(p[0], name)])
            waiter.reserved += held
            if asked:
                waiters.append(waiter)
            else:
                self._grant(waiter, name)
        self._add_owed(group, draft)
        batch = draft.finish(name, probe=probe)
        group.flying = batch is not None
        group.aboard = waiters
        return batch

    def land(self, batch: Batch, reply: BucketReply, now_ms: float) -> None:
        """Take in Redis's reply, and decide the waiters of the batch."""
        group = self._groups[batch.group]
        self._regain(batch.group, group, now_ms)
        group.flying = False
        batch.land(reply, now_ms)
        for waiter, call, decision in zip(
            group.aboard, batch.calls, batch.decisions(reply), strict=True
        ):
            if decision is not None:
                self._refuse(waiter, batch, call, decision, now_ms)
                continue
            if waiter.decision is None:
                waiter.reserved += call
                self._grant(waiter, batch.group)
            else:
                refund(call)
        if group.waiting:
            self._on_due(batch.group)

    def lose(self, name: str, batch: Batch | None, now_ms: float) -> None:
        """Take in that Redis cannot be asked: whoever waits is decided from the share.

        What was turned in with the batch stays lost, and what it claimed may have been taken:
        nobody knows, and asking again could take it twice. Debts are kept, and told again.
        """
        group = self._groups.setdefault(name, BucketGroup())
        if group.lost_since_ms is None:
            group.lost_since_ms = now_ms
            for lease in self.leases:
                if self._is_in(lease, name):
                    lease.alone_ms, lease.alone_spent = None, 0
        waiting = [waiter for waiter in group.waiting if waiter.decision is None]
        group.waiting.clear()
        if batch is not None:
            group.flying = False
            waiting = [t for t in group.aboard if t.decision is None] + waiting
            group.owed.update(dict.fromkeys(batch.crash()))
        for waiter in waiting:
            self._decide_alone(waiter, name, now_ms)

    def is_lost(self, name: str) -> bool:
        """Tell whether a group lives on its shares."""
        group = self._groups.get(name)
        return group is not None and group.lost_since_ms is not None

    def lost_ms(self, now_ms: float) -> float:
        """Return how long groups have lived on their shares, in all."""
        since = [g.lost_since_ms for g in self._groups.values() if g.lost_since_ms is not None]
        return self._lost_ms + sum(now_ms - start_ms for start_ms in since)

    def _group(self, bucket: Bucket) -> BucketGroup:
        return self._groups.setdefault(self._group_of(bucket), BucketGroup())

    def _is_in(self, lease: Lease, name: str) -> bool:
        return self._group_of(lease.bucket) == name

    def _feed(self, leases: list[Lease]) -> None:
        """Have a call's leases filled up before anybody has to wait for them: all by one batch."""
        for lease in leases:
            if lease.low > 0 and not lease.hungry:
                lease.hungry = True
                self._group(lease.bucket).hungry.append(lease)
                self._on_due(self._group_of(lease.bucket))

    def _deny(self, pairs: Pairs, now_ms: float) -> Denied | None:
        """Return why a call need not even ask, and count what was refused; None if it may ask."""
        denied, binding = self._worst(pairs, now_ms)
        if binding is not None:
            binding[0].count(binding[1])
        return denied

    def _worst(self, pairs: Pairs, now_ms: float) -> tuple[Denied | None, tuple[Lease, int] | None]:
        denied: Denied | None = None
        binding: tuple[Lease, int] | None = None
        for lease, cost in pairs:
            refusal = self._bar(lease, cost, now_ms)
            if refusal is not None and (denied is None or _rank(refusal) > _rank(denied)):
                denied, binding = refusal, (lease, cost)
        return denied, binding

    def _queue(self, pairs: Pairs, now_ms: float) -> Admitted | Denied | Waiter:
        waiter = Waiter(pairs)
        names = {self._group_of(lease.bucket) for lease, _ in pairs}
        for name in sorted(names):
            if self.is_lost(name):
                self._take_alone(waiter, name, now_ms)
            else:
                waiter.groups.add(name)
        if not waiter.groups:
            count(pairs)
            return ADMITTED
        if self._waiting >= WAITING_MAX:
            refund(waiter.reserved)
            return Denied(Why.CROWDED, CROWDED_MS)
        self._waiting += 1
        for name in sorted(waiter.groups):
            self._groups.setdefault(name, BucketGroup()).waiting.append(waiter)
            self._on_due(name)
        for lease, _ in pairs:
            lease.asked += 1
        return waiter

    def _bar(self, lease: Lease, cost: int, now_ms: float) -> Denied | None:
        """Return why a call need not even ask for a bucket; None where it may."""
        bucket = lease.bucket
        if lease.balance >= cost:
            return None
        if not bucket.rule.fits(cost):
            return Denied(Why.TOO_LARGE, 0, bucket)
        if not self.is_lost(self._group_of(bucket)):
            wait_ms = lease.bars(cost, now_ms)
        elif bucket.on_loss is OnLoss.CLOSED:
            return Denied(Why.LOST, LOST_MS, bucket)
        elif bucket.on_loss is OnLoss.OPEN:
            wait_ms = 0
        else:
            wait_ms = lease.wait_alone_ms(cost, self._share(bucket), now_ms)
        return Denied(Why.EMPTY, wait_ms, bucket) if wait_ms > 0 else None

    def _take_alone(self, waiter: Waiter, name: str, now_ms: float) -> None:
        """Take what a waiter still lacks in a lost group from leases and shares."""
        for lease, cost in self._lacking(waiter, name):
            if lease.balance >= cost:
                lease.balance -= cost
                waiter.reserved.append((lease, cost))
            elif lease.bucket.on_loss is OnLoss.SHARE:
                lease.take_alone(cost, self._share(lease.bucket), now_ms)

    def _decide_alone(self, waiter: Waiter, name: str, now_ms: float) -> None:
        for lease, cost in self._lacking(waiter, name):
            refusal = self._bar(lease, cost, now_ms)
            if refusal is not None:
                lease.count(cost)
                self._close(waiter, refusal)
                return
        self._take_alone(waiter, name, now_ms)
        self._grant(waiter, name)

    def _lacking(self, waiter: Waiter, name: str) -> Pairs:
        held = {lease for lease, _ in waiter.reserved}
        return [p for p in waiter.pairs if p[0] not in held and self._is_in(p[0], name)]

    def _share(self, bucket: Bucket) -> float:
        share = self.shares.get(bucket.name, self.share_default)
        return share * bucket.alone_ppm / PPM

    def _add_owed(self, group: BucketGroup, draft: BatchDraft) -> None:
        while group.owed and not draft.full:
            lease = next(iter(group.owed))
            del group.owed[lease]
            draft.owe(lease)
        while group.hungry and not draft.full:
            draft.feed(group.hungry.pop())

    def _regain(self, name: str, group: BucketGroup, now_ms: float) -> None:
        if group.lost_since_ms is None:
            return
        self._lost_ms += now_ms - group.lost_since_ms
        group.lost_since_ms = None
        for lease in self.leases:
            if self._is_in(lease, name) and lease.come_back(self._share(lease.bucket), now_ms):
                group.owed[lease] = None
        if group.owed:
            self._on_due(name)

    def _grant(self, waiter: Waiter, name: str) -> None:
        waiter.groups.discard(name)
        if not waiter.groups:
            count(waiter.pairs)
            self._close(waiter, ADMITTED)

    def _refuse(
        self,
        waiter: Waiter,
        batch: Batch,
        call: Pairs,
        decision: BucketRefusal,
        now_ms: float,
    ) -> None:
        lease = batch.leases[decision.place]
        cost = dict(call)[lease]
        lease.deny(cost, decision.wait_ms, now_ms)
        lease.count(cost)
        if waiter.decision is None:
            self._close(waiter, Denied(Why.EMPTY, decision.wait_ms, lease.bucket))

    def _close(self, waiter: Waiter, decision: Admitted | Denied) -> None:
        waiter.decision = decision
        self._waiting -= 1
        for lease, _ in waiter.pairs:
            lease.asked -= 1
        if decision is not ADMITTED:
            refund(waiter.reserved)
        if waiter.decide is not None:
            waiter.decide()


def _rank(denied: Denied) -> tuple[bool, bool, int]:
    """Return what makes one denial weightier: those that waiting does not help come first."""
    return denied.why is Why.TOO_LARGE, denied.why is Why.LOST, denied.wait_ms
