"""The arithmetic of a bucket (GCRA), and the one question that a worker asks about many at once.

A bucket is one number: its TAT, the "theoretical arrival time" at which it is full again, in
milliseconds. Cost c moves it by c * 60,000 / limit; it is empty when TAT is a burst ahead of now.
A bucket that is full has no TAT, so idle ones take no memory.

`Buckets.answer` is the reference for store/lua/admit.lua: the same operations in the same order on
the same doubles, so that both give the same reply to the last bit. Simulations run on it.

    now          TAT                 now + burst
     |-----used----|-------room-----------|        ...up to one minute beyond: debt
                             |---kept-----|        not for bidders who leave so much to others

Source: docs/limits.md, "One number".
"""

import math
from typing import Final

import msgspec

MINUTE_MS: Final = 60_000
DEBT_MS_MAX: Final = 60_000
"""Settled usage may put a bucket this far in debt; what goes beyond is forgiven."""
SET_BACK_MS: Final = DEBT_MS_MAX + 5_000
"""A bucket further in debt was written by a clock that was set back since, by more than seconds."""
ROOM_PARTS: Final = 4
"""A lease gets at most this part of the room: near empty it degenerates to exact checking. With 8,
four workers under overload left half a second of a line unused, with 4 a quarter."""
CODE_BASE: Final = 256
"""A refusal's code is wait_ms * CODE_BASE + the number of the bucket that binds, from 1."""
KEYS_MAX: Final = 200
"""Buckets of one question: their numbers must stay below CODE_BASE."""


class Rule(msgspec.Struct, frozen=True):
    """What a bucket allows.

    Args:
        per_minute: Tokens or calls that flow in each minute; at least 1.
        burst_ms: How much of that it holds, as time.
        fair: A call needs at most this much in the bucket, and the rest goes into debt: else a
            full line would refuse nine of ten large calls and few small ones. 0 = all of it.
        kept_ms: So much of the burst this bidder leaves to those above it, on the same bucket.

    Source: docs/limits.md, "Fair by size" and "Reserve and lending".
    """

    per_minute: int
    burst_ms: int
    fair: int = 0
    kept_ms: int = 0

    @property
    def open_ms(self) -> int:
        """How much of the burst this bidder may draw."""
        return self.burst_ms - self.kept_ms

    @property
    def capacity(self) -> int:
        """What the bucket holds for this bidder when it is full."""
        return self.per_minute * self.open_ms // MINUTE_MS

    def gate(self, cost: int) -> int:
        """Return how much must be in the bucket for a call of this cost to pass."""
        return min(cost, self.fair) if self.fair > 0 else cost

    def fits(self, cost: int) -> bool:
        """Tell whether a call of this cost can ever pass."""
        if self.gate(cost) > self.capacity:
            return False
        debt = self.per_minute * DEBT_MS_MAX // MINUTE_MS if self.fair > 0 else 0
        return cost <= self.capacity + debt

    def remaining(self, used_ms: float) -> int:
        """Return what is left in the bucket when `used_ms` of it are used; never below 0."""
        return max(0, int((self.open_ms - used_ms) * self.per_minute / MINUTE_MS))


class BucketRequest(msgspec.Struct, frozen=True):
    """A bid on a bucket, and how much of it to lease besides (`want`).

    Several bids may be on one bucket: their rules differ in `kept_ms` alone.
    """

    key: str
    rule: Rule
    want: int = 0


class CallRequest(msgspec.Struct, frozen=True):
    """What one call needs, all or nothing: pairs of (place in `Question.bids`, cost).

    `force`: debited without a check. A negative cost gives back; only forced claims have one.
    `hold`: not debited; each bucket is brought down to this much debt at least, which the upstream
    said that its own has: the same news from many workers counts once.
    """

    draws: tuple[tuple[int, int], ...]
    force: bool = False
    hold: bool = False


class BucketQuestion(msgspec.Struct, frozen=True):
    """Everything that a worker asks in one round trip; claims are decided in their order."""

    requests: tuple[BucketRequest, ...]
    calls: tuple[CallRequest, ...]

    def flatten(self) -> list[int]:
        """Return it as the flat list of integers that admit.lua reads."""
        flat: list[int] = []
        for request in self.requests:
            flat += (
                request.rule.per_minute,
                request.rule.burst_ms,
                request.want,
                request.rule.fair,
                request.rule.kept_ms,
            )
        for call in self.calls:
            flat += (2 if call.hold else int(call.force), len(call.draws))
            for place, cost in call.draws:
                flat += (place + 1, cost)
        return flat


class BucketRefusal(msgspec.Struct, frozen=True):
    """Why a claim was refused: the bucket that binds longest, and for how long."""

    place: int
    wait_ms: int


