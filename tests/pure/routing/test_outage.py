"""A healed channel has traffic again soon: outages simulated on a virtual clock, seeded dice.

Picking, health and patience are driven as the balancer and the watch do: two channels, one of them
out for a random time; measured is how soon after healing a call succeeds there.
"""

import heapq
import random
import statistics
from typing import NamedTuple

import pytest

from relay.config import Timeouts
from relay.model import Channel, Secret
from relay.routing.breaker import Availability
from relay.routing.health import Failure, Health
from relay.routing.patience import Patience
from relay.routing.pick import Dice, Preference, choose
from relay.routing.policy import US_PER_S, Policy
from relay.routing.table import Outcome

NOW_US = 10_000 * US_PER_S
LEAST_US = int(Timeouts().trial_first_byte_s * US_PER_S)
MOST_US = int(Timeouts().first_byte_s * US_PER_S)

ILL, WELL = 1, 2


def channel(number: int) -> Channel:
    return Channel(
        id=number,
        name=f"channel-{number}",
        base_url="https://upstream.invalid",
        api_key=Secret("x"),
        models={"m": "m"},
    )


CHANNELS = [channel(ILL), channel(WELL)]


class Attempt:
    """One try of one call, as far as its channel's health knows of it."""

    def __init__(self, where: int, started_us: int, *, first: bool) -> None:
        self.where = where
        self.started_us = started_us
        self.first = first
        self.over = self.late = self.struck = False


class Event(NamedTuple):
    at_us: int
    number: int
    kind: str
    attempt: Attempt | None


