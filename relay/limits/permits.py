"""Calls in flight: permits that workers lease in blocks, and count on their own.

A block expires 15 s after it was last renewed, so a killed worker frees its permits
by itself. Permits in use are never taken away; spare ones come only from an eighth of what is free,
so that a limit that is nearly reached is counted exactly. Taking and releasing a permit is local
and synchronous: no cancellation can lose one.

While Redis is lost a worker has its equal part of a limit, or its block where that is larger.

A permit that is free somewhere serves the next call. Where a limit is near, a block goes back as
soon as a call ends; where it was not, spare permits go back within LOOSE_MS_MAX. A call that finds
nothing left while other workers hold permits asks again until then, and is refused after that.

Source: docs/limits.md, "Permits".
"""

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from relay.limits.decision import ADMITTED, Admitted, Denied, PermitRequest, Why
from relay.limits.scopes import ConcurrencyLimit, Scope
from relay.model import OnLoss

TTL_MS: Final = 15_000
RENEW_MS: Final = 5_000
SPARE_MIN: Final = 2
SPARE_PARTS: Final = 10
FREE_PARTS: Final = 8
SETTLE_MS: Final = 100
"""A block with permits to spare is asked for this often: where the limit is near, it loses them."""
SWEEP_MS: Final = 125
LOOSE_MS_MAX: Final = SETTLE_MS + SWEEP_MS
RETRY_MS: Final = 15
PATIENCE_MS: Final = LOOSE_MS_MAX + 2 * RETRY_MS
"""How long a call waits for a permit that another worker may hold for nobody."""
CHANNEL_PATIENCE_MS: Final = 50
"""For a channel's permits: another channel may serve the call meanwhile."""
PATIENT_MAX: Final = 64
"""Calls of a worker that wait so for one limit; the others are refused at once."""
DENY_MS: Final = 50
"""How long a full concurrency limit is not asked again."""
WAIT_MS: Final = 1_000
"""What a client is told: nobody knows when the next call ends."""
LIMITS_MAX: Final = 200


