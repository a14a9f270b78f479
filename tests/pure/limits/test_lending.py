"""Goal: what is reserved is there at once, what is idle is lent, and nobody counts it twice.

Method: bids and standings of small catalogs by hand; then workers over one bucket on a virtual
clock, where standard and training lines flood a channel on which a dedicated line has a reserve.
"""

import math
import random
from collections.abc import Iterable
from functools import partial

import pytest

from relay.limits.bucket import Buckets
from relay.limits.lending import Lending, bid_of, bids_on, reserve_ppm
from relay.limits.scopes import FIRST, Bid, Bucket, Scope, limit_of
from relay.model import Allowance, Channel, Line, LineKind, Secret
from relay.units import PPM
from tests.pure.limits.world import World

DEDICATED, STANDARD, TRAINING = LineKind.DEDICATED, LineKind.STANDARD, LineKind.TRAINING
PER_S = 500_000
QUOTA = PER_S * 60


def channel(tpm: int = QUOTA) -> Channel:
    return Channel(id=1, name="c", base_url="", api_key=Secret(""), models={}, tpm=tpm)


def lines(*kinds: LineKind, tpm: int = QUOTA // 2) -> list[Line]:
    return [
        Line(id=n, name=kind, channel_ids=(1,), kind=kind, tpm=tpm if kind is DEDICATED else 0)
        for n, kind in enumerate(kinds)
    ]


def test_a_channel_of_one_class_keeps_nothing_from_it() -> None:
    for kind in LineKind:
        assert bids_on(channel(), lines(kind, kind)) == {kind: FIRST}
    assert bid_of({}, channel(), lines(STANDARD)[0]) == FIRST


def test_each_class_leaves_a_tenth_to_those_above_it() -> None:
    bids = bids_on(channel(), lines(TRAINING, STANDARD, DEDICATED))
    assert bids == {
        DEDICATED: Bid(0, 0, PPM // 2),
        STANDARD: Bid(1, 1, PPM * 4 // 10),
        TRAINING: Bid(2, 2, PPM // 10),
    }
    assert sum(bid.alone_ppm for bid in bids.values()) == PPM
    assert bids_on(channel(), lines(TRAINING, STANDARD))[TRAINING].kept_parts == 1
    elsewhere = [Line(id=9, name="x", channel_ids=(2,), kind=DEDICATED)]
    assert bids_on(channel(), [*lines(STANDARD), *elsewhere]) == {STANDARD: FIRST}


def test_a_reserve_is_what_was_sold_at_most_all() -> None:
    assert reserve_ppm(channel(), lines(STANDARD)) == 0
    assert reserve_ppm(channel(), lines(DEDICATED)) == PPM // 2
    assert reserve_ppm(channel(), lines(DEDICATED, DEDICATED, DEDICATED)) == PPM
    assert reserve_ppm(channel(), lines(DEDICATED, tpm=0)) == PPM
    assert reserve_ppm(channel(0), lines(DEDICATED)) == PPM // 2


def test_classes_have_their_own_leases_and_permits_on_one_key() -> None:
    numbers = Allowance(tpm=60_000, rpm=1, concurrency=20)
    first = limit_of(Scope.CHANNEL, 1, numbers)
    third = limit_of(Scope.CHANNEL, 1, numbers, bid=Bid(2, 2))
    for one, other in zip(first.buckets, third.buckets, strict=True):
        assert one.key == other.key == one.name and other.name == f"{one.key}/2"
    assert third.buckets[0].rule.capacity == first.buckets[0].rule.capacity * 8 // 10
    assert third.buckets[1].rule.fits(1), "a call always fits"
    assert first.concurrency is not None and third.concurrency is not None
    assert (first.concurrency.permits, third.concurrency.permits) == (20, 16)


def test_what_is_lent_is_what_others_use_beyond_their_own() -> None:
    idle = Lending(100, 60, {STANDARD: 30, TRAINING: 5})
    assert (idle.used, idle.lent, idle.borrowed(STANDARD), idle.borrowed(TRAINING)) == (0, 0, 0, 0)
    lent = Lending(100, 60, {DEDICATED: 20, STANDARD: 50, TRAINING: 20})
    assert (lent.used, lent.lent) == (20, 30)
    assert (lent.borrowed(STANDARD), lent.borrowed(TRAINING), lent.borrowed(DEDICATED)) == (
        *(10, 20, 0),
    )
    flooded = Lending(100, 60, {DEDICATED: 60, STANDARD: 400, TRAINING: 400})
    assert (flooded.used, flooded.lent, flooded.borrowed(STANDARD)) == (60, 0, 0)
    half = Lending(100, 60, {DEDICATED: 30, STANDARD: 400, TRAINING: 400})
    assert (half.lent, half.borrowed(STANDARD), half.borrowed(TRAINING)) == (30, 30, 0)


SLICE_MS = 100
FLOOD_MS = (5_000.0, 20_000.0)
END_MS = 25_000.0
FLOOD = 10.0
"""Times the quota that standard and training offer, each."""
FLOOD_TOKENS = 8_000
TOKENS = 1_500


class Shared:
    """Workers on a channel: what each class was admitted, by slice, and refused.

    Args:
        sold: The dedicated line's reserve, as a part of the quota; it asks for all of it.
        pauses: When the dedicated line asks for nothing (ms).
        grows: What calls of the flood use more than they reserved, told half a second later.
        lost_ms: When Redis goes away for good; each worker has heard of all by then.
        workers: How many.
        end_ms: How long it runs.
        flood_ms: When the others flood.
    """

    def __init__(
        self,
        sold: float,
        *,
        pauses: tuple[float, float] = (0.0, 0.0),
        grows: float = 0.0,
        lost_ms: float = math.inf,
        workers: int = 4,
        end_ms: float = END_MS,
        flood_ms: tuple[float, float] = FLOOD_MS,
    ) -> None:
        self.world = World(workers)
        self.workers = workers
        self.world.buckets = Buckets()
        self.world.buckets.born_ms = 0.0
        self.start_ms = self.world.now_ms
        self.dice = random.Random(int(sold * 100))
        self.pauses, self.grows, self.flood_ms = pauses, grows, flood_ms
        bids = bids_on(channel(), lines(*LineKind, tpm=int(QUOTA * sold)))
        self.buckets = {
            kind: limit_of(Scope.CHANNEL, 1, channel(), bid=bid).buckets[0]
            for kind, bid in bids.items()
        }
        reserve = Allowance(tpm=int(QUOTA * sold))
        self.line: Bucket = limit_of(Scope.LINE, 1, reserve).buckets[0]
        self.admitted = {kind: [0] * int(end_ms / SLICE_MS + 1) for kind in LineKind}
        self.refused: dict[LineKind, list[float]] = {kind: [] for kind in LineKind}
        self.calls = dict.fromkeys(LineKind, 0)
        for kind, load in ((DEDICATED, sold * 0.98), (STANDARD, FLOOD), (TRAINING, FLOOD)):
            self.world.at(self.start_ms, partial(self.arrive, kind, load))
        if lost_ms < end_ms:
            self.world.at(self.start_ms + lost_ms, self.lose)
        self.world.run(self.start_ms + end_ms - 1)

    def lose(self) -> None:
        self.world.open = False
        for broker in self.world.brokers:
            broker.share_default = 1 / len(self.world.brokers)

    @property
    def at_ms(self) -> float:
        return self.world.now_ms - self.start_ms

    def arrive(self, kind: LineKind, load: float) -> None:
        tokens = TOKENS if kind is DEDICATED else FLOOD_TOKENS
        pause_ms = self.dice.expovariate(load * PER_S / tokens / 1_000)
        self.world.at(self.world.now_ms + pause_ms, lambda: self.arrive(kind, load))
        idle = self.pauses if kind is DEDICATED else (0.0, self.flood_ms[0])
        over = kind is not DEDICATED and self.at_ms > self.flood_ms[1]
        if idle[0] <= self.at_ms < idle[1] or over:
            return
        self.calls[kind] += 1
        cost = self.dice.randint(1, 2 * tokens)
        draws = [(self.buckets[kind], cost)]
        if kind is DEDICATED:
            draws.append((self.line, cost))
        worker = self.dice.randrange(self.workers)

        def note(admitted: bool, waited_ms: float) -> None:
            assert waited_ms < 50
            if not admitted:
                self.refused[kind].append(self.at_ms)
                return
            self.admitted[kind][int(self.at_ms / SLICE_MS)] += cost
            if self.grows and kind is not DEDICATED:
                self.world.at(self.world.now_ms + 500, lambda: self.grow(worker, kind, cost))

        self.world.admit(worker, draws, note)

    def grow(self, worker: int, kind: LineKind, cost: int) -> None:
        used = int(cost * (1 + self.grows))
        self.world.settle(worker, [(self.buckets[kind], cost)], [used])

    def worst(self, window_ms: float) -> int:
        """Return the most tokens that all classes together were admitted in any window."""
        slices: list[int] = [sum(each) for each in zip(*self.admitted.values(), strict=True)]
        width = int(window_ms / SLICE_MS)
        return max(sum(slices[at : at + width]) for at in range(len(slices) - width))

    def used(self, kinds: Iterable[LineKind], begin_ms: float, end_ms: float) -> float:
        """Return which part of the quota these classes were admitted within a time."""
        slices = slice(int(begin_ms / SLICE_MS), int(end_ms / SLICE_MS))
        tokens = sum(sum(self.admitted[kind][slices]) for kind in kinds)
        return tokens / (PER_S * (end_ms - begin_ms) / 1_000)


@pytest.mark.parametrize("sold", [0.3, 0.6, 0.9])
def test_a_flood_refuses_nothing_of_a_reserve_and_uses_what_is_left(sold: float) -> None:
    run = Shared(sold)
    assert run.refused[DEDICATED] == [] and run.calls[DEDICATED] > 1_000
    assert 0.95 <= run.used(LineKind, FLOOD_MS[0] + 1_000, FLOOD_MS[1]) <= 1.02
    assert run.used([DEDICATED], FLOOD_MS[0], FLOOD_MS[1]) >= 0.95 * sold
    assert len(run.refused[STANDARD]) > 1_000 and len(run.refused[TRAINING]) > 1_000


@pytest.mark.parametrize("workers", [1, 16, 64])
def test_one_to_many_workers_keep_a_reserve_under_a_flood(workers: int) -> None:
    run = Shared(0.6, workers=workers)
    assert len(run.refused[DEDICATED]) <= 0.01 * run.calls[DEDICATED]
    assert 0.95 <= run.used(LineKind, FLOOD_MS[0] + 1_000, FLOOD_MS[1]) <= 1.02
    assert run.used([DEDICATED], FLOOD_MS[0], FLOOD_MS[1]) >= 0.94 * 0.6


def test_what_is_idle_is_lent_and_is_back_at_once() -> None:
    run = Shared(0.6, pauses=(8_000.0, 14_000.0))
    assert run.used([STANDARD, TRAINING], 9_000, 14_000) >= 0.95
    assert run.used([DEDICATED], 14_200, 15_200) >= 0.95 * 0.6
    assert run.refused[DEDICATED] == []


def test_calls_that_use_a_tenth_more_than_they_reserved_do_not_reach_the_reserve() -> None:
    run = Shared(0.6, grows=0.1)
    assert run.refused[DEDICATED] == []


def test_calls_that_use_a_fifth_more_reach_it_once_when_a_flood_begins() -> None:
    run = Shared(0.6, grows=0.2)
    late = [at_ms for at_ms in run.refused[DEDICATED] if at_ms > FLOOD_MS[0] + 2_000]
    assert late == [] and len(run.refused[DEDICATED]) < 0.02 * run.calls[DEDICATED]


def test_without_redis_each_class_keeps_to_its_part() -> None:
    run = Shared(0.6, lost_ms=8_000.0)
    begin_ms, end_ms = 9_000.0, FLOOD_MS[1]
    assert 0.90 * 0.6 <= run.used([DEDICATED], begin_ms, end_ms) <= 0.6
    assert 0.30 <= run.used([STANDARD], begin_ms, end_ms) <= 0.33
    assert 0.05 <= run.used([TRAINING], begin_ms, end_ms) <= 0.09


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("workers", [1, 2, 4, 16, 64])
def test_a_worst_minute_of_all_classes_is_at_most_a_tenth_over(workers: int) -> None:
    """The bucket is full and the leases are empty when both floods come at once."""
    run = Shared(0.6, workers=workers, end_ms=95_000.0, flood_ms=(5_000.0, 95_000.0))
    assert run.worst(60_000.0) <= 1.11 * 60 * PER_S
    assert len(run.refused[DEDICATED]) <= 0.01 * run.calls[DEDICATED]
    assert run.used(LineKind, 10_000.0, 90_000.0) >= 0.95