class World:
    """One worker, two channels, calls at random times; channel ILL is out for a while.

    Args:
        outage_s: How long it is out.
        hang_s: How long a call there takes to fail by itself.
        calls_per_s: How many come by.
        thinks_s: How long a good answer takes to begin, at most.
        probe_s: How long after healing the prober hints; None = nobody probes.
    """

    def __init__(
        self,
        seed: int,
        *,
        outage_s: float,
        hang_s: float,
        calls_per_s: float,
        probe_s: float | None = None,
        thinks_s: float = 1.0,
    ) -> None:
        self.thinks_s = thinks_s
        self.rng = random.Random(seed)
        self.health = Health(Policy())
        self.patience = Patience(LEAST_US, MOST_US)
        self.in_flight = {ILL: 0, WELL: 0}
        self.calls_per_s = calls_per_s
        self.hang_s = hang_s
        self.out_from_us = NOW_US + 60 * US_PER_S
        self.healed_us = self.out_from_us + int(outage_s * US_PER_S)
        self.hint_us = self.healed_us + int(probe_s * US_PER_S) if probe_s is not None else None
        self.failure = Failure(Outcome.STALLED, 0)
        """How each call on ILL fails; its start is filled in."""
        self.lost_calls = 0
        self.failures = 0
        """How many calls on ILL failed: all in a row."""
        self.waited_s: list[float] = []
        """How long each call that ILL failed was kept waiting there."""
        self.back_s = 0.0
        self._events: list[Event] = []
        self._number = 0

    def run(self) -> float:
        """Return the seconds from healing to the next success on channel ILL."""
        self._at(NOW_US, "call")
        if self.hint_us is not None:
            self._at(self.hint_us, "hint")
        while self._events[0].at_us < self.healed_us + 600 * US_PER_S:
            now_us, _, kind, attempt = heapq.heappop(self._events)
            if kind == "call":
                gap_us = int(self.rng.expovariate(self.calls_per_s) * US_PER_S) + 1
                self._at(now_us + gap_us, "call")
                self._ask(now_us, set())
            elif kind == "hint":
                self.health.hasten(ILL, now_us)
            elif attempt is None or attempt.over:
                continue
            elif kind == "look":
                self._look(attempt, now_us)
            elif kind == "good":
                self._end(attempt)
                self.patience.note("m", now_us - attempt.started_us)
                started_us = attempt.started_us
                self.health.succeed(attempt.where, "m", started_us=started_us, now_us=now_us)
                if attempt.where == ILL and started_us >= self.healed_us:
                    return (now_us - self.healed_us) / US_PER_S
            else:
                self._fail(attempt, now_us)
        raise AssertionError("never back")

    def _at(self, at_us: int, kind: str, attempt: Attempt | None = None) -> None:
        self._number += 1
        heapq.heappush(self._events, Event(at_us, self._number, kind, attempt))

    def _ask(self, now_us: int, asked_channels: set[int]) -> None:
        chosen = choose(
            CHANNELS,
            Preference("m", asked_channels),
            health=self.health,
            in_flight=self.in_flight,
            now_us=now_us,
            dice=Dice(self.rng.random(), self.rng.random()),
        )
        if chosen is None:
            self.lost_calls += 1
            return
        self.health.start(chosen.id, "m", now_us)
        self.in_flight[chosen.id] += 1
        attempt = Attempt(chosen.id, now_us, first=not asked_channels)
        out = chosen.id == ILL and self.out_from_us <= now_us < self.healed_us
        kind, takes_s = (
            ("bad", self.hang_s) if out else ("good", self.rng.uniform(0.1, 1.0) * self.thinks_s)
        )
        self._at(now_us + int(takes_s * US_PER_S), kind, attempt)
        if takes_s * US_PER_S > LEAST_US:
            self._at(now_us + LEAST_US, "look", attempt)

    def _look(self, attempt: Attempt, now_us: int) -> None:
        """Look at a silent attempt as the watch does (`Balancer.strike_silence`)."""
        doubted = self.health.availability(attempt.where, "m", now_us) is not Availability.READY
        self._at(now_us + US_PER_S // 4, "look", attempt)
        if now_us - attempt.started_us < self.patience.limit_us("m", doubted=doubted):
            return
        if not attempt.late:
            attempt.late = True
            self.in_flight[attempt.where] -= 1
            if not doubted:
                attempt.struck = True
                self._blame(attempt, now_us)
        if doubted and attempt.first:
            self._fail(attempt, now_us)

    def _fail(self, attempt: Attempt, now_us: int) -> None:
        self._end(attempt)
        self.failures += 1
        self.waited_s.append((now_us - attempt.started_us) / US_PER_S)
        if not attempt.struck:
            self._blame(attempt, now_us)
        self._ask(now_us, {attempt.where})

    def _blame(self, attempt: Attempt, now_us: int) -> None:
        failure = self.failure._replace(started_us=attempt.started_us)
        self.health.fail(attempt.where, "m", failure, now_us=now_us, dice=self.rng.random())

    def _end(self, attempt: Attempt) -> None:
        attempt.over = True
        if not attempt.late:
            self.in_flight[attempt.where] -= 1


RUNS = 100


def outages(
    hang_s: float,
    calls_per_s: float,
    outcome: Outcome = Outcome.STALLED,
    *,
    retry_after_s: float | None = None,
    probe_s: float | None = None,
    thinks_s: float = 1.0,
) -> list[World]:
    """Return runs that are over: outages of 1 s to 20 min, as many short ones as long ones."""
    rng = random.Random(20)
    worlds = []
    for seed in range(RUNS):
        outage_s = rng.uniform(1, 1_200) if seed % 2 else 1_200 ** rng.random()
        world = World(
            seed,
            outage_s=outage_s,
            hang_s=hang_s,
            calls_per_s=calls_per_s,
            probe_s=probe_s,
            thinks_s=thinks_s,
        )
        world.failure = Failure(outcome, 0, retry_after_s)
        world.back_s = world.run()
        assert world.lost_calls == 0
        worlds.append(world)
    return worlds


@pytest.mark.parametrize("calls_per_s", [0.2, 2.0])
@pytest.mark.parametrize("hang_s", [0.01, 20.0, 120.0])
def test_a_healed_channel_is_back_within_30_s_typically_and_120_s_always(
    hang_s: float, calls_per_s: float
) -> None:
    worlds = outages(hang_s, calls_per_s)
    back_s = [world.back_s for world in worlds]
    assert statistics.median(back_s) <= 30
    assert max(back_s) <= 120
    # Ten failures in a row and more make it no later.
    stubborn = [world.back_s for world in worlds if world.failures >= 10]
    assert len(stubborn) >= RUNS / 4
    assert statistics.median(stubborn) <= 30


@pytest.mark.parametrize("hang_s", [0.01, 120.0])
def test_a_model_that_thinks_for_long_is_given_the_time_and_comes_back(hang_s: float) -> None:
    back_s = [world.back_s for world in outages(hang_s, 0.5, thinks_s=30.0)]
    assert statistics.median(back_s) <= 30 + 15  # half of its thinking
    assert max(back_s) <= 120


def test_the_prober_s_hint_brings_the_next_call_there() -> None:
    alone, hinted = (outages(20.0, 0.5, probe_s=probe_s) for probe_s in (None, 15.0))
    late_s = [
        sorted(world.back_s for world in worlds)[RUNS * 9 // 10] for worlds in (alone, hinted)
    ]
    assert late_s[1] <= 25 < late_s[0]


def test_who_is_caught_by_a_hang_waits_for_seconds_and_not_for_the_deadline() -> None:
    waited_s = [one for world in outages(120.0, 2.0) for one in world.waited_s]
    assert statistics.median(waited_s) <= LEAST_US / US_PER_S + 0.5
    assert max(waited_s) <= 30


@pytest.mark.parametrize(
    ("outcome", "retry_after_s"),
    [(Outcome.DENIED, None), (Outcome.LIMITED, 3_600.0)],
    ids=["denied", "retry-after"],
)
def test_what_waits_for_somebody_is_tried_within_120_s_as_well(
    outcome: Outcome, retry_after_s: float | None
) -> None:
    worlds = outages(0.01, 2.0, outcome, retry_after_s=retry_after_s)
    # The longest wait there is, and then the next call that comes by.
    assert max(world.back_s for world in worlds) <= 120 + 5


def test_an_outage_of_many_failures_in_a_row_costs_few_calls_and_no_client() -> None:
    world = World(1, outage_s=1_200, hang_s=0.01, calls_per_s=20.0)
    assert world.run() <= 120
    assert 10 <= world.failures <= 80  # of some 24,000 calls
    assert world.lost_calls == 0