def grant_permits(permits: int, others: int, used: int, need: int, spare: int) -> int:
    """Return how large a worker's block may be; the reference for store/lua/slots.lua.

    Args:
        permits: What the concurrency limit has.
        others: What the other workers' blocks hold.
        used: Permits that calls of this worker hold: kept even where there are too many.
        need: Calls of this worker that wait for one.
        spare: What it would like beside.
    """
    free = permits - others
    leased = max(used, min(used + need, free))
    return leased + max(0, min(spare, (free - leased) // FREE_PARTS))


class LeasedPermits:
    """The permits of one concurrency limit that this worker holds."""

    __slots__ = (
        "asked_ms",
        "concurrency",
        "denied_until_ms",
        "granted",
        "tight",
        "used",
        "waiting",
        "wanted",
    )

    def __init__(self, concurrency: ConcurrencyLimit) -> None:
        self.concurrency = concurrency
        self.used = 0
        self.granted = 0
        self.waiting = 0
        self.wanted = 0
        """What was asked for last."""
        self.tight = False
        """Less than that was granted: the limit is near, and others may need what is not used."""
        self.asked_ms = -math.inf
        self.denied_until_ms = -math.inf

    @property
    def spare(self) -> int:
        """How many permits to hold beside those in use."""
        return max(SPARE_MIN, self.used // SPARE_PARTS) if self.used + self.waiting > 0 else 0

    @property
    def shared(self) -> bool:
        """Whether other workers hold permits of it, as far as this one was told."""
        return self.granted < self.concurrency.permits

    def due(self, now_ms: float) -> bool:
        """Tell whether the block must be asked for, renewed or made smaller."""
        if self.waiting > 0:
            return True
        if self.granted == 0:
            return False
        age_ms = now_ms - self.asked_ms
        loose = self.granted > self.used
        return age_ms >= RENEW_MS or (loose and (self.tight or age_ms >= SETTLE_MS))


class PermitWaiter:
    """A call that waits for a permit in each of its concurrency limits; `decide` is called once."""

    __slots__ = ("asked", "began_ms", "decide", "decision", "leases")

    def __init__(self, leases: list[LeasedPermits], began_ms: float) -> None:
        self.leases = leases
        self.began_ms = began_ms
        self.asked: set[str] = set()
        """Groups that were asked with this call's need in the question."""
        self.decision: Admitted | Denied | None = None
        self.decide: Callable[[], None] | None = None


class Permits:
    """All blocks of one worker.

    Args:
        group_of: Names the group of a concurrency: what one script call may touch.
        on_due: Called with a group when there is something to ask.
    """

    def __init__(
        self, group_of: Callable[[ConcurrencyLimit], str], on_due: Callable[[str], None]
    ) -> None:
        self._group_of = group_of
        self._on_due = on_due
        self._leases: dict[str, LeasedPermits] = {}
        self._waiting: deque[PermitWaiter] = deque()
        self._aboard: dict[str, list[LeasedPermits]] = {}
        self._lost: set[str] = set()
        self.retry_ms = math.inf
        """When to `wake` those who wait for what other workers hold."""
        self.share = 0.0
        """This worker's part of all workers, once the heartbeat has told; at least one permit."""

    def take(
        self, concurrencies: Sequence[ConcurrencyLimit], now_ms: float
    ) -> Admitted | Denied | None:
        """Take a permit of every limit, or of none; None = Redis has to be asked."""
        leases = [self._open(concurrency) for concurrency in concurrencies]
        for leased in leases:
            if leased.used >= leased.granted and self._short(leased):
                return self._bar(leases, now_ms)
        return self._sit(leases)

    def ask(
        self, concurrencies: Sequence[ConcurrencyLimit], now_ms: float
    ) -> Admitted | Denied | PermitWaiter:
        """Take a permit of every limit, or of none; what this worker lacks is asked of Redis."""
        decision = self.take(concurrencies, now_ms)
        if decision is not None:
            return decision
        waiter = PermitWaiter([self._open(limit) for limit in concurrencies], now_ms)
        for leased in waiter.leases:
            leased.waiting += 1
        self._waiting.append(waiter)
        for leased in waiter.leases:
            if leased.used >= leased.granted:
                self._on_due(self._group_of(leased.concurrency))
        return waiter

    def foresee(self, concurrencies: Sequence[ConcurrencyLimit], now_ms: float) -> Denied | None:
        """Return why a permit would be denied without asking; takes nothing.

        A limit that was full a moment ago is passed by, also where a call would wait for others:
        whoever looks ahead has other ways to go.
        """
        leases = [self._open(concurrency) for concurrency in concurrencies]
        return self._bar(leases, now_ms, patient=False)

    def leave(self) -> dict[str, list[PermitRequest]]:
        """Return what to ask of each group so that this worker holds no permit any more."""
        found: dict[str, list[PermitRequest]] = {}
        for leased in self._leases.values():
            limit = leased.concurrency
            request = PermitRequest(limit.key, limit.permits, 0, 0, 0, limit.rank)
            found.setdefault(self._group_of(leased.concurrency), []).append(request)
        return found

    def release(self, concurrencies: Sequence[ConcurrencyLimit]) -> None:
        """Give the permits of one call back: once for each that `take` or its waiter admitted."""
        for concurrency in concurrencies:
            leased = self._leases[concurrency.name]
            assert leased.used > 0, f"a seat of {concurrency.key} was released twice"
            leased.used -= 1
            if leased.tight:
                self._on_due(self._group_of(concurrency))

    def drop(self, waiter: PermitWaiter) -> None:
        """Give up a waiter whose call has gone."""
        if waiter.decision is None:
            self._close(waiter, Denied(Why.EMPTY, WAIT_MS, _shortest(waiter).concurrency))

    def wake(self, now_ms: float) -> None:
        """Have Redis asked again for those who wait for what other workers hold."""
        if now_ms < self.retry_ms:
            return
        self.retry_ms = math.inf
        for waiter in self._waiting:
            for leased in waiter.leases:
                if leased.used >= leased.granted:
                    self._on_due(self._group_of(leased.concurrency))

    def __len__(self) -> int:
        return len(self._leases)

    def sweep(self, now_ms: float) -> None:
        """Find what must be renewed or given back; forget what is empty. Every SWEEP_MS."""
        for key, leased in list(self._leases.items()):
            if leased.due(now_ms):
                self._on_due(self._group_of(leased.concurrency))
            elif leased.used == leased.granted == leased.waiting == 0:
                del self._leases[key]

    def take_permit_requests(self, name: str, now_ms: float) -> list[PermitRequest]:
        """Return what to ask for a group now; empty if nothing, or if it was asked already."""
        if name in self._aboard:
            return []
        due = [
            leased
            for leased in self._leases.values()
            if self._group_of(leased.concurrency) == name and leased.due(now_ms)
        ][:LIMITS_MAX]
        if due:
            self._aboard[name] = due
            for waiter in self._waiting:
                waiter.asked.add(name)
        for leased in due:
            leased.asked_ms = now_ms
            # Redis may shrink the block: until it has answered, nobody takes a spare permit.
            leased.granted = min(leased.granted, leased.used)
            leased.wanted = leased.used + leased.waiting + leased.spare
        return [
            PermitRequest(
                leased.concurrency.key,
                leased.concurrency.permits,
                leased.used,
                leased.waiting,
                leased.spare,
                leased.concurrency.rank,
            )
            for leased in due
        ]

    def land(self, name: str, granted: Sequence[int], now_ms: float) -> None:
        """Take in how large the blocks are now, in the order of the requests."""
        self._lost.discard(name)
        asked = self._aboard.pop(name, [])
        for leased, size in zip(asked, granted, strict=True):
            leased.granted = size
            leased.tight = size < leased.wanted
            if size > leased.used:
                leased.denied_until_ms = -math.inf
        self._decide(name, now_ms)

    def lose(self, name: str, now_ms: float) -> None:
        """Take in that Redis cannot be asked: blocks stay, and none is smaller than a share."""
        self._lost.add(name)
        self._aboard.pop(name, None)
        self._decide(name, now_ms)

    def regain(self, name: str) -> None:
        """Take in that Redis answers again."""
        self._lost.discard(name)

    def _open(self, concurrency: ConcurrencyLimit) -> LeasedPermits:
        leased = self._leases.get(concurrency.name)
        if leased is None:
            leased = self._leases[concurrency.name] = LeasedPermits(concurrency)
        leased.concurrency = concurrency
        return leased

    def _bar(
        self, leases: list[LeasedPermits], now_ms: float, *, patient: bool = True
    ) -> Denied | None:
        for leased in leases:
            if not self._short(leased):
                continue
            lost = self._group_of(leased.concurrency) in self._lost
            crowded = not patient or leased.waiting >= PATIENT_MAX or not leased.shared
            if lost or (crowded and now_ms < leased.denied_until_ms):
                return Denied(Why.EMPTY, WAIT_MS, leased.concurrency)
        return None

    def _short(self, leased: LeasedPermits) -> bool:
        """Tell whether this worker has no permit left of a limit, as far as it may decide that."""
        if leased.used < leased.granted:
            return False
        limit = leased.concurrency
        if not self._lost or self._group_of(limit) not in self._lost:
            return True
        if limit.on_loss is OnLoss.SHARE:
            return leased.used >= max(1, int(limit.permits * self.share))
        return limit.on_loss is OnLoss.CLOSED

    def _sit(self, leases: list[LeasedPermits]) -> Admitted:
        for leased in leases:
            leased.used += 1
        return ADMITTED

    def _decide(self, name: str, now_ms: float) -> None:
        """Admit who can be, in order; refuse whose limit was asked about and is full."""
        waiting, self._waiting = self._waiting, deque()
        for waiter in waiting:
            if waiter.decision is not None:
                continue
            short = [leased for leased in waiter.leases if self._short(leased)]
            full = [leased for leased in short if self._group_of(leased.concurrency) == name]
            if not short:
                self._sit(waiter.leases)
                self._close(waiter, ADMITTED)
            elif full and (name in waiter.asked or name in self._lost):
                full[0].denied_until_ms = now_ms + DENY_MS
                if name not in self._lost and _is_patient(waiter, full, now_ms):
                    self._waiting.append(waiter)
                    self.retry_ms = min(self.retry_ms, now_ms + RETRY_MS)
                else:
                    self._close(waiter, Denied(Why.EMPTY, WAIT_MS, full[0].concurrency))
            else:
                self._waiting.append(waiter)
                self._on_due(self._group_of(short[0].concurrency))

    def _close(self, waiter: PermitWaiter, decision: Admitted | Denied) -> None:
        waiter.decision = decision
        for leased in waiter.leases:
            leased.waiting -= 1
        if waiter.decide is not None:
            waiter.decide()


def _is_patient(waiter: PermitWaiter, full: list[LeasedPermits], now_ms: float) -> bool:
    """Tell whether a call waits on: others hold what it lacks, perhaps for nobody."""
    age_ms = now_ms - waiter.began_ms
    return all(
        leased.shared
        and leased.waiting <= PATIENT_MAX
        and age_ms
        < (CHANNEL_PATIENCE_MS if leased.concurrency.scope is Scope.CHANNEL else PATIENCE_MS)
        for leased in full
    )


def _shortest(waiter: PermitWaiter) -> LeasedPermits:
    """Return the limit that a call lacks a permit of."""
    return min(waiter.leases, key=lambda leased: leased.granted - leased.used)
