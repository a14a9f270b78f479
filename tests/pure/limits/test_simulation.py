"""Goal: however many and skewed the workers, a line admits its rate, and refuses nobody below it.

Method: brokers over one set of buckets on a virtual clock. Every admission is noted; the worst
window is compared with rate x window + burst + what leases may hold (LEASED_MS_MAX of demand).
"""

import random
from collections.abc import Callable

import pytest

from relay.limits.bucket import Rule
from relay.limits.lease import LEASED_MS_MAX
from relay.limits.scopes import FAIR_TOKENS, LINE_BURST_MS, Bucket, Measure, Scope, requests_rule
from tests.pure.limits.world import World

PER_S = 500_000
"""30 million a minute."""
LINE_RULE = Rule(PER_S * 60, LINE_BURST_MS, FAIR_TOKENS)
LINE = Bucket("relay:{l:1}:tpm", "{l:1}", Scope.LINE, Measure.TOKENS, LINE_RULE)
CALLS = Bucket("relay:{l:1}:rpm", "{l:1}", Scope.LINE, Measure.REQUESTS, requests_rule(120_000))
MEAN_TOKENS = 1_500
CALL_TOKENS_MAX = 32_000
SLICE_MS = 100


class Run:
    """What came of one simulation: tokens admitted by slice of 100 ms, and counts."""

    def __init__(self, workers: int, load: float, seconds: float, pick: Callable[[], int]) -> None:
        self.world = World(workers)
        self.start_ms = self.world.now_ms
        self.load = load
        self.dice = random.Random(workers)
        self.pick = pick
        self.calls = self.refused = self.waited = 0
        self.slices = [0] * int(seconds * 1_000 / SLICE_MS + 2)
        self.world.at(self.start_ms, self.arrive)
        self.world.run(self.start_ms + seconds * 1_000)

    def arrive(self) -> None:
        tokens = min(int(self.dice.lognormvariate(6.8, 1.0)) + 1, CALL_TOKENS_MAX)
        self.calls += 1
        self.world.admit(self.pick(), [(LINE, tokens), (CALLS, 1)], self.noting(tokens))
        pause_ms = self.dice.expovariate(self.load * PER_S / MEAN_TOKENS / 1_000)
        self.world.at(self.world.now_ms + pause_ms, self.arrive)

    def noting(self, tokens: int) -> Callable[[bool, float], None]:
        def note(admitted: bool, waited_ms: float) -> None:
            assert waited_ms < 50
            self.waited += waited_ms > 0
            if not admitted:
                self.refused += 1
                return
            self.slices[int((self.world.now_ms - self.start_ms) / SLICE_MS)] += tokens

        return note

    def worst(self, window_s: float) -> int:
        """Return the most tokens admitted in any window."""
        width = int(window_s * 1_000 / SLICE_MS)
        total = most = sum(self.slices[:width])
        for at in range(width, len(self.slices)):
            total += self.slices[at] - self.slices[at - width]
            most = max(most, total)
        return most

    def bound(self, window_s: float) -> float:
        leased = LEASED_MS_MAX / 1_000 * PER_S * max(1.0, self.load)
        burst = LINE_RULE.capacity + CALL_TOKENS_MAX
        return PER_S * (window_s + SLICE_MS / 1_000) + burst + leased


def zipf(workers: int, seed: int = 7) -> Callable[[], int]:
    """Return a choice of workers that prefers the first ones by far."""
    dice = random.Random(seed)
    weights = [1 / (number + 1) ** 1.2 for number in range(workers)]
    return lambda: dice.choices(range(workers), weights)[0]


def check(run: Run) -> None:
    for window_s in (1, 5, 10, 60):
        assert run.worst(window_s) <= run.bound(window_s)


@pytest.mark.parametrize("workers", [1, 4, 16])
def test_nobody_is_refused_below_the_limit(workers: int) -> None:
    run = Run(workers, 0.9, 15, zipf(workers))
    check(run)
    assert run.refused == 0
    assert run.world.batches < run.calls * 3 / 4


@pytest.mark.parametrize("workers", [1, 4, 16, 64])
def test_the_bound_holds_under_overload_and_the_rate_is_used(workers: int) -> None:
    run = Run(workers, 2.5, 20, zipf(workers))
    check(run)
    steady = sum(run.slices[80:200]) / 12
    assert 0.97 * PER_S <= steady <= 1.02 * PER_S


def test_bound_holds_while_the_load_moves_about() -> None:
    """Most of an overload sits on one worker, which is another one every few seconds."""
    dice = random.Random(3)
    holder: list[Run] = []
    started = World(1).now_ms

    def pick() -> int:
        now_ms = holder[0].world.now_ms if holder else started
        busy = int((now_ms - started) // 5_000) % 16
        return busy if dice.random() < 0.8 else dice.randrange(16)

    class Moving(Run):
        def arrive(self) -> None:
            if not holder:
                holder.append(self)
            super().arrive()

    check(Moving(16, 3.0, 20, pick))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("workers", [1, 2, 4, 16, 64])
@pytest.mark.parametrize("load", [0.95, 1.3, 3.0])
def test_a_worst_minute_is_at_most_a_tenth_over(workers: int, load: float) -> None:
    run = Run(workers, load, 130, zipf(workers))
    check(run)
    assert run.worst(60) <= 1.11 * 60 * PER_S
    if load < 1:
        assert run.refused == 0