class Share(msgspec.Struct, frozen=True):
    """What a bid was answered: tokens leased, and how much of the bucket is used now."""

    leased: int
    used_ms: int


class BucketReply(msgspec.Struct, frozen=True):
    """One decision for each claim (None = granted) and one share for each bid."""

    decisions: tuple[BucketRefusal | None, ...]
    shares: tuple[Share, ...]


def read_reply(question: BucketQuestion, flat: list[int]) -> BucketReply:
    """Return what the flat list that answers `question` says.

    Raises:
        ValueError: It does not fit the question; whoever answered was not admit.lua.
    """
    count = len(question.calls)
    if len(flat) != count + 2 * len(question.requests) or not all(type(n) is int for n in flat):
        raise ValueError("the reply does not fit the question")
    decisions = tuple(
        BucketRefusal(code % CODE_BASE - 1, code // CODE_BASE) if code else None
        for code in flat[:count]
    )
    shares = tuple(Share(*flat[at : at + 2]) for at in range(count, len(flat), 2))
    return BucketReply(decisions, shares)


class Buckets:
    """All buckets of one Redis, as admit.lua keeps them; `tats` maps key to TAT.

    `born_ms`: when this set of buckets was first used, None before. A bucket without a TAT counts
    as emptied then, so that losing the data does not hand out every burst a second time.

    Where Redis's clock is set back, a bucket counts as empty: else an hour's step would refuse for
    an hour what was used a moment ago.
    """

    def __init__(self) -> None:
        self.tats: dict[str, float] = {}
        self.born_ms: float | None = None

    def answer(self, question: BucketQuestion, now_ms: float) -> list[int]:
        """Decide the claims, take the leases, and return the flat reply.

        Args:
            question: At most KEYS_MAX bids.
            now_ms: Redis's clock.
        """
        if self.born_ms is None or self.born_ms > now_ms:
            self.born_ms = float(f"{now_ms:.3f}")
        tats: dict[str, float] = {}
        touched: set[str] = set()
        for request in question.requests:
            if request.key not in tats:
                tats[request.key] = self._tat(request, touched, now_ms)
        flat = [_decide(call, question.requests, tats, touched, now_ms) for call in question.calls]
        leases = [_take_lease(request, tats, touched, now_ms) for request in question.requests]
        for request, leased in zip(question.requests, leases, strict=True):
            flat += (leased, math.ceil(max(tats[request.key] - now_ms, 0.0)))
        for key in touched:
            self._keep(key, tats[key], now_ms)
        return flat

    def _tat(self, request: BucketRequest, touched: set[str], now_ms: float) -> float:
        assert self.born_ms is not None
        tat = max(self.tats.get(request.key, self.born_ms + request.rule.burst_ms), now_ms)
        top = now_ms + request.rule.burst_ms
        if tat <= top + SET_BACK_MS:
            return tat
        touched.add(request.key)
        return top

    def _keep(self, key: str, tat: float, now_ms: float) -> None:
        if tat <= now_ms:
            self.tats.pop(key, None)
        else:
            self.tats[key] = float(f"{tat:.6f}")


def _decide(
    call: CallRequest,
    requests: tuple[BucketRequest, ...],
    tats: dict[str, float],
    touched: set[str],
    now_ms: float,
) -> int:
    """Return 0 and debit the claim, or return the code of its refusal."""
    code = 0 if call.force or call.hold else _refusal(call, requests, tats, now_ms)
    if code == 0:
        for place, cost in call.draws:
            key, rule = requests[place].key, requests[place].rule
            top = now_ms + rule.burst_ms
            moved_ms = cost * (MINUTE_MS / rule.per_minute)
            tat = max(tats[key], top + moved_ms) if call.hold else tats[key] + moved_ms
            tats[key] = min(tat, top + DEBT_MS_MAX)
            touched.add(key)
    return code


def _refusal(
    call: CallRequest, requests: tuple[BucketRequest, ...], tats: dict[str, float], now_ms: float
) -> int:
    worst = 0
    for place, cost in call.draws:
        rule = requests[place].rule
        over = tats[requests[place].key] + rule.gate(cost) * (MINUTE_MS / rule.per_minute)
        over -= now_ms + rule.open_ms
        if over > 0:
            worst = max(worst, math.ceil(over) * CODE_BASE + place + 1)
    return worst


def _take_lease(
    request: BucketRequest, tats: dict[str, float], touched: set[str], now_ms: float
) -> int:
    """Take what a bid leases: of the room that it sees, so never what it leaves to others."""
    per = MINUTE_MS / request.rule.per_minute
    room_ms = now_ms + request.rule.open_ms - tats[request.key]
    leased = max(min(request.want, math.floor(room_ms / per / ROOM_PARTS)), 0)
    if leased > 0:
        tats[request.key] += leased * per
        touched.add(request.key)
    return leased
